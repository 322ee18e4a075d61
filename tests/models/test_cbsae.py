"""The concept bottleneck SAE against its parent and its formulas, for every variant of SAE."""

import copy
import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch

from cbsae_hub import CBSAE, SAE
from cbsae_hub.formats.load import load
from cbsae_hub.models import ConfigError, SparseLatents
from cbsae_hub.models.base import ModelFileError, folder_revision
from cbsae_hub.models.cbsae import retain

KEEP = [0, 2, 3, 5, 17, 18, 20, 33, 34, 40, 41, 47]  # of the 48 of conftest.py, some of each of the groups 4, 12, 32
CONCEPTS = ["pizza", "striped fur", "sky", "two dogs", "red", "night", "left"]
PROVENANCE = {
    "encoder_id": "me/encoder",
    "encoder_revision": "abc123",
    "layer": 4,
    "tokens": "patches",
    "preprocessing": {"size": 64},
    "training_data": "me/photos",
}


def bottleneck(sae, keep=KEEP, **settings):
    """With weights of the concepts that are large enough to matter."""
    cb = CBSAE.from_sae(sae, keep, CONCEPTS, **{"cb_k": 3, "seed": 1} | settings)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in (cb.W_enc_cb, cb.W_dec_cb):
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return cb


@pytest.fixture
def cb(sae):
    return bottleneck(sae)


def select_by_hand(c, k, activation):
    """The definition, entry by entry, of rows without ties."""
    kept = np.zeros_like(c)
    for row, out in zip(c, kept):
        for j in np.argsort(-(np.abs(row) if activation == "topk_abs" else row))[:k]:
            out[j] = max(row[j], 0) if activation == "topk_relu" else row[j]
    return kept


def double(tensor):
    return tensor.detach().double().numpy()


# ------------------------------------------------------------------------------------------------- pruning


def on_a_grid(sae):
    """Weights of which all sums of products are exact, in whatever order they are added up."""
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_((parameter * 8).round().clamp(-16, 16) / 8 if name != "r_mag" else parameter * 0)
        if sae.threshold is not None:
            sae.threshold.copy_((sae.threshold * 8).round().clamp_min(1) / 8 + 1 / 128)
    return sae


@pytest.mark.parametrize("keep", [KEEP, KEEP[::-1], [7], list(range(48))])
@torch.no_grad()
def test_the_retained_have_the_latents_they_had(sae, x, keep):
    sae, x = on_a_grid(sae), (x * 8).round() / 8
    if sae.activation != "topk":
        full, cb = sae.encode(x), bottleneck(sae, keep)
        assert torch.equal(cb.encode(x)[:, : len(keep)], full[:, keep]) and (full[:, keep] > 0).any()
        assert torch.equal(cb.to_sae_part().encode(x), full[:, keep])


@torch.no_grad()
def test_the_retained_have_the_latents_they_had_but_for_rounding(sae, x):
    if sae.activation != "topk":
        torch.testing.assert_close(bottleneck(sae).encode(x)[:, : len(KEEP)], sae.encode(x)[:, KEEP])


