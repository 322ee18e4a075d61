"""Reads the address that a browser sends: by a link, by Back and Forward, or after a restart."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from cbsae_hub.studio.links import PARTS, split_secret
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.view.images import MINE, ImageStore, from_data

NO_IMAGE = (
    "The picture of this link was uploaded: it is in the browser of whoever did that, and not part of the link. "
    "Choose one again."
)
NO_CONCEPTS = (
    "The concepts of this link were trained by a visitor, and are not part of it, or the page has forgotten them. "
    "Train them under Your concepts."
)


@dataclass
class AddressRequest:
    """An address as a browser sends it; everything in it may be anything.

    Attributes:
        texts: The parts of the address that are not as usual, as text.
        keys: Keys of the parts that differ from what the page shows.
        mine: Things of the visitor's own that their browser keeps, by their tokens in the address.
    """

    texts: dict[str, str]
    keys: set[str]
    mine: dict[str, Any]

    @classmethod
    def of(cls, event: gr.EventData) -> "AddressRequest":
        """Returns the request of an event of the page, without what makes no sense."""
        texts, keys, mine = (getattr(event, name, None) for name in ("says", "changed", "mine"))
        return cls(
            {str(key): text for key, text in texts.items() if isinstance(text, str)} if isinstance(texts, dict) else {},
            {key for key in keys if key in ("m", *PARTS)} if isinstance(keys, list) else set(),
            mine if isinstance(mine, dict) else {},
        )

    def model(self, serving: Serving) -> tuple[LoadedModel, list[str]]:
        """Returns the model, and messages about it; raises Refused if one of the page's cannot be loaded."""
        name = self.texts.get("m", serving.first.key)
        if name in serving.models:
            return serving.of(name), []
        public, token = split_secret(name)
        own = serving.own(self._thing(token).get("name"))
        if own is not None and own.name == public:
            return own, []
        if token and public in serving.models:
            return serving.of(public), [NO_CONCEPTS]
        return serving.first, ["This page does not have the model of this link."]

    def images(self, images: ImageStore) -> tuple[dict[str, str], dict[str, Any], list[str]]:
        """Brings the visitor's own images back.

        Returns:
            For parts of the address that name such an image, the text to read instead; the names of the images, by
            the attributes of a link; and messages about images that cannot be brought back.
        """
        texts: dict[str, str] = {}
        names: dict[str, Any] = {}
        messages: list[str] = []
        for key in ("pic", "seen"):
            if not self.texts.get(key, "").startswith(MINE):
                continue
            texts[key] = PARTS[key].default
            thing = self._thing(split_secret(self.texts[key])[1])
            name = thing.get("name")
            try:
                if not (isinstance(name, str) and images.has(name)):
                    if "data" not in thing:
                        raise Refused(NO_IMAGE)
                    name = thing["name"] = images.keep(from_data(thing["data"]))
                names[PARTS[key].name] = name
            except Refused as refusal:
                messages.append(str(refusal))
        return texts, names, list(dict.fromkeys(messages))

    def _thing(self, token: str) -> dict[str, Any]:
        thing = self.mine.get(token)
        return thing if isinstance(thing, dict) else {}
