import copy
import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import StableUnCLIPImg2ImgPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from training.emoji_world import denoising, latents, layer_code, loop, pushes, train_unclip
from training.emoji_world.glyphs import Atlas
from training.emoji_world.paths import HUB
from training.emoji_world.render import SceneRenderer

CLIP = HUB / "emoji-clip"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def small(monkeypatch, atlas):
    """A narrow UNet and few scenes."""
    monkeypatch.setattr(Atlas, "build", lambda: atlas)
    monkeypatch.setattr(train_unclip, "WIDTHS", (16, 32, 32))
    monkeypatch.setattr(train_unclip, "CONDITION_WIDTH", 64)
    monkeypatch.setattr(train_unclip, "EMBEDDING_STEPS", 2)
    monkeypatch.setattr(latents, "SHARD", 8)
    monkeypatch.setattr(pushes, "BATCH", 32)
    monkeypatch.setattr(pushes, "BATCHES", 4)


@pytest.fixture(scope="module")
def vae(atlas):
    torch.manual_seed(0)
    vae = layer_code.build()
    layer_code.start_as_inverse(vae.decoder, _code(atlas, 0))
    return vae


def _code(atlas, seed):
    scenes = SceneRenderer(atlas, seed).batch(0, 32, train_unclip.SPEC)
    return layer_code.LayerCode.measure(layer_code.weighted_layers(atlas, scenes.concepts, scenes.backgrounds))


@pytest.fixture
def normalizer():
    return train_unclip.fit_normalizer(torch.randn(50, 128, generator=torch.Generator().manual_seed(1)) * 3 + 1)


@pytest.fixture
def batch():
    """Latents, embeddings and chance of 32 scenes."""
    generator = torch.Generator().manual_seed(2)
    drawn = torch.randn(32, 64, 4, 4, generator=generator)
    embeddings = torch.randn(32, 128, generator=generator)
    return drawn, embeddings, train_unclip.draw_chance(generator, drawn, embeddings)


def _signal_shares() -> np.ndarray:
    """Products of 1 - beta of the cosine schedule (Nichol and Dhariwal 2021, eq. 17; betas below 0.999)."""
    curve = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - curve[1:] / curve[:-1], 0.999))


def test_embeddings_are_noised_as_the_pipeline_does(normalizer, vae):
    pipeline = train_unclip.assemble(train_unclip.build_unet(64, 4, 128), normalizer, vae, CLIP)
    embeddings, noise = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(3))
    levels = torch.tensor([0, 1, 250, 700, 999])
    noised = train_unclip.noised_embeddings(embeddings, noise, levels, normalizer, train_unclip.embedding_scheduler())
    for row, level in enumerate(levels.tolist()):
        part = slice(row, row + 1)
        expected = pipeline.noise_image_embeddings(embeddings[part], level, noise=noise[part])
        torch.testing.assert_close(noised[part], expected, atol=1e-5, rtol=1e-5)
    share = _signal_shares()[levels, None]
    mean, std = (each.detach().numpy() for each in (normalizer.mean, normalizer.std))
    by_hand = (np.sqrt(share) * (embeddings.numpy() - mean) / std + np.sqrt(1 - share) * noise.numpy()) * std + mean
    np.testing.assert_allclose(noised[:, :128], by_hand, atol=1e-4)


def test_normalizer_has_the_embeddings_mean_and_deviation():
    embeddings = np.random.default_rng(0).normal(2, 3, (40, 6)).astype(np.float32)
    normalizer = train_unclip.fit_normalizer(torch.from_numpy(embeddings))
    np.testing.assert_allclose(normalizer.mean[0], embeddings.mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.std[0], embeddings.std(0, ddof=1), rtol=1e-5)


def test_weights_follow_the_formula():
    weights = denoising.loss_weights(denoising.drawing_scheduler()).double().numpy()
    share = _signal_shares()
    snr = share / (1 - share)
    np.testing.assert_allclose(weights, np.minimum(snr + 1, 5.0) / (snr + 1), rtol=1e-3)
    assert weights[-1] == pytest.approx(1) and weights[0] < 1e-3


