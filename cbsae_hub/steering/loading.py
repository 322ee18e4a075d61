"""Loading of the models that are steered, with errors that say what to try."""

from dataclasses import replace
from pathlib import Path

import torch

from cbsae_hub.formats.load import load
from cbsae_hub.hub.locate import Located, OtherWeights, download, locate
from cbsae_hub.steering.latents import SteerableSAE

# Stability AI took its Stable Diffusion 2 repositories off the Hub; the community keeps copies under these names.
WITHDRAWN = "stabilityai/stable-diffusion-2"
KEPT_BY = "sd2-community"


def locate_whole(
    what: str, repo_id: str | Path, index: str, revision: str | None, beside: str | Path | None
) -> Located:
    """Finds a model of transformers or diffusers, before any of it is loaded; on the Hub, all files are of one commit.

    Arguments are those of :func:`cbsae_hub.hub.locate.locate`, the model's kind in words, and the file ``index`` that
    every such model has.

    Raises:
        OSError: If there is no such model; says what to try.
        ValueError: If the weights are not those that ``revision`` names.
    """
    try:
        located = locate(repo_id, revision, beside)
        if located.folder is None:
            return replace(located, commit=download(located.id, index, revision).parent.name)
    except OtherWeights:
        raise
    except OSError as error:
        raise OSError(f"{what} could not be loaded. {_advice(str(repo_id))} ({error})") from error
    if not (located.folder / index).is_file():
        raise OSError(f"{what} could not be loaded: {repo_id} has no {index}. Save or download the whole model again")
    return located


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
