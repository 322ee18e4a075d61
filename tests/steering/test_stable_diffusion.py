"""Stable Diffusion, steered and drawn: compared with edits by hooks of one's own in diffusers, to the bit."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from steerable_models import (
    edited_by_hand,
    in_step,
    in_threads,
    sae_for,
    stable_diffusion,
    stable_diffusion_xl,
    unclip,
)

from cbsae_hub.encoders.site import EditError
from cbsae_hub.steering import DiffMean, Edit, RandomDirection, StableDiffusionSteerer, Steering
from cbsae_hub.steering.controls import with_controls
from cbsae_hub.steering.tower import Stopped

pytestmark = pytest.mark.slow

STEPS = 2
PROMPTS = ["a pizza", "snow"]
DIRECTION = torch.linspace(-1, 1, 16)


@pytest.fixture(scope="module")
def pipeline():
    pipeline = stable_diffusion()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def xl():
    pipeline = stable_diffusion_xl()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def drawer(pipeline):
    return StableDiffusionSteerer(pipeline, sae_for(layer=1))


@contextmanager
def edited(block, *edits):
    """A block's output, changed by one function in its first forward pass, and by the next in its second."""
    waiting = list(edits)
    # In front of those by which transformers records hidden states, which an XL reads.
    hook = block.register_forward_hook(lambda module, args, output: waiting.pop(0)(output), prepend=True)
    try:
        yield
    finally:
        hook.remove()
    assert not waiting


def drawn_by_hand(pipeline, prompts, seeds, **options):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pixels_of(pipeline(prompts, generator=generators, num_inference_steps=STEPS, **options).images)


def pixels_of(drawings):
    return np.stack([np.asarray(drawing) for drawing in drawings]).astype(int)


def test_a_direction_is_drawn_towards_and_its_opposite_drawn_away_from(pipeline, drawer):
    block, push = pipeline.text_encoder.encoder.layers[1], 9.0 * torch.nn.functional.normalize(DIRECTION, dim=0)
    with edited(block, lambda v: v + push, lambda v: v - push):
        expected = drawn_by_hand(pipeline, PROMPTS, [5, 6], guidance_scale=3.0)
    plain = drawn_by_hand(pipeline, PROMPTS, [5, 6], guidance_scale=3.0)
    with edited(block, lambda v: v + push):  # no guidance, no unconditional embeddings
        unguided = drawn_by_hand(pipeline, PROMPTS, [5, 6], guidance_scale=1.0)
    steering = DiffMean(DIRECTION, 9.0)

    def draw(steering, guidance):
        one = [drawer.generate([p], steering, [s], STEPS, guidance)[0] for p, s in zip(PROMPTS, (5, 6))]
        both = drawer.generate(PROMPTS, steering, [5, 6], STEPS, guidance)
        assert np.abs(pixels_of(one) - pixels_of(both)[[0, 3]]).max() <= 1
        return pixels_of(both)[[0, 3]]

    assert np.abs(draw(steering, 3.0) - expected).max() <= 1  # other batches round otherwise
    assert np.abs(draw(None, 3.0) - plain).max() <= 1
    assert np.abs(draw(steering, 1.0) - unguided).max() <= 1
    assert np.abs(expected - plain).max() > 5 and np.abs(expected - unguided).max() > 5


@torch.no_grad()
def test_an_edit_is_the_same_edit_made_by_hand_in_diffusers_to_the_bit(pipeline, drawer):
    sae, neuron, value = drawer.tower.sae, 3, 9.0

    def push(v):
        z = sae.encode(v)[..., neuron, None]
        return ((z + value) - z) * sae.W_dec[neuron]

    kept = {}

    def towards(v):
        kept["push"] = push(v)
        return v + kept["push"]

    with edited(pipeline.text_encoder.encoder.layers[1], towards, lambda v: v - kept["push"]):
        expected = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    steering = Steering([Edit(neuron, value, "add")], keep_error=True)
    found = drawer.embeds(PROMPTS, steering)
    assert torch.equal(found["prompt_embeds"], expected[0])
    assert torch.equal(found["negative_prompt_embeds"], expected[1])
    plain = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    assert not torch.equal(expected[0], plain[0]) and not torch.equal(expected[1], plain[1])

    with edited(pipeline.text_encoder.encoder.layers[1], towards, lambda v: v - kept["push"]):
        by_hand = drawn_by_hand(pipeline, PROMPTS, [5, 5], guidance_scale=3.0)
    drawn = pixels_of(drawer.generate(PROMPTS, steering, [5], STEPS, 3.0))
    np.testing.assert_array_equal(drawn, by_hand)