def test_loss_is_the_weighted_error_of_the_velocity(normalizer, batch):
    drawn, embeddings, chance = batch
    model = train_unclip.Denoising(train_unclip.build_unet(64, 4, 128), normalizer)
    predicted = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(4))
    inputs = {}

    def unet(noisy, times, **condition):
        inputs.update(noisy=noisy, times=times, **condition)
        return SimpleNamespace(sample=predicted)

    model._modules["unet"] = unet
    loss, figures = model(drawn, embeddings, chance)
    share = _signal_shares()[chance["times"]]
    signal, sigma = (np.sqrt(each)[:, None, None, None] for each in (share, 1 - share))
    x, noise = drawn.double().numpy(), chance["noise"].double().numpy()
    np.testing.assert_allclose(inputs["noisy"], signal * x + sigma * noise, atol=1e-4)
    error = ((predicted.double().numpy() - (signal * noise - sigma * x)) ** 2).mean((1, 2, 3))
    snr = share / (1 - share)
    assert loss.item() == pytest.approx((np.minimum(snr + 1, 5) / (snr + 1) * error).mean(), rel=1e-4)
    assert figures["error"] == pytest.approx(error.mean(), rel=1e-4)
    conditioned = chance["conditioned"].bool()
    assert 0 < conditioned.sum() < len(conditioned)
    assert (inputs["class_labels"][~conditioned] == 0).all()
    noised = train_unclip.noised_embeddings(
        embeddings, chance["embedding_noise"], chance["levels"], normalizer, train_unclip.embedding_scheduler()
    )
    torch.testing.assert_close(inputs["class_labels"][conditioned], noised[conditioned])


def test_class_embedding_is_read_out_to_latents_first(normalizer, batch):
    drawn, embeddings, chance = batch
    torch.manual_seed(0)
    unet = train_unclip.build_unet(64, 4, 128)
    model = train_unclip.Regression(unet, normalizer)
    loss, figures = model(drawn, embeddings, chance)
    noised = train_unclip.noised_embeddings(
        embeddings, chance["embedding_noise"], chance["levels"], normalizer, train_unclip.embedding_scheduler()
    )
    hidden = F.silu(unet.class_embedding(noised))
    weight, bias = model.read_out[1].weight, model.read_out[1].bias
    expected = ((hidden @ weight.T + bias).view(drawn.shape) - drawn).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4) == figures["error"]
    loss.backward()
    assert all(weight.grad.abs().max() > 0 for weight in unet.class_embedding.parameters())


def test_average_is_the_geometric_one(normalizer):
    model = train_unclip.Denoising(train_unclip.build_unet(64, 4, 128), normalizer)
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(6, *model.unet.conv_in.weight.shape, generator=generator)
    expected = model.average.conv_in.weight.clone()
    steps = (0, 1, 2, 500, 20000, 20001)
    for step, value in zip(steps, values):
        with torch.no_grad():
            model.unet.conv_in.weight.copy_(value)
        model.update_average(step)
    decays = [0.1, 2 / 11, 3 / 12, 501 / 510, 0.999, 0.999]
    shares = [(1 - decay) * np.prod(decays[i + 1 :]) for i, decay in enumerate(decays)]
    expected = np.prod(decays) * expected + sum(share * value for share, value in zip(shares, values))
    torch.testing.assert_close(model.average.conv_in.weight.detach(), expected.detach(), atol=1e-6, rtol=1e-5)
    assert not any(weight.requires_grad for weight in model.average.parameters())


