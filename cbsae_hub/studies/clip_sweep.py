"""Strength of the neurons of an SAE on CLIP's zero-shot answers, beside raw neurons and random directions.

After "Steering CLIP's vision transformer with sparse autoencoders", section 6. All three are set to the same strengths
at the same block on the same images. That is fair because decoder rows, dimensions and random directions are unit
vectors: a strength displaces activations equally far along each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cbsae_hub.metrics.zero_shot_steering import ZeroShotScores, summarise, uniform_s_f
from cbsae_hub.models.checks import integer
from cbsae_hub.steering import ClipZeroShotSteerer
from cbsae_hub.steering.clip import STRENGTHS
from cbsae_hub.steering.latents import RawNeurons
from cbsae_hub.studies.tables import markdown_table


@dataclass(frozen=True)
class ClipSweep:
    """The results of the study.

    Attributes:
        sweeps: The scores at each strength, by the name of a set of images and of a set of neurons.
        uniform: S_f of answers that only become uniform, by the name of a set of images.
        gamma: See :meth:`ZeroShotScores.summary`, as ``beta``.
    """

    sweeps: Mapping[str, Mapping[str, Sequence[ZeroShotScores]]]
    uniform: Mapping[str, float]
    gamma: float = 0.1
    beta: float = 0.5

    def tables(self) -> dict[str, pd.DataFrame]:
        """Figures of all neurons at each strength, by the name of a set of images."""
        return {
            images: summarise(sweeps, self.gamma, self.beta, self.uniform[images])
            for images, sweeps in self.sweeps.items()
        }

    def neurons(self) -> pd.DataFrame:
        """One row per neuron, strength and set of images."""
        return pd.concat(
            [
                scores.frame().assign(images=images, neurons_of=name, strength=scores.strength)
                for images, sweeps in self.sweeps.items()
                for name, sweep in sweeps.items()
                for scores in sweep
            ],
            ignore_index=True,
        )

    def record(self) -> dict[str, Any]:
        """The tables for JSON."""
        rows = [{"images": name, **row} for name, table in self.tables().items() for row in table.to_dict("records")]
        return {"uniform_s_f": dict(self.uniform), "rows": rows}

    def as_markdown(self) -> str:
        """The table as it stands in the documentation."""
        rows = [
            self._line(images, float(strength), part)
            for images, table in self.tables().items()
            for strength, part in table.groupby("strength")
        ]
        losses = ", ".join(f"{value:.3f} ({images})" for images, value in self.uniform.items())
        return (
            "SAE / raw neurons / random directions; ratios: the SAE's share over that of the other two. "
            f"Loss, the S_f of answers that only become uniform: {losses}.\n\n" + markdown_table(pd.DataFrame(rows))
        )

    def _line(self, images: str, strength: float, part: pd.DataFrame) -> dict[str, str]:
        def cell(values: pd.Series, form: str = "{:.3f}") -> str:
            return " / ".join(form.format(value) if np.isfinite(value) else "-" for value in values)

        return {
            "images": images,
            "strength": f"{strength:g}" if np.isfinite(strength) else "asymptote",
            f"S_f > {self.gamma:g}, %": cell(100 * part["share_above_gamma"], "{:.1f}"),
            "ratio": cell(part["ratio_above_gamma"][1:], "{:.1f}"),
            f"S_f > loss + {self.gamma:g}, %": cell(100 * part["share_beyond_loss"], "{:.1f}"),
            "ratio beyond loss": cell(part["ratio_beyond_loss"][1:], "{:.1f}"),
            f"S_f > {self.beta:g}": cell(part["count_above_beta"], "{:d}"),
            "mean S_f": cell(part["layer_s"]),
            "words covered, %": cell(100 * part["concept_coverage"], "{:.1f}"),
            "D_f": cell(part["distance"]),
            "TV": cell(part["total_variation"]),
        }


def sweep_clip(
    steerer: ClipZeroShotSteerer,
    image_sets: Mapping[str, Sequence[Image.Image]],
    *,
    strengths: Sequence[float] = STRENGTHS,
    neurons: int | None = None,
    gamma: float = 0.1,
    beta: float = 0.5,
    seed: int = 0,
) -> ClipSweep:
    """Sweeps the SAE's neurons, the raw neurons and as many random directions over sets of images.

    Args:
        steerer: The CLIP with the SAE.
        image_sets: Images, by the name of the set.
        strengths: The strengths that each neuron is set to.
        neurons: Number of the SAE's neurons, drawn with the seed; default all.
        gamma: See :meth:`ZeroShotScores.summary`.
        beta: Likewise.
        seed: Seed of the draw and of the random directions.

    Raises:
        ValueError: If there are fewer neurons, or the strengths are none.
    """
    sae, words = steerer.tower.sae, steerer.vocabulary
    shared, place = (steerer.model, steerer.image_processor, steerer.tokenizer), (sae.d_in, steerer.tower.layer)
    steerers = {
        "SAE": steerer,
        "raw neurons": ClipZeroShotSteerer(*shared, RawNeurons(*place), words),
        "random directions": ClipZeroShotSteerer(*shared, RawNeurons(*place, seed), words),
    }
    ids = None if neurons is None else draw(neurons, sae.d_latent, "neurons", seed)
    sweeps = {
        name: {of: one.sweep(images, ids if one is steerer else None, strengths) for of, one in steerers.items()}
        for name, images in image_sets.items()
    }
    answers = {name: steerer.embed(steerer.activations(images)) for name, images in image_sets.items()}
    uniform = {name: uniform_s_f(steerer.distribution(embeddings)) for name, embeddings in answers.items()}
    return ClipSweep(sweeps, uniform, gamma, beta)


def draw(count: int, total: int, what: str, seed: int) -> list[int]:
    """Draws so many numbers below a total, ascending; raises a ValueError that names the setting if there are fewer."""
    return sorted(np.random.default_rng(seed).choice(total, integer(what, count, 1, total), replace=False).tolist())
