"""The evaluation of the CB-SAE paper: SAE and CB-SAE side by side, neuron by neuron."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.metrics.quadrants import quadrants
from cbsae_hub.metrics.steerability import correlation_of_generators
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.scoring.probe import Probe
from cbsae_hub.scoring.report import mean
from cbsae_hub.scoring.scorer import NeuronScorer
from cbsae_hub.scoring.scores import Scores
from cbsae_hub.scoring.steerability import SteerabilityScorer
from cbsae_hub.scoring.truth import Truth
from cbsae_hub.steering.llava import LlavaSteerer
from cbsae_hub.steering.unclip import UnclipSteerer
from cbsae_hub.studies.tables import markdown_table
from cbsae_hub.trainers.sae.controls import raw_neurons_
from cbsae_hub.words import number

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
RAW = "raw neurons"
"""Row of the layer's own dimensions, whose mean steerability is the null of the others."""
SAMPLE = 128  # images on which raw neurons become as sparse as the SAE


@dataclass(frozen=True)
class Evaluator:
    """Scores models of one encoder alike: one look at the images, one LLaVA, one sentence transformer.

    Attributes:
        probe: Activations and embeddings of the images.
        judges: Judges of names, by the names that ``probe`` has for them.
        encoder: See :class:`NeuronScorer`, as all that is not named here.
        llava: Speaks; its own SAE is not used. None to leave steering out.
        unclip: Draws, in the same way.
        steering: Other arguments of :class:`SteerabilityScorer`: ``sentences``, with ``unclip`` also ``pictures`` and
            ``images``, ``alpha`` and the like.
    """

    probe: Probe
    encoder: VisionEncoder
    judges: Mapping[str, ClipLike]
    concepts: Mapping[str, ConceptSet]
    truth: Truth
    zero_shot: ZeroShotHead | None
    similarity: Callable[[list[Image.Image]], Tensor]
    llava: LlavaSteerer | None = None
    unclip: UnclipSteerer | None = None
    top_k: int = 100
    steering: Mapping[str, Any] = field(default_factory=dict)
    tree: ConceptTree | None = None

    @torch.no_grad()
    def raw_neurons(self, sae: SAE) -> SAE:
        """The dimensions of the layer in both directions, as an SAE with as many active latents as this one."""
        ids, observation = next(self.probe.batches(next(iter(self.judges)), SAMPLE))
        x = self.encoder.select(observation.activations.float(), ids.tolist())
        raw = SAE(sae.d_in, 2 * sae.d_in, "batch_topk", sae.k, **sae.provenance.of_activations()).to(x.device)
        raw_neurons_(raw, 0)
        raw.b_dec.copy_(sae.b_dec)
        raw.calibrate_threshold(x, float((sae.encode_sparse(x).values > 0).sum(-1).float().mean()))
        raw.repo_id = RAW
        return raw

    def evaluate(self, model: SAE | CBSAE, judge: str, speak: bool = True, draw: bool = False) -> Scores:
        """All scores of a model.

        Args:
            model: A model of the encoder.
            judge: Name of the judge that names its neurons.
            speak: Whether LLaVA is steered, if there is one.
            draw: Whether unCLIP is steered, if there is one; takes long.
        """
        options = {name: getattr(self, name) for name in ("similarity", "truth", "tree", "zero_shot", "top_k")}
        scorer = NeuronScorer(model, self.encoder, self.judges[judge], self.concepts, **options)
        size = 64
        for ids, observation in tqdm(self.probe.batches(judge, size), total=-(-len(self.probe) // size), desc="score"):
            scorer.add(ids, observation)
        scores = scorer.results()
        llava = self.llava.with_sae(model) if speak and self.llava else None
        unclip = self.unclip.with_sae(model) if draw and self.unclip else None
        if llava is None and unclip is None:
            return scores
        steered = SteerabilityScorer(scores.neurons, llava=llava, unclip=unclip, **self.steering)
        columns = steered.run(steered.choose())
        return scores.with_steerability(columns, steered.summary(columns))


def means(frame: pd.DataFrame) -> dict[str, float]:
    """Mean of each measure over the neurons that have it, and the number of neurons that have a name."""
    columns = {title: column for title, column in MEASURES.items() if column in frame}
    rows = frame[frame["name"].notna()]
    return {"neurons": len(rows), **{title: mean(rows[column].dropna()) for title, column in columns.items()}}


def parts(sae: pd.DataFrame, cb: pd.DataFrame, keep: Sequence[int]) -> pd.DataFrame:
    """The paper's table 2: means of the SAE's neurons, of those that went and stayed, and of the CB-SAE's.

    The first three are of the SAE's neuron table, the others of the CB-SAE's: its names and its white image are those
    of another model. ``keep`` are ids of the retained neurons.
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
    """Figures of concept neurons alone: steerability, right names, and detection of their concepts."""
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


def row(name: str, scores: Scores, model: SAE | CBSAE) -> dict[str, Any]:
    """A model's line in a table."""
    summary, bottleneck = scores.summary, isinstance(model, CBSAE)
    return {
        "model": name,
        **({"retained": model.d_sae, "k": model.cb_k} if bottleneck else {}),
        **means(scores.neurons),
        "explained variance": summary["reconstruction"]["explained_variance"],
        **({"zero-shot": 100 * cost["accuracy_reconstructed"]} if (cost := summary.get("downstream")) else {}),
        **{f"coverage {part}": 100 * figures["share"] for part, figures in summary["coverage"].items()},
        **(designated(scores.neurons) if bottleneck else {}),
    }


def quadrants_by_threshold(neurons: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Shares of the neurons of models in the four quadrants, at the mean and at the null.

    At the null a neuron is steerable if it steers as well as the layer's raw neurons do in the mean, or better;
    interpretability is cut at its mean both times. Empty without steerability.

    Args:
        neurons: Neuron tables by model, with that of :data:`RAW`.
    """
    if any("steerability" not in frame for frame in neurons.values()):
        return pd.DataFrame()
    lines = []
    rules: dict[str, str | float] = {"mean": "mean", "null": mean(neurons[RAW]["steerability"].dropna())}
    for rule, threshold in rules.items():
        for model, frame in neurons.items():
            cut = quadrants(frame, ("mean", threshold))
            shares = {name: 100 * share for name, share in cut["shares"].items()}
            lines.append({"model": model, "threshold": rule, "steerable from": cut["thresholds"][1], **shares})
    return pd.DataFrame(lines)


def text_and_image(neurons: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Correlation of a concept's text and image steerability, by model; empty where nothing was drawn.

    Args:
        neurons: Neuron tables by model.
    """
    lines = []
    for model, frame in neurons.items():
        for mode in ("unit", "white"):
            both = f"steer_text_{mode}", f"steer_image_{mode}"
            if set(both) <= set(frame):
                lines.append({"model": model, "steered": mode, **correlation_of_generators(frame, *both)})
    return pd.DataFrame(lines)


def tables(
    rows: pd.DataFrame,
    by_judge: Mapping[str, Mapping[str, Scores]],
    seeds: Sequence[str],
    first: CBSAE,
    raw: Scores,
) -> dict[str, pd.DataFrame]:
    """The tables of the study, by their titles.

    Args:
        rows: The lines of all models by the first judge, see :func:`row`.
        by_judge: Each judge's scores of "SAE" and of "CB-SAE", the model of the first seed.
        seeds: Names of the rows that differ in nothing but the seed.
        first: The model of the first seed.
        raw: Scores of the layer's raw neurons by the first judge.
    """
    of_seeds = rows[rows["model"].isin(seeds)].drop(columns="model")
    sae, null = (rows[rows["model"] == name].drop(columns="model").iloc[0] for name in ("SAE", RAW))
    lines = {"SAE": sae, "CB-SAE": of_seeds.mean(), "spread of seeds": of_seeds.std(ddof=1), RAW: null}
    main = pd.DataFrame([{"model": name, **line} for name, line in lines.items()])
    by_first = next(iter(by_judge.values()))
    neurons = {name: scores.neurons for name, scores in by_first.items()}
    concepts = neurons["CB-SAE"][neurons["CB-SAE"]["kind"] == "cb"]
    return {
        "SAE and CB-SAE": main.drop(columns=["retained", "k"]).dropna(axis=1, how="all"),
        "parts": parts(by_first["SAE"].neurons, by_first["CB-SAE"].neurons, first.sae_neuron_ids),
        "variants": rows[~rows["model"].isin(seeds[1:])].dropna(axis=1, how="all"),
        "judges": pd.DataFrame(
            {"judge": judge, **{name: means(scores.neurons)["CD"] for name, scores in of_judge.items()}}
            for judge, of_judge in by_judge.items()
        ),
        "quadrants": quadrants_by_threshold({**neurons, RAW: raw.neurons}),
        "text and image": text_and_image({**neurons, "concept neurons": concepts}),
    }


def as_markdown(frames: Mapping[str, pd.DataFrame]) -> str:
    """The tables as they stand in the documentation."""
    blocks = []
    for title, frame in frames.items():
        if frame.empty:
            continue
        cells = frame.map(lambda value: number(value) if isinstance(value, float) else value)
        blocks.append(f"**{title}**\n\n{markdown_table(cells.astype(str).replace('nan', ''))}")
    return "\n".join(blocks)
