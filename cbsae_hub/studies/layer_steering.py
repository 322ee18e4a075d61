"""Steering of a CLIP by the neurons of an SAE at one layer, beside raw neurons and random directions.

After "Steering CLIP's vision transformer with sparse autoencoders" (Joseph et al., 2025), section 6.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from PIL import Image

from cbsae_hub.metrics.zero_shot_steering import ZeroShotScores, uniform_s_f
from cbsae_hub.steering import ClipZeroShotSteerer
from cbsae_hub.steering.clip import STRENGTHS
from cbsae_hub.steering.latents import RawNeurons
from cbsae_hub.studies.clip_sweep import draw

RAW, RANDOM = "raw neurons", "random directions"


@dataclass(frozen=True)
class Steered:
    """Effects of a set of neurons on CLIP's answers at one layer.

    Attributes:
        summaries: The figures of :meth:`ZeroShotScores.summary` at each strength.
        neurons: A row per neuron and strength.
        curve: ``neuron``, the strongest at the strength that was given, ``word``, the one that gains most by it, and
            for each of ``strengths`` the word's ``delta_p`` and the neuron's ``s_f``; None without such a strength.
    """

    summaries: list[dict[str, float]]
    neurons: pd.DataFrame
    curve: dict[str, Any] | None = None


def steer_set(
    steerer: ClipZeroShotSteerer,
    images: Sequence[Image.Image],
    *,
    strength: float | None = 150.0,
    neurons: int | None = None,
    curve: Sequence[float] = STRENGTHS,
    gamma: float = 0.1,
    beta: float = 0.5,
    seed: int = 0,
) -> Steered:
    """Steers the neurons of an SAE, or what is compared with them, one at a time.

    The asymptote is of all neurons, as it costs next to nothing.

    Args:
        steerer: The CLIP with the SAE, or with :class:`RawNeurons`.
        images: The images.
        strength: Value that latents are set to; None for the asymptote alone.
        neurons: Number of neurons that are set to it, drawn; default all. Of fewer all are taken.
        curve: Values of the strongest neuron's curve.
        gamma: See :meth:`ZeroShotScores.summary`.
        beta: Likewise.
        seed: Seed of the draw.
    """
    lost = uniform_s_f(steerer.distribution(steerer.embed(steerer.activations(images))))
    sweep: list[ZeroShotScores] = [steerer.asymptote(images)]
    line = None
    if strength is not None:
        total = steerer.tower.sae.d_latent
        ids = None if neurons is None else draw(min(neurons, total), total, "neurons", seed)
        scores = steerer.scores(images, ids, strength)
        sweep.insert(0, scores)
        best = int(scores.s_f.argmax())
        number, word = int(scores.neurons[best]), int(scores.concept[best])
        effects = steerer.effects(images, number, curve)
        line = {
            "neuron": number,
            "word": steerer.vocabulary[word],
            "strengths": list(curve),
            "delta_p": [float(effect.delta_p[word]) for effect in effects],
            "s_f": [effect.s_f for effect in effects],
        }
    summaries = [{**scores.summary(gamma, beta, lost), "loss": lost} for scores in sweep]
    frame = pd.concat([scores.frame().assign(strength=scores.strength) for scores in sweep], ignore_index=True)
    return Steered(summaries, frame, line)


def controls(d_in: int, layer: int, count: int, seed: int = 0) -> dict[str, RawNeurons]:
    """The controls of an SAE at a layer: the raw neurons, and as many random directions.

    Args:
        d_in: Width of the activations.
        layer: The block.
        count: Number of random directions; that of the SAE's neurons, as more of them reach more words by chance alone.
        seed: Seed of the directions.
    """
    return {RAW: RawNeurons(d_in, layer), RANDOM: RawNeurons(d_in, layer, seed, count)}
