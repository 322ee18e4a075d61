"""What becomes of activations, compared with edits made latent by latent."""

import math
from dataclasses import replace

import pytest
import torch
from steerable_models import NAMES, Bottleneck, cbsae_for, edited_by_hand, sae_for, table
from torch.testing import assert_close

from cbsae_hub import CBSAE, SAE
from cbsae_hub.steering import DiffMean, Edit, RandomDirection, Steering, apply, resolve
from cbsae_hub.steering.edits import steer
from cbsae_hub.steering.latents import RawNeurons

EDITS = [(3, 2.5, "set"), (7, -1.5, "add"), (0, 3.0, "scale"), (30, -4.0, "set")]
OF_CONCEPTS = [(33, 0.9, "set"), (35, -9.0, "set"), (32, 1.5, "add"), (34, -2.0, "scale")]
CBSAES = ["topk_relu", "topk_signed", "topk_abs"]


@pytest.fixture
def v():
    return torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))


def model(kind):
    torch.manual_seed(0)
    if kind == "bottleneck":
        return Bottleneck()
    if kind.startswith("topk_"):
        return cbsae_for(cb_activation=kind)
    if kind == "raw":
        return RawNeurons(16, 2)
    sae = sae_for(activation=kind)
    if kind in ("batch_topk", "jumprelu"):
        sae.calibrate_threshold(torch.randn(200, 16), 6)
    return sae


