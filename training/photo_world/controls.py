"""Neurons of an SAE are compared with those of an untrained SAE, single numbers and random directions.

For each label the unit is chosen that detects it best on the probe split; how well it does is measured on the test
split, whose cut-outs are others. Intervals are of a bootstrap over these cut-outs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.metrics import ground_truth_scores, monosemanticity_score
from cbsae_hub.models import SAE
from cbsae_hub.pipeline.nonsense import untrained
from cbsae_hub.scoring import Truth
from training.photo_world.scenes import SIDE

Units = Callable[[Tensor], Tensor]  # [images, tokens, d_in] -> [images, tokens, units]
FAMILIES = {"kinds": "kinds", "background": "background", "place": "place"}
IN_THE_BOX = "in the box"
RESAMPLES = 1000


@dataclass(frozen=True)
class Split:
    """Scenes of a split, with their activations.

    Attributes:
        images: The scenes.
        store: Activations of their patches.
        truth: Their labels, those on enough scenes.
    """

    images: datasets.Dataset
    store: ActivationStore
    truth: Truth

    @classmethod
    def read(cls, images: datasets.Dataset, store: ActivationStore) -> "Split":
        """Reads the truth of scenes."""
        return cls(images, store, Truth.read(images, FAMILIES))

    @property
    def inside(self) -> np.ndarray:
        """Whether the middle of each patch lies in the cut-out's box, ``[scenes, patches]`` bool, row by row."""
        side = round(self.store.tokens_per_image**0.5)
        middles = (np.arange(side) + 0.5) * SIDE / side
        x0, y0, x1, y1 = np.array(self.images["box"]).T[..., None]
        across, down = (x0 <= middles) & (middles < x1), (y0 <= middles) & (middles < y1)
        return (down[:, :, None] & across[:, None, :]).reshape(len(across), -1)


@dataclass(frozen=True)
class Sight:
    """The answers of some units to scenes.

    Attributes:
        mean: Mean over the patches, ``[scenes, units]``.
        strongest: Number of the patch with the largest value, ``[scenes, units]``; the first one of those alike.
    """

    mean: np.ndarray
    strongest: np.ndarray


@torch.no_grad()
def look(store: ActivationStore, units: Units, batch_size: int = 32) -> Sight:
    """Runs units on all scenes of a store."""
    parts = [units(v) for _, v in store.of_images(range(store.num_images), batch_size)]
    mean, strongest = (torch.cat([make(z) for z in parts]) for make in (lambda z: z.mean(1), lambda z: z.argmax(1)))
    return Sight(mean.numpy(), strongest.numpy())


def make_units(sae: SAE) -> dict[str, Units]:
    """The SAE's neurons and the controls, by name.

    Single numbers count upwards and downwards, each as a unit of its own.
    """
    directions = torch.randn(sae.d_in, sae.d_sae, generator=torch.Generator().manual_seed(2))
    directions, origin = F.normalize(directions, dim=0), sae.b_dec.detach()
    return {
        "SAE": sae.encode,
        "untrained SAE": untrained(sae).encode,
        "single numbers": lambda v: torch.cat([v - origin, origin - v], -1),
        "random directions": lambda v: (v - origin) @ directions,
    }


def choose(sight: Sight, truth: Truth, labels: Sequence[tuple[str, str]]) -> np.ndarray:
    """The unit that detects each label best, by average precision: ``[labels]``."""
    columns = [truth.labels.index(label) for label in labels]
    return ground_truth_scores(sight.mean, truth.matrix[:, columns]).average_precision.argmax(0)


