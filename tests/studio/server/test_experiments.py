"""The page's experiments are what the steerers give by themselves; the same one is run once."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageChops

from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import Edit, RandomDirection, Steering
from cbsae_hub.steering.tower import Stopped
from cbsae_hub.studio.server.experiments import DRAWN_FACTORS, FACTORS, ZERO_GPU, Experiment, Experiments, on_gpu

pytestmark = pytest.mark.slow

QUESTION = "Describe the image."


@pytest.fixture
def experiments(serving):
    return Experiments(serving.of)


@pytest.fixture(scope="module")
def picture(shipped):
    return shipped.pack.image(shipped.pack.image_ids()[5])


def edits(shipped, op="set", factor=1.0):
    """A neuron of the SAE and one of the bottleneck."""
    return [Edit(275, factor * 40.0, op), Edit(shipped.sae.d_sae + 3, factor * 30.0, op)]


@pytest.fixture
def setup(shipped, picture):
    """Makes an experiment on the picture; the steering's settings are those of :class:`Steering`."""

    def make(word="", image=picture, op="set", **settings):
        return Experiment(shipped, image, Steering(edits(shipped, op), **settings), word)

    return make


@pytest.mark.parametrize(
    ("alone", "op", "keep"), [(False, "set", False), (False, "add", True), (True, "set", False), (True, "add", True)]
)
def test_answers_are_those_of_the_steerer(experiments, shipped, picture, setup, alone, op, keep):
    asked = experiments.ask(setup("flamingo", op=op, isolate=alone, keep_error=keep), QUESTION)
    steered = Steering(edits(shipped, op), isolate=alone, keep_error=keep)
    steerings = {"original": None, "sae": Steering([]), "steered": steered, "random": RandomDirection(steered, 0)}
    for name, steering in steerings.items():
        said = getattr(asked, name)
        assert said.text == shipped.llava.generate([picture], QUESTION, steering, 48)[0], name
        features = shipped.llava.image_features([picture], steering)
        expected = shipped.llava.probability(features, ONE_WORD, "flamingo").item()
        assert said.probability == pytest.approx(expected, rel=1e-3)
    assert asked.steered.text != asked.original.text


def test_a_sweep_scales_all_values(experiments, shipped, picture, setup):
    rows = experiments.sweep(setup("flamingo"), QUESTION)
    assert [factor for factor, _, _ in rows] == list(FACTORS)
    for factor, said, control in rows[1::3]:
        steering = Steering(edits(shipped, factor=factor))
        answers = shipped.llava.generate([picture] * 2, QUESTION, [steering, RandomDirection(steering, 0)], 48)
        assert [said.text, control.text] == answers
    whole = next(said for factor, said, _ in rows if factor == 1.0)
    assert whole.text == experiments.ask(setup("flamingo"), QUESTION).steered.text


def test_drawings_are_those_of_the_steerer(experiments, shipped, picture, setup):
    (row,) = experiments.draw(setup("flamingo"), [7], 5)
    steered = [Steering(edits(shipped, factor=factor)) for factor in DRAWN_FACTORS]
    steerings = [None, *steered, RandomDirection(Steering(edits(shipped)), 0)]
    guidance = shipped.pack.info["scores"]["steerability"]["guidance"]
    drawn = shipped.unclip.generate([picture] * 5, steerings, [7], 5, guidance)
    for one, expected in zip(row, drawn, strict=True):
        difference = ImageChops.difference(one.image, expected).getextrema()
        assert max(high for _, high in difference) <= 1
    seen, text = shipped.judge.embed_images([one.image for one in row]), shipped.judge.embed_texts(["flamingo"])
    torch.testing.assert_close(torch.tensor([one.concept for one in row]), (seen @ text[0]))
    torch.testing.assert_close(torch.tensor([one.original for one in row]), (seen @ seen[0]))
    (once,) = experiments.draw(setup("flamingo"), [7], 5, factors=(1.0,))
    same = [ImageChops.difference(a.image, b.image) for a, b in zip(once, (row[0], row[2], row[4]))]
    assert max(high for one in same for _, high in one.getextrema()) <= 1


def test_what_a_neuron_does_alone(experiments, serving, shipped):
    neuron = 275
    said, drawn = experiments.neuron_alone(shipped, neuron)
    steering = Steering([Edit(neuron, 50.0)], isolate=True)
    blank = Image.new("RGB", (64, 64), "white")
    assert said.text == shipped.llava.generate([blank], ONE_WORD, steering)[0]
    assert drawn.image.size == shipped.unclip.generate([blank], steering, [0], 5)[0].size


def test_the_same_experiment_is_run_once_for_everybody(experiments, shipped, picture, setup, monkeypatch):
    runs = []
    real = experiments._say
    monkeypatch.setattr(experiments, "_say", lambda *a: runs.append(a) or real(*a))
    first = experiments.ask(setup(), QUESTION)
    assert experiments.ask(setup(image=picture.copy()), QUESTION) is first and len(runs) == 1
    assert first.steered.probability is None
    others = [
        (setup(image=picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), QUESTION),
        (setup(), ONE_WORD),
        (setup(isolate=True), QUESTION),
        (setup("flamingo"), QUESTION),
    ]
    for number, arguments in enumerate(others, 2):
        experiments.ask(*arguments)
        assert len(runs) == number
    own = shipped.extended(shipped.sae, shipped.pack)
    own.key = "another"
    monkeypatch.setattr(experiments, "_find", {"another": own}.get)
    experiments.ask(replace(setup(), model=own), QUESTION)
    assert len(runs) == 6


def test_who_stops_is_not_answered_and_nothing_is_remembered(experiments, setup):
    with pytest.raises(Stopped):
        experiments.ask(setup(), QUESTION, stop=lambda: True)
    rows = experiments.draw(setup(), [1, 2], 5, stop=lambda: True)
    with pytest.raises(Stopped):
        next(rows)
    assert experiments.ask(setup(), QUESTION).steered.text


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
