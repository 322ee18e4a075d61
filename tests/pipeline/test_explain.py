"""From an encoder and a folder of pictures to an answer; it goes on where it was stopped, and asks nothing twice."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file
from small_hub import CONCEPTS, Pictures, make_hub

from cbsae_hub import CBSAE, SAE, Pack
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.hub.files import OtherSettings
from cbsae_hub.pipeline import explain, fit
from cbsae_hub.pipeline.answers import answers_in
from cbsae_hub.pipeline.explain import Explanation, Question
from cbsae_hub.pipeline.ranking import rank_neurons
from cbsae_hub.pipeline.report import write_report
from cbsae_hub.studio.page import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def short_trainings():
    """Trainings of a few hundred steps: what is tested is the way, not the SAE."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fit, "LEAST_TOKENS", 100_000)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An encoder, a judge and 60 pictures in folders by colour, one of which is damaged."""
    folder = tmp_path_factory.mktemp("own")
    make_hub(folder)
    pictures = Pictures(60)
    for i, (image, colour) in enumerate(zip(pictures["image"], pictures.colours)):
        (folder / "pictures" / colour).mkdir(parents=True, exist_ok=True)
        image.save(folder / "pictures" / colour / f"{i} of 60.png")
    (folder / "pictures" / "red" / "broken.png").write_bytes(b"no picture")
    (folder / "colours.txt").write_text("\n".join(CONCEPTS))
    return folder


def ask(world, **changes):
    settings = {"judge": str(world / "judge"), "concepts": (str(world / "colours.txt"),), "effort": "quick", "layer": 1}
    return Question(str(world / "encoder"), str(world / "pictures"), **settings | changes)


