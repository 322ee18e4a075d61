"""Stable unCLIP, steered and drawn: compared with the encoder's blocks run by hand and a pipeline of one's own."""

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, StableUnCLIPImg2ImgPipeline
from steerable_models import (
    blocks_by_hand,
    cbsae_for,
    edited_by_hand,
    image_processor,
    in_step,
    in_threads,
    pictures,
    sae_for,
    unclip,
)
from torch.testing import assert_close

from cbsae_hub.encoders.site import EditError
from cbsae_hub.models import folder_revision
from cbsae_hub.steering import DiffMean, Edit, RandomDirection, Steering, UnclipSteerer
from cbsae_hub.steering.tower import Stopped

pytestmark = pytest.mark.slow

STEPS = 3


@pytest.fixture(params=[0, 2, 3])
def steerer(request):
    return UnclipSteerer(unclip(), sae_for(layer=request.param))


@pytest.fixture
def drawer():
    return UnclipSteerer(unclip(), sae_for())


@torch.no_grad()
def embedding_by_hand(encoder, layer, image, sae=None, edits=(), **options):
    tower = encoder.vision_model
    pixels = image_processor()(images=[image], return_tensors="pt").pixel_values
    stream = blocks_by_hand(tower.encoder.layers[: layer + 1], tower.pre_layrnorm(tower.embeddings(pixels)))
    if sae is not None:
        stream = edited_by_hand(sae, stream[0], edits, **options)[None]
    stream = blocks_by_hand(tower.encoder.layers[layer + 1 :], stream)
    return encoder.visual_projection(tower.post_layernorm(stream[:, 0]))[0]


def pixels_of(drawings):
    return np.stack([np.asarray(drawing) for drawing in drawings]).astype(int)


def watched(steerer, *arguments, **options):
    """Drawings, and what the UNet gets to see: ``[(sample, timestep, class labels)]``."""
    seen = []
    hook = steerer.pipeline.unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0].clone(), args[1], kwargs["class_labels"].clone())),
        with_kwargs=True,
    )
    try:
        return steerer.generate(*arguments, num_inference_steps=STEPS, **options), seen
    finally:
        hook.remove()


