"""The training rules: latents, penalties, auxiliary terms and their gradients against formulas written again."""

import pytest
import torch

from cbsae_hub import SAE


def select(sae, preactivations, count=None):
    return sae.activation_function.select(preactivations, sae.activation_settings(), count)


def gradients(sae, value):
    sae.zero_grad()
    value.backward()
    return {name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None}


def assert_same_gradients(sae, value, expected):
    ours, theirs = gradients(sae, value), gradients(sae, expected)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_relu(make_sae, x):
    sae = make_sae("relu")
    out = sae.train_latents(x)
    latents = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).clamp_min(0)
    l1 = (latents * sae.W_dec.square().sum(1).sqrt()).sum() / len(x)
    torch.testing.assert_close(out.latents, latents)
    assert_same_gradients(sae, out.penalty, l1)
    assert out.auxiliary == 0


@pytest.mark.parametrize("variant", ["topk", "batch_topk", "matryoshka"])
def test_selection_by_rank(make_sae, x, variant):
    sae = make_sae(variant)
    out = sae.train_latents(x)
    pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).clamp_min(0)
    per_row = variant == "topk"
    ranked = pre.detach().sort(descending=True).values if per_row else pre.detach().flatten().sort().values.flip(0)
    smallest = ranked[:, 5 - 1 : 5] if per_row else ranked[5 * len(x) - 1]
    latents = torch.where(pre >= smallest, pre, 0)
    torch.testing.assert_close(out.latents, latents)
    assert (out.latents > 0).sum() == 5 * len(x)
    assert out.penalty == out.auxiliary == 0
    target = torch.randn_like(latents)
    assert_same_gradients(sae, (out.latents * target).sum(), (latents * target).sum())


@pytest.mark.parametrize("variant", ["topk", "batch_topk"])
def test_train_select_gives_flat_positions_of_positive_entries(make_sae, x, variant):
    sae = make_sae(variant)
    pre = sae.preactivations(x).detach()
    positions = select(sae, pre)
    latents = torch.zeros(pre.numel())
    latents[positions] = pre.flatten()[positions]
    assert torch.equal(latents.view_as(pre), sae.train_latents(x).latents)
    nearly_silent = torch.zeros(4, sae.d_sae)
    nearly_silent[2, 7] = 1.0
    assert select(sae, nearly_silent).tolist() == [2 * sae.d_sae + 7]
    assert select(sae, pre[:0]).tolist() == []


def test_train_select_with_a_share_of_a_global_selection(make_sae, x):
    pre = make_sae("batch_topk").preactivations(x).detach()
    positions = select(make_sae("batch_topk"), pre, count=17)
    assert torch.equal(pre.flatten()[positions].sort().values, pre.flatten().sort().values[-17:])
    assert len(select(make_sae("batch_topk"), pre, count=0)) == 0


@pytest.mark.parametrize("variant", ["relu", "jumprelu", "gated"])
def test_train_select_is_for_selection_by_rank(make_sae, x, variant):
    sae = make_sae(variant)
    assert not sae.activation_function.selects_by_rank
    with pytest.raises(NotImplementedError, match="train_latents"):
        select(sae, sae.preactivations(x))


def test_jumprelu(make_sae, x):
    """Gradients by eq. 11 and 12 of Rajamanoharan et al. (2024), element by element."""
    sae = make_sae("jumprelu")
    out = sae.train_latents(x)
    hidden = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).detach()
    threshold, bandwidth = sae.threshold.detach(), 0.3
    on = hidden > threshold
    torch.testing.assert_close(out.latents, hidden * on)
    assert out.penalty.item() == pytest.approx(on.sum().item() / len(x))

    upstream = torch.randn_like(hidden)
    got = gradients(sae, (out.latents * upstream).sum() + 0 * out.penalty)
    expected_threshold, expected_b_enc = torch.zeros(48), torch.zeros(48)
    expected_l0 = torch.zeros(48)
    for row in range(len(x)):
        for j in range(48):
            distance = (hidden[row, j] - threshold[j]) / bandwidth
            if -0.5 < distance < 0.5:
                expected_threshold[j] -= upstream[row, j] * threshold[j] / bandwidth
                expected_l0[j] -= 1 / bandwidth / len(x)
            if on[row, j]:
                expected_b_enc[j] += upstream[row, j]
    torch.testing.assert_close(got["threshold"], expected_threshold, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got["b_enc"], expected_b_enc, atol=1e-4, rtol=1e-4)
    assert expected_l0.abs().sum() > 0
    l0_gradients = gradients(sae, sae.train_latents(x).penalty)
    torch.testing.assert_close(l0_gradients["threshold"], expected_l0, atol=1e-4, rtol=1e-4)
    assert l0_gradients["b_enc"].abs().sum() == 0 if "b_enc" in l0_gradients else True


