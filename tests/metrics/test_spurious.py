"""Features, groups and choices against loops and cases by hand."""

import numpy as np
import pytest
import torch

from cbsae_hub.metrics.spurious import AttributeMeans, GroupAccuracy, choose, count_groups, find_features

LATENTS = torch.randn(40, 12, generator=torch.Generator().manual_seed(0)).relu()
ATTRIBUTE = torch.arange(40) % 3 == 0


@pytest.mark.parametrize("tau", [1e-6, 0.05, 0.2])
def test_features_are_those_of_equation_9(tau):
    differences = {}
    for neuron in range(12):
        present = [float(z[neuron]) for z, a in zip(LATENTS, ATTRIBUTE) if a]
        absent = [float(z[neuron]) for z, a in zip(LATENTS, ATTRIBUTE) if not a]
        differences[neuron] = np.mean(present) - np.mean(absent)
    expected = sorted((n for n in differences if differences[n] > tau), key=lambda n: -differences[n])
    assert find_features(LATENTS, ATTRIBUTE, tau).tolist() == expected
    means = AttributeMeans(12)
    for rows in (slice(0, 7), slice(7, 8), slice(8, 40)):
        means.update(LATENTS[rows].to_sparse(), ATTRIBUTE[rows])
    assert means.compute().features(tau).tolist() == expected
    assert means.compute().difference.tolist() == pytest.approx(list(differences.values()), abs=1e-6)


@pytest.mark.parametrize(("attribute", "number"), [(torch.ones(40), "all"), (torch.zeros(40), "none")])
def test_an_attribute_of_one_value_is_an_error(attribute, number):
    with pytest.raises(ValueError, match=f"{number} of the 40 images have the attribute"):
        find_features(LATENTS, attribute.bool(), 0.1)


def test_groups_are_counted():
    targets, attribute = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 0, 0, 1]).bool()
    accuracy = count_groups(torch.tensor([0, 0, 1, 1, 0, 0]), targets, attribute, 2)
    assert accuracy.groups == (1, 1 / 2, 1 / 2, 0)
    assert (accuracy.overall, accuracy.worst) == (3 / 6, 0)
    with pytest.raises(ValueError, match="there is no image of class 1 with the attribute"):
        count_groups(targets[:5], targets[:5], attribute[:5], 2)


def test_rules_choose_as_the_paper_says():
    def of(*percent):
        return GroupAccuracy(percent, (100,) * 4)

    baseline = of(90, 80, 70, 40)
    candidates = [
        of(90, 60, 70, 60),  # the best worst group; a group loses 20 points
        of(87, 76, 66, 51),  # loses 4 points at most, but exactly as many overall as are won
        of(86, 76, 66, 50),  # overall is lower
        of(91, 79, 70, 42),
        of(95, 95, 95, 39),  # the worst group loses
    ]
    assert choose(baseline, candidates, "relaxed") == 1
    assert choose(baseline, candidates, "relaxed", drop=0.01) == 3
    assert choose(baseline, candidates, "strict") == 0
    assert choose(baseline, candidates[1:], "strict") == 0
    assert choose(baseline, candidates[2:], "strict") == 1
    assert choose(baseline, candidates[4:], "strict") is None
    assert choose(baseline, [baseline, baseline], "strict") == 1  # of equals the one with fewer features
