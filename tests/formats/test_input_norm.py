"""SAEs that normalise each token: every consumer against formulas written out, and what cannot be right is refused."""

import numpy as np
import pytest
import torch
from foreign_files import constant_norm, layer_norm
from sae_formulas import reference_latents
from small_run import CONCEPTS, MemoryActivations, sparse_combinations, teacher
from torch.testing import assert_close

from cbsae_hub import CBSAE, SAE
from cbsae_hub.scoring.single_neurons import SingleNeurons
from cbsae_hub.steering import Edit, Steering, apply
from cbsae_hub.trainers.cbsae.bottleneck import BottleneckState
from cbsae_hub.trainers.cbsae.trainer import add_concepts, evaluate_bottleneck
from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig
from cbsae_hub.trainers.sae.state import SAEState
from cbsae_hub.trainers.sae.trainer import evaluate_sae

NORMS = {"layer_norm": layer_norm, "constant_norm": constant_norm}


@pytest.fixture(params=NORMS)
def norm(request):
    return request.param


@pytest.fixture
def rows():
    """Tokens of very different means and scales."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, 12, generator=generator)
    return x * 10 ** torch.linspace(0, 2, 40)[:, None] + torch.linspace(-3, 3, 40)[:, None]


def by_hand(sae, x, change=lambda z: z):
    """Latents and reconstruction in float64; ``change`` is made to the latents."""
    tokens, back = NORMS[sae.input_norm](x.double().numpy())
    latents = change(reference_latents(sae, tokens))
    p = {name: value.double().numpy() for name, value in sae.state_dict().items()}
    return latents, back(latents @ p["W_dec"] + p["b_dec"])


@pytest.mark.parametrize("variant", ["relu", "topk", "matryoshka", "jumprelu", "gated"])
def test_encode_and_decode_follow_the_formulas(make_sae, variant, norm, rows):
    sae = make_sae(variant, input_norm=norm)
    z, decoded = by_hand(sae, rows)
    out = sae(rows)
    np.testing.assert_allclose(out.latents.detach(), z, atol=1e-5)
    np.testing.assert_allclose(out.reconstruction.detach(), decoded, rtol=1e-5, atol=1e-3)  # up to 100 large
    prefixes = sae.prefix_reconstructions(out.latents, like=rows)
    np.testing.assert_allclose(prefixes[-1].detach(), decoded, rtol=1e-5, atol=1e-3)
    nothing = by_hand(sae, rows, np.zeros_like)[1]
    np.testing.assert_allclose(sae.origin(rows).detach(), nothing, rtol=1e-5, atol=1e-3)
    out.reconstruction.sum().backward()
    assert sae.W_enc.grad.isfinite().all()


def test_without_the_tokens_nothing_is_decoded(make_sae, norm, rows):
    sae = make_sae("topk", input_norm=norm)
    cb = CBSAE.from_sae(sae, range(10), ["one"])
    for model in (sae, cb):
        latents, sparse = model.encode(rows), model.encode_sparse(rows)
        calls = [lambda: model.decode(latents), lambda: model.decode_sparse(*sparse), lambda: model.origin()]  # noqa: B023
        for call in [*calls, *([lambda: sae.prefix_reconstructions(latents)] if model is sae else [])]:  # noqa: B023
            with pytest.raises(ValueError, match=r"normalises each token.*decode\(latents, like=x\)"):
                call()


def test_others_need_no_tokens_and_ignore_them(make_sae, rows):
    sae = make_sae("topk")
    latents = sae.encode(rows)
    assert torch.equal(sae.decode(latents), sae.decode(latents, like=rows * 7))
    assert torch.equal(sae.decode_sparse(*sae.encode_sparse(rows)), sae.decode_sparse(*sae.encode_sparse(rows), rows))
    assert sae.origin() is sae.b_dec and sae.unit(None) == 1.0 and sae.normalized(rows) is rows


def test_tokens_without_any_scale(make_sae, norm):
    sae = make_sae("relu", input_norm=norm)
    out = sae(torch.zeros(2, 12))
    assert out.latents.isfinite().all()
    assert_close(out.reconstruction, torch.zeros(2, 12))
    constant = sae(torch.full((1, 12), 5.0))
    assert constant.reconstruction.isfinite().all()


def test_scale_of_tokens_is_all_that_changes(make_sae, norm, rows):
    sae = make_sae("gated", input_norm=norm)
    assert_close(sae.encode(rows * 4), sae.encode(rows), atol=1e-3, rtol=1e-3)  # but for the epsilon
    assert_close(sae(rows * 4).reconstruction, sae(rows).reconstruction * 4, atol=1e-1, rtol=1e-3)


def test_thresholds_are_calibrated(make_sae, norm, rows):
    sae = make_sae("batch_topk", input_norm=norm)
    sae.calibrate_threshold(rows, 3)
    assert (sae.encode(rows) > 0).sum(-1).float().mean() == 3


def test_what_cannot_be_right_is_refused(make_sae, norm):
    sae = make_sae("batch_topk", input_norm=norm)
    with pytest.raises(ValueError, match="none to fold"):
        sae.fold_input_scale(2.0)
    with pytest.raises(ValueError, match="not trained here"):
        SAEState(sae, SAETrainConfig(d_sae=48, steps=10, batch_size=8))
    with pytest.raises(ValueError, match="input_norm must be one of layer_norm, constant_norm"):
        SAE(4, 8, input_norm="batch_norm")


def test_held_out_figures(make_sae, norm, rows):
    sae = make_sae("topk", input_norm=norm)
    error = rows.double().numpy() - by_hand(sae, rows)[1]
    expected = 1 - (error**2).sum() / ((rows - rows.mean(0)).double() ** 2).sum()
    assert evaluate_sae(sae, [rows[:30], rows[30:]]).explained_variance == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("keep_error", [False, True])
@torch.no_grad()
def test_steering(make_sae, norm, rows, isolate, keep_error):
    """Latents are in the units of the normalised tokens; what they add has the scale of each."""
    sae = make_sae("relu", input_norm=norm)

    def change(z):
        z = z * (not isolate)
        z[:, 7] = 2.0
        return z

    plain, steered = by_hand(sae, rows)[1], by_hand(sae, rows, change)[1]
    expected = steered + (rows.double().numpy() - plain) * keep_error
    edit = Steering([Edit(7, 2.0)], isolate=isolate, keep_error=keep_error)
    found = apply(edit, rows[None], sae, prefix=0)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-3)
    if not keep_error:
        single = SingleNeurons(sae, rows, isolate)
        np.testing.assert_allclose(single.set([3, 7], [1.0, 2.0])[1], expected, rtol=1e-4, atol=2e-3)
        moved = single.displacement([7], [2.0])
        base = by_hand(sae, rows, np.zeros_like)[1] if isolate else plain
        assert_close(
            moved.double(), torch.tensor(np.linalg.norm(steered - base, axis=-1)).mean()[None], rtol=1e-4, atol=0
        )


@pytest.mark.parametrize("isolate", [False, True])
@torch.no_grad()
def test_steering_concepts(make_sae, norm, rows, isolate):
    cb = CBSAE.from_sae(make_sae("relu", input_norm=norm), range(0, 48, 3), ["one", "two"], 1, seed=4)
    z = cb.encode(rows) * (not isolate)
    z[:, [2, 17]] = torch.tensor([1.5, 3.0])
    expected = cb.decode(z, like=rows)
    found = apply(Steering([Edit(2, 1.5), Edit("two", 3.0)], isolate=isolate), rows[None], cb, prefix=0)[0]
    assert_close(found, expected, rtol=1e-4, atol=2e-3)
    single = SingleNeurons(cb, rows, isolate).set([17], [3.0])[0]
    assert_close(single, apply(Steering([Edit("two", 3.0)], isolate=isolate), rows[None], cb, prefix=0)[0])


# ------------------------------------------------------------------------------------------- concept bottlenecks


@pytest.fixture
def world(norm):
    """Activations whose tokens have each their own scale, a pruned SAE of them, and a teacher."""
    train, heldout, _ = sparse_combinations()
    scales = 10 ** torch.rand(3000, 1, generator=torch.Generator().manual_seed(5))
    train = MemoryActivations(train.rows * scales[:2500], 0, 3000)
    heldout = MemoryActivations(heldout.rows * scales[2500:], 2500, 3000)
    sae = SAE(12, 32, "topk", 2, seed=0, input_norm=norm).eval()
    return CBSAE.from_sae(sae, range(0, 32, 2), CONCEPTS, 3, seed=1), train, heldout


def test_the_objectives_are_of_tokens_of_one_scale(world):
    cb, train, _ = world
    state = BottleneckState(cb, CBSAETrainConfig(steps=1, batch_size=50, lr=0.1), *teacher())
    x, images = next(train.labelled_batches(200, 0, 0))
    centred, error, _ = state.prepare(x, images)
    inside, _ = NORMS[cb.input_norm](x.double().numpy())
    z = reference_latents(cb.sae, inside)
    p = {name: value.double().numpy() for name, value in cb.sae.state_dict().items()}
    np.testing.assert_allclose(centred.detach(), inside - p["b_dec"], atol=1e-4)
    np.testing.assert_allclose(error.detach(), inside - z @ p["W_dec"] - p["b_dec"], atol=1e-3)


def test_figures_of_a_bottleneck_are_in_raw_units(world):
    cb, _, heldout = world
    state = BottleneckState(cb, CBSAETrainConfig(steps=1, batch_size=50, lr=0.1), *teacher())
    found = evaluate_bottleneck(state, heldout.labelled_batches(100, 0, 0))
    x = heldout.rows
    with torch.no_grad():
        variance = (x - x.mean(0)).double().square().sum()
        whole = 1 - (x - cb(x).reconstruction).double().square().sum() / variance
        retained = 1 - (x - cb.sae(x).reconstruction).double().square().sum() / variance
    assert found.explained_variance == pytest.approx(whole.item(), abs=1e-4)
    assert found[1] == pytest.approx(retained.item(), abs=1e-4)


def test_a_bottleneck_is_trained_beside_one(world):
    cb, train, _ = world
    config = CBSAETrainConfig(steps=60, batch_size=500, lr=0.02)
    wider = add_concepts(
        cb, ["one more"], train, teacher()[0], lambda names: torch.eye(16)[: len(names)], config=config
    )
    x, images = next(train.labelled_batches(500, 0, 0))
    with torch.no_grad():
        c = wider.concept_activations(x)[:, -1]
        y = teacher()[0][images][:, 6]
    assert np.corrcoef(c, y)[0, 1] > 0.5
    assert torch.equal(wider.W_enc_cb[:, :6], cb.W_enc_cb)
