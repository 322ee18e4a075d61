"""Makes of a model's scores all that the page needs: the pack beside the model, and its card."""

from pathlib import Path

from cbsae_hub.cards.write import write_card
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.explained import explained_encoder
from cbsae_hub.formats.load import load
from cbsae_hub.neurons.pack import Pack
from cbsae_hub.pipeline.words import make_word_pack
from cbsae_hub.scoring import Scores
from cbsae_hub.scoring.build_pack import ALT_COLUMN, build_pack
from cbsae_hub.scoring.card_pictures import write_pictures


def make_pack(
    scored: Path, model: Path | None = None, *, alt_column: str | None = ALT_COLUMN, device: str = "cpu"
) -> Pack:
    """Computes what the page needs of a scored model, with steerability if that was measured, and renews its card.

    Args:
        scored: Folder of the scores.
        model: Folder of the model; default the one that was scored.
        alt_column: Column that says what an image shows.
        device: Where the encoder runs.

    Raises:
        ValueError: If the scores are of other images or another model; see :func:`build_pack`.
        OSError: If there are no scores, or something is missing.
    """
    scores = Scores.load(scored)
    settings = scores.summary["settings"]
    folder = model or Path(settings["model"])
    if scores.contexts is not None:
        return make_word_pack(scores, str(folder))
    images = load_images(settings["images"], settings["split"], beside=folder)
    if len(images) != scores.summary["n_images"]:
        raise ValueError(f"the scores are of {scores.summary['n_images']} images, here are {len(images)}")
    sae = load(folder).to(device)
    pack = build_pack(
        scores,
        sae,
        explained_encoder(sae, settings.get("encoder"), device, beside=folder),
        images,
        folder,
        source={"id": settings["images"], "split": settings["split"]},
        alt_column=alt_column,
        batch_size=settings.get("batch_size", 64),
    )
    write_pictures(folder)
    write_card(folder)
    return pack
