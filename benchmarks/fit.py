"""The worth of an SAE's size and length of training on few images: the grid from which pipeline/fit.py was chosen.

    python benchmarks/fit.py

For 600 and for all 4,608 probe images of Emoji World, each size times a quarter, one and four times the tokens of
``cbsae explain``. Prints a table: explained variance on held-out images, neurons that never fire, names better than
chance, and labels that a neuron detects with an average precision of 0.5. Half an hour on one core.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from cbsae_hub import ConceptSet
from cbsae_hub.data.embeddings import all_embeddings, extract_embeddings
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders import ClipLike, VisionEncoder
from cbsae_hub.neurons.chance import SURE
from cbsae_hub.pipeline.fit import EFFORT, Amount, fit
from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.sae.trainer import SAETrainer, describe

HUB = Path(__file__).parents[1] / "hub"
FAMILIES = {"concept": "objects.name", "background": "background"}


def main(
    counts: Annotated[list[int] | None, typer.Option("--images", help="Numbers of images.")] = None,
    factors: Annotated[list[float] | None, typer.Option("--factor", help="Multiples of the chosen size.")] = None,
) -> None:
    """Prints the table."""
    encoder, judge = VisionEncoder.from_pretrained(HUB / "emoji-clip"), ClipLike.from_pretrained(HUB / "emoji-judge")
    probe, concepts = load_images(HUB / "emoji-images", "probe"), ConceptSet.load(HUB / "emoji-images" / "concepts.txt")
    columns = "images", "neurons", "effort", "seconds", "explained variance", "never fire", "above chance", "labels"
    typer.echo(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    with tempfile.TemporaryDirectory() as folder:
        for count in counts or (600, 4608):
            images, place = probe.select(range(count)), Path(folder, str(count))
            store = extract_activations(encoder, images, place / "activations", source={"images": count})
            embeddings = all_embeddings(extract_embeddings(judge, images, place / "judge", source={"images": count}))
            truth = Truth.read(images, FAMILIES)
            amount = Amount(count, encoder.tokens_per_image, encoder.d_in)
            for factor in factors or (0.5, 1, 2):
                for effort in EFFORT:
                    settings = fit(amount, effort)
                    settings |= {"d_sae": int(settings["d_sae"] * factor), "log_with": ()}
                    config, output = SAETrainConfig(**settings), place / f"{factor}-{effort}"
                    train, heldout = store.holdout(config.heldout_fraction, 0)
                    start = time.process_time()
                    trainer = SAETrainer(config, train, heldout, output, description=describe(store.manifest))
                    figures, seconds = trainer.train(), time.process_time() - start
                    sae = trainer.sae.from_pretrained(output)
                    scorer = NeuronScorer(
                        sae, encoder, judge, {"concepts": concepts}, truth=truth, top_k=max(5, count // 100)
                    )
                    scorer.run_stored(store, embeddings)
                    scores = scorer.results()
                    frame = scores.neurons
                    typer.echo(
                        f"| {count} | {config.d_sae} | {effort} | {seconds:.0f} | {figures.explained_variance:.3f} "
                        f"| {int((frame['status'] == 'dead').sum())} | {int((frame['null_percentile'] >= SURE).sum())} "
                        f"| {int((scores.labels['ap'] >= 0.5).sum())} of {len(scores.labels)} |"
                    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
