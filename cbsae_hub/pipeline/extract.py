"""Stores the activations of an encoder on a set of images or texts, for training an SAE on them."""

from typing import Any

from accelerate import Accelerator

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.extraction import extract_activations, extract_layers
from cbsae_hub.data.images import commit_of_images, load_images
from cbsae_hub.data.texts import CAPTION, Questions, Texts, column_of, load_texts
from cbsae_hub.encoders.language import PROMPT, LanguageEncoder
from cbsae_hub.encoders.text import TextEncoder
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.pipeline.recipe import load_function
from cbsae_hub.pipeline.sections import ActivationsSection, EncoderSettings, ImageSource
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
    first, *others = settings.encoders()
    encoder: Any = load_encoder(first, accelerator.device)
    items, source = open_items(settings)
    options = {"source": source, "accelerator": accelerator, **settings.chosen(*EXTRACTION)}
    if not settings.is_of_several:
        return [extract_activations(encoder, items, settings.output, **options)]
    # Lists are of vision encoders alone: settings of other towers have none.
    encoders = [encoder, *(encoder.at(one.layer, one.chosen_tokens) for one in others)]
    return extract_layers(encoders, items, settings.output, **options)


def load_encoder(settings: EncoderSettings, device: Any = "cpu") -> VisionEncoder | TextEncoder | LanguageEncoder:
    """Loads the encoder that a recipe describes; errors are those of its class."""
    place: dict[str, Any] = {"revision": settings.revision, "device": device}
    read = settings.model, settings.layer, settings.chosen_tokens
    if settings.tower == "vision":
        return VisionEncoder.from_pretrained(*read, **place)
    if settings.tower == "text":
        return TextEncoder.from_pretrained(*read, **place)
    options = {name: getattr(settings, name) for name in ("prompt", "max_new_tokens")}
    place |= {name: value for name, value in options.items() if value is not None}
    return LanguageEncoder.from_pretrained(*read, settings.tower, **place)


def open_items(settings: ActivationsSection) -> tuple[Any, dict[str, Any]]:
    """Opens the images, texts or questions that an encoder reads; returns them with their description.

    Errors are those of :func:`open_images` and :func:`load_texts`.
    """
    encoder = settings.encoders()[0]
    if encoder.tower == "vision":
        return open_images(settings)
    if encoder.reads_texts:
        return open_texts(settings, settings.column)
    return open_questions(settings, settings.column, encoder.prompt or PROMPT)


def open_texts(source: ImageSource, column: str | None) -> tuple[Texts, dict[str, Any]]:
    """Opens texts: those of a function, lines of a file, or a column of a dataset, by default ``caption``."""
    if source.is_function:
        texts = load_function(source.images)(**source.images_args)
        return Texts(texts), {"id": source.images, **source.images_args}
    if source.is_lines:
        return load_texts(source.images), {"id": source.images}
    revision, column = commit_of_images(source.images, source.images_revision), column or CAPTION
    description = {"id": source.images, "split": source.split, "revision": revision, "column": column}
    return load_texts(source.images, source.split, column, revision), description


def open_questions(source: ImageSource, column: str | None, prompt: str) -> tuple[Questions, dict[str, Any]]:
    """Opens images with a question each: that of a column, else one for all."""
    images, description = open_images(source)
    if column is None:
        return Questions(images, prompt), description
    return Questions(images, column_of(images, column, source.images)), description | {"column": column}
