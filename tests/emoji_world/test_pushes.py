import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.emoji_world import latents, pretrain_clip, pushes
from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.paths import HUB
from training.emoji_world.render import NO_OBJECT, SceneRenderer, SceneSpec


@pytest.fixture(scope="module")
def encoder():
    return latents.load_encoder(HUB / "emoji-clip")


@pytest.fixture
def pushing(atlas, encoder, monkeypatch):
    monkeypatch.setattr(pushes, "BATCH", 32)
    monkeypatch.setattr(pushes, "BATCHES", 4)
    return pushes.Pushes(encoder, SceneRenderer(atlas, 6))


def _states(encoder, pixels):
    """The outputs of the last layer but one."""
    outputs = []
    hook = encoder.vision_model.encoder.layers[-2].register_forward_hook(lambda *call: outputs.append(call[-1]))
    with torch.no_grad():
        encoder(pixel_values=pixels)
    hook.remove()
    return outputs[0]


def test_directions_are_from_all_patches_to_those_of_a_concept(atlas, encoder, pushing):
    renderer, everything, of_concept, lengths = SceneRenderer(atlas, 6), [], [[] for _ in atlas.concepts], []
    for index in range(4):
        scenes = renderer.batch(index, 32, SceneSpec(objects=(1,)))
        patches = _states(encoder, scenes.pixels.float() / 127.5 - 1)[:, 1:]
        rng = np.random.default_rng([6, index, 8])
        which, shares = pretrain_clip.patch_targets(scenes, len(atlas.concepts), rng)
        for i in range(32):
            for place, patch in enumerate(which[i].tolist()):
                concept = int(scenes.concepts[i, 0])
                if shares[i, place, concept] == 1:
                    of_concept[concept].append(patches[i, patch])
        everything.append(patches.flatten(0, 1))
        lengths.append(patches.norm(dim=-1).median())
    mean = torch.cat(everything).mean(0)
    torch.testing.assert_close(pushing.mean, mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pushing.length, torch.stack(lengths).mean())
    expected = torch.stack([torch.stack(members).mean(0) - mean for members in of_concept])
    torch.testing.assert_close(pushing.directions, F.normalize(expected, dim=-1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("alone", [True, False])
def test_embeddings_are_what_the_encoder_makes_of_pushed_states(atlas, encoder, pushing, monkeypatch, alone):
    """The push of each token is added to the mean patch if it is alone, else to the picture's."""
    settings = {"ASKEW": 0.0, "EMPTY": 0.0, "ON_WHITE": 0.5, "STRENGTHS": (2.0, 2.0), "ALONE": float(alone)}
    for name, value in settings.items():
        monkeypatch.setattr(pushes, name, value)
    embeddings, concepts, backgrounds = pushing.draw(3, 5)
    assert not alone or (backgrounds == BACKGROUNDS.index("white")).all()
    rng = np.random.default_rng([6, 3, 9])
    rng.integers(len(atlas.concepts), size=5), rng.random(5), rng.random(5), rng.random(5)
    rng.integers(len(BACKGROUNDS), size=5)
    pixels = pushing.renderer.bank.crop(backgrounds, rng) * 2 - 1
    push = (2 * pushing.length * pushing.directions[concepts[:, 0]])[:, None]
    layer = encoder.vision_model.encoder.layers[-2]
    hook = layer.register_forward_hook(lambda _, __, out: (pushing.mean if alone else out) + push.expand_as(out))
    with torch.no_grad():
        expected = encoder(pixel_values=pixels).image_embeds
    hook.remove()
    torch.testing.assert_close(embeddings, expected, atol=1e-4, rtol=1e-4)


def test_pushes_depend_on_seed_and_index_alone_and_show_one_concept_each(atlas, encoder, pushing):
    first, again, other = pushing.draw(0, 40), pushing.draw(0, 40), pushing.draw(1, 40)
    assert all((a == b).all() for a, b in zip(first, again)) and not (first[0] == other[0]).all()
    _, concepts, backgrounds = pushing.draw(2, 400)
    assert set(concepts[:, 0]) == {NO_OBJECT, *range(len(atlas.concepts))} and (concepts[:, 1:] == NO_OBJECT).all()
    empty = concepts[:, 0] == NO_OBJECT
    assert empty.mean() == pytest.approx(0.15, abs=0.06)
    white = backgrounds == BACKGROUNDS.index("white")
    assert white[empty].mean() == pytest.approx(0.3 + 0.7 / 20, abs=0.18)
    assert white[~empty].mean() == pytest.approx(0.5 + 0.5 * (0.3 + 0.7 / 20), abs=0.08)


def test_an_empty_scene_is_pushed_nowhere(encoder, pushing, monkeypatch):
    monkeypatch.setattr(pushes, "EMPTY", 1.0)
    embeddings, concepts, backgrounds = pushing.draw(4, 3)
    assert (concepts == NO_OBJECT).all()
    rng = np.random.default_rng([6, 4, 9])
    rng.integers(len(pushing.directions), size=3), rng.random(3), rng.random(3), rng.random(3)
    rng.integers(len(BACKGROUNDS), size=3)
    with torch.no_grad():
        expected = encoder(pixel_values=pushing.renderer.bank.crop(backgrounds, rng) * 2 - 1).image_embeds
    torch.testing.assert_close(embeddings, expected, atol=1e-4, rtol=1e-4)


def test_a_concept_that_no_scene_shows_is_an_error(atlas, encoder, monkeypatch):
    monkeypatch.setattr(pushes, "BATCH", 4)
    monkeypatch.setattr(pushes, "BATCHES", 1)
    with pytest.raises(ValueError, match="concepts were on none of 4 scenes"):
        pushes.Pushes(encoder, SceneRenderer(atlas, 6))
