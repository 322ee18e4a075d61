"""What encoder and judges see in the probe images, kept on disk: every model of the encoder is scored on one look."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.embeddings import all_embeddings, extract_embeddings
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.scoring.scorer import Seen


class Probe:
    """Activations of all tokens and the judges' embeddings of some images.

    Args:
        activations: Of all tokens.
        judges: Embeddings of each judge of names, ``[images, d]``, by a name for it.
        similar: Those of the judge of MonoSemanticity, ``[images, e]``.
    """

    def __init__(self, activations: ActivationStore, judges: Mapping[str, Tensor], similar: Tensor):
        self.activations, self.judges, self.similar = activations, dict(judges), similar

    @classmethod
    def make(
        cls,
        folder: str | Path,
        encoder: VisionEncoder,
        images: Any,
        *,
        source: dict[str, Any],
        judges: Mapping[str, ClipLike],
        similarity: ClipLike | VisionEncoder,
    ) -> "Probe":
        """Looks at images, or opens what an earlier call saw; a killed one goes on where it was.

        Args:
            folder: Of the stores.
            encoder: Its layer counts, not its tokens.
            images: Map-style dataset with a column ``image``.
            source: What they are.
            judges: Of names.
            similarity: Judge of MonoSemanticity.

        Raises:
            OSError: If the folder is of other images or models.
        """
        folder, exact = Path(folder), {"source": source, "dtype": "float32"}
        every = VisionEncoder(encoder.model, encoder.processor, encoder.layer, "all", encoder.repo_id, encoder.revision)
        return cls(
            extract_activations(every, images, folder / "activations", **exact),
            {
                name: all_embeddings(extract_embeddings(judge, images, folder / f"judge-{name}", **exact))
                for name, judge in judges.items()
            },
            all_embeddings(extract_embeddings(similarity, images, folder / "similarity", **exact)),
        )

    def __len__(self) -> int:
        return self.activations.num_images

    def batches(self, judge: str, size: int = 64) -> Iterator[tuple[Tensor, Seen]]:
        """Ids of images and what was seen of them, in order.

        Args:
            judge: Which judge of names.
            size: Images at once.
        """
        tokens = self.activations.tokens_per_image
        for start in range(0, len(self), size):
            ids = torch.arange(start, min(start + size, len(self)))
            rows = self.activations.read(start * tokens, (int(ids[-1]) + 1) * tokens)
            yield ids, Seen(rows.unflatten(0, (-1, tokens)), self.judges[judge][ids], self.similar[ids])
