"""Counts the features that stand for a kind of things, over all layers of an encoder, beside controls.

    python training/ontology.py --recipe training/recipes/emoji.yaml

The study is :mod:`cbsae_hub.studies.ontology`: table 2 and figures 3 and 4 of Olson et al. (2025). Writes
features.parquet (every feature), ontology.json, ontology.md, densities.png, and best.png: the best features with their
pictures and relevancy maps. Run it again to go on where it was interrupted.
"""

import logging
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from matplotlib.figure import Figure
from tqdm import tqdm

from cbsae_hub.data.hierarchy import ConceptTree, synset_name
from cbsae_hub.data.images import load_images, read_images
from cbsae_hub.encoders.relevance import at_resolution
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.hub.files import claim, read_text, replace_file, write_json, write_text
from cbsae_hub.metrics.ground_truth import label_matrix
from cbsae_hub.neurons.pack import Example
from cbsae_hub.pipeline.extract import open_images
from cbsae_hub.pipeline.sections import OntologySection
from cbsae_hub.plots import plot_densities, plot_examples
from cbsae_hub.processes import make_accelerator
from cbsae_hub.studies.image_labels import label_file, read_labels
from cbsae_hub.studies.layer_saes import Layer
from cbsae_hub.studies.ontology import (
    as_markdown,
    best_features,
    coverage_counts,
    densities,
    layer_features,
    strongest_images,
)

PICTURES = 6
SIDE = 256


class Study:
    """The images, their labels and the tree of a recipe's section."""

    def __init__(self, settings: OntologySection):
        self.settings, self.device = settings, make_accelerator(alone=True).device
        self.images = load_images(settings.probe_images, settings.probe_split)
        self.source = {"id": settings.probe_images, "split": settings.probe_split}
        lines = None if settings.classes is None else read_text(settings.classes).split()
        file = label_file(settings.saes, self.source, settings.label, lines)
        labels = read_labels(self.images, settings.label, file, lines)
        if settings.tree == "wordnet":
            names = {label: synset_name(label) for label in {one for own in labels for one in own}}
            labels = [[names[label] for label in own] for own in labels]
            self.tree = ConceptTree.from_wordnet(sorted(names.values()))
        else:
            self.tree = ConceptTree.load(settings.tree)
        self.labels, self.concepts = label_matrix([set(own) for own in labels])
        self.train_images, self.train_source = open_images(settings)

    def layer(self, layer: int) -> Layer:
        """The encoder's activations and SAE at one layer."""
        one = self.settings
        encoder = VisionEncoder.from_pretrained(one.encoder, layer, one.tokens, one.encoder_revision, self.device)
        return Layer(encoder, self.train_images, self.train_source, one.saes)

    def features(self, layer: int) -> pd.DataFrame:
        """The features of a layer, from an earlier run if there are any."""
        file = self.settings.output / "layers" / f"{layer}.parquet"
        if not file.is_file():
            place = self.layer(layer)
            rows, sae = place.rows(self.images, self.source), place.sae(self.settings.train)
            features = layer_features(rows, sae, self.labels, self.tree, self.concepts, self.settings.seed)
            file.parent.mkdir(exist_ok=True)
            with replace_file(file) as partial:
                features.assign(layer=layer).to_parquet(partial, index=False)
        return pd.read_parquet(file)

    def strip(self, feature: Any) -> list[Example]:
        """A feature's strongest images with its relevancy maps at their resolution."""
        place = self.layer(feature.layer)
        encoder, rows, sae = place.encoder, place.rows(self.images, self.source), place.sae(self.settings.train)
        ids = strongest_images(rows, sae, feature.neuron, PICTURES)
        pictures = [read_images(self.images, i, i + 1)[0] for i in ids]
        maps = encoder.relevance(pictures, sae, feature.neuron).cpu()
        examples = []
        for image_id, picture, one in zip(ids, pictures, maps):
            view = encoder.show(picture, SIDE)
            heat = at_resolution(one[None], view.height, view.width)[0].numpy()
            examples.append(Example(image_id, 0.0, heat / max(float(heat.max()), 1e-12), view, ""))
        return examples


def best_figure(study: Study, best: pd.DataFrame) -> Figure:
    """Figure 4: the best features, each with its kind, layer, height and coverage."""
    titles = [
        f"{one.kind}\nlayer {one.layer}, #{one.neuron}\n{one.concepts} concepts\ncoverage {one.coverage:.2f}"
        for one in best.itertuples()
    ]
    return plot_examples([study.strip(one) for one in best.itertuples()], titles)


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `ontology` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Count the features that stand for kinds; a Markdown table goes to standard output."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = OntologySection.read(recipe, overrides)
        folder = settings.output
        decisive = {key: value for key, value in settings.to_dict(defaults=False).items() if key != "output"}
        claim(folder, decisive)
        study = Study(settings)
        count = study.layer(-1).encoder.num_layers
        layers = [layer % count for layer in settings.layers or range(count)]
        features = pd.concat([study.features(one) for one in tqdm(layers, desc="layers", unit="layer")])
        best = best_features(features, settings.best)
        strips = best_figure(study, best) if len(best) else None
    except (ValueError, OSError, LookupError, ImportError) as error:
        raise typer.BadParameter(str(error)) from error
    counts = coverage_counts(features)
    drawn = [layer % count for layer in settings.figure_layers or layers[-4:]]
    for name, figure in (("densities", plot_densities(list(densities(features, drawn)))), ("best", strips)):
        if figure is not None:
            with replace_file(folder / f"{name}.png") as partial:
                figure.savefig(partial, format="png")
    with replace_file(folder / "features.parquet") as partial:
        features.to_parquet(partial, index=False)
    by_layer = {layer: coverage_counts(part) for layer, part in features.groupby("layer")}
    content = {"counts": counts, "by_layer": by_layer, "best": best.to_dict("records")}
    write_json(folder / "ontology.json", {"settings": settings.to_dict(defaults=False), **content})
    write_text(folder / "ontology.md", as_markdown(counts))
    typer.echo(as_markdown(counts))


if __name__ == "__main__":
    typer.run(main)
