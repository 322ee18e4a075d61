"""CLIP's distribution over a vocabulary before and after latents of its vision tower were changed.

After "Steering CLIP's vision transformer with sparse autoencoders", section 6.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoTokenizer, BaseImageProcessor, CLIPModel, PreTrainedTokenizerBase

from cbsae_hub.encoders.families import tower_config
from cbsae_hub.encoders.prompts import embed_prompts
from cbsae_hub.encoders.vision import preprocess
from cbsae_hub.encoders.weights import load_complete
from cbsae_hub.metrics.zero_shot_steering import Effect, ZeroShotScores, joined, score_neurons
from cbsae_hub.steering.base import Steerer
from cbsae_hub.steering.edits import PerImage
from cbsae_hub.steering.latents import Latents, SteerableSAE, decoder_rows, read_latents, weight_dtype
from cbsae_hub.steering.loading import load_sae, locate_whole
from cbsae_hub.steering.neurons import AnyPack

STRENGTHS = (0.0, 10.0, 25.0, 50.0, 100.0, 150.0)  # 150 is the paper's asymptote


class ClipZeroShotSteerer(Steerer):
    """A CLIP with an SAE at a block of its vision tower, and a vocabulary that it finds in images.

    Activations at the SAE's block are computed once per image; steered ones run through the remaining blocks only.

    Args:
        model: The CLIP.
        image_processor: Its image processor.
        tokenizer: Its tokenizer.
        sae: SAE, concept bottleneck SAE or :class:`cbsae_hub.steering.latents.RawNeurons`; moved to the model's device.
        vocabulary: The words, for instance a :class:`cbsae_hub.ConceptSet`. The paper has 5,000.
        pack: See :class:`cbsae_hub.steering.Steerer`.
        layer: Likewise.
        template: Prompt with ``{}`` for the word.

    Attributes:
        vocabulary: The words.
        texts: Their unit embeddings, ``[vocabulary, d]``.

    Raises:
        ValueError: If the SAE does not fit, the vocabulary is empty or the template has no ``{}``.
    """

    def __init__(
        self,
        model: CLIPModel,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        sae: SteerableSAE,
        vocabulary: Sequence[str],
        pack: AnyPack = None,
        layer: int | None = None,
        template: str = "{}",
    ):
        self.model = model.eval().requires_grad_(False)
        self.image_processor, self.tokenizer = image_processor, tokenizer
        super().__init__(model, tower_config(model.config), sae, pack, layer)
        self.vocabulary = tuple(vocabulary)
        if not self.vocabulary or "{}" not in template:
            raise ValueError("the vocabulary needs words, and the template one {} for the word")
        self._template = template
        self.texts = self.embed_words(self.vocabulary)
        self.logit_scale = float(model.logit_scale.exp())

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str | Path,
        sae: SteerableSAE | str | Path,
        vocabulary: Sequence[str],
        pack: AnyPack = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        layer: int | None = None,
        template: str = "{}",
        beside: str | Path | None = None,
    ) -> "ClipZeroShotSteerer":
        """Loads a CLIP of transformers from a folder or the Hub: safetensors only, no remote code.

        Args:
            repo_id: Folder or Hub id.
            sae: An SAE, or its folder or Hub id.
            vocabulary: See the class.
            pack: See the class.
            device: Device of the model and the SAE.
            dtype: Data type of the model.
            revision: Branch, tag or commit of a Hub repository; of a folder its ``sha256:...``, which is checked.
            layer: See the class.
            template: See the class.
            beside: A model folder next to which CLIP may lie, see :func:`cbsae_hub.models.resolve_id`.

        Raises:
            OSError: If there is no such model; says what to try.
            ValueError: See the class.
        """
        located = locate_whole("CLIP", repo_id, "config.json", revision, beside)
        source = located.pretrained
        model = load_complete("CLIPModel", repo_id, **source, dtype=dtype)
        image_processor = AutoImageProcessor.from_pretrained(**source, backend="pil")
        tokenizer = AutoTokenizer.from_pretrained(**source)
        steerer = cls(model.to(device), image_processor, tokenizer, load_sae(sae), vocabulary, pack, layer, template)
        steerer.repo_id, steerer._located = str(repo_id), located
        return steerer

    def with_word(self, word: str) -> "ClipZeroShotSteerer":
        """The same with one more word at the end of the vocabulary, unless it is there."""
        if word in self.vocabulary:
            return self
        other = copy.copy(self)
        other.vocabulary = (*self.vocabulary, word)
        other.texts = torch.cat([self.texts, self.embed_words([word])])
        return other

    def embed_words(self, words: Sequence[str]) -> Tensor:
        """Unit embeddings of words in the template, ``[words, e]``."""
        model = self.model
        return embed_prompts(model, self.tokenizer, words, [self._template], model.config.name_or_path or None)

    @torch.no_grad()
    def activations(self, images: Sequence[Image.Image], batch: int = 64) -> Tensor:
        """Activations at the SAE's block, ``[images, tokens, d]``, on the model's device.

        Raises:
            ValueError: If there are no images.
        """
        if not len(images):
            raise ValueError("no images were given")
        read = super().activations
        return torch.cat([read(images[start : start + batch]) for start in range(0, len(images), batch)])

    def readable(self, images: Sequence[Image.Image], batch: int = 64) -> Tensor:
        """Activations at the SAE's block of the tokens that reach the embedding: after the last block CLS alone.

        Args:
            images: PIL images.
            batch: Images at once.

        Returns:
            ``[images, tokens, d]``, which :meth:`embed` takes.

        Raises:
            ValueError: If there are no images.
        """
        v = self.activations(images, batch)
        last = self.model.config.vision_config.num_hidden_layers - 1
        return v[:, :1] if self.tower.layer == last else v

    @torch.no_grad()
    def embed(self, v: Tensor, batch: int = 64) -> Tensor:
        """Unit image embeddings of activations at the SAE's block: ``[images, tokens, d] -> [images, e]``."""
        return torch.cat([self.embed_stream(self.tower.onward(part)) for part in v.split(batch)])

    def embed_stream(self, v: Tensor) -> Tensor:
        """Unit image embeddings of what the last block puts out: ``[images, tokens, d] -> [images, e]``."""
        return self._head(self.model.vision_model.post_layernorm(v[:, 0]))

    def distribution(self, embeddings: Tensor) -> Tensor:
        """Probabilities of the words: unit embeddings ``[..., e] -> [..., vocabulary]`` float32."""
        return (self.logit_scale * embeddings.float() @ self.texts.T).softmax(-1)

    @torch.no_grad()
    def effect(self, images: Sequence[Image.Image], steering: PerImage, batch: int = 64) -> Effect:
        """The distributions of images before and after steering.

        Args:
            images: PIL images.
            steering: One for all images or one per image.
            batch: Images at once.

        Raises:
            ValueError: See :func:`cbsae_hub.steering.apply`.
            EditError: If a steering leaves the embedding of its image as it was.
        """
        return self.effect_from(self.activations(images, batch), steering, batch)

    @torch.no_grad()
    def effect_from(self, v: Tensor, steering: PerImage, batch: int = 64) -> Effect:
        """:meth:`effect` of activations at the SAE's block, ``[images, tokens, d]``: only the blocks after it run."""
        steerings = self._resolved(steering, len(v))
        parts = [slice(start, start + batch) for start in range(0, len(v), batch)]
        steered = [self.tower.steer(steerings[part], v[part]) for part in parts]
        before, after = self.embed(v, batch), self.embed(torch.cat([part.activations for part in steered]), batch)
        self.tower.require_effect(before, after, torch.cat([part.changes.any(-1) for part in steered]), steerings)
        return Effect(self.distribution(before), self.distribution(after))

    @torch.no_grad()
    def scores(
        self,
        images: Sequence[Image.Image],
        neurons: Sequence[int] | None = None,
        strength: float = 150.0,
        batch: int = 256,
    ) -> ZeroShotScores:
        """Scores of neurons, each set to ``strength`` on all tokens with the SAE's error kept.

        ``x + (strength - z_j) d_j`` for a neuron j with latent z_j and decoder row d_j. If no block follows, CLS alone
        is steered, as nothing else reaches the embedding.

        Args:
            images: PIL images.
            neurons: Numbers of the neurons; default all.
            strength: Value to which their latents are set.
            batch: Steered images at once.

        Raises:
            ValueError: If there are no images or a neuron does not exist.
        """
        return self._scores(self.readable(images, batch), self._numbers(neurons), strength, batch)

    @torch.no_grad()
    def asymptote(
        self, images: Sequence[Image.Image], neurons: Sequence[int] | None = None, batch: int = 256
    ) -> ZeroShotScores:
        """The limit of :meth:`scores` as the strength grows, exactly and without running a block.

        Every block adds to the residual stream something that depends on the stream's direction alone, so it is bounded
        and loses against ``strength * d_j``: the embedding tends to that of ``d_j``, whatever the image.

        Args:
            images: PIL images, for the distributions before steering.
            neurons: Numbers of the neurons; default all.
            batch: Neurons, or images, at once.
        """
        before = self.distribution(self.embed(self.readable(images, batch), batch))
        norm = self.model.vision_model.post_layernorm
        parts = []
        for chunk in self._numbers(neurons).split(batch):
            rows = decoder_rows(self.tower.sae, chunk).float()
            # a LayerNorm of an infinite multiple: its epsilon vanishes
            centred = rows - rows.mean(-1, keepdim=True)
            deviation = centred.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-30)
            infinite = centred / deviation * norm.weight + norm.bias
            after = self.distribution(self._head(infinite.to(self.model.dtype)))[:, None]
            parts.append(score_neurons(chunk, math.inf, before, after, self.texts, self.vocabulary))
        return joined(parts)

    @torch.no_grad()
    def sweep(
        self,
        images: Sequence[Image.Image],
        neurons: Sequence[int] | None = None,
        strengths: Sequence[float] = STRENGTHS,
        batch: int = 256,
    ) -> list[ZeroShotScores]:
        """:meth:`scores` at several strengths, and :meth:`asymptote` at the end."""
        v, numbers = self.readable(images, batch), self._numbers(neurons)
        scores = [self._scores(v, numbers, strength, batch) for strength in strengths]
        return [*scores, self.asymptote(images, neurons, batch)]

    @torch.no_grad()
    def effects(
        self, images: Sequence[Image.Image], neuron: int, strengths: Sequence[float] = STRENGTHS, batch: int = 256
    ) -> list[Effect]:
        """The effects of one neuron at several strengths, see :meth:`scores`: the curves of the paper's figure 5.

        Args:
            images: PIL images.
            neuron: Number of the neuron.
            strengths: Values to which its latent is set.
            batch: Steered images at once.

        Raises:
            ValueError: If there are no images or no such neuron.
        """
        v, numbers = self.readable(images, batch), self._numbers([neuron])
        before = self.distribution(self.embed(v, batch))
        latents, x = read_latents(self.tower.sae, v), v.to(weight_dtype(self.tower.sae))
        after = self._after(latents, x, numbers.tolist() * len(strengths), x.new_tensor(strengths), batch)
        return [Effect(before, part) for part in after]

    def _scores(self, v: Tensor, neurons: Tensor, strength: float, batch: int) -> ZeroShotScores:
        sae = self.tower.sae
        before = self.distribution(self.embed(v, batch))
        latents, x = read_latents(sae, v), v.to(weight_dtype(sae))
        parts = []
        for chunk in tqdm(neurons.split(max(1, batch // len(v))), desc=f"strength {strength:g}", leave=False):
            after = self._after(latents, x, chunk.tolist(), x.new_full((len(chunk),), strength), batch)
            parts.append(score_neurons(chunk, strength, before, after, self.texts, self.vocabulary))
        return joined(parts)

    def _after(self, latents: Latents, x: Tensor, neurons: Sequence[int], values: Tensor, batch: int) -> Tensor:
        """Distributions with one neuron set at a time, ``[neurons, images, vocabulary]``; ``values [neurons]``."""
        steered = x + latents.pushes(neurons, values, isolate=False)
        embeddings = self.embed(steered.flatten(0, 1).to(self.model.dtype), batch)
        return self.distribution(embeddings).unflatten(0, (len(neurons), len(x)))

    def _numbers(self, neurons: Sequence[int] | None) -> Tensor:
        count = self.tower.sae.d_latent
        numbers = torch.arange(count) if neurons is None else torch.as_tensor(neurons, dtype=torch.long)
        if not (len(numbers) and 0 <= numbers.min() <= numbers.max() < count):
            raise ValueError(f"neurons must be some of 0 to {count - 1}, got {str(neurons):.80}")
        return numbers

    def _see(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = preprocess(self.image_processor, images).to(self.model.device, self.model.dtype)
        return self.model.vision_model(pixels).pooler_output

    def _head(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.model.visual_projection(pooled).float(), dim=-1)
