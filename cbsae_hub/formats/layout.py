"""Finds the SAEs in a folder or repository, and their formats, by the names of files and a look into configs."""

import posixpath
import re
from typing import NamedTuple

from cbsae_hub.formats import prisma, saev
from cbsae_hub.formats.source import Source
from cbsae_hub.hub.files import CONFIG_NAME, WEIGHTS_NAME, ConfigError, ModelFileError
from cbsae_hub.words import some

OURS = "cbsae_hub"
LOOKED_FOR = {
    OURS: "config.json with model_class, and model.safetensors",
    "saelens": "cfg.json and sae_weights.safetensors",
    "dictionary_learning": "ae.pt or checkpoints/ae_<step>.pt, with config.json beside or one folder up",
    "sparsify": "cfg.json and sae.safetensors",
    "saev": "sae.pt that begins with a line of JSON",
    "prisma": ".pt file beside a config.json with hook_point_layer",
}
PAIRS = (
    (OURS, WEIGHTS_NAME, CONFIG_NAME),
    ("saelens", "sae_weights.safetensors", "cfg.json"),
    ("sparsify", "sae.safetensors", "cfg.json"),
)
"""Formats of which an SAE is two files of these names in a folder: weights and config."""
_STEP = re.compile(r"(?:ae|n_images)_(\d+)\.pt")


class SAEFiles(NamedTuple):
    """The files of one SAE in a source."""

    format: str
    sae_id: str
    """The sub-folder or file by which it is chosen among several; "." is the source itself."""
    weights: str
    config: str | None


def choose(source: Source, sae_id: str | None = None, format: str | None = None) -> SAEFiles:
    """The one SAE that is meant: that in a sub-folder or file ``sae_id``, of a format in :data:`LOOKED_FOR`.

    Raises:
        ValueError: If the format is unknown.
        ModelFileError: If there is none, or several to choose from.
    """
    if format not in (None, *LOOKED_FOR):
        raise ValueError(f"format must be one of {', '.join(LOOKED_FOR)}; got {format!r:.80}")
    candidates = find(source, format)
    if sae_id is None:
        matches = [one for one in candidates if one.sae_id == "."] or candidates
    else:
        path = posixpath.normpath(sae_id)
        matches = [one for one in candidates if path in (one.sae_id, one.weights)] or [
            one for one in candidates if one.sae_id.startswith(f"{path}/")
        ]
    if len(matches) == 1:
        return matches[0]
    if not matches and candidates:
        raise ModelFileError(f"{source.name} has no SAE {sae_id!r:.200}; {_listed(candidates)}")
    if not matches:
        looked = "; ".join(f"no {files} ({name})" for name, files in LOOKED_FOR.items() if format in (None, name))
        raise ModelFileError(f"there is no SAE in {source.name}: {looked}")
    raise ModelFileError(f"{source.name} holds several SAEs: say which with sae_id=; {_listed(matches)}")


def find(source: Source, format: str | None = None) -> list[SAEFiles]:
    """All SAEs of a source, in the order of their paths."""
    folders: dict[str, set[str]] = {}
    for name in source.names:
        folders.setdefault(posixpath.dirname(name), set()).add(posixpath.basename(name))
    saes: list[SAEFiles] = []
    checkpoints: dict[str, list[str]] = {}
    for folder, files in sorted(folders.items()):
        for kind, *pair in PAIRS:
            weights, config = (posixpath.join(folder, file) for file in pair)
            if files.issuperset(pair) and (kind != OURS or "model_class" in source.json(config)):
                saes.append(SAEFiles(kind, folder or ".", weights, config))
        root = posixpath.dirname(folder) if posixpath.basename(folder) == "checkpoints" else folder
        checkpoints.setdefault(root, []).extend(posixpath.join(folder, file) for file in files if file.endswith(".pt"))
    for root, names in sorted(checkpoints.items()):
        newest = _newest(names)
        for name in newest:
            kind, above = _kind(source, name, format)
            saes.append(SAEFiles(kind, root or "." if len(newest) == 1 else name, name, above))
    return [one for one in saes if format in (None, one.format)]


def _newest(names: list[str]) -> list[str]:
    """The last of an SAE's checkpoints; all files if they are no checkpoints."""
    for name in names:
        if posixpath.basename(name) in ("ae.pt", "sae.pt", "weights.pt"):
            return [name]
    steps = {name: int(match[1]) for name in names if (match := _STEP.fullmatch(posixpath.basename(name)))}
    return [max(steps, key=lambda name: steps[name])] if steps else sorted(names)


def _kind(source: Source, name: str, format: str | None) -> tuple[str, str | None]:
    """The format of a .pt file and its config; a file of another name is only looked into if it is here."""
    if source.is_local and saev.starts_with_header(source, name):
        return "saev", None
    if not source.is_local and posixpath.basename(name) == "sae.pt":
        return "saev", None
    for config in (posixpath.join(posixpath.dirname(name), up, CONFIG_NAME) for up in ("", "..")):
        if source.has(config):
            try:
                keys = set(source.json(config))
            except ConfigError:
                if format is None:
                    raise
                keys = set()
            if "trainer" in keys or format == "dictionary_learning":
                return "dictionary_learning", config
            if keys & prisma.MARKS or format == "prisma":
                return "prisma", config
    return "dictionary_learning", None


def _listed(saes: list[SAEFiles]) -> str:
    if [one.sae_id for one in saes] == ["."]:
        return "it holds one, without a name: leave sae_id out"
    return f"there are {some([one.sae_id for one in saes], limit=40)}"
