"""Opens the images, devices and models that commands get by name."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cbsae_hub.hub.files import is_content

if TYPE_CHECKING:
    from PIL import Image

    from cbsae_hub.models import CBSAE, SAE
    from cbsae_hub.neurons.pack import Pack

WHITE = "white"


def open_image(source: str) -> "Image.Image":
    """Opens a picture of the disk, upright, in RGB, or makes a white one; raises OSError or ValueError otherwise."""
    from PIL import Image

    from cbsae_hub.pictures import to_rgb, white_image

    if source == WHITE and not Path(source).exists():
        return white_image()
    if Path(source).is_dir():
        raise IsADirectoryError(f"{source} is a folder: give the pictures in it, one by one")
    if not Path(source).is_file():
        raise FileNotFoundError(f"there is no picture {source}")
    try:
        with Image.open(source) as image:
            return to_rgb(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{source} is no picture that can be opened: {error}") from error


def pack_of(model: str, revision: str | None = None) -> "Pack | None":
    """Opens the pack of a model; None if it has none. Raises OSError if it is damaged, or cannot be downloaded."""
    from cbsae_hub.neurons.pack import Pack, PackMissing

    if Path(model).is_file():  # an SAE of another library, which may be one
        return None
    try:
        return Pack.from_pretrained(model, revision)
    except PackMissing:
        return None


def of_other_weights(pack: "Pack", revision: str | None) -> bool:
    """Returns whether a pack is of other weights than a revision; a commit of the Hub is no hash of weights."""
    built_of = pack.info["model"].get("revision")
    return built_of is not None and is_content(revision) and built_of != revision


def model_and_pack(model: str, revision: str | None = None) -> "tuple[SAE | CBSAE, Pack | None]":
    """Opens a model and its pack, if it has one; a pack of other weights is left out, with a message.

    Raises:
        ValueError: If the pack is of another model.
        OSError: If something is missing or damaged.
    """
    from cbsae_hub.formats.load import load

    pack, sae = pack_of(model, revision), load(model, revision=revision)
    if pack is not None and len(pack.neurons) != sae.d_latent:
        raise ValueError(
            f"the pack of {model} has {len(pack.neurons)} neurons, the model {sae.d_latent}: build it again"
        )
    if pack is not None and of_other_weights(pack, sae.revision):
        typer.echo(f"the pack of {model} is of other weights and is left out: `cbsae pack --overwrite`", err=True)
        pack = None
    return sae, pack


def name_of(neuron: int, sae: "SAE | CBSAE", pack: "Pack | None") -> str | None:
    """Returns the concept that a concept neuron was trained for; else the name in the pack, or the model's own."""
    own = getattr(sae, "neuron_names", None)
    if pack is not None and pack.neurons[neuron].kind != "cb":
        return pack.neurons[neuron].name
    return own[neuron] if own else None


def k_of(sae: "SAE | CBSAE") -> int | None:
    """Returns the number of active latents per token; None where it is not fixed."""
    return sae.k if sae.activation in ("topk", "batch_topk") else None


def device_of(name: str | None) -> str:
    """Returns the device of that name, or raises ValueError; without a name a GPU, if there is one."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # "not compiled with CUDA enabled" is an AssertionError
        raise ValueError(f"there is no device {name!r} here: {str(error).splitlines()[0]}") from error
    return name
