"""Activations inside a LLaVA: of its language model, or of the projector between it and the vision tower."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from cbsae_hub.encoders.conversations import conversation
from cbsae_hub.encoders.families import prefix_tokens, tower_config
from cbsae_hub.encoders.passages import Passage, Span, edit_of_rows, passages_of, random_count, require_tokens, rows_of
from cbsae_hub.encoders.site import Edit, ResidualSite, find_blocks
from cbsae_hub.encoders.vision import preprocess
from cbsae_hub.encoders.weights import load_complete
from cbsae_hub.hub.locate import locate

PROMPT = "Describe the image in one sentence."
NOTHING, IMAGE, PROMPTED, ANSWERED = range(4)
CHOSEN = {"image": (IMAGE,), "prompt": (PROMPTED,), "answer": (ANSWERED,)}
WITHOUT_ANSWER = ("image", "prompt")
Question = tuple[Image.Image | None, str]


@dataclass(frozen=True)
class Conversations:
    """Questions to a LLaVA as its processor makes them, padded on the right.

    Attributes:
        texts: The questions in the form of a conversation; once there are answers, with them.
        ids: Token ids ``[questions, tokens]``.
        kinds: The kind of each token ``[questions, tokens]``: of the image, of what was asked, of the answer, or
            nothing of these, padding and special tokens.
        lengths: Number of tokens that are no padding, of each question.
        pixels: Preprocessed images ``[images, 3, h, w]`` of the questions that have one; None without any.
        spans: Where each token stands in its text.
    """

    texts: list[str]
    ids: Tensor
    kinds: Tensor
    lengths: list[int]
    pixels: Tensor | None
    spans: list[list[Span]]

    @property
    def mask(self) -> Tensor:
        """Whether a token is no padding, ``[questions, tokens]``."""
        return torch.arange(self.ids.shape[1]) < torch.tensor(self.lengths)[:, None]


class LanguageEncoder:
    """Activations of a block of a LLaVA's language model, or of its projector, for the tokens that are asked for.

    Olson et al. (2025, section 5) train SAEs on the projector's output, on block 6 and on middle blocks of LLaVA-1.5.

    Args:
        model: The LLaVA; of the original code base :func:`cbsae_hub.steering.llava_original.load_original` makes one.
        processor: Its processor, with a fast tokenizer.
        layer: Block whose output is read, from 0; negative numbers count from the end. A projector has block 0 alone.
        tokens: "image"; "prompt", what the user says in the form of the conversation, without its special tokens;
            "answer", the model's own words, greedily decoded, without the end; "all" of these; or "random:n", n of all,
            drawn with replacement, of a projector n of the image.
        tower: "language" or "projector".
        prompt: The question about images that come without one.
        max_new_tokens: Answers end there at the latest.
        repo_id: Folder or Hub id of the model.
        revision: Its version.

    Raises:
        ValueError: If layer, tower or tokens are unknown, or the tokenizer is a slow one.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        processor: LlavaProcessor,
        layer: int,
        tokens: str = "image",
        tower: str = "language",
        prompt: str = PROMPT,
        max_new_tokens: int = 32,
        repo_id: str | None = None,
        revision: str | None = None,
    ):
        if tower not in ("language", "projector"):
            raise ValueError(f"tower must be language or projector, got {tower!r:.80}")
        self.model: Any = model.eval().requires_grad_(False)
        self.processor: Any = processor
        if not self.processor.tokenizer.is_fast:
            raise ValueError("the processor's tokenizer does not tell where its tokens stand: take a fast tokenizer")
        self.site = ResidualSite.find(model, layer, tower)
        self.layer, self.num_layers = self.site.layer, len(find_blocks(model, tower)[0])
        self.tower, self.tokens = tower, require_tokens(tokens, tower)
        self.prompt, self.max_new_tokens = prompt, max_new_tokens
        self.repo_id, self.revision = repo_id, revision
        self.d_in: int = self.model.config.text_config.hidden_size
        self.grid, self.image_tokens = self._measure()

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str | Path,
        layer: int,
        tokens: str = "image",
        tower: str = "language",
        revision: str | None = None,
        device: str | torch.device = "cpu",
        beside: str | Path | None = None,
        **options: Any,
    ) -> "LanguageEncoder":
        """Loads a LLaVA of transformers from a folder or the Hub: safetensors only, no remote code.

        On a CPU it computes in float32, elsewhere in its own data type.

        Args:
            repo_id: Folder or Hub id.
            layer: See the class.
            tokens: See the class.
            tower: See the class.
            revision: See :func:`cbsae_hub.hub.locate.locate`.
            device: Device of the model.
            beside: A model folder next to which it may lie, see :func:`cbsae_hub.models.resolve_id`.
            **options: ``prompt`` and ``max_new_tokens``, see the class.

        Raises:
            ValueError: See the class; or the weights are not those that ``revision`` names, some are missing, or it is
                no LLaVA of transformers.
            OSError: If there is no such model, or it has no safetensors weights.
        """
        located = locate(repo_id, revision, beside)
        config = AutoConfig.from_pretrained(**located.pretrained)
        if config.model_type != "llava":
            raise ValueError(
                f"{repo_id} is a model of type {config.model_type!r}, not a LLaVA of transformers. Of a checkpoint of "
                "the original code base load_original makes the model and processor of a LanguageEncoder"
            )
        dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
        model = load_complete("LlavaForConditionalGeneration", located.id, **located.pretrained, dtype=dtype)
        processor = AutoProcessor.from_pretrained(**located.pretrained, backend="pil")
        commit = None if located.folder is not None else getattr(config, "_commit_hash", None)
        options |= {"repo_id": located.id, "revision": commit or located.revision}
        return cls(model.to(device), processor, layer, tokens, tower, **options)

    def at(self, layer: int, tokens: str, tower: str = "language") -> "LanguageEncoder":
        """The same model, read at another place or for other tokens; see the class for what is wrong."""
        return LanguageEncoder(
            self.model,
            self.processor,
            layer,
            tokens,
            tower,
            prompt=self.prompt,
            max_new_tokens=self.max_new_tokens,
            repo_id=self.repo_id,
            revision=self.revision,
        )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def tokens_per_image(self) -> int | None:
        """Number of rows that a question gives; None where that depends on its words."""
        return self.image_tokens if self.tokens == "image" else random_count(self.tokens)

    @property
    def answers_too(self) -> bool:
        """Whether the model has to answer before its activations are read."""
        return self.tower == "language" and self.tokens not in WITHOUT_ANSWER

    def provenance(self) -> dict[str, Any]:
        """Description of the activations, for the config of an SAE that is trained on them."""
        image_processor = self.processor.image_processor.to_dict()["image_processor_type"]
        settings: dict[str, Any] = {"prompt": self.prompt} if self.tower == "language" else {}
        settings |= {"max_new_tokens": self.max_new_tokens} if self.answers_too else {}
        return {
            "encoder_id": self.repo_id,
            "encoder_revision": self.revision,
            "tower": self.tower,
            "layer": self.layer,
            "tokens": self.tokens,
            "preprocessing": {"processor": image_processor, **settings},
        }

    def prepare(self, questions: Sequence[Question | Image.Image]) -> Conversations:
        """Makes conversations of questions.

        Args:
            questions: Images, each with a question or not; or None with a question, which is asked without an image.

        Raises:
            ValueError: If there are no questions, one holds the image token, or the tokenizer cuts some off.
        """
        if not len(questions):
            raise ValueError("no questions were given")
        pairs = [(one, self.prompt) if isinstance(one, Image.Image) else one for one in questions]
        token, tokenizer = self.processor.image_token, self.processor.tokenizer
        texts = [
            conversation(self.processor, text, image is not None).replace(token, token * self.image_tokens)
            for image, text in pairs
        ]
        marks = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_attention_mask": True}
        encoded = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt", **marks)
        ids, written = encoded.input_ids, encoded.attention_mask.bool()
        special = encoded.special_tokens_mask.bool() | torch.isin(ids, torch.tensor(sorted(self._marks)))
        of_image = ids == self.model.config.image_token_id
        for (image, text), count in zip(pairs, of_image.sum(1).tolist()):
            if count != self.image_tokens * (image is not None):
                raise ValueError(f"the prompt {text!r:.80} holds the image token, or is longer than the model reads")
        kinds = torch.where(of_image, IMAGE, torch.where(written & ~special, PROMPTED, NOTHING))
        images = [image for image, _ in pairs if image is not None]
        pixels = preprocess(self.processor.image_processor, images) if images else None
        spans = [[(start, stop) for start, stop in one] for one in encoded.offset_mapping.tolist()]
        return Conversations(texts, ids, kinds, written.sum(1).tolist(), pixels, spans)

    @torch.no_grad()
    def __call__(
        self, questions: Sequence[Question | Image.Image] | Conversations, seeds: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Activations of the chosen tokens.

        Args:
            questions: See :meth:`prepare`, or what it made of them, or :meth:`answered` of that; one batch.
            seeds: With "random:n", a seed per question; default its place in the batch.

        Returns:
            ``[tokens, d_in]`` float32 of each question, in the order of its tokens.

        Raises:
            ValueError: If tokens of the image are asked for, and a question has none.
        """
        inputs = self._inputs(questions)
        if self.tower == "projector":
            if inputs.pixels is None or len(inputs.pixels) != len(inputs.texts):
                raise ValueError("the projector reads images: a question has none")
            v = self.site.read(lambda: self.run(inputs)).float()
            chosen = torch.ones(v.shape[:2], dtype=torch.bool)
        else:
            v, chosen = self.site.read(lambda: self.run(inputs)).float(), self._chosen(inputs)
        return rows_of(v, chosen, self.tokens, seeds)

    @torch.no_grad()
    def run(self, questions: Sequence[Question | Image.Image] | Conversations) -> Any:
        """Runs the model once as far as the site needs it, while edits act: the language model, or the projector.

        Returns:
            The output in transformers: hidden states, or the features of the images.
        """
        inputs = questions if isinstance(questions, Conversations) else self.prepare(questions)
        if self.tower == "projector":
            return self.model.model.get_image_features(**self._pictures(inputs))
        mask = inputs.mask.to(self.device, torch.long)
        return self.model.model(input_ids=inputs.ids.to(self.device), attention_mask=mask, **self._pictures(inputs))

    @torch.no_grad()
    def answered(self, questions: Sequence[Question | Image.Image] | Conversations) -> Conversations:
        """Conversations with the model's own answers, while edits of the site act; the end of an answer is left out."""
        inputs = questions if isinstance(questions, Conversations) else self.prepare(questions)
        before = inputs.ids.shape[1]
        shifts = [before - length for length in inputs.lengths]
        ids = torch.stack([one.roll(shift) for one, shift in zip(inputs.ids, shifts)])  # padded on the left
        mask = torch.arange(before) >= torch.tensor(shifts)[:, None]
        tokens = self.model.generate(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device, torch.long),
            **self._pictures(inputs),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
        )[:, before:].cpu()
        return self._joined(inputs, [self._words(one.tolist()) for one in tokens])

    def answers(self, questions: Sequence[Question | Image.Image]) -> list[str]:
        """Answers of the model, greedily decoded, while edits of the site act."""
        before = self.prepare(questions)
        return [whole[len(text) :].strip() for whole, text in zip(self.answered(before).texts, before.texts)]

    def passages(self, questions: Sequence[Question | Image.Image] | Conversations) -> list[Passage]:
        """Conversations, and where the rows of :meth:`__call__` stand in them; with "random:n", those of all."""
        inputs = self._inputs(questions)
        return passages_of(inputs.texts, inputs.spans, self._chosen(inputs))

    def on_tokens(self, fn: Edit, questions: Sequence[Question | Image.Image] | Conversations) -> Edit:
        """An edit for ``site.edit`` that changes the chosen tokens of these conversations alone.

        Args:
            fn: Gets and returns the activations of all of them, ``[rows, d_in]``.
            questions: What the model reads meanwhile in one pass, padded as :meth:`prepare` does.
        """
        return edit_of_rows(fn, self._chosen(self._inputs(questions)))

    def _inputs(self, questions: Sequence[Question | Image.Image] | Conversations) -> Conversations:
        inputs = questions if isinstance(questions, Conversations) else self.prepare(questions)
        return self.answered(inputs) if self.answers_too and not (inputs.kinds == ANSWERED).any() else inputs

    def _chosen(self, inputs: Conversations) -> Tensor:
        kinds = CHOSEN.get(self.tokens, (IMAGE, PROMPTED, ANSWERED))
        chosen = torch.isin(inputs.kinds, torch.tensor(kinds))
        if self.tokens == "image" and (missing := ~chosen.any(1)).any():
            raise ValueError(f"question {int(missing.nonzero()[0])} of the batch has no image, whose tokens are read")
        return chosen

    def _pictures(self, inputs: Conversations) -> dict[str, Tensor]:
        if inputs.pixels is None:
            return {}
        return {"pixel_values": inputs.pixels.to(self.device, self.model.dtype)}

    def _words(self, ids: list[int]) -> list[int]:
        """An answer up to its end."""
        return next((ids[:place] for place, one in enumerate(ids) if one in self._marks), ids)

    @property
    def _marks(self) -> set[int]:
        """Ids of special tokens; not that of what the vocabulary lacks, which stands for something written."""
        tokenizer = self.processor.tokenizer
        ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
        return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id} | ends

    def _joined(self, inputs: Conversations, answers: list[list[int]]) -> Conversations:
        """Conversations with the token ids of their answers, padded on the right."""
        decode = self.processor.tokenizer.decode
        texts, spans, lengths = [], [], []
        width = max(length + len(answer) for length, answer in zip(inputs.lengths, answers))
        shape = len(answers), max(width, inputs.ids.shape[1])
        ids = torch.full(shape, int(self.processor.tokenizer.pad_token_id or 0))
        kinds = torch.full(shape, NOTHING)
        for row, (length, answer) in enumerate(zip(inputs.lengths, answers)):
            stop = length + len(answer)
            ids[row, :length], ids[row, length:stop] = inputs.ids[row, :length], torch.tensor(answer, dtype=torch.long)
            kinds[row, :length], kinds[row, length:stop] = inputs.kinds[row, :length], ANSWERED
            # A tokenizer says where tokens of a text stand; of generated ones, the text that ends with each says it.
            ends = [len(inputs.texts[row]) + len(decode(answer[: n + 1])) + 1 for n in range(len(answer))]
            starts = [len(inputs.texts[row]) + 1, *ends[:-1]]
            texts.append(f"{inputs.texts[row]} {decode(answer)}" if answer else inputs.texts[row])
            spans.append([*inputs.spans[row][:length], *zip(starts, ends)])
            lengths.append(stop)
        padding = [[(0, 0)] * (shape[1] - len(one)) for one in spans]
        return Conversations(texts, ids, kinds, lengths, inputs.pixels, [a + b for a, b in zip(spans, padding)])

    def _measure(self) -> tuple[tuple[int, int], int]:
        """Rows and columns of the vision tower's patches, and the number of tokens that the language model is given."""
        config = tower_config(self.model.config)
        pixels = preprocess(self.processor.image_processor, [Image.new("RGB", (64, 64))])
        rows, columns = (side // config.patch_size for side in pixels.shape[-2:])
        cut = int(self.model.config.vision_feature_select_strategy == "default")  # the class token
        return (rows, columns), prefix_tokens(config) + rows * columns - cut