@pytest.mark.parametrize("calibrated", [True, False])
@torch.no_grad()
def test_where_neurons_compete_the_retained_compete_with_each_other(make_sae, x, calibrated):
    sae = make_sae("topk" if calibrated else "batch_topk")
    if not calibrated:
        sae.threshold.fill_(-1)
    full, z = sae.encode(x)[:, KEEP], bottleneck(sae).encode(x)[:, : len(KEEP)]
    pre = double(((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu())[:, KEEP]
    expected = pre * (pre >= -np.sort(-pre, axis=-1)[:, [sae.k - 1]])
    np.testing.assert_allclose(double(z), expected, atol=1e-5)
    torch.testing.assert_close(z[full > 0], full[full > 0])  # who was active stays so
    assert (z > 0).sum() > (full > 0).sum()


def test_rows_and_columns_are_those_of_the_parent(sae):
    before = copy.deepcopy(sae.state_dict())
    own = bottleneck(sae).sae.state_dict()
    assert own.keys() == before.keys()
    for name, tensor in before.items():
        expected = tensor[:, KEEP] if name == "W_enc" else tensor
        if name not in ("W_enc", "b_dec") and tensor.ndim:
            expected = tensor[KEEP]
        assert torch.equal(own[name], expected), name
        assert torch.equal(sae.state_dict()[name], tensor)
        assert own[name].data_ptr() != sae.state_dict()[name].data_ptr()


@pytest.mark.parametrize(
    ("keep", "sizes", "groups"),
    [
        (KEEP, (3, 1, 8), [0] * 3 + [1] + [2] * 8),
        ([16, 47], (2,), [2, 2]),  # two groups have lost all their neurons
        ([1, 30], (1, 1), [0, 2]),
        ([30, 1], None, [2, 0]),
    ],
)
def test_groups_keep_those_of_their_neurons_that_are_retained(make_sae, x, keep, sizes, groups):
    sae = make_sae("matryoshka")
    cb = bottleneck(sae, keep)
    assert cb.sae.group_sizes == sizes
    assert cb.group_of.tolist() == groups + [3] * len(CONCEPTS)
    prefixes = cb.sae.prefix_reconstructions(cb.sae.encode(x))
    latents, ends = cb.sae.encode(x), np.cumsum(sizes or [len(keep)])
    for prefix, end in zip(prefixes, ends, strict=True):
        torch.testing.assert_close(prefix, latents[:, :end] @ sae.W_dec[keep[:end]] + sae.b_dec)


def test_without_groups_there_is_one_and_that_of_the_concepts(make_sae):
    assert bottleneck(make_sae("relu")).group_of.tolist() == [0] * len(KEEP) + [1] * len(CONCEPTS)


def test_pruning_says_where_it_comes_from(make_sae, tmp_path):
    sae = make_sae("matryoshka", **PROVENANCE)
    sae.save_pretrained(tmp_path)
    sae = SAE.from_pretrained(tmp_path)
    cb = bottleneck(sae, teacher="me/clip", pruning={"by": ["interpretability"]})
    assert (cb.parent["id"], cb.parent["revision"]) == (str(tmp_path), folder_revision(tmp_path))
    assert cb.parent["d_sae"] == 48 and len(cb.parent["sha256"]) == 64
    assert cb.parent["sha256"] == bottleneck(copy.deepcopy(sae)).parent["sha256"]
    with torch.no_grad():
        sae.b_enc[3] += 1e-6
    assert cb.parent["sha256"] != bottleneck(sae).parent["sha256"]
    assert cb.config.items() >= PROVENANCE.items()
    assert cb.config["sae_neuron_ids"] == KEEP and cb.config["teacher"] == "me/clip"
    assert cb.config["concepts_sha256"] == hashlib.sha256("\n".join(CONCEPTS).encode()).hexdigest()
    for name, value in PROVENANCE.items():
        assert getattr(cb, name) == getattr(cb.to_sae_part(), name) == value
    assert (cb.d_in, cb.d_sae, cb.d_latent, cb.k) == (12, 12, 19, 5)


def test_the_sae_part_is_an_sae(cb, x, tmp_path):
    part = cb.to_sae_part()
    part.save_pretrained(tmp_path)
    loaded = SAE.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(x), cb.encode(x)[:, :12])
    assert all(parameter.requires_grad for parameter in part.parameters())
    with torch.no_grad():
        part.W_dec.zero_()
    assert cb.sae.W_dec.any()


def test_names(make_sae):
    names = [f"name {i}" if i % 2 else None for i in range(48)]
    cb = bottleneck(make_sae("relu"), names=names)
    assert cb.neuron_names == [names[i] for i in KEEP] + CONCEPTS
    assert bottleneck(make_sae("relu"), names=pd.Series(names)).neuron_names == cb.neuron_names
    assert bottleneck(make_sae("relu")).neuron_names == [None] * 12 + CONCEPTS
    assert bottleneck(make_sae("relu"), keep=[3, 2], names=names).neuron_names[:2] == ["name 3", None]


def test_names_are_cleaned(make_sae):
    assert CBSAE.from_sae(make_sae("relu"), [1], (" two \n dogs ", "Sky")).concepts == ["two dogs", "Sky"]


# ----------------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize("activation", ["topk_relu", "topk_signed", "topk_abs"])
@pytest.mark.parametrize("k", [1, 3, 7, 100])
def test_it_follows_the_formulas(make_sae, x, activation, k):
    sae = make_sae("batch_topk")
    cb = bottleneck(sae, cb_activation=activation, cb_k=k)
    out = cb(x)
    z = double(sae.encode(x))[:, KEEP]
    c = (double(x) - double(sae.b_dec)) @ double(cb.W_enc_cb)
    np.testing.assert_allclose(double(out.latents), np.concatenate([z, c], -1), atol=1e-5)
    np.testing.assert_allclose(double(cb.encode(x)), double(out.latents))
    selected = select_by_hand(c, k, activation)
    expected = z @ double(sae.W_dec)[KEEP] + double(sae.b_dec) + selected @ double(cb.W_dec_cb)
    np.testing.assert_allclose(double(out.reconstruction), expected, atol=1e-4)
    np.testing.assert_allclose(double(cb.select_concepts(out.latents[:, 12:])), selected, atol=1e-5)
    said = cb.decode_concepts(out.latents[:, 12:])
    np.testing.assert_allclose(double(said), selected @ double(cb.W_dec_cb), atol=1e-4)
    assert (c < 0).any() and (z == 0).any()


@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0,), (2, 0)])
def test_any_leading_shape(cb, shape):
    x = torch.randn(*shape, 12, generator=torch.Generator().manual_seed(3))
    out = cb(x)
    assert out.latents.shape == (*shape, 19) and out.reconstruction.shape == x.shape
    sparse = cb.encode_sparse(x)
    assert torch.equal(sparse.to_dense(19), cb.encode(x))
    with torch.no_grad():
        torch.testing.assert_close(cb.decode_sparse(*sparse), out.reconstruction)


