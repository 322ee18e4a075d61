"""Simulates CLIP-Dissect's scores of neurons that know nothing, for lists of concepts of several lengths.

    python benchmarks/chance_scores.py

Assumed is a judge whose cosines of images and concepts are a constant and independent normal noise: no image shows any
concept more than others do. Each neuron's top images are drawn at random; counted is the score of its best concept, as
that would be its name. The deviation of the noise is an assumption about the judge, and scores are nearly in
proportion to it: 0.02 is a guess for CLIP's cosines of photographs and one concept.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from tqdm import tqdm

from cbsae_hub.metrics import soft_wpmi

IMAGES, NEURONS, TOP_K = 4000, 500, 100
CONCEPTS = {"Broden": 1_197, "VLG-CBM": 4_729, "20k": 20_000}
DEVIATIONS = (0.01, 0.02, 0.04)


def chance_score(concepts: int, deviation: float, seed: int = 0) -> float:
    """Mean over neurons with random top images of the score of their best concept."""
    generator = torch.Generator().manual_seed(seed)
    similarities = deviation * torch.randn(IMAGES, concepts, generator=generator)
    latents = torch.rand(IMAGES, NEURONS, generator=generator)
    return soft_wpmi(latents, similarities, top_k=TOP_K).max(1).values.mean().item()


def main(output: Annotated[Path | None, typer.Option(help="JSON file of the figures.")] = None) -> None:
    """Simulates, prints and writes JSON."""
    cases = [(name, count, deviation) for name, count in CONCEPTS.items() for deviation in DEVIATIONS]
    frame = pd.DataFrame(
        [(*case, chance_score(*case[1:])) for case in tqdm(cases, desc="simulate")],
        columns=["list", "concepts", "deviation", "score"],
    )
    typer.echo(frame.pivot(index="concepts", columns="deviation", values="score").round(3).to_string())
    if output:
        frame.to_json(output, orient="records", indent=1)


if __name__ == "__main__":
    typer.run(main)
