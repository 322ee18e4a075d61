"""Loading of what is steered, with errors that say what to try."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError

from cbsae_hub.models import SAE

# Stability AI took its Stable Diffusion 2 repositories off the Hub; the community keeps copies under these names.
WITHDRAWN = "stabilityai/stable-diffusion-2"
KEPT_BY = "sd2-community"


@contextmanager
def loading(what: str, repo_id: str | Path, revision: str | None) -> Iterator[None]:
    """Turns the many ways in which a model cannot be found into one error.

    Args:
        what: What is loaded, in words.
        repo_id: From where.
        revision: Which version of it.

    Raises:
        OSError: Instead of whatever a library raises for files that are missing or not reachable.
    """
    try:
        yield
    except (OSError, HFValidationError) as error:
        at = "" if revision is None else f" at revision {revision!r}"
        raise OSError(
            f"{what} could not be loaded from {str(repo_id)!r}{at}. {_advice(str(repo_id))} ({error})"
        ) from error


def load_sae(sae: Any) -> Any:
    """An SAE as it is, or from a folder or Hub id."""
    return SAE.from_pretrained(sae) if isinstance(sae, (str, Path)) else sae


def default_dtype(device: str | torch.device) -> torch.dtype:
    """In what a generator computes: float32 on a CPU, float16 elsewhere."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16


def _advice(repo_id: str) -> str:
    if Path(repo_id).is_dir():
        return "The folder lacks a file, or one is damaged: save or download the model again."
    if repo_id.startswith(WITHDRAWN):
        instead = f"{KEPT_BY}/{repo_id.split('/')[1]}"
        return f"Stability AI has withdrawn its Stable Diffusion 2 models from the Hub; try {instead!r}, a copy."
    return (
        "There is no such folder here; on the Hub it does not exist, is private, or the Hub is out of reach: check the "
        "id, log in with `hf auth login`, or give the path of a downloaded copy."
    )
