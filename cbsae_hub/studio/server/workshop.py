"""Where visitors' concepts are made: pictures, what encoder, teacher and judge see in them, and the training."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.embeddings import all_embeddings, extract_embeddings
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.models import CBSAE
from cbsae_hub.scoring.extend_pack import extend_pack
from cbsae_hub.steering.tower import Stopped
from cbsae_hub.studio.server import downloads
from cbsae_hub.studio.server.generators import Unavailable
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.trainers.cbsae.trainer import add_concepts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What training takes, of one model's pictures; the same for all visitors."""

    images: Any
    activations: ActivationStore
    teacher: ClipLike
    taught: torch.Tensor
    judged: torch.Tensor


class Workshop:
    """Adds concepts to models; the pictures are looked at once, when the first visitor needs it.

    Args:
        serving: The models.
    """

    def __init__(self, serving: Serving):
        self.serving = serving
        self._prepared: dict[str, Prepared] = {}
        self._lock = threading.Lock()
        self._bench = threading.Lock()

    def add(
        self, loaded: Loaded, concepts: list[str], told: Callable[[float, str], None], stop: Callable[[], bool]
    ) -> Loaded:
        """Trains concept neurons, and keeps the extended model for the visitor who asked for it.

        Args:
            loaded: A model with a bottleneck.
            concepts: Names that it does not have.
            told: Called with a share of the work and what is being done.
            stop: Asked after every step; if it says so, what is trained by then is kept.

        Raises:
            Stopped: If it is to stop before it has begun.
            Unavailable: If the model has no bottleneck, or its teacher, judge or pictures cannot be had here.
            ValueError: If a concept is empty or there already.
        """
        if not isinstance(loaded.sae, CBSAE):
            raise Unavailable("This SAE has no concept bottleneck: choose a CB-SAE at the top.")
        told(0.01, "waiting for the training of another visitor")
        with self._bench:  # the queue lets one in after the other, but who has left may leave a training that ends soon
            if stop():
                raise Stopped
            return self._add(loaded, concepts, told, stop)

    def _add(
        self, loaded: Loaded, concepts: list[str], told: Callable[[float, str], None], stop: Callable[[], bool]
    ) -> Loaded:
        told(0.02, "looking at the pictures, once for all visitors: about half a minute")
        prepared = self._prepare(loaded)
        trained = add_concepts(
            loaded.sae, concepts, prepared.activations, prepared.taught, prepared.teacher.embed_texts,
            progress=lambda step, steps: told(0.1 + 0.75 * step / steps, f"training, step {step} of {steps}"),
            stop=stop,
        )  # fmt: skip
        trained.sae = loaded.sae.sae  # frozen, and large: one for all
        told(0.87, "finding out what the new neurons fire on")
        column = "caption" if "caption" in prepared.images.column_names else None
        pack = extend_pack(
            loaded.pack, trained, prepared.activations, prepared.images, prepared.judged, loaded.judge.embed_texts,
            column,
        )  # fmt: skip
        return self.serving.keep_own(loaded.extended(trained, pack))

    def _prepare(self, loaded: Loaded) -> Prepared:
        with self._lock:
            if loaded.model_id not in self._prepared:
                self._prepared[loaded.model_id] = self._look(loaded)
            return self._prepared[loaded.model_id]

    def _look(self, loaded: Loaded) -> Prepared:
        facts, source = loaded.sae.teacher, loaded.pack.info["images"]
        if not isinstance(facts, dict) or loaded.judge is None:
            raise Unavailable("The teacher or the judge of this model is not known here.")
        try:
            teacher = ClipLike.from_pretrained(facts["id"], facts.get("revision"), beside=loaded.model_id)
            images = load_images(source["id"], source["split"].split("+")[0], beside=loaded.model_id)
        except (OSError, ValueError) as error:
            logger.warning("no concepts can be added: %s", error)
            raise Unavailable("The pictures or the teacher of this model cannot be had here.") from error
        folder = downloads.folder() / f"workshop-{loaded.name.replace('/', '--')}"
        about = {"id": source["id"]}
        return Prepared(
            images,
            extract_activations(loaded.encoder, images, folder / "activations", source=about),
            teacher,
            all_embeddings(extract_embeddings(teacher, images, folder / "taught", source=about)).float(),
            all_embeddings(extract_embeddings(loaded.judge, images, folder / "judged", source=about)).float(),
        )
