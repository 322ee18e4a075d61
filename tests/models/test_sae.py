"""Every variant against its formulas, written again here in numpy and float64."""

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from sae_formulas import reference_latents
from sae_variants import VARIANTS

from cbsae_hub import CBSAE, SAE
from cbsae_hub.models import sparse_latents
from cbsae_hub.models.activations import ACTIVATIONS
from cbsae_hub.models.sae import SAEOutput


def reference_decode(sae, latents):
    return latents @ sae.W_dec.detach().double().numpy() + sae.b_dec.detach().double().numpy()


def test_encode_decode_forward_follow_the_formulas(sae, x):
    z = reference_latents(sae, x)
    out = sae(x)
    assert isinstance(out, SAEOutput)
    np.testing.assert_allclose(sae.encode(x).detach(), z, atol=1e-5)
    np.testing.assert_allclose(out.latents.detach(), z, atol=1e-5)
    np.testing.assert_allclose(out.reconstruction.detach(), reference_decode(sae, z), atol=1e-5)
    assert 0 < (z > 0).mean() < 0.7  # the comparison is of latents that are on and off


def test_preactivations_are_the_magnitudes_before_selection(sae, x):
    pre = sae.preactivations(x)
    active = sae.encode(x) > 0
    assert torch.equal(pre[active], sae.encode(x)[active])
    if sae.activation != "gated":
        expected = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
        torch.testing.assert_close(pre, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0,), (2, 0)])
def test_any_leading_shape(sae, shape):
    x = torch.randn(*shape, sae.d_in)
    out = sae(x)
    assert out.latents.shape == (*shape, sae.d_sae)
    assert out.reconstruction.shape == x.shape
    np.testing.assert_allclose(out.latents.detach(), reference_latents(sae, x), atol=1e-5)
    with torch.no_grad():
        sparse = sae.encode_sparse(x)
        assert torch.equal(sparse.to_dense(sae.d_sae), sae.encode(x))
        torch.testing.assert_close(sae.decode_sparse(*sparse), out.reconstruction)
        torch.testing.assert_close(sae.decode(out.latents), out.reconstruction)


def test_encode_sparse_is_encode(sae, x):
    values, indices = sae.encode_sparse(x)
    dense = sae.encode(x).detach()
    assert values.shape[-1] == (dense > 0).sum(-1).max()
    assert torch.equal(values, dense.sort(-1, descending=True).values[:, : values.shape[-1]])
    assert torch.equal(dense.gather(-1, indices)[values > 0], values[values > 0])
    assert (indices[values == 0] == 0).all()
    assert not values.requires_grad


def test_tokens_without_any_active_latent(make_sae, x):
    sae = make_sae("batch_topk")
    sae.threshold.fill_(1e6)
    values, indices = sae.encode_sparse(x)
    assert values.shape == indices.shape == (len(x), 0)
    with torch.no_grad():
        for reconstruction in (sae.decode_sparse(values, indices), sae(x).reconstruction):
            assert torch.equal(reconstruction, sae.b_dec.expand_as(x))


def test_encode_sparse_keeps_the_strongest(sae, x):
    values, indices = sae.encode_sparse(x, max_active=2)
    full_values, full_indices = sae.encode_sparse(x)
    assert torch.equal(values, full_values[:, :2])
    assert torch.equal(indices, full_indices[:, :2])
    with pytest.raises(ValueError, match="max_active"):
        sae.encode_sparse(x, max_active=0)


def test_encode_sparse_in_chunks_is_the_same(sae, x, monkeypatch):
    whole = sae.encode_sparse(x)
    monkeypatch.setattr("cbsae_hub.models.calibration._CHUNK_TOKENS", 7)
    monkeypatch.setattr("cbsae_hub.models.calibration._CHUNK_SCORES", 1)
    chunked = sae.encode_sparse(x)
    assert torch.equal(chunked.indices, whole.indices)
    torch.testing.assert_close(chunked.values, whole.values)


