"""Compares what words and pictures of one thing share inside a LLaVA, and maps of patches over its layers.

    python training/overlap.py --recipe training/recipes/emoji.yaml

The study is :mod:`cbsae_hub.studies.overlap`: figures 6 and 7 of Olson et al. (2025), against shuffled classes and
pictures. Writes classes.parquet and pictures.parquet (every class and picture, with every model), overlap.json,
words.md, maps.md, words.png, and maps-LAYER.png of each layer. Run it again to go on where it was interrupted:
activations and SAEs are kept.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.images import load_images, read_images
from cbsae_hub.encoders.image_tokens import ImageTokenEncoder
from cbsae_hub.encoders.language import PROMPT, LanguageEncoder
from cbsae_hub.hub.files import claim, replace_file, write_json, write_text
from cbsae_hub.models import SAE
from cbsae_hub.pipeline.extract import open_questions
from cbsae_hub.pipeline.sections import OverlapSection
from cbsae_hub.processes import make_accelerator
from cbsae_hub.studies.image_labels import label_file, only_label, read_labels
from cbsae_hub.studies.layer_saes import Layer
from cbsae_hub.studies.overlap import (
    active_patches,
    as_markdown,
    class_latents,
    compare_maps,
    compare_words,
    patch_maps,
    question_about,
    require_unnamed,
    summarise,
)
from cbsae_hub.studies.overlap_figures import PictureMaps, plot_patch_maps, plot_word_overlaps
from cbsae_hub.studies.pair_models import OWN, UNTRAINED, untrained_sae

SIDE = 256  # pixels of a picture in a figure
SAMPLE = 4096  # activations on which an untrained SAE gets as many active latents as the trained one


class Study:
    """The LLaVA of a recipe's section, its classes and their pictures."""

    def __init__(self, settings: OverlapSection):
        self.settings, self.prompt = settings, settings.prompt or PROMPT
        self.llava = LanguageEncoder.from_pretrained(
            settings.llava,
            0,
            revision=settings.llava_revision,
            device=make_accelerator(alone=True).device,
            prompt=self.prompt,
            max_new_tokens=settings.max_new_tokens,
        )
        self.layers = [one % self.llava.num_layers for one in settings.layers or range(self.llava.num_layers)]
        self.images = load_images(settings.probe_images, settings.probe_split)
        source = {"id": settings.probe_images, "split": settings.probe_split}
        labels = read_labels(self.images, settings.label, label_file(settings.saes, source, settings.label))
        self.classes = sorted({own[0] for own in labels if len(own) == 1})
        if not self.classes:
            raise ValueError(f"no picture of {settings.probe_images} has just one label {settings.label}")
        require_unnamed(self.prompt, self.classes)
        self.ids, self.owners = self._choose(only_label(labels, self.classes))

    def _choose(self, targets: np.ndarray) -> tuple[list[int], list[int]]:
        """Rows of the pictures, drawn for each class, and the class of each."""
        order = np.random.default_rng(self.settings.seed).permutation(len(targets))
        chosen = [order[targets[order] == label][: self.settings.pictures] for label in range(len(self.classes))]
        return [int(i) for own in chosen for i in own], [label for label, own in enumerate(chosen) for _ in own]

    def saes(self, layer: int, tower: str) -> dict[str, SAE]:
        """The SAE of a place, trained if it is not there, and the control."""
        one = self.settings
        questions, source = open_questions(one, None, self.prompt)
        place = Layer(self.llava.at(layer, one.tokens, tower), questions, source, one.saes / tower, one.batch)
        sae = place.sae(one.train)
        sample = place.store.read(0, min(SAMPLE, len(place.store))).float().to(self.llava.device)
        return {OWN: sae, UNTRAINED: untrained_sae(sae, sample, one.seed)}

    def batches(self, desc: str) -> Iterator[tuple[list[Image.Image], list[int]]]:
        """All pictures with their classes, a batch at a time."""
        size = self.settings.batch
        for start in tqdm(range(0, len(self.ids), size), desc=desc, unit="batch"):
            part = slice(start, start + size)
            yield [read_images(self.images, i, i + 1)[0] for i in self.ids[part]], self.owners[part]

    def words(self, layer: int, saes: dict[str, SAE]) -> dict[tuple[str, str, str, str], Any]:
        """The overlaps of texts and pictures at a layer."""
        reader, count, size = self.llava.at(layer, "all"), len(self.classes), self.settings.batch
        questions: list[Any] = [(None, question_about(name, self.settings.question)) for name in self.classes]
        texts = ((questions[i : i + size], list(range(count))[i : i + size]) for i in range(0, count, size))
        of_texts = class_latents(reader, saes, texts, count)
        pictures = (
            ([(one, self.prompt) for one in batch], owners) for batch, owners in self.batches(f"layer {layer}: words")
        )
        return compare_words(of_texts, class_latents(reader, saes, pictures, count), self.settings.top)

    def maps(self, layer: int, tower: str, saes: dict[str, SAE]) -> dict[str, Tensor]:
        """The maps of all pictures at a place."""
        encoder = ImageTokenEncoder(self.llava.at(layer, "image", tower))
        parts = [patch_maps(encoder, saes, batch) for batch, _ in self.batches(f"{tower} {layer}: maps")]
        return {name: torch.cat([one[name] for one in parts]) for name in parts[0]}

    def draw(self, projector: Tensor, maps: Tensor, layer: int) -> Figure:
        """Some pictures, evenly spread over the classes, with the SAEs' maps at both places."""
        encoder, share = ImageTokenEncoder(self.llava.at(layer, "image")), self.settings.active
        active = [active_patches(one, share).numpy() for one in (projector, maps)]
        places = np.linspace(0, len(self.ids) - 1, min(self.settings.examples, len(self.ids))).astype(int)
        rows = []
        for i in dict.fromkeys(places.tolist()):
            picture = encoder.show(read_images(self.images, self.ids[i], self.ids[i] + 1)[0], SIDE)
            rows.append(PictureMaps(picture, projector[i].numpy(), maps[i].numpy(), active[0][i], active[1][i]))
        return plot_patch_maps(rows, layer)