def test_jumprelu_with_thresholds_below_zero(make_sae, x):
    """Training may push a threshold below zero; latents stay non-negative and L0 pushes it back."""
    sae = make_sae("jumprelu")
    with torch.no_grad():
        sae.threshold.fill_(-0.05)
    expected = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
    torch.testing.assert_close(sae.encode(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.train_latents(x).latents, expected, atol=1e-5, rtol=1e-5)
    assert (gradients(sae, sae.train_latents(x).penalty)["threshold"] <= 0).all()


def test_gated(make_sae, x):
    """Eq. 8 of Rajamanoharan et al. (2024): the auxiliary loss trains gate and encoder, never the decoder."""
    sae = make_sae("gated")
    out = sae.train_latents(x)
    gate_pre = (x - sae.b_dec) @ sae.W_enc + sae.b_gate
    magnitude = torch.relu((x - sae.b_dec) @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag)
    latents = magnitude * (gate_pre > 0)
    torch.testing.assert_close(out.latents, latents, atol=1e-5, rtol=1e-5)
    target = torch.randn_like(latents)
    assert_same_gradients(sae, (out.latents * target).sum(), (latents * target).sum())

    out = sae.train_latents(x)
    gate = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_gate)
    l1 = (gate * sae.W_dec.norm(dim=1)).sum(-1).mean()
    through_gate = gate @ sae.W_dec.detach() + sae.b_dec.detach()
    auxiliary = ((x - through_gate) ** 2).sum(-1).mean()
    assert_same_gradients(sae, out.penalty + out.auxiliary, l1 + auxiliary)
    assert "W_dec" not in gradients(sae, sae.train_latents(x).auxiliary)


@pytest.mark.parametrize("variant", ["relu", "jumprelu", "gated"])
def test_training_under_autocast_is_close_to_full_precision(make_sae, variant, x):
    sae = make_sae(variant)

    def loss():
        out = sae.train_latents(x)
        return (x - sae.decode(out.latents)).square().mean() + 0.1 * out.penalty + 0.1 * out.auxiliary

    full = gradients(sae, loss())
    with torch.autocast("cpu", torch.bfloat16):
        value = loss()
    half = gradients(sae, value)
    for name, gradient in full.items():
        assert torch.cosine_similarity(half[name].flatten(), gradient.flatten(), dim=0) > 0.97, name


def test_running_threshold():
    sae = SAE(12, 48, seed=0)
    smallest = [0.5, 0.7, 0.2]
    for value in smallest:
        sae.track_threshold_(torch.tensor(value), decay=0.9)
    assert sae.threshold.item() == pytest.approx((0.5 * 0.9 + 0.7 * 0.1) * 0.9 + 0.2 * 0.1)
    assert sae.threshold_is_set
    vector = SAE(12, 48, threshold_per_neuron=True, seed=0)
    vector.track_threshold_(torch.tensor(0.5))
    vector.track_threshold_(torch.tensor(1.5), decay=0.9)
    torch.testing.assert_close(vector.threshold, torch.full((48,), 0.6))


@pytest.mark.parametrize("activation", ["relu", "topk", "batch_topk", "jumprelu", "gated"])
def test_every_variant_learns(activation):
    """A few hundred steps on sparse combinations of known directions lower the held-out error a lot."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 12, generator=generator), dim=-1)

    def sample(n):
        strength = torch.rand(n, 24, generator=generator) + 0.5
        return (strength * (torch.rand(n, 24, generator=generator) < 0.08)) @ directions

    sae = SAE(12, 48, activation, k=2, bandwidth=0.1, seed=0)
    optimiser = torch.optim.Adam(sae.parameters(), lr=5e-3)
    for _ in range(250):
        x = sample(256)
        out = sae.train_latents(x)
        coefficient = {"jumprelu": 0.002, "relu": 0.02, "gated": 0.02}.get(activation, 0)
        error = (x - sae.decode(out.latents)).square().sum(-1).mean()
        optimiser.zero_grad()
        (error + coefficient * out.penalty + out.auxiliary).backward()
        optimiser.step()
        sae.normalize_decoder_()
    held_out = sample(2000)
    if activation == "batch_topk":
        sae.calibrate_threshold(held_out)
    with torch.no_grad():
        reconstruction = sae(held_out).reconstruction
    unexplained = (held_out - reconstruction).var(0).sum() / held_out.var(0).sum()
    assert unexplained < 0.25
