import pytest
import torch
import torch.nn.functional as F

from training.emoji_world import clip_models
from training.emoji_world.captions import CONTEXT, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a pizza on grass", "an owl and a boat"])


@pytest.mark.parametrize("teacher", [False, True])
def test_short_texts_have_the_librarys_own_embeddings(tokenizer, teacher):
    torch.manual_seed(0)
    clip = clip_models.build(tokenizer, teacher).eval()
    texts = ["a pizza", "an owl and a boat on grass", "owl"]
    ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids
    padded = F.pad(ids, (0, CONTEXT - ids.shape[1]))
    with torch.no_grad():
        expected = clip.encode_text(padded) if teacher else clip.get_text_features(input_ids=padded).pooler_output
        torch.testing.assert_close(
            clip_models.embed_text(clip, ids), F.normalize(expected, dim=-1), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("teacher", [False, True])
def test_published_models_load_with_their_library_and_embed_alike(tokenizer, teacher, tmp_path):
    import numpy as np
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    from cbsae_hub.encoders.clip_like import ClipLike

    torch.manual_seed(0)
    clip = clip_models.build(tokenizer, teacher).eval()
    (tmp_path / "README.md").write_text("a card")
    clip_models.publish_clip(clip, tokenizer, tmp_path, teacher)
    assert (tmp_path / "README.md").read_text() == "a card"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    pictures = [Image.fromarray(p) for p in pixels]
    normal = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    texts = ["a pizza", "an owl and a boat on grass"]
    with torch.no_grad():
        images = clip_models.embed_images(clip, normal)
        words = clip_models.embed_text(clip, tokenizer(texts, padding=True, return_tensors="pt").input_ids)
        if teacher:
            loaded = ClipLike.from_pretrained(tmp_path)
            again = loaded.embed_images(pictures), loaded.embed_texts(texts)
        else:
            loaded, processor = CLIPModel.from_pretrained(tmp_path).eval(), CLIPProcessor.from_pretrained(tmp_path)
            inputs = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
            output = loaded(**inputs)
            again = output.image_embeds, output.text_embeds
    torch.testing.assert_close(again[0], images, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(again[1], words, atol=2e-5, rtol=1e-4)