@pytest.fixture(scope="module")
def answered(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers") / "one"
    return folder, Explanation(ask(world, want=("red", "zebra")), folder).answer()


def test_all_that_a_page_needs_is_there(answered):
    folder, summary = answered
    assert answers_in(folder) == [str(folder / "cbsae"), str(folder / "sae")]
    pack, other = Pack.from_pretrained(folder / "sae"), Pack.from_pretrained(folder / "cbsae")
    assert summary["images"] == 60 and summary["unreadable"] == 1
    assert len(pack.neurons) == summary["neurons"] == SAE.from_pretrained(folder / "sae").d_sae
    assert "broken.png" in (folder / "images" / "unreadable.csv").read_text()
    where = {one["concept"]: one["where"] for one in summary["wanted"]}
    assert list(where) == ["red", "zebra"] and set(where.values()) == {"sae", "bottleneck"}
    trained = [concept for concept, place in where.items() if place == "bottleneck"]
    assert CBSAE.from_pretrained(folder / "cbsae").concepts == trained
    assert other.neurons.frame["designated"].dropna().tolist() == trained
    assert pack.vocabulary[:4] == sorted(pack.vocabulary[:4]) and {"red", "zebra", "left"} <= set(pack.vocabulary)
    assert (folder / "sae" / "README.md").is_file() and (folder / "sae" / "examples.webp").is_file()
    assert json.loads((folder / "summary.json").read_text())["neurons"] == summary["neurons"]


def test_labels_are_the_truth_without_being_asked_for(answered):
    folder, summary = answered
    assert summary["labels"] == ["label"]
    frame = Pack.from_pretrained(folder / "sae").neurons.frame
    assert set(frame["truth"].dropna()) <= {"red", "green", "blue", "white"} and frame["truth_ap"].max() > 0.8


def test_settings_are_written_for_the_single_steps(answered):
    folder, summary = answered
    recipe = explain.yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["sae"]["d_sae"] == summary["neurons"] and recipe["scores"]["truth"] == {"label": "label"}
    training = json.loads((folder / "sae" / "training.json").read_text())
    assert training["config"]["steps"] == recipe["sae"]["steps"]


def test_the_same_question_runs_no_model_again(world, answered, monkeypatch):
    folder, summary = answered

    def never(*_, **__):
        raise AssertionError("a model ran")

    for owner, name in ((VisionEncoder, "__call__"), (ClipLike, "embed_images"), (explain.SAETrainer, "train"),
                        (explain.NeuronScorer, "run_stored"), (explain, "build_pack")):  # fmt: skip
        monkeypatch.setattr(owner, name, never)
    again = Explanation(ask(world, want=("red", "zebra")), folder).answer()
    assert again == summary


@pytest.mark.parametrize("step", ["extract_activations", "extract_embeddings", "SAETrainer", "NeuronScorer",
                                  "build_pack", "write_card", "CBSAETrainer", "name_nonsense"])  # fmt: skip
def test_it_goes_on_after_a_stop_in_any_step(world, answered, tmp_path, monkeypatch, step):
    folder, summary = answered
    question = ask(world, want=("red", "zebra"))
    with monkeypatch.context() as patched:

        def stopped(*_, **__):
            raise KeyboardInterrupt

        patched.setattr(explain, step, stopped)
        with pytest.raises(KeyboardInterrupt):
            Explanation(question, tmp_path / "two").answer()
    result = Explanation(question, tmp_path / "two").answer()
    assert result == summary
    for model in ("sae", "cbsae"):
        old, new = (load_file(where / model / "model.safetensors") for where in (folder, tmp_path / "two"))
        assert all(np.array_equal(old[name], new[name]) for name in old)


def test_another_question_in_the_same_folder_is_refused(world, answered):
    with pytest.raises(OtherSettings, match="effort: 'quick' there, 'normal' now"):
        Explanation(ask(world, want=("red", "zebra"), effort="normal"), answered[0])


def test_without_a_judge_neurons_have_no_names_and_all_else_works(world, tmp_path):
    folder = tmp_path / "nameless"
    summary = Explanation(ask(world, judge="none"), folder).answer()
    assert "names" not in summary and len(summary["best"]) and len(summary["worst"])
    pack = Pack.from_pretrained(folder / "sae")
    assert pack.neurons.frame["name"].isna().all() and pack.examples(summary["best"][0])
    html = write_report(folder, summary).read_text()
    assert "no judge" in html
    page = build(folder)
    assert f"Look at neuron {summary['best'][0]}" in str(page.config) and "name differs" not in str(page.config)
    with pytest.raises(ValueError, match="give --judge"):
        Explanation(ask(world, judge="none", want=("zebra",)), tmp_path / "other").answer()


def test_an_encoder_without_a_text_tower_has_no_judge_of_its_own(world, tmp_path):
    assert Explanation(ask(world, judge="auto"), tmp_path / "x").judge is None


def test_a_damaged_picture_stops_a_strict_run(world, tmp_path):
    with pytest.raises(ValueError, match="broken.png"):
        Explanation(ask(world, strict=True), tmp_path / "x").answer()


def test_the_report_is_one_file_with_its_pictures(answered, tmp_path):
    folder, summary = answered
    shutil.copytree(folder, tmp_path / "copy")
    html = write_report(tmp_path / "copy", summary).read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", html) and "<script" not in html
    assert html.count("data:image/webp;base64,") >= 2 * len(summary["best"] + summary["worst"])
    for name in summary["best_names"]:
        assert f"<h3>{name} " in html
    assert "zebra" in html and "A concept neuron was trained for it." in html
    assert "A neuron stood for it already." in html
    trained = sum(one["where"] == "bottleneck" for one in summary["wanted"])
    verdict = "Of all names, its pictures fit this one best|Its pictures fit .* best; .* is (not )?among the first five"
    assert len(re.findall(verdict, html)) == trained > 0
    assert "Fires on 1 pictures" not in html and "None" not in re.sub('"data:[^"]*"', "", html)


def test_names_in_the_report_are_no_markup(world, tmp_path):
    (tmp_path / "names.txt").write_text("<script>alert(1)</script>\n<b>red</b>\nleft\n")
    folder = tmp_path / "x"
    summary = Explanation(ask(world, concepts=(str(tmp_path / "names.txt"),)), folder).answer()
    html = write_report(folder, summary).read_text()
    assert "<script" not in html and "<b>red" not in html


def test_the_best_names_beat_chance_and_nonsense_and_stand_once():
    frame = explain.pd.DataFrame(
        {
            "neuron": range(8),
            "name": ["a", "a", "b", "c", "d", "e", None, "f"],
            "score": [5.0, 4.0, 3.0, 2.0, 6.0, 0.5, 0.0, 7.0],
            "null_percentile": [1.0, 1.0, 0.99, 1.0, 0.5, 0.2, 0.0, 1.0],
            "status": ["alive"] * 6 + ["dead", "dense"],
            "monosemanticity": 0.5,
            "density": 0.2,
            "kind": "sae",
        }
    )
    again = frame.assign(neuron=[*range(10, 18)], score=frame["score"] / 10)
    both = rank_neurons(explain.pd.concat([frame, again]), 100, explain.Nonsense(10, 0.1, 2.5))
    assert both["worst"] == [14, 11, 12, 13, 15], "each name once"
    ranks = rank_neurons(frame, 100, explain.Nonsense(10, 0.1, 2.5))
    assert ranks["best"] == [0, 2]
    assert ranks["names"]["by_luck"] == 0  # a twentieth of 7
    assert ranks["names"]["better_than_chance"] == 5 and ranks["names"]["better_than_both"] == 4
    assert ranks["worst"][-1] == 5 and 6 not in ranks["worst"]


def test_a_neuron_whose_name_is_no_better_than_nonsense_stands_for_no_wanted_concept(answered, world, tmp_path):
    folder, summary = answered
    assert any(one["where"] == "sae" for one in summary["wanted"])
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("cbsae*"))
    work = Explanation(ask(world, want=("red", "zebra")), copy)
    sae = work.train()
    report = work.add_wanted(sae, work.score(sae, "sae"), explain.Nonsense(10, 0.1, 1000.0))
    assert (report["where"] == "bottleneck").all() and report["designated_first"].notna().all()


