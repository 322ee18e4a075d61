import json
import re
from collections import defaultdict

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from cbsae_hub.models import folder_revision
from training.emoji_world import evaluate_llava, train_llava
from training.emoji_world.dialogues import ONE_WORD, OPEN_ANSWERS, QUESTIONS, prompt
from training.emoji_world.evaluate_llava import Talker, first_word, load, measure, words
from training.emoji_world.render import SceneRenderer

COUNTS = ["none", "one", "two", "three"]


@pytest.fixture(scope="module")
def truth_of():
    """The truth about each published picture, by its pixels."""
    splits = ["test", "test_greyscale", "test_sketch", "test_pixelated", "test_blurred", "typographic"]
    pairs = [pair for split in splits for pair in zip(*load(split))]
    return {image.tobytes(): truth for image, truth in pairs}


class Oracle:
    """Answers truly in words of its own; where not honest, reads the word in the picture and denies all else."""

    def __init__(self, truth_of, honest=True):
        self.truth_of, self.honest = truth_of, honest
        self.counts = defaultdict(int)

    def ask(self, images, questions, tokens=8):
        questions = [questions] * len(images) if isinstance(questions, str) else questions
        self.counts[tokens] += len(images)
        return [self._answer(self.truth_of.get(i.tobytes()), q) for i, q in zip(images, questions, strict=True)]

    def _answer(self, truth, question):
        if truth is None:
            return "Nothing."
        names = [thing["name"] for thing in truth["objects"]]
        if question.startswith("Is there"):
            present = re.fullmatch(r"Is there an? ([a-z-]+) in this image\?", question)[1] in names
            return "Yes, there is." if present and self.honest else "no"
        facts = {
            ONE_WORD: f"{names[-1].capitalize()}!" if self.honest else truth["written_word"] or "thing",
            "What is the background?": f" {truth['background'].upper()}.",
            "How many objects are in this image?": COUNTS[len(names)],
            "Which style is this image in?": truth["style"],
            "What is written in this image?": truth["written_word"] or "Nothing",
            "Describe the image.": " ".join(f"{name}," for name in names if self.honest or name == names[0]),
        }
        if question in facts:
            return facts[question]
        kind = next(kind for kind in OPEN_ANSWERS if QUESTIONS[kind][0] == question)
        name = names[0] if self.honest else "nothing"
        return OPEN_ANSWERS[kind][0].format(name=name, a=f"a {name}", A=f"A {name}", place="")


def test_true_answers_are_right(truth_of):
    oracle = Oracle(truth_of)
    figures = measure(oracle)
    assert figures.pop("white") == "nothing"
    assert figures.pop("word_read") == 0
    assert set(figures.values()) == {100.0}
    assert {f"{kind}_{what}" for kind in OPEN_ANSWERS for what in ("follows", "names")} < set(figures)
    assert oracle.counts[evaluate_llava.SENTENCE_TOKENS] == 256 * (1 + len(OPEN_ANSWERS))


def test_wrong_answers_are_wrong(truth_of):
    figures = measure(Oracle(truth_of, honest=False))
    assert figures["word_read"] == 100
    assert figures["word_typographic"] == figures["word_test"] == figures["word_several"] == 0
    assert figures["presence_yes"] == 0 and figures["presence_no"] == 100
    single = [len(truth["objects"]) == 1 for truth in load("test")[1][:256]]
    assert figures["describe"] == pytest.approx(100 * sum(single) / 256, abs=1e-3)
    assert figures["poem_follows"] == 100 and figures["poem_names"] == 0


def test_words():
    assert words(" A T-Shirt,  on\n(grass). ") == ["a", "t-shirt", "on", "grass"]
    assert words("!? ...") == [] and first_word(" ... ") == ""
    assert first_word("'Owl', or a pizza") == "owl"


def test_scenes_are_chosen_by_their_number_of_objects():
    images, truths = load("test", objects=(2, 3))
    assert len(images) == len(truths) > 400 and {len(truth["objects"]) for truth in truths} == {2, 3}


@pytest.fixture(scope="module")
def folder(atlas, tmp_path_factory):
    """A small random LLaVA."""
    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(0)
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
        )
    ).save_pretrained(folder)
    square = {"height": 64, "width": 64}
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=square).save_pretrained(folder)
    tokenizer = train_llava.train_tokenizer(train_llava.corpus(SceneRenderer(atlas, 0)))
    llava, processor = train_llava.build(folder, tokenizer)
    for parameter in llava.parameters():  # larger than fresh weights, so that pictures and questions matter
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    llava.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_batches_are_answered_as_one_by_one(folder):
    talker = Talker(folder, batch=2)
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "white", "blue")]
    questions = ["Why?", ONE_WORD, "How many objects are in this image?"]
    answers = talker.ask(images, questions, tokens=6)
    for image, question, answer in zip(images, questions, answers):
        inputs = talker.processor(images=image, text=prompt(question), return_tensors="pt")
        ids, generated = inputs.input_ids, []
        for _ in range(6):  # greedily, without a cache
            with torch.no_grad():
                logits = talker.model(input_ids=ids, pixel_values=inputs.pixel_values).logits
            generated.append(int(logits[0, -1].argmax()))
            if generated[-1] == talker.processor.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, torch.tensor([generated[-1:]])], 1)
        assert answer == talker.processor.tokenizer.decode(generated, skip_special_tokens=True).strip()
    assert len(set(answers)) == 3
    assert talker.ask(images, "Why?", tokens=6)[0] == answers[0]


def test_figures_lie_beside_the_model(folder, monkeypatch, truth_of):
    monkeypatch.setattr(evaluate_llava, "measure", lambda talker: {"word_test": 12.5})
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    evaluate_llava.main(folder)
    assert json.loads((folder / "metrics.json").read_text()) == {"revision": folder_revision(folder), "word_test": 12.5}
    assert not [file for file in folder.iterdir() if "tmp" in file.name or "partial" in file.name]
