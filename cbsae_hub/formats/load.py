"""Loads a model of any class of this package, or of another library."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from cbsae_hub.formats.convert import import_sae
from cbsae_hub.formats.layout import OURS
from cbsae_hub.hub.files import CONFIG_NAME, ConfigError, ModelFileError, read_config
from cbsae_hub.hub.locate import download
from cbsae_hub.models import checks
from cbsae_hub.models.cbsae import CBSAE
from cbsae_hub.models.sae import SAE

CLASSES = {cls.__name__: cls for cls in (SAE, CBSAE)}

logger = logging.getLogger(__name__)


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    format: str | None = None,
    sae_id: str | None = None,
    encoder_id: str | None = None,
    encoder_revision: str | None = None,
    layer: int | None = None,
    tokens: str | None = None,
    device: str | torch.device = "cpu",
    **downloads: Any,
) -> SAE | CBSAE:
    """Loads an SAE or concept bottleneck SAE of this package, or somebody else's SAE, whichever it finds.

    Args:
        source: A folder or Hub id; of somebody else's SAE also a file of weights.
        revision: See :meth:`cbsae_hub.models.HubModel.from_pretrained`.
        format: See :func:`cbsae_hub.formats.convert.detect`; by default any.
        sae_id: One of several SAEs, see :func:`cbsae_hub.formats.convert.import_sae`.
        encoder_id: Instead of the encoder that the files name, or where they name none.
        encoder_revision: Likewise.
        layer: Likewise.
        tokens: Likewise.
        device: Device of the weights.
        **downloads: ``token``, ``cache_dir``, ``force_download`` and ``local_files_only``, see
            :meth:`cbsae_hub.models.HubModel.from_pretrained`.

    Raises:
        ModelFileError: If a file is missing or damaged, or there are several SAEs.
        ConfigError: If the config is of no model that can be read.
        ValueError: If an argument is out of range.
    """
    checks.tokens("tokens", tokens)
    overrides: dict[str, Any] = {"encoder_id": encoder_id, "encoder_revision": encoder_revision}
    overrides |= {"layer": layer, "tokens": tokens}
    if format not in (None, OURS) or sae_id is not None or not (name := _our_class(source, revision, downloads)):
        sae = import_sae(source, format=format, revision=revision, sae_id=sae_id, **overrides, **downloads)
        return sae.to(device)
    if name not in CLASSES:
        raise ConfigError(f"{source} describes a {name!r:.80}; this package has {' and '.join(CLASSES)}")
    model = CLASSES[name].from_pretrained(source, revision=revision, device=device, **downloads)
    overrides = {name: value for name, value in overrides.items() if value is not None}
    model.provenance = replace(model.provenance, **overrides)
    logger.info("%s: a %s of this package", source, type(model).__name__)
    return model


def require_encoder(sae: SAE | CBSAE, encoder: str | None = None) -> None:
    """Checks that a model knows which activations it explains; ``encoder`` is instead of the one that its config names.

    Raises:
        ValueError: If it does not; the error names the missing arguments of :func:`load`.
    """
    needed = {"encoder_id": encoder or sae.encoder_id, "layer": sae.layer, "tokens": sae.tokens}
    if missing := [f"{name}=..." for name, value in needed.items() if value is None]:
        raise ValueError(
            f"the SAE does not say of which activations it is: load it with {', '.join(missing)}, as in "
            'load(source, encoder_id="openai/clip-vit-base-patch32", layer=9, tokens="patches")'
        )


def _our_class(source: str | Path, revision: str | None, downloads: dict[str, Any]) -> str | None:
    """The class that a config.json of this package names; None if there is no such config."""
    try:
        local = Path(source).exists()
        path = Path(source) / CONFIG_NAME if local else download(str(source), CONFIG_NAME, revision, downloads)
    except ModelFileError as error:
        # not there, or not in the cache of somebody who is offline: another format may be
        offline = downloads.get("local_files_only") or constants.HF_HUB_OFFLINE
        unreachable = isinstance(error.__cause__, LocalEntryNotFoundError) and not offline
        if unreachable or not isinstance(error.__cause__, EntryNotFoundError):
            raise
        return None
    name = read_config(path).get("model_class") if path.is_file() else None
    return None if name is None else str(name)
