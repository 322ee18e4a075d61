"""What an address asks for when somebody arrives at it: by a link, by Back and Forward, or after a restart."""

from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from cbsae_hub.studio.links import PARTS, split_secret
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.view.pictures import MINE, ImageRefused, Pictures, from_data

NO_PICTURE = (
    "The picture of this link was uploaded: it is in the browser of whoever did that, and not part of the link. "
    "Choose one again."
)
NO_CONCEPTS = (
    "The concepts of this link were trained by a visitor, and are not part of it, or the page has forgotten them. "
    "Train them under Your concepts."
)


@dataclass
class Asked:
    """What a browser sends of an address; everything in it may be anything.

    Attributes:
        says: The parts of the address that are not as usual, as text.
        changed: The parts that differ from what the page shows.
        mine: What the visitor's browser keeps of their own, by what the address says for it.
        brought: Pictures of the visitor's own, by the attributes of a link.
    """

    says: dict[str, str]
    changed: set[str]
    mine: dict[str, Any]
    brought: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, event: gr.EventData) -> "Asked":
        """What an event of the page says, without what makes no sense."""
        says, changed, mine = (getattr(event, name, None) for name in ("says", "changed", "mine"))
        return cls(
            {str(key): text for key, text in says.items() if isinstance(text, str)} if isinstance(says, dict) else {},
            {key for key in changed if key in ("m", *PARTS)} if isinstance(changed, list) else set(),
            mine if isinstance(mine, dict) else {},
        )

    def model(self, serving: Serving) -> tuple[Loaded, list[str]]:
        """The model, and what is to be said of it.

        Raises:
            Forgotten: If it is one of the page's, but cannot be loaded.
        """
        name = self.says.get("m", serving.first.key)
        if name in serving.models:
            return serving.of(name), []
        public, token = split_secret(name)
        own = serving.own(self._kept(token).get("name"))
        if own is not None and own.name == public:
            return own, []
        if token and public in serving.models:
            return serving.of(public), [NO_CONCEPTS]
        return serving.first, ["This page does not have the model of this link."]

    def pictures(self, pictures: Pictures) -> tuple[dict[str, str], list[str]]:
        """Brings the visitor's own pictures back; what is to be said if that cannot be.

        Returns:
            For parts of the address that name such a picture, what to read instead, and sentences.
        """
        instead, said = {}, []
        for key in ("pic", "seen"):
            if not self.says.get(key, "").startswith(MINE):
                continue
            instead[key] = PARTS[key].default
            kept = self._kept(split_secret(self.says[key])[1])
            name = kept.get("name")
            try:
                if not (isinstance(name, str) and pictures.knows(name)):
                    if "data" not in kept:
                        raise ImageRefused(NO_PICTURE)
                    name = kept["name"] = pictures.keep(from_data(kept["data"]))
                self.brought[PARTS[key].name] = name
            except ImageRefused as error:
                said.append(str(error))
        return instead, list(dict.fromkeys(said))

    def _kept(self, token: str) -> dict[str, Any]:
        kept = self.mine.get(token)
        return kept if isinstance(kept, dict) else {}
