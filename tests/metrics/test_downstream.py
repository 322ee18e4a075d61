"""Against torchmetrics' accuracy and torch's cross-entropy over everything at once."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional import accuracy

from cbsae_hub.metrics.downstream import CONDITIONS, DownstreamCost

N, CLASSES = 60, 7


def test_equals_the_whole_and_leaves_out_images_without_a_class():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(-1, CLASSES, (N,), generator=generator)
    signal = F.one_hot(targets.clamp_min(0), CLASSES)
    logits = {
        name: strength * signal + torch.randn(N, CLASSES, generator=generator)
        for name, strength in zip(CONDITIONS, (3.0, 1.5, 0.0))
    }
    shards = DownstreamCost(), DownstreamCost()
    for index, rows in enumerate(torch.arange(N).split(11)):
        shards[index % 2].update(targets[rows], **{name: values[rows] for name, values in logits.items()})
    shards[1].merge_state(shards[0])
    found = shards[1].compute()
    known = targets >= 0
    for name, values in logits.items():
        right = accuracy(values[known], targets[known], "multiclass", num_classes=CLASSES, average="micro")
        assert found[f"accuracy_{name}"] == pytest.approx(right.item())
        assert found[f"cross_entropy_{name}"] == pytest.approx(
            F.cross_entropy(values[known], targets[known]).item(), rel=1e-5
        )
    for kind in ("accuracy", "cross_entropy"):
        original, reconstructed, zeroed = (found[f"{kind}_{name}"] for name in CONDITIONS)
        assert found[f"{kind}_recovered"] == pytest.approx((reconstructed - zeroed) / (original - zeroed))


def test_nothing_to_judge_is_undefined_and_bad_input_refused():
    assert all(math.isnan(value) for value in DownstreamCost().compute().values())
    with pytest.raises(ValueError, match="zeroed"):
        DownstreamCost().update(torch.zeros(1, dtype=torch.int64), original=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="reconstructed logits are NaN"):
        good, bad = torch.zeros(1, 2), torch.full((1, 2), torch.nan)
        DownstreamCost().update(torch.zeros(1, dtype=torch.int64), original=good, reconstructed=bad, zeroed=good)
