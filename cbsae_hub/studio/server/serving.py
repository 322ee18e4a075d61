"""The models that the page serves: those of an allow-list to everybody, an extended one to its maker."""

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cbsae_hub.studio.server.clip_experiments import ClipExperiments
from cbsae_hub.studio.server.experiments import Experiments
from cbsae_hub.studio.server.generators import Generators, Unavailable
from cbsae_hub.studio.server.groups import Groups
from cbsae_hub.studio.server.jobs import Jobs
from cbsae_hub.studio.server.memory import Memory
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.names import distinct_names
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.view.images import ImageStore

logger = logging.getLogger(__name__)

KEPT_OWN = 32  # models that visitors have extended


class Serving:
    """The models of the page, and the experiments with them.

    Attributes:
        models: The allow-list: names that the page uses, and folders or Hub ids.

    Args:
        models: Folders or Hub ids, each with a pack; the first is shown first.
        llava: Folder or Hub id of the LLaVA to steer, None for none.
        unclip: Folder or Hub id of the unCLIP to steer, None for none.

    Raises:
        OSError: If the first model or its pack is missing or damaged.
        ValueError: If no model was given, or one twice.
    """

    def __init__(self, models: Sequence[str | Path], llava: str | None = None, unclip: str | None = None):
        if not models:
            raise ValueError("give at least one model")
        self.models = dict(zip(distinct_names(models), map(str, models)))
        self.generators = Generators(llava, unclip)
        self.images, self.jobs = ImageStore(), Jobs()
        self.experiments, self.clip_experiments, self.groups = Experiments(self.of), ClipExperiments(), Groups()
        self._loaded: dict[str, LoadedModel] = {}
        self._own: Memory[LoadedModel] = Memory(KEPT_OWN)
        self._lock = threading.Lock()
        self.first = self.of(next(iter(self.models)))

    def of(self, key: Any) -> LoadedModel:
        """Returns the model of a key: of a name of the allow-list, or of a key that :meth:`keep_own` gave.

        Raises:
            Refused: If there is none, or it cannot be loaded.
            OSError: If it is the first, and it or its pack is missing or damaged.
        """
        if (own := self.own(key)) is not None:
            return own
        if not isinstance(key, str) or key not in self.models:
            raise Refused("This page does not have that model, or no longer. Reload the page: what else you see stays.")
        with self._lock:
            if key not in self._loaded:
                try:
                    self._loaded[key] = LoadedModel(self.models[key], self.generators, key)
                except (OSError, ValueError) as error:
                    if not self._loaded:  # the first one: without it there is no page
                        raise
                    logger.warning("%s cannot be served: %s", key, error)
                    raise Refused(f"{key} cannot be loaded here; the log of the page says why.") from error
            return self._loaded[key]

    def parent_of(self, model: LoadedModel) -> LoadedModel | None:
        """Returns the SAE that a CB-SAE was made of, if the page has it."""
        parent = getattr(model.sae, "parent", None)
        if not isinstance(parent, dict):
            return None
        for key, source in self.models.items():
            if Path(source).resolve().name == Path(str(parent.get("id"))).name:
                with suppress(Refused):
                    if self.of(key).sae.revision == parent["revision"]:
                        return self.of(key)
        return None

    def pruned_from(self, model: LoadedModel, neuron: int) -> list[str]:
        """Returns names of the page's CB-SAEs that were made of this SAE, but without this neuron."""
        names = []
        for key in self.models:
            with suppress(Refused):
                other = self.of(key)
                if self.parent_of(other) is model and neuron not in other.retained:
                    names.append(other.label)
        return names

    def keep_own(self, model: LoadedModel) -> LoadedModel:
        """Keeps a model that a visitor has extended under a key that only they get: its name, "~" and a secret."""
        model.key = f"{model.name}~{self._own.keep(model)}"
        return model

    def own(self, key: Any) -> LoadedModel | None:
        """Returns the model of a key that :meth:`keep_own` gave, if it is still there."""
        name, _, secret = str(key).rpartition("~")
        own = self._own.get(secret)
        return own if own is not None and own.name == name else None

    def warm_up(self) -> None:
        """Loads what the first model needs before anybody waits for it."""
        self.first.warm_up()
        for name in ("llava", "unclip", "clip"):
            with suppress(Unavailable):
                getattr(self.first, name)
