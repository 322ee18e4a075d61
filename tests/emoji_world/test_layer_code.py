"""The linear code of layers, against singular value decompositions, and the decoder that begins as its inverse."""

import numpy as np
import pytest
import torch

from training.emoji_world import layer_code
from training.emoji_world.render import STYLES, SceneRenderer, SceneSpec, canonical_pictures


@pytest.fixture(scope="module")
def contents(atlas):
    """The arguments of canonical pictures."""
    scenes = SceneRenderer(atlas, 0).batch(0, 96, SceneSpec(objects=(1, 2), style_share=0.3))
    return atlas, scenes.concepts, scenes.backgrounds, scenes.styles


@pytest.fixture(scope="module")
def layers(contents):
    return layer_code.weighted_layers(*contents)


@pytest.fixture(scope="module")
def code(layers):
    return layer_code.LayerCode.measure(layers)


def _blocks(grid: np.ndarray) -> np.ndarray:
    """``[n, h, w, c]`` with 2 x 2 positions side by side."""
    n, side, _, width = grid.shape
    blocks = grid.reshape(n, side // 2, 2, side // 2, 2, width).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, side // 2, side // 2, 4 * width)


def _composed(objects: np.ndarray, opacity: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Objects, and the background where it is more than the opacity."""
    return np.maximum(objects, 0) + np.maximum(background - opacity, 0)


def test_latents_are_principal_components_of_principal_components(layers, code):
    grid = layers.double().numpy().transpose(0, 2, 3, 1)
    for width in (28, 64, 128, 64):
        grid = _blocks(grid)
        rows = grid.reshape(-1, grid.shape[-1])
        centred = rows - rows.mean(0)
        _, _, components = np.linalg.svd(centred, full_matrices=False)
        grid = (centred @ components[:width].T).reshape(*grid.shape[:3], -1)
    expected = grid.reshape(-1, 64) / np.sqrt(grid.reshape(-1, 64).std(0))
    expected /= expected.std()
    latents = code.encode(layers).double().numpy().transpose(0, 2, 3, 1).reshape(-1, 64)
    leading = slice(0, 16)  # of a small atlas the later components are no better than others
    signs = np.sign((latents * expected).sum(0))
    np.testing.assert_allclose((latents * signs)[:, leading], expected[:, leading], atol=0.05)
    assert latents.var() == pytest.approx(1, abs=0.02)


def test_a_code_is_read_as_it_was_saved(layers, code, tmp_path):
    code.save(tmp_path / "code.safetensors")
    read = layer_code.LayerCode.read(tmp_path / "code.safetensors")
    assert torch.equal(read.encode(layers), code.encode(layers))


def test_a_fresh_decoder_draws_what_the_code_stands_for(layers, code):
    vae = layer_code.build()
    layer_code.start_as_inverse(vae.decoder, code)
    latents = code.encode(layers)
    grid = (latents * code.deviations[:, None, None]).double().numpy().transpose(0, 2, 3, 1)
    for mean, components in zip(code.means[::-1], code.components[::-1]):
        rows = grid @ components.double().numpy() + mean.double().numpy()
        n, side, _, width = rows.shape
        corners = rows.reshape(n, side, side, 2, 2, width // 4).transpose(0, 1, 3, 2, 4, 5)
        grid = corners.reshape(n, 2 * side, 2 * side, width // 4)
    expected = 2 * _composed(grid[..., :3], grid[..., 3:4], 2 * grid[..., 4:]) - 1
    with torch.no_grad():
        drawn = vae.decode(latents).sample.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(drawn, expected, atol=5e-3)


def test_layers_compose_to_the_picture_but_at_soft_edges(contents, layers):
    """A ReLU hides all of a background behind opaque objects, and too much of it where they are half opaque."""
    objects, opacity, background = (
        part.numpy().transpose(0, 2, 3, 1) for part in (layers[:, :3], layers[:, 3:4], 2 * layers[:, 4:])
    )
    pictures = canonical_pictures(*contents).numpy().transpose(0, 2, 3, 1) / 255
    exact = (objects + (1 - opacity) * background)[np.isin(contents[3], [STYLES.index("plain"), 1, 2])]
    np.testing.assert_allclose(exact, pictures[np.isin(contents[3], [0, 1, 2])], atol=3e-3)
    hard = ((opacity < 1e-3) | (opacity > 0.999))[..., 0] & np.isin(contents[3], [0, 1])[:, None, None]
    assert hard.mean() > 0.4
    np.testing.assert_allclose(_composed(objects, opacity, background)[hard], pictures[hard], atol=5e-3)


def test_a_fresh_autoencoder_can_all_learn(layers, code):
    vae = layer_code.build()
    layer_code.start_as_inverse(vae.decoder, code)
    pixels = torch.rand(4, 3, 64, 64) * 2 - 1
    loss = vae.decode(code.encode(layers[:4])).sample.square().mean() + vae.encode(pixels).latent.square().mean()
    loss.backward()
    stuck = {name for name, weight in vae.named_parameters() if not weight.grad.abs().max() > 0}
    # What ends in a norm of zeros learns from the second step on, as every zeroed residual branch.
    assert all(name.startswith("decoder.") and (".conv1." in name or ".conv2." in name) for name in stuck)
    assert 1e6 < sum(p.numel() for p in vae.parameters()) < 4e6