def test_chance_depends_on_the_generator_alone_and_covers_all_times():
    zeros = torch.zeros(4000, 1, 1, 1), torch.zeros(4000, 2)
    first, again = (train_unclip.draw_chance(torch.Generator().manual_seed(6), *zeros) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    times, levels = first["times"].double().numpy(), first["levels"].numpy()
    # A time is below 1000 (1 - u^4) with the probability 1 - u.
    expected = [1000 * (1 - u**4) for u in (0.75, 0.5, 0.25)]
    np.testing.assert_allclose(np.quantile(times, [0.25, 0.5, 0.75]), expected, atol=30)
    assert times.min() >= 0 and times.max() == 999
    assert levels.min() == 0 and 900 < levels.max() < 1000
    assert np.quantile(levels, 0.9) == pytest.approx(1000 * 0.9**8, rel=0.15)
    assert 1 - first["conditioned"].mean().item() == pytest.approx(0.1, abs=0.02)


def test_unet_learns_of_time_and_embedding_and_of_no_prompt(batch):
    drawn, embeddings, _ = batch
    torch.manual_seed(0)
    unet = train_unclip.build_unet(64, 4, 128)
    labels = torch.cat([embeddings, embeddings], 1)
    for parameter in unet.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        base, other_time, other_label, other_prompt = (
            unet(drawn[:2], time, encoder_hidden_states=prompt, class_labels=label).sample
            for time, label, prompt in (
                (5, labels[:2], None),
                (900, labels[:2], None),
                (5, labels[2:4], None),
                (5, labels[:2], torch.randn(2, 3, train_unclip.TEXT_WIDTH)),
            )
        )
    assert (base - other_time).abs().max() > 0.01 and (base - other_label).abs().max() > 0.01
    assert torch.equal(base, other_prompt)


def test_real_unet_has_the_size_it_shall_have(monkeypatch):
    monkeypatch.undo()
    assert 10e6 < sum(p.numel() for p in train_unclip.build_unet(64, 4, 128).parameters()) < 20e6


def _train(folder, vae, monkeypatch, steps=4, stop_at=None, start=None, seed=0):
    """Trains in a folder; around this autoencoder, or around the one that is there if it is None."""
    monkeypatch.setattr(train_unclip, "train", functools.partial(loop.train, checkpoint_every=2, warmup=1))
    forward, calls = train_unclip.Denoising.forward, iter(range(100))

    def interrupted(*args):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return forward(*args)

    if vae:
        copy.deepcopy(vae).half().save_pretrained(folder / "hub" / "vae")
        _code(Atlas.build(), seed).save(folder / "hub" / "vae" / train_unclip.CODE)
    with monkeypatch.context() as patch:
        patch.setattr(train_unclip.Denoising, "forward", interrupted)
        train_unclip.main(
            steps=steps, batch=4, scenes=12, learning_rate=1e-2, seed=5, precision="bf16", start=start, clip=CLIP,
            output=folder / "hub", run=folder / "run",
        )  # fmt: skip
    return load_file(folder / "hub" / WEIGHTS)


def _draw(pipeline, pictures, seeds, **settings):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    result = pipeline(image=pictures, generator=generators, num_inference_steps=3, output_type="np", **settings)
    return result.images


def test_resumed_training_publishes_the_same_pipeline_which_draws(vae, tmp_path, monkeypatch):
    whole = _train(tmp_path / "whole", vae, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", vae, monkeypatch, stop_at=3)
    resumed = _train(tmp_path / "parts", vae, monkeypatch)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    checkpoint = load_file(tmp_path / "whole" / "run" / "checkpoint.safetensors")
    assert all(torch.equal(whole[name], checkpoint[f"model.average.{name}"].half()) for name in whole)
    assert any(not torch.equal(whole[name], checkpoint[f"model.unet.{name}"].half()) for name in whole)
    folder = tmp_path / "whole" / "hub"
    assert not [file for file in folder.rglob("*.json") if str(tmp_path) in file.read_text(encoding="utf-8")]
    assert not list(folder.rglob("*.bin")) and not list(tmp_path.rglob("*.partial"))

    pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in noise]
    drawn = _draw(pipeline, pictures, (1, 2))
    assert drawn.shape == (2, 64, 64, 3) and drawn.std() > 0.01
    np.testing.assert_array_equal(drawn, _draw(pipeline, pictures, (1, 2)))
    np.testing.assert_allclose(drawn[1:], _draw(pipeline, pictures[1:], (2,)), atol=1e-4)
    np.testing.assert_array_equal(drawn, _draw(pipeline, pictures, (1, 2), prompt=["an owl", "a boat"]))
    assert np.abs(drawn - _draw(pipeline, pictures, (3, 4))).max() > 0.01
    expected = torch.from_numpy(noise).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        embeddings = latents.load_encoder(CLIP)(expected).image_embeds
        output = pipeline.image_encoder(pipeline.feature_extractor(pictures, return_tensors="pt").pixel_values)
    torch.testing.assert_close(output.image_embeds, embeddings, atol=1e-4, rtol=1e-4)

    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["prediction_type"] == "v_prediction" and config["timestep_spacing"] == "trailing"


def test_a_finished_training_goes_on_where_more_steps_are_asked_for(vae, tmp_path, monkeypatch):
    _train(tmp_path, vae, monkeypatch, steps=2)
    _train(tmp_path, None, monkeypatch, steps=4)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    with safe_open(checkpoint, framework="pt") as file:
        assert file.metadata()["step"] == "4"


def test_published_weights_start_another_run(vae, tmp_path, monkeypatch):
    first = _train(tmp_path / "first", vae, monkeypatch, steps=1)
    second = _train(tmp_path / "second", vae, monkeypatch, steps=0, start=tmp_path / "first" / "hub")
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = _train(tmp_path / "third", vae, monkeypatch, steps=0)
    assert not all(torch.equal(first[name], fresh[name]) for name in first)
    learned = load_file(tmp_path / "third" / "run" / "embedding" / "checkpoint.safetensors")
    for name, weight in fresh.items():
        if "class_embedding" in name:
            assert torch.equal(weight, learned[f"model.{name.replace('class_embedding', 'embedding')}"].half())


def test_latents_of_another_code_are_refused(vae, tmp_path, monkeypatch):
    _train(tmp_path, vae, monkeypatch, steps=1)
    with pytest.raises(ValueError, match="was made with"):
        _train(tmp_path, vae, monkeypatch, steps=2, seed=1)
