from pathlib import Path

import numpy as np
import pytest
from known_words import SAE_NAME, neuron_of, pack_of, speaking_word, strong_word
from PIL import Image

from cbsae_hub import CBSAE, SAE, Edit, Pack, Steering
from cbsae_hub.cli import steer
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import LlavaSteerer, RandomDirection, UnclipSteerer

pytestmark = pytest.mark.slow

HUB = Path(__file__).parents[2] / "hub"
LLAVA, UNCLIP = ("--llava", "hub/emoji-llava"), ("--unclip", "hub/emoji-unclip", "--steps", 2)
WHITE = Image.new("RGB", (224, 224), "white")


def versions(steering):
    return [None, Steering([]), steering, RandomDirection(steering, 0)]


@pytest.fixture(scope="module")
def cbsae_model():
    return CBSAE.from_pretrained("hub/emoji-cbsae")


@pytest.fixture(scope="module")
def concept():
    """A concept of the bottleneck that LLaVA says when it is set."""
    return speaking_word("cb")


def test_answers_are_those_of_the_steerer(answer, cbsae_model, concept):
    told = answer("steer", "hub/emoji-cbsae", "white", "--edit", f"{concept}=50", "--edit", "12=1", "--isolate", *LLAVA)
    llava = LlavaSteerer.from_pretrained("hub/emoji-llava", cbsae_model)
    steering = Steering([Edit(concept, 50.0), Edit(12, 1.0)], isolate=True)
    said = llava.generate([WHITE] * 4, ONE_WORD, versions(steering))
    assert list(told["answers"].values()) == said
    assert list(told["answers"]) == ["original", "sae", "steered", "random"]
    assert told["answers"]["steered"] == concept != told["answers"]["original"]
    assert told["edits"] == [
        {"neuron": neuron_of(concept).neuron, "value": 50.0, "op": "set", "name": concept},
        {"neuron": 12, "value": 1.0, "op": "set", "name": pack_of().neurons[12].name},
    ]


def test_settings_reach_the_steering(answer, pack, picture):
    word = strong_word(SAE_NAME)
    told = answer("steer", "hub/emoji-sae", picture, "--edit", f"{word}=2", "--op", "add", "--unit", "p99",
                  "--keep-error", "--tokens", "patches", "--prompt", "What is on the to-do list?",
                  "--max-new-tokens", 5, *LLAVA)  # fmt: skip
    steering = Steering([Edit(word, 2.0, "add")], keep_error=True, tokens="patches", unit="p99")
    llava = LlavaSteerer.from_pretrained("hub/emoji-llava", SAE.from_pretrained("hub/emoji-sae"), pack)
    image = Image.open(picture).convert("RGB")
    assert told["answers"]["steered"] == llava.generate([image], "What is on the to-do list?", steering, 5)[0]
    neuron = pack.find(word).matches[0].neuron
    assert told["edits"][0]["value"] == 2 * pack.neurons[neuron].p99


def test_drawings_start_from_the_same_noise(answer, cbsae_model, concept, tmp_path):
    told = answer("steer", "hub/emoji-cbsae", "white", "--edit", f"{concept}=50", *UNCLIP, "--seed", 3,
                  "--output", tmp_path / "new" / "drawn")  # fmt: skip
    pack = Pack.from_pretrained("hub/emoji-cbsae")
    unclip = UnclipSteerer.from_pretrained("hub/emoji-unclip", cbsae_model)
    # As strongly guided as where steerability was measured.
    guidance = pack.info["scores"]["steerability"]["guidance"]
    drawn = unclip.generate([WHITE] * 4, versions(Steering([Edit(concept, 50.0)])), [3], 2, guidance)
    assert told["answers"] is None
    assert list(told["pictures"]) == ["original", "sae", "steered", "random"]
    for file, picture in zip(told["pictures"].values(), drawn, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(picture))


def test_the_noise_level_reaches_the_drawing(answer, cbsae, cbsae_model, concept, tmp_path):
    asked = ["steer", "hub/emoji-cbsae", "white", "--edit", f"{concept}=50", *UNCLIP, "--guidance", 2.5,
             "--output", tmp_path / "drawn"]  # fmt: skip
    told = answer(*asked, "--noise-level", 400)
    unclip = UnclipSteerer.from_pretrained("hub/emoji-unclip", cbsae_model)
    drawn = unclip.generate([WHITE] * 4, versions(Steering([Edit(concept, 50.0)])), [0], 2, 2.5, noise_level=400)
    for file, picture in zip(told["pictures"].values(), drawn, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(picture))
    result = cbsae(*asked, "--noise-level", 1000)
    assert result.exit_code and "noise_level must be between 0 and 999" in result.stderr