@pytest.mark.parametrize("kind", ["relu", "topk", "batch_topk", "jumprelu", "gated", "bottleneck", *CBSAES])
@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("keep_error", [False, True])
@torch.no_grad()
def test_apply_is_the_edit_latent_by_latent(v, kind, isolate, keep_error):
    sae = model(kind)
    concepts = OF_CONCEPTS if kind in ("bottleneck", *CBSAES) else []
    for edits in [[edit] for edit in EDITS + concepts] + [concepts[::-1] + EDITS, concepts, EDITS, []]:
        steered = apply(Steering([Edit(*edit) for edit in edits], isolate, keep_error), v, sae)
        expected = torch.stack([edited_by_hand(sae, x, edits, isolate, keep_error) for x in v])
        assert_close(steered, expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_isolated_is_the_bias_and_one_decoder_row_for_every_token(v):
    sae = sae_for()
    steered = apply(Steering([Edit(4, 50.0)], isolate=True), v, sae)
    assert_close(steered, (sae.b_dec + 50 * sae.W_dec[4]).expand_as(v))


@torch.no_grad()
def test_isolated_concepts_are_the_bias_and_one_decoder_row(v):
    """A negative value does not make a concept's direction a negative one: it is just not among the selected."""
    cb = cbsae_for()
    for name, row in (("pizza", 0), ("night", 3)):
        steered = apply(Steering([Edit(name, 50.0)], isolate=True), v, cb)
        assert_close(steered, (cb.b_dec + 50 * cb.W_dec_cb[row]).expand_as(v))
        assert torch.equal(apply(Steering([Edit(name, -50.0)], isolate=True), v, cb), cb.b_dec.expand_as(v))


@torch.no_grad()
def test_a_concept_is_set_and_then_the_decoder_selects(v):
    cb = cbsae_for()
    for value in (50.0, 0.2, 0.0, -50.0):
        steered = apply(Steering([Edit("left", value)]), v, cb)
        for x, found in zip(v.flatten(0, 1), steered.flatten(0, 1)):
            c = ((x - cb.b_dec) @ cb.W_enc_cb).tolist()
            c[2] = value
            best = sorted(range(4), key=lambda concept: -c[concept])[:2]
            expected = cb.sae(x).reconstruction + sum(max(c[j], 0) * cb.W_dec_cb[j] for j in best)
            assert_close(found, expected, atol=1e-5, rtol=1e-5)
    selected = cb.select_concepts(cb.concept_activations(v)) > 0
    assert selected[..., 2].any() and not selected[..., 2].all(), "the concept both takes a place and gives one up"


@torch.no_grad()
@pytest.mark.parametrize("isolate", [False, True])
def test_a_bottleneck_is_steered_without_a_tensor_of_all_latents(v, isolate, monkeypatch):
    cb, steering = cbsae_for(), Steering([Edit("red", 3.0), Edit(5, 2.0)], isolate)
    expected = apply(steering, v, cb)
    for name in ("encode", "decode"):
        monkeypatch.setattr(CBSAE, name, lambda *_: pytest.fail("all latents"))
    assert torch.equal(apply(steering, v, cb), expected)


@torch.no_grad()
@pytest.mark.parametrize("make", [sae_for, cbsae_for])
def test_isolated_values_do_not_run_the_encoder(v, make, monkeypatch):
    sae = make()
    monkeypatch.setattr(SAE, "hidden", lambda *_: pytest.fail("the encoder ran"))
    monkeypatch.setattr(CBSAE, "concept_activations", lambda *_: pytest.fail("the encoder ran"))
    apply(Steering([Edit(4, 50.0)], isolate=True), v, sae)


@torch.no_grad()
def test_own_value_reproduces_the_reconstruction(v):
    sae = sae_for()
    z = sae.encode(v)
    for neuron, token in z[0].nonzero()[:, [1, 0]].tolist():
        steering = Steering([Edit(neuron, float(z[0, token, neuron]))], tokens=[token])
        assert_close(apply(steering, v[:1], sae, prefix=0)[0, token], sae.decode(z[0, token]))


@pytest.mark.parametrize("kind", ["topk", "bottleneck", "topk_relu", "raw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("edit", [Edit(3, 0.0, "add"), Edit(-1, 1.0, "scale")])
def test_strength_zero_with_the_error_kept_is_the_identity(v, kind, dtype, edit):
    v, sae = v.to(dtype), model(kind)
    edit = replace(edit, neuron=edit.neuron % sae.d_latent)  # the last one: of a bottleneck, a concept
    steered = steer([Steering([edit], keep_error=True)] * len(v), v, sae)
    assert steered.activations.dtype == dtype and torch.equal(steered.activations, v)
    assert not steered.changes.any()


@torch.no_grad()
def test_asked_says_where_a_latent_changes(v):
    sae = sae_for()
    changes = steer([Steering([Edit(3, 0.0)], keep_error=True)] * len(v), v, sae).changes
    assert torch.equal(changes, sae.encode(v)[..., 3] != 0) and changes.any() and not changes.all()
    assert steer([Steering([], tokens="cls")] * len(v), v, sae).changes.sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("tokens", "chosen"), [("all", range(5)), ("cls", [0]), ("patches", range(1, 5)), ([0, 3], [1, 4])]
)
@torch.no_grad()
def test_only_chosen_tokens_are_steered(v, tokens, chosen):
    sae = sae_for()
    steered = apply(Steering([Edit(3, 9.0)], tokens=tokens), v, sae)
    everywhere = apply(Steering([Edit(3, 9.0)]), v, sae)
    for token in range(5):
        expected = everywhere if token in chosen else v
        assert torch.equal(steered[:, token], expected[:, token])


@pytest.mark.parametrize("kind", ["topk", "bottleneck", "topk_relu"])
def test_different_steerings_in_a_batch_equal_one_by_one(v, kind):
    sae, before = model(kind), v.clone()
    steerings = [
        Steering([Edit(1, 5.0), Edit(2, -3.0, "add")]),
        None,
        Steering([Edit(9, 7.0)], isolate=True, tokens="patches"),
        Steering([Edit(8, 2.0, "scale")], keep_error=True),
        DiffMean(torch.arange(16.0), -2.0, tokens="cls"),
        RandomDirection(Steering([Edit(9, 7.0)]), seed=3),
    ]
    v = v[[0, 1, 2, 0, 1, 2]]
    together = apply(steerings, v, sae)
    for image, steering in enumerate(steerings):
        assert_close(together[image], apply(steering, v[image : image + 1], sae)[0])
    assert torch.equal(together[1], v[1]) and torch.equal(v, before[[0, 1, 2, 0, 1, 2]])


@torch.no_grad()
def test_raw_neurons_are_the_dimensions_of_the_stream(v):
    steered = apply(Steering([Edit(5, 8.0)]), v, RawNeurons(16, 2))
    expected = v.clone()
    expected[..., 5] = 8
    assert_close(steered, expected)


def test_diff_mean_moves_along_the_difference_of_means(v):
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(7, 4, 16, generator=generator) + 1, torch.randn(90, 16, generator=generator)
    steered = apply(DiffMean.fit(a, b, -3.0), v, sae_for())
    direction = a.reshape(-1, 16).mean(0) - b.mean(0)
    assert_close(steered, v - 3 * direction / direction.square().sum().sqrt())


@pytest.mark.parametrize("isolate", [False, True])
@torch.no_grad()
def test_random_direction_is_as_long_as_what_it_controls(v, isolate):
    sae = sae_for()
    steering = Steering([Edit(3, 9.0), Edit(4, 5.0)], isolate)
    base = apply(Steering([], isolate), v, sae)
    push, control = apply(steering, v, sae) - base, apply(RandomDirection(steering, seed=5), v, sae) - base
    assert_close(control.norm(dim=-1), push.norm(dim=-1))
    directions = torch.nn.functional.normalize(control.reshape(-1, 16), dim=-1)
    assert_close(directions, directions[:1].expand_as(directions), atol=1e-5, rtol=0)
    assert torch.equal(apply(RandomDirection(steering, seed=5), v, sae) - base, control)
    other = apply(RandomDirection(steering, seed=6), v, sae) - base
    assert (torch.nn.functional.cosine_similarity(other, control, dim=-1).abs() < 0.9).all()
    kept = apply(RandomDirection(DiffMean(torch.ones(16), 4.0), seed=5), v, sae) - v
    assert_close(kept.norm(dim=-1), torch.full(v.shape[:2], 4.0))


# ------------------------------------------------------------------------------------------ names and units


def neuron_of(name, sae=None, names=NAMES):
    return resolve(Steering([Edit(name, 1.0)]), sae or sae_for(), table(names) if names else None).edits[0].neuron


def test_names_are_first_names_and_the_best_score_wins():
    assert [neuron_of(name) for name in ("pizza", " PIZZA", "Striped Furs", "zebra crossing", 5)] == [2, 2, 1, 4, 5]


def test_names_of_all_scripts_are_told_apart_and_found():
    names = ["काला", "Café", "Masse", *[None] * 29]
    assert [neuron_of(name, names=names) for name in ("काला", "cafe\u0301", "CAFÉ\u200b", "MASSE")] == [0, 1, 1, 2]
    for name in ("किला", "Maße", "कल"):  # fort, dimensions, tomorrow
        with pytest.raises(ValueError, match=f"no neuron is called '{name}'"):
            neuron_of(name, names=names)
    with pytest.raises(ValueError, match="no neuron is called 'STRASSE'; near are: Straße"):
        neuron_of("STRASSE", names=["Straße", *[None] * 31])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pizzza", "near are: pizza"),
        ("zebra", "near are: zebra crossing .neuron 4."),
        ("second name", "near are: second name"),
        ("qqqq", "no neuron is called 'qqqq'$"),
    ],
)
def test_unknown_names_are_errors_with_suggestions(name, message):
    with pytest.raises(ValueError, match=message):
        neuron_of(name)


