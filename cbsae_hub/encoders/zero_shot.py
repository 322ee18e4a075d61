"""Zero-shot classification by an explained encoder: its own text tower names the classes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer

from cbsae_hub.encoders.prompts import embed_prompts
from cbsae_hub.encoders.two_towers import TEXT_TOWERS
from cbsae_hub.encoders.weights import load_complete
from cbsae_hub.hub.locate import locate


class ZeroShotHead:
    """Logits of classes for image embeddings.

    Attributes:
        classes: Their names.
        weights: ``[classes, d]``, unit.
        logit_scale: Inverse temperature of the model's softmax.
    """

    def __init__(self, classes: Sequence[str], weights: torch.Tensor, logit_scale: float):
        self.classes, self.weights, self.logit_scale = list(classes), weights, logit_scale

    @classmethod
    def from_pretrained(
        cls,
        encoder_id: str | Path,
        classes: Sequence[str],
        templates: Sequence[str] = ("{}",),
        revision: str | None = None,
        beside: str | Path | None = None,
        batch_size: int = 256,
    ) -> "ZeroShotHead":
        """Embeds the classes with the text tower that lies beside an encoder.

        Args:
            encoder_id: Folder or Hub id of a whole CLIP or SigLIP.
            classes: Their names.
            templates: Prompts with one ``{}``; their unit embeddings are averaged and made unit again.
            revision: See :meth:`cbsae_hub.VisionEncoder.from_pretrained`.
            beside: A model folder next to which the encoder may lie, see :func:`cbsae_hub.models.resolve_id`.
            batch_size: Prompts at once.

        Raises:
            ValueError: If there are no classes, the encoder has no text tower or lacks weights, it is of another
                revision, or a template has no ``{}``.
        """
        if not classes:
            raise ValueError("there are no classes to choose from")
        pretrained = locate(encoder_id, revision, beside).pretrained
        kind = AutoConfig.from_pretrained(**pretrained).model_type
        if kind not in TEXT_TOWERS:
            raise ValueError(f"{encoder_id} is of type {kind}, without a text tower: it cannot classify by names")
        model = load_complete(TEXT_TOWERS[kind], encoder_id, **pretrained).eval()
        tokenizer = AutoTokenizer.from_pretrained(**pretrained)
        weights = embed_prompts(model, tokenizer, classes, templates, str(encoder_id), batch_size)
        return cls(classes, weights, model.logit_scale.exp().item())

    def __call__(self, image_embeddings: torch.Tensor) -> torch.Tensor:
        """Logits ``[images, classes]`` of unit embeddings ``[images, d]``."""
        return self.logit_scale * image_embeddings @ self.weights.to(image_embeddings.device).T
