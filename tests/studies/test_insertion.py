"""Insertion and suppression against one call of generate for each answer, and percentages counted by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image
from steerable_models import edited_by_hand, llava, pictures, sae_for
from typer.testing import CliRunner

from cbsae_hub.encoders.site import EditError
from cbsae_hub.neurons.table import NEURON_COLUMNS
from cbsae_hub.scoring.outcomes import WHITE
from cbsae_hub.steering import DiffMean, Edit, LlavaSteerer, RandomDirection, Steering
from cbsae_hub.studies.insertion import InsertionExperiment, as_markdown, judged, summary
from cbsae_hub.studies.judges import Verdict

pytestmark = pytest.mark.slow

PROMPTS = ["What?", "Tell a story.", "Why?"]
ALPHA, BETA, SEED, TOKENS = 20.0, 9.0, 4, 12
NEURONS = [3, 7, 8]
TOPS = {3: [5, 0], 7: [2, 4, 6, 1], 8: [5]}
IMAGES = [{"image": picture} for picture in pictures(8)]
SHARED = ["reconstruction", "plain"]


def letters(case):
    """Concepts are letters: the first one is there, the second is the rest."""
    there = case.concept[0] in case.answer
    return Verdict(there == (case.kind == "insertion"), case.concept[1] in case.answer)


def table(**columns):
    frame = {"neuron": range(32), "name": [f"{chr(97 + n % 26)}e" for n in range(32)], "status": "alive"}
    return pd.DataFrame({**frame, "top_images": [TOPS.get(n, [n % 8]) for n in range(32)], **columns})


def make(frame=None, sae=None, images=IMAGES, prompts=PROMPTS, **settings):
    given = {"alpha": ALPHA, "beta": BETA, "max_new_tokens": TOKENS, "seed": SEED, "others": 6, **settings}
    steerer = LlavaSteerer(*llava(), sae or sae_for())
    return InsertionExperiment(table() if frame is None else frame, steerer, images, prompts, **given)


@pytest.fixture(scope="module", params=[False, True], ids=["error lost", "error kept"])
def tried(request):
    experiment = make(keep_error=request.param)
    return experiment, judged(experiment.run(NEURONS, batch=5), letters)


def value_of(task):
    return ALPHA if task == "insertion" else -BETA


def picture_of(row):
    return WHITE if row.image < 0 else IMAGES[row.image]["image"]


def patches(experiment, images):
    return experiment.llava.activations(images)[:, 1:].double()


def test_every_neuron_is_tried_with_every_prompt(tried):
    experiment, frame = tried
    methods = ["sae", "diffmean", "random", *SHARED[experiment.keep_error :]]
    assert frame["method"].unique().tolist() == methods
    each = frame.groupby(["neuron", "task", "prompt"])["method"].apply(list)
    assert len(each) == 3 * 2 * 3 and all(found == methods for found in each)
    assert (frame["concept"] == frame["neuron"].map(lambda n: table()["name"][n])).all()
    inserted = frame["task"] == "insertion"
    assert (frame.loc[inserted, "image"] == -1).all()
    for neuron, part in frame[~inserted].groupby("neuron"):
        for i, prompt in enumerate(PROMPTS):
            assert set(part.loc[part["prompt"] == prompt, "image"]) == {TOPS[neuron][i % len(TOPS[neuron])]}


@torch.no_grad()
def test_pushes_are_as_long_as_the_edits_token_by_token(tried):
    experiment, frame = tried
    sae = experiment.llava.tower.sae
    for row in frame.itertuples():
        x = patches(experiment, [picture_of(row)])[0].float()
        edited = edited_by_hand(sae, x, [(row.neuron, value_of(row.task), "set")])
        expected = 0.0 if row.method in SHARED else float((edited - sae.decode(sae.encode(x))).norm(dim=-1).mean())
        assert row.push == pytest.approx(expected, rel=1e-4)
    assert frame["push"].nunique() > len(NEURONS)


@torch.no_grad()
def test_answers_are_those_of_single_calls(tried):
    experiment, frame = tried
    others = np.random.default_rng(SEED).permutation(8)[:6]
    away = torch.cat(list(patches(experiment, [IMAGES[i]["image"] for i in others]))).mean(0)
    changed = 0
    for row in frame.itertuples():
        concept = torch.cat(list(patches(experiment, [IMAGES[i]["image"] for i in TOPS[row.neuron]]))).mean(0)
        edit = Steering([Edit(row.neuron, value_of(row.task))], keep_error=experiment.keep_error)
        steering = {
            "sae": edit,
            "diffmean": DiffMean((concept - away).float(), row.push if row.task == "insertion" else -row.push),
            "random": RandomDirection(edit, SEED + row.neuron),
            "reconstruction": Steering([]),
            "plain": None,
        }[row.method]
        image = [picture_of(row)]
        assert row.answer == experiment.llava.generate(image, row.prompt, steering, TOKENS)[0]
        assert row.plain == experiment.llava.generate(image, row.prompt, None, TOKENS)[0]
        changed += row.answer != row.plain
    assert changed > len(frame) / 3


def test_verdicts(tried):
    _, frame = tried
    for row in frame.itertuples():
        assert row.concept_found == (row.concept[0] in row.answer)
        assert row.rest_kept == ("e" in row.answer)
    assert 0 < frame["rest_kept"].mean() < 1


def test_images_are_looked_at_once(monkeypatch):
    seen = []
    activations = LlavaSteerer.activations
    monkeypatch.setattr(
        LlavaSteerer, "activations", lambda self, images: seen.extend(images) or activations(self, images)
    )
    make(others=2).run(NEURONS)
    wanted = {i for top in TOPS.values() for i in top} | set(np.random.default_rng(SEED).permutation(8)[:2].tolist())
    assert len(seen) == len(wanted) + 1  # and the white one


def test_shared_answers_are_generated_once(monkeypatch):
    asked = []
    generate = LlavaSteerer.generate
    monkeypatch.setattr(
        LlavaSteerer, "generate", lambda self, images, *rest: asked.extend(images) or generate(self, images, *rest)
    )
    frame = make().run(NEURONS)
    shared = frame["method"].isin(SHARED)
    assert len(asked) == (~shared).sum() + len(frame[shared].drop_duplicates(["image", "prompt", "method"]))


def test_blanks_take_turns():
    blanks = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black")]
    experiment = make(blanks=blanks)
    frame = experiment.run([7])
    plain = frame[(frame["task"] == "insertion") & (frame["method"] == "plain")]
    expected = experiment.llava.generate([blanks[0], blanks[1], blanks[0]], PROMPTS, None, TOKENS)
    assert plain["answer"].tolist() == expected
    shown = frame[frame["task"] == "suppression"].drop_duplicates("prompt")["image"].tolist()
    assert shown == TOPS[7][:3], "blanks do not count as rows of the data set"


# ------------------------------------------------------------------------------------------------ choosing


def test_choice_is_of_living_neurons_with_names():
    names = [None if n == 1 else ["dog", "grass"][n % 2] for n in range(32)]
    experiment = make(table(name=names, status=["dead" if n in (0, 4) else "rare" for n in range(32)]))
    assert experiment.choose() == [n for n in range(32) if n not in (0, 1, 4)]
    few = experiment.choose(5)
    assert len(few) == len(set(few)) == 5 and set(few) <= set(experiment.choose())
    assert few == experiment.choose(5) and few == sorted(few)
    assert few != make(table(name=names), seed=SEED + 1).choose(5)
    with pytest.raises(ValueError, match="none of the neurons is alive and has a name"):
        make(table(status="dead")).choose()


# ------------------------------------------------------------------------------------------------- figures


def rows(neuron, prompt, task, **methods):
    trial = {"neuron": neuron, "prompt": prompt, "task": task}
    return [
        {**trial, "method": method, "concept_found": bool(found), "rest_kept": bool(rest)}
        for method, (found, rest) in methods.items()
    ]


BY_HAND = pd.DataFrame(
    rows(1, "a", "insertion", sae=(1, 1), plain=(0, 1))
    + rows(1, "b", "insertion", sae=(1, 0), plain=(0, 1))
    + rows(2, "a", "insertion", sae=(0, 1), plain=(0, 1))
    + rows(2, "b", "insertion", sae=(1, 1), plain=(1, 0))
    + rows(1, "a", "suppression", sae=(0, 1), plain=(1, 1))
    + rows(1, "b", "suppression", sae=(0, 0), plain=(0, 1))  # there was nothing to remove
    + rows(2, "a", "suppression", sae=(1, 1), plain=(1, 1))
    + rows(2, "b", "suppression", sae=(0, 0), plain=(1, 1))
)


def test_percentages():
    found = summary(BY_HAND).set_index(["task", "method", "measure"])
    expected = {
        ("insertion", "sae"): {"appears": 75, "fits": 75, "both": 50},
        ("insertion", "plain"): {"appears": 25, "fits": 75, "both": 0},
        ("suppression", "sae"): {"removed": 200 / 3, "kept": 200 / 3, "both": 100 / 3},
        ("suppression", "plain"): {"removed": 0, "kept": 100, "both": 0},
    }
    assert len(found) == 12
    for (task, method), measures in expected.items():
        for measure, percent in measures.items():
            row = found.loc[task, method, measure]
            assert row["percent"] == pytest.approx(percent)
            assert (row["neurons"], row["cases"]) == (2, 4 if task == "insertion" else 3)
    assert "| sae | 66.7 (50.0 to 100.0) | 66.7 (50.0 to 100.0) | 33.3 (0.0 to 100.0) | 3 |" in as_markdown(
        found.reset_index()
    )


def test_intervals_are_those_of_neurons_and_not_of_rows():
    rng = np.random.default_rng(0)
    shares = rng.random(40)
    frame = pd.DataFrame(
        [
            row
            for neuron, share in enumerate(shares)
            for i in range(50)
            for row in rows(neuron, str(i), "insertion", sae=(rng.random() < share, 1), plain=(0, 1))
        ]
    )
    row = summary(frame).set_index(["task", "method", "measure"]).loc["insertion", "sae", "appears"]
    # of the mean of 40 independent means of neurons; of rows it would be four times narrower
    error = frame[frame["method"] == "sae"].groupby("neuron")["concept_found"].mean().std() / 40**0.5
    assert (row["high"] - row["low"]) / 2 == pytest.approx(100 * 1.96 * error, rel=0.1)
    assert row["low"] < row["percent"] < row["high"]
    same = BY_HAND.assign(concept_found=True, rest_kept=True)
    assert (summary(same)[["low", "high"]].isin([0.0, 100.0])).all(None)


def test_nothing_to_remove_is_not_a_percentage():
    frame = BY_HAND.assign(concept_found=False)
    found = summary(frame).query("task == 'suppression'")
    assert found["percent"].isna().all() and (found["cases"] == 0).all()


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame": table().drop(columns="top_images")}, "has no top_images: score the neurons again"),
        ({"prompts": []}, "list of different questions"),
        ({"prompts": "What?"}, "list of different questions"),
        ({"prompts": ["What?", "What?"]}, "list of different questions"),
        ({"images": []}, "at least one"),
        ({"blanks": []}, "at least one blank"),
        ({"beta": -5.0}, "beta must be positive, got 20.0 and -5.0"),
    ],
)
def test_bad_settings_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("columns", "neurons", "message"),
    [
        ({"name": [None] * 32}, [3], "neuron 3 has no name"),
        ({}, [32], "there is no neuron 32"),
        ({}, [], "no neurons"),
        ({"top_images": [[]] * 32}, [3], "neuron 3 has no top images"),
        ({"top_images": [[8]] * 32}, [3], "the data set of 8 images lacks"),
    ],
)
def test_bad_neurons_are_errors(columns, neurons, message):
    with pytest.raises(ValueError, match=message):
        make(table(**columns)).run(neurons)


def test_edits_without_effect_are_errors():
    sae = sae_for()
    with torch.no_grad():
        sae.W_dec[3] = 0
    with pytest.raises(EditError, match="no effect"):
        make(sae=sae, keep_error=True).run([3])


# --------------------------------------------------------------------------------------------------- script


@pytest.fixture
def script():
    from training.insertion import main

    app = typer.Typer()
    app.command()(main)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def world(tmp_path):
    """A small LLaVA, SAE, scores and images, and a recipe."""
    model, processor = llava()
    model.save_pretrained(tmp_path / "llava")
    processor.save_pretrained(tmp_path / "llava")
    sae_for().save_pretrained(tmp_path / "sae")
    (tmp_path / "images" / "probe").mkdir(parents=True)
    for i, picture in enumerate(pictures(8)):
        picture.save(tmp_path / "images" / "probe" / f"{i}.png")
    (tmp_path / "scores").mkdir()
    names = ["apple" if n % 2 else "grass" for n in range(32)]
    scored = table(name=names).reindex(columns=[*NEURON_COLUMNS, "top_images"])
    scored.to_parquet(tmp_path / "scores" / "neurons.parquet")
    folders = {name: str(tmp_path / name) for name in ("llava", "images", "scores")}
    section = {
        **folders,
        "model": str(tmp_path / "sae"),
        "split": "train",
        "neurons": 2,
        "where": {"name": "apple"},
    } | {
        "prompts": ["Ask me a riddle.", "What is on the to-do list?"],
        "judge": "training.emoji_world.judge:judge",
        "max_new_tokens": 4,
        "output": str(tmp_path / "out"),
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps({"insertion": section}))
    return tmp_path


def test_script(script, world):
    result = script("--recipe", world / "recipe.yaml", "--device", "cpu")
    assert result.exit_code == 0, result.output
    frame = pd.read_parquet(world / "out" / "insertion.parquet")
    assert len(frame) == 2 * 2 * 2 * 5 and set(frame["concept"]) == {"apple"}
    told = json.loads((world / "out" / "insertion.json").read_text())
    assert told["neurons"] == 2 and told["settings"]["where"] == {"name": "apple"}
    counted = summary(frame)
    assert [row["percent"] for row in told["summary"]] == [None if pd.isna(p) else p for p in counted["percent"]]
    assert as_markdown(counted) in result.output


def test_concepts_are_inserted_into_images_of_a_split(script, world):
    result = script("--recipe", world / "recipe.yaml", "--set", "blanks=train", "--set", "seed=5")
    assert result.exit_code == 0, result.output
    frame = pd.read_parquet(world / "out" / "insertion.parquet").query("task == 'insertion' and method == 'plain'")
    steerer = LlavaSteerer(*llava(), sae_for())
    assert frame.drop_duplicates("prompt")["answer"].tolist() != [
        steerer.generate([WHITE], prompt, None, 4)[0] for prompt in frame["prompt"].unique()
    ]
    for prompt, part in frame.groupby("prompt"):
        possible = steerer.generate(pictures(8), prompt, None, 4)
        assert part["answer"].nunique() == 1 and part["answer"].iloc[0] in possible


def test_answers_are_judged_again(script, world, monkeypatch):
    recipe = ("--recipe", world / "recipe.yaml")
    assert script(*recipe).exit_code == 0
    before = pd.read_parquet(world / "out" / "insertion.parquet")
    monkeypatch.setattr(LlavaSteerer, "generate", lambda *_: pytest.fail("LLaVA was asked"))
    monkeypatch.setattr("training.emoji_world.judge.contrary", lambda case: Verdict(True, False), raising=False)
    contrary = ("--judge-again", "--set", "judge=training.emoji_world.judge:contrary")
    result = script(*recipe, *contrary)
    assert result.exit_code == 0, result.output
    after = pd.read_parquet(world / "out" / "insertion.parquet")
    assert after["answer"].equals(before["answer"]) and not after["rest_kept"].any()
    assert (after["concept_found"] == (after["task"] == "insertion")).all()
    result = script(*recipe, *contrary, "--neurons", "1")
    assert result.exit_code == 2 and "other settings" in result.output
    assert script(*recipe, "--judge-again", "--output", world / "empty").exit_code == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("where={species: dog}", "no column 'species'"),
        ("where={name: dog}", "none of the neurons is alive"),
        ("blanks=test", "no split 'test'"),
        ("scores=nowhere", "there is no neuron table at nowhere"),
        ("judge=training.emoji_world.judge:nobody", "is no module:function of this folder or of a package"),
        ("judge=judge", "is no module:function"),
        ("judge={base_url: here}", "lacks model"),
        ("gamma=3", "unknown settings gamma"),
        ("split=test", "no split 'test'"),
        ('prompts=["What is this?"]', "no open question of Emoji World"),
    ],
)
def test_script_names_what_is_wrong(script, world, override, message):
    result = script("--recipe", world / "recipe.yaml", "--set", override)
    assert result.exit_code == 2 and message in " ".join(result.output.replace("│", " ").split()), result.output