CASES = {
    "set": ([(3, 9.0, "set")], {}),
    "several": ([(3, 9.0, "set"), (8, -5.0, "add"), (11, 2.0, "scale")], {}),
    "isolate": ([(3, 50.0, "set")], {"isolate": True}),
    "keep_error": ([(3, 12.0, "set")], {"keep_error": True}),
    "reconstruction": ([], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_embeddings_run_through_the_remaining_blocks(steerer, case):
    edits, options = CASES[case]
    images, encoder, layer = pictures(3), steerer.encoder, steerer.tower.layer
    embeddings = steerer.image_embeds(images, Steering([Edit(*edit) for edit in edits], **options))
    for image, embedding in zip(images, embeddings):
        assert_close(
            embedding,
            embedding_by_hand(encoder, layer, image, steerer.tower.sae, edits, **options),
            atol=1e-4,
            rtol=1e-4,
        )
    plain = torch.stack([embedding_by_hand(encoder, layer, image) for image in images])
    assert_close(steerer.image_embeds(images), plain, atol=1e-5, rtol=1e-4)
    assert not torch.isclose(embeddings, plain, atol=1e-2).all(1).any()


def test_drawings_are_those_of_the_pipeline_itself(drawer):
    images, steering = pictures(2), Steering([Edit(3, 9.0)])
    drawings = drawer.generate(images, steering, seeds=[5, 6], num_inference_steps=STEPS, guidance_scale=4.0)
    pipeline = unclip()
    expected = []
    for image in images:
        embedding = embedding_by_hand(pipeline.image_encoder, 2, image, drawer.tower.sae, [(3, 9.0, "set")])
        for seed in (5, 6):
            generator = torch.Generator().manual_seed(seed)
            expected += pipeline(
                prompt="",
                image_embeds=embedding[None],
                generator=generator,
                num_inference_steps=STEPS,
                guidance_scale=4.0,
            ).images
    assert np.abs(pixels_of(drawings) - pixels_of(expected)).max() <= 1
    assert np.abs(np.diff(pixels_of(drawings), axis=0)).reshape(3, -1).max(1).min() > 5  # all four differ
    assert np.abs(pixels_of(drawings) - pixels_of(drawer.generate(images, None, [5, 6], STEPS, 4.0))).max() > 5


def test_unsteered_drawings_are_what_the_pipeline_draws_of_the_image(drawer):
    drawing = drawer.generate(pictures(1), seeds=[3], num_inference_steps=STEPS)
    expected = unclip()(pictures(1)[0], generator=torch.Generator().manual_seed(3), num_inference_steps=STEPS).images
    assert np.abs(pixels_of(drawing) - pixels_of(expected)).max() <= 1


@pytest.mark.parametrize("level", [0, 30, 999])
def test_a_noise_level_is_that_of_the_pipeline(drawer, level):
    images, steering = pictures(2), Steering([Edit(3, 9.0)])
    drawings = drawer.generate(images, steering, seeds=[5, 6], num_inference_steps=STEPS, noise_level=level, batch=3)
    pipeline, expected = unclip(), []
    for image in images:
        embedding = embedding_by_hand(pipeline.image_encoder, 2, image, drawer.tower.sae, [(3, 9.0, "set")])
        for seed in (5, 6):
            generator = torch.Generator().manual_seed(seed)
            options = {"generator": generator, "num_inference_steps": STEPS, "noise_level": level}
            expected += pipeline(prompt="", image_embeds=embedding[None], **options).images
    assert np.abs(pixels_of(drawings) - pixels_of(expected)).max() <= 1
    plain = pixels_of(drawer.generate(images, steering, [5, 6], STEPS))
    assert (np.abs(pixels_of(drawings) - plain).max() > 5) == (level > 0)


def test_strengths_share_the_noise_of_the_start_and_of_the_embedding(drawer):
    images = pictures(2)
    strengths = [None, Steering([Edit(3, 5.0)]), Steering([Edit(3, 50.0)], isolate=True)]
    runs = [watched(drawer, images, steering, seeds=[5, 6]) for steering in strengths]
    noise = []
    for seed in (5, 6):
        generator = torch.Generator().manual_seed(seed)
        noise.append((torch.randn(1, 8, generator=generator), torch.randn(1, 4, 8, 8, generator=generator)))
    for steering, (_, seen) in zip(strengths, runs):
        sample, _, labels = seen[0]
        start, labels = sample[4:], labels[4:]  # the first half is the one without guidance
        assert torch.equal(start, torch.cat([noise[0][1], noise[1][1]] * 2))
        embeddings = drawer.image_embeds(images, steering).repeat_interleave(2, 0)
        alpha = drawer.pipeline.image_noising_scheduler.alphas_cumprod[0]
        noised = alpha.sqrt() * embeddings + (1 - alpha).sqrt() * torch.cat([noise[0][0], noise[1][0]] * 2)
        assert_close(labels[:, :8], noised, atol=1e-5, rtol=1e-4)


def test_a_steering_per_image_equals_one_by_one(drawer):
    images = pictures(4)
    steerings = [
        Steering([Edit(3, 9.0)]),
        None,
        RandomDirection(Steering([Edit(5, 40.0)]), seed=1),
        DiffMean(torch.arange(16.0), 7.0, tokens="cls"),
    ]
    together = [drawer.generate(images, steerings, [1, 2], STEPS, batch=batch) for batch in (3, 8)]
    single = [d for i, s in zip(images, steerings) for d in drawer.generate([i], s, [1, 2], STEPS)]
    for drawings in together:
        assert len(drawings) == 8 and np.abs(pixels_of(drawings) - pixels_of(single)).max() <= 1


@pytest.mark.parametrize("scheduler", [EulerAncestralDiscreteScheduler, EulerDiscreteScheduler])
def test_seeds_decide_everything(scheduler):
    pipeline = unclip()
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    drawer, steering = UnclipSteerer(pipeline, sae_for()), Steering([Edit(3, 9.0)])
    first = drawer.generate(pictures(1), steering, [1, 2], STEPS)
    torch.manual_seed(77)
    second = drawer.generate(pictures(1), steering, [2, 1], STEPS)
    assert np.abs(pixels_of(first) - pixels_of(second[::-1])).max() <= 1
    assert np.abs(pixels_of(first[:1]) - pixels_of(first[1:])).max() > 5


def test_strength_zero_with_the_error_kept_is_no_steering(drawer):
    steering = Steering([Edit(3, 0.0, "add")], keep_error=True)
    assert torch.equal(drawer.image_embeds(pictures(2), steering), drawer.image_embeds(pictures(2)))


def test_patches_of_the_last_block_do_not_reach_the_embedding():
    drawer = UnclipSteerer(unclip(), sae_for(layer=3))
    with pytest.raises(EditError, match="no effect.*of image 0"):
        drawer.generate(pictures(1), Steering([Edit(3, 9.0)], tokens="patches"))
    before = UnclipSteerer(unclip(), sae_for(layer=2))
    before.image_embeds(pictures(1), Steering([Edit(3, 9.0)], tokens="patches"))  # attention carries it to CLS


def test_threads_neither_steer_each_other_nor_share_a_scheduler():
    pipeline = unclip()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)  # it counts its steps
    pipeline.set_progress_bar_config(disable=True)
    drawer, images = UnclipSteerer(pipeline, sae_for()), pictures(2)
    steerings = [Steering([Edit(3, 9.0)]), Steering([Edit(7, 60.0)], isolate=True)]

    def draw(steering):
        return pixels_of(drawer.generate(images, steering, [4], STEPS))

    expected = [draw(steering) for steering in steerings]
    assert np.abs(expected[0] - expected[1]).max() > 5
    with in_step([*pipeline.image_encoder.vision_model.encoder.layers, pipeline.unet, pipeline.vae.decoder], 2):
        found = in_threads([lambda steering=steering: draw(steering) for steering in steerings])
    for drawing, wanted in zip(found, expected):
        assert np.array_equal(drawing, wanted)


def test_from_pretrained_is_the_saved_pipeline(tmp_path):
    unclip().save_pretrained(tmp_path / "unclip")
    sae_for().save_pretrained(tmp_path / "sae")
    steering = Steering([Edit(3, 9.0)])
    loaded = UnclipSteerer.from_pretrained(tmp_path / "unclip", sae=tmp_path / "sae")
    assert isinstance(loaded.pipeline, StableUnCLIPImg2ImgPipeline)
    expected = UnclipSteerer(unclip(), sae_for()).generate(pictures(1), steering, [1], STEPS)
    assert np.abs(pixels_of(loaded.generate(pictures(1), steering, [1], STEPS)) - pixels_of(expected)).max() <= 1
    beside = UnclipSteerer.from_pretrained("me/unclip", sae_for(), beside=tmp_path / "sae", dtype=torch.bfloat16)
    assert beside.pipeline.unet.dtype == beside.encoder.dtype == torch.bfloat16
    other = loaded.with_sae(cbsae_for())
    assert_close(
        other.image_embeds(pictures(1), steering),
        UnclipSteerer(unclip(), cbsae_for()).image_embeds(pictures(1), steering),
    )
    assert (other.repo_id, other.revision) == (str(tmp_path / "unclip"), folder_revision(tmp_path / "unclip"))


def test_a_bottleneck_is_steered_by_the_names_of_its_concepts():
    drawer = UnclipSteerer(unclip(), cbsae_for())
    embedding = drawer.image_embeds(pictures(1), Steering([Edit("red", 30.0)]))[0]
    by_hand = embedding_by_hand(drawer.encoder, 2, pictures(1)[0], drawer.tower.sae, [(33, 30.0, "set")])
    assert_close(embedding, by_hand, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="does not say at which layer"):
        UnclipSteerer(unclip(), sae_for(layer=None))
    with pytest.raises(ValueError, match="activations of width 8"):
        UnclipSteerer(unclip(), sae_for(d_in=8))
    with pytest.raises(ValueError, match="at least one input and one seed"):
        UnclipSteerer(unclip(), sae_for()).generate(pictures(1), seeds=[])
    with pytest.raises(ValueError, match="as a list"):
        UnclipSteerer(unclip(), sae_for()).generate(pictures(1)[0])
    with pytest.raises(ValueError, match="num_inference_steps must be between 1"):
        UnclipSteerer(unclip(), sae_for()).generate(pictures(1), num_inference_steps=0)
    for level in (-1, 1000, 0.5, True):
        with pytest.raises(ValueError, match="noise_level must be"):
            UnclipSteerer(unclip(), sae_for()).generate(pictures(1), noise_level=level)
    for guidance in (float("nan"), float("inf")):  # NaN would draw without any, infinity nothing
        with pytest.raises(ValueError, match="guidance_scale must be a finite number"):
            UnclipSteerer(unclip(), sae_for()).generate(pictures(1), guidance_scale=guidance)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="no model_index.json"):
        UnclipSteerer.from_pretrained(tmp_path, sae_for())
    for name in ("stable-diffusion-2-1-unclip", "stable-diffusion-2-1-unclip-small"):
        with pytest.raises(OSError, match=f"withdrawn .* try 'sd2-community/{name}'"):
            UnclipSteerer.from_pretrained(f"stabilityai/{name}", sae_for())
    with pytest.raises(OSError, match="Check the id"):
        UnclipSteerer.from_pretrained("nobody/nothing", sae_for())


def test_a_drawing_that_nobody_wants_ends_at_the_next_step(drawer):
    asked = []
    with pytest.raises(Stopped):
        drawer.generate(pictures(1), num_inference_steps=5, stop=lambda: asked.append(1) or len(asked) == 2)
    assert len(asked) == 2
