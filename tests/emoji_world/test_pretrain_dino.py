import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from training.emoji_world import pretrain_dino
from training.emoji_world.render import SceneRenderer


def test_two_frames_of_a_clip_show_the_same_objects_mostly_elsewhere(atlas, monkeypatch):
    renderer, drawn = SceneRenderer(atlas, 3), []
    batch = renderer.batch

    def recorded(*args, **fixed):
        drawn.append(batch(*args, **fixed))
        return drawn[-1]

    monkeypatch.setattr(renderer, "batch", recorded)
    pixels = pretrain_dino.frames(renderer, 5, 300)
    first, second = drawn
    assert pixels.shape == (600, 3, 64, 64) and pixels.min() >= -1 and pixels.max() <= 1
    np.testing.assert_array_equal(first.concepts, second.concepts)
    # One of twenty backgrounds that change is drawn again.
    stayed = 1 - pretrain_dino.MOVED_ON * 19 / 20
    assert (first.backgrounds == second.backgrounds).mean() == pytest.approx(stayed, abs=0.06)
    assert torch.equal(pixels, pretrain_dino.frames(SceneRenderer(atlas, 3), 5, 300))
    assert not torch.equal(pixels, pretrain_dino.frames(renderer, 6, 300))


def test_loss_tells_partners_apart_by_the_published_embedding(atlas):
    """Written out frame by frame: Chen et al. 2020, eq. 1."""
    torch.manual_seed(0)
    encoder = Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8)
    ).eval()
    pixels = pretrain_dino.frames(SceneRenderer(atlas, 3), 0, 6)
    model = pretrain_dino.FrameContrast(encoder)
    with torch.no_grad():
        loss, figures = model(pixels)
        embedded = encoder(pixels).pooler_output.double().numpy()
    assert all(name.startswith("encoder.") for name in model.state_dict())
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    losses, hits = [], []
    for i in range(12):
        others = [j for j in range(12) if j != i]
        similar = np.array([embedded[i] @ embedded[j] / pretrain_dino.TEMPERATURE for j in others])
        partner = others.index((i + 6) % 12)
        losses.append(np.log(np.exp(similar).sum()) - similar[partner])
        hits.append(similar.argmax() == partner)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-3)
    assert figures["hit"] == pytest.approx(np.mean(hits))