def test_sparse_latents_end_on_the_concepts(cb, x):
    values, indices = cb.encode_sparse(x)
    with pytest.raises(ValueError, match="end on all concepts"):
        cb.decode_sparse(values[:, :-1], indices[:, :-1])
    with pytest.raises(ValueError, match="end on all concepts"):
        cb.decode_sparse(values[:, :3], indices[:, :3])


@torch.no_grad()
def test_active_latents_are_those_that_the_decoder_reads(cb, x):
    active = cb.only_active(cb.encode_sparse(x)).to_dense(cb.d_latent)
    z = cb.encode(x)
    assert torch.equal(active[..., : cb.d_sae], z[..., : cb.d_sae])
    expected = select_by_hand(z[..., cb.d_sae :], cb.cb_k, cb.cb_activation)
    np.testing.assert_array_equal(active[..., cb.d_sae :], expected)


def test_decoder_rows_are_what_one_latent_adds(cb):
    order = torch.tensor([18, 0, 12, 11])
    alone = torch.zeros(4, 19)
    alone[range(4), order] = 1
    torch.testing.assert_close(cb.decoder_rows(order), cb.decode(alone) - cb.b_dec)
    assert torch.equal(cb.decoder_rows(order)[0], cb.W_dec_cb[6])


def test_gradients_reach_what_was_selected_and_the_sae_stays(cb, x):
    before = copy.deepcopy(cb.sae.state_dict())
    adam = torch.optim.Adam([parameter for parameter in cb.parameters() if parameter.requires_grad], 0.1)
    assert {name for name, parameter in cb.named_parameters() if parameter.requires_grad} == {"W_enc_cb", "W_dec_cb"}
    (cb(x).reconstruction - x).square().mean().backward()
    # By plain autograd through a mask.
    encoder, decoder = (w.detach().clone().requires_grad_() for w in (cb.W_enc_cb, cb.W_dec_cb))
    c = (x - cb.b_dec) @ encoder
    mask = torch.from_numpy(select_by_hand(double(c), 3, "topk_relu") != 0)
    (cb.sae(x).reconstruction + (c * mask) @ decoder - x).square().mean().backward()
    torch.testing.assert_close(cb.W_enc_cb.grad, encoder.grad)
    torch.testing.assert_close(cb.W_dec_cb.grad, decoder.grad)
    adam.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in cb.sae.state_dict().items())


def test_gradients_reach_latents(cb, x):
    latents = cb.encode(x).detach().requires_grad_()
    cb.decode(latents).sum().backward()
    torch.testing.assert_close(latents.grad[:, :12], cb.sae.W_dec.sum(1).expand(len(x), 12))
    assert (latents.grad[:, 12:] != 0).sum(1).le(3).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_that_of_the_parent(make_sae, x, dtype, tmp_path):
    cb = bottleneck(make_sae("batch_topk").to(dtype))
    assert {tensor.dtype for tensor in cb.state_dict().values()} == {dtype}
    assert cb(x).reconstruction.dtype == dtype
    cb.save_pretrained(tmp_path)
    assert torch.equal(CBSAE.from_pretrained(tmp_path).encode(x), cb.encode(x))


