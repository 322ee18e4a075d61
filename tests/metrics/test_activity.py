import numpy as np
import pytest
import torch

from cbsae_hub.metrics.activity import ActiveLatents, NeuronActivity, Reconstruction, occupied_bins, status


def test_counts_and_quantiles_of_positive_activations():
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((4000, 5)) < 0.3, rng.lognormal(0, 1.5, (4000, 5)), 0).astype(np.float32)
    dense[:, 4] = 0
    metrics = NeuronActivity(5), NeuronActivity(5)
    for i, rows in enumerate(np.split(dense, 8)):
        values, neurons = torch.from_numpy(rows).sort(dim=1, descending=True)
        metrics[i % 2].update(values, neurons)
    metrics[0].merge_state(metrics[1])
    found = metrics[0].compute()
    for neuron in range(4):
        positive = dense[:, neuron][dense[:, neuron] > 0]
        assert found["density"][neuron].item() == pytest.approx(len(positive) / 4000)
        assert found["max"][neuron].item() == positive.max()
        for q in (50, 99):
            assert found[f"p{q}"][neuron].item() == pytest.approx(
                np.percentile(positive, q, method="inverted_cdf"), rel=0.025
            )
        counts, low = occupied_bins(found["histogram"][neuron])
        edges = low * 2.0 ** (np.arange(len(counts) + 1) / 4)
        assert counts == np.histogram(positive, edges)[0].tolist() and sum(counts) == len(positive)
        assert counts[0] and counts[-1] and edges[0] <= positive.min() and positive.max() <= edges[-1]
    assert found["density"][4] == 0 and found["p99"][4].isnan()
    assert occupied_bins(found["histogram"][4])[0] == [] and np.isnan(occupied_bins(found["histogram"][4])[1])


def test_reconstruction_is_about_the_mean_of_all_tokens():
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(50, 1, (600, 8)) * np.arange(1, 9))
    y = x + torch.from_numpy(rng.normal(0, 0.5, (600, 8)))
    active = torch.from_numpy(rng.integers(0, 9, 600))
    metrics = Reconstruction(8), Reconstruction(8)
    for i in range(6):
        part = slice(100 * i, 100 * i + 100)
        metrics[i % 2].update(x[part].float(), y[part].float(), active[part])
    metrics[0].merge_state(metrics[1])
    found = metrics[0].compute()
    expected = 1 - ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert found["explained_variance"] == pytest.approx(expected.item(), abs=1e-5)
    cosine = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))
    assert found["cosine"] == pytest.approx(cosine.mean().item(), abs=1e-6)
    assert found["l0"] == pytest.approx(active.double().mean().item())


def test_no_variance_is_undefined():
    metric = Reconstruction(2)
    metric.update(torch.ones(3, 2), torch.ones(3, 2), torch.zeros(3))
    assert np.isnan(metric.compute()["explained_variance"])


@pytest.mark.parametrize(
    ("token", "image", "expected"), [(0, 0, "dead"), (5e-5, 0.01, "rare"), (0.01, 0.3, "alive"), (0.2, 1, "dense")]
)
def test_status(token, image, expected):
    assert status(token, image) == expected


def test_active_latents_by_number_and_by_place():
    active = np.random.default_rng(2).integers(0, 6, (40, 9))
    metrics = ActiveLatents(7, 9), ActiveLatents(7, 9)
    for i, rows in enumerate(np.split(active, 5)):
        metrics[i % 2].update(torch.from_numpy(rows))
    metrics[0].merge_state(metrics[1])
    found = metrics[0].compute()
    assert found["histogram"].tolist() == np.histogram(active, np.arange(9))[0].tolist()
    np.testing.assert_allclose(found["by_token"], active.mean(0), rtol=1e-6)