def test_a_pack_is_as_good_as_its_table(v):
    class Pack:
        neurons = table(NAMES)

    sae = sae_for()
    by_name = apply(Steering([Edit("striped fur", 5.0)]), v, sae, Pack())
    assert torch.equal(by_name, apply(Steering([Edit(1, 5.0)]), v, sae))


@pytest.mark.parametrize("make", [Bottleneck, cbsae_for])
def test_names_of_a_bottleneck_prefer_its_concepts(make):
    sae = make()
    assert [neuron_of(name, sae, None) for name in ("pizza", "Red", "night")] == [32, 33, 35]
    assert neuron_of("dog", sae, [*["cat"] * 2, "dog", *["hen"] * 33]) == 2
    with pytest.raises(ValueError, match=r"neurons 1, 2 are all called 'dog'"):
        neuron_of("dog", sae, None)
    with pytest.raises(ValueError, match="near are: night"):
        neuron_of("knight", sae, None)


@torch.no_grad()
def test_p99_is_the_unit_of_set_and_add(v):
    sae, pack = sae_for(), table(NAMES, p99=0.25)
    edits = [(3, 2.0, "set"), (7, -1.0, "add"), (0, 3.0, "scale")]
    steered = apply(Steering([Edit(*edit) for edit in edits], unit="p99"), v, sae, pack)
    absolute = [(3, 2.0 * 0.25 * 4, "set"), (7, -1.0 * 0.25 * 8, "add"), (0, 3.0, "scale")]
    assert_close(steered, torch.stack([edited_by_hand(sae, x, absolute) for x in v]))


