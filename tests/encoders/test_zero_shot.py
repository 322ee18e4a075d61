"""Against the whole model's own logits."""

import pytest
import torch
from tiny_models import build
from transformers import CLIPForImageClassification, CLIPImageProcessor, CLIPModel

from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from training.emoji_world.captions import train_tokenizer
from training.emoji_world.clip_models import _clip_config

CLASSES = ["pizza", "red owl", "cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer([f"a {name}" for name in CLASSES])
    torch.manual_seed(0)
    CLIPModel(_clip_config(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(path)
    return path


def test_logits_are_the_models_own(folder):
    model = CLIPModel.from_pretrained(folder).eval()
    encoder = VisionEncoder.from_pretrained(folder)
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    head = ZeroShotHead.from_pretrained(folder, CLASSES, ["a {}"], batch_size=2)
    tokenizer = train_tokenizer([f"a {name}" for name in CLASSES])
    ids = tokenizer([f"a {name}" for name in CLASSES], padding=True, return_tensors="pt")
    expected = model(pixel_values=pixels, **ids).logits_per_image
    torch.testing.assert_close(head(encoder.embed(pixels)), expected.detach(), atol=1e-4, rtol=1e-4)


def test_templates_are_averaged_as_unit_vectors(folder):
    single = [ZeroShotHead.from_pretrained(folder, CLASSES, [t]).weights for t in ("{}", "a {}")]
    both = ZeroShotHead.from_pretrained(folder, CLASSES, ["{}", "a {}"]).weights
    torch.testing.assert_close(both, torch.nn.functional.normalize(single[0] + single[1], dim=1))


def test_what_cannot_classify_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="no classes"):
        ZeroShotHead.from_pretrained(folder, [])
    build("Dinov2Model").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="dinov2, without a text tower"):
        ZeroShotHead.from_pretrained(tmp_path, CLASSES)
    with pytest.raises(ValueError, match="a template needs one {}"):
        ZeroShotHead.from_pretrained(folder, CLASSES, ["a photo"])


def test_a_classifiers_text_tower_is_not_made_up(folder, tmp_path):
    CLIPForImageClassification(CLIPModel.from_pretrained(folder).config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks weights of a CLIPModel, which would be random: logit_scale"):
        ZeroShotHead.from_pretrained(tmp_path, CLASSES)


def test_classes_that_are_cut_or_the_same_are_named(folder, caplog):
    long = "pizza " * 40
    ZeroShotHead.from_pretrained(folder, ["pizza", long + "cat", long + "owl"], ["a {}"])
    assert f"{folder} reads the first 32 tokens of a text: 2 of 3 are longer" in caplog.messages[0]
    assert "does not tell apart 2 of 3 texts" in caplog.messages[1] and "pizza cat' = " in caplog.messages[1]
