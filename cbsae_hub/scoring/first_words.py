"""The first word of LLaVA's answer to one prompt about many steered images."""

import copy

import torch
from torch import Tensor

from cbsae_hub.metrics.steerability import first_word
from cbsae_hub.steering.llava import LlavaSteerer

ONE_WORD = "What is shown in this image? Use exactly one word!"  # Pach et al. and CB-SAE


class FirstWords:
    """Asks LLaVA one question about many images and listens until each answer's first word has ended.

    The same words as with one call of :meth:`LlavaSteerer.generate` for each; its SAE is not used. It is faster because
    what stands before the image is read once, images are answered many at a time, the vocabulary's logits are computed
    for the last token only, and answers that are complete leave the batch. A word that has not ended after
    ``max_new_tokens`` is cut off.
    """

    def __init__(self, llava: LlavaSteerer, prompt: str = ONE_WORD, max_new_tokens: int = 16, batch: int = 32):
        self.llava, self.prompt = llava, prompt
        self._limit, self._batch = max_new_tokens, batch
        model = llava.model
        self._language, self._head = model.model.language_model, model.lm_head
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [model.config.text_config.eos_token_id if ends is None else ends]
        self._ends = torch.tensor(ends, device=model.device)
        self._parts: dict[int, tuple] = {}

    @torch.no_grad()
    def __call__(self, features: Tensor) -> list[str]:
        """Words for ``features [images, image tokens, d_text]``, see :meth:`LlavaSteerer.image_features`."""
        return [word for part in features.split(self._batch) for word in self._words(part)]

    def _words(self, features: Tensor) -> list[str]:
        before, after = self._around(features.shape[1])
        cache = copy.deepcopy(before)
        cache.batch_repeat_interleave(len(features))
        hidden = self._read(torch.cat([features.to(after), after.expand(len(features), -1, -1)], 1), cache)
        tokens = torch.empty(len(features), 0, dtype=torch.long, device=features.device)
        words, rows = [""] * len(features), torch.arange(len(features), device=features.device)
        for step in range(self._limit):
            new = self._head(hidden).argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, new], 1)
            ended = torch.isin(new[:, 0], self._ends)
            answers = self.llava.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            over = ended | torch.tensor([_has_ended(answer) for answer in answers], device=ended.device)
            if step == self._limit - 1:
                over[:] = True
            for row in over.nonzero().flatten().tolist():
                words[rows[row]] = first_word(answers[row])
            if over.all():
                break
            stay = (~over).nonzero().flatten()
            rows, tokens = rows[stay], tokens[stay]
            if over.any():
                cache.batch_select_indices(stay)
            hidden = self._read(self._language.get_input_embeddings()(tokens[:, -1:]), cache)
        return words

    def _read(self, embeddings: Tensor, cache) -> Tensor:
        """Reads on; the last token's hidden state, ``[images, d_text]``."""
        return self._language(inputs_embeds=embeddings, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]

    def _around(self, image_tokens: int) -> tuple:
        """The cache of the prompt before the image, and the embeddings of the rest."""
        if image_tokens not in self._parts:
            ids, where = self.llava.prompt_ids(self.prompt, image_tokens)
            embeddings = self.llava.model.get_input_embeddings()(ids)[None]
            start = self._language(inputs_embeds=embeddings[:, : where.start], use_cache=True).past_key_values
            self._parts[image_tokens] = start, embeddings[:, where.stop :]
        return self._parts[image_tokens]


def _has_ended(answer: str) -> bool:
    """True if white space follows the first word."""
    return len(answer.split(maxsplit=1)) > 1 or (bool(answer.strip()) and answer[-1].isspace())