CASES = {
    "set": ([(3, 9.0, "set")], {}),
    "several": ([(3, 9.0, "set"), (8, -5.0, "add"), (11, 2.0, "scale")], {}),
    "isolate": ([(3, 50.0, "set")], {"isolate": True}),
    "keep_error": ([(3, 12.0, "set")], {"keep_error": True}),
    "reconstruction": ([], {}),
}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_the_unconditional_prompt_is_pushed_as_far_the_other_way(pipeline, drawer, case):
    edits, options = CASES[case]
    sae, sides = drawer.tower.sae, []

    def side(v):
        without = options | ({} if options.get("isolate") else {"isolate": False})
        nothing = torch.stack([edited_by_hand(sae, x, [], **without) for x in v])
        pushed = torch.stack([edited_by_hand(sae, x, edits, **options) for x in v])
        sides.append((nothing, pushed))
        return pushed if len(sides) == 1 else nothing - (sides[0][1] - sides[0][0])

    with edited(pipeline.text_encoder.encoder.layers[1], side, side):
        expected = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    found = drawer.embeds(PROMPTS, Steering([Edit(*edit) for edit in edits], **options))
    for by_hand, own in zip(expected, found.values()):
        torch.testing.assert_close(own, by_hand, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_words_are_the_tokens_of_the_prompt_and_its_places_those_of_the_unconditional_one(pipeline, drawer):
    push, block = 9.0 * torch.nn.functional.normalize(DIRECTION, dim=0), pipeline.text_encoder.encoder.layers[1]

    def at(places, sign):
        def edit(v):
            v = v.clone()
            for row, own in enumerate(places):
                v[row, own] += sign * push
            return v

        return edit

    for tokens, places in {"words": [range(1, 8), range(1, 5)], (0, 3): [[1, 4]] * 2}.items():
        with edited(block, at(places, 1), at(places, -1)):
            expected = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
        found = drawer.embeds(PROMPTS, DiffMean(DIRECTION, 9.0, tokens=tokens))
        for by_hand, own in zip(expected, found.values()):
            assert torch.equal(own, by_hand)
    control = RandomDirection(Steering([Edit(3, 9.0)], tokens="words"), 1)
    everywhere = RandomDirection(Steering([Edit(3, 9.0)]), 1)
    found, all_of_it = (drawer.embeds(PROMPTS, one)["prompt_embeds"] for one in (control, everywhere))
    assert torch.equal(found[:, 0], pipeline.encode_prompt(PROMPTS, "cpu", 1, False)[0][:, 0])  # the start is left
    assert not torch.equal(found[:, 0], all_of_it[:, 0])


def test_one_steering_per_prompt_in_batches(drawer):
    steerings = list(with_controls(Steering([Edit(3, 9.0)]), seed=2).values())
    prompts = ["a pizza"] * 4
    together = pixels_of(drawer.generate(prompts, steerings, [1, 2], STEPS, 3.0, batch=3))
    single = [drawer.generate(prompts[:1], one, [1, 2], STEPS, 3.0) for one in steerings]
    assert np.abs(together - pixels_of(sum(single, []))).max() <= 1
    first = together[::2]
    assert all(np.abs(first[i] - first[j]).max() > 5 for i in range(4) for j in range(i))


def test_activations_are_what_passes_the_block(pipeline, drawer):
    passed = []
    hook = pipeline.text_encoder.encoder.layers[1].register_forward_hook(lambda m, a, output: passed.append(output))
    pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
    hook.remove()
    assert torch.equal(drawer.activations(PROMPTS), passed[0]) and passed[0].shape == (2, 16, 16)


def test_strength_zero_with_the_error_kept_is_no_steering(drawer):
    found, plain = (drawer.embeds(PROMPTS, one) for one in (Steering([Edit(3, 0, "add")], keep_error=True), None))
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@torch.no_grad()
@pytest.mark.parametrize(("name", "width"), [("text_encoder", 16), ("text_encoder_2", 24)])
def test_either_text_encoder_of_an_xl_is_steered(xl, name, width):
    drawer = StableDiffusionSteerer(xl, sae_for(width, layer=1))
    direction = torch.linspace(-1, 1, width)
    push = 9.0 * torch.nn.functional.normalize(direction, dim=0)
    encoder = getattr(xl, name)
    block = getattr(encoder, "text_model", encoder).encoder.layers[1]
    steering = DiffMean(direction, 9.0)
    plain = xl.encode_prompt(PROMPTS, device="cpu", negative_prompt=["", ""])
    with edited(block, lambda v: v + push, lambda v: v - push):
        expected = xl.encode_prompt(PROMPTS, device="cpu", negative_prompt=["", ""])
    found = drawer.embeds(PROMPTS, steering, negative_prompt="")
    assert len(found) == 4
    for by_hand, own, before in zip(expected, found.values(), plain):
        assert torch.equal(own, by_hand)
        assert torch.equal(own, before) == (name == "text_encoder" and own.ndim == 2)  # the pooled one is the second's
    with edited(block, lambda v: v + push):
        zeros = xl.encode_prompt(PROMPTS, device="cpu")[1]
    unpushed = drawer.embeds(PROMPTS, steering)
    assert torch.equal(unpushed["negative_prompt_embeds"], zeros) and not zeros.any()
    with edited(block, lambda v: v + push, lambda v: v - push):
        by_hand = drawn_by_hand(xl, PROMPTS, [5, 5], guidance_scale=3.0, negative_prompt=["", ""])
    drawn = drawer.generate(PROMPTS, steering, [5], STEPS, 3.0, negative_prompt="")
    np.testing.assert_array_equal(pixels_of(drawn), by_hand)


def test_seeds_decide_everything(pipeline):
    own = stable_diffusion()
    own.scheduler = EulerAncestralDiscreteScheduler.from_config(own.scheduler.config)
    drawer, steering = StableDiffusionSteerer(own, sae_for(layer=1)), Steering([Edit(3, 9.0)])
    first = drawer.generate(PROMPTS[:1], steering, [1, 2], STEPS)
    torch.manual_seed(77)
    second = drawer.generate(PROMPTS[:1], steering, [2, 1], STEPS)
    assert np.abs(pixels_of(first) - pixels_of(second[::-1])).max() <= 1
    assert np.abs(pixels_of(first[:1]) - pixels_of(first[1:])).max() > 5


def test_threads_do_not_steer_each_other(pipeline, drawer):
    steerings = [Steering([Edit(3, 9.0)]), Steering([Edit(7, 60.0)], isolate=True)]

    def embed(steering):
        return drawer.embeds(PROMPTS, steering)["prompt_embeds"]

    expected = [embed(steering) for steering in steerings]
    with in_step(pipeline.text_encoder.encoder.layers, 2):
        found = in_threads([lambda steering=steering: embed(steering) for steering in steerings])
    assert all(torch.equal(own, wanted) for own, wanted in zip(found, expected))


def test_from_pretrained_is_the_saved_pipeline(pipeline, drawer, tmp_path):
    pipeline.save_pretrained(tmp_path / "diffusion")
    sae_for(layer=1).save_pretrained(tmp_path / "sae")
    loaded = StableDiffusionSteerer.from_pretrained(tmp_path / "diffusion", sae=tmp_path / "sae")
    steering = Steering([Edit(3, 9.0)])
    assert torch.equal(*(one.embeds(PROMPTS, steering)["prompt_embeds"] for one in (loaded, drawer)))
    other = loaded.with_sae(sae_for(layer=0))
    assert other.tower.layer == 0 and other.revision == loaded.revision


def test_what_cannot_be_steered_is_refused_with_a_reason(pipeline, xl, drawer, tmp_path):
    with pytest.raises(
        ValueError, match="StableUnCLIPImg2ImgPipeline cannot be steered: .* give a StableDiffusionPipe"
    ):
        StableDiffusionSteerer(unclip(), sae_for())
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(ValueError, match="StableDiffusion3Pipeline cannot be steered"):
        StableDiffusionSteerer.from_pretrained(tmp_path, sae_for())
    with pytest.raises(ValueError, match="width 8, text_encoder 16: it is an SAE of another encoder"):
        StableDiffusionSteerer(pipeline, sae_for(8))
    with pytest.raises(ValueError, match="both text encoders have width 16"):
        StableDiffusionSteerer(stable_diffusion_xl((16, 16)), sae_for())
    with pytest.raises(ValueError, match="text_encoder must be"):
        StableDiffusionSteerer(pipeline, sae_for(), text_encoder="text_encoder_2")
    with pytest.raises(ValueError, match="does not say at which layer"):
        StableDiffusionSteerer(pipeline, sae_for(layer=None))
    for tokens, message in {
        "cls": "tokens='cls' are those of an image",
        (7,): "there is no token 7: 'a pizza' has 7, counted from 0",
    }.items():
        with pytest.raises(ValueError, match=message):
            drawer.embeds(["a pizza"], Steering([Edit(3, 9.0)], tokens=tokens))
    with pytest.raises(ValueError, match="'' has no words to steer"):
        drawer.embeds(["a pizza", ""], Steering([Edit(3, 9.0)], tokens="words"))
    with pytest.raises(ValueError, match="there are 3 steerings for 2 prompts"):
        drawer.generate(PROMPTS, [None] * 3)
    with pytest.raises(ValueError, match="as a list"):
        drawer.generate("a pizza")
    with pytest.raises(ValueError, match="at least one input and one seed"):
        drawer.generate([])
    with pytest.raises(ValueError, match="num_inference_steps must be between 1"):
        drawer.generate(PROMPTS, num_inference_steps=0)
    with pytest.raises(ValueError, match="guidance_scale must be a finite number"):
        drawer.generate(PROMPTS, guidance_scale=float("nan"))
    last = StableDiffusionSteerer(xl, sae_for(layer=2))  # an XL reads the block before the last one
    with pytest.raises(EditError, match="no effect.*of prompt 0"):
        last.embeds(PROMPTS, Steering([Edit(3, 9.0)]))


def test_black_drawings_are_told_and_unwanted_ones_end_at_the_next_step(drawer, monkeypatch, caplog):
    asked = []
    with pytest.raises(Stopped):
        drawer.generate(PROMPTS[:1], num_inference_steps=5, stop=lambda: asked.append(1) or len(asked) == 2)
    assert len(asked) == 2
    monkeypatch.setattr(type(drawer.pipeline), "run_safety_checker", lambda self, image, *_: (image, [True, False]))
    drawer.generate(PROMPTS[:1], seeds=[1, 2], num_inference_steps=1)
    assert "1 drawings are black" in caplog.text