def test_both_at_once_and_all_drawings_in_one_file(cbsae, concept, tmp_path):
    result = cbsae("steer", "hub/emoji-cbsae", "white", "--edit", f"{concept}=50", "--isolate", *LLAVA, *UNCLIP,
                   "--output", tmp_path / "row.webp")  # fmt: skip
    assert result.exit_code == 0
    lines = (line.rsplit("  ", 1) for line in result.stdout.splitlines())
    facts = {name.strip(): value for name, value in lines}
    assert facts.pop(str(tmp_path / "row.webp")) == "drawn: original, SAE alone, steered, random direction"
    assert list(facts) == ["original", "SAE alone", "steered", "random direction"]
    assert facts["steered"] == concept != facts["original"]
    row = Image.open(tmp_path / "row.webp")
    assert row.size == (4 * row.height, row.height)
    assert [file.name for file in tmp_path.iterdir()] == ["row.webp"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--edit", "zebra=50"],
        ["--edit", "zebra", *LLAVA],
        ["--edit", "zebra=much", *LLAVA],
        ["--edit", "zebra=nan", *LLAVA],
        ["--edit", "=3", *LLAVA],
        ["--edit", "zebra=3", "--op", "turn", *LLAVA],
        ["--edit", "zebra=3", *UNCLIP],
        ["--edit", "zebra=3", "--output", "x.png", *LLAVA],
        ["--edit", "zebra=3", "--output", "x.gif", *UNCLIP],
        ["--edit", "zebra=3", "--output", "README.md", *UNCLIP],
        ["--edit", "zebra=3", "--output", "README.md/x.png", *UNCLIP],
        ["--edit", "zebra=3", "--output", "x.png", "--guidance", "nan", *UNCLIP],
        [*LLAVA],
    ],
)
def test_arguments_that_cannot_be_are_usage_errors(cbsae, arguments, monkeypatch):
    monkeypatch.setattr(UnclipSteerer, "generate", None)
    result = cbsae("steer", "hub/emoji-sae", "white", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--noise-level", 5, "--seed", 0, *LLAVA], "--seed, --noise-level"),
        (["--steps", 5, "--guidance", 2, *LLAVA], "--steps, --guidance"),
        (["--prompt", "What?", "--max-new-tokens", 5, *UNCLIP, "--output", "x.png"], "--prompt, --max-new-tokens"),
    ],
)
def test_settings_of_whom_nobody_asks_are_usage_errors(cbsae, arguments, said, monkeypatch):
    monkeypatch.setattr(UnclipSteerer, "generate", None)
    result = cbsae("steer", "hub/emoji-sae", "white", "--edit", "zebra=3", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--edit", "{word}x=50", *LLAVA], "no neuron is called '{word}x'; near are: {word}"),
        (["--edit", "4000=50", *LLAVA], "2047"),
        (["--edit", "-1=50", *LLAVA], "neuron must be between 0 and 2047, got -1"),
        (["--edit", "1=5", "--edit", "1=6", *LLAVA], "neuron 1 is edited twice"),
        (["--edit", "1=5", "--tokens", "cls", *LLAVA], "steering had no effect"),
        (["--edit", "1=5", "--llava", "hub/emoji-clip"], "not LLaVA"),
        (["--edit", "1=5", "--llava", "nobody/llava"], "LLaVA could not be loaded"),
    ],
)
def test_what_cannot_be_steered_is_said(cbsae, arguments, said):
    said, *arguments = (part.replace("{word}", strong_word(SAE_NAME)) for part in (said, *arguments))
    result = cbsae("steer", "hub/emoji-sae", "white", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("Error: ") and said in result.stderr


def test_without_a_pack_neurons_have_numbers(cbsae, tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(HUB / "emoji-sae" / file)
    named = cbsae("steer", tmp_path, "white", "--edit", "zebra=50", *LLAVA)
    assert named.exit_code == 1 and "`cbsae pack`" in named.stderr
    numbered = cbsae("steer", tmp_path, "white", "--edit", "521=50", *LLAVA, "--llava", HUB / "emoji-llava")
    assert numbered.exit_code == 0, numbered.stderr


def test_question_is_that_of_the_scores():
    assert steer.QUESTION == ONE_WORD
