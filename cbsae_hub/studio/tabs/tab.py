"""The parts that all tabs have."""

from typing import Any

from gradio.components import Component

from cbsae_hub.studio.links import Link
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.session import SessionState


class Tab:
    """A tab of the page.

    Args:
        session: The state that the tabs share.

    Attributes:
        outputs: The components that :meth:`restore` sets.
        parts: The components that the address describes, by the address's keys.
    """

    outputs: list[Component]
    parts: dict[str, Component]

    def __init__(self, session: SessionState):
        self.session = session

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built, and sets the attributes."""
        raise NotImplementedError

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link.

        Args:
            model: The model of the link.
            link: The link.
            new: Whether the page has shown another model until now.
        """
        raise NotImplementedError
