"""The pictures of a model's card, drawn from its pack."""

from pathlib import Path

import pandas as pd

from cbsae_hub.hub.files import replace_file
from cbsae_hub.neurons.pack import Pack
from cbsae_hub.plots import plot_examples, plot_quadrants

NEURONS = 8  # neurons
IMAGES = 8  # per neuron


def write_pictures(folder: str | Path) -> None:
    """Draws ``examples.webp`` and, where steerability is known, ``quadrants.png`` into a model's folder.

    Args:
        folder: With a pack.

    Raises:
        PackError: If there is no pack, or it is damaged.
    """
    folder = Path(folder)
    pack = Pack.from_pretrained(folder)
    frame = pack.neurons.frame
    rows = choose(frame)
    strips = [pack.examples(int(neuron), "top", IMAGES) for neuron in rows["neuron"]]
    titles = [f"{row.name or 'unnamed'}\n#{row.neuron}" for row in rows[["neuron", "name"]].itertuples(index=False)]
    drawings = {"examples.webp": plot_examples(strips, titles)}
    if {"interpretability", "steerability"} <= set(frame) and frame["steerability"].notna().any():
        drawings["quadrants.png"] = plot_quadrants(frame)
    for name, figure in drawings.items():
        with replace_file(folder / name) as partial:
            figure.savefig(partial, format=Path(name).suffix[1:], dpi=100)


def choose(frame: pd.DataFrame, count: int = NEURONS) -> pd.DataFrame:
    """Neurons for the examples, by rule: evenly spread over those that are active, from the best name to the worst.

    The best alone would promise too much. Half of a concept bottleneck's are concept neurons.
    """
    alive = frame[frame["status"] != "dead"].sort_values("score", ascending=False, kind="stable")
    parts = [part for _, part in alive.groupby("kind", sort=True)]
    shares = [count // len(parts) + (i < count % len(parts)) for i in range(len(parts))]
    return pd.concat([_spread(part, share) for part, share in zip(parts, shares)])


def _spread(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    count = min(count, len(frame))
    return frame.iloc[[round(i * (len(frame) - 1) / max(1, count - 1)) for i in range(count)]]
