"""A tiny world on disk: encoder, judge, SAE and labelled pictures, side by side as in a hub folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from tiny_models import SIDE, build, processor

from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.encoders.clip_like import ClipLike, save_clip_like
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.neurons.pack import Pack
from cbsae_hub.scoring import NeuronScorer
from cbsae_hub.scoring.build_pack import build_pack
from training.emoji_world.captions import train_tokenizer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "white": (250, 250, 250)}
CONCEPTS = ConceptSet([*COLOURS, "left", "right"], "colours")


class Pictures:
    """Map-style: each picture has a coloured half on grey; the truth is the colour and the side."""

    def __init__(self, count: int = 48):
        rng = np.random.default_rng(0)
        self.colours = [list(COLOURS)[i] for i in rng.integers(0, 4, count)]
        self.sides = [("left", "right")[i] for i in rng.integers(0, 2, count)]
        noise = rng.integers(100, 140, (count, SIDE, SIDE, 3)).astype(np.uint8)
        for pixels, colour, side in zip(noise, self.colours, self.sides):
            half = slice(0, SIDE // 2) if side == "left" else slice(SIDE // 2, SIDE)
            pixels[:, half] = COLOURS[colour]
        self.columns = {
            "image": [Image.fromarray(pixels) for pixels in noise],
            "things": [[{"name": colour}] for colour in self.colours],
            "side": self.sides,
            "caption": [f"{c} on the {s} <b>" for c, s in zip(self.colours, self.sides)],
        }

    def __len__(self) -> int:
        return len(self.colours)

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}


def make_hub(
    folder: Path, name: str = "CLIPVisionModelWithProjection", prepare: Any = None
) -> tuple[SAE, VisionEncoder, ClipLike, Path]:
    """Writes ``folder/encoder``, ``folder/judge``, ``folder/sae``; returns SAE, encoder, judge and the SAE's folder."""
    build(name).save_pretrained(folder / "encoder")
    (prepare or processor(name)).save_pretrained(folder / "encoder")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(list(CONCEPTS))
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": len(tokenizer), "width": 16, "heads": 2, "layers": 1},
    }
    save_clip_like(
        open_clip.CLIP(**config), tokenizer, config, {"mean": (0.5,) * 3, "std": (0.5,) * 3}, folder / "judge"
    )
    encoder = VisionEncoder.from_pretrained(folder / "encoder", layer=1, tokens="patches")
    sae = SAE(16, 32, "batch_topk", 4, (8, 24), seed=0, **{**encoder.provenance(), "encoder_id": "me/encoder"})
    x = encoder(Pictures()[:]["image"]).flatten(0, 1)
    with torch.no_grad():
        sae.b_dec.copy_(x.mean(0))
        sae.b_enc[5] = -1000.0  # a dead neuron
    sae.calibrate_threshold(x)
    sae.save_pretrained(folder / "sae")
    return sae, encoder, ClipLike.from_pretrained(folder / "judge"), folder / "sae"


def make_bottleneck(sae: SAE, encoder: VisionEncoder, folder: Path) -> CBSAE:
    """Half of the SAE, and a bottleneck for two of the concepts whose neurons are signed; saved beside the others."""
    cb = CBSAE.from_sae(sae, range(0, 32, 2), ["red", "right"], 1, seed=3)
    cb.provenance = replace(cb.provenance, encoder_id=encoder.repo_id)
    cb.save_pretrained(folder / "bottleneck")
    return cb.eval()


def make_pack(scorer: NeuronScorer, images: Any, folder: Path, batch_size: int = 64, **options: Any) -> Pack:
    """Scores a model and builds its pack."""
    scorer.run(images, batch_size)
    return build_pack(
        scorer.results(), scorer.sae, scorer.encoder, images, folder, batch_size=batch_size, **{"source": {}, **options}
    )