def test_bad_activations_are_errors(cb, x):
    for bad in (x[:, :5], x.long(), x * float("nan")):
        for function in (cb, cb.encode, cb.encode_sparse):
            with pytest.raises(ValueError, match=r"expected floating-point|NaN or infinite"):
                function(bad)


# --------------------------------------------------------------------------------------------- new weights


def test_initial_weights_are_those_of_a_linear_layer(make_sae):
    sae = SAE(400, 8, "relu", seed=0)
    cb = CBSAE.from_sae(sae, [1, 2], [f"concept {i}" for i in range(900)], seed=5)
    for weight, fan_in in ((cb.W_enc_cb.detach(), 400), (cb.W_dec_cb.detach(), 900)):
        bound = fan_in**-0.5  # torch.nn.Linear: kaiming_uniform_ with a = sqrt(5)
        assert bound * 0.999 < weight.abs().max() <= bound
        assert abs(weight.mean()) < 0.01 * bound
        assert weight.var().item() * 3 / bound**2 == pytest.approx(1, abs=0.01)
    assert abs(torch.corrcoef(torch.stack([cb.W_enc_cb.T.flatten(), cb.W_dec_cb.flatten()]).detach())[0, 1]) < 0.01


def test_the_seed_decides_and_leaves_the_global_generator_alone(make_sae):
    def weights(seed):
        return CBSAE.from_sae(make_sae("relu"), KEEP, CONCEPTS, seed=seed).W_enc_cb.detach()

    assert torch.equal(weights(5), weights(5)) and not torch.equal(weights(5), weights(6))
    sae = make_sae("relu")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    CBSAE.from_sae(sae, KEEP, CONCEPTS, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(weights(None), CBSAE.from_sae(sae, KEEP, CONCEPTS).W_enc_cb)


def test_more_concepts_leave_everything_as_it_was(cb, x):
    wider = cb.with_concepts(["moon", "cup"])
    assert wider.concepts == [*CONCEPTS, "moon", "cup"] and wider.d_latent == cb.d_latent + 2
    assert torch.equal(wider.W_enc_cb[:, :7], cb.W_enc_cb) and torch.equal(wider.W_dec_cb[:7], cb.W_dec_cb)
    assert all(torch.equal(tensor, wider.sae.state_dict()[name]) for name, tensor in cb.sae.state_dict().items())
    assert wider.W_dec_cb[7:].any() and not torch.equal(wider.W_enc_cb[:, 7], wider.W_enc_cb[:, 8])
    assert not any(parameter.requires_grad for parameter in wider.sae.parameters())
    unchanged = cb.config.keys() - {"concepts", "concepts_sha256"}
    assert {name: wider.config[name] for name in unchanged} == {name: cb.config[name] for name in unchanged}
    fresh = CBSAE.from_sae(cb.to_sae_part(), range(12), wider.concepts, seed=1)
    assert torch.equal(fresh.W_enc_cb[:, 7:], wider.W_enc_cb[:, 7:])
    with torch.no_grad():
        wider.sae.W_dec.zero_()
        wider.W_dec_cb.zero_()
    assert cb.sae.W_dec.any() and cb.W_dec_cb.any()


def test_fewer_concepts_leave_the_others_as_they_were(cb, x):
    narrower = cb.without_concepts(["SKY", "left"])
    left = [0, 1, 3, 4, 5]
    assert narrower.concepts == [CONCEPTS[i] for i in left]
    assert torch.equal(narrower.W_enc_cb, cb.W_enc_cb[:, left]) and torch.equal(narrower.W_dec_cb, cb.W_dec_cb[left])
    torch.testing.assert_close(narrower.encode(x), cb.encode(x)[:, [*range(12), *(12 + i for i in left)]])
    assert not any(parameter.requires_grad for parameter in narrower.sae.parameters())


# ---------------------------------------------------------------------------------------- saving and loading


def test_round_trip(cb, x, tmp_path):
    cb.save_pretrained(tmp_path)
    for loaded in (CBSAE.from_pretrained(tmp_path), load(tmp_path), load(str(tmp_path))):
        assert isinstance(loaded, CBSAE) and not loaded.training
        assert loaded.config == cb.config
        assert loaded.state_dict().keys() == cb.state_dict().keys()
        assert all(torch.equal(tensor, cb.state_dict()[name]) for name, tensor in loaded.state_dict().items())
        assert torch.equal(loaded(x).reconstruction, cb(x).reconstruction)
        trained = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
        assert trained == {"W_enc_cb", "W_dec_cb"}
        assert loaded.group_of.tolist() == cb.group_of.tolist()
        assert loaded.revision == folder_revision(tmp_path)
    again = loaded.with_concepts(["moon"])
    again.save_pretrained(tmp_path / "wider")
    assert CBSAE.from_pretrained(tmp_path / "wider").concepts == again.concepts


def test_round_trip_over_the_hub(make_sae, x, hub):
    cb = bottleneck(make_sae("matryoshka", **PROVENANCE))
    cb.push_to_hub("me/cb")
    make_sae("relu").push_to_hub("me/sae")
    loaded = load("me/cb")
    assert torch.equal(loaded.encode(x), cb.encode(x))
    assert isinstance(load("me/sae"), SAE)
    with pytest.raises(ModelFileError, match="does not exist or needs a token"):
        load("me/nothing")
    with pytest.raises(ModelFileError, match="no revision"):
        load("me/cb", revision="v9")


def test_a_config_of_as_many_neurons_as_in_the_paper(tmp_path):
    sae = SAE(2, 65536, "relu", seed=0)
    names = [f"a concept with a long name, number {i}" for i in range(65536)]
    cb = CBSAE.from_sae(sae, range(0, 60000, 2), names[:2169], names=names, seed=0)
    cb.save_pretrained(tmp_path)
    loaded = CBSAE.from_pretrained(tmp_path)
    assert loaded.sae_neuron_ids == list(range(0, 60000, 2)) and loaded.neuron_names == names[:60000:2] + names[:2169]
    assert len((tmp_path / "README.md").read_text()) < 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cb_kk": 3}, r"unknown keys \['cb_kk'\]"),
        ({"concepts": "removed"}, "lacks concepts"),
        ({"concepts": [*CONCEPTS[:-1], "right"]}, "concepts_sha256 is not the hash"),
        ({"concepts": [*CONCEPTS[:-1], ""]}, "names of 1 to"),
        ({"concepts": {}}, "concepts is empty"),
        ({"concepts": None}, "concepts must be a list"),
        ({"sae_neuron_ids": KEEP[:-1]}, "11 sae_neuron_ids for 12 neurons"),
        ({"sae_neuron_ids": [*KEEP[:-1], KEEP[0]]}, "neuron 0 twice"),
        ({"sae_neuron_ids": [*KEEP[:-1], 48]}, "no neuron 48 in the parent_group_sizes"),
        ({"sae_neuron_ids": 5}, "must be a list of neuron ids"),
        ({"sae_config": {}}, "sae_config does not fit an SAE"),
        ({"sae_config": []}, "sae_config"),
        ({"sae_config": {"d_in": 12, "d_sae": 12, "layer": 3}}, "sae_config does not fit an SAE"),
        ({"sae_config": {"d_in": 10**12, "d_sae": 12}}, "d_in must be between"),
        ({"sae_names": ["a"]}, "sae_names must be 12 names"),
        ({"sae_names": [3] * 12}, "sae_names must be a text"),
        ({"parent_group_sizes": [0, 48]}, "parent_group_sizes must be between"),
        ({"parent": 5}, "parent must be a text or a JSON object"),
        ({"cb_activation": "relu"}, "cb_activation must be one of"),
        ({"cb_k": 0}, "cb_k must be between"),
        ({"cb_k": 2.5}, "cb_k must be an integer"),
        ({"layer": "last"}, "layer must be an integer"),
        ({"model_class": "SAE"}, "describes a 'SAE', not a CBSAE"),
    ],
)
def test_bad_configs_are_named(make_sae, tmp_path, change, message):
    bottleneck(make_sae("matryoshka")).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "removed"}))
    with pytest.raises(ConfigError, match=message) as caught:
        CBSAE.from_pretrained(tmp_path)
    assert len(str(caught.value)) < 1000


