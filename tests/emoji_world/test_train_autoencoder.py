import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from diffusers import AutoencoderTiny
from safetensors.torch import load_file

from training.emoji_world import loop, train_autoencoder
from training.emoji_world.glyphs import Atlas
from training.emoji_world.paths import HUB
from training.emoji_world.render import SceneRenderer


@pytest.fixture(autouse=True)
def own_precision():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def pixels(atlas):
    return SceneRenderer(atlas, 0).batch(0, 32, train_autoencoder.SPEC).pixels.float() / 127.5 - 1


@pytest.fixture
def vae(pixels):
    torch.manual_seed(0)
    return train_autoencoder.build(pixels)


def test_fresh_latents_are_the_principal_components_of_4_x_4_pixels(vae, pixels):
    blocks = F.unfold(pixels, 4, stride=4).transpose(1, 2).double().numpy()  # [n, 16 * 16 places, 3 * 4 * 4]
    centred = blocks - blocks.mean((0, 1))
    _, _, components = np.linalg.svd(centred.reshape(-1, 48), full_matrices=False)
    expected = centred @ components[:8].T
    expected *= train_autoencoder.DEVIATION / expected.std()
    with torch.no_grad():
        latents = vae.encode(pixels).latents.flatten(2).transpose(1, 2).double().numpy()[..., ::-1]
    signs = np.sign((latents * expected).sum((0, 1)))
    np.testing.assert_allclose(latents * signs, expected, atol=1e-3)
    assert 0.3e6 < sum(p.numel() for p in vae.parameters()) < 0.6e6


def test_fresh_channels_can_all_learn(vae, pixels):
    drawn = vae.decode(vae.encode(pixels[:4]).latents).sample
    (drawn - pixels[:4]).abs().mean().backward()
    stuck = [name for name, weight in vae.named_parameters() if not weight.grad.abs().max() > 0]
    # What ends in a last convolution of zeros learns from the second step on, as every zeroed residual branch.
    assert all(".conv.0." in name or ".conv.2." in name for name in stuck)


def test_loss_is_the_sum_of_what_is_written(vae, pixels):
    encoder = train_autoencoder.load_encoder(HUB / "emoji-clip")
    noise = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        loss, figures = train_autoencoder.Autoencoding(vae, encoder)(pixels[:4], noise)
        latents = vae.encode(pixels[:4]).latents
        drawn = vae.decode(latents + 0.1 * latents.std() * noise).sample
        seen = [encoder(pixel_values=each, output_hidden_states=True) for each in (drawn, pixels[:4])]
    error = (drawn - pixels[:4]).double().numpy()
    assert figures["pixels"] == pytest.approx(np.sqrt(error**2 + 1e-6).mean(), rel=1e-4)
    edges = np.abs(error[:, :, 1:] - error[:, :, :-1]).mean() + np.abs(error[..., 1:] - error[..., :-1]).mean()
    assert figures["edges"] == pytest.approx(edges, rel=1e-4)

    def cosine(a, b):
        a, b = (each.double().numpy() for each in (a, b))
        return ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean()

    layers = [cosine(a, b) for a, b in zip(*(each.hidden_states[1:] for each in seen))]
    assert len(layers) == encoder.config.num_hidden_layers
    assert figures["patches"] == pytest.approx(1 - np.mean(layers), abs=1e-4)
    embedding = cosine(*(each.image_embeds for each in seen))
    assert figures["embedding"] == pytest.approx(1 - embedding, abs=1e-4)
    assert loss.item() == pytest.approx(sum(figures.values()), rel=1e-5)


def test_nothing_is_lost_where_the_drawing_is_the_scene(vae, pixels, monkeypatch):
    monkeypatch.setattr(vae, "decode", lambda latents: SimpleNamespace(sample=pixels[:4]))
    model = train_autoencoder.Autoencoding(vae, train_autoencoder.load_encoder(HUB / "emoji-clip"))
    loss, _ = model(pixels[:4], torch.zeros(4, 8, 16, 16))
    assert loss.item() == pytest.approx(1e-3, abs=2e-4)  # the square root's smoothing


def test_encoder_stays_as_it_is_while_gradients_pass_through_it(vae, pixels):
    model = train_autoencoder.Autoencoding(vae, train_autoencoder.load_encoder(HUB / "emoji-clip"))
    parts = model._perceptual(moved := pixels[:2].mul(0.9).requires_grad_(), pixels[:2])
    (parts["patches"] + parts["embedding"]).backward()
    assert moved.grad.abs().max() > 0
    assert all(not weight.requires_grad for weight in model.encoder.parameters())


def test_scaled_latents_have_unit_variance(vae, pixels):
    factor = train_autoencoder.measure_scaling(vae, pixels, batch=5)
    with torch.no_grad():
        assert (vae.encode(pixels).latents * factor).var().item() == pytest.approx(1, abs=1e-4)


def _train(folder, monkeypatch, stop_at=None):
    monkeypatch.setattr(train_autoencoder, "train", functools.partial(loop.train, checkpoint_every=2, warmup=1))
    forward, seen = train_autoencoder.Autoencoding.forward, iter(range(100))

    def interrupted(*args):
        if next(seen) == stop_at:
            raise KeyboardInterrupt
        return forward(*args)

    monkeypatch.setattr(train_autoencoder.Autoencoding, "forward", interrupted)
    train_autoencoder.main(
        steps=4, batch=4, precision="bf16", encoder=HUB / "emoji-clip", output=folder / "vae", run=folder / "run",
        learning_rate=1e-3, seed=4,
    )  # fmt: skip
    monkeypatch.setattr(train_autoencoder.Autoencoding, "forward", forward)
    return load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")


def test_resumed_training_publishes_the_same_bits(atlas, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(Atlas, "build", lambda: atlas)
    monkeypatch.setattr(train_autoencoder, "MEASURED", 32)
    whole = _train(tmp_path / "whole", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", monkeypatch, stop_at=3)
    resumed = _train(tmp_path / "parts", monkeypatch)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    vae = AutoencoderTiny.from_pretrained(tmp_path / "whole" / "vae")
    scenes = SceneRenderer(atlas, 4).batch(0, 32, train_autoencoder.SPEC).pixels.float() / 127.5 - 1
    with torch.no_grad():
        assert (vae.encode(scenes).latents * vae.config.scaling_factor).std().item() == pytest.approx(1, abs=1e-3)