def test_decode_takes_signed_latents_by_either_way(make_sae, monkeypatch):
    sae = make_sae("topk")
    latents = torch.zeros(9, sae.d_sae)
    latents[0, 3], latents[0, 40], latents[8, 0] = 2.0, -1.5, -3.0
    expected = reference_decode(sae, latents.double().numpy())
    with torch.no_grad():
        for density in (0.0, 1.0):
            monkeypatch.setattr(sparse_latents, "SPARSE_DENSITY", density)
            np.testing.assert_allclose(sae.decode(latents), expected, atol=1e-5)


def test_decode_gives_gradients_to_silent_latents(make_sae):
    sae = make_sae("topk")
    latents = torch.zeros(1, sae.d_sae, requires_grad=True)
    sae.decode(latents).sum().backward()
    torch.testing.assert_close(latents.grad[0], sae.W_dec.sum(-1).detach())


def test_prefix_reconstructions(make_sae, x):
    sae = make_sae("matryoshka")
    latents = sae.encode(x)
    prefixes = sae.prefix_reconstructions(latents)
    for prefix, end in zip(prefixes, (4, 16, 48), strict=True):
        kept = latents.detach().double().numpy().copy()
        kept[:, end:] = 0
        np.testing.assert_allclose(prefix.detach(), reference_decode(sae, kept), atol=1e-5)
    assert sae.group_of.tolist() == [0] * 4 + [1] * 12 + [2] * 32


def test_without_groups_there_is_one(make_sae, x):
    sae = make_sae("relu")
    latents = sae.encode(x)
    torch.testing.assert_close(sae.prefix_reconstructions(latents)[0], sae.decode(latents))
    assert sae.group_of.tolist() == [0] * sae.d_sae
    assert sae.group_sizes is None


@pytest.mark.parametrize("variant", ["topk", "batch_topk"])
def test_k_beyond_the_number_of_neurons_keeps_all(variant, x):
    sae = SAE(12, 48, variant, k=1000, seed=0)
    pre = sae.preactivations(x)
    assert torch.equal(sae.encode(x), pre)
    assert torch.equal(sae.train_latents(x).latents, pre)


def test_an_unset_threshold_means_top_k_and_says_so_once(x, caplog):
    sae, top_k = SAE(12, 48, "batch_topk", k=5, seed=0), SAE(12, 48, "topk", k=5, seed=0)
    assert not sae.threshold_is_set
    assert torch.equal(sae.encode(x), top_k.encode(x))
    assert torch.equal(sae.encode_sparse(x).values, top_k.encode_sparse(x).values)
    assert caplog.text.count("calibrate_threshold") == 1


def test_a_set_threshold_says_nothing(sae, x, caplog):
    with caplog.at_level(logging.WARNING):
        sae.encode(x)
    assert not caplog.records


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(sae, x, dtype):
    sae.to(dtype)
    half = sae(x)
    assert half.latents.dtype == half.reconstruction.dtype == dtype
    # Rounding may carry a latent over the threshold, or another one into the top k, but rarely.
    precision = 0.1 if dtype == torch.bfloat16 else 0.02
    off = np.abs(half.latents.detach().double().numpy() - reference_latents(sae, x)) > precision
    assert off.mean() < 0.01
    reconstruction = reference_decode(sae, half.latents.detach().double().numpy())
    np.testing.assert_allclose(half.reconstruction.detach().double(), reconstruction, atol=4 * precision)
    values, indices = sae.encode_sparse(x)
    assert torch.equal(sae.encode_sparse(x).to_dense(sae.d_sae), half.latents)
    with torch.no_grad():
        decoded = sae.decode_sparse(values, indices)
    torch.testing.assert_close(decoded.float(), half.reconstruction.float(), atol=0.05, rtol=0.05)


