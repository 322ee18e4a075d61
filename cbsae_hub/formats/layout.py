"""Which formats of SAEs lie where in a folder or repository, told by the names of files and a look into configs."""

import posixpath
import re
from typing import NamedTuple

from cbsae_hub.formats import prisma, saev
from cbsae_hub.formats.source import Source
from cbsae_hub.hub.files import CONFIG_NAME, WEIGHTS_NAME, ConfigError, ModelFileError

OURS = "cbsae_hub"
LOOKED_FOR = {
    OURS: "config.json with model_class, and model.safetensors",
    "saelens": "cfg.json and sae_weights.safetensors",
    "dictionary_learning": "ae.pt or checkpoints/ae_<step>.pt, with config.json beside or one folder up",
    "sparsify": "cfg.json and sae.safetensors",
    "saev": "sae.pt that begins with a line of JSON",
    "prisma": ".pt file beside a config.json with hook_point_layer",
}
MANY = 40
_STEP = re.compile(r"(?:ae|n_images)_(\d+)\.pt")


class Found(NamedTuple):
    """An SAE in a source."""

    format: str
    sae_id: str
    """The sub-folder or file by which it is chosen among several; "." is the source itself."""
    weights: str
    config: str | None


def locate(source: Source, sae_id: str | None = None, format: str | None = None) -> Found:
    """The one SAE that is meant.

    Args:
        source: Where to look.
        sae_id: A sub-folder of it, or a file.
        format: Of those in :data:`LOOKED_FOR`; default whichever is there.

    Raises:
        ValueError: If the format is unknown.
        ModelFileError: If there is none, or several to choose from.
    """
    if format not in (None, *LOOKED_FOR):
        raise ValueError(f"format must be one of {', '.join(LOOKED_FOR)}; got {format!r:.80}")
    there = find(source, format)
    if sae_id is None:
        chosen = [found for found in there if found.sae_id == "."] or there
    else:
        wanted = posixpath.normpath(sae_id)
        chosen = [found for found in there if wanted in (found.sae_id, found.weights)] or [
            found for found in there if found.sae_id.startswith(f"{wanted}/")
        ]
    if len(chosen) == 1:
        return chosen[0]
    if not chosen and there:
        raise ModelFileError(f"{source.name} has no SAE {sae_id!r:.200}; {_listed(there)}")
    if not chosen:
        looked = "; ".join(f"no {files} ({name})" for name, files in LOOKED_FOR.items() if format in (None, name))
        raise ModelFileError(f"there is no SAE in {source.name}: {looked}")
    raise ModelFileError(f"{source.name} holds several SAEs: say which with sae_id=; {_listed(chosen)}")


def find(source: Source, format: str | None = None) -> list[Found]:
    """All SAEs of a source, in the order of their paths."""
    folders: dict[str, set[str]] = {}
    for name in source.names:
        folders.setdefault(posixpath.dirname(name), set()).add(posixpath.basename(name))
    found, checkpoints = [], {}
    for folder, files in sorted(folders.items()):

        def here(kind: str, weights: str, config: str, folder: str = folder) -> Found:
            return Found(kind, folder or ".", posixpath.join(folder, weights), posixpath.join(folder, config))

        config = posixpath.join(folder, CONFIG_NAME)
        if {CONFIG_NAME, WEIGHTS_NAME} <= files and "model_class" in source.json(config):
            found.append(here(OURS, WEIGHTS_NAME, CONFIG_NAME))
        for kind, weights in (("saelens", "sae_weights.safetensors"), ("sparsify", "sae.safetensors")):
            if {"cfg.json", weights} <= files:
                found.append(here(kind, weights, "cfg.json"))
        root = posixpath.dirname(folder) if posixpath.basename(folder) == "checkpoints" else folder
        checkpoints.setdefault(root, []).extend(posixpath.join(folder, file) for file in files if file.endswith(".pt"))
    for root, names in sorted(checkpoints.items()):
        chosen = _newest(names)
        for name in chosen:
            kind, config = _kind(source, name, format)
            found.append(Found(kind, root or "." if len(chosen) == 1 else name, name, config))
    return [one for one in found if format in (None, one.format)]


def _newest(names: list[str]) -> list[str]:
    """Of checkpoints of one SAE the last, of files that are not that all."""
    for name in names:
        if posixpath.basename(name) in ("ae.pt", "sae.pt", "weights.pt"):
            return [name]
    steps = {name: int(match[1]) for name in names if (match := _STEP.fullmatch(posixpath.basename(name)))}
    return [max(steps, key=steps.get)] if steps else sorted(names)


def _kind(source: Source, name: str, format: str | None) -> tuple[str, str | None]:
    """The format of a .pt file and its config; a file of another name is only looked into if it is here."""
    if source.is_local and saev.starts_with_header(source, name):
        return "saev", None
    if not source.is_local and posixpath.basename(name) == "sae.pt":
        return "saev", None
    for config in (posixpath.join(posixpath.dirname(name), up, CONFIG_NAME) for up in ("", "..")):
        if source.has(config):
            try:
                keys = source.json(config).keys()
            except ConfigError:
                if format is None:
                    raise
                keys = set()
            if "trainer" in keys or format == "dictionary_learning":
                return "dictionary_learning", config
            if keys & prisma.MARKS or format == "prisma":
                return "prisma", config
    return "dictionary_learning", None


def _listed(there: list[Found]) -> str:
    if [found.sae_id for found in there] == ["."]:
        return "it holds one, without a name: leave sae_id out"
    names = ", ".join(found.sae_id for found in there[:MANY])
    return f"there are {names}" + (f" and {len(there) - MANY} more" if len(there) > MANY else "")
