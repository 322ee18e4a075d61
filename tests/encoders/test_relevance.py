"""Relevancy maps: where the answer is known, and against the formula written out for a ViT."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from planted import Planted
from tiny_models import BUILD, PATCH, VISION, build, processor
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from cbsae_hub.encoders.relevance import at_resolution
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.models import SAE

WIDTH, GRID = 16, (4, 6)
FAMILIES = [name for name in BUILD if name not in ("CLIPModel", "LlavaForConditionalGeneration", "CLIPVisionModel")]


def sae_on(channel: int, bias: float = 0.0) -> SAE:
    """Neuron 1 is a channel of the activations."""
    sae = SAE(WIDTH, 3, "relu", seed=0)
    with torch.no_grad():
        for weights in sae.parameters():
            weights.zero_()
        sae.W_enc[channel, 1], sae.b_enc[1] = 1.0, bias
    return sae


def copying_model() -> ViTModel:
    """Its only attention, uniform, copies brightness from the patches to channel 2 of every token."""
    size = [rows * PATCH for rows in GRID]
    config = ViTConfig(**{**VISION, "image_size": size, "num_hidden_layers": 2}, intermediate_size=32)
    model = ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.embeddings.patch_embeddings.projection.weight[0] = 1 / (3 * PATCH * PATCH)
        model.embeddings.position_embeddings[..., 1] = 10.0  # so that the norm hardly changes brightness
        weights = dict(model.named_parameters())
        first = [name for name in weights if ".0." in name]
        for name in first:
            if "before.weight" in name:
                weights[name].fill_(1.0)
            if name.endswith(("value.weight", "v_proj.weight")):
                weights[name][0, 0] = 1.0
            if name.endswith(("output.dense.weight", "o_proj.weight")) and weights[name].shape == (WIDTH, WIDTH):
                weights[name][2, 0] = 1.0
    return model


def test_a_cls_latent_is_relevant_to_the_patches_that_it_copies():
    size = {"height": GRID[0] * PATCH, "width": GRID[1] * PATCH}
    prepare = ViTImageProcessor(size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    encoder = VisionEncoder(copying_model(), prepare, 0, "cls")
    planted = Planted((GRID[1] * 20, GRID[0] * 20), (0, 0, GRID[1] * 20, GRID[0] * 20), GRID, count=3)
    pixels = encoder.pixel_values(planted.images)
    bright = F.avg_pool2d(pixels.mean(1, keepdim=True), PATCH)[:, 0].flatten(1)
    tokens = torch.zeros(len(pixels), 1 + bright.shape[1], WIDTH)
    tokens[..., 1], tokens[:, 1:, 0] = 10.0, bright
    values = F.layer_norm(tokens, (WIDTH,), eps=encoder.model.config.layer_norm_eps)[..., 0]
    # A = 1 / tokens in both heads; the latent is the sum of A times the values, which only the first head has.
    expected = (values / values.shape[1]).clamp_min(0)[:, 1:] / 2
    for sae in (sae_on(2, 3.0), sae_on(2, 1.0)):  # also where the latent is larger than what attention adds
        maps = encoder.relevance(planted.images, sae, 1)
        torch.testing.assert_close(maps.flatten(1), expected, atol=1e-6, rtol=1e-4)
    fine = at_resolution(maps, 80, 120)
    for picture, (x, y) in zip(fine, planted.centres):
        row, column = divmod(int(picture.argmax()), 120)
        assert abs(column + 0.5 - x) < 20 and abs(row + 0.5 - y) < 20


def test_a_latent_that_is_not_active_has_an_empty_map():
    encoder = VisionEncoder(build("ViTModel"), processor("ViTModel"), 1, "cls")
    assert not encoder.relevance([Image.new("RGB", (16, 16))], sae_on(0, -100.0), 1).any()
    with pytest.raises(ValueError, match="neuron"):
        encoder.relevance([Image.new("RGB", (16, 16))], sae_on(0), 3)


def by_hand(model, x, sae):
    """Attention of all blocks of a plain ViT, and neuron 1 at its CLS token, by a forward pass written out."""
    weights, heads = model.state_dict(), model.config.num_attention_heads

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    attentions = []
    for i in range(model.config.num_hidden_layers):
        at = f"layers.{i}"
        y = norm(f"{at}.layernorm_before", x)
        q, k, v = (
            linear(f"{at}.attention.{name}_proj", y).unflatten(-1, (heads, -1)).transpose(1, 2) for name in "qkv"
        )
        attentions.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))
        x = x + linear(f"{at}.attention.o_proj", (attentions[-1] @ v).transpose(1, 2).flatten(2))
        y = norm(f"{at}.layernorm_after", x)
        x = x + linear(f"{at}.mlp.fc2", F.gelu(linear(f"{at}.mlp.fc1", y)))
    return attentions, (x[:, 0] @ sae.W_enc + sae.b_enc)[:, 1].relu()


def test_two_blocks_are_as_the_formula_written_out():
    torch.manual_seed(3)
    config = ViTConfig(**{**VISION, "num_hidden_layers": 2}, intermediate_size=32, initializer_range=0.5)
    model = ViTModel(config, add_pooling_layer=False).eval()
    encoder = VisionEncoder(model, processor("ViTModel"), 1, "cls")
    sae = sae_on(5, 9.0)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    attentions, latent = by_hand(model, model.embeddings(pixels).requires_grad_(), sae)
    assert (latent > 0).all()
    first, second = (
        (a * gradient).clamp_min(0).mean(1)
        for a, gradient in zip(attentions, torch.autograd.grad(latent.sum(), attentions))
    )
    after_one = torch.eye(5) + first
    expected = (after_one + second @ after_one)[:, 0, 1:]
    torch.testing.assert_close(encoder.relevance(pixels, sae, 1).flatten(1), expected.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_maps(name):
    model, prepare = build(name), processor(name)
    before = model.config._attn_implementation
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    sae = SAE(WIDTH, 4, "relu", seed=0)
    with torch.no_grad():
        sae.b_enc.fill_(50.0)
    for tokens in ("mean", "patches") + (("cls",) if not name.startswith("Siglip") else ()):
        encoder = VisionEncoder(model, prepare, -2, tokens)
        maps = encoder.relevance([picture, picture], sae, 2)
        assert maps.shape == (2, 2, 2) and (maps > 0).any() and maps.isfinite().all()
        torch.testing.assert_close(maps[0], maps[1])
    assert model.config._attn_implementation == before
    assert not any(weights.requires_grad for weights in encoder._attentive.parameters())
