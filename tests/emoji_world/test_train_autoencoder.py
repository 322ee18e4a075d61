import functools

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file

from training.emoji_world import loop, train_autoencoder
from training.emoji_world.glyphs import Atlas
from training.emoji_world.render import SceneRenderer, canonical_pictures


@pytest.fixture(scope="module")
def pixels(atlas):
    return SceneRenderer(atlas, 0).batch(0, 128, train_autoencoder.SPEC).pixels.float() / 127.5 - 1


@pytest.fixture
def vae(pixels):
    torch.manual_seed(0)
    return train_autoencoder.build(pixels)


def _principal(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the first principal components, and the components."""
    centred = rows - rows.mean(0)
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    return centred @ components[:count].T, components[:count]


def test_fresh_latents_are_principal_components_of_principal_components(vae, pixels):
    """Four times: the values of 2 x 2 places side by side, and the 48 best components of that."""
    grid = pixels.double().numpy().transpose(0, 2, 3, 1)
    for _ in range(4):
        n, side, _, width = grid.shape
        blocks = grid.reshape(n, side // 2, 2, side // 2, 2, width).transpose(0, 1, 3, 2, 4, 5)
        rows = blocks.reshape(-1, 4 * width)
        scores, _ = _principal(rows, min(48, 4 * width))
        grid = scores.reshape(n, side // 2, side // 2, -1)
    expected, _ = _principal(grid.reshape(-1, 48), 48)
    expected = expected / np.sqrt(expected.std(0))
    expected *= 0.5 / expected.std()
    with torch.no_grad():
        latents = vae.encode(pixels).latents.double().numpy().transpose(0, 2, 3, 1).reshape(-1, 48)
    signs = np.sign((latents * expected).sum(0))
    np.testing.assert_allclose(latents * signs, expected, atol=2e-2)
    assert (np.diff(latents.std(0)) < 1e-3).all()  # the largest first
    assert 0.5e6 < sum(p.numel() for p in vae.parameters()) < 1e6


def test_encoder_is_linear_and_is_not_trained(vae, pixels):
    with torch.no_grad():
        one, other, between = (
            vae.encode(each).latents for each in (pixels[:4], pixels[4:8], pixels[:8].view(2, 4, 3, 64, 64).mean(0))
        )
    torch.testing.assert_close(between, (one + other) / 2, atol=1e-4, rtol=1e-4)
    assert not any(weight.requires_grad for weight in vae.encoder.parameters())


def test_fresh_decoder_can_all_learn(vae, pixels):
    drawn = vae.decode(vae.encode(pixels[:4]).latents).sample
    (drawn - pixels[:4]).abs().mean().backward()
    stuck = [name for name, weight in vae.decoder.named_parameters() if not weight.grad.abs().max() > 0]
    # What ends in a last convolution of zeros learns from the second step on, as every zeroed residual branch.
    assert all(".conv.0." in name or ".conv.2." in name for name in stuck)


def test_loss_is_the_sum_of_what_is_written(vae, pixels):
    noise = train_autoencoder.draw_noise(torch.Generator().manual_seed(1), 4)
    with torch.no_grad():
        loss, figures = train_autoencoder.Autoencoding(vae)(pixels[:4], noise)
        drawn = vae.decode(vae.encode(pixels[:4]).latents + 0.5 * noise).sample
    error = (drawn - pixels[:4]).double().numpy()
    assert figures["pixels"] == pytest.approx(np.sqrt(error**2 + 1e-6).mean(), rel=1e-4)
    edges = np.abs(error[:, :, 1:] - error[:, :, :-1]).mean() + np.abs(error[..., 1:] - error[..., :-1]).mean()
    assert figures["edges"] == pytest.approx(edges, rel=1e-4)
    assert loss.item() == pytest.approx(sum(figures.values()), rel=1e-5)


def test_noise_is_of_another_strength_for_each_picture():
    noise = train_autoencoder.draw_noise(torch.Generator().manual_seed(2), 2000).double().numpy()
    strengths = noise.std((1, 2, 3))
    np.testing.assert_allclose(np.quantile(strengths, [0.25, 0.5, 0.75]), [0.125, 0.25, 0.375], atol=0.02)
    assert strengths.max() < 0.55


def _train(folder, monkeypatch, stop_at=None):
    monkeypatch.setattr(train_autoencoder, "train", functools.partial(loop.train, checkpoint_every=2, warmup=1))
    forward, calls = train_autoencoder.Autoencoding.forward, iter(range(100))

    def interrupted(*args):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return forward(*args)

    monkeypatch.setattr(train_autoencoder.Autoencoding, "forward", interrupted)
    train_autoencoder.main(
        steps=4, batch=4, precision="bf16", output=folder / "vae", run=folder / "run", learning_rate=1e-3, seed=4
    )
    monkeypatch.setattr(train_autoencoder.Autoencoding, "forward", forward)
    return load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")


def test_resumed_training_publishes_the_same_bits(atlas, tmp_path, monkeypatch):
    monkeypatch.setattr(Atlas, "build", lambda: atlas)
    monkeypatch.setattr(train_autoencoder, "MEASURED", 32)
    whole = _train(tmp_path / "whole", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", monkeypatch, stop_at=3)
    resumed = _train(tmp_path / "parts", monkeypatch)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    vae = AutoencoderTiny.from_pretrained(tmp_path / "whole" / "vae")
    scenes = SceneRenderer(atlas, 4).batch(0, 32, train_autoencoder.SPEC)
    pictures = canonical_pictures(atlas, scenes.concepts, scenes.backgrounds, scenes.styles).float() / 127.5 - 1
    with torch.no_grad():
        assert (vae.encode(pictures).latents * vae.config.scaling_factor).std().item() == pytest.approx(1, abs=1e-2)
