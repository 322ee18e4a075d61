"""Judges of transformers: a CLIP or SigLIP by folder is compared with the library's own answers."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.models import folder_revision
from training.emoji_world.captions import train_tokenizer
from training.emoji_world.paths import HUB

TEXTS = ["pizza", "an owl on grass"]


def pictures(count=3, side=64):
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return [Image.fromarray(p) for p in pixels]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("siglip") / "encoder"
    tokenizer = train_tokenizer(["a pizza on grass", "an owl"])
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=size | {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "pad_token_id": 0},
        vision_config=size | {"image_size": 16, "patch_size": 8},
    )
    SiglipModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_a_clip_of_transformers_judges_as_it_does_itself():
    folder = HUB / "emoji-clip"
    judge = ClipLike.from_pretrained(folder)
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    with torch.no_grad():
        output = model(**processor(text=TEXTS, images=pictures(), padding=True, return_tensors="pt"))
    torch.testing.assert_close(judge.embed_texts(TEXTS), output.text_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(judge.embed_images(pictures()), output.image_embeds, atol=1e-5, rtol=1e-4)
    assert judge.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert judge.revision == folder_revision(folder)


def test_a_siglip_judges_as_it_does_itself(siglip):
    judge, model = ClipLike.from_pretrained(siglip), SiglipModel.from_pretrained(siglip)
    tokenizer, processor = (
        AutoTokenizer.from_pretrained(siglip),
        AutoImageProcessor.from_pretrained(siglip, backend="pil"),
    )
    ids = tokenizer(TEXTS, padding="max_length", max_length=12, return_tensors="pt").input_ids
    pixels = processor(pictures(), return_tensors="pt").pixel_values
    with torch.no_grad():
        texts = F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
        images = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    torch.testing.assert_close(judge.embed_texts(TEXTS), texts, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(judge.embed_images(pictures()), images, atol=1e-5, rtol=1e-4)


def test_it_names_classes_as_the_zero_shot_head_does(siglip):
    for folder in (HUB / "emoji-clip", siglip):
        head = ZeroShotHead.from_pretrained(folder, TEXTS, ("a {}", "{}"))
        texts = ClipLike.from_pretrained(folder).embed_texts(TEXTS, ("a {}", "{}"))
        torch.testing.assert_close(texts, head.weights, atol=1e-5, rtol=1e-4)


def test_texts_that_it_cannot_read_are_refused_or_named(siglip, caplog):
    judge = ClipLike.from_pretrained(siglip)
    with pytest.raises(ValueError, match="finds nothing to read"):
        judge.embed_texts(["pizza", ""])
    judge.embed_texts(["pizza on grass " * 20])
    assert "reads the first 12 tokens" in caplog.text


def test_a_model_without_a_text_tower_is_refused(tmp_path):
    with pytest.raises(ValueError, match="without a text tower"):
        ClipLike.from_pretrained(HUB / "emoji-dino")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises((OSError, ValueError), match="safetensors"):
        ClipLike.from_pretrained(tmp_path)
