"""Trains the concepts of visitors: the images, what encoder, teacher and judge see in them, and the training."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.embeddings import all_embeddings, extract_embeddings
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.hub.files import sha256
from cbsae_hub.models import CBSAE
from cbsae_hub.scoring.extend_pack import extend_pack
from cbsae_hub.steering.tower import Stopped
from cbsae_hub.studio.server import downloads
from cbsae_hub.studio.server.generators import Unavailable
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.trainers.cbsae.trainer import add_concepts

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Report = Callable[[float, str], None]


@dataclass(frozen=True)
class TrainingData:
    """The images of one model, what its encoder sees in them, and the ``[images, d]`` of teacher and judge."""

    images: "Dataset"
    activations: ActivationStore
    teacher: ClipLike
    judge: ClipLike
    teacher_embeddings: torch.Tensor
    judge_embeddings: torch.Tensor


class ConceptTraining:
    """Adds concepts to models; the images are embedded once, when the first visitor needs it."""

    def __init__(self, serving: Serving):
        self.serving = serving
        self._data: dict[str, TrainingData] = {}
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def add(self, model: LoadedModel, concepts: list[str], report: Report, stop: Callable[[], bool]) -> LoadedModel:
        """Trains concept neurons, and keeps the extended model for the visitor who asked for it.

        Args:
            model: A model with a bottleneck.
            concepts: Names that it does not have.
            report: Called with the share of the work that is behind, and what is being done.
            stop: Called after every step; if it returns True, the concepts stay as they are by then.

        Raises:
            Stopped: If it is to stop before it has begun.
            Unavailable: If the model has no bottleneck, or its teacher, judge or pictures cannot be had here.
            ValueError: If a concept is empty or there already.
        """
        if not isinstance(model.sae, CBSAE):
            raise Unavailable("This SAE has no concept bottleneck: choose a CB-SAE at the top.")
        report(0.01, "waiting for the training of another visitor")
        # The queue lets one in after the other, but who has left may leave a training that ends soon.
        with self._one_at_a_time:
            if stop():
                raise Stopped
            return self._add(model, model.sae, concepts, report, stop)

    def _add(
        self, model: LoadedModel, cb: CBSAE, concepts: list[str], report: Report, stop: Callable[[], bool]
    ) -> LoadedModel:
        report(0.02, "looking at the pictures, once for all visitors: about half a minute")
        data = self._data_of(model, cb)
        extended = add_concepts(
            cb, concepts, data.activations, data.teacher_embeddings, data.teacher.embed_texts,
            progress=lambda step, steps: report(0.1 + 0.75 * step / steps, f"training, step {step} of {steps}"),
            stop=stop,
        )  # fmt: skip
        extended.sae = cb.sae  # frozen, and large: one for all
        report(0.87, "finding out what the new neurons fire on")
        column = "caption" if "caption" in data.images.column_names else None
        pack = extend_pack(
            model.pack, extended, data.activations, data.images, model.encoder, data.judge_embeddings,
            data.judge.embed_texts, column,
        )  # fmt: skip
        return self.serving.keep_own(model.extended(extended, pack))

    def _data_of(self, model: LoadedModel, cb: CBSAE) -> TrainingData:
        with self._lock:
            if model.model_id not in self._data:
                self._data[model.model_id] = self._prepare(model, cb)
            return self._data[model.model_id]

    def _prepare(self, model: LoadedModel, cb: CBSAE) -> TrainingData:
        facts, source, judge = cb.teacher, model.pack.info["images"], model.judge
        if not isinstance(facts, dict) or judge is None:
            raise Unavailable("The teacher or the judge of this model is not known here.")
        try:
            teacher = ClipLike.from_pretrained(facts["id"], facts.get("revision"), beside=model.model_id)
            images = load_images(source["id"], source["split"].split("+")[0], beside=model.model_id)
        except (OSError, ValueError) as error:
            logger.warning("no concepts can be added: %s", error)
            raise Unavailable("The pictures or the teacher of this model cannot be had here.") from error
        folder = downloads.folder() / f"workshop-{sha256(model.name)}"
        origin = {"id": source["id"]}
        return TrainingData(
            images,
            extract_activations(model.encoder, images, folder / "activations", source=origin),
            teacher,
            judge,
            all_embeddings(extract_embeddings(teacher, images, folder / "taught", source=origin)).float(),
            all_embeddings(extract_embeddings(judge, images, folder / "judged", source=origin)).float(),
        )
