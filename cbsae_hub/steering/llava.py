"""LLaVA says what it sees after a change of latents in its vision tower."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)

from cbsae_hub.encoders.conversations import conversation
from cbsae_hub.encoders.families import tower_config
from cbsae_hub.encoders.vision import preprocess, require_images
from cbsae_hub.encoders.weights import load_complete
from cbsae_hub.hub.locate import Located
from cbsae_hub.steering.base import SteeredGenerator
from cbsae_hub.steering.edits import PerImage
from cbsae_hub.steering.latents import SteerableSAE
from cbsae_hub.steering.llava_original import TEXT_CONFIGS, load_original
from cbsae_hub.steering.loading import default_dtype
from cbsae_hub.steering.neurons import AnyPack
from cbsae_hub.steering.tower import Stopped


class LlavaSteerer(SteeredGenerator):
    """A LLaVA with an SAE at a block of its vision tower.

    ``from_pretrained`` takes for instance "llava-hf/llava-1.5-7b-hf", or a checkpoint of the original code base, see
    :func:`cbsae_hub.steering.llava_original.load_original`.

    Args:
        model: The LLaVA.
        processor: Its processor.
        sae: See :class:`cbsae_hub.steering.Steerer`.
        pack: Likewise.
        layer: The block at whose output the SAE works. Default the SAE's own, which must then be the block that LLaVA
            reads (``vision_feature_layer`` of its config); an earlier one has to be asked for.

    Raises:
        ValueError: If the SAE does not fit: width, or a block after the one that LLaVA reads.
    """

    what, index = "LLaVA", "config.json"

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        sae: SteerableSAE,
        pack: AnyPack = None,
        layer: int | None = None,
    ):
        self.model, self.processor = model.eval().requires_grad_(False), processor
        self._block_read = block_read(model.config)
        super().__init__(model, tower_config(model.config), sae, pack, layer)

    def _place(self, sae: SteerableSAE, pack: AnyPack, layer: int | None) -> None:
        read = self._block_read
        super()._place(sae, pack, read if layer is None and getattr(sae, "layer", None) is None else layer)
        if self.tower.layer > read or (self.tower.layer < read and layer is None):
            raise ValueError(
                f"this LLaVA reads block {read} of its vision tower (vision_feature_layer="
                f"{self.model.config.vision_feature_layer}), the SAE works at block {self.tower.layer}: "
                + ("what happens there has no effect" if self.tower.layer > read else "give layer= to steer there")
            )

    @classmethod
    def _load(cls, located: Located, device: torch.device, dtype: torch.dtype | None) -> dict[str, Any]:
        source = located.pretrained
        kind = PreTrainedConfig.get_config_dict(**source)[0].get("model_type")
        if kind in TEXT_CONFIGS:  # Gemma2 does not bear float16: the checkpoint's own dtype, but on a CPU
            own = torch.float32 if device.type == "cpu" else None
            model, processor = load_original(source, dtype=dtype or own)
        elif kind == "llava":
            dtype = dtype or default_dtype(device)
            model = load_complete("LlavaForConditionalGeneration", located.id, **source, dtype=dtype)
            processor = AutoProcessor.from_pretrained(**source, backend="pil")
        else:
            raise ValueError(f"{located.id} is a model of type {kind!r}, not LLaVA")
        # mypy: transformers wraps `to` in a class that is no method
        return {"model": model.to(device), "processor": processor}  # type: ignore[arg-type]

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image], steering: PerImage = None) -> Tensor:
        """The language model's input for images: ``[images, image tokens, d_text]``, one batch.

        Raises:
            ValueError: See :func:`cbsae_hub.steering.apply`.
            EditError: If a steering leaves the features of its image as they were.
        """
        return self._read(images, self._resolved(steering, len(images)))

    @torch.no_grad()
    def features_of(self, v: Tensor) -> Tensor:
        """The :meth:`image_features` that activations at the SAE's block lead to.

        Args:
            v: ``[images, tokens, d]``. If its tokens are one vector expanded, that is projected once.
        """
        tokens, once = v.shape[1], v.stride(1) == 0 and self.tower.layer == self._block_read
        v = self.tower.onward(v[:, :1] if once else v, self._block_read)
        cut = int(self.model.config.vision_feature_select_strategy == "default")  # the class token
        features = self.model.model.multi_modal_projector((v if once else v[:, cut:]).to(self.model.dtype))
        return features.expand(-1, tokens - cut, -1) if once else features

    def generate(
        self,
        images: Sequence[Image.Image],
        prompt: str | Sequence[str],
        steering: PerImage = None,
        max_new_tokens: int = 32,
        batch: int = 16,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[str]:
        """Answers to a prompt about each image.

        Args:
            images: PIL images of any mode.
            prompt: The user's words, one for all images or one per image; the conversation format and the image
                token are put around it.
            steering: One for all images or one per image; None steers nothing.
            max_new_tokens: Answers end there at the latest.
            batch: Images at once.
            temperature: 0 takes the most probable token each time, more samples.
            seeds: One per image, for sampling. An answer depends on its own seed alone.
            stop: Called after every token; once it is true, nothing more is computed.

        Returns:
            One answer per image, without the prompt.

        Raises:
            Stopped: If ``stop`` was true.
            ValueError: If there are no images; numbers of prompts, steerings or seeds are not that of the images;
                temperature and seeds do not go together; or see :func:`cbsae_hub.steering.apply`.
            EditError: If a steering leaves the features of its image as they were.
        """
        require_images(images)
        prompts = [prompt] * len(images) if isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(images):
            raise ValueError(f"there are {len(prompts)} prompts for {len(images)} images: give one for all or one each")
        if (temperature > 0) != (seeds is not None) or seeds is not None and len(seeds) != len(images):
            raise ValueError("sampling takes a temperature above 0 and one seed per image; greedy answers take neither")
        answers: list[str] = []
        for part, features in self._batches(images, steering, batch):
            part_seeds = None if seeds is None else seeds[part]
            answers += self.answer(features, prompts[part], max_new_tokens, temperature, part_seeds, stop)
        return answers

    @torch.no_grad()
    def answer(
        self,
        features: Tensor,
        prompts: Sequence[str],
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[str]:
        """Answers to prompts about images with these features; arguments as :meth:`generate`, one batch.

        Args:
            features: See :meth:`image_features`.
            prompts: One per image.
            max_new_tokens: Answers end there at the latest.
            temperature: 0 is greedy.
            seeds: One per image if the temperature is above 0.
            stop: See :meth:`generate`.

        Raises:
            Stopped: If ``stop`` was true.
        """
        embeddings, attention_mask = self._embed(features, prompts)
        noise = [] if seeds is None else [_GumbelNoise(temperature, seeds)]
        stopping = [] if stop is None else [_StopWhen(stop)]
        tokens = self.model.generate(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList(noise),
            stopping_criteria=StoppingCriteriaList(stopping),
        )
        if any(criterion.stopped for criterion in stopping):
            raise Stopped("the answer is no longer wanted")
        return [text.strip() for text in self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    @torch.no_grad()
    def probability(self, features: Tensor, prompt: str, answer: str) -> Tensor:
        """The probability that an answer begins with a text, one batch.

        Args:
            features: ``[images, image tokens, d_text]``, see :meth:`image_features`.
            prompt: The question.
            answer: A word or a text that an answer may begin with.

        Returns:
            ``[images]``: the product of the probabilities of the text's tokens, each given those before it.

        Raises:
            ValueError: If the text is empty or holds the image token, or see :meth:`prompt_ids`.
        """
        before, where = self.prompt_ids(prompt, features.shape[1])
        whole = self._with_places(prompt, features.shape[1]) + " " + answer.strip()
        ids = self.processor.tokenizer(whole, return_tensors="pt").input_ids[0].to(before.device)
        rest = ids[len(before) :]
        fits = len(rest) and ids[: len(before)].equal(before) and answer.strip()
        if not fits or (rest == self.model.config.image_token_id).any():
            raise ValueError(f"{answer!r:.80} is no text that an answer can begin with")
        embeddings = self.model.get_input_embeddings()(ids).expand(len(features), -1, -1).clone()
        embeddings[:, where] = features.to(embeddings)
        hidden = self.model.model.language_model(inputs_embeds=embeddings).last_hidden_state
        logits = self.model.lm_head(hidden[:, len(before) - 1 : -1]).float()
        picked = rest.expand(len(features), -1)[..., None]
        return logits.log_softmax(-1).gather(-1, picked)[..., 0].sum(-1).exp()

    def conversation(self, prompt: str) -> str:
        """A prompt in the conversation format of the model, with the image token in place."""
        return conversation(self.processor, prompt)

    def prompt_ids(self, prompt: str, image_tokens: int) -> tuple[Tensor, slice]:
        """Token ids ``[length]`` of a conversation about one image, and where in it the image is.

        Raises:
            ValueError: If the prompt holds the image token, or the tokenizer cut some off.
        """
        text = self._with_places(prompt, image_tokens)
        ids = self.processor.tokenizer(text, return_tensors="pt").input_ids[0].to(self.model.device)
        places = (ids == self.model.config.image_token_id).nonzero().flatten()
        if len(places) != image_tokens:
            raise ValueError(f"the prompt {prompt!r:.80} holds {len(places)} image tokens instead of {image_tokens}")
        return ids, slice(int(places[0]), int(places[-1]) + 1)

    def _with_places(self, prompt: str, image_tokens: int) -> str:
        """A conversation with as many image tokens as an image has."""
        image = self.processor.image_token
        return self.conversation(prompt).replace(image, image * image_tokens)

    def _see(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = preprocess(self.processor.image_processor, images).to(self.model.device, self.model.dtype)
        return torch.stack(list(self.model.get_image_features(pixel_values=pixels).pooler_output))

    def _embed(self, features: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings of conversations with image features in their places, padded on the left, and their mask."""
        texts = [self._with_places(prompt, features.shape[1]) for prompt in prompts]
        inputs = self.processor.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        ids = inputs.input_ids.to(self.model.device)
        embeddings = self.model.get_input_embeddings()(ids)
        places = (ids == self.model.config.image_token_id)[..., None].expand_as(embeddings)
        if int(places.sum()) != features.numel():
            raise ValueError(
                f"prompts with their {features.shape[1]} image tokens each hold {int(places[..., 0].sum())} of them: "
                "the prompt must not contain the image token, nor the tokenizer cut it off"
            )
        return embeddings.masked_scatter(places, features.to(embeddings)), inputs.attention_mask.to(self.model.device)


