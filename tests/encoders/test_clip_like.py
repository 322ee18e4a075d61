import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cbsae_hub.encoders.clip_like import ClipLike, save_clip_like
from cbsae_hub.models import folder_revision
from training.emoji_world.captions import train_tokenizer

CONTEXT = 12


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny open_clip model on disk, the model itself, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a pizza on grass", "an owl"])
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": len(tokenizer), "width": 16, "heads": 2, "layers": 1},
    }
    model = open_clip.CLIP(**config).eval()
    folder = tmp_path_factory.mktemp("hub") / "judge"
    save_clip_like(model, tokenizer, config, {"mean": (0.5,) * 3, "std": (0.5,) * 3}, folder)
    return folder, model, tokenizer


def test_saved_models_load_with_their_own_tokenizer_from_anywhere(saved, tmp_path, monkeypatch):
    folder, model, tokenizer = saved
    monkeypatch.chdir(tmp_path)
    judge = ClipLike.from_pretrained(folder)
    texts = ["pizza", "an owl on grass"]
    ids = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = F.normalize(model.encode_text(ids), dim=-1)
    torch.testing.assert_close(judge.embed_texts(texts), expected, atol=1e-5, rtol=1e-5)
    assert judge.revision == folder_revision(folder)
    assert judge.logit_scale == pytest.approx(model.logit_scale.exp().item())
    (folder.parent / "sae").mkdir()
    beside = ClipLike.from_pretrained("somebody/judge", beside=folder.parent / "sae")
    torch.testing.assert_close(beside.embed_texts(texts), expected, atol=1e-5, rtol=1e-5)


def test_images_of_any_mode_in_batches(saved):
    folder, model, _ = saved
    judge = ClipLike.from_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    pictures = [Image.fromarray(p) for p in pixels]
    with torch.no_grad():
        normal = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        expected = F.normalize(model.encode_image(normal), dim=-1)
    torch.testing.assert_close(judge.embed_images(pictures, batch_size=2), expected, atol=1e-5, rtol=1e-5)
    transparent = pictures[0].convert("RGBA")
    torch.testing.assert_close(judge.embed_images([transparent]), expected[:1], atol=1e-5, rtol=1e-5)


def test_templates_are_averaged_as_unit_vectors(saved):
    judge = ClipLike.from_pretrained(saved[0])
    a, b = judge.embed_texts(["a pizza"]), judge.embed_texts(["pizza on grass"])
    expected = F.normalize(a + b, dim=-1)
    torch.testing.assert_close(judge.embed_texts(["pizza"], ["a {}", "{} on grass"]), expected)
    torch.testing.assert_close(judge.embed_texts(["x {curly}"]).norm(), torch.ones(()))


def test_texts_that_are_cut_or_the_same_are_named(saved, caplog):
    folder, _, tokenizer = saved
    long = "a pizza on grass an owl on grass an owl "
    ids = [tokenizer(long + end, truncation=True, max_length=CONTEXT).input_ids for end in ("pizza", "owl")]
    assert ids[0] == ids[1]
    found = ClipLike.from_pretrained(folder).embed_texts([long + "pizza", long + "owl", "owl"])
    torch.testing.assert_close(found[0], found[1])
    assert f"{folder} reads the first {CONTEXT} tokens of a text: 2 of 3 are longer" in caplog.messages[0]
    assert f"{folder} does not tell apart 2 of 3 texts" in caplog.messages[1]


def test_clear_errors(saved, tmp_path):
    judge = ClipLike.from_pretrained(saved[0])
    with pytest.raises(ValueError, match="no texts"):
        judge.embed_texts([])
    with pytest.raises(ValueError, match=r"finds nothing to read in ' ', '\\n': leave it out"):
        judge.embed_texts(["an owl", " ", "\n"])
    with pytest.raises(ValueError, match="no images"):
        judge.embed_images([])
    with pytest.raises(ValueError, match="needs one {}"):
        judge.embed_texts(["a"], ["photo"])
    with pytest.raises(FileNotFoundError, match="open_clip_config.json"):
        ClipLike.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another model"):
        ClipLike.from_pretrained(saved[0], revision="sha256:0")


def test_an_unreachable_hub_is_explained(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("cbsae_hub.hub.locate.snapshot_download", unreachable)
    with pytest.raises(ValueError, match="neither a folder.*no network"):
        ClipLike.from_pretrained("nobody/nothing")


def test_it_knows_its_own(saved, tmp_path):
    folder, *_ = saved
    assert ClipLike.knows(folder) and ClipLike.knows("ViT-B-32/openai")
    assert ClipLike.knows("me/judge", beside=folder.parent / "sae")
    assert not ClipLike.knows(tmp_path)
