"""Models that say what a neuron stands for when they see its masked top images: transformers, or behind an endpoint."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from transformers import AutoProcessor

from cbsae_hub.encoders.weights import load_complete
from cbsae_hub.hub.locate import locate
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.studies.judges import open_client

Explainer: TypeAlias = Callable[[Sequence[Image.Image]], str]
"""Says in words what images have in common."""


class ChatExplainer:
    """An image-text model behind an endpoint that speaks OpenAI's chat completion protocol; at temperature 0.

    Args:
        model: Its name at the endpoint, or a Hub id.
        base_url: See :class:`cbsae_hub.studies.judges.ChatJudge`.
        api_key: Likewise.
        prompt: The question about the images.
        max_new_tokens: Answers end there at the latest.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        prompt: str = ONE_WORD,
        max_new_tokens: int = 16,
    ):
        self.model, self.prompt, self.max_new_tokens = model, prompt, max_new_tokens
        self._client = open_client(base_url, api_key)

    def __call__(self, images: Sequence[Image.Image]) -> str:
        """The answer about some images, which are sent as PNG.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: If the endpoint refuses.
        """
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
        content: Any = [*pictures, {"type": "text", "text": self.prompt}]
        reply = self._client.chat_completion(
            [{"role": "user", "content": content}],
            model=self.model,
            temperature=0.0,
            max_tokens=self.max_new_tokens,
        )
        return str(reply.choices[0].message.content or "").strip()


class TransformersExplainer:
    """An image-text model of transformers; greedy.

    Args:
        model: The model, see ``AutoModelForImageTextToText``.
        processor: Its processor, which must have a chat template.
        prompt: The question about the images.
        max_new_tokens: Answers end there at the latest.

    Raises:
        ValueError: If the processor has no chat template.
    """

    def __init__(self, model: Any, processor: Any, prompt: str = ONE_WORD, max_new_tokens: int = 16):
        if getattr(processor, "chat_template", None) is None:
            raise ValueError("the explainer's processor has no chat template: take a model for conversations")
        self.model, self.processor = model.eval(), processor
        self.prompt, self.max_new_tokens = prompt, max_new_tokens

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str | Path,
        device: str | torch.device = "cpu",
        beside: str | Path | None = None,
        **options: Any,
    ) -> "TransformersExplainer":
        """Loads a model from a folder or the Hub: safetensors only, no remote code.

        Args:
            repo_id: Folder or Hub id.
            device: Device of the model.
            beside: A model folder next to which this one may lie, see :func:`cbsae_hub.models.resolve_id`.
            options: See the class.

        Raises:
            ValueError: If it is no such model.
            OSError: If there is no such model.
        """
        located = locate(repo_id, beside=beside)
        model = load_complete("AutoModelForImageTextToText", located.id, **located.pretrained, dtype="auto")
        processor = AutoProcessor.from_pretrained(**located.pretrained, backend="pil")
        return cls(model.to(device), processor, **options)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> str:
        """The answer about some images, without the question."""
        pictures: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": self.prompt}]}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = self.processor(text=text, images=list(images), return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)  # whole numbers stay what they are
        tokens = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        answer = tokens[0, inputs["input_ids"].shape[1] :]
        return self.processor.decode(answer, skip_special_tokens=True).strip()


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
