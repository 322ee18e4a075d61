"""Times the addition of ten concepts to a trained CB-SAE, from pictures to neurons, and judges the neurons.

    python benchmarks/add_concepts.py

Everything is done as a page does it that has no store of activations: the shipped probe pictures are read, encoder and
teacher look at them, and ``add_concepts`` trains. The ten are concepts that the model has as SAE neurons, drawn with a
seed; what the new neurons are worth is their average precision for their own concept on the test pictures, beside that
of the SAE neurons of the same names (the best one, if there are several) and of concept embeddings without training:
the teacher's text, which a ridge regression carries over to activations.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from machine import THREADS, machine
from torch import Tensor
from tqdm import tqdm

from cbsae_hub import CBSAE, VisionEncoder
from cbsae_hub.data.embeddings import all_embeddings, extract_embeddings
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.explained import explained_encoder
from cbsae_hub.hub.files import write_json
from cbsae_hub.metrics import ground_truth_scores
from cbsae_hub.trainers.cbsae.trainer import add_concepts

SEED = 0


def precision(scores: Tensor, concepts: list[str], images: Any) -> list[float]:
    """Average precision of each column of image-level scores ``[images, concepts]`` for its concept."""
    objects = [{thing["name"] for thing in things} for things in images["objects"]]
    truth = np.array([[concept in names for concept in concepts] for names in objects])
    return np.diagonal(ground_truth_scores(scores.numpy(), truth).average_precision).tolist()


def image_activations(encoder: VisionEncoder, images: Any) -> Tensor:
    """Activations ``[images, tokens, d_in]``."""
    return torch.cat([encoder(images[start : start + 64]["image"]) for start in range(0, len(images), 64)])


def ridge(activations: Tensor, embeddings: Tensor, texts: Tensor) -> Tensor:
    """Directions ``[d_in, concepts]`` whose products with activations come closest to the teacher's similarities."""
    x, y = (part - part.mean(0) for part in (activations.double(), (embeddings @ texts.T).double()))
    gram = x.T @ x
    return torch.linalg.solve(gram + 1e-3 * gram.diagonal().mean() * torch.eye(len(gram)), x.T @ y).float()


def main(
    model: Annotated[Path, typer.Option(help="Folder of the CB-SAE.")] = Path("hub/emoji-cbsae"),
    teacher: Annotated[Path, typer.Option(help="Folder of the teacher.")] = Path("hub/emoji-teacher"),
    pictures: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("hub/emoji-images"),
    count: Annotated[int, typer.Option(help="Concepts to add.")] = 10,
    output: Annotated[Path, typer.Option(help="JSON file of the results.")] = Path("runs/benchmark-add-concepts.json"),
) -> None:
    """Measures, prints and writes JSON."""
    torch.set_num_threads(THREADS)
    cb = CBSAE.from_pretrained(model)
    encoder = explained_encoder(cb, beside=model)
    teach = ClipLike.from_pretrained(teacher)
    probe, test = load_images(pictures, "probe"), load_images(pictures, "test")
    objects = {thing["name"] for things in test["objects"] for thing in things}
    names = sorted(objects & set(cb.neuron_names[: cb.d_sae]))
    concepts = [names[i] for i in np.random.default_rng(SEED).permutation(len(names))[:count]]
    source, seconds = {"id": str(pictures), "split": "probe"}, {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store = extract_activations(encoder, probe, Path(folder) / "activations", source=source, dtype="float32")
        seconds["activations"] = time.perf_counter() - start
        embeddings = all_embeddings(extract_embeddings(teach, probe, Path(folder) / "embeddings", source=source))
        seconds["embeddings"] = time.perf_counter() - start - seconds["activations"]
        start = time.perf_counter()
        with tqdm(desc="add concepts") as bar:
            wider = add_concepts(
                cb, concepts, store, embeddings, teach.embed_texts, progress=lambda steps, _: bar.update(steps - bar.n)
            )
        seconds["training"] = time.perf_counter() - start
        mean = store.read(0, len(store)).unflatten(0, (len(probe), -1)).mean(1)
    activations = image_activations(encoder, test)
    with torch.no_grad():
        latents = torch.cat([wider.encode(part).mean(1) for part in activations.split(64)])
    of_name = [[i for i, name in enumerate(cb.neuron_names[: cb.d_sae]) if name == concept] for concept in concepts]
    directions = ridge(mean, embeddings.float(), teach.embed_texts(concepts))
    precisions = {
        "added": precision(latents[:, -count:], concepts, test),
        "sae": [max(precision(latents[:, ids], [name] * len(ids), test)) for name, ids in zip(concepts, of_name)],
        "untrained": precision(activations.mean(1) @ directions, concepts, test),
    }
    beyond = np.subtract(precisions["added"], precisions["untrained"])  # concept by concept
    results = {
        "concepts": concepts,
        "seconds": seconds | {"all": sum(seconds.values())},
        "average_precision": {
            name: {"mean": float(np.mean(values)), "each": values} for name, values in precisions.items()
        },
        "added_beyond_untrained": {"mean": float(beyond.mean()), "error": float(beyond.std(ddof=1) / count**0.5)},
        "machine": machine(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, results)
    for name, value in results["seconds"].items():
        typer.echo(f"{name:12s} {value:6.1f} s")
    for name, values in results["average_precision"].items():
        typer.echo(f"{name:12s} {values['mean']:6.3f} average precision")
    gain = results["added_beyond_untrained"]
    typer.echo(f"added beyond untrained {gain['mean']:+.3f}, standard error {gain['error']:.3f}")


if __name__ == "__main__":
    typer.run(main)
