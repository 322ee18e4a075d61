"""A model of somebody's own encoder: a small random ViT for pictures of 96 x 64 pixels, no labels, no LLaVA, no unCLIP.

python own_model.py FOLDER   writes it, and prints the folder of the SAE.
"""

import json
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from small_hub import COLOURS, CONCEPTS, Pictures, make_hub, make_pack
from steerable_models import clip, image_processor, tokenizer
from tiny_models import VISION
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.models import SAE, folder_revision
from cbsae_hub.models.base import WORKED_NAME
from cbsae_hub.scoring import NeuronScorer, Truth


class OwnPictures:
    """Map-style: a coloured thing on noise, in pictures of mixed sizes, of which nothing is known."""

    def __init__(self, count: int = 60):
        rng = np.random.default_rng(5)
        self.images = []
        for number in range(count):
            width, height = rng.integers(60, 180, 2)
            pixels = rng.integers(70, 110, (height, width, 3)).astype(np.uint8)
            x, y = rng.integers(0, width // 2), rng.integers(0, height // 2)
            pixels[y : y + height // 2, x : x + width // 2] = list(COLOURS.values())[number % len(COLOURS)]
            self.images.append(Image.fromarray(pixels))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        return self.images if key == "image" else {"image": self.images[key]}


def make_own_model(folder: Path) -> Path:
    """Writes encoder, judge and an SAE with a pack beside each other; returns the SAE's folder."""
    _, _, judge, saved = make_hub(folder)
    torch.manual_seed(1)
    model = ViTModel(ViTConfig(**{**VISION, "image_size": [96, 64]}, intermediate_size=32), add_pooling_layer=False)
    model.save_pretrained(folder / "encoder")
    ViTImageProcessor(size={"height": 96, "width": 64}).save_pretrained(folder / "encoder")
    encoder = VisionEncoder.from_pretrained(folder / "encoder", layer=1, tokens="patches")
    explain(encoder, OwnPictures(), judge, saved)
    return saved


def make_clip_model(folder: Path) -> Path:
    """The same of a small random CLIP with a text tower, and labelled pictures beside it, as the tab Suppress reads."""
    _, _, judge, saved = make_hub(folder)
    for part in (clip(), image_processor(), tokenizer(16)):
        part.save_pretrained(folder / "encoder")
    explain(VisionEncoder.from_pretrained(folder / "encoder", layer=2, tokens="patches"), Pictures(), judge, saved)
    pictures = Pictures(120)
    labels = {"image": pictures["image"], "colour": pictures.colours, "side": pictures.sides}
    for split, rows in (("find", slice(60)), ("test", slice(60, 120))):
        columns = {name: values[rows] for name, values in labels.items()}
        table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
        table.to_parquet(folder / "pictures" / "data" / f"{split}-00000-of-00001.parquet")
    classes = {"light": ["white", "green"], "dark": ["red", "blue"]}
    record = {
        "images": "pictures", "find": "find", "test": "test", "attribute": {"column": "side", "values": ["right"]},
        "target": {"column": "colour", "classes": classes}, "prompts": {"light": ["a light", "pale"]},
        "class": "dark", "pictures": 12, "right": [7, 8, 7], "off": 3,
    }  # fmt: skip
    revision = folder_revision(saved)
    (saved / WORKED_NAME).write_text(json.dumps({"revision": revision, "suppress": record}))
    return saved


def explain(encoder: VisionEncoder, images: Any, judge: ClipLike, saved: Path) -> None:
    """Writes an SAE of an encoder's activations and its pack."""
    sae = SAE(16, 64, "batch_topk", 4, seed=0, **{**encoder.provenance(), "encoder_id": "me/encoder"})
    x = encoder(images["image"]).flatten(0, 1)
    with torch.no_grad():
        sae.b_dec.copy_(x.mean(0))
        sae.b_enc[:4] = -1000.0  # dead neurons
    sae.calibrate_threshold(x)
    sae.save_pretrained(saved)
    scorer = NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS}, truth=Truth.read(images, {}), top_k=10)
    make_pack(scorer, images, saved, source={"id": "mine", "split": "train"})


if __name__ == "__main__":
    print(make_own_model(Path(sys.argv[1])))
