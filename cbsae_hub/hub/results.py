"""Files that say something of the very weights they lie beside: packs, evaluations, records of training."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cbsae_hub.hub.files import folder_revision, read_text

logger = logging.getLogger(__name__)

PACK = ("pack.json", "neurons.parquet", "examples.parquet", "images.parquet", "patch_maps.safetensors",
        "vocabulary.safetensors", "quadrants.png", "examples.webp")  # fmt: skip
CLAIMS = {
    "pack.json": PACK,
    "evaluation.json": ("evaluation.json",),
    "worked_examples.json": ("worked_examples.json",),
    "metrics.json": ("metrics.json",),
    "training.json": ("training.json", "selection.json"),  # of one run
}
"""Files that say of which weights they are, and for which files that goes."""
RESULTS = tuple(name for names in CLAIMS.values() for name in names)


def told_revision(name: str, content: Any) -> str | None:
    """Of which weights a results file says it is, :func:`folder_revision`; None if it does not.

    Args:
        name: Of the file.
        content: What it holds.
    """
    for key in ("model", "revision") if name == "pack.json" else ("revision",):
        content = content.get(key) if isinstance(content, dict) else None
    return content


def without_results_of_other_weights(folder: Path, files: Mapping[str, int], changed: bool = False) -> dict[str, int]:
    """Leaves out, with a warning, what lies beside a model and is not of its weights.

    Args:
        folder: Of the model.
        files: Those in it, with their sizes.
        changed: Whether its weights were changed since; else what the files themselves say counts.

    Raises:
        ValueError: If one of those that say it is not valid JSON.
    """
    stale = sorted(files.keys() & (RESULTS if changed else _results_of_other_weights(folder)))
    if stale:
        logger.warning("not published, as they are of other weights: %s in %s", ", ".join(stale), folder)
    return {path: size for path, size in files.items() if path not in stale}


def _results_of_other_weights(folder: Path) -> set[str]:
    """Files beside a model whose own word is that they are of other weights."""
    told = {name: told_revision(name, _json(folder / name)) for name in CLAIMS if (folder / name).is_file()}
    told = {name: revision for name, revision in told.items() if revision is not None}
    now = folder_revision(folder) if told else None  # reads all weights
    return {file for name, revision in told.items() if revision != now for file in CLAIMS[name]}


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): write it again, or delete it") from None