def test_loading_what_is_no_model_of_this_package(tmp_path):
    with pytest.raises(ModelFileError, match="no config.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_class": "CLIP"}')
    with pytest.raises(ConfigError, match="describes a 'CLIP'; this package has SAE and CBSAE"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_class": ["SAE"]}')
    with pytest.raises(ConfigError, match="describes a"):
        load(tmp_path)


def test_the_card_says_what_it_is(make_sae):
    card = str(bottleneck(make_sae("relu", **PROVENANCE)).generate_model_card(repo_id="me/cb"))
    for text in (
        "12 neurons retained",
        "7 concept neurons",
        "CBSAE.from_pretrained('me/cb')",
        "base_model: me/encoder",
    ):
        assert text in card
    assert "| sae_neuron_ids | `12` |" in card and "concept-bottleneck" in card


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": []}, "keep is empty: retain at least one"),
        ({"keep": [3, 4, 3]}, "keep has neuron 3 twice"),
        ({"keep": [48]}, "keep must be between 0 and 47, got 48"),
        ({"keep": [-1]}, "keep must be between 0"),
        ({"keep": [1.5]}, "keep must be an integer"),
        ({"keep": [True]}, "keep must be an integer"),
        ({"keep": 5}, "keep must be a list"),
        ({"keep": torch.tensor([[1, 2]])}, "keep must be an integer"),
        ({"keep": torch.ones(48, dtype=torch.bool)}, "keep must be an integer"),
        ({"concepts": []}, "concepts is empty"),
        ({"concepts": ["sky", " "]}, "names of 1 to"),
        ({"concepts": ["sky", "x" * 2000]}, "names of 1 to"),
        ({"concepts": ["sky", "moon", "sky"]}, "'sky' is there twice"),
        ({"concepts": ["two dogs", "Two  Dogs"]}, "'two dogs' is there twice; case, white space"),
        ({"concepts": ["Café", "CAFE\u0301"]}, "'Café' is there twice"),
        ({"concepts": ["sky", "\u200b"]}, "names of 1 to 1000 characters"),
        ({"concepts": ["sky", None]}, "names of 1 to"),
        ({"concepts": "sky"}, "concepts must be a list"),
        ({"cb_k": 0}, "cb_k must be between"),
        ({"cb_activation": "topk"}, "cb_activation must be one of"),
        ({"names": ["a"] * 47}, "names must be 48 names"),
        ({"names": [5] * 48}, "names must be a text"),
        ({"teacher": 5}, "teacher must be"),
        ({"seed": -1}, "seed must be between"),
    ],
)
def test_bad_arguments_are_named(make_sae, arguments, message):
    arguments = {"keep": KEEP, "concepts": CONCEPTS} | arguments
    with pytest.raises(ValueError, match=message):
        CBSAE.from_sae(make_sae("relu"), **arguments)


