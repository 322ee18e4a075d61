"""Measures how strong a neuron has to be set, which is the base of the band that the page recommends.

    python benchmarks/strengths.py --output strengths.json

Neurons that make LLaVA say their concept when they are set alone to the strength of the steerability scores are set, in
pictures, to multiples of that strength; counted are the answers of one word that are the concept. Beside it: pushes as
long in a random direction, and how far activations are moved, relative to their median length.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from tqdm import tqdm

from cbsae_hub import CBSAE, Edit, Pack, Steering
from cbsae_hub.hub.files import write_json
from cbsae_hub.scoring.first_words import FirstWords
from cbsae_hub.steering import LlavaSteerer, RandomDirection

FACTORS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def main(
    model: Annotated[Path, typer.Option(help="Folder of a CB-SAE with a pack that has steerability.")] = Path(
        "hub/emoji-cbsae"
    ),
    llava: Annotated[Path, typer.Option(help="Folder of the LLaVA.")] = Path("hub/emoji-llava"),
    pictures: Annotated[int, typer.Option(help="Pictures of the pack, drawn at random.")] = 16,
    output: Annotated[Path | None, typer.Option(help="JSON file of the figures.")] = None,
) -> None:
    """Measures, prints and writes JSON."""
    torch.set_num_threads(2)
    pack, cb = Pack.from_pretrained(model), CBSAE.from_pretrained(model)
    steerer = LlavaSteerer.from_pretrained(llava, cb, pack)
    listen = FirstWords(steerer)
    frame = pack.neurons.frame
    concept = frame["designated"].where(frame["kind"] == "cb", frame["name"])
    chosen = frame.assign(concept=concept)[frame["said_unit"] == concept]
    alpha = float(pack.info["scores"]["steerability"]["alpha"])
    ids = np.random.default_rng(0).choice(pack.image_ids(), pictures, replace=False)
    images = [pack.image(int(image)) for image in ids]
    length = float(steerer.activations(images).norm(dim=-1).median())
    rows = []
    for factor in tqdm(FACTORS, desc="strengths"):
        hits: dict[str, list[bool]] = {"sae": [], "cb": [], "random": []}
        for row in chosen.itertuples():
            steering = Steering([Edit(int(row.neuron), factor * alpha)])
            for name, one in ((row.kind, steering), ("random", RandomDirection(steering, int(row.neuron)))):
                hits[name] += [word == row.concept for word in listen(steerer.image_features(images, one))]
        shares = {name: float(np.mean(values)) for name, values in hits.items()}
        rows.append({"strength": factor * alpha, "of_alpha": factor, "of_length": factor * alpha / length, **shares})
    results = {"alpha": alpha, "neurons": chosen["kind"].value_counts().to_dict(), "pictures": pictures, "rows": rows}
    typer.echo("of alpha  strength  of length    sae     cb  random")
    for row in rows:
        typer.echo(
            f"{row['of_alpha']:8.2f}  {row['strength']:8.1f}  {row['of_length']:9.2f}  "
            f"{row['sae']:5.1%}  {row['cb']:5.1%}  {row['random']:6.1%}"
        )
    if output:
        write_json(output, results)


if __name__ == "__main__":
    typer.run(main)
