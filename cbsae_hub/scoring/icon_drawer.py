"""Draws the icons of a pack: what unCLIP makes of each neuron alone."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from cbsae_hub.hub.files import OtherSettings, claim, plain, replace_file, sha256
from cbsae_hub.neurons.icons import icon_bytes
from cbsae_hub.neurons.strength import usual_strength
from cbsae_hub.scoring.outcomes import DRAWINGS, Outcomes
from cbsae_hub.scoring.report import origin_of
from cbsae_hub.scoring.scores import Scores
from cbsae_hub.steering.unclip import UnclipSteerer

STEPS, SEED, GUIDANCE = 10, 0, 10.0  # half the steps of the page: at this size nobody sees more
CHUNK = 256  # neurons whose drawings are one file of a checkpoint


class IconDrawer:
    """Lets unCLIP draw neurons, each alone.

    Args:
        unclip: Draws; its SAE is the model that was scored.
    """

    def __init__(self, unclip: UnclipSteerer):
        self.unclip = unclip

    def settings(self, scores: Scores) -> dict[str, Any]:
        """Settings of the drawings, for pack.json: strength and guidance are those of steerability, if it is known."""
        measured = scores.summary.get("steerability", {})
        return {
            "unclip": origin_of(self.unclip),
            "alpha": measured.get("alpha"),
            "unit": measured.get("unit"),
            "guidance": measured.get("guidance") or GUIDANCE,
            "steps": STEPS,
            "seed": SEED,
        }

    def draw(self, scores: Scores, partial: Path) -> dict[int, bytes]:
        """Drawings as WebP, by the neuron's number. Neurons that never fire have none.

        Args:
            scores: Scores of the model.
            partial: Folder of the drawings that are done; it is made, and can be deleted afterwards. If it is of other
                neurons or settings, it is begun anew.

        Raises:
            EditError: If a neuron changes nothing of what unCLIP reads.
        """
        settings = self.settings(scores)
        neurons, values = _strengths(scores.neurons, settings["alpha"], settings["unit"])
        identity = plain({**settings, "model": scores.summary["model"], "neurons": sha256(f"{neurons} {values}")})
        try:
            claim(partial, identity)
        except OtherSettings:
            shutil.rmtree(partial)
            claim(partial, identity)
        alone = Outcomes(self.unclip, self.unclip.embeds_of, isolate=True, seed=SEED)
        drawn: dict[int, bytes] = {}
        with tqdm(total=len(neurons), desc="drawn icons", unit="neuron") as bar:
            for start in range(0, len(neurons), CHUNK):
                part, file = slice(start, start + CHUNK), partial / f"{start:07d}.parquet"
                if not file.is_file():
                    icons = self._draw(alone, neurons[part], values[part], settings["guidance"])
                    with replace_file(file) as temporary:
                        pd.DataFrame({"drawn": icons}).to_parquet(temporary)
                drawn |= zip(neurons[part], pd.read_parquet(file)["drawn"])
                bar.update(len(neurons[part]))
        return drawn

    def _draw(self, alone: Outcomes, neurons: Sequence[int], values: Sequence[float], guidance: float) -> list[bytes]:
        icons: list[bytes] = []
        for start in range(0, len(neurons), DRAWINGS):
            embeds = alone.steered(neurons[start : start + DRAWINGS], values[start : start + DRAWINGS])
            icons += map(icon_bytes, self.unclip.draw(embeds, [SEED] * len(embeds), STEPS, guidance))
        return icons


def _strengths(frame: pd.DataFrame, alpha: float | None, unit: str | None) -> tuple[list[int], list[float]]:
    """The neurons that fire, and what each is set to."""
    fires = frame[frame["status"] != "dead"]
    alphas = [alpha * p99 if alpha and unit == "p99" else alpha for p99 in fires["p99"]]
    values = [usual_strength(p99, one, frame["p99"]) for p99, one in zip(fires["p99"], alphas)]
    return fires["neuron"].tolist(), values
