import numpy as np

from training.emoji_world.glyphs import Atlas
from training.emoji_world.render import SceneRenderer
from training.emoji_world.scenes import CHUNK, SPEC, scene_captions, scene_dataset


def test_rows_are_drawn_on_access_and_depend_on_their_index_alone(atlas):
    dataset = scene_dataset(seed=3, count=5 * CHUNK, atlas=atlas)
    late = dataset[3 * CHUNK + 5]
    assert len(dataset) == 5 * CHUNK
    expected = SceneRenderer(atlas, 3).batch(3, CHUNK, SPEC)
    np.testing.assert_array_equal(np.asarray(late["image"]), expected.pixels[5].permute(1, 2, 0).numpy())
    together = dataset[3 * CHUNK : 3 * CHUNK + 8]
    assert together["objects"][5] == late["objects"]
    assert together["caption"][5] == late["caption"]
    np.testing.assert_array_equal(np.asarray(together["image"][5]), np.asarray(late["image"]))


def test_captions_are_those_of_the_scenes(atlas, monkeypatch):
    monkeypatch.setattr(Atlas, "build", lambda: atlas)
    expected, captions = scene_dataset(3, CHUNK + 2)[: CHUNK + 2]["caption"], scene_captions(3, CHUNK + 2)
    assert captions[: CHUNK + 9] == list(captions) == expected and captions[-1] == expected[-1]
