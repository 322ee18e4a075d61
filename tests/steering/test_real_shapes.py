"""The vision towers of LLaVA-1.5 and of Stable unCLIP in their real shapes, with random weights, are steered."""

import pytest
import torch
from steerable_models import llava, pictures, sae_for, unclip
from torch.testing import assert_close

from cbsae_hub.steering import Edit, LlavaSteerer, Steering, UnclipSteerer

pytestmark = pytest.mark.slow

# openai/clip-vit-large-patch14(-336)
LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
STEERING = Steering([Edit(3, 30.0), Edit(5, -20.0)], keep_error=True)


def sae(layer):
    return sae_for(1024, layer, d_sae=64)


@torch.no_grad()
def test_llava_1_5():
    model, processor = llava({**LARGE, "image_size": 336}, vision_feature_select_strategy="default")
    steerer = LlavaSteerer(model, processor, sae(22))
    with steerer.tower.site.capture() as seen:
        features = steerer.image_features(pictures(1), STEERING)
    stream = seen.activations[0]
    assert stream.shape == (1, 577, 1024)
    z, rows = steerer.tower.sae.encode(stream), steerer.tower.sae.W_dec
    stream = stream + (30 - z[..., 3:4]) * rows[3] + (-20 - z[..., 5:6]) * rows[5]
    assert_close(features, model.model.multi_modal_projector(stream[:, 1:]), atol=1e-3, rtol=1e-3)
    assert features.shape == (1, 576, 32)
    assert isinstance(steerer.answer(features, ["What is shown?"], max_new_tokens=3)[0], str)


@torch.no_grad()
def test_unclip():
    pipeline = unclip({**LARGE, "image_size": 224})
    steerer = UnclipSteerer(pipeline, sae(23))
    with steerer.tower.site.capture() as seen:
        embedding = steerer.image_embeds(pictures(1), STEERING)
    cls = seen.activations[0][:, 0]
    assert seen.activations[0].shape == (1, 257, 1024)
    z, rows = steerer.tower.sae.encode(cls), steerer.tower.sae.W_dec
    cls = cls + (30 - z[:, 3:4]) * rows[3] + (-20 - z[:, 5:6]) * rows[5]
    encoder = pipeline.image_encoder
    expected = encoder.visual_projection(encoder.vision_model.post_layernorm(cls))
    assert_close(embedding, expected, atol=1e-3, rtol=1e-3)
    assert embedding.shape == (1, 768)
    assert steerer.draw(embedding, [0], num_inference_steps=2)[0].size == (16, 16)


def test_the_saes_of_the_papers_fit_the_papers_layers():
    with pytest.raises(ValueError, match="reads block 22 .*works at block 23"):
        vision = {**LARGE, "image_size": 336, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1}
        LlavaSteerer(*llava(vision), sae_for(16, layer=23))
