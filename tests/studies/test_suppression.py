"""A linear model with a planted spurious feature, of which the right answer is known in closed form."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig

from cbsae_hub.data.groups import GroupedImages
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.metrics.erasure import leace
from cbsae_hub.models import SAE
from cbsae_hub.plots import plot_suppression
from cbsae_hub.studies.suppression import LayerStudy, Task
from cbsae_hub.studies.suppression_tables import as_markdown, best_layers, summary

D, ONE, OTHER, SPURIOUS, ALWAYS = 8, 0, 1, 2, 3  # evidence for class 1, for class 0, attribute, constant; then noise
UNIT = 50  # pixels of an activation of 1
BASIS = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0]


class LinearEncoder:
    """Pixels are latents, activations are their sum of directions, the embedding is the activation."""

    layer, num_layers, d_in, device = 0, 2, D, torch.device("cpu")
    family, model = SimpleNamespace(cls_token=True), SimpleNamespace(config=CLIPVisionConfig())

    def __call__(self, pictures):
        latents = torch.tensor(np.array([np.asarray(one)[0, :, 0] for one in pictures])) / UNIT
        return (latents @ BASIS)[:, None]

    def embed_from(self, v):
        return v[:, 0]


class Rows:
    """Map-style images of latents."""

    def __init__(self, latents):
        self.pixels = (UNIT * latents).round().numpy().astype(np.uint8)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, rows):
        return {"image": [Image.fromarray(np.stack([row[None]] * 3, -1)) for row in self.pixels[rows]]}


def split(count, at_home, seed):
    """Images of which a share has the attribute exactly if they are of class 1; its strength is 0.5 or 2."""
    rng = np.random.default_rng(seed)
    target = np.arange(count) % 2
    attribute = np.where(np.arange(count) // 2 < at_home * count // 2, target, 1 - target)
    latents = np.zeros((count, D))
    latents[:, ONE], latents[:, OTHER] = target, 1 - target
    latents[:, SPURIOUS] = attribute * rng.permuted(np.resize([0.5, 2.0, 2.0], count))
    latents[:, ALWAYS], latents[:, 4:] = 1, rng.integers(0, 2, (count, D - 4))
    images = Rows(torch.tensor(latents))
    return GroupedImages(images, torch.tensor(attribute).bool(), torch.tensor(target), ("zero", "one"))


def sae(tokens="all", layer=0):
    model = SAE(D, D, "relu", layer=layer, tokens=tokens)
    with torch.no_grad():
        model.W_enc.copy_(BASIS.T)
        model.W_dec.copy_(BASIS)
        for bias in (model.b_enc, model.b_dec):
            bias.zero_()
    return model


@pytest.fixture(scope="module")
def task():
    # class 1 is answered if the evidence for it and the attribute exceed the evidence for class 0 and 0.2
    weights = torch.stack([BASIS[OTHER] + 0.2 * BASIS[ALWAYS], BASIS[ONE] + BASIS[SPURIOUS]])
    head = ZeroShotHead(["zero", "one"], weights, 1.0)
    return Task(head, split(400, 0.9, 0), split(120, 0.5, 1), split(240, 0.5, 2))


@pytest.fixture(scope="module")
def result(task):
    return LayerStudy(task, LinearEncoder(), {0: sae(), 1: sae()}, batch=100).run()


def test_the_planted_feature_is_found_and_the_model_is_right_without_it(task, result):
    rows = {(row["method"], row["seed"], row["rule"]): row for row in result["rows"]}
    weak = task.test.images.pixels[:, SPURIOUS] == UNIT // 2
    lost = (task.test.targets == 0) & task.test.attribute
    expected = float(weak[lost].mean())  # class 0 with the attribute is right exactly where 0.5 < 1.2
    assert rows["none", 0, "strict"]["test"]["by_group"] == pytest.approx([1, expected, 1, 1])
    for seed in (0, 1):
        for rule in ("strict", "relaxed"):
            row = rows["SAE features", seed, rule]
            # evidence for class 1 goes along with the attribute by 0.9 - 0.1: a smaller tau takes it as well
            assert row["features"] == [SPURIOUS] and 0.8 <= row["tau"] <= 1
            assert row["test"]["by_group"] == [1, 1, 1, 1]
    low = next(one for one in result["sweep"] if one["method"] == "SAE features")
    assert low["features"] >= 2 and low["worst"] == 0  # no class 1 without the evidence for it


def test_leace_is_the_closed_form_fitted_on_the_training_split(task, result):
    encoder = LinearEncoder()
    x = encoder(task.train.images[:]["image"])[:, 0]
    erased = leace(x, task.train.attribute)(encoder(task.test.images[:]["image"])[:, 0])
    right = task.head(erased).argmax(1) == task.test.targets
    row = next(one for one in result["rows"] if one["method"] == "LEACE, always")
    assert row["test"]["overall"] == pytest.approx(float(right.float().mean()))


def test_controls_have_as_many_features(result):
    frame = pd.DataFrame(result["sweep"])
    counts = {name: part.groupby(["seed", "tau"])["features"].first() for name, part in frame.groupby("method")}
    assert (counts["random SAE features"] == counts["SAE features"]).all()
    raw = counts["raw neurons"].droplevel("seed")
    assert (counts["random raw neurons"].loc[1] == raw).all() and len(raw) == 25


def test_tables_and_figure(result):
    worse = {**result, "layer": 1, "rows": [{**row, "val": {**row["val"], "worst": 0.0}} for row in result["rows"]]}
    table = summary([worse, result])
    best = best_layers(table)
    assert list(best["method"].unique()) == [*pd.DataFrame(result["rows"])["method"].unique()] and len(best) == 7 * 2
    assert (best["layer"] == 0)[best["method"] != "LEACE, always"].all()  # whose worst group is 0 in both
    text = as_markdown(table, best)
    assert "| 1 | SAE features | 100.0 +- 0.0 | 100.0 +- 0.0 | 1 | 100.0 +- 0.0 | 100.0 +- 0.0 | 1 |" in text
    figure = plot_suppression(pd.DataFrame([{"layer": 0, **row} for row in result["sweep"]]), 0.3)
    assert [axes.get_title() for axes in figure.axes] == ["layer 0"]


def test_what_cannot_be_studied_is_an_error(task):
    half = GroupedImages(task.val.images, task.val.targets.bool(), task.val.targets, task.val.classes)
    with pytest.raises(ValueError, match="the validation split has no image of zero, with attribute, one, without"):
        Task(task.head, task.train, half, task.test)
    with pytest.raises(ValueError, match="the SAE is of layer 1, the encoder is read at layer 0"):
        LayerStudy(task, LinearEncoder(), {0: sae(layer=1)})
    with pytest.raises(ValueError, match="of the same tokens"):
        LayerStudy(task, LinearEncoder(), {0: sae(), 1: sae("cls")})
    with pytest.raises(ValueError, match="CLS is not among the SAE's tokens"):
        LayerStudy(task, LinearEncoder(), {0: sae("patches")}, pool="cls")
