"""Stores the activations of an encoder on a set of images, for training an SAE on them.

    accelerate launch training/extract_activations.py --recipe training/recipes/emoji.yaml

Killed or stopped, it goes on where it was when it is started again with the same settings.
"""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from accelerate import Accelerator

from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.images import commit_of_images, load_images
from cbsae_hub.encoders.vision import VisionEncoder
from recipe import function_of, read_recipe, require_keys

REQUIRED = ("encoder", "layer", "tokens", "images", "output")
OPTIONAL = ("encoder_revision", "images_revision", "images_args", "split")
EXTRACTION = ("dtype", "images_per_shard", "batch_size", "seed", "readers")  # of extract_activations


def open_images(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The dataset that a recipe's ``images`` and ``split`` name, and what the manifest says of it.

    ``images`` is a folder or a Hub id; or ``module:function``, a function of this checkout that returns a map-style
    dataset and is called with the recipe's ``images_args``.
    """
    source, arguments = str(settings["images"]), settings.get("images_args") or {}
    if ":" in source:
        try:
            make = function_of(source)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"images: {source} is no function of this checkout: {error}") from error
        return make(**arguments), {"id": source, **arguments}
    require_keys(settings, ["split"], settings)
    # The commit, so that a branch that has moved since is not taken for what was read before.
    revision = commit_of_images(source, settings.get("images_revision"))
    images = load_images(source, settings["split"], revision)
    return images, {"id": source, "split": settings["split"], "revision": revision}


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `activations` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the store; default as in the recipe.")] = None,
) -> None:
    """Store the activations of an encoder on a set of images."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    accelerator = Accelerator()
    try:
        settings = read_recipe(recipe, "activations", overrides or [])
        if output is not None:
            settings["output"] = str(output)
        require_keys(settings, REQUIRED, (*OPTIONAL, *EXTRACTION))
        encoder = VisionEncoder.from_pretrained(
            settings["encoder"],
            layer=settings["layer"],
            tokens=settings["tokens"],
            revision=settings.get("encoder_revision"),
            device=accelerator.device,
        )
        images, source = open_images(settings)
        store = extract_activations(
            encoder,
            images,
            settings["output"],
            source=source,
            accelerator=accelerator,
            **{key: settings[key] for key in EXTRACTION if key in settings},
        )
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    logging.info("%s: %d rows of %d images", store.folder, len(store), store.num_images)


if __name__ == "__main__":
    typer.run(main)