def lifts(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of a unit for each label, from that of chance, 0, to a perfect 1; NaN without the label.

    Args:
        values: ``[scenes, labels]``, of the unit that was chosen for each.
        labels: ``[scenes, labels]`` bool.
    """
    return ground_truth_scores(values, labels).lift().diagonal()


@dataclass(frozen=True)
class Detectors:
    """The work of the unit that was chosen for each label on the test split; arrays are ``[scenes, labels]``.

    Attributes:
        families: Kind of each label, ``[labels]``.
        truth: Whether a scene has the label.
        values: Of the unit.
        hits: Whether the unit is strongest in the cut-out's box.
    """

    families: np.ndarray
    truth: np.ndarray
    values: np.ndarray
    hits: np.ndarray

    def in_the_box(self, rows: Any = slice(None)) -> np.ndarray:
        """Share of a label's scenes, of those on which its unit fires, where it is strongest in the box: ``[labels]``.

        A unit fires above its smallest value on all scenes, which is 0 for neurons. NaN if it never does.
        """
        fires = (self.truth & (self.values > self.values.min(0)))[rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.hits[rows] & fires).sum(0) / fires.sum(0)

    def figures(self, rows: Any = slice(None)) -> dict[str, float]:
        """Means over the labels of each family, on some of the scenes."""
        lift = lifts(self.values[rows], self.truth[rows])
        own = {family: self.families == family for family in FAMILIES if family in self.families}
        means = {family: _mean(lift[labels]) for family, labels in own.items()}
        return {**means, IN_THE_BOX: _mean(self.in_the_box(rows)[self.families == "kinds"])}


def compare(sae: SAE, probe: Split, test: Split, looks: Tensor, seed: int = 0) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Compares the SAE with the controls.

    Args:
        sae: The model.
        probe: Where units are chosen.
        test: Where they are measured.
        looks: Embeddings of the probe's scenes by the judge of MonoSemanticity.
        seed: Seed of the bootstrap.

    Returns:
        A row for each label and kind of units; and, by kind of units, the figures with their intervals.
    """
    labels = [label for label in probe.truth.labels if label in test.truth.labels]
    truth = test.truth.matrix[:, [test.truth.labels.index(label) for label in labels]]
    families, inside = np.array([family for family, _ in labels]), test.inside
    resamples = _resample(np.array(test.images["cutout"]), np.random.default_rng([seed, 3]))
    rows, figures, draws = [], {}, {}
    for name, units in tqdm(make_units(sae).items(), desc="controls", unit="kind"):
        probed, tested = look(probe.store, units), look(test.store, units)
        chosen = choose(probed, probe.truth, labels)
        hits = np.take_along_axis(inside, tested.strongest[:, chosen], 1)
        detectors = Detectors(families, truth, tested.mean[:, chosen], hits)
        draws[name] = pd.DataFrame([detectors.figures(part) for part in resamples])
        figures[name] = {
            figure: {"mean": mean, "interval": _interval(draws[name][figure]),
                     "less_than_sae": {"mean": figures.get("SAE", {}).get(figure, {"mean": mean})["mean"] - mean,
                                       "interval": _interval(draws["SAE"][figure] - draws[name][figure])}}
            for figure, mean in detectors.figures().items()
        }  # fmt: skip
        alike = monosemanticity_score(torch.from_numpy(probed.mean), looks).numpy()
        figures[name]["monosemanticity"] = _mean_of_units(alike)
        parts = zip(labels, chosen, truth.sum(0), lifts(detectors.values, truth), detectors.in_the_box())
        rows += [(name, *label, *others) for label, *others in parts]
    columns = ["units", "family", "label", "unit", "scenes", "lift", "in_the_box"]
    chance = _chance(truth[:, families == "kinds"].any(1), inside, looks)
    return pd.DataFrame(rows, columns=columns), {"units": figures, "chance": chance}


def _resample(cutouts: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of the scenes of as many cut-outs as there are, drawn with replacement; so many times."""
    members = [np.flatnonzero(cutouts == one) for one in np.unique(cutouts)]
    draws = rng.integers(0, len(members), (RESAMPLES, len(members)))
    return [np.concatenate([members[i] for i in draw]) for draw in draws]


def _mean(values: np.ndarray) -> float:
    """Mean of what is defined; NaN if nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _interval(values: Any) -> list[float]:
    return np.nanquantile(values, [0.025, 0.975]).tolist()


def _mean_of_units(scores: np.ndarray) -> dict[str, Any]:
    defined = scores[~np.isnan(scores)]
    error = defined.std(ddof=1) / len(defined) ** 0.5
    return {"mean": float(defined.mean()), "interval": [float(defined.mean() + z * error) for z in (-1.96, 1.96)],
            "units": len(defined)}  # fmt: skip


def _chance(labelled: np.ndarray, inside: np.ndarray, looks: Tensor) -> dict[str, float]:
    """Figures of a unit that knows nothing: the box's share of a scene, and the likeness of any two scenes."""
    n, total = len(looks), float(looks.double().sum(0).square().sum())
    nothing = dict.fromkeys(FAMILIES, 0.0)
    return {**nothing, IN_THE_BOX: float(inside[labelled].mean()), "monosemanticity": (total - n) / (n * n - n)}
