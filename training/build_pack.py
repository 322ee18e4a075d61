"""Names the neurons of an SAE and computes what the page needs, beside the model in its folder.

python training/build_pack.py --recipe training/recipes/emoji.yaml
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.data.images import load_images
from cbsae_hub.models import SAE
from cbsae_hub.pack_builder import build_pack
from cbsae_hub.vision.clip_like import ClipLike
from cbsae_hub.vision.encoder import VisionEncoder
from recipe import read_recipe, require_keys

REQUIRED = ("model", "judge", "images", "split", "concepts")
OPTIONAL = ("encoder", "truth_columns", "alt_column", "top_k")


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `pack` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of the SAE; default as in the recipe.")] = None,
    device: Annotated[str, typer.Option(help="Where encoder and judge run.")] = "cpu",
) -> None:
    """Name the neurons of an SAE and write its pack."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = read_recipe(recipe, "pack", overrides or [])
        require_keys(settings, REQUIRED, OPTIONAL)
        folder = model or Path(settings["model"])
        sae = SAE.from_pretrained(folder)
        encoder = VisionEncoder.from_pretrained(
            settings.get("encoder", sae.encoder_id),
            layer=sae.layer,
            tokens=sae.tokens,
            revision=sae.encoder_revision,
            device=device,
            beside=folder,
        )
        pack = build_pack(
            sae,
            encoder,
            ClipLike.from_pretrained(settings["judge"], device=device, beside=folder),
            load_images(settings["images"], settings["split"], beside=folder),
            ConceptSet.load(settings["concepts"]),
            folder,
            source={"id": settings["images"], "split": settings["split"]},
            truth_columns=settings.get("truth_columns", ()),
            alt_column=settings.get("alt_column"),
            top_k=settings.get("top_k", 100),
        )
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    for name, value in pack.info["metrics"].items():
        logging.info("%-22s %.4f", name, value)


if __name__ == "__main__":
    typer.run(main)
