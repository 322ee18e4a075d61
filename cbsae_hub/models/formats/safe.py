"""Reading every tensor of a safetensors file."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cbsae_hub.models.files import ModelFileError


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, by name.

    Raises:
        ModelFileError: If it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is damaged or half-written ({error}); download it again") from None