# ----------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edit(1.5, 1.0), "neuron must be a number or a name"),
        (lambda: Edit(True, 1.0), "neuron must be"),
        (lambda: Edit(1, math.nan), "value must be a finite number"),
        (lambda: Edit(1, "5"), "value must be a finite number"),
        (lambda: Edit(1, 1.0, "multiply"), "op must be one of set, add, scale"),
        (lambda: Steering(Edit(1, 1.0)), "list of Edit"),
        (lambda: Steering([(1, 1.0)]), "list of Edit"),
        (lambda: Steering([], isolate=1), "isolate must be true or false"),
        (lambda: Steering([], tokens="patch"), "tokens must be one of all, cls, patches"),
        (lambda: Steering([], tokens=[]), "tokens is empty"),
        (
            lambda: Steering([], tokens=3),
            "tokens must be 'all', 'cls', 'patches', 'words' or numbers of patches in a list",
        ),
        (lambda: Steering([], tokens=[-1]), "a patch in tokens must be between 0"),
        (lambda: Steering([], unit="p95"), "unit must be one of absolute, p99"),
        (lambda: DiffMean(torch.zeros(16), 1.0), "not all zero"),
        (lambda: DiffMean(torch.ones(2, 8), 1.0), "vector"),
        (lambda: RandomDirection(None, 1), "like must be a Steering or DiffMean"),
        (lambda: RandomDirection(Steering([]), -1), "seed must be between 0"),
    ],
)
def test_bad_steerings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("steering", "options", "message"),
    [
        (Steering([Edit(32, 1.0)]), {}, "neuron must be between 0 and 31"),
        (Steering([Edit(-1, 1.0)]), {}, "neuron must be between 0 and 31"),
        (Steering([Edit("pizza", 1.0)]), {}, "by name .'pizza'. give pack="),
        (Steering([Edit(2, 1.0), Edit(2, 2.0)]), {}, "neuron 2 is edited twice"),
        (Steering([Edit(2, 1.0), Edit("pizza", 2.0)]), {"pack": table(NAMES)}, "neuron 2 is edited twice"),
        (Steering([Edit(2, 1.0)], unit="p99"), {}, "unit='p99' needs the neuron table"),
        (Steering([Edit(2, 1.0)], unit="p99"), {"pack": table(NAMES, math.nan)}, "neuron 2 never fires"),
        (Steering([Edit(2, 1.0)]), {"pack": table(NAMES[:9])}, "another model: it has 9 neurons, the SAE 32"),
        (Steering([Edit(2, 1.0)], tokens="cls"), {"prefix": 0}, "no CLS token"),
        (Steering([Edit(2, 1.0)], tokens=[4]), {}, "no patch 4: an image has 4"),
        ([Steering([])] * 2, {}, "2 steerings for 3 images"),
        ([Steering([]), 5, None], {}, "a steering must be"),
        (Edit(2, 1.0), {}, "a steering must be a Steering, .*, got Edit"),
        (Steering([Edit("pizza", 1.0)]), {"pack": "me/sae"}, r"read first: pack=Pack.from_pretrained\('me/sae'\)"),
        (DiffMean(torch.ones(8), 1.0), {}, "8 dimensions, the activations 16"),
    ],
)
def test_steerings_that_do_not_fit_are_errors(v, steering, options, message):
    with pytest.raises(ValueError, match=message):
        apply(steering, v, sae_for(), **options)


def test_activations_that_do_not_fit_are_errors(v):
    for bad in (v[0], v[..., :8]):
        with pytest.raises(ValueError, match="expected activations"):
            apply(Steering([]), bad, sae_for())


def test_steerings_can_be_compared_and_are_values():
    assert Steering(Edit(n, 1.0) for n in range(3)).edits == (Edit(0, 1.0), Edit(1, 1.0), Edit(2, 1.0))
    assert Steering([Edit(1, 2)], tokens=[1]) == Steering((Edit(1, 2.0),), tokens=(1,))
    assert len({Steering([Edit(n, 1.0)]) for n in (0, 1, 2, 0, 1)}) == 3
