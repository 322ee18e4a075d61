"""Files that say something of the very weights they lie beside: packs, evaluations, records of training."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cbsae_hub.hub.files import folder_revision, read_json

logger = logging.getLogger(__name__)

PACK = ("pack.json", "neurons.parquet", "examples.parquet", "images.parquet", "patch_maps.safetensors",
        "vocabulary.safetensors", "contexts.parquet", "icons.parquet", "quadrants.png", "examples.webp")  # fmt: skip
CLAIMS = {
    "pack.json": PACK,
    "evaluation.json": ("evaluation.json",),
    "controls.json": ("controls.json",),
    "concepts.json": ("concepts.json", "concepts.png"),
    "worked_examples.json": ("worked_examples.json",),
    "metrics.json": ("metrics.json",),
    "training.json": ("training.json", "selection.json"),  # of one run
}
"""Files that say of which weights they are, and for which files that goes."""
RESULTS = tuple(name for names in CLAIMS.values() for name in names)


def revision_of_results(name: str, content: Any) -> str | None:
    """The :func:`folder_revision` of the weights that a results file of this name names; None if it names none."""
    for key in ("model", "revision") if name == "pack.json" else ("revision",):
        content = content.get(key) if isinstance(content, dict) else None
    return content


def without_results_of_other_weights(folder: Path, files: Mapping[str, int], changed: bool = False) -> dict[str, int]:
    """Leaves out, with a warning, those of a model's files (with their sizes) that are results of other weights.

    ``changed`` says whether the weights have changed since. If not, the files' own word counts.

    Raises:
        ValueError: If one of those that say it is not valid JSON.
    """
    stale = sorted(files.keys() & (RESULTS if changed else _results_of_other_weights(folder)))
    if stale:
        logger.warning("not published, as they are of other weights: %s in %s", ", ".join(stale), folder)
    return {path: size for path, size in files.items() if path not in stale}


def _results_of_other_weights(folder: Path) -> set[str]:
    """Files beside a model that name other weights than its."""
    claims = {name: revision_of_results(name, read_json(folder / name)) for name in CLAIMS if (folder / name).is_file()}
    claims = {name: revision for name, revision in claims.items() if revision is not None}
    now = folder_revision(folder) if claims else None  # reads all weights
    return {file for name, revision in claims.items() if revision != now for file in CLAIMS[name]}