def save(figure: Figure, file: Path) -> None:
    """Writes a figure."""
    with replace_file(file) as partial:
        figure.savefig(partial, format="png")


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `overlap` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Compare words with pictures, and maps over layers; Markdown tables go to standard output."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = OverlapSection.read(recipe, overrides)
        folder, seed = settings.output, settings.seed
        claim(folder, {key: value for key, value in settings.to_dict(defaults=False).items() if key != "output"})
        study = Study(settings)
        projector = study.maps(0, "projector", study.saes(0, "projector"))
        words, maps, panels = [], [], {}
        for layer in study.layers:
            saes = study.saes(layer, "language")
            for (model, texts, pictures, features), table in study.words(layer, saes).items():
                place = {"layer": layer, "model": model, "texts": texts, "pictures": pictures, "features": features}
                words.append((place, table))
                if (model, texts, pictures) == (OWN, "prompt", "answer"):
                    panels[f"layer {layer}, {features} features"] = table
            own = study.maps(layer, "language", saes)
            for model, table in compare_maps(projector, own, settings.active).items():
                maps.append(({"layer": layer, "model": model}, table))
            if settings.examples:
                save(study.draw(projector[OWN], own[OWN], layer), folder / f"maps-{layer}.png")
        save(plot_word_overlaps(panels, study.classes), folder / "words.png")
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    for name, of, things in (("classes", words, study.classes), ("pictures", maps, study.ids)):
        each = pd.concat([table.assign(**place, **{name: things}) for place, table in of], ignore_index=True)
        with replace_file(folder / f"{name}.parquet") as partial:
            each.to_parquet(partial, index=False)
    results = {
        name: [place | summarise(table, seed) for place, table in of] for name, of in (("words", words), ("maps", maps))
    }
    write_json(folder / "overlap.json", {"settings": settings.to_dict(defaults=False), **results})
    for name, rows in results.items():
        write_text(folder / f"{name}.md", as_markdown(rows))
        typer.echo(as_markdown(rows))


if __name__ == "__main__":
    typer.run(main)