@pytest.mark.parametrize("nonsense", [None, explain.Nonsense(0, 0.0, None)])
def test_of_a_few_neurons_none_is_among_the_best_and_the_worst(nonsense):
    frame = explain.pd.DataFrame(
        {
            "neuron": range(4),
            "name": ["a", "b", "c", "d"],
            "score": [4.0, 3.0, 2.0, 1.0],
            "null_percentile": [1.0, 1.0, 0.1, 0.2],
            "status": "alive",
            "monosemanticity": [0.4, 0.3, 0.2, 0.1],
            "density": 0.2,
            "kind": "sae",
        }
    )
    ranks = rank_neurons(frame, 100, nonsense)
    assert (ranks["best"], ranks["worst"]) == (([0, 1, 2, 3], []) if nonsense is None else ([0, 1], [2, 3]))


def test_a_question_is_the_same_however_its_paths_are_written(world, answered, monkeypatch):
    folder, summary = answered
    monkeypatch.chdir(world)
    question = Question("encoder", "./pictures/", judge="judge", concepts=("colours.txt",), effort="quick", layer=1,
                        want=("red", "zebra"))  # fmt: skip
    assert Explanation(question, folder).answer() == summary
    monkeypatch.chdir(world / "pictures")
    with pytest.raises(OtherSettings, match="encoder"):
        Explanation(replace(question, images=".", concepts=(str(world / "colours.txt"),)), folder)


def test_a_list_by_name_stays_one_where_a_file_is_called_like_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("common", "3k", "mine"):
        (tmp_path / name).write_text("red")
    question = Question("x/y", "x/z", concepts=("common", "3k", "mine")).from_anywhere()
    assert question.concepts == ("common", "3k", str(tmp_path / "mine")) and question.encoder == "x/y"


def test_a_question_that_failed_before_the_work_can_be_corrected(world, tmp_path):
    with pytest.raises(ValueError, match="layer 17"):
        Explanation(ask(world, judge="none", layer=17), tmp_path / "x").answer()
    Explanation(ask(world, judge="none"), tmp_path / "x").store  # noqa: B018  # what stands behind it is the work
    with pytest.raises(OtherSettings, match="layer: 1 there, 0 now"):
        Explanation(ask(world, judge="none", layer=0), tmp_path / "x")


def test_nothing_is_written_among_the_pictures(world):
    with pytest.raises(ValueError, match="lies in"):
        Explanation(ask(world), world / "pictures" / "out")
    assert not (world / "pictures" / "out").exists()


def test_a_list_of_names_that_has_changed_is_another_question(world, tmp_path):
    (tmp_path / "names.txt").write_text("red\ngreen\n")
    question = ask(world, concepts=(str(tmp_path / "names.txt"),))
    assert Explanation(question, tmp_path / "x").store
    (tmp_path / "names.txt").write_text("red\nblue\n")
    with pytest.raises(OtherSettings, match="names in the concepts"):
        Explanation(question, tmp_path / "x")


def test_what_cannot_be_is_said_before_the_work(world, tmp_path, monkeypatch):
    monkeypatch.setattr(explain, "extract_activations", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(ValueError, match="give --judge"):
        Explanation(ask(world, judge="none", want=("zebra",)), tmp_path / "x").answer()
    with pytest.raises((OSError, ValueError), match="nothing.txt"):
        Explanation(ask(world, concepts=("nothing.txt",)), tmp_path / "y").answer()


def test_a_report_names_no_folders_of_this_machine(world, answered):
    folder, summary = answered
    html = write_report(folder, {**summary, "explained_variance": None}).read_text()
    assert str(world) not in html and "<b>nothing</b> of the variance" in html
