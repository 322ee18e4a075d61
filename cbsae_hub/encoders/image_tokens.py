"""The tokens of pictures inside a LLaVA, as a vision encoder gives its patches: for scores, packs and the page."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from cbsae_hub.encoders.families import tower_config
from cbsae_hub.encoders.language import IMAGE, Conversations, LanguageEncoder
from cbsae_hub.encoders.view import View
from cbsae_hub.encoders.vision import VisionEncoder


class _PictureReader(nn.Module):
    """A LLaVA that reads pictures with one question; ``config`` is that of its vision tower."""

    def __init__(self, encoder: LanguageEncoder):
        super().__init__()
        self.llava, self.config = encoder.model, tower_config(encoder.model.config)
        self._encoder = encoder
        white = Image.new("RGB", (64, 64), "white")
        self._one = encoder.prepare([white])

    @property
    def kinds(self) -> torch.Tensor:
        """The kind of each token of the conversation, ``[tokens]``."""
        return self._one.kinds[0]

    def forward(self, pixels: torch.Tensor) -> None:
        count, one = len(pixels), self._one
        self._encoder.run(
            Conversations(
                one.texts * count, one.ids.expand(count, -1), one.kinds.expand(count, -1), one.lengths * count, pixels,
                one.spans * count,
            )
        )  # fmt: skip


class ImageTokenEncoder(VisionEncoder):
    """The tokens of pictures at a block of a LLaVA's language model, or behind its projector.

    It has the methods of a :class:`VisionEncoder`, but no embedding of its own: neurons are named by pictures, and maps
    show where in a picture they fire (Olson et al. 2025, figure 7). Every picture is asked about in the same words.

    Args:
        encoder: The language encoder, whose tokens are "image".

    Raises:
        ValueError: If it reads other tokens.
    """

    def __init__(self, encoder: LanguageEncoder):
        if encoder.tokens != "image":
            raise ValueError(f"only tokens of pictures have a place in one; the encoder reads {encoder.tokens}")
        self.inner = encoder
        self.model: Any = _PictureReader(encoder)
        self.processor = encoder.processor.image_processor
        self.site, self.layer, self.num_layers = encoder.site, encoder.layer, encoder.num_layers
        self.repo_id, self.revision, self.d_in = encoder.repo_id, encoder.revision, encoder.d_in
        self.grid, self.tokens = encoder.grid, encoder.tokens
        places = (self.model.kinds == IMAGE).nonzero().flatten()
        first = 0 if encoder.tower == "projector" else int(places[0])
        self._span = slice(first, first + encoder.image_tokens)
        self._views: dict[tuple[int, int], View] = {}

    @property
    def num_tokens(self) -> int:
        """Number of tokens at the block: of the whole conversation; behind the projector those of the picture."""
        return self.inner.image_tokens if self.inner.tower == "projector" else len(self.model.kinds)

    @property
    def tokens_per_image(self) -> int:
        """Number of rows that an image gives."""
        return self.inner.image_tokens

    @property
    def patch_rows(self) -> slice:
        """The rows of an image that are patches, in the grid's order; what comes before them are registers."""
        return slice(self.inner.image_tokens - self.grid[0] * self.grid[1], None)

    def provenance(self) -> dict[str, Any]:
        """Description of the activations, for the config of an SAE that is trained on them."""
        return self.inner.provenance()

    def select(self, v: torch.Tensor, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Picks the tokens of the pictures: ``[images, all tokens, d_in] -> [images, tokens, d_in]``."""
        return v[:, self._span]

    def relevance(self, *_: Any, **__: Any) -> torch.Tensor:
        """Raises ValueError: the rule of relevancy maps is for the attention of a vision encoder."""
        raise ValueError(
            f"relevancy maps are of vision encoders; {self.repo_id or 'this model'} is read at its {self.inner.tower}. "
            "Patch maps show where its neurons fire"
        )

    def require_embedding(self) -> None:
        """Raises ValueError: a LLaVA has no embedding of a picture."""
        raise ValueError(f"{self.repo_id or 'this LLaVA'} has no image embedding")
