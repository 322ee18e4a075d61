"""Defense-Prefix: one learnt token before the name of a class makes CLIP ignore words on pictures.

After Azuma and Matsui, "Defense-Prefix for preventing typographic attacks on CLIP" (2023), by our own code. The model
stays as it is, and so do embeddings of images: only texts change.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import AddedToken
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPModel, PreTrainedTokenizerBase

from cbsae_hub.encoders.prompts import embed_prompts, fill, mean_embedding

MARK = "<|defense-prefix|>"
START_SCALE = 0.02  # standard deviation of the token at the start
LAST_RATE = 5e-5  # where the cosine of the learning rate ends
UNREAD = 0  # the token id that the learnt vector replaces; any would do that is not the end of a text


class DefensePrefix:
    """A token embedding that stands before the name of a class in every prompt.

    Args:
        model: The CLIP; its weights stay as they are.
        tokenizer: Its tokenizer.
        seed: Seed of the first vector, and of the order of images and templates.

    Attributes:
        vector: The learnt embedding, ``[width of the text tower]`` float32.
    """

    def __init__(self, model: CLIPModel, tokenizer: PreTrainedTokenizerBase, seed: int = 0):
        self.model, self.tokenizer, self.seed = model.eval().requires_grad_(False), copy.deepcopy(tokenizer), seed
        self.tokenizer.add_tokens([AddedToken(MARK, special=True, normalized=False)], special_tokens=True)
        self._mark = self.tokenizer.get_vocab()[MARK]
        self._table = model.text_model.embeddings.token_embedding
        start = torch.randn(self._table.embedding_dim, generator=torch.Generator().manual_seed(seed))
        self.vector = (START_SCALE * start).to(model.device).requires_grad_()

    def texts(self, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Unit embeddings of classes with the prefix, ``[classes, e]``, the mean of their prompts.

        Args:
            classes: Their names.
            templates: Prompts with ``{}`` for the name.

        Raises:
            ValueError: If a template has no ``{}``, or a prompt is cut before the name.
        """
        return mean_embedding(lambda lines: self._embed(self._tokens(lines)), _marked(classes), templates, batch=256)

    def loss(self, clean: Tensor, attacked: Tensor, labels: Tensor, texts: Tensor, plain: Tensor) -> Tensor:
        """The loss of a batch.

        ``CE(s attacked texts, labels) + KL(softmax(s clean plain) || softmax(s clean texts))``, with s CLIP's logit
        scale: attacked pictures get their labels, and the answers to clean pictures stay.

        Args:
            clean: Unit embeddings of pictures, ``[n, e]``.
            attacked: Those of the same pictures with words on them.
            labels: Numbers of their classes, ``[n]``.
            texts: Unit embeddings of the classes with the prefix, ``[classes, e]``.
            plain: Those without.
        """
        scale = self.model.logit_scale.exp().float()
        before, after = (scale * clean @ plain.T).softmax(-1), (scale * clean @ texts.T).log_softmax(-1)
        return F.cross_entropy(scale * attacked @ texts.T, labels) + F.kl_div(after, before, reduction="batchmean")

    def fit(
        self,
        clean: Tensor,
        attacked: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        templates: Sequence[str],
        *,
        epochs: int = 10,
        batch: int = 512,
        rate: float = 0.002,
    ) -> list[float]:
        """Trains the prefix: SGD, its rate on a cosine to 5e-5, one template at random a step.

        Args:
            clean: See :meth:`loss`; of all pictures.
            attacked: Likewise.
            labels: Likewise.
            classes: Names of the classes.
            templates: Prompts with ``{}`` for the name.
            epochs: Passes over the pictures.
            batch: Pictures a step.
            rate: Learning rate at the start.

        Returns:
            The mean loss of each epoch.

        Raises:
            ValueError: See :meth:`texts`.
        """
        generator = torch.Generator().manual_seed(self.seed)
        steps = epochs * math.ceil(len(labels) / batch)
        optimizer = torch.optim.SGD([self.vector], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, min(LAST_RATE, rate))
        name = self.model.config.name_or_path or None
        plain = [embed_prompts(self.model, self.tokenizer, classes, [one], name) for one in templates]
        tokens = [self._tokens(fill(one, _marked(classes))) for one in templates]
        losses = []
        for _ in tqdm(range(epochs), desc=f"prefix, rate {rate:g}", unit="epoch", leave=False):
            order, total = torch.randperm(len(labels), generator=generator).to(labels.device), 0.0
            for rows in order.split(batch):
                template = int(torch.randint(len(templates), (), generator=generator))
                texts = F.normalize(self._embed(tokens[template]).float(), dim=-1)
                loss = self.loss(clean[rows], attacked[rows], labels[rows], texts, plain[template])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(rows)
            losses.append(total / len(labels))
        return losses

    def _tokens(self, lines: list[str]) -> Tensor:
        """Token ids of prompts with one mark each, ``[lines, tokens]``."""
        context = min(self.model.config.text_config.max_position_embeddings, self.tokenizer.model_max_length)
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": context, "return_tensors": "pt"}
        ids = self.tokenizer(lines, **options).input_ids
        if not (ids == self._mark).sum(1).eq(1).all():
            raise ValueError(f"a prompt is longer than the {context} tokens that the model reads: shorten the template")
        return ids.to(self.model.device)

    def _embed(self, ids: Tensor) -> Tensor:
        """Embeddings of prompts ``[lines, e]``, where the vector stands in the mark's place."""
        marked = ids.eq(self._mark)

        def insert(_: Any, __: Any, embeddings: Tensor) -> Tensor:
            return torch.where(marked[..., None], self.vector.to(embeddings.dtype), embeddings)

        hook = self._table.register_forward_hook(insert)
        try:
            return self.model.get_text_features(input_ids=ids.masked_fill(marked, UNREAD)).pooler_output
        finally:
            hook.remove()


def _marked(classes: Sequence[str]) -> list[str]:
    """Names with the mark before them."""
    return [f"{MARK}{name}" for name in classes]
