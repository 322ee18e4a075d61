import numpy as np
import pytest
from PIL import Image

from training.emoji_world.label_attack import write_label


def test_a_label_hides_a_part_of_a_scene_and_leaves_the_rest():
    scene = Image.new("RGB", (64, 64), (200, 30, 60))
    first, again, other = (write_label(scene, "pizza", np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    changed = (np.asarray(first, int) != np.asarray(scene, int)).any(-1)
    assert 0.1 < changed.mean() < 0.7
    ink, paper = np.asarray(first)[changed].sum(-1).min(), np.asarray(first)[changed].sum(-1).max()
    assert ink < 200 and paper > 650
    with pytest.raises(ValueError, match="scenes of 64 x 64 pixels"):
        write_label(scene.resize((32, 32)), "pizza", np.random.default_rng(0))
