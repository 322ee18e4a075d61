"""Loading of the models that are steered, with errors that say what to try."""

from pathlib import Path
from typing import Any

import torch

from cbsae_hub.formats.load import load
from cbsae_hub.hub import locate as hub
from cbsae_hub.hub.locate import download, is_content
from cbsae_hub.models import resolve_id
from cbsae_hub.steering.latents import SteerableSAE

# Stability AI took its Stable Diffusion 2 repositories off the Hub; the community keeps copies under these names.
WITHDRAWN = "stabilityai/stable-diffusion-2"
KEPT_BY = "sd2-community"


def locate(
    what: str, repo_id: str | Path, index: str, revision: str | None, beside: str | Path | None
) -> dict[str, Any]:
    """Finds a model of transformers or diffusers, before any of it is loaded.

    Args:
        what: Kind of model, in words.
        repo_id: Folder or Hub id.
        index: The file that every such model has.
        revision: Branch, tag or commit of a Hub repository; or ``sha256:...``, also of a folder, which is compared with
            the weights.
        beside: See :func:`cbsae_hub.models.resolve_id`.

    Returns:
        Arguments of ``from_pretrained``; on the Hub, all files are then of one commit.

    Raises:
        OSError: If there is no such model; says what to try.
        ValueError: If the weights are not those that ``revision`` names.
    """
    source = resolve_id(str(repo_id), beside)
    if not Path(source).is_dir():
        try:
            commit = download(source, index, revision).parent.name
            if not is_content(revision):
                return {"pretrained_model_name_or_path": source, "revision": commit}
        except OSError as error:
            raise OSError(f"{what} could not be loaded. {_advice(source)} ({error})") from error
    elif not (Path(source) / index).is_file():
        raise OSError(f"{what} could not be loaded: {source} has no {index}. Save or download the whole model again")
    return hub.locate(source, revision).pretrained


def load_sae(sae: SteerableSAE | str | Path) -> SteerableSAE:
    """An SAE or concept bottleneck SAE as it is, or from a folder or Hub id."""
    return load(sae) if isinstance(sae, (str, Path)) else sae


def default_dtype(device: str | torch.device) -> torch.dtype:
    """Data type in which a generator computes: float32 on a CPU, float16 elsewhere."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16


def _advice(repo_id: str) -> str:
    if repo_id.startswith(WITHDRAWN):
        instead = f"{KEPT_BY}/{repo_id.split('/')[1]}"
        return f"Stability AI has withdrawn its Stable Diffusion 2 models from the Hub; try {instead!r}, a copy."
    return "Check the id, log in with `hf auth login`, or give the path of a downloaded copy."
