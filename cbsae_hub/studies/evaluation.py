"""SAE and CB-SAE side by side, neuron by neuron: what the tables of the CB-SAE paper are made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from tqdm import tqdm

from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.scoring.probe import Probe
from cbsae_hub.scoring.report import Scores, mean
from cbsae_hub.scoring.scorer import NeuronScorer
from cbsae_hub.scoring.steerability import SteerabilityScorer
from cbsae_hub.scoring.truth import Truth
from cbsae_hub.steering.llava import LlavaSteerer
from cbsae_hub.steering.unclip import UnclipSteerer

# Titles of the paper's columns, and those of the neuron table.
MEASURES = {
    "CD": "score",
    "MS": "monosemanticity",
    "unit vector": "steer_text_unit",
    "white image": "steer_text_white",
    "image, unit vector": "steer_image_unit",
    "image, white image": "steer_image_white",
    "push": "steer_push_white",
}
TEXT_STEERING = ("steer_text_unit", "steer_text_white")


class Evaluator:
    """Scores models of one encoder alike: one look at the images, one LLaVA, one sentence transformer.

    Args:
        probe: What encoder and judges saw.
        encoder: Of the models, with their layer and tokens.
        judges: Of names, by the names that ``probe`` has for them.
        concepts: Concept sets by name; the first one names the neurons.
        truth: Of the probe's images.
        zero_shot: Measures what reconstructions cost.
        similarity: Judge of MonoSemanticity.
        llava: Speaks; its own SAE is not used. None to leave steering out.
        unclip: Draws, in the same way.
        top_k: See :class:`NeuronScorer`.
        steering: Other arguments of :class:`SteerabilityScorer`: ``sentences``, with ``unclip`` also ``pictures`` and
            ``images``, ``alpha`` and the like.
        tree: See :class:`NeuronScorer`.
    """

    def __init__(
        self,
        probe: Probe,
        encoder: VisionEncoder,
        judges: Mapping[str, ClipLike],
        concepts: Mapping[str, ConceptSet],
        truth: Truth,
        zero_shot: ZeroShotHead | None,
        similarity: Callable,
        llava: LlavaSteerer | None = None,
        unclip: UnclipSteerer | None = None,
        top_k: int = 100,
        steering: Mapping[str, Any] | None = None,
        tree: ConceptTree | None = None,
    ):
        self.probe, self.encoder, self.judges, self.concepts = probe, encoder, dict(judges), dict(concepts)
        self.truth, self.zero_shot, self.similarity = truth, zero_shot, similarity
        self.llava, self.unclip, self.top_k, self.steering = llava, unclip, top_k, dict(steering or {})
        self.tree = tree

    def evaluate(self, model: SAE | CBSAE, judge: str, speak: bool = True, draw: bool = False) -> Scores:
        """All scores of a model.

        Args:
            model: Of the encoder.
            judge: Which judge names its neurons.
            speak: Whether LLaVA is steered, if there is one.
            draw: Whether unCLIP is steered, if there is one; takes long.
        """
        scorer = NeuronScorer(
            model,
            self.encoder,
            self.judges[judge],
            self.concepts,
            similarity=self.similarity,
            truth=self.truth,
            tree=self.tree,
            zero_shot=self.zero_shot,
            top_k=self.top_k,
        )
        size = 64
        for ids, seen in tqdm(self.probe.batches(judge, size), total=-(-len(self.probe) // size), desc="score"):
            scorer.add(ids, seen)
        scores = scorer.results()
        llava = self.llava.with_sae(model) if speak and self.llava else None
        unclip = self.unclip.with_sae(model) if draw and self.unclip else None
        if llava is None and unclip is None:
            return scores
        steered = SteerabilityScorer(scores.neurons, llava=llava, unclip=unclip, **self.steering)
        found = steered.run(steered.choose())
        return scores.with_steerability(found, steered.summary(found))


def means(frame: pd.DataFrame) -> dict[str, float]:
    """Mean of each measure over the neurons that have it, and the number of neurons that have a name."""
    columns = {title: column for title, column in MEASURES.items() if column in frame}
    named = frame[frame["name"].notna()]
    return {"neurons": len(named), **{title: mean(named[column].dropna()) for title, column in columns.items()}}


def parts(sae: pd.DataFrame, cb: pd.DataFrame, keep: Sequence[int]) -> pd.DataFrame:
    """The paper's table 2: means of the SAE's neurons, of those that went and stayed, and of the CB-SAE's.

    The first three are scored as neurons of the SAE, the others as neurons of the CB-SAE: its names and its white image
    are those of another model.

    Args:
        sae: The neuron table of the SAE.
        cb: That of the CB-SAE.
        keep: Ids of the retained neurons.
    """
    retained = sae["neuron"].isin(list(keep))
    chosen = {
        "all of the SAE": sae,
        "discarded": sae[~retained],
        "retained": sae[retained],
        "concept neurons": cb[cb["kind"] == "cb"],
        "all of the CB-SAE": cb,
    }
    return pd.DataFrame({"part": part, **means(frame)} for part, frame in chosen.items())


def designated(cb: pd.DataFrame) -> dict[str, float]:
    """Of concept neurons alone: steerability, how many are named as they should be, and how well they detect it."""
    own = cb[cb["kind"] == "cb"]
    steered = {title: column for title, column in MEASURES.items() if column in TEXT_STEERING and column in own}
    return {
        "concepts": len(own),
        **{f"{title} of them": mean(own[column].dropna()) for title, column in steered.items()},
        "first": mean(own["designated_first"].astype(float)),
        "among_five": mean(own["designated_among_five"].astype(float)),
        "average_precision": mean(own["designated_ap"].dropna()),
        "clear": mean(own["designated_ap"].dropna() >= 0.5),
    }