def test_half_precision_input_is_computed_in_the_weights_precision(sae, x):
    x = x.half()
    assert sae(x).reconstruction.dtype == torch.float32
    assert torch.equal(sae.encode(x), sae.encode(x.float()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_input_is_an_error(sae, x, bad):
    x[3, 4] = bad
    for function in (sae, sae.encode, sae.encode_sparse):
        with pytest.raises(ValueError, match="NaN or infinite"):
            function(x)


@pytest.mark.parametrize(
    "x", [torch.randn(4, 11), torch.randn(12, 4), torch.ones(4, 12, dtype=torch.int64), np.ones((4, 12)), [0.5] * 12]
)
def test_input_of_the_wrong_kind_is_an_error(make_sae, x):
    for function in (make_sae("topk").encode, make_sae("topk").encode_sparse):
        with pytest.raises(ValueError, match=r"expected floating-point activations \[..., 12\]"):
            function(x)


def test_names_and_shapes_are_those_of_saelens(make_sae):
    matrices = {"W_enc": (12, 48), "W_dec": (48, 12), "b_dec": (12,)}
    extra = {
        "relu": {"b_enc": (48,)},
        "topk": {"b_enc": (48,)},
        "batch_topk": {"b_enc": (48,), "threshold": ()},
        "batch_topk_vector": {"b_enc": (48,), "threshold": (48,)},
        "jumprelu": {"b_enc": (48,), "threshold": (48,)},
        "gated": {"b_gate": (48,), "b_mag": (48,), "r_mag": (48,)},
    }
    for variant, names in extra.items():
        state = make_sae(variant).state_dict()
        assert {name: tuple(value.shape) for name, value in state.items()} == matrices | names


def test_initial_weights():
    sae = SAE(64, 300, seed=3)
    torch.testing.assert_close(sae.decoder_norms(), torch.ones(300))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert sae.W_enc.data_ptr() != sae.W_dec.data_ptr()
    assert sae.W_enc.is_contiguous()
    # Directions uniform on the sphere: pairwise cosines have variance 1 / d_in.
    cosines = (sae.W_dec @ sae.W_dec.T)[~torch.eye(300, dtype=bool)]
    assert abs(cosines.var().item() * 64 - 1) < 0.05
    assert torch.equal(SAE(64, 300, seed=3).W_dec, sae.W_dec)
    assert not torch.equal(SAE(64, 300, seed=4).W_dec, sae.W_dec)
    assert not torch.equal(SAE(64, 300).W_dec, SAE(64, 300).W_dec)


def test_the_seed_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    SAE(8, 16, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_normalize_decoder(make_sae):
    sae = make_sae("relu")
    with torch.no_grad():
        sae.W_dec[5] = 0
    expected = sae.W_dec.detach() / sae.W_dec.detach().norm(dim=1, keepdim=True).clamp_min(1e-9)
    encoder = sae.W_enc.clone()
    sae.normalize_decoder_()
    torch.testing.assert_close(sae.W_dec.detach(), expected)
    assert torch.equal(sae.W_enc, encoder)


def test_fold_input_scale_acts_on_raw_activations(sae, x):
    scaled = copy.deepcopy(sae)(x / 7.5)
    sae.fold_input_scale(7.5)
    raw = sae(x)
    torch.testing.assert_close(raw.latents, 7.5 * scaled.latents, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(raw.reconstruction, 7.5 * scaled.reconstruction, atol=1e-4, rtol=1e-5)
    assert sae.config["norm_factor"] == 7.5
    sae.fold_input_scale(2.0)
    assert sae.config["norm_factor"] == 15.0


def test_fold_input_scale_keeps_an_unset_threshold_unset():
    sae = SAE(12, 48, seed=0)
    sae.fold_input_scale(10.0)
    assert not sae.threshold_is_set
    with pytest.raises(ValueError, match="norm_factor"):
        sae.fold_input_scale(float("nan"))


def test_fold_input_scale_keeps_jumprelu_trainable(make_sae, x):
    """The window of the thresholds' gradient moves with the threshold: the same pre-activations fall into it."""
    sae = make_sae("jumprelu")
    torch.autograd.backward(sae.train_latents(x / 3).penalty)
    before = sae.threshold.grad.clone()
    sae.zero_grad()
    sae.fold_input_scale(3.0)
    torch.autograd.backward(sae.train_latents(x).penalty)
    torch.testing.assert_close(3 * sae.threshold.grad, before, atol=1e-5, rtol=1e-4)
    assert sae.config["bandwidth"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_in": 0}, "d_in must be between"),
        ({"d_in": 12.0}, "d_in must be an integer"),
        ({"d_in": True}, "d_in must be an integer"),
        ({"d_sae": "48"}, "d_sae must be an integer"),
        ({"d_sae": 10**9}, "d_sae must be between"),
        ({"d_in": 2**16, "d_sae": 2**17}, "exceeds the limit"),
        ({"activation": "softmax"}, "activation must be one of relu, topk, batch_topk, jumprelu, gated"),
        ({"activation": ["topk"]}, "activation must be one of"),
        ({"k": 0}, "k must be between"),
        ({"k": None}, "k must be an integer"),
        ({"group_sizes": (8, 8)}, "must sum to 48"),
        ({"group_sizes": ()}, "group_sizes must be a list"),
        ({"group_sizes": 48}, "group_sizes must be a list"),
        ({"group_sizes": (50, -2)}, "group_sizes must be between"),
        ({"group_sizes": "48"}, "group_sizes must be a list"),
        ({"activation": "topk", "threshold_per_neuron": True}, "'batch_topk' only"),
        ({"threshold_per_neuron": 1}, "must be true or false"),
        ({"bandwidth": 0}, "bandwidth must be finite and above 0"),
        ({"bandwidth": "wide"}, "bandwidth must be a number"),
        ({"norm_factor": float("inf")}, "norm_factor must be finite"),
        ({"encoder_id": 5}, "encoder_id must be a text"),
        ({"encoder_id": "x" * 5000}, "encoder_id must be a text"),
        ({"layer": "last"}, "layer must be an integer"),
        ({"preprocessing": [1]}, "preprocessing must be a text or a JSON object"),
        ({"preprocessing": {"mean": float("nan")}}, "preprocessing cannot be written as JSON"),
        ({"training_data": {"a": "x" * 30_000}}, "the limit is"),
        ({"seed": -1}, "seed must be between"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SAE(**({"d_in": 12, "d_sae": 48} | settings))


def test_numpy_numbers_are_numbers(tmp_path):
    sae = SAE(np.int64(12), np.int32(48), group_sizes=(np.int64(16), 32), bandwidth=np.float32(0.5), seed=0)
    sae.save_pretrained(tmp_path)
    assert SAE.from_pretrained(tmp_path).config == SAE(12, 48, group_sizes=(16, 32), bandwidth=0.5, seed=0).config


def test_settings_beyond_any_memory_are_refused_at_once():
    with pytest.raises(ValueError, match="d_in"):
        SAE(10**12, 10**12)


def test_print_says_what_it_is():
    sae = SAE(8, 32, "topk", 4, encoder_id="me/encoder", layer=3, tokens="cls")
    expected = "d_in=8, d_sae=32, activation='topk', k=4, encoder_id='me/encoder', layer=3, tokens='cls'"
    assert repr(sae) == f"SAE({expected})"
    assert repr(SAE(8, 32, "relu")) == "SAE(d_in=8, d_sae=32, activation='relu')"
    cb = repr(CBSAE.from_sae(sae, range(6), ["red", "green"], cb_k=1))
    assert "concepts=2, cb_k=1" in cb and f"SAE({expected.replace('d_sae=32', 'd_sae=6')})" in cb


def test_entries_of_the_provenance_are_read_only_attributes(sae):
    sae.provenance = replace(sae.provenance, layer=np.int64(3), encoder_id="me/encoder")
    assert (sae.layer, sae.encoder_id) == (3, "me/encoder")
    assert (sae.config["layer"], sae.config["norm_factor"]) == (3, None)
    with pytest.raises(AttributeError, match=r"replace\(model.provenance, layer=...\)"):
        sae.layer = 4
    with pytest.raises(ValueError, match="layer must be"):
        replace(sae.provenance, layer=10**6)
    with pytest.raises(TypeError, match="unexpected keyword argument 'encoder'"):
        SAE(8, 16, encoder="me/encoder")


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_activation_function_needs_no_sae(make_sae, x, variant):
    """Hidden values and settings are enough for the latents, in use and in training."""
    sae = make_sae(variant)
    function, hidden, settings = sae.activation_function, sae.hidden(x), sae.activation_settings()
    assert vars(function) == {} and function is ACTIVATIONS[sae.activation]
    assert torch.equal(function.infer(hidden.clone(), settings), sae.encode(x))
    trained = function.train(hidden, sae.decoder_norms(), settings)
    assert torch.equal(trained.latents, sae.train_latents(x).latents)
    assert (trained.gate is None) == (variant != "gated")
