"""Measures the verdicts on Emoji World: the share of words by verdict, and how many strong ones are right.

    python benchmarks/verdicts.py

A neuron is right on held-out images if, of all labels, the word is what its activation finds best among the 1,536
images of the split `test`, which were neither named with nor scored. Labels on fewer than 3 of them are left out. "By
the name alone" leaves the truth out of the table.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer

from cbsae_hub import NeuronTable, Pack, load
from cbsae_hub.data.images import image_batches, load_images
from cbsae_hub.encoders.explained import explained_encoder
from cbsae_hub.hub.files import plain, write_json
from cbsae_hub.metrics import ground_truth_scores
from cbsae_hub.scoring.truth import Truth

MODELS = ("hub/emoji-sae", "hub/emoji-cbsae")
IMAGES, SPLIT = "hub/emoji-images", "test"
FAMILIES = {"concept": "objects.name", "background": "background"}  # what the vocabulary is made of
AT_LEAST = 3  # images of a label: most concepts are on 4 to 10
TRUTH_FROM = (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5)
FITS_FROM = (0.5, 0.7, 0.8, 0.9, 0.95)
RESULTS = Path(__file__).parent / "results" / "verdicts.json"


@torch.no_grad()
def held_out(model: str) -> list[str]:
    """For each neuron the label that it finds best on images that it was not named with."""
    images = load_images(IMAGES, SPLIT)
    truth = Truth.read(images, FAMILIES, AT_LEAST)
    sae = load(model)
    encoder = explained_encoder(sae, beside=model)
    means = [sae.encode(encoder(pictures, list(ids))).mean(1) for ids, pictures in image_batches(images, 128)]
    scores = ground_truth_scores(torch.cat(means).numpy(), truth.matrix)
    return [truth.labels[i][1] for i in np.nan_to_num(scores.lift(), nan=-1.0).argmax(1)]


def words(pack: Pack, table: NeuronTable, best_labels: list[str], labels: set[str]) -> pd.DataFrame:
    """For each word of the vocabulary its best neuron, the verdict on it, and whether it is right."""
    rows = []
    for word in pack.vocabulary:
        best = next(iter(table.find(word, 1)), None)
        if best is None or best.match < 1:
            rows.append({"word": word, "verdict": "not in this model"})
            continue
        right = best_labels[best.neuron] == word if word in labels else None
        is_truth = pack.neurons[best.neuron].truth == word
        rows.append({"word": word, "verdict": best.verdict, "is_truth": is_truth, "held_out": right})
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """Shares of words by verdict, and precisions."""
    shares = frame["verdict"].value_counts(normalize=True)
    figures = {f"share {kind}": float(share) for kind, share in shares.items()}
    for kind, part in frame.groupby("verdict"):
        if part["is_truth"].notna().any():
            figures[f"{kind}: the neuron's truth"] = float(part["is_truth"].astype(float).mean())
            figures[f"{kind}: right on held-out images"] = float(part["held_out"].dropna().astype(float).mean())
    return figures


def thresholds(pack: Pack, best_labels: list[str], labels: set[str]) -> Iterator[dict[str, float | str]]:
    """Precision of first names by threshold; one neuron a name, the best by score."""
    frame = pack.neurons.frame.assign(best_label=best_labels)
    frame = frame[frame["name"].isin(labels) & (frame["null_percentile"] >= 0.99)]
    frame = frame.sort_values("score", ascending=False)
    lead = 1 - frame["scores"].str[1] / frame["scores"].str[0]
    clear = (frame["status"] != "dense") & (lead >= 0.1)
    agrees = frame["truth"] == frame["name"]
    chosen = [("truth_ap", low, agrees & (frame["truth_ap"] >= low)) for low in TRUTH_FROM]
    chosen += [("interpretability", low, clear & (frame["interpretability"] >= low)) for low in FITS_FROM]
    for column, low, which in chosen:
        part = frame[which].drop_duplicates("name")
        yield {
            "column": column,
            "from": low,
            "words": len(part),
            "truth": float((part["truth"] == part["name"]).mean()),
            "held_out": float((part["best_label"] == part["name"]).mean()),
        }


def main() -> None:
    """Measures, prints and writes."""
    labels = {name for _, name in Truth.read(load_images(IMAGES, SPLIT), FAMILIES, AT_LEAST).labels}
    results = {}
    for model in MODELS:
        pack, best_labels = Pack.from_pretrained(model), held_out(model)
        blind = NeuronTable(pack.neurons.frame.assign(truth=None, truth_ap=np.nan))
        results[model] = {
            "words": len(pack.vocabulary),
            "with truth": summary(words(pack, pack.neurons, best_labels, labels)),
            "by the name alone": summary(words(pack, blind, best_labels, labels)),
            "thresholds": list(thresholds(pack, best_labels, labels)),
        }
    write_json(RESULTS, results)
    typer.echo(json.dumps(plain(results), indent=1))


if __name__ == "__main__":
    main()
