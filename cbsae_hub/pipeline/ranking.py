"""The neurons of an explanation to look at first, and how many of its names are worth something."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from cbsae_hub.neurons.chance import SURE, better, clear, telling
from cbsae_hub.pipeline.nonsense import Nonsense

BEST, WORST = 10, 5


def rank_neurons(frame: pd.DataFrame, images: int, nonsense: Nonsense | None) -> dict[str, Any]:
    """Chooses the neurons to look at first, and counts the names that are worth something.

    The best are specific, and their names are better than chance and than nonsense, highest score first, each name
    once; the worst are those with the lowest score of all others that are active. Without names, MonoSemanticity
    decides among neurons that fire on several pictures.

    Args:
        frame: A neuron table.
        images: Number of pictures that it was made of.
        nonsense: Names of neurons that have learnt nothing.
    """
    active = frame[~frame["status"].isin(["dead", "rare"])]
    if nonsense is None:
        ordered = clear(frame, images)
        best = ordered["neuron"].head(BEST).tolist()
        return {"best": best, "worst": _last(ordered, best)}
    alive = frame[frame["status"] != "dead"]
    best = telling(active, nonsense.score).drop_duplicates("name")["neuron"].head(BEST).tolist()
    return {
        "names": {
            "of": len(alive),
            "better_than_chance": int(better(alive).sum()),
            "better_than_both": int(better(alive, nonsense.score).sum()),
            "by_luck": round((1 - SURE) * len(alive)),
            "share_of_nonsense_better_than_chance": nonsense.share_above_chance,
            "score_of_nonsense": nonsense.score,
        },
        "best": best,
        "worst": _last(active.sort_values("score", ascending=False), best),
    }


def _last(ordered: pd.DataFrame, best: Sequence[int]) -> list[int]:
    """The last neurons of a table that are not among the best, one of each name."""
    others = ordered[~ordered["neuron"].isin(best)]
    repeated = others["name"].notna() & others["name"].duplicated(keep="last")
    return others.loc[~repeated, "neuron"].tail(WORST).tolist()
