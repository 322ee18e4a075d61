"""``cbsae doctor`` checks that the installed packages work together, and says what to do if not."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cbsae_hub.cli.output import Data, command, printable, table
from cbsae_hub.version import __version__

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OK, WARNING, PROBLEM = "ok", "warning", "problem"
PACKAGE = "cbsae_hub"
EXTRAS = {"sentences": "the text score of steerability without the Hub", "wordnet": "concept trees of ImageNet"}
TIMEOUT = 300.0  # of importing torch: on a cold network disk it takes minutes
GB = 2**30
ROOMY, FULL = 20, 1  # GB of disk: LLaVA-1.5-7B takes 14
PAIR = """
import json, torch, torchvision
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({
    "torch": torch.__version__,
    "torchvision": torchvision.__version__,
    "built_for": torch.version.cuda or torch.version.hip,
    "mps": torch.backends.mps.is_available(),
    "gpus": [(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)) for i in range(count)],
}))
"""


@dataclass(frozen=True)
class Check:
    """One check of the installation.

    Attributes:
        name: Name of the package or the part of the machine.
        status: "ok", "warning" or "problem".
        state: Its version or state.
        advice: Instruction, if it is not ok.
    """

    name: str
    status: str
    state: str
    advice: str = ""


def _show(data: Data) -> str:
    checks = data["checks"]
    text = table({key: [check[key] for check in checks] for key in ("status", "name", "found")})
    advice = [f"{check['name']}: {printable(check['advice'])}" for check in checks if check["advice"]]
    return "\n\n".join([text, *advice])


@command(_show, failed=lambda data: not data["ok"])
def doctor() -> Data:
    """Look at the installation: versions, torch and torchvision, GPU, memory, disk, offline mode, login.

    Exit code 1 if there is a problem. Nothing is downloaded, and no token is shown.
    """
    checks = [*_python(), *_dependencies(), *_torch(), *_machine(), *_hub()]
    rows = [{"name": c.name, "status": c.status, "found": c.state, "advice": c.advice} for c in checks]
    return {"ok": not any(check.status == PROBLEM for check in checks), "checks": rows}


def _python() -> Iterator[Check]:
    yield Check(PACKAGE, OK, f"{__version__} in {Path(__file__).parents[1]}")
    yield Check("python", OK, f"{platform.python_version()} in {sys.prefix}")
    yield Check("platform", OK, platform.platform())


def _dependencies() -> Iterator[Check]:
    """Checks the packages that this one declares as dependencies, and those of its extras."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires(PACKAGE) or []]
    except metadata.PackageNotFoundError:
        yield Check(
            "dependencies",
            WARNING,
            f"{PACKAGE} is imported from a folder, not installed: what it needs is not known",
            "pip install -e . in that folder",
        )
        return
    for requirement in requirements:
        extra = re.search(r"extra\s*==\s*['\"](\w+)", str(requirement.marker or ""))
        if extra is not None:
            if extra[1] in EXTRAS:
                yield _requirement(requirement, extra[1])
        elif requirement.marker is None or requirement.marker.evaluate():
            yield _requirement(requirement)


def _requirement(requirement: "Requirement", extra: str | None = None) -> Check:
    """Checks that a package is installed, in a version that will do; one of an extra may be missing."""
    name, versions = requirement.name, requirement.specifier
    advice = f"pip install '{name}{versions}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if extra is None:
            return Check(name, PROBLEM, "not installed", advice)
        return Check(name, OK, f"not installed; only for {EXTRAS[extra]}, {PACKAGE}[{extra}]")
    if versions.contains(version, prereleases=True):
        return Check(name, OK, version)
    return Check(name, PROBLEM, f"{version}, but {versions} is needed", advice)


def _torch() -> Iterator[Check]:
    """Imports torch and torchvision in a process of their own, which a broken pair may take down."""
    try:
        process = subprocess.run(
            [sys.executable, "-c", PAIR], capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        yield Check("torch", PROBLEM, f"importing it took more than {TIMEOUT:.0f} s", "look at the disk it is on")
        return
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        error = lines[-1] if lines else f"died ({process.returncode})"
        yield Check("torch and torchvision", PROBLEM, error, _pair_advice())
        return
    pair = json.loads(process.stdout.strip().splitlines()[-1])
    yield Check("torch and torchvision", OK, f"{pair['torch']} and {pair['torchvision']} go together")
    for name, free, total in pair["gpus"]:
        yield Check("GPU", OK, f"{name}, {free / GB:.1f} of {total / GB:.1f} GB free")
    if pair["gpus"]:
        return
    if pair["mps"]:
        yield Check("GPU", OK, "Apple's (mps)")
    elif shutil.which("nvidia-smi"):
        build = f"built for {pair['built_for']}" if pair["built_for"] else "built for the CPU only"
        yield Check(
            "GPU",
            WARNING,
            f"torch sees none ({build}), but there is nvidia-smi",
            "run nvidia-smi; if it lists a GPU, install torch and torchvision for its driver: "
            "https://pytorch.org/get-started/locally",
        )
    else:
        yield Check("GPU", OK, "none: models run on the CPU; LLaVA-1.5-7B and unCLIP take minutes there")


def _pair_advice() -> str:
    """Returns the command that installs the two from one index, torch in its present version if there is one."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "pip install torch torchvision"
    release, _, build = version.partition("+")
    index = (
        f" --index-url https://download.pytorch.org/whl/{build}" if re.fullmatch(r"cpu|cu\d+|rocm[\d.]+", build) else ""
    )
    return (
        "torch and torchvision must be of one build: install both in one command, from one index: "
        f"pip install --force-reinstall torch=={release} torchvision{index}"
    )


def _machine() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("CPU", OK, f"{cores} cores")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield Check("memory", OK, f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GB:.1f} GB")


def _hub() -> Iterator[Check]:
    from huggingface_hub import constants, get_token

    cache = Path(constants.HF_HUB_CACHE)
    folder = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(folder).free / GB
    advice = "free some space, or set HF_HOME to a folder on another disk"
    if not os.access(folder, os.W_OK):
        yield Check("cache", PROBLEM, f"{cache} cannot be written", "set HF_HOME to a folder of yours")
    elif free < ROOMY:
        yield Check("cache", PROBLEM if free < FULL else WARNING, f"{cache}, {free:.1f} GB free", advice)
    else:
        yield Check("cache", OK, f"{cache}, {free:.0f} GB free")
    if constants.HF_HUB_OFFLINE:
        names = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)]
        yield Check(
            "network",
            WARNING,
            f"offline mode ({', '.join(names)}): only folders and what is in the cache can be loaded",
            f"unset {' '.join(names)} to download",
        )
    else:
        yield Check("network", OK, f"online: {constants.ENDPOINT}")
    yield Check("login", OK, "a token is stored" if get_token() else "none: public models only; `hf auth login`")
