"""The time of a linear probe, and what it finds: ours on L-BFGS, scikit-learn's, and Adam for ten epochs.

    python benchmarks/linear_probe.py

Planted classes on sparse features, in the sizes of Emoji World's probes. Prints a table: seconds, the objective that is
reached, and the share of other images that is classified right.
"""

import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from sklearn.linear_model import LogisticRegression

from cbsae_hub.metrics.linear_probe import MAX_STEPS, Features, fit_probe

EPOCHS, BATCH, RATE = 10, 256, 1e-3


def planted(images: int, width: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse features ``[images, width]``, standardised, of which a few tell each class, and the classes."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(0).random((classes, width)) < 8 / width
    targets = rng.integers(0, classes, images)
    active = (rng.random((images, width)) < 0.02) | (kinds[targets] & (rng.random((images, width)) < 0.5))
    x = active * rng.random((images, width))
    return torch.from_numpy((x - x.mean(0)) / np.maximum(x.std(0), 1e-6)).float(), torch.from_numpy(targets)


def by_adam(x: torch.Tensor, targets: torch.Tensor, classes: int, l2: float) -> torch.Tensor:
    """Weights and biases ``[classes, width + 1]`` after ten epochs."""
    weights = torch.zeros(classes, x.shape[1] + 1, requires_grad=True)
    search = torch.optim.Adam([weights], lr=RATE)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(BATCH):
            loss = F.cross_entropy(x[rows] @ weights[:, :-1].T + weights[:, -1], targets[rows])
            search.zero_grad()
            (loss + l2 / 2 * weights[:, :-1].square().sum()).backward()
            search.step()
    return weights.detach()


def by_scikit_learn(x: torch.Tensor, targets: torch.Tensor, classes: int, l2: float) -> torch.Tensor:
    """Weights and biases ``[classes, width + 1]`` of scikit-learn's L-BFGS."""
    model = LogisticRegression(C=1 / (l2 * len(x)), max_iter=MAX_STEPS).fit(x.numpy(), targets.numpy())
    return torch.from_numpy(np.column_stack([model.coef_, model.intercept_])).float()


def ours(x: torch.Tensor, targets: torch.Tensor, classes: int, l2: float) -> torch.Tensor:
    """Weights and biases ``[classes, width + 1]`` of the package's."""
    probe = fit_probe(Features(x[:, None]), targets, classes, l2)
    return torch.column_stack([probe.weight, probe.bias])


def main(
    images: Annotated[int, typer.Option(help="Images that are fitted.")] = 5000,
    width: Annotated[int, typer.Option(help="Features.")] = 1024,
    classes: Annotated[int, typer.Option(help="Classes.")] = 300,
    l2: Annotated[float, typer.Option(help="Weight of the penalty.")] = 1e-3,
) -> None:
    """Prints the table."""
    x, targets = planted(images, width, classes, 0)
    others, targets_of_others = planted(images // 4, width, classes, 1)
    ways: dict[str, Callable[..., torch.Tensor]] = {
        "L-BFGS, ours": ours, "L-BFGS, scikit-learn": by_scikit_learn, f"Adam, {EPOCHS} epochs": by_adam,
    }  # fmt: skip
    typer.echo("| solver | seconds | objective | right |\n|---|---|---|---|")
    for name, solve in ways.items():
        start = time.perf_counter()
        weights = solve(x, targets, classes, l2)
        seconds = time.perf_counter() - start
        weight, bias = weights[:, :-1], weights[:, -1]
        objective = F.cross_entropy(x @ weight.T + bias, targets) + l2 / 2 * weight.square().sum()
        right = ((others @ weight.T + bias).argmax(1) == targets_of_others).float().mean()
        typer.echo(f"| {name} | {seconds:.1f} | {float(objective):.4f} | {float(right):.3f} |")


if __name__ == "__main__":
    typer.run(main)
