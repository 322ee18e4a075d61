"""Zero-shot classification by an explained encoder: its own text tower names the classes."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer

from cbsae_hub.models.fetch import find_model

TEXT_TOWERS = ("clip", "siglip")


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
    @torch.no_grad()
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
            ValueError: If there are no classes, the encoder has no text tower, or it is of another revision.
        """
        if not classes:
            raise ValueError("there are no classes to choose from")
        source, revision = find_model(encoder_id, revision, beside)
        pinned = {} if Path(source).is_dir() else {"revision": revision}
        kind = AutoConfig.from_pretrained(source, **pinned).model_type
        if kind not in TEXT_TOWERS:
            raise ValueError(f"{encoder_id} is of type {kind}, without a text tower: it cannot classify by names")
        model = AutoModel.from_pretrained(source, use_safetensors=True, **pinned).eval()
        tokenizer = AutoTokenizer.from_pretrained(source, **pinned)
        padding = "max_length" if kind == "siglip" else True  # as each was trained
        total = 0
        for template in templates:
            parts = []
            for start in range(0, len(classes), batch_size):
                texts = [template.format(name) for name in classes[start : start + batch_size]]
                ids = tokenizer(texts, padding=padding, truncation=True, return_tensors="pt")
                parts.append(F.normalize(model.get_text_features(**ids).pooler_output.float(), dim=-1))
            total = total + torch.cat(parts)
        return cls(classes, F.normalize(total, dim=-1), float(model.logit_scale.exp()))

    def __call__(self, image_embeddings: torch.Tensor) -> torch.Tensor:
        """Logits ``[images, classes]`` of unit embeddings ``[images, d]``."""
        return self.logit_scale * image_embeddings @ self.weights.to(image_embeddings.device).T
