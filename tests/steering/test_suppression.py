"""Suppression inside a tiny CLIP against the sum of decoder rows written out."""

import pytest
import torch
from steerable_models import cbsae_for, pictures, sae_for
from tiny_models import build, processor
from torch.testing import assert_close

from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.steering.latents import RawNeurons
from cbsae_hub.steering.suppression import image_latents, suppress

NAME = "CLIPVisionModelWithProjection"


def encoder(layer=2):
    return VisionEncoder(build(NAME), processor(NAME), layer, "all")


def without(sae, x, features):
    """The reconstruction's difference if latents are zero, one decoder row after the other, for a plain SAE."""
    z = sae.encode(x)
    for feature in features:
        x = x - z[..., feature, None] * sae.W_dec[feature]
    return x


@pytest.mark.parametrize("tokens", ["all", "patches", "cls", None])
@torch.no_grad()
def test_the_part_of_the_features_is_taken_out_where_the_sae_works(tokens):
    one, sae = encoder(), sae_for()
    sae.provenance = type(sae.provenance)(**{**vars(sae.provenance), "tokens": tokens})
    v = one(pictures(3))
    span = {"cls": slice(0, 1), "patches": slice(1, None)}.get(tokens, slice(None))
    features = sae.encode(v[:, span]).amax((0, 1)).topk(3).indices
    expected = v.clone()
    expected[:, span] = without(sae, v[:, span], features.tolist())
    with suppress(one, sae, features):
        edited = one.embed(pictures(3))
    assert_close(edited, one.embed_from(expected), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(edited, one.embed(pictures(3)), atol=1e-4)


@torch.no_grad()
def test_bottlenecks_and_raw_neurons():
    one = encoder()
    v, cb = one(pictures(2)), cbsae_for()
    z = cb.encode(v)
    features = [int(z[..., : cb.d_sae].amax((0, 1)).argmax()), cb.d_sae, cb.d_sae + 1]
    zeroed = z.clone()
    zeroed[..., features] = 0
    with suppress(one, cb, features):
        edited = one.embed(pictures(2))
    assert_close(edited, one.embed_from(v - cb.decode(z) + cb.decode(zeroed)), atol=1e-5, rtol=1e-4)
    raw = v.clone()
    raw[..., [3, 5]] = 0
    with suppress(one, RawNeurons(16, 2), [3, 5]):
        assert_close(one.embed(pictures(2)), one.embed_from(raw), atol=1e-5, rtol=1e-4)


def test_image_level_latents():
    sae, x = sae_for(), torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    z = sae.encode(x)
    assert_close(image_latents(sae, x).to_dense(), z.mean(1))
    assert_close(image_latents(sae, x, "max"), z.amax(1))
    assert_close(image_latents(sae, x, "cls").to_dense(), z[:, 0])
    assert_close(image_latents(RawNeurons(16, 2), x), x.mean(1))


@pytest.mark.parametrize(
    ("sae", "layer", "features", "error"),
    [
        (sae_for(layer=1), 2, [3], "the SAE is of layer 1, the encoder is read at layer 2"),
        (sae_for(d_in=8), 2, [3], "the SAE explains activations of width 8, the encoder's have width 16"),
        (sae_for(), 2, [], "features must be some of 0 to 31"),
        (sae_for(), 2, [32], r"features must be some of 0 to 31, got \[32\]"),
    ],
)
def test_what_does_not_fit_is_an_error(sae, layer, features, error):
    with pytest.raises(ValueError, match=error), suppress(encoder(layer), sae, features):
        pass


def test_patches_of_the_last_block_are_refused():
    sae = sae_for(layer=-1)
    sae.provenance = type(sae.provenance)(**{**vars(sae.provenance), "tokens": "patches"})
    with pytest.raises(ValueError, match="of which the image embedding reads nothing"):
        with suppress(encoder(3), sae, [3]):
            pass
