import functools

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL
from safetensors.torch import load_file

from training.emoji_world import layer_code, loop, train_autoencoder
from training.emoji_world.glyphs import Atlas
from training.emoji_world.render import SceneRenderer


@pytest.mark.parametrize("kl", [False, True])
def test_loss_is_the_sum_of_what_is_written(kl):
    torch.manual_seed(0)
    vae = layer_code.build_kl() if kl else layer_code.build()
    pixels, latents = torch.rand(4, 3, 64, 64) * 2 - 1, torch.randn(4, 64, 4, 4)
    noise = train_autoencoder.draw_noise(torch.Generator().manual_seed(1), 4)
    with torch.no_grad():
        loss, figures = train_autoencoder.Autoencoding(vae)(pixels, latents, noise)
        error = (vae.decode(latents + noise).sample - pixels).double().numpy()
        encoded = vae.encode(pixels)
        wrong = ((encoded.latent_dist.sample() if kl else encoded.latent) - latents).double().numpy()
    assert figures["pixels"] == pytest.approx(np.sqrt(error**2 + 1e-6).mean(), rel=1e-4)
    edges = np.abs(error[:, :, 1:] - error[:, :, :-1]).mean() + np.abs(error[..., 1:] - error[..., :-1]).mean()
    assert figures["edges"] == pytest.approx(edges, rel=1e-4)
    assert figures["read"] == pytest.approx((wrong**2).mean(), rel=1e-4)
    assert loss.item() == pytest.approx(sum(figures.values()), rel=1e-5)


def test_noise_is_of_another_strength_for_each_picture():
    noise = train_autoencoder.draw_noise(torch.Generator().manual_seed(2), 2000).double().numpy()
    strengths = noise.std((1, 2, 3))
    np.testing.assert_allclose(np.quantile(strengths, [0.25, 0.5, 0.75]), [0.125, 0.25, 0.375], atol=0.02)
    assert strengths.max() < 0.55


def _train(folder, monkeypatch, stop_at=None, kl=False):
    monkeypatch.setattr(train_autoencoder, "train", functools.partial(loop.train, checkpoint_every=2, warmup=1))
    forward, calls = train_autoencoder.Autoencoding.forward, iter(range(100))

    def interrupted(*args):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return forward(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train_autoencoder.Autoencoding, "forward", interrupted)
        train_autoencoder.main(
            steps=4, batch=4, precision="bf16", output=folder / "vae", run=folder / "run", learning_rate=1e-5, seed=4,
            kl=kl,
        )  # fmt: skip
    return load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")


def test_resumed_training_publishes_the_same_bits_and_the_code_of_its_latents(atlas, tmp_path, monkeypatch):
    monkeypatch.setattr(Atlas, "build", lambda: atlas)
    monkeypatch.setattr(train_autoencoder, "MEASURED", 32)
    whole = _train(tmp_path / "whole", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", monkeypatch, stop_at=3)
    resumed = _train(tmp_path / "parts", monkeypatch)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    vae = AutoencoderDC.from_pretrained(tmp_path / "whole" / "vae")
    code = layer_code.LayerCode.read(tmp_path / "whole" / "vae" / train_autoencoder.CODE)
    scenes = SceneRenderer(atlas, 4).batch(0, 32, train_autoencoder.SPEC)
    layers = layer_code.weighted_layers(atlas, scenes.concepts, scenes.backgrounds, scenes.styles)
    latents = code.encode(layers)
    assert (latents * vae.config.scaling_factor).std().item() == pytest.approx(1, abs=0.02)
    with torch.no_grad():
        drawn = (vae.decode(latents).sample.clamp(-1, 1) + 1) / 2
    exact = layers[:, :3] + (1 - layers[:, 3:4]) * layers[:, 4:] / layer_code.BACKGROUND
    assert (drawn - exact)[scenes.styles == 0].abs().mean() < 0.1


def test_the_kl_autoencoder_has_the_same_latents(atlas, tmp_path, monkeypatch):
    monkeypatch.setattr(Atlas, "build", lambda: atlas)
    monkeypatch.setattr(train_autoencoder, "MEASURED", 32)
    _train(tmp_path, monkeypatch, kl=True)
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert vae.decode(torch.zeros(1, 64, 4, 4), generator=torch.Generator()).sample.shape == (1, 3, 64, 64)
    code = layer_code.LayerCode.read(tmp_path / "vae" / train_autoencoder.CODE)
    scenes = SceneRenderer(atlas, 4).batch(0, 32, train_autoencoder.SPEC)
    layers = layer_code.weighted_layers(atlas, scenes.concepts, scenes.backgrounds, scenes.styles)
    assert torch.equal(code.encode(layers), layer_code.LayerCode.measure(layers).encode(layers))
