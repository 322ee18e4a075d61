"""The page's experiments are what the steerers give by themselves; the same one is run once."""

import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageChops

from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import Edit, RandomDirection, Steering
from cbsae_hub.steering.tower import Stopped
from cbsae_hub.studio.server.experiments import DRAWN, FACTORS, ZERO_GPU, Experiments, Intervention, on_gpu

QUESTION = "Describe the image."


@pytest.fixture
def experiments(serving):
    return Experiments(serving.of)


@pytest.fixture(scope="module")
def picture(shipped):
    return shipped.pack.image(shipped.pack.image_ids()[5])


def edits(shipped):
    """A neuron of the SAE and one of the bottleneck."""
    return ((275, 40.0), (shipped.sae.d_sae + 3, 30.0))


@pytest.mark.parametrize(
    ("alone", "op", "keep"), [(False, "set", False), (False, "add", True), (True, "set", False), (True, "add", True)]
)
def test_answers_are_those_of_the_steerer(experiments, shipped, picture, alone, op, keep):
    asked = experiments.ask(shipped, picture, QUESTION, Intervention(edits(shipped), alone, op, keep), "flamingo")
    steered = Steering([Edit(n, v, op) for n, v in edits(shipped)], isolate=alone, keep_error=keep and not alone)
    steerings = {"original": None, "sae": Steering([]), "steered": steered, "random": RandomDirection(steered, 0)}
    for name, steering in steerings.items():
        said = getattr(asked, name)
        assert said.answer == shipped.llava.generate([picture], QUESTION, steering, 48)[0], name
        features = shipped.llava.image_features([picture], steering)
        expected = shipped.llava.probability(features, ONE_WORD, "flamingo").item()
        assert said.probability == pytest.approx(expected, rel=1e-3)
    assert asked.steered.answer != asked.original.answer


def test_a_sweep_scales_all_values(experiments, shipped, picture):
    how = Intervention(edits(shipped))
    rows = experiments.sweep(shipped, picture, QUESTION, how, "flamingo")
    assert [factor for factor, _, _ in rows] == list(FACTORS)
    for factor, said, control in rows[1::3]:
        steering = Steering([Edit(n, factor * v) for n, v in edits(shipped)])
        answers = shipped.llava.generate([picture] * 2, QUESTION, [steering, RandomDirection(steering, 0)], 48)
        assert [said.answer, control.answer] == answers
    whole = next(said for factor, said, _ in rows if factor == 1.0)
    assert whole.answer == experiments.ask(shipped, picture, QUESTION, how, "flamingo").steered.answer


def test_drawings_are_those_of_the_steerer(experiments, shipped, picture):
    how = Intervention(edits(shipped))
    (row,) = experiments.draw(shipped, picture, how, "flamingo", [7], 5)
    steered = [Steering([Edit(n, factor * v) for n, v in edits(shipped)]) for factor in DRAWN]
    steerings = [None, *steered, RandomDirection(Steering([Edit(n, v) for n, v in edits(shipped)]), 0)]
    guidance = shipped.pack.info["scores"]["steerability"]["guidance"]
    drawn = shipped.unclip.generate([picture] * 5, steerings, [7], 5, guidance)
    for one, expected in zip(row, drawn, strict=True):
        difference = ImageChops.difference(one.picture, expected).getextrema()
        assert max(high for _, high in difference) <= 1
    seen, text = shipped.judge.embed_images([one.picture for one in row]), shipped.judge.embed_texts(["flamingo"])
    torch.testing.assert_close(torch.tensor([one.concept for one in row]), (seen @ text[0]))
    torch.testing.assert_close(torch.tensor([one.original for one in row]), (seen @ seen[0]))
    once = experiments.draw_once(shipped, picture, how, "flamingo", 7, 5)
    same = [ImageChops.difference(a.picture, b.picture) for a, b in zip(once, (row[0], row[2], row[4]))]
    assert max(high for one in same for _, high in one.getextrema()) <= 1


def test_what_a_neuron_does_alone(experiments, serving, shipped):
    neuron = 275
    said, drawn = experiments.neuron_alone(shipped, neuron)
    steering = Steering([Edit(neuron, 50.0)], isolate=True)
    blank = Image.new("RGB", (64, 64), "white")
    assert said.answer == shipped.llava.generate([blank], ONE_WORD, steering)[0]
    assert drawn.picture.size == shipped.unclip.generate([blank], steering, [0], 5)[0].size


def test_the_same_experiment_is_run_once_for_everybody(experiments, shipped, picture, monkeypatch):
    runs = []
    real = experiments._say
    monkeypatch.setattr(experiments, "_say", lambda *a: runs.append(a) or real(*a))
    how = Intervention(edits(shipped))
    first = experiments.ask(shipped, picture, QUESTION, how, "")
    assert experiments.ask(shipped, picture.copy(), QUESTION, how, "") is first and len(runs) == 1
    assert first.steered.probability is None
    others = [
        (picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), QUESTION, how, ""),
        (picture, ONE_WORD, how, ""),
        (picture, QUESTION, Intervention(how.edits, alone=True), ""),
        (picture, QUESTION, how, "flamingo"),
    ]
    for number, arguments in enumerate(others, 2):
        experiments.ask(shipped, *arguments)
        assert len(runs) == number
    own = shipped.extended(shipped.sae, shipped.pack)
    own.key = "another"
    monkeypatch.setattr(experiments, "_find", {"another": own}.get)
    experiments.ask(own, picture, QUESTION, how, "")
    assert len(runs) == 6


def test_who_stops_is_not_answered_and_nothing_is_remembered(experiments, shipped, picture):
    how = Intervention(edits(shipped))
    with pytest.raises(Stopped):
        experiments.ask(shipped, picture, QUESTION, how, "", stop=lambda: True)
    rows = experiments.draw(shipped, picture, how, "", [1, 2], 5, stop=lambda: True)
    with pytest.raises(Stopped):
        next(rows)
    assert experiments.ask(shipped, picture, QUESTION, how, "").steered.answer


def test_a_borrowed_gpu_is_asked_for_no_longer_than_needed(monkeypatch):
    lent = []

    def gpu(duration):
        def decorate(function):
            def run(*arguments):
                lent.append((duration(*arguments), arguments))
                return function(*arguments)

            return run

        return decorate

    assert on_gpu(sum, lambda *_: 1) is sum, "without the package, the function itself"
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace())  # this repository's folder of that name
    assert on_gpu(sum, lambda *_: 1) is sum
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    run = on_gpu(lambda key, steerings, stop: (key, stop), lambda key, steerings, stop: 10 + len(steerings))
    assert run("a", [1, 2], print) == ("a", print)
    monkeypatch.setenv(ZERO_GPU, "true")
    run = on_gpu(lambda key, steerings, stop: (key, stop), lambda key, steerings, stop: 10 + len(steerings))
    assert run("a", [1, 2], print) == ("a", None), "a function cannot be sent to where the GPU is"
    assert [seconds for seconds, _ in lent] == [12, 12]
