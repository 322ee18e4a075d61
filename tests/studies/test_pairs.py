"""The study of pairs against hooks and encodings by hand; its script, interrupted and started again."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image
from small_hub import COLOURS, Pictures, make_bottleneck, make_hub
from typer.testing import CliRunner

from cbsae_hub.metrics import coalitions, true_directions
from cbsae_hub.studies.pair_models import CONTROLS, OWN, RAW, TRUE, UNTRAINED, active_parts, untrained_sae
from cbsae_hub.studies.pair_tables import MEASURES, as_markdown, by_change, interval, summary
from cbsae_hub.studies.pairs import PairLabels, PairStudy
from training import pairs as script

FAMILIES = {"colour": "things.name", "side": "side"}
SETTINGS = {"seeds": [3], "steered": 6, "min_images": 4, "most": 2, "seed": 1}


def labelled():
    return datasets.Dataset.from_dict({name: Pictures()[name] for name in ("image", "things", "side")})


def changed_pairs():
    """Pairs of pictures: the colour changes, or, in every fourth, no label does."""
    pictures, names, rows = Pictures(40), list(COLOURS), []
    for i in range(40):
        before = {name: pictures[i][name] for name in ("image", "things", "side")}
        after = {**before, "image": before["image"].transpose(Image.Transpose.FLIP_TOP_BOTTOM)}
        if i % 4:
            colour = names[(names.index(pictures.colours[i]) + i % 4) % 4]
            pixels = np.asarray(before["image"]).copy()
            pixels[:, slice(0, 8) if pictures.sides[i] == "left" else slice(8, 16)] = COLOURS[colour]
            after = {**before, "image": Image.fromarray(pixels), "things": [{"name": colour}]}
        rows += [{**row, "pair": i, "change": "colour" if i % 4 else "flip"} for row in (before, after)]
    return datasets.Dataset.from_list(rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    sae, encoder, _, saved = make_hub(folder)
    for name, images in (("pictures", labelled()), ("pairs", changed_pairs())):
        (folder / name).mkdir()
        images.to_parquet(folder / name / "train.parquet")
    return sae.eval(), encoder, folder


@pytest.fixture(scope="module")
def study(world):
    sae, encoder, _ = world
    return PairStudy(sae, encoder, labelled(), changed_pairs(), FAMILIES, **SETTINGS)


def test_labels_are_those_that_pairs_change(study):
    labels = study.labels
    assert labels.concepts == [("colour", name) for name in sorted(COLOURS)], "no pair changes the side"
    images, pairs = labelled(), changed_pairs()
    for i in range(40):
        names = [pairs[int(side[i])]["things"][0]["name"] for side in (labels.before, labels.after)]
        expected = [(name == names[1]) - (name == names[0]) for name in sorted(COLOURS)]
        assert labels.changes[i].tolist() == [int(one) for one in expected]
    assert labels.images.argmax(1).tolist() == [sorted(COLOURS).index(row["things"][0]["name"]) for row in images]
    shuffled = PairLabels.read(images, pairs.select([2, 0, 1, 3, *range(4, 80)]), FAMILIES, 4)
    np.testing.assert_array_equal(shuffled.changes, labels.changes)


def test_pairs_that_are_none_are_refused():
    images, pairs = labelled(), changed_pairs()
    with pytest.raises(ValueError, match="need the columns `pair` and `change`"):
        PairLabels.read(images, pairs.remove_columns("pair"), FAMILIES)
    with pytest.raises(ValueError, match="1 numbers of the column `pair` do not stand in two rows"):
        PairLabels.read(images, pairs.select(range(79)), FAMILIES)
    with pytest.raises(ValueError, match="the pairs change 0 labels"):
        PairLabels.read(images, pairs, {"side": "side"})


@torch.no_grad()
def test_scores_are_those_computed_by_hand(world, study):
    sae, encoder, _ = world
    images, pairs, labels = labelled()[:]["image"], changed_pairs()[:]["image"], study.labels
    frame, of_pairs = study.score(study.candidates[0])
    latents, on_pairs = (sae.encode(encoder(one)).mean(1).numpy() for one in (images, pairs))
    groups = coalitions(latents, labels.images, 2, seed=1)
    assert frame["members"].tolist() == groups.members
    np.testing.assert_allclose(frame["coalition"], groups.score)
    on = np.stack([(on_pairs[:, one] > 0).any(1) for one in groups.members], 1).astype(int)
    moves = on[1::2] - on[::2]
    hits = ((moves == labels.changes) & (moves != 0)).sum(0)
    np.testing.assert_allclose(frame["switch"], 2 * hits / ((labels.changes != 0).sum(0) + (moves != 0).sum(0)))
    np.testing.assert_array_equal(of_pairs["others"], ((moves != 0) & (labels.changes == 0)).sum(1))
    assert of_pairs["right"].isna().sum() == 10 and set(of_pairs["change"]) == {"colour", "flip"}
    means = encoder(pairs).mean(1)
    directions = true_directions(means[::2], means[1::2], torch.from_numpy(labels.changes)).float()
    cosines = torch.nn.functional.cosine_similarity(directions[:, None], sae.W_dec[None], dim=-1).numpy()
    assert all(cosine in cosines[i].round(5) for i, cosine in enumerate(frame["cosine"].round(5).astype("float32")))


@torch.no_grad()
def test_steering_is_a_push_of_all_patches_that_probes_read(world, study):
    _, encoder, _ = world
    raw = next(one for one in study.candidates if one.name == RAW)
    frame, _ = study.score(raw)
    rows = study._steered
    pictures, probes = [labelled()[row]["image"] for row in rows], study._probes.compute()
    length = encoder(pictures).norm(dim=-1).median()
    for concept, group in enumerate(frame["members"]):
        away = [i for i, row in enumerate(rows) if not study.labels.images[row, concept]]
        chosen = [pictures[i] for i in away]
        push = length * raw.rows[group[0]]
        with encoder.site.edit(encoder.on_tokens(lambda v, push=push: v + push)):
            steered = probes(encoder.embed(chosen))
        change = steered - probes(encoder.embed(chosen))
        assert frame["effect"][concept] == pytest.approx(float(change[:, concept].mean()), rel=1e-3, abs=1e-5)
        others = [i for i in range(4) if i != concept]
        assert frame["damage"][concept] == pytest.approx(float(change[:, others].abs().mean()), rel=1e-3)


def test_controls_know_nothing_and_are_as_active(world, study):
    sae, encoder, _ = world
    assert {one.name for one in study.candidates} == {OWN, *CONTROLS, TRUE}
    x = encoder(labelled()[:]["image"])
    fresh = untrained_sae(sae, x, 7)
    with torch.no_grad():
        l0 = [(one.encode(x) > 0).sum(-1).float().mean().item() for one in (sae, fresh)]
    assert l0[0] == pytest.approx(l0[1], rel=0.01) and torch.equal(fresh.W_enc, fresh.W_dec.T)
    assert torch.equal(fresh.b_dec, sae.b_dec) and not torch.equal(fresh.W_dec, sae.W_dec)
    assert not torch.equal(fresh.W_dec, untrained_sae(sae, x, 8).W_dec)
    values = x.mean(1).numpy()
    own, other = active_parts(values, values[:3], 0.25)
    assert ((own > 0).mean(0) == 0.25).all() and (own[:3] != other).nnz == 0
    assert study.score(study.candidates[-1])[0]["cosine"].min() == pytest.approx(1, abs=1e-6), "the true directions"


def test_concept_neurons_of_a_bottleneck_are_active_as_often_as_the_saes(world, tmp_path):
    sae, encoder, _ = world
    cb = make_bottleneck(sae, encoder, tmp_path)
    one = PairStudy(cb, encoder, labelled(), changed_pairs(), FAMILIES, **SETTINGS | {"seeds": []})
    images, pairs = one._latents(one.candidates[0])
    shares = np.asarray((images > 0).mean(0))[0]
    assert images.shape == (48, cb.d_latent) and pairs.shape == (80, cb.d_latent)
    assert shares[cb.d_sae :] == pytest.approx(shares[: cb.d_sae].mean(), abs=1 / 48)


def test_tables_average_seeds_first_and_have_intervals():
    frame = pd.DataFrame(
        [
            {
                "model": "m",
                "seed": seed,
                "family": family,
                "concept": f"c{i}",
                **dict.fromkeys(MEASURES, float(i + seed)),
            }
            | {chance: 0.5 for chance in MEASURES.values() if chance}
            for seed in (0, 1)
            for i, family in enumerate("aab")
        ]
    )
    table = summary(frame)
    whole = table[(table["family"] == "all") & (table["measure"] == "coalition")].iloc[0]
    assert (whole["mean"], whole["chance"], whole["concepts"]) == (1.5, 0.5, 3)
    assert 0.5 <= whole["low"] < 1.5 < whole["high"] <= 2.5
    values = pd.Series(np.random.default_rng(0).normal(size=400))
    half = 1.96 * values.std() / 20
    found = interval(values)
    assert found["high"] - found["mean"] == pytest.approx(half, rel=0.1)
    pairs = pd.DataFrame(
        {"model": "m", "seed": [0, 0, 1, 1], "change": "size", "right": np.nan, "others": [0, 2, 2, 4]}
    )
    changes = by_change(pairs)
    assert changes["mean"].tolist()[1] == 2 and np.isnan(changes["mean"][0])
    text = as_markdown(table, changes)
    assert "| all | m | 1.500 (" in text and "/ 0.500 |" in text and "| size | m | - | 2.000 (" in text


def test_the_script_writes_everything_and_goes_on(world, tmp_path, monkeypatch):
    _, _, folder = world
    settings = {
        "model": folder / "sae", "images": folder / "pictures", "split": "train", "pairs": folder / "pairs",
        "pairs_split": "train", "truth": json.dumps(FAMILIES), "output": tmp_path / "out", **SETTINGS,
    }  # fmt: skip
    command = typer.Typer()
    command.command()(script.main)
    arguments = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]

    def run(*more):
        return CliRunner().invoke(command, [*arguments, *more], env={"COLUMNS": "1000"})

    first = run()
    assert first.exit_code == 0, first.output
    results = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert {row["model"] for row in results["summary"]} == {OWN, *CONTROLS, TRUE}
    assert (tmp_path / "out" / "pairs.md").read_text() in first.output
    assert Image.open(tmp_path / "out" / "pairs.png").size[0] > 500
    assert len(pd.read_parquet(tmp_path / "out" / "concepts.parquet")) == 5 * 4
    for file in (tmp_path / "out" / "parts").glob("untrained*"):
        file.unlink()
    scored, score = [], PairStudy.score
    monkeypatch.setattr(PairStudy, "score", lambda self, model: scored.append(model.name) or score(self, model))
    assert run().exit_code == 0 and scored == [UNTRAINED]
    assert json.loads((tmp_path / "out" / "pairs.json").read_text()) == results
    other = run("--set", "most=1")
    assert other.exit_code == 2 and "most" in other.output
