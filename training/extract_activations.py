"""Stores the activations of an encoder on a set of images, for training an SAE on them.

    accelerate launch training/extract_activations.py --recipe training/recipes/emoji.yaml

Killed or stopped, it goes on where it was when it is started again with the same settings.
"""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.images import commit_of_images, load_images
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.processes import make_accelerator
from training.recipes import ActivationsSection, ImageSource, load_function

EXTRACTION = ("dtype", "images_per_shard", "batch_size", "seed", "readers")  # of extract_activations


def open_images(source: ImageSource) -> tuple[Any, dict[str, Any]]:
    """Opens the dataset that a recipe names; returns it with its description for the manifest.

    Errors are those of :func:`load_function` and :func:`load_images`.
    """
    if source.is_function:
        return load_function(source.images)(**source.images_args), {"id": source.images, **source.images_args}
    # The commit, so that a branch that has moved since is not taken for what was read before.
    revision = commit_of_images(source.images, source.images_revision)
    images = load_images(source.images, source.split, revision)
    return images, {"id": source.images, "split": source.split, "revision": revision}


def source_of(description: dict[str, Any]) -> ImageSource:
    """The images that a manifest describes, at the revision that was read then."""
    source, others = description["id"], {key: value for key, value in description.items() if key != "id"}
    if ":" in source:
        return ImageSource(images=source, images_args=others)
    return ImageSource(images=source, split=others["split"], images_revision=others.get("revision"))


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `activations` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the store; default as in the recipe.")] = None,
) -> None:
    """Store the activations of an encoder on a set of images."""
    try:
        accelerator = make_accelerator()
        logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR, format="%(message)s")
        settings = ActivationsSection.read(recipe, overrides, output=output)
        place = {"revision": settings.encoder_revision, "device": accelerator.device}
        encoder = VisionEncoder.from_pretrained(settings.encoder, settings.layer, settings.tokens, **place)
        images, source = open_images(settings)
        store = extract_activations(
            encoder, images, settings.output, source=source, accelerator=accelerator, **settings.chosen(*EXTRACTION)
        )
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    logging.info("%s: %d rows of %d images", store.folder, len(store), store.num_images)


if __name__ == "__main__":
    typer.run(main)
