"""Speed and memory of the scores: against their published formulations, and how they grow.

    OMP_PROC_BIND=true python benchmarks/scores.py
    OMP_PROC_BIND=true python benchmarks/scores.py --part growth

The published formulations are written out here: MonoSemanticity as the definition's double loop over images, and as
the authors' code has it, with the second images in batches of 100 (Pach et al.); soft-WPMI as a loop over neurons
(CLIP-Dissect). Of the double loops some steps are timed, and the time of all is worked out; that the results agree is
checked on a small case in full. Latents are dense (half of them active), or sparse as an SAE's are, 20 active an image.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from machine import machine
from tqdm import tqdm

from cbsae_hub.hub.files import write_json
from cbsae_hub.metrics import Dissector, MonosemanticityScore, Uniqueness, monosemanticity_score, soft_wpmi

IMAGES, NEURONS, WIDTH = 2000, 2048, 512
CONCEPTS = {"emoji": 444, "broden": 1153, "vlg-cbm": 4729}
ACTIVE = 20
BATCH = 256
# (images, neurons): one grows, then the other, then both as in the paper's evaluation.
GROWTH = ((1_000, 65_536), (10_000, 65_536), (50_000, 2_048), (50_000, 16_384), (50_000, 65_536))


def published_monosemanticity(
    latents: torch.Tensor, embeddings: torch.Tensor, steps: int | None = None, together: int = 100
) -> torch.Tensor:
    """Scores ``[neurons]`` by the double loop over images, the second ones so many together; the first by steps."""
    low, high = latents.min(0).values, latents.max(0).values
    scaled = (latents - low) / (high - low)
    total, weight = torch.zeros(latents.shape[1]), torch.zeros(latents.shape[1])
    n = len(latents)
    visited = range(n) if steps is None else np.linspace(0, n - 1, steps).astype(int).tolist()
    for i in visited:
        for start in range(i + 1, n, together):
            others = slice(start, min(start + together, n))
            similarity = F.cosine_similarity(embeddings[i : i + 1], embeddings[others])
            pair = scaled[i] * scaled[others]
            total += (pair * similarity[:, None]).sum(0)
            weight += pair.sum(0)
    return total / weight


def published_soft_wpmi(latents: torch.Tensor, similarities: torch.Tensor, neurons: int | None = None) -> torch.Tensor:
    """The loop over neurons, or over the first so many; float32, as there."""
    k, low = 100, 1e-7
    probabilities = torch.softmax(10 * similarities, dim=1)
    order = torch.topk(latents, k, dim=0).indices
    p = (0.998 - torch.arange(k) / k * (0.998 - 0.97))[:, None]
    rows = []
    for neuron in range(latents.shape[1] if neurons is None else neurons):
        own = probabilities.gather(0, order[:, neuron : neuron + 1].expand(-1, probabilities.shape[1]))
        rows.append(torch.log(1 + p * (own - 1) + low).sum(0, keepdim=True))
    evidence = torch.cat(rows)
    return evidence - (torch.logsumexp(evidence, 0, keepdim=True) - np.log(len(evidence)))


def seconds(call: Callable[[], Any], rounds: int) -> float:
    """The least time of some calls, after one that does not count."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def against_published(rounds: int) -> dict[str, Any]:
    """Both scores at 2,000 images x 2,048 neurons."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.relu(torch.randn(IMAGES, NEURONS, generator=generator))
    embeddings = F.normalize(torch.randn(IMAGES, WIDTH, generator=generator) + 0.3, dim=1)
    small, close = (latents[:150], embeddings[:150]), torch.testing.assert_close
    close(monosemanticity_score(*small).float(), published_monosemanticity(*small), atol=1e-4, rtol=1e-3)
    # The published form costs the same whatever is active; ours does not.
    sparse = sparse_batch(IMAGES, NEURONS, generator)
    result: dict[str, Any] = {}
    for name, batch in (("sparse", sparse), ("dense", latents)):
        ours, dense = seconds(lambda x=batch: monosemanticity_score(x, embeddings), 3 * rounds), batch.to_dense()
        row = result[f"monosemanticity_{name}"] = {"active_share": float((dense > 0).float().mean()), "ours_s": ours}
        for form, together, steps in (("definition", 1, 6), ("authors_code", 100, 40)):
            start = time.perf_counter()
            published_monosemanticity(dense, embeddings, steps, together)
            theirs = (time.perf_counter() - start) * IMAGES / steps
            row |= {f"{form}_s": theirs, f"{form}_timed_share": steps / IMAGES, f"{form}_ratio": theirs / ours}
    for name, count in CONCEPTS.items():
        similarities = embeddings @ F.normalize(torch.randn(count, WIDTH, generator=generator) + 0.3, dim=1).T
        few = latents[:, :64], similarities
        close(soft_wpmi(*few), published_soft_wpmi(*few), atol=2e-3, rtol=1e-3)
        forms = {
            "dense": lambda s=similarities: soft_wpmi(latents, s),
            "sparse": lambda s=similarities: soft_wpmi(sparse, s),
            "sparse_active_images_only": lambda s=similarities: soft_wpmi(sparse, s, count_silent=False),
            "published": lambda s=similarities: published_soft_wpmi(latents, s),
        }
        times = {form: min(seconds(call, 1) for _ in range(rounds)) for form, call in forms.items()}
        result[f"soft_wpmi_{name}"] = {
            "concepts": count,
            **{f"{form}_s": value for form, value in times.items()},
            **{f"{form}_ratio": times["published"] / value for form, value in times.items() if form != "published"},
        }
    return result


def sparse_batch(rows: int, neurons: int, generator: torch.Generator) -> torch.Tensor:
    """Synthetic image-level latents: ``ACTIVE`` neurons an image, some more often than others."""
    owners = (neurons * torch.rand(rows, ACTIVE, generator=generator) ** 2).long()
    index = torch.stack([torch.arange(rows).repeat_interleave(ACTIVE), owners.flatten()])
    values = torch.rand(rows * ACTIVE, generator=generator) + 0.1
    return torch.sparse_coo_tensor(index, values, (rows, neurons), check_invariants=False).coalesce()


def grow(images: int, neurons: int, concepts: int) -> dict[str, Any]:
    """Names, MonoSemanticity and overlaps of one size, in a process of its own: seconds, and the most memory held."""
    generator = torch.Generator().manual_seed(0)
    texts = F.normalize(torch.randn(concepts, WIDTH, generator=generator) + 0.3, dim=1)
    floor = _peak_gb()
    metrics = {
        "names": Dissector(neurons, texts), "monosemanticity": MonosemanticityScore(neurons, WIDTH),
        "uniqueness": Uniqueness(neurons),
    }  # fmt: skip
    spent = dict.fromkeys(("update", *metrics), 0.0)
    for start in tqdm(range(0, images, BATCH), desc=f"{images} x {neurons}", leave=False):
        ids = torch.arange(start, min(start + BATCH, images))
        latents = sparse_batch(len(ids), neurons, generator)
        embeddings = F.normalize(torch.randn(len(ids), WIDTH, generator=generator) + 0.3, dim=1)
        begin = time.perf_counter()
        metrics["names"].update(latents, embeddings, ids)
        metrics["monosemanticity"].update(latents, embeddings)
        metrics["uniqueness"].update(latents, ids)
        spent["update"] += time.perf_counter() - begin
    for name, metric in metrics.items():
        begin = time.perf_counter()
        metric.name() if name == "names" else metric.compute()
        spent[name] = time.perf_counter() - begin
    return {"images": images, "neurons": neurons, "concepts": concepts, "seconds": spent,
            "peak_gb": _peak_gb(), "before_gb": floor}  # fmt: skip


def _peak_gb() -> float:
    """Most memory held by this process so far; not ``ru_maxrss``, which a child takes over from its parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def main(
    part: Annotated[str, typer.Option(help="published, growth or all.")] = "all",
    rounds: Annotated[int, typer.Option(help="Timed rounds of each; the least counts.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    output: Annotated[Path, typer.Option(help="Results.")] = Path(__file__).parent / "results" / "scores.json",
    one: Annotated[
        str | None, typer.Option(help="images,neurons,concepts: one size of the growth.", hidden=True)
    ] = None,
) -> None:
    """Measure the scores."""
    torch.set_num_threads(threads)
    if one:
        sys.stdout.write(json.dumps(grow(*map(int, one.split(",")))))
        return
    result = json.loads(output.read_text()) if output.is_file() else {}
    result["machine"] = machine()
    if part in ("all", "published"):
        result["published"] = against_published(rounds)
    if part in ("all", "growth"):
        result["growth"] = []
        for images, neurons in GROWTH:
            size = f"{images},{neurons},{CONCEPTS['vlg-cbm']}"
            command = [sys.executable, __file__, "--one", size, "--threads", str(threads)]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result["growth"].append(json.loads(process.stdout))
    write_json(output, result)
    typer.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    typer.run(main)
