"""Stores the activations of an encoder on a set of images, for training an SAE on them.

    accelerate launch training/extract_activations.py --recipe training/recipes/emoji.yaml

Killed or stopped, it goes on where it was when it is started again with the same settings.
"""

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from accelerate import Accelerator
from recipe import read_recipe

from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.images import load_images
from cbsae_hub.vision.encoder import VisionEncoder


def open_images(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The dataset that a recipe's ``images`` and ``split`` name, and what the manifest says of it.

    ``images`` is a folder or a Hub id; or ``module:function``, a function of this checkout that returns a map-style
    dataset and is called with the recipe's ``images_args``.
    """
    source, arguments = str(settings["images"]), settings.get("images_args") or {}
    if ":" in source:
        module, function = source.split(":")
        sys.path.insert(0, str(Path(__file__).parents[1]))
        return getattr(import_module(module), function)(**arguments), {"id": source, **arguments}
    split, revision = settings["split"], settings.get("images_revision")
    return load_images(source, split, revision), {"id": source, "split": split, "revision": revision}


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
        encoder = VisionEncoder.from_pretrained(
            settings["encoder"],
            layer=settings["layer"],
            tokens=settings["tokens"],
            revision=settings.get("encoder_revision"),
            device=accelerator.device,
        )
        images, source = open_images(settings)
        known = ("dtype", "images_per_shard", "batch_size", "seed")
        store = extract_activations(
            encoder,
            images,
            output or settings["output"],
            source=source,
            accelerator=accelerator,
            **{key: settings[key] for key in known if key in settings},
        )
    except KeyError as error:
        raise typer.BadParameter(f"the recipe lacks {error}") from error
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    logging.info("%s: %d rows of %d images", store.folder, len(store), store.num_images)


if __name__ == "__main__":
    typer.run(main)
