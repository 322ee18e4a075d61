import copy
import functools
import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from cbsae_hub.models import SAE
from cbsae_hub.steering import Edit, StableDiffusionSteerer, Steering
from training.emoji_world import latents, layer_code, loop, train_diffusion
from training.emoji_world.captions import captions
from training.emoji_world.glyphs import Atlas
from training.emoji_world.paths import HUB
from training.emoji_world.render import SceneRenderer

CLIP = HUB / "emoji-clip"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def small(monkeypatch, atlas):
    """A narrow UNet and few scenes."""
    monkeypatch.setattr(Atlas, "build", lambda: atlas)
    monkeypatch.setattr(train_diffusion, "WIDTHS", (16, 32, 32))
    monkeypatch.setattr(train_diffusion, "TIME_WIDTH", 32)
    monkeypatch.setattr(latents, "SHARD", 8)


@pytest.fixture(scope="module")
def code(atlas):
    scenes = SceneRenderer(atlas, 0).batch(0, 32, train_diffusion.SPEC)
    return layer_code.LayerCode.measure(layer_code.weighted_layers(atlas, scenes.concepts, scenes.backgrounds))


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return layer_code.build_kl()


@pytest.fixture(scope="module")
def text():
    return train_diffusion.text_parts(CLIP)


@torch.no_grad()
def test_text_encoder_is_that_of_the_clip(text):
    tokenizer, encoder = text
    ids = train_diffusion.token_ids(tokenizer, ["a pizza on grass", ""])
    assert ids.shape == (2, tokenizer.model_max_length)
    found, expected = encoder(input_ids=ids), CLIPModel.from_pretrained(CLIP).text_model(input_ids=ids)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert not any(weight.requires_grad for weight in encoder.parameters())


def test_rows_are_captions_of_scenes_and_latents_of_their_canonical_pictures(atlas, code, text):
    renderer = SceneRenderer(atlas, 3)
    rows = train_diffusion.captioned_scenes(renderer, code, text[0], 2, 5)
    scenes = renderer.batch(2, 5, train_diffusion.SPEC)
    texts = captions(scenes, atlas.concepts, np.random.default_rng([3, 2, 10]))
    read = [text[0].decode(ids, skip_special_tokens=True).strip() for ids in rows["ids"]]
    assert [line.replace(" ", "") for line in read] == [line.replace(" ", "") for line in texts]
    layers = layer_code.weighted_layers(atlas, scenes.concepts, scenes.backgrounds, scenes.styles)
    torch.testing.assert_close(rows["latents"].float(), code.encode(layers), atol=4e-3, rtol=1e-3)


@torch.no_grad()
def test_unet_reads_what_the_pipeline_gives_it(text, vae):
    tokenizer, encoder = text
    torch.manual_seed(0)
    unet = train_diffusion.build_unet(64, 4, 128)
    pipeline = train_diffusion.assemble(copy.deepcopy(unet), copy.deepcopy(vae), tokenizer, encoder)
    prompts = ["a pizza on grass", "an owl", "a boat"]
    drawn = torch.randn(3, 64, 4, 4, generator=torch.Generator().manual_seed(1))
    chance = train_diffusion.draw_chance(torch.Generator().manual_seed(2), drawn)
    chance["conditioned"] = torch.tensor([1.0, 0.0, 1.0])
    model = train_diffusion.Drawing(unet, encoder, train_diffusion.token_ids(tokenizer, [""])[0])
    read = {}
    hook = unet.register_forward_pre_hook(lambda _, args, kwargs: read.update(kwargs, noisy=args[0]), with_kwargs=True)
    loss, figures = model(drawn, train_diffusion.token_ids(tokenizer, prompts), chance)
    hook.remove()
    prompted, empty = pipeline.encode_prompt(prompts, "cpu", 1, True)
    expected = torch.stack([prompted[0], empty[1], prompted[2]])
    torch.testing.assert_close(read["encoder_hidden_states"], expected, atol=1e-5, rtol=1e-5)
    velocity = model.scheduler.get_velocity(drawn, chance["noise"], chance["times"])
    predicted = unet(read["noisy"], chance["times"], expected).sample
    error = (predicted - velocity).square().mean((1, 2, 3))
    assert loss.item() == pytest.approx((model.weights[chance["times"]] * error).mean().item(), rel=1e-4)
    assert figures["error"] == pytest.approx(error.mean().item(), rel=1e-4)
    assert (unet(drawn, 5, prompted).sample - unet(drawn, 5, empty).sample).abs().max() > 1e-4


def test_real_unet_has_the_size_it_shall_have(monkeypatch):
    monkeypatch.undo()
    assert 8e6 < sum(p.numel() for p in train_diffusion.build_unet(64, 4, 128).parameters()) < 14e6


def _train(folder, vae, code, monkeypatch, steps=4, stop_at=None, start=None):
    monkeypatch.setattr(train_diffusion, "train", functools.partial(loop.train, checkpoint_every=2, warmup=1))
    forward, calls = train_diffusion.Drawing.forward, iter(range(100))

    def interrupted(*args):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return forward(*args)

    copy.deepcopy(vae).half().save_pretrained(folder / "hub" / "vae")
    code.save(folder / "hub" / "vae" / train_diffusion.CODE)
    with monkeypatch.context() as patch:
        patch.setattr(train_diffusion.Drawing, "forward", interrupted)
        train_diffusion.main(
            steps=steps, batch=4, scenes=12, learning_rate=1e-2, seed=5, precision="bf16", start=start, clip=CLIP,
            output=folder / "hub", run=folder / "run",
        )  # fmt: skip
    return load_file(folder / "hub" / WEIGHTS)


def test_resumed_training_publishes_the_same_pipeline_which_draws_and_is_steered(vae, code, tmp_path, monkeypatch):
    whole = _train(tmp_path / "whole", vae, code, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", vae, code, monkeypatch, stop_at=3)
    resumed = _train(tmp_path / "parts", vae, code, monkeypatch)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    checkpoint = load_file(tmp_path / "whole" / "run" / "checkpoint.safetensors")
    assert all(torch.equal(whole[name], checkpoint[f"model.average.{name}"].half()) for name in whole)
    again = _train(tmp_path / "again", vae, code, monkeypatch, steps=0, start=tmp_path / "whole" / "hub")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    folder = tmp_path / "whole" / "hub"
    assert not [file for file in folder.rglob("*.json") if str(tmp_path) in file.read_text(encoding="utf-8")]
    assert not list(folder.rglob("*.bin"))

    pipeline = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.tokenizer, CLIPTokenizer)
    generator = torch.Generator().manual_seed(1)
    drawn = pipeline("a pizza on grass", num_inference_steps=2, generator=generator, output_type="np").images
    assert drawn.shape == (1, 64, 64, 3)
    drawer = StableDiffusionSteerer(pipeline, SAE(128, 64, "topk", 4, layer=0, seed=0))
    plain, steered = drawer.generate(["a pizza"] * 2, [None, Steering([Edit(3, 50.0)])], num_inference_steps=2)
    assert plain.size == (64, 64) and np.abs(np.asarray(plain, int) - np.asarray(steered, int)).max() > 0
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["prediction_type"] == "v_prediction" and config["timestep_spacing"] == "trailing"
