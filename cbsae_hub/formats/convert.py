"""Other people's SAEs: reads those of six projects as ours, and writes ours for SAELens.

docs/formats.md describes the formats.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cbsae_hub.formats import dictionary_learning, prisma, saelens, saev, sparsify
from cbsae_hub.formats.foreign import Foreign, facts
from cbsae_hub.formats.layout import OURS, choose
from cbsae_hub.formats.source import Source
from cbsae_hub.hub.files import content_revision, require_finite
from cbsae_hub.models import checks
from cbsae_hub.models.cbsae import CBSAE
from cbsae_hub.models.sae import SAE

logger = logging.getLogger(__name__)

READERS: dict[str, Callable[..., Foreign]] = {
    "saelens": saelens.read,
    "dictionary_learning": dictionary_learning.read,
    "sparsify": sparsify.read,
    "saev": saev.read,
    "prisma": prisma.read,
}
WHERE = ("encoder_id", "layer", "tokens")


def detect(source: str | Path, *, revision: str | None = None, sae_id: str | None = None, **downloads: Any) -> str:
    """The format of an SAE.

    Args:
        source: A folder, a file, or a Hub id.
        revision: Branch, tag or commit on the Hub.
        sae_id: One of several SAEs, see :func:`import_sae`.
        **downloads: ``token``, ``cache_dir``, ``force_download`` and ``local_files_only``, see
            :meth:`cbsae_hub.models.HubModel.from_pretrained`.

    Returns:
        "cbsae_hub", "saelens", "dictionary_learning", "sparsify", "saev" or "prisma".

    Raises:
        ModelFileError: If there is none of these, or several SAEs; the error lists them.
    """
    return choose(Source(source, revision, **downloads), sae_id).format


def import_sae(
    source: str | Path,
    *,
    format: str | None = None,
    revision: str | None = None,
    sae_id: str | None = None,
    encoder_id: str | None = None,
    encoder_revision: str | None = None,
    layer: int | None = None,
    tokens: str | None = None,
    **downloads: Any,
) -> SAE:
    """Reads somebody else's SAE, such that ours encodes and decodes as theirs does.

    Args:
        source: A folder, a file of weights, or a Hub id, of which only the files that are needed are downloaded.
        format: See :func:`detect`; by default any.
        revision: Branch, tag or commit on the Hub.
        sae_id: Sub-folder or file of one of several SAEs: SAELens' ``sae_id``, sparsify's hook point, ``trainer_0``.
        encoder_id: The encoder whose activations it explains; default what its config or folder says, if anything.
        encoder_revision: Its revision.
        layer: The block whose output it reads, 0-based; default likewise.
        tokens: Tokens that were trained on; default likewise.
        **downloads: See :func:`detect`.

    Returns:
        An SAE in evaluation mode; what was changed is in its ``imported_from``, and logged. What is doubtful, such as
        an encoder that its files do not name, is a warning.

    Raises:
        ModelFileError: If a file is missing, unreachable, damaged, or not what its format says.
        ConfigError: If it is of a kind that is not supported here; the error says what is.
        ValueError: If an argument is out of range.
    """
    checks.tokens("tokens", tokens)
    opened = Source(source, revision, **downloads)
    files = choose(opened, sae_id, format)
    if files.format == OURS:
        mend = "load its folder with cbsae_hub.load, and nothing else said"
        raise ValueError(f"{files.weights} is of this package: {mend}")
    foreign = READERS[files.format](opened, files.weights, files.config)
    overrides = {"encoder_id": encoder_id, "encoder_revision": encoder_revision, "layer": layer, "tokens": tokens}
    sae = _build(foreign, _where(foreign, {name: value for name, value in overrides.items() if value is not None}))
    sae.repo_id, sae.revision = str(source), opened.revision or content_revision(opened.path(files.weights))
    origin = {
        "format": files.format, "source": opened.name, "revision": sae.revision, "file": files.weights,
        "notes": [*foreign.notes, *foreign.doubts], "config": facts(foreign.config),
    }  # fmt: skip
    sae.provenance = replace(sae.provenance, imported_from=origin)
    logger.info("%s: an SAE of %s, %d neurons", opened.name, files.format, sae.d_sae)
    for note in foreign.notes:
        logger.info("%s: %s", opened.name, note)
    for doubt in foreign.doubts:
        logger.warning("%s: %s", opened.name, doubt)
    return sae.eval()


def export_saelens(sae: SAE | CBSAE, folder: str | Path) -> Path:
    """Writes an SAE as SAELens 6 or later loads it and encodes the same: ``cfg.json`` and ``sae_weights.safetensors``.

    batch_topk, Matryoshka or not, becomes jumprelu with a vector of thresholds, as SAELens itself saves those.

    Args:
        sae: The SAE.
        folder: Made if needed.

    Returns:
        The folder.

    Raises:
        ValueError: If it is a concept bottleneck SAE, which SAELens has nothing like, or its threshold is unset.
        ModelFileError: If a weight is NaN or infinite.
    """
    if isinstance(sae, CBSAE):
        raise ValueError(
            "SAELens has no concept bottlenecks: export the retained neurons alone, with "
            "export_saelens(cb.to_sae_part(), folder)"
        )
    saelens.write(sae, Path(folder))
    return Path(folder)


def _where(foreign: Foreign, overrides: dict[str, Any]) -> dict[str, Any]:
    """Encoder, layer and tokens as the caller says, else as the files do; contradictions and gaps are noted."""
    foreign.doubts += foreign.explained.notes
    read = {name: getattr(foreign.explained, name) for name in WHERE}
    for name, value in overrides.items():
        if read.get(name) not in (None, value):
            foreign.doubts.append(f"{name} is {value!r} as was said, though its files say {read[name]!r}")
    where = {**read, **overrides}
    if missing := [f"{name}=..." for name in WHERE if where[name] is None]:
        foreign.doubts.append(f"not known: say {', '.join(missing)} to use it with an encoder")
    return where


@torch.no_grad()
def _build(foreign: Foreign, where: dict[str, Any]) -> SAE:
    """The SAE with these weights."""
    dtype = foreign.stored
    if dtype in (torch.float16, torch.bfloat16):  # what is folded in would be lost
        foreign.notes.append(f"saved as {dtype}, kept as torch.float32")
        dtype = torch.float32
    with torch.device("meta"):
        d_in, d_sae = foreign.weights["W_enc"].shape
        sae = SAE(d_in, d_sae, **foreign.settings, **where)
    form: dict[str, Any] = {"dtype": dtype, "copy": True, "memory_format": torch.contiguous_format}
    weights = {name: tensor.to(**form) for name, tensor in foreign.weights.items()}  # no part of a file or each other
    require_finite(weights, foreign.file)
    sae.load_state_dict(weights, assign=True)
    if foreign.norm_factor is not None:
        sae.fold_input_scale(foreign.norm_factor)
    return sae
