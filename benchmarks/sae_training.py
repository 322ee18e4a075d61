"""Times a whole SAE training step against the encoder's forward product alone and against other trainers.

    pip install "cbsae_hub[peers]"
    OMP_NUM_THREADS=2 python benchmarks/sae_training.py --output sae_training.json

All contenders see the same synthetic activations and start from the same weights. They take turns, one step each, so
that whatever else the machine does falls on all alike; read the ratios. Trainers that are not installed are named.
"""

import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from machine import machine
from sae_training_peers import CONTENDERS, Setting, Step
from tqdm import tqdm

from cbsae_hub.hub.files import write_json

DISTRIBUTIONS = {
    "cbsae_hub": "cbsae_hub",
    "dictionary_learning": "dictionary_learning",
    "sae_lens": "sae-lens",
    "sparsify": "eai-sparsify",
}
WARM_UP = 2


def synthetic_activations(setting: Setting, batches: int) -> list[torch.Tensor]:
    """Batches of low-rank data with noise, of unit mean square norm."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(setting.d_in // 4, setting.d_in, generator=generator)
    all_batches = []
    for _ in range(batches):
        strengths = torch.randn(setting.batch_size, len(basis), generator=generator)
        noise = torch.randn(setting.batch_size, setting.d_in, generator=generator)
        x = strengths @ basis / len(basis) ** 0.5 + 0.5 * noise
        all_batches.append(x / x.square().sum(1).mean().sqrt())
    return all_batches


def make_contenders(setting: Setting) -> tuple[dict[str, Step], list[str]]:
    """Steps by name, and the names of what is not installed."""
    steps, missing = {}, []
    for name, make in CONTENDERS.items():
        try:
            steps[name] = make(setting)
        except ImportError:
            missing.append(name)
    return steps, missing


def main(
    d_in: int = 768,
    d_sae: int = 12_288,
    k: int = 20,
    batch_size: int = 1024,
    dead_share: Annotated[float, typer.Option(help="Share of dead neurons, for the auxiliary loss.")] = 0.0,
    rounds: Annotated[int, typer.Option(help="Timed steps per contender.")] = 15,
    output: Annotated[Path | None, typer.Option(help="Where to write the result as JSON.")] = None,
) -> None:
    """Time SAE training steps."""
    setting = Setting(d_in, d_sae, k, batch_size, round(dead_share * d_sae))
    steps, missing = make_contenders(setting)
    batches = synthetic_activations(setting, 4)
    seconds = {name: [] for name in steps}
    for turn in tqdm(range(WARM_UP + rounds), desc="rounds"):
        for name, step in steps.items():
            started = time.perf_counter()
            step(batches[turn % len(batches)])
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)

    middle = {name: 1000 * median(times) for name, times in seconds.items()}
    typer.echo(f"{'step':<22}{'ms':>8}{'/ floor':>9}{'/ ours':>9}")
    for name, time_ms in sorted(middle.items(), key=lambda item: item[1]):
        ratios = time_ms / middle["floor"], time_ms / middle["cbsae_hub"]
        typer.echo(f"{name:<22}{time_ms:>8.0f}{ratios[0]:>9.2f}{ratios[1]:>9.2f}")
    for name in missing:
        typer.echo(f"{name:<22} not installed")
    if output:
        result = {
            "setting": {"d_in": d_in, "d_sae": d_sae, "k": k, "batch_size": batch_size, "dead_share": dead_share},
            "median_ms": middle,
            "fastest_ms": {name: 1000 * min(times) for name, times in seconds.items()},
            "over_floor": {name: value / middle["floor"] for name, value in middle.items()},
            "over_ours": {name: value / middle["cbsae_hub"] for name, value in middle.items()},
            "not_installed": missing,
            "rounds": rounds,
            "machine": machine(),
            "versions": {name: _version(name) for name in steps if name in DISTRIBUTIONS},
        }
        write_json(output, result, indent=2)


def _version(name: str) -> str | None:
    try:
        return version(DISTRIBUTIONS[name])
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    typer.run(main)