class _StopWhen(StoppingCriteria):
    """Ends all answers once a function is true."""

    def __init__(self, stop: Callable[[], bool]):
        self._stop, self.stopped = stop, False

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.stopped = self.stopped or self._stop()
        return torch.full((len(input_ids),), self.stopped, device=input_ids.device)


class _GumbelNoise(LogitsProcessor):
    """Makes the most probable token a sample of ``softmax(logits / temperature)``, with a generator per row.

    torch's own sampling draws from one generator of the process, so that an answer would depend on its batch and on
    other threads.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]):
        self._temperature = temperature
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.stack([torch.rand(scores.shape[1], generator=one) for one in self._generators])
        gumbel = -torch.log(-torch.log(uniform.clamp_min(torch.finfo(uniform.dtype).tiny)))
        return scores / self._temperature + gumbel.to(scores)


def block_read(config: LlavaConfig) -> int:
    """The block, from 0, whose output a LLaVA reads.

    ``vision_feature_layer`` counts hidden states, of which the first is the input of block 0.

    Raises:
        ValueError: If it reads several blocks, or none.
    """
    read, blocks = config.vision_feature_layer, tower_config(config).num_hidden_layers
    if isinstance(read, list) and len(read) == 1:
        (read,) = read
    if not isinstance(read, int):
        raise ValueError(f"this LLaVA reads several hidden states {read}; steering of one block is what is known here")
    state = read if read >= 0 else blocks + 1 + read
    if not 1 <= state <= blocks:
        raise ValueError(f"vision_feature_layer={read} is not the output of one of {blocks} blocks")
    return state - 1
