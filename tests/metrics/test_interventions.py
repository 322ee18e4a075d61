"""Sufficiency and necessity, image by image."""

import numpy as np
import pytest
import torch

from cbsae_hub.metrics import Interventions, interventions


def test_scores_are_those_of_each_image_in_any_order():
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.rand(240, 4, generator=generator) < 0.4 for _ in "ab")
    targets = torch.randint(0, 3, (240,), generator=generator)
    ablated = torch.rand(240, generator=generator) < 0.5
    metrics = [Interventions(4) for _ in "ab"]
    for number, part in enumerate(torch.randperm(240, generator=generator).split(70)):
        metrics[number % 2].update(before[part], after[part], targets[part], ablated[part])
    metrics[0].merge_state(metrics[1])
    scores = metrics[0].compute()
    for concept in range(3):
        for kind, own, chance in (
            (False, scores.sufficiency, scores.sufficiency_chance),
            (True, scores.necessity, scores.necessity_chance),
        ):
            rows = [i for i in range(240) if targets[i] == concept and ablated[i] == kind]
            changed = [bool(after[i, concept]) != kind for i in rows if before[i, concept] == kind]
            others = [
                bool(after[i, c]) != kind for i in rows for c in range(4) if c != concept and before[i, c] == kind
            ]
            assert own[concept] == pytest.approx(np.mean(changed)) and chance[concept] == pytest.approx(np.mean(others))
    assert np.isnan(scores.sufficiency[3]) and np.isnan(scores.necessity_chance[3])


def test_a_neuron_that_decides_scores_one_and_one_that_does_nothing_nought():
    shown = torch.eye(3, dtype=torch.bool).repeat(4, 1)
    targets, ablated = torch.arange(12) % 3, torch.ones(12, dtype=torch.bool)
    without = torch.zeros_like(shown)
    scores = interventions(
        torch.cat([without, shown]), torch.cat([shown, without]), targets.repeat(2), torch.cat([~ablated, ablated])
    )
    assert (scores.sufficiency == 1).all() and (scores.necessity == 1).all() and (scores.sufficiency_chance == 0).all()
    nothing = interventions(shown, shown, targets, ablated)
    assert (nothing.necessity == 0).all() and np.isnan(nothing.sufficiency).all()
    with pytest.raises(ValueError, match="two concepts at least"):
        Interventions(1)
    with pytest.raises(ValueError, match="targets are numbers of concepts"):
        interventions(shown, shown, targets + 1, ablated)
