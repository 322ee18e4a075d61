"""Makes of a model's scores all that the page needs: the pack beside the model, and its card."""

from pathlib import Path
from typing import TYPE_CHECKING

from cbsae_hub.cards.write import write_card
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.explained import explained_encoder
from cbsae_hub.formats.load import load
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.neurons.pack import Pack
from cbsae_hub.pipeline.words import make_word_pack
from cbsae_hub.scoring import Scores
from cbsae_hub.scoring.build_pack import ALT_COLUMN, build_pack
from cbsae_hub.scoring.card_pictures import write_pictures

if TYPE_CHECKING:  # who draws no icons does without diffusers
    from cbsae_hub.scoring.icon_drawer import IconDrawer


def make_pack(
    scored: Path,
    model: Path | None = None,
    *,
    alt_column: str | None = ALT_COLUMN,
    device: str = "cpu",
    unclip: str | None = None,
) -> Pack:
    """Computes what the page needs of a scored model, with steerability if that was measured, and renews its card.

    Args:
        scored: Folder of the scores.
        model: Folder of the model; default the one that was scored.
        alt_column: Column that says what an image shows.
        device: Where the encoder and unCLIP run.
        unclip: Folder or Hub id of a Stable unCLIP that draws every neuron alone; None for no drawings.

    Raises:
        ValueError: If the scores are of other images or another model, or see :func:`build_pack`; if unCLIP has another
            encoder; or if neurons that read texts are to be drawn.
        OSError: If there are no scores, or something is missing.
    """
    scores = Scores.load(scored)
    settings = scores.summary["settings"]
    folder = model or Path(settings["model"])
    if scores.contexts is not None:
        if unclip is not None:
            raise ValueError("neurons that read texts cannot be drawn: leave unclip out")
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
        drawer=icon_drawer(unclip, sae, device, folder),
    )
    write_pictures(folder)
    write_card(folder)
    return pack


def icon_drawer(unclip: str | None, sae: SAE | CBSAE, device: str, beside: str | Path) -> "IconDrawer | None":
    """Loads what draws the neurons of a model for :func:`build_pack`; None without an unCLIP.

    Args:
        unclip: Folder or Hub id of a Stable unCLIP; None for none.
        sae: The model.
        device: Where unCLIP runs.
        beside: Folder of the model, whose neighbours are found by their ids.

    Raises:
        ValueError: If unCLIP has another encoder.
        OSError: If it is missing.
    """
    if unclip is None:
        return None
    from cbsae_hub.scoring.icon_drawer import IconDrawer
    from cbsae_hub.steering import UnclipSteerer

    return IconDrawer(UnclipSteerer.from_pretrained(unclip, sae, device=device, beside=beside))