def test_a_bottleneck_is_not_made_of_another(cb):
    with pytest.raises(ValueError, match=r"CBSAE already: take its to_sae_part\(\), or with_concepts"):
        CBSAE.from_sae(cb, [0], ["moon"])


@pytest.mark.parametrize("keep", [np.array(KEEP), torch.tensor(KEEP), tuple(KEEP), iter(KEEP), map(np.int64, KEEP)])
def test_ids_of_any_kind(make_sae, keep):
    assert CBSAE.from_sae(make_sae("relu"), keep, iter(CONCEPTS)).sae_neuron_ids == KEEP


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cb: cb.with_concepts([]), "is empty"),
        (lambda cb: cb.with_concepts(["Sky"]), "'sky' is there twice"),
        (lambda cb: cb.with_concepts("moon"), "must be a list"),
        (lambda cb: cb.without_concepts([]), "is empty"),
        (lambda cb: cb.without_concepts(["moon"]), "no concept 'moon'"),
        (lambda cb: cb.without_concepts("sky"), "must be a list"),
        (lambda cb: cb.without_concepts(CONCEPTS), "is empty"),
        (lambda cb: retain(cb.to_sae_part(), []), "retain at least one"),
    ],
)
def test_changes_of_the_concepts_that_change_nothing_or_leave_nothing_are_errors(make_sae, change, message):
    with pytest.raises(ValueError, match=message):
        change(bottleneck(make_sae("relu")))


def test_sparse_latents_of_the_sae_alone(make_sae, x):
    part = retain(make_sae("jumprelu"), KEEP)
    assert isinstance(part.encode_sparse(x), SparseLatents)
    assert torch.equal(part.encode_sparse(x).to_dense(12), part.encode(x))
