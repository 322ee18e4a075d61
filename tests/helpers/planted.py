"""An encoder that sees brightness alone, an SAE whose neuron fires on it, and pictures with a bright patch."""

import numpy as np
import torch
from PIL import Image
from small_hub import make_hub
from tiny_models import SIDE, VISION
from transformers import CLIPImageProcessor, LlavaImageProcessor, ViTConfig, ViTImageProcessor, ViTModel

from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.models import SAE

PATCH = 8
DARK, BRIGHT = 60, 255
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SIZES = {"square": (60, 60), "wide": (120, 50), "tall": (40, 110)}


def prepare(kind: str, height: int, width: int):
    """An image processor of a kind that crops, squashes or pads; all make pictures of one size."""
    size = {"height": height, "width": width}
    if kind == "squashes":
        return ViTImageProcessor(size=size, **HALF)
    if kind == "pads to a square":
        edge = {"shortest_edge": max(height, width)}
        return LlavaImageProcessor(do_pad=True, size=edge, crop_size=size, **HALF)
    edge = {"crops": max(height, width), "crops more": max(height, width) * 5 // 4, "pads": min(height, width) * 2 // 5}
    return CLIPImageProcessor(size={"shortest_edge": edge[kind]}, crop_size=size, **HALF)


def seen_box(kind: str, size: tuple[int, int], height: int, width: int):
    """What such a processor leaves of a picture, by its settings."""
    if kind == "squashes":
        return (0, 0, *size)
    scale = prepare(kind, height, width).size["shortest_edge"] / (max(size) if "square" in kind else min(size))
    half, middle = (width / scale / 2, height / scale / 2), (size[0] / 2, size[1] / 2)
    return middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1]


def brightness_model(height: int, width: int) -> ViTModel:
    """A ViT whose blocks add nothing: its first channel is a patch's mean brightness, CLS is 0."""
    config = {**VISION, "image_size": [height, width], "patch_size": PATCH}
    model = ViTModel(ViTConfig(**config, intermediate_size=32), add_pooling_layer=False).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.embeddings.patch_embeddings.projection.weight[0] = 1 / (3 * PATCH * PATCH)
    return model


class Planted:
    """Map-style: dark pictures of a size, each with a bright patch somewhere in a box that all of the encoder sees."""

    def __init__(self, size: tuple[int, int], box, grid: tuple[int, int], count: int = 8):
        rng = np.random.default_rng(sum(size))
        left, upper = max(0.0, box[0]), max(0.0, box[1])
        right, lower = min(size[0], box[2]), min(size[1], box[3])
        wide, high = (box[2] - box[0]) / grid[1], (box[3] - box[1]) / grid[0]
        self.images, self.centres = [], []
        for _ in range(count):
            x, y = rng.uniform(left + wide, right - wide), rng.uniform(upper + high, lower - high)
            pixels = np.full((size[1], size[0], 3), DARK, np.uint8)
            at = [round(edge) for edge in (y - high / 1.5, y + high / 1.5, x - wide / 1.5, x + wide / 1.5)]
            pixels[max(0, at[0]) : at[1], max(0, at[2]) : at[3]] = BRIGHT
            self.images.append(Image.fromarray(pixels))
            self.centres.append((x, y))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, key):
        if key == "image":
            return self.images
        return {"image": self.images[key]}


def planted_hub(folder, kind: str, height: int, width: int, tokens: str = "patches"):
    """Writes encoder, judge and SAE side by side; returns SAE, encoder, judge and the SAE's folder."""
    _, _, judge, saved = make_hub(folder)
    brightness_model(height, width).save_pretrained(folder / "encoder")
    prepare(kind, height, width).save_pretrained(folder / "encoder")
    encoder = VisionEncoder.from_pretrained(folder / "encoder", layer=1, tokens=tokens)
    sae = SAE(SIDE, 4, "relu", seed=0, **{**encoder.provenance(), "encoder_id": "me/encoder"})
    with torch.no_grad():
        for weights in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec):
            weights.zero_()
        sae.W_enc[0, 0] = sae.W_dec[0, 0] = 1.0
        sae.b_enc[0] = 0.4  # what is darker than DARK and a little does not fire
        sae.W_dec[1:, 1] = 1.0
    sae.save_pretrained(saved)
    return sae, encoder, judge, saved


def brightest(pixels) -> tuple[float, float]:
    """Where the bright patch is in a picture, as shares of its width and height."""
    grey = np.asarray(pixels.convert("L"), float)
    y, x = np.nonzero(grey > (grey.max() + DARK) / 2)
    return (x.mean() + 0.5) / grey.shape[1], (y.mean() + 0.5) / grey.shape[0]
