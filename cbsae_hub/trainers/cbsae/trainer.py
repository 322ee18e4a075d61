"""Trains the bottleneck of a CB-SAE: all of it on stored activations, or a few concepts while somebody waits."""

import copy
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.embeddings import all_embeddings
from cbsae_hub.models.cbsae import CBSAE
from cbsae_hub.models.explained_variance import explained_variance
from cbsae_hub.trainers.cbsae.bottleneck import BottleneckState, cosine_cubed_similarity
from cbsae_hub.trainers.config import CBSAETrainConfig
from cbsae_hub.trainers.loop import Trainer

logger = logging.getLogger(__name__)


class BottleneckHeldout(NamedTuple):
    """Figures of a concept bottleneck SAE on held-out tokens."""

    explained_variance: float
    """By the whole model; about the mean of the held-out tokens."""
    explained_variance_retained: float
    """By the retained neurons alone."""
    interpretability: float
    """Mean similarity of the concept activations to the teacher's."""
    steerability: float
    """The same of the concepts that are read in the reconstruction."""
    tokens: int


class CBSAETrainer(Trainer[CBSAETrainConfig, BottleneckState]):
    """Trains a bottleneck beside a frozen SAE as the CB-SAE paper does.

    With several processes the result is that of one, up to rounding: similarities are taken over global batches.

    Args:
        config: The settings.
        cb: The model, with an untrained bottleneck; a copy is trained.
        train: Activations to train on.
        heldout: Activations of other images.
        embeddings: The teacher's unit embeddings of all images of the store, as a store, which says who the teacher is,
            or ``[images, e]``. Only a model whose teacher is known can be given more concepts on the page.
        texts: Its unit embeddings of the concepts, ``[concepts, e]``.
        output: Folder of the checkpoint, the log and, in the end, the model.
        accelerator: The run's accelerator; default a new one.

    Raises:
        ValueError: If embeddings, concepts and activations do not fit each other, or the embeddings are of another
            teacher than the model's.
    """

    reads = "labelled_batches"

    def __init__(
        self,
        config: CBSAETrainConfig,
        cb: CBSAE,
        train: ActivationStore,
        heldout: ActivationStore,
        embeddings: Tensor | ActivationStore,
        texts: Tensor,
        output: str | Path,
        *,
        accelerator: Accelerator | None = None,
    ):
        super().__init__(config, train, heldout, output, accelerator)
        self.cb = copy.deepcopy(cb).to(self.accelerator.device)
        if isinstance(embeddings, ActivationStore):
            note_teacher(self.cb, embeddings)
            embeddings = all_embeddings(embeddings)
        elif self.cb.teacher is None and self.accelerator.is_main_process:
            logger.warning(
                "nobody will know the teacher of %s, so no concepts can be added to it on the page: give the store of "
                "its embeddings, or from_sae(..., teacher={'id': ..., 'revision': ...})",
                self.output,
            )
        require_fit(cb, train, embeddings)
        self.state = BottleneckState(self.cb, config, embeddings, texts, self.accelerator)

    def _initialise(self) -> None:
        self.state.initialise(self._share(self.train_data, self.config.batch_size, 0))

    def _update(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, images = batch
        losses = self.state.update(x.to(self.accelerator.device), images)
        return {f"loss/{name}": value for name, value in losses.items()}

    def _gauges(self) -> dict[str, float]:
        return {"lr": self.config.lr}

    def evaluate(self) -> BottleneckHeldout:
        """Figures of the model as it is now, on held-out activations."""
        return evaluate_bottleneck(self.state, self._heldout())

    def _finish(self) -> BottleneckHeldout:
        trained_on = {
            "activations": self.train_data.manifest["images"],
            "num_images": self.train_data.num_images,
            "steps": self.config.steps,
            "batch_size": self.config.batch_size,
            "objectives": list(self.config.objectives),
        }
        self.cb.provenance = replace(self.cb.provenance, trained_on=trained_on)
        final = self.evaluate()
        self._publish(self.cb, final, parent=self.cb.parent, concepts_sha256=self.cb.concepts_sha256)
        return final


@torch.no_grad()
def evaluate_bottleneck(state: BottleneckState, batches: Iterator[tuple[Tensor, Tensor]]) -> BottleneckHeldout:
    """Evaluates a model with its teacher; similarities are means over batches, as in training.

    Raises:
        ValueError: If there are no tokens.
    """
    cb, processes = state.cb, state.processes
    device = cb.W_dec_cb.device
    moments = torch.zeros(2, cb.d_in, dtype=torch.float64, device=device)
    sums = torch.zeros(6, dtype=torch.float64, device=device)  # squared errors, similarities, tokens, batches
    for x, images in batches:
        x = x.to(device)
        centred, error, y = state.prepare(x, images)
        c = cb.concept_activations(x)
        unit = cb.sae.unit(x)
        remainder, error = error * unit - cb.decode_concepts(c, like=x), error * unit
        read = cb.concept_activations(x - remainder)
        moments += torch.stack([x.double().sum(0), x.double().square().sum(0)])
        similar = [cosine_cubed_similarity(part[:, state.first :], y, processes).mean() for part in (c, read)]
        squares = [part.double().square().sum() for part in (remainder, error)]
        sums += torch.stack([*squares, *similar, sums.new_tensor(len(x)), sums.new_ones(())]).to(sums)
    processes.sum_(moments)
    processes.sum_(sums)
    whole, retained, interpretability, steerability, tokens, count = sums.tolist()
    if not tokens:
        raise ValueError("no held-out tokens to evaluate on")
    first, second = moments[0], moments[1].sum()
    of_all, of_retained = (explained_variance(first, second, errors, tokens) for errors in (whole, retained))
    return BottleneckHeldout(of_all, of_retained, interpretability / count, steerability / count, int(tokens))


def note_teacher(cb: CBSAE, embeddings: ActivationStore) -> None:
    """Writes into a model who its teacher is, by the store of the embeddings that it learns from.

    Raises:
        ValueError: If the model has another one.
    """
    facts = embeddings.manifest["encoder"]
    teacher = {"id": facts.get("encoder_id"), "revision": facts.get("encoder_revision")}
    if cb.teacher not in (None, teacher):
        raise ValueError(f"the model's teacher is {cb.teacher}, {embeddings.folder} holds embeddings of {teacher}")
    if teacher["id"] is not None:
        cb.provenance = replace(cb.provenance, teacher=teacher)


def require_fit(cb: CBSAE, activations: ActivationStore, embeddings: Tensor) -> None:
    """Compares a model, the activations that it is trained on and the teacher's embeddings of their images.

    Raises:
        ValueError: If the activations are of another encoder, layer or width, or the embeddings of other images.
    """
    facts, images = activations.manifest["encoder"], activations.manifest["num_images"]
    for name in ("encoder_id", "layer"):
        if getattr(cb, name) is not None and facts.get(name) != getattr(cb, name):
            raise ValueError(f"the SAE is of {name} {getattr(cb, name)!r}, the activations of {facts.get(name)!r}")
    if cb.d_in != activations.d_in:
        raise ValueError(f"the SAE explains activations of width {cb.d_in}, the store has {activations.d_in}")
    if len(embeddings) != images:
        raise ValueError(
            f"the teacher has embedded {len(embeddings)} images, the activations are of {images}: "
            "extract both from the same images"
        )


def add_concepts(
    cb: CBSAE,
    concepts: Sequence[str],
    activations: ActivationStore,
    embeddings: Tensor,
    embed_texts: Callable[[list[str]], Tensor],
    *,
    config: CBSAETrainConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> CBSAE:
    """Extends a trained model by a few concepts; nothing that it had changes by a bit.

    Args:
        cb: The model, which stays as it is.
        concepts: Names that it does not have yet.
        activations: Activations of the model's encoder and layer.
        embeddings: The teacher's unit embeddings of their images, ``[images, e]``.
        embed_texts: Its unit embeddings of texts, ``[n, e]``.
        config: Default a ridge regression, and from there 300 steps of 2,048 tokens in which no concept neuron is
            drawn away from its concept.
        progress: Called with steps done and steps in all.
        stop: Called after every step; if it returns True, the model is returned as it is by then.

    Raises:
        ValueError: If a concept is empty or exists already, or the data does not fit.
    """
    require_fit(cb, activations, embeddings)
    config = config or CBSAETrainConfig(
        steps=300,
        batch_size=min(2048, len(activations)),
        lr=1e-3,
        start="ridge",
        unit_rows=True,
        reconstruction_moves_encoder=False,
    )
    wider = cb.with_concepts(concepts)
    state = BottleneckState(wider, config, embeddings, embed_texts(wider.concepts), first=len(cb.concepts))
    state.initialise(activations.labelled_batches(config.batch_size, config.seed, 0))
    epochs = (activations.labelled_batches(config.batch_size, config.seed, epoch) for epoch in itertools.count())
    for x, images in itertools.islice(itertools.chain.from_iterable(epochs), config.steps):
        state.update(x.to(wider.W_dec_cb.device), images)
        if progress:
            progress(state.step, config.steps)
        if stop():
            break
    logger.info("added %s in %d steps", ", ".join(concepts), state.step)
    return wider
