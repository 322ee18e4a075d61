"""Fetches what Photo World is made of, with pinned versions and hashes, into a folder of its own.

Python packages come by pip, Debian packages by apt. Neither is installed into the user's environment or system.
"""

import hashlib
import io
import logging
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
ENDINGS = (".png", ".jpg", ".txt", ".dat", "copyright")  # of the stamps, three quarters are recordings of voices
AR_MAGIC, AR_HEADER = b"!<arch>\n", 60

logger = logging.getLogger(__name__)


class SourceMissing(OSError):
    """Something could not be fetched; the message says what to do."""


@dataclass(frozen=True)
class DebianPackage:
    """A package of one version, by the hash of its file."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.name}_{self.version}_all.deb"


STAMPS = DebianPackage(
    "tuxpaint-stamps-default", "2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
)
BACKDROPS = DebianPackage(
    "mate-backgrounds", "1.26.0-1", "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04"
)


def fetch_python(folder: Path) -> Path:
    """Installs the requirements into ``folder/python-HASH``, unless they are there; returns that folder.

    Raises:
        SourceMissing: If pip could not.
    """
    target = folder / f"python-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:8]}"
    if not target.is_dir():
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(partial)]
        what = f"the Python packages of {REQUIREMENTS.name}"
        _run([sys.executable, "-m", "pip", "install", *options, "-r", str(REQUIREMENTS)], what)
        partial.rename(target)
    return target


def fetch_debian(package: DebianPackage, folder: Path) -> Path:
    """Unpacks a package's pictures and texts into ``folder/NAME``, unless they are there; returns that folder.

    A file that lies in ``folder`` already is taken, so that it can be fetched by hand.

    Raises:
        SourceMissing: If it is not there and apt could not fetch it, or it is another file than was pinned.
    """
    target, archive = folder / package.name, folder / package.file
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    by_hand = f"put {package.file} of Debian into {folder} and run this again"
    if not archive.is_file():
        if shutil.which("apt-get") is None:
            raise SourceMissing(f"there is no apt-get here to fetch {package.name}: {by_hand}")
        command = ["apt-get", "download", f"{package.name}={package.version}"]
        _run(command, f"{package.name} {package.version}", f"run `apt-get update`, or {by_hand}", folder)
    if (digest := hashlib.sha256(archive.read_bytes()).hexdigest()) != package.sha256:
        raise SourceMissing(f"{archive} has the SHA-256 {digest}, not {package.sha256}: delete it, and {by_hand}")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    logger.info("unpacking %s", archive)
    unpack(archive, partial)
    partial.rename(target)
    archive.unlink()
    return target


def _run(command: Sequence[str], what: str, advice: str = "check the connection", cwd: Path | None = None) -> None:
    logger.info("%s", " ".join(command))
    process = subprocess.run(command, cwd=cwd, stderr=subprocess.PIPE, text=True)
    if process.returncode:
        raise SourceMissing(f"{what} could not be fetched: {advice}\n{process.stderr.strip()}")


def unpack(archive: Path, target: Path) -> None:
    """Writes the pictures and texts of a Debian package; links and programs are left out.

    Raises:
        SourceMissing: If it is no such package.
    """
    with archive.open("rb") as file, tarfile.open(fileobj=_data_of(file, archive)) as data:
        for member in data:
            if member.isfile() and member.name.endswith(ENDINGS):
                data.extract(member, target, filter="data")


def _data_of(file: BinaryIO, archive: Path) -> io.BytesIO:
    """The member of a package (an archive of ar) that holds its files."""
    if file.read(len(AR_MAGIC)) == AR_MAGIC:
        while len(header := file.read(AR_HEADER)) == AR_HEADER:
            name, size = header[:16].decode().strip(), int(header[48:58])
            if name.startswith("data.tar"):
                return io.BytesIO(file.read(size))
            file.seek(size + size % 2, io.SEEK_CUR)
    raise SourceMissing(f"{archive} is no Debian package: delete it and run this again")
