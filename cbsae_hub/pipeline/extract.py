"""Stores the activations of an encoder on a set of images, for training an SAE on them."""

from typing import Any

from accelerate import Accelerator

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.extraction import extract_activations, extract_layers
from cbsae_hub.data.images import commit_of_images, load_images
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.pipeline.recipe import load_function
from cbsae_hub.pipeline.sections import ActivationsSection, ImageSource
from cbsae_hub.processes import make_accelerator

EXTRACTION = ("dtype", "images_per_shard", "batch_size", "seed", "readers")  # of extract_activations


def open_images(source: ImageSource) -> tuple[Any, dict[str, Any]]:
    """Opens the dataset that a recipe names; returns it with its description for the manifest.

    Errors are those of :func:`load_function` and :func:`load_images`.
    """
    if source.is_function:
        return load_function(source.images)(**source.images_args), {"id": source.images, **source.images_args}
    assert source.split is not None  # as its class requires
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


def extract(settings: ActivationsSection, *, accelerator: Accelerator | None = None) -> list[ActivationStore]:
    """Stores what the encoder makes of all images; goes on where an earlier call with these settings stopped.

    Args:
        settings: Section `activations`.
        accelerator: The run's; default a new one.

    Returns:
        The finished store; of several layers or kinds of tokens one each, from one pass over the images.

    Raises:
        ValueError: If a setting cannot be, or an image cannot be read; see :func:`extract_activations`.
        OSError: If encoder or images are missing, or the folder holds a store of other settings.
    """
    accelerator = accelerator or make_accelerator()
    place = {"revision": settings.encoder_revision, "device": accelerator.device}
    (layer, tokens), *others = settings.places()
    encoder = VisionEncoder.from_pretrained(settings.encoder, layer, tokens, **place)
    encoders = [encoder, *(encoder.at(*other) for other in others)]
    images, source = open_images(settings)
    options = {"source": source, "accelerator": accelerator, **settings.chosen(*EXTRACTION)}
    if settings.is_of_several:
        return extract_layers(encoders, images, settings.output, **options)
    return [extract_activations(encoder, images, settings.output, **options)]
