"""All controls: what is frozen stays to the bit, the rest moves, and what is fitted equals another library's."""

import json
from typing import get_args

import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from small_run import D_IN, SETTINGS, sparse_combinations

from cbsae_hub import SAE
from cbsae_hub.trainers.config import BOTH_WAYS, WITHOUT_GRADIENTS, Control, SAETrainConfig
from cbsae_hub.trainers.sae.controls import CONTROLS, make_sae
from cbsae_hub.trainers.sae.state import SAEState
from cbsae_hub.trainers.sae.trainer import SAETrainer

SHORT = SETTINGS | {"steps": 50, "d_sae": 36, "log_every": 25, "eval_every": 25, "checkpoint_every": 20}
TRAIN, HELDOUT, _ = sparse_combinations()


def config_of(control, **settings):
    return SAETrainConfig.from_dict(SHORT | {"control": control} | settings)


def batches(steps=50):
    """The batches of a run, in its order: two passes."""
    both = [batch for epoch in (0, 1) for batch in TRAIN.batches(100, 0, epoch)]
    return both[:steps]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of each control's finished run; None is that of the usual one."""
    made = {}

    def run(control):
        if control not in made:
            folder = tmp_path_factory.mktemp(str(control))
            SAETrainer(config_of(control), TRAIN, HELDOUT, folder).train()
            made[control] = folder
        return made[control]

    return run


def trained(finished, control):
    return SAE.from_pretrained(finished(control))


def start_of(control, d_sae=36):
    return SAE(D_IN, d_sae, "batch_topk", 3, seed=0)


def moved(before, after):
    return not torch.allclose(before, after, atol=1e-3)


def test_every_control_has_a_setting():
    assert {None, *get_args(Control)} == set(CONTROLS)


@pytest.mark.parametrize("control", get_args(Control))
def test_it_is_an_sae_that_every_score_reads(finished, control):
    sae, facts = trained(finished, control), json.loads((finished(control) / "training.json").read_text())
    assert facts["config"]["control"] == control and sae.seed == 0
    steps = 0 if control in ("untrained", "raw_neurons", "random_directions") else 50
    assert facts["tokens_seen"] == 100 * steps
    assert sae.d_sae == (2 * D_IN if control in BOTH_WAYS else 36)
    assert (sae.group_sizes is None) == (control in WITHOUT_GRADIENTS)
    latents = sae.encode(HELDOUT.rows)
    assert (latents > 0).sum(1).float().mean().item() == pytest.approx(3, abs=0.01)
    torch.testing.assert_close(sae.decoder_norms(), torch.ones(sae.d_sae))
    centre = (sae.b_dec - TRAIN.rows.mean(0)).norm() / TRAIN.rows.mean(0).norm()
    assert centre < 0.1 or control not in WITHOUT_GRADIENTS, "activations are seen from their middle"


@pytest.mark.parametrize("activation", ["batch_topk", "relu", "jumprelu", "gated"])
@pytest.mark.parametrize(("control", "frozen"), [("frozen_decoder", "W_dec"), ("frozen_encoder", "W_enc")])
def test_what_is_frozen_stays_to_the_bit_and_all_else_moves(activation, control, frozen):
    config = config_of(control, activation=activation, sparsity_coefficient=0.01)
    state = SAEState(make_sae(config, D_IN), config)
    before = {name: value.detach().clone() for name, value in state.sae.named_parameters()}
    for batch in batches(20):
        state.update((batch - 3) / 4)
    for name, value in state.sae.named_parameters():
        assert torch.equal(value, before[name]) if name == frozen else moved(before[name], value), name


def test_a_frozen_part_does_not_count_in_the_gradient_that_is_clipped():
    def gradient_norm(control):
        config = config_of(control, max_grad_norm=1e9)
        state = SAEState(make_sae(config, D_IN), config)
        norm = state.update((batches(1)[0] - 3) / 4)[1]
        return norm, state.sae

    (whole, _), (part, sae) = gradient_norm(None), gradient_norm("frozen_decoder")
    others = torch.stack([sae.W_enc.grad.norm(), sae.b_enc.grad.norm(), sae.b_dec.grad.norm()]).norm()
    torch.testing.assert_close(part, others)
    assert part < whole


def test_soft_frozen_rows_stay_near_their_start_after_every_step():
    free, held = config_of(None), config_of("soft_frozen_decoder")
    states = [SAEState(make_sae(config, D_IN), config) for config in (free, held)]
    start = states[0].sae.W_dec.detach().clone()
    for batch in batches():
        for state in states:
            state.update((batch - 3) / 4)
        rows = states[1].sae.W_dec
        assert torch.nn.functional.cosine_similarity(rows, start).min() >= 0.8 - 1e-6
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(36))
    free_cosines, cosines = (torch.nn.functional.cosine_similarity(state.sae.W_dec, start) for state in states)
    assert free_cosines.min() < 0.5, "without the rule rows leave"
    assert (cosines < 0.801).any() and (cosines > 0.85).any(), "rows move freely up to there"


