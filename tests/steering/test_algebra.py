"""Laws that every steering obeys, whatever its edits: tried on edits that hypothesis makes up."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steerable_models import NAMES, cbsae_for, sae_for, table
from torch.testing import assert_close

from cbsae_hub.steering import Edit, RandomDirection, Steering, apply, resolve
from cbsae_hub.steering.edits import OPS, TOKENS, UNITS

SAE, CBSAE = sae_for(), cbsae_for()
V = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
PACK = table(NAMES, p99=0.25)

values = st.floats(-64, 64, width=32)
factors = st.floats(-8, 8, width=32)
neurons = st.integers(0, 31) | st.sampled_from(["striped fur", "zebra crossing"])


@st.composite
def steerings(draw, **fixed):
    chosen = draw(st.lists(neurons, max_size=4, unique_by=lambda n: {"striped fur": 1, "zebra crossing": 4}.get(n, n)))
    edits = [Edit(neuron, draw(values), draw(st.sampled_from(fixed.get("ops", OPS)))) for neuron in chosen]
    options = {"isolate": st.booleans(), "keep_error": st.booleans(), "unit": st.sampled_from(UNITS)}
    options["tokens"] = st.sampled_from([name for name in TOKENS if name != "words"]) | st.lists(
        st.integers(0, 3), min_size=1
    )
    return Steering(edits, **{name: fixed.get(name, draw(option)) for name, option in options.items()})


def test_a_multiple_is_that_of_every_value_whatever_the_op():
    steering = Steering([Edit(3, 20.0), Edit("red", -8.0, "add"), Edit(5, 3.0, "scale")], True, False, "cls", "p99")
    halved = [Edit(3, 10.0), Edit("red", -4.0, "add"), Edit(5, 1.5, "scale")]
    assert steering.scaled(0.5) == Steering(halved, True, False, "cls", "p99")


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), "2", True, None])
def test_a_factor_that_is_no_number_is_an_error(factor):
    with pytest.raises(ValueError, match="factor must be a finite number"):
        Steering([]).scaled(factor)


@given(steerings(), factors, factors)
def test_multiples_multiply(steering, one, other):
    assert steering.scaled(1) == steering
    twice, once = steering.scaled(one).scaled(other), steering.scaled(one * other)
    for left, right in zip(twice.edits, once.edits, strict=True):
        assert left == replace(right, value=left.value) and left.value == pytest.approx(right.value)
    assert replace(twice, edits=once.edits) == once


@given(steerings(), factors)
def test_names_and_units_are_resolved_before_or_after_a_multiple(steering, factor):
    before, after = resolve(steering.scaled(factor), SAE, PACK), resolve(steering, SAE, PACK).scaled(factor)
    assert replace(before, edits=after.edits) == after
    assert [edit.neuron for edit in before.edits] == [edit.neuron for edit in after.edits]
    assert [edit.value for edit in before.edits] == pytest.approx([edit.value for edit in after.edits])


@given(steerings())
def test_what_is_resolved_stays_as_it_is(steering):
    resolved = resolve(steering, SAE, PACK)
    assert resolve(resolved, SAE, PACK) == resolve(resolved, SAE) == resolved


@given(steerings(), st.randoms(), st.sampled_from([SAE, CBSAE]))
@settings(deadline=None)
@torch.no_grad()
def test_the_order_of_edits_does_not_matter(steering, random, sae):
    steering = resolve(steering, SAE, PACK)
    shuffled = replace(steering, edits=random.sample(steering.edits, len(steering.edits)))
    assert_close(apply(shuffled, V, sae), apply(steering, V, sae), atol=1e-3, rtol=1e-4)


@given(steerings(ops=["add"], isolate=False), factors)
@settings(deadline=None)
@torch.no_grad()
def test_what_is_added_grows_with_the_factor(steering, factor):
    """Of an SAE, whose decoder is linear."""
    nothing = apply(steering.scaled(0), V, SAE, PACK)
    push, scaled = (apply(one, V, SAE, PACK) - nothing for one in (steering, steering.scaled(factor)))
    assert_close(scaled, factor * push, atol=1e-2, rtol=1e-3)


@given(steerings(ops=["set"], isolate=True, keep_error=False), factors)
@settings(deadline=None)
@torch.no_grad()
def test_what_is_set_alone_grows_with_the_factor(steering, factor):
    steering = replace(steering, tokens="all")
    push, scaled = (apply(one, V, SAE, PACK) - SAE.b_dec for one in (steering, steering.scaled(factor)))
    assert_close(scaled, factor * push, atol=1e-2, rtol=1e-3)


@given(steerings(isolate=False, keep_error=True, ops=["add"]), st.sampled_from([SAE, CBSAE]))
@settings(deadline=None)
@torch.no_grad()
def test_strength_zero_is_the_identity_where_the_error_is_kept(steering, sae):
    assert torch.equal(apply(resolve(steering, SAE, PACK).scaled(0), V, sae), V)


@given(steerings(), st.integers(0, 2**40), st.sampled_from([SAE, CBSAE]))
@settings(deadline=None)
@torch.no_grad()
def test_a_control_pushes_as_far(steering, seed, sae):
    steering = replace(resolve(steering, SAE, PACK), tokens="all")
    base = apply(replace(steering, edits=[]), V, sae)
    push, control = (apply(one, V, sae) - base for one in (steering, RandomDirection(steering, seed)))
    assert_close(control.norm(dim=-1), push.norm(dim=-1), atol=1e-2, rtol=1e-3)


@given(steerings(), steerings())
@settings(deadline=None)
@torch.no_grad()
def test_images_of_a_batch_do_not_know_of_each_other(first, second):
    together = apply([first, second], V, SAE, PACK)
    alone = [apply(one, V[i : i + 1], SAE, PACK)[0] for i, one in enumerate((first, second))]
    assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-4)
