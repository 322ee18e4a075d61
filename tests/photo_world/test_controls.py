from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from cbsae_hub.models import SAE
from cbsae_hub.scoring import Truth
from training.photo_world.controls import Sight, Split, choose, compare, lifts, look, make_units
from training.photo_world.scenes import SIDE

GRID, D_IN = 4, 8
CELL = SIDE // GRID


class Store(SimpleNamespace):
    """Activations in memory."""

    tokens_per_image = GRID * GRID
    num_images = property(lambda self: len(self.v))

    def of_images(self, images, batch_size):
        for start in range(0, len(images), batch_size):
            yield images[start : start + batch_size], self.v[start : start + batch_size]


def planted(seed: int) -> Split:
    """Scenes of two kinds, each a number of its own at the patch where the cut-out is; other numbers are of nothing."""
    rng, count = np.random.default_rng(seed), 80
    patches, kinds = rng.integers(0, GRID * GRID, count), np.arange(count) % 2
    v = torch.from_numpy(rng.normal(0, 0.05, (count, GRID * GRID, D_IN))).float()
    v[:, :, 2:] += torch.from_numpy(rng.normal(0, 1, (count, 1, D_IN - 2))).float()
    v[np.arange(count), patches, kinds] += 3
    boxes = [[p % GRID * CELL, p // GRID * CELL, (p % GRID + 1) * CELL, (p // GRID + 1) * CELL] for p in patches]
    images = datasets.Dataset.from_dict(
        {
            "kinds": [[("bird", "tool")[kind]] for kind in kinds],
            "background": [("grass", "wood")[i // 2 % 2] for i in range(count)],
            "place": [("top", "bottom")[i // 4 % 2] for i in range(count)],
            "box": np.array(boxes, float).tolist(),
            "cutout": [100 * seed + int(kind) + 2 * (i // 8) for i, kind in enumerate(kinds)],
        }
    )
    return Split.read(images, Store(v=v))


@pytest.fixture(scope="module")
def sae() -> SAE:
    """Two neurons are the directions of the kinds, the others fire on nothing."""
    sae = SAE(D_IN, 16, "relu", seed=0)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_enc[0, 0] = sae.W_enc[1, 1] = 1
        sae.b_enc.fill_(-1)
        sae.b_dec.zero_()
    return sae


def test_neurons_that_are_the_kinds_have_perfect_scores_and_the_controls_have_less(sae):
    probe, test = planted(1), planted(2)
    looks = torch.nn.functional.normalize(torch.randn(80, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    rows, controls = compare(sae, probe, test, looks)
    own, others = controls["units"]["SAE"], [controls["units"][name] for name in list(controls["units"])[1:]]
    assert own["kinds"]["mean"] == pytest.approx(1)
    assert own["in the box"]["mean"] == 1
    assert own["kinds"]["interval"] == pytest.approx([1, 1])
    assert controls["units"]["random directions"]["kinds"]["mean"] < 0.5
    for figures in others:
        low, high = figures["kinds"]["interval"]
        assert low <= figures["kinds"]["mean"] <= high
        difference = figures["kinds"]["less_than_sae"]
        assert difference["mean"] == pytest.approx(1 - figures["kinds"]["mean"])
        assert difference["interval"] == pytest.approx([1 - high, 1 - low])
    assert controls["chance"]["in the box"] == pytest.approx(1 / GRID**2)
    pairs = (looks @ looks.T)[~torch.eye(80, dtype=torch.bool)]
    assert controls["chance"]["monosemanticity"] == pytest.approx(float(pairs.mean()), abs=1e-6)
    of_sae = rows[(rows["units"] == "SAE") & (rows["family"] == "kinds")].set_index("label")
    assert of_sae["unit"].to_dict() == {"bird": 0, "tool": 1}
    assert set(rows["family"]) == {"kinds", "background", "place"}
    again = compare(sae, probe, test, looks)[1]
    assert again == controls


def test_backgrounds_that_no_neuron_knows_are_at_chance(sae):
    figures = compare(sae, planted(1), planted(2), torch.eye(80))[1]["units"]["SAE"]["background"]
    assert abs(figures["mean"]) < 0.2
    assert figures["interval"][0] < 0.2


def test_lifts_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    values, labels = rng.random((50, 3)).astype(np.float32), rng.random((50, 3)) < 0.3
    base = labels.mean(0)
    precision = [average_precision_score(labels[:, i], values[:, i]) for i in range(3)]
    np.testing.assert_allclose(lifts(values, labels), (precision - base) / (1 - base))


def test_the_unit_is_chosen_on_the_probe_split_alone():
    truth = Truth({}, [("kinds", "a"), ("kinds", "b")], np.array([[1, 0], [0, 1], [0, 0], [1, 1]], bool), {})
    mean = np.array([[0, 1, 5], [9, 0, 5], [0, 0, 5], [8, 1, 5]], np.float32)
    assert choose(Sight(mean, mean), truth, [("kinds", "b"), ("kinds", "a")]).tolist() == [0, 1]


def test_units_are_looked_at_in_batches(sae):
    split = planted(3)
    sight = look(split.store, sae.encode, batch_size=7)
    z = sae.encode(split.store.v).detach()
    np.testing.assert_allclose(sight.mean, z.mean(1).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(sight.strongest, z.argmax(1).numpy())
    hits = np.take_along_axis(split.inside, sight.strongest[:, :2], 1)
    assert hits[::2, 0].all() and hits[1::2, 1].all()


def test_patches_whose_middle_is_in_the_box_are_inside():
    images = datasets.Dataset.from_dict(
        {"kinds": [["a"]], "background": ["b"], "place": ["c"], "box": [[0.0, CELL * 0.6, CELL * 1.6, CELL * 3.0]],
         "cutout": [0]}
    )  # fmt: skip
    inside = Split.read(images, Store(v=torch.zeros(1, 16, D_IN))).inside.reshape(GRID, GRID)
    expected = np.zeros((GRID, GRID), bool)
    expected[1:3, :2] = True
    np.testing.assert_array_equal(inside, expected)


def test_controls_have_as_many_units_as_the_sae_and_both_signs_of_each_number(sae):
    v = torch.randn(2, 3, D_IN)
    z = {name: units(v) for name, units in make_units(sae).items()}
    assert [one.shape[-1] for one in z.values()] == [16, 16, 2 * D_IN, 16]
    torch.testing.assert_close(z["single numbers"], torch.cat([v, -v], -1))