def test_soft_freezing_moves_a_row_to_the_nearest_one_that_is_allowed():
    from scipy.optimize import minimize

    generator = torch.Generator().manual_seed(1)
    rows, start = (torch.nn.functional.normalize(torch.randn(5, 4, generator=generator), dim=1) for _ in range(2))
    held = rows.clone()
    CONTROLS["soft_frozen_decoder"].hold(held, start)
    for row, origin, result in zip(rows.double().numpy(), start.double().numpy(), held.double().numpy()):
        limits = [
            {"type": "eq", "fun": lambda v: v @ v - 1},
            {"type": "ineq", "fun": lambda v, origin=origin: v @ origin - 0.8},
        ]
        best = minimize(lambda v, row=row: ((v - row) ** 2).sum(), origin, constraints=limits, tol=1e-10)
        assert result == pytest.approx(best.x, abs=1e-4)


def test_a_permuted_decoder_is_that_of_the_trained_sae_with_no_row_in_its_place(finished):
    sae, permuted = trained(finished, None), trained(finished, "permuted_decoder")
    for name in ("W_enc", "b_enc", "b_dec", "threshold"):
        assert torch.equal(getattr(sae, name), getattr(permuted, name)), name
    same = (permuted.W_dec[:, None] == sae.W_dec[None]).all(2)
    assert same.sum(0).tolist() == same.sum(1).tolist() == [1] * 36
    assert not same.diagonal().any()


def test_untrained_is_the_start_of_the_trained_one(finished):
    untrained, start = trained(finished, "untrained"), start_of("untrained")
    assert torch.equal(untrained.W_dec, start.W_dec) and torch.equal(untrained.W_enc, start.W_enc)
    assert moved(start.W_dec, trained(finished, None).W_dec)


def test_raw_neurons_are_the_dimensions_in_both_directions(finished):
    sae, x = trained(finished, "raw_neurons"), HELDOUT.rows
    offset = x - sae.b_dec
    expected = torch.cat([offset, -offset], 1)
    torch.testing.assert_close(sae.encode(x), torch.where(expected > sae.threshold, expected, 0.0))


def test_random_directions_are_a_rotation_in_both_directions(finished):
    rows = trained(finished, "random_directions").W_dec.detach()
    torch.testing.assert_close(rows[:D_IN] @ rows[:D_IN].T, torch.eye(D_IN), atol=1e-5, rtol=0)
    assert torch.equal(rows[D_IN:], -rows[:D_IN]) and (rows.abs() < 0.95).all()


def test_pca_equals_that_of_sklearn(finished):
    sae, reference = trained(finished, "pca"), PCA().fit(TRAIN.rows.double().numpy())
    axes = torch.from_numpy(reference.components_).float()
    cosines = sae.W_dec.detach()[:D_IN] @ axes.T
    torch.testing.assert_close(cosines.abs(), torch.eye(D_IN), atol=1e-3, rtol=0)
    assert torch.equal(sae.W_dec[D_IN:], -sae.W_dec[:D_IN])
    torch.testing.assert_close(sae.b_dec.detach(), torch.from_numpy(reference.mean_).float(), atol=1e-4, rtol=1e-4)


def test_kmeans_equals_mini_batches_of_sklearn(finished):
    sae = trained(finished, "kmeans")
    rows = torch.cat(batches()).numpy()
    reference = MiniBatchKMeans(36, init=rows[:36], n_init=1, reassignment_ratio=0)
    for batch in batches():
        reference.partial_fit(batch.numpy())
    offsets = torch.from_numpy(reference.cluster_centers_).float() - sae.b_dec.detach()
    expected = torch.nn.functional.normalize(offsets, dim=1)
    torch.testing.assert_close(sae.W_dec.detach(), expected, atol=1e-3, rtol=0)


def test_kmeans_needs_as_many_tokens_as_clusters(tmp_path):
    with pytest.raises(ValueError, match="2500 tokens are fewer than the 2600 clusters: lower expansion"):
        SAETrainer(config_of("kmeans", d_sae=2600), TRAIN, HELDOUT, tmp_path).train()


@pytest.mark.parametrize("control", ["soft_frozen_decoder", "frozen_encoder", "pca", "kmeans"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(finished, tmp_path, control):
    class Stopped(SAETrainer):
        def _report(self, *args):
            if self.state.step == 30:
                raise KeyboardInterrupt
            super()._report(*args)

    with pytest.raises(KeyboardInterrupt):
        Stopped(config_of(control), TRAIN, HELDOUT, tmp_path).train()
    SAETrainer(config_of(control), TRAIN, HELDOUT, tmp_path).train(resume=True)
    whole, resumed = trained(finished, control).state_dict(), SAE.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_permuted_decoder_explains_nothing(finished):
    figures = json.loads((finished("permuted_decoder") / "training.json").read_text())["heldout"]
    assert figures["explained_variance"] < 0
