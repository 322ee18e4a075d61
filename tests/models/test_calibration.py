import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cbsae_hub import SAE


def l0(sae, x):
    return (sae.encode(x) > 0).float().sum(-1).mean().item()


@pytest.fixture(params=["batch_topk", "matryoshka", "batch_topk_vector", "jumprelu"])
def variant(request):
    return request.param


@pytest.mark.parametrize("target", [0.4, 3, 5.5, 12])
def test_reaches_the_target_exactly(sae, x, target):
    sae.calibrate_threshold(x, target)
    assert (sae.encode(x) > 0).sum() == round(target * len(x))


def test_equals_a_full_sort(make_sae, x):
    sae = make_sae("batch_topk")
    threshold = sae.calibrate_threshold(x)
    ranked = sae.preactivations(x).flatten().sort(descending=True).values
    assert ranked[5 * 40] < threshold < ranked[5 * 40 - 1]
    assert threshold == pytest.approx((ranked[200] + ranked[199]).item() / 2)
    assert sae.threshold.item() == threshold


def test_is_that_of_batch_top_k_training(make_sae, x):
    """On the data it was calibrated on, inference keeps exactly what a training batch would keep."""
    sae = make_sae("batch_topk")
    sae.calibrate_threshold(x)
    assert torch.equal(sae.encode(x), sae.train_latents(x).latents)


def test_batches_of_any_size_and_form_agree(make_sae):
    sae = make_sae("batch_topk")
    x = torch.randn(600, 12)
    expected = sae.calibrate_threshold(x, 4)
    batches = list(x.split(170))
    loader = torch.utils.data.DataLoader(x, batch_size=90)
    for form in (batches, lambda: iter(batches), loader, x.reshape(2, 300, 12)):
        assert sae.calibrate_threshold(form, 4) == pytest.approx(expected, rel=1e-6)


def test_a_vector_keeps_its_proportions(make_sae, x):
    sae = make_sae("jumprelu")
    before = sae.threshold.detach().clone()
    factor = sae.calibrate_threshold(x, 4)
    torch.testing.assert_close(sae.threshold.detach(), before * factor)
    assert isinstance(sae.threshold, torch.nn.Parameter)


def test_an_unset_vector_becomes_one_number(x):
    sae = SAE(12, 48, k=5, threshold_per_neuron=True, seed=0)
    scalar = SAE(12, 48, k=5, seed=0)
    sae.calibrate_threshold(x)
    scalar.calibrate_threshold(x)
    assert torch.equal(sae.threshold, scalar.threshold.expand(48))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(make_sae, x, dtype):
    """Many pre-activations are equal in half precision; those equal to the threshold stay out."""
    sae = make_sae("batch_topk").to(dtype)
    threshold = sae.calibrate_threshold(x, 5)
    ranked = sae.preactivations(x).flatten().sort(descending=True).values
    assert ranked[200] <= threshold < ranked[199] or ranked[200] == threshold == ranked[199]
    assert l0(sae, x) == (ranked > threshold).sum() / len(x)
    assert abs(l0(sae, x) - 5) < 0.3


def test_more_than_there_is_means_threshold_zero(make_sae, x, caplog):
    sae = make_sae("batch_topk")
    assert sae.calibrate_threshold(x, 48) == 0
    assert "threshold 0" in caplog.text
    assert torch.equal(sae.encode(x), sae.preactivations(x))


def test_parts_on_several_processes(make_sae):
    """Two "processes" (threads that meet at each sum) find what one finds on all the data."""
    x = torch.randn(300, 12)
    expected = make_sae("batch_topk").calibrate_threshold(x, 4)
    barrier, deposits = threading.Barrier(2, timeout=10), [None, None]

    saes = [make_sae("batch_topk"), make_sae("batch_topk")]

    def calibrate(rank):
        def reduce(counts):
            deposits[rank] = counts
            barrier.wait()
            total = deposits[0] + deposits[1]
            barrier.wait()
            return total

        return saes[rank].calibrate_threshold(x[:110] if rank == 0 else x[110:], 4, reduce=reduce)

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(calibrate, range(2)))
    assert found == pytest.approx([expected, expected], rel=1e-6)


@pytest.mark.parametrize("activation", ["relu", "topk", "gated"])
def test_activations_without_a_threshold(x, activation):
    with pytest.raises(ValueError, match="no threshold to calibrate"):
        SAE(12, 48, activation).calibrate_threshold(x)


def test_bad_data(make_sae, x):
    sae = make_sae("batch_topk")
    before = sae.threshold.clone()
    with pytest.raises(ValueError, match="two passes"):
        sae.calibrate_threshold(batch for batch in [x])
    with pytest.raises(ValueError, match="no activations"):
        sae.calibrate_threshold(x[:0])
    with pytest.raises(ValueError, match="no activations"):
        sae.calibrate_threshold([])
    with pytest.raises(ValueError, match="NaN"):
        sae.calibrate_threshold(x * math.nan)
    with pytest.raises(ValueError, match="target_l0"):
        sae.calibrate_threshold(x, 0)
    assert torch.equal(sae.threshold, before)


def test_no_dense_matrix_of_all_tokens_is_made(make_sae, monkeypatch):
    """However many tokens a batch has, only a few at a time are encoded."""
    monkeypatch.setattr("cbsae_hub.models.calibration._CHUNK_TOKENS", 16)
    monkeypatch.setattr("cbsae_hub.models.calibration._CHUNK_SCORES", 1)
    sae = make_sae("batch_topk")
    x = torch.randn(1000, 12)
    sizes = []
    sae.hidden = lambda chunk: sizes.append(len(chunk)) or SAE.hidden(sae, chunk)
    sae.calibrate_threshold(x, 4)
    assert max(sizes) <= 16
    assert sum(sizes) == 2 * len(x)
    assert l0(sae, x) == 4
