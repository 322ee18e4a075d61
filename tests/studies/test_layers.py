"""SAEs of every layer, against CLIP run whole with hooks of this file; and the script, on a tiny world."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from steerable_models import clip, image_processor, pictures, sae_for, tokenizer
from torch.testing import assert_close
from typer.testing import CliRunner

from cbsae_hub import SAE
from cbsae_hub.data.extraction import extract_layers
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.steering import ClipZeroShotSteerer, Edit, Steering
from cbsae_hub.steering.latents import RawNeurons
from cbsae_hub.studies.layer_figures import plot_l0_boxes, plot_l0_by_layer, plot_s_f
from cbsae_hub.studies.layer_steering import RANDOM, RAW, controls, steer_set
from cbsae_hub.studies.layer_tables import as_markdown, over_seeds
from cbsae_hub.studies.layers import BOX, LayerProbe

WORDS = ["pizza", "dog", "red", "night", "q"]


class Shown:
    """Map-style dataset of twelve pictures."""

    def __len__(self):
        return 12

    def __getitem__(self, rows):
        return {"image": pictures(12)[rows]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIP with processor and tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    for part in (clip(), image_processor(), tokenizer(16)):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def probe(folder, tmp_path_factory):
    """Twelve pictures at layer 2, of which two have no class."""
    encoder = VisionEncoder.from_pretrained(folder, 2, "all")
    stores = tmp_path_factory.mktemp("stores")
    (store,) = extract_layers([encoder], Shown(), stores, source={"id": "noise"}, dtype="float32")
    head = ZeroShotHead.from_pretrained(folder, ["red", "dog", "q"])
    return LayerProbe(encoder, store, torch.tensor([0, 1, 2, -1, 0, 1, 2, 0, -1, 1, 2, 0]), head)


def explaining(encoder, tokens):
    sae = SAE(16, 40, "topk", 5, seed=1, **{**encoder.provenance(), "tokens": tokens})
    with torch.no_grad():
        sae.b_enc[[3, 7]] = -1000.0
        sae.W_enc.add_(0.1 * torch.randn(16, 40, generator=torch.Generator().manual_seed(5)))
    return sae.eval()


@torch.no_grad()
@pytest.mark.parametrize("tokens", ["all", "patches", "cls"])
def test_figures_are_those_of_clip_run_whole_with_reconstructions_put_in(folder, probe, tokens):
    sae = explaining(probe.encoder, tokens)
    figures = probe.measure(sae, batch_size=5)
    model, part = clip(), {"all": slice(None), "patches": slice(1, None), "cls": slice(1)}[tokens]
    pixels = image_processor()(images=pictures(12), return_tensors="pt").pixel_values
    x = model.vision_model(pixels, output_hidden_states=True).hidden_states[3]
    latents = sae.encode(x[:, part])
    counts = (latents > 0).float().sum(-1)
    decoded = sae.decode(latents)
    patches = counts[:, 1:] if tokens == "all" else counts
    assert figures["l0_image"] == pytest.approx(counts.sum(1).mean().item())
    if tokens == "cls":
        assert np.isnan(figures["l0_patch"]) and figures["l0_cls"] == pytest.approx(counts.mean().item())
    else:
        assert figures["l0_patch"] == pytest.approx(patches.mean().item())
        assert np.isnan(figures["l0_cls"]) == (tokens == "patches")
    rows = np.quantile(counts.numpy(), BOX, 0).T
    np.testing.assert_allclose(np.asarray(figures["l0_by_token"])[:, :-1], rows, rtol=1e-5)
    flat = x[:, part].flatten(0, 1)
    error = (x[:, part] - decoded).square().sum()
    assert figures["explained_variance"] == pytest.approx(
        1 - float(error / (flat - flat.mean(0)).square().sum()), rel=1e-4
    )
    assert figures["cosine"] == pytest.approx(
        torch.nn.functional.cosine_similarity(flat, decoded.flatten(0, 1)).mean().item(), rel=1e-4
    )
    assert figures["dead_share"] == pytest.approx((latents == 0).flatten(0, 1).all(0).double().mean().item())

    each = [tokenizer(16)(word, return_tensors="pt") for word in ("red", "dog", "q")]
    texts = torch.cat([model.get_text_features(**one).pooler_output for one in each])
    texts = torch.nn.functional.normalize(texts, dim=-1)
    for name, stand_in in (("original", None), ("reconstructed", decoded), ("zeroed", torch.zeros_like(decoded))):

        def put_in(_module, _inputs, output, stand_in=stand_in):
            v = (output[0] if isinstance(output, tuple) else output).clone()
            if stand_in is not None:
                v[:, part] = stand_in
            return (v, *output[1:]) if isinstance(output, tuple) else v

        hook = model.vision_model.encoder.layers[2].register_forward_hook(put_in)
        embedded = torch.nn.functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        hook.remove()
        counted = probe.targets >= 0
        cosines, targets = (embedded @ texts.T)[counted], probe.targets[counted]
        scale = model.logit_scale.exp()
        entropy = torch.nn.functional.cross_entropy(scale * cosines, targets).item()
        assert figures[f"cross_entropy_{name}"] == pytest.approx(entropy, rel=1e-4)
        unscaled = torch.nn.functional.cross_entropy(cosines, targets).item()
        assert figures[f"unscaled_cross_entropy_{name}"] == pytest.approx(unscaled, rel=1e-4)
        assert figures[f"accuracy_{name}"] == pytest.approx((cosines.argmax(1) == targets).float().mean().item())


def test_what_does_not_fit_is_named(probe):
    for change, message in (
        ({"layer": 1}, "layer 1, is of another layer than the 2 that is measured"),
        ({"encoder_id": "me/other"}, "the SAE of me/other, layer 2, is of another encoder than"),
        ({"encoder_revision": f"sha256:{16 * '0'}"}, "is of the encoder's weights sha256:0000"),
    ):
        other = explaining(probe.encoder, "all")
        other.provenance = replace(other.provenance, **change)
        with pytest.raises(ValueError, match=message):
            probe.measure(other)
    with pytest.raises(ValueError, match="width 8, those here have 16"):
        probe.measure(SAE(8, 16, "topk", 2, **{**probe.encoder.provenance(), "tokens": "all"}))
    with pytest.raises(ValueError, match="mean over tokens is read from the model; it cannot be put back"):
        probe.measure(explaining(probe.encoder, "mean"))
    with pytest.raises(ValueError, match="none of the probe images has one class"):
        LayerProbe(probe.encoder, probe.store, torch.full((12,), -1), probe.head)


def test_the_strongest_neuron_is_followed_and_controls_are_as_many(folder):
    sae = sae_for(layer=2)
    steerer = ClipZeroShotSteerer(clip(), image_processor(), tokenizer(16), sae, WORDS)
    images = pictures(3)
    result = steer_set(steerer, images, strength=20.0, neurons=6, curve=(0.0, 5.0, 20.0), seed=3)
    at = result.neurons[result.neurons["strength"] == 20.0]
    assert len(at) == 6 and len(result.neurons) == 6 + sae.d_latent
    assert result.curve["neuron"] == at.iloc[0]["neuron"] and result.curve["word"] == at.iloc[0]["concept"]
    assert result.curve["s_f"][-1] == pytest.approx(at.iloc[0]["s_f"], rel=1e-4)
    effect = steerer.effect(images, Steering([Edit(result.curve["neuron"], 5.0)], keep_error=True))
    assert result.curve["s_f"][1] == pytest.approx(effect.s_f, rel=1e-4)
    word = WORDS.index(result.curve["word"])
    assert result.curve["delta_p"][1] == pytest.approx(float(effect.delta_p[word]), rel=1e-3, abs=1e-6)
    assert [summary["strength"] for summary in result.summaries] == [20.0, np.inf]
    assert steer_set(steerer, images, strength=None).curve is None

    others = controls(16, 2, 40, seed=1)
    assert {name: one.d_latent for name, one in others.items()} == {RAW: 16, RANDOM: 40}
    assert_close(others[RANDOM].W_dec.norm(dim=1), torch.ones(40))
    first = RawNeurons(16, 2, 1)
    assert torch.equal(others[RANDOM].W_dec[:16], first.W_dec)
    steered = steerer.with_sae(others[RANDOM])
    scores = steered.scores(images, [33], 9.0)
    x = steered.activations(images)
    row = others[RANDOM].W_dec[33]
    by_hand = x + (9.0 - x @ row)[..., None] * row
    after = steered.distribution(steered.embed(by_hand))
    before = steered.distribution(steered.embed(x))
    assert float(scores.s_f) == pytest.approx(float((after - before).square().mean(0).sum()), rel=1e-4)
    with pytest.raises(ValueError, match="a count of directions needs a seed"):
        RawNeurons(16, 2, count=4)


def test_seeds_are_averaged_and_a_single_one_has_no_spread():
    rows = pd.DataFrame(
        {
            "layer": [1, 1, 2],
            "tokens": "all",
            "kind": "a",
            "seed": [0, 1, 0],
            "x": [1.0, 3.0, 5.0],
            "y": [None, None, 2],
        }
    )
    frame = over_seeds(rows, ("layer", "kind"), ("x", "y"))
    assert frame["x"].tolist() == [2.0, 5.0] and frame["x_sd"].iloc[0] == pytest.approx(2**0.5)
    assert np.isnan(frame["x_sd"].iloc[1]) and np.isnan(frame["y"].iloc[0])


# ------------------------------------------------------------------------------------------------------ the script


@pytest.fixture(scope="module")
def world(folder, tmp_path_factory):
    """A recipe for the tiny CLIP, pictures of two classes, and a published SAE of layer 3."""
    place = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for number in range(24):
        file = place / "pictures" / ("red" if number % 2 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    encoder = VisionEncoder.from_pretrained(folder, 3, "all")
    explaining(encoder, "all").save_pretrained(place / "theirs")
    explaining(encoder.at(2, "all"), "all").save_pretrained(place / "of-another-layer")
    (place / "words.txt").write_text("\n".join(WORDS))
    images = str(place / "pictures")
    section = {
        "encoder": str(folder), "layers": [-1], "tokens": ["all", "cls"], "images": images, "split": "train",
        "kinds": {"Top K": {"activation": "topk"}}, "seeds": [0, 1], "published": {"theirs": [str(place / "theirs")]},
        "sae": {"d_sae": 20, "k": 3, "group_fractions": None, "steps": 2, "batch_size": 8, "warmup_steps": 1,
                "heldout_fraction": 0.25},
        "probe_images": images, "probe_split": "train", "probe_count": 20, "labels": "label", "neurons": 8,
        "vocabulary": str(place / "words.txt"), "steered_images": 2, "curves": [1, 150], "output": str(place / "out"),
    }  # fmt: skip
    (place / "recipe.yaml").write_text(yaml.safe_dump({"layers": section}))
    return place


def run(world, *settings):
    import typer

    from training.layers import main  # imports matplotlib and more

    app = typer.Typer()
    app.command()(main)
    changes = [part for setting in settings for part in ("--set", setting)]
    return CliRunner().invoke(app, ["--recipe", str(world / "recipe.yaml"), *changes], env={"COLUMNS": "1000"})


def test_the_script_trains_measures_steers_and_goes_on_where_it_was(world, monkeypatch):
    done = run(world)
    assert done.exit_code == 0, (done.output, done.exception)
    out = world / "out"
    results = json.loads((out / "layers.json").read_text())
    assert len(results["measured"]) == 2 * 2 + 1
    steered = [(row["layer"], row["kind"], row["seed"], row["strength"]) for row in results["steered"]]
    assert (3, "theirs", None, 150.0) in steered and (3, "Top K", 1, None) in steered
    assert (3, "Top K", 1, 150.0) not in steered, "the other seeds have the asymptote alone"
    sizes = {row["kind"]: row["neurons"] for row in results["steered"] if row["strength"] is None}
    assert sizes == {"theirs": 40, "Top K": 20, RAW: 16, RANDOM: 40}
    assert {path.name for path in out.glob("*.*")} == {
        "layers.json", "layers.md", "neurons.parquet", "l0_by_layer.png", "l0_maps.png", "l0_boxes.png", "s_f.png",
        "curves.png", "reach.png",
    }  # fmt: skip
    assert done.stdout == (out / "layers.md").read_text(encoding="utf-8")
    assert " ± " in done.stdout and "| 3 | all | theirs |" in done.stdout

    from training.layers import Results

    passes = []
    monkeypatch.setattr(Results, "figures", lambda _: iter(()))  # they take long
    monkeypatch.setattr("cbsae_hub.trainers.sae.trainer.SAETrainer.train", lambda *_, **__: passes.append("training"))
    monkeypatch.setattr(LayerProbe, "measure", lambda *_: passes.append("measure"))
    again = run(world)
    assert again.exit_code == 0 and not passes and again.stdout == done.stdout
    other = run(world, "sae={d_sae: 20, k: 2, group_fractions: null, steps: 2, batch_size: 8, warmup_steps: 1}")
    assert other.exit_code == 2 and "is of another run with other settings" in " ".join(other.output.split())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("layers=[9]", "layer 9 does not exist"),
        ("tokens=[mean]", "mean over tokens is read from the model; it cannot be put back"),
        ("kinds={slip: {activation: gated, revive: ghost_grads}}", "slip: ghost_grads need"),
        ("kinds={theirs: {}}", "trained and published SAEs need different names: theirs"),
        ("published={a: [of-another-layer]}", "is of layer 2, and the layers here are 3: leave it out"),
        ("probe_count=99", "probe_count must be between 1 and 24"),
    ],
)
def test_mistakes_are_a_sentence(world, setting, message, monkeypatch):
    monkeypatch.chdir(world)
    failed = run(world, setting, f"output={world / 'nothing'}")
    assert failed.exit_code == 2 and message in " ".join(failed.output.split())


def test_cls_stands_apart_from_the_patches_and_lines_are_of_what_there_is():
    boxes = np.arange(5 * 6).reshape(5, 6)
    (axes,) = plot_l0_boxes({0: (boxes, 1)}).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["CLS"]
    rows = {"layer": [0, 1, 0], "tokens": ["all", "all", "cls"], "kind": "a", "l0_patch": [3.0, 4.0, np.nan]}
    rows |= {"l0_cls": [1.0, 2.0, 5.0], "l0_patch_sd": np.nan, "l0_cls_sd": np.nan}
    patches, cls = plot_l0_by_layer(pd.DataFrame(rows)).axes
    assert patches.get_legend_handles_labels()[1] == ["a, SAE of all"]
    assert cls.get_legend_handles_labels()[1] == ["a, SAE of all", "a, SAE of cls"]
    with pytest.raises(ValueError, match="there are no boxes to draw"):
        plot_l0_boxes({})
    neurons = pd.DataFrame({"layer": [0, 1, 1], "kind": ["b", "a", "b"], "s_f": [0.2, 0.4, 0.6]})
    figure = plot_s_f(neurons, 0.1, 0.5)
    colours = [{patch.get_label(): patch.get_edgecolor() for patch in axes.patches} for axes in figure.axes]
    assert colours[0]["b"] == colours[1]["b"] != colours[1]["a"], "a kind looks the same in every panel"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b", "a"]


def test_the_table_shows_what_is_known():
    measured = pd.DataFrame([{"layer": 0, "tokens": "cls", "kind": "a", "seed": 0, **dict.fromkeys(FIGURES, 0.5)}])
    text = as_markdown(measured.assign(l0_patch=None), pd.DataFrame(), 0.1)
    assert text.splitlines()[-1].startswith("| 0 | cls | a |  | 0.5 |")


FIGURES = (
    "l0_patch l0_cls l0_image explained_variance cosine dead_share cross_entropy_original cross_entropy_reconstructed "
    "cross_entropy_zeroed cross_entropy_recovered unscaled_cross_entropy_recovered accuracy_original "
    "accuracy_reconstructed accuracy_zeroed"
).split()
