"""LEACE against its theorem written out with matrix roots, and against what it promises."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torch.testing import assert_close

from cbsae_hub.metrics.erasure import AttributeErasure, leace


def planted(d=6, n=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    attribute = torch.rand(n, generator=generator) < 0.3
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) @ torch.randn(d, d, generator=generator).double()
    return x + 3 + attribute[:, None] * torch.randn(d, generator=generator).double(), attribute


def by_the_theorem(x, attribute):
    """x - W^+ P W (x - mean), with W the root of the inverse covariance, P the projection on W's covariance with z."""
    x, z = x.numpy(), attribute.numpy().astype(float)
    covariance = np.cov(x, rowvar=False, bias=True)
    whitening = np.real(linalg.sqrtm(linalg.pinv(covariance)))
    column = whitening @ ((x - x.mean(0)).T @ (z - z.mean()) / len(z))[:, None]
    projection = linalg.pinv(whitening) @ column @ linalg.pinv(column) @ whitening
    return x - (x - x.mean(0)) @ projection.T


def test_the_closed_form_is_that_of_the_theorem():
    x, attribute = planted()
    assert_close(leace(x, attribute)(x), torch.from_numpy(by_the_theorem(x, attribute)), atol=1e-8, rtol=1e-6)


def test_no_linear_model_reads_the_attribute_and_nothing_moves_less():
    x, attribute = planted()
    erased = leace(x, attribute)(x)
    assert_close(erased[attribute].mean(0), erased[~attribute].mean(0))
    assert_close(erased.mean(0), x.mean(0))
    design = np.column_stack([erased.numpy(), np.ones(len(x))])
    weights = np.linalg.lstsq(design, attribute.numpy().astype(float), rcond=None)[0]
    assert design @ weights == pytest.approx(np.full(len(x), attribute.double().mean()), abs=1e-8)
    moved = (erased - x).square().sum()
    difference = x[attribute].mean(0) - x[~attribute].mean(0)
    unit = difference / difference.norm()
    plain = ((x - x.mean(0)) @ unit)[:, None] * unit  # the difference of means projected out: erases as well
    assert moved < plain.square().sum()


def test_batches_and_a_singular_covariance():
    x, attribute = planted()
    x = torch.cat([x, x[:, :2]], 1)  # two dimensions twice
    erasure = AttributeErasure(8)
    for rows in x.split(90), attribute.split(90):
        assert len(rows) == 5
    for part, of_part in zip(x.split(90), attribute.split(90)):
        erasure.update(part, of_part)
    erased = erasure.compute()(x)
    assert_close(erased, torch.from_numpy(by_the_theorem(x, attribute)), atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="no direction between them"):
        leace(x, torch.zeros(len(x), dtype=torch.bool))
    with pytest.raises(ValueError, match="nothing to erase"):
        leace(torch.ones(4, 3), torch.tensor([True, False, True, False]))
