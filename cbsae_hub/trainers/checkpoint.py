"""A training run's state in one safetensors file: nothing of it is pickled, unlike what Accelerate writes."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cbsae_hub.hub.files import ModelFileError, replace_file

CHECKPOINT_NAME = "checkpoint.safetensors"


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Replaces the folder's checkpoint; a kill at any moment leaves the old one or the new one.

    Args:
        folder: The run's output folder.
        tensors: State by name.
        facts: What else a resumed run needs to know, JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replace_file(folder / CHECKPOINT_NAME) as temporary:
        save_file(contiguous, temporary, metadata={"facts": json.dumps(facts)})


def load_checkpoint(folder: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The folder's checkpoint as ``(tensors, facts)``, or None if there is none.

    Raises:
        ModelFileError: If the file is damaged.
    """
    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            facts = json.loads(file.metadata()["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged ({error}): delete it to start again") from None
