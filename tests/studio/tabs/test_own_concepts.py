"""Which of a visitor's concepts are there, and what becomes of those that are not."""

import io
import itertools
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from known_words import strong_word, trained_word, weak_word

from cbsae_hub import CBSAE
from cbsae_hub.data.images import load_images
from cbsae_hub.steering.tower import Stopped
from cbsae_hub.studio.server import concept_training
from cbsae_hub.studio.server.generators import Unavailable
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.session import TRAIN, WORK, SessionState
from cbsae_hub.studio.tabs.own_concepts import OwnConceptsTab, archive, concepts_of, located, report

pytestmark = pytest.mark.slow


def test_concepts_are_lines_or_between_commas_each_once():
    assert concepts_of(" red  car\nRed Car,  dog;;\n\nünder ") == ["Red Car", "dog", "ünder"]
    assert concepts_of("Café，CAFE\u0301、\u200b猫،كلب；❤") == ["CAFÉ", "猫", "كلب", "❤"]
    for bad, message in (
        ("\u200b", "Type a concept"),
        ("", "Type a concept"), (None, "Type a concept"), (",,\n", "Type a concept"), ("x" * 41, "no concept"),
        ("?!", "no concept"), (",".join(map(str, range(21))), "at most 20"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=message):
            concepts_of(bad)


def places(loaded, concepts):
    return [(name, match and match.neuron) for name, match in located(loaded, concepts)]


def test_where_concepts_are(shipped):
    frame, first = shipped.pack.neurons.frame, shipped.sae.d_sae
    own = shipped.sae.concepts[2]
    named = frame[(frame["kind"] == "sae") & frame["name"].notna()]
    name = named.sort_values("score")["name"].iloc[-1]
    best = int(named[named["name"] == name].sort_values("score", ascending=False)["neuron"].iloc[0])
    assert places(shipped, [own.upper(), name, "zeppelin"]) == [
        (own.upper(), first + 2), (name, best), ("zeppelin", None),
    ]  # fmt: skip
    shown = report(shipped, [own, name, "<zeppelin>"])
    assert "◆ concept neuron" in shown and "● in the SAE" in shown and "&lt;zeppelin&gt;</th><td>○ missing" in shown
    assert f'data-act="add" data-neuron="{best}"' in shown


def test_the_report_says_what_a_name_is_worth(shipped):
    words = [weak_word(), strong_word()]
    (_, weak), (_, strong) = located(shipped, words)
    assert (weak.verdict, strong.verdict) == ("weak", "strong")
    truth = shipped.pack.neurons[weak.neuron].truth
    shown = report(shipped, words)
    assert f"◐ weak: on images whose content is known, “{truth}” is what it finds best" in shown
    assert f"● strong: on images whose content is known, “{words[1]}” is what it finds best" in shown


class Trainer:
    """Remembers what it was to train, and trains it on few steps."""

    def __init__(self, workshop):
        self.workshop, self.asked = workshop, []

    def add(self, loaded, concepts, told, stop):
        self.asked.append(concepts)
        steps = itertools.count()
        return self.workshop.add(loaded, concepts, told, lambda: next(steps) == 5)


def test_what_is_weak_can_be_trained_anyway(workshop, serving, shipped):
    tab = OwnConceptsTab(SessionState(serving), trainer := Trainer(workshop))
    visitor, weak, there = SimpleNamespace(session_hash="me"), weak_word(), trained_word()
    (refused,) = tab.add(visitor, shipped.key, f"{weak}\n{there}", False)
    assert "tick “Train it anyway”" in refused[1] and not trainer.asked
    (refused,) = tab.add(visitor, shipped.key, there, True)
    assert "nothing is to be trained" in refused[1], "it is in the bottleneck: there is no second neuron for it"
    *_, done = tab.add(visitor, shipped.key, f"{weak}\n{there}", True)
    assert trainer.asked == [[weak]] and "1 concept added" in done[0]
    own = serving.of(done[3])
    assert places(own, [weak]) == [(weak, len(shipped.pack.neurons))]
    assert "◆ concept neuron" in done[1]


def test_trained_nonsense_is_no_success(workshop, serving, shipped):
    tab = OwnConceptsTab(SessionState(serving), workshop)
    *_, done = tab.add(SimpleNamespace(session_hash="me"), shipped.key, "lotvaeer\nasdfgh", False)
    assert "2 concepts added" in done[0] and "Not surely learned: “lotvaeer”, “asdfgh”." in done[0]
    own = serving.of(done[3])
    for word in ("lotvaeer", "asdfgh"):
        found = own.pack.find(word)
        assert found.verdict == "weak" and "the judge finds" in found.reason
        assert f"◐ weak: {found.reason}" in done[1]


@pytest.fixture(scope="module")
def workshop(serving, tmp_path_factory):
    """One that looks at few of the pictures, once, and keeps what it sees of them to itself."""
    folder = tmp_path_factory.mktemp("workshop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concept_training.downloads, "folder", lambda: folder)
        patch.setattr(
            concept_training, "load_images", lambda *given, **named: load_images(*given, **named).select(range(600))
        )
        yield concept_training.ConceptTraining(serving)


def test_concepts_are_trained_kept_and_downloaded(workshop, serving, shipped, tmp_path):
    told = []
    own = workshop.add(shipped, ["zeppelin", "pinata"], lambda *said: told.append(said), lambda: len(told) > 12)
    assert [share for share, _ in told] == sorted(share for share, _ in told) and "step" in told[5][1]
    assert serving.of(own.key) is own and own.sae.concepts[-2:] == ["zeppelin", "pinata"]
    assert own.sae.sae is shipped.sae.sae, "what is frozen is kept once"
    assert torch.equal(own.sae.W_enc_cb[:, :-2], shipped.sae.W_enc_cb)
    assert len(own.pack.neurons) == len(shipped.pack.neurons) + 2
    assert places(own, ["pinata"]) == [("pinata", len(shipped.pack.neurons) + 1)]
    assert places(shipped, ["pinata"]) == [("pinata", None)], "nobody else's model has it"
    with zipfile.ZipFile(io.BytesIO(archive(own).read_bytes())) as file:
        file.extractall(tmp_path)
    again = CBSAE.from_pretrained(tmp_path)
    assert again.concepts == own.sae.concepts and torch.equal(again.W_dec_cb, own.sae.W_dec_cb)


def test_an_sae_without_a_bottleneck_cannot_be_extended(workshop, serving):
    with pytest.raises(Unavailable, match="no concept bottleneck"):
        workshop.add(serving.of("emoji-sae"), ["x"], lambda *_: None, lambda: False)


def test_without_the_teacher_it_says_so(workshop, shipped, monkeypatch):
    other = shipped.extended(shipped.sae, shipped.pack)
    other.model_id = "another"
    monkeypatch.setattr(type(shipped.sae), "teacher", None, raising=False)
    monkeypatch.setitem(other.sae.__dict__, "teacher", None)
    with pytest.raises(Unavailable, match="teacher"):
        workshop.add(other, ["x"], lambda *_: None, lambda: False)


def test_trainings_are_one_after_the_other_and_those_who_have_left_do_not_begin(workshop, shipped, monkeypatch):
    running, most, order = [], [], []

    def slow(loaded, cb, concepts, told, stop):
        running.append(concepts)
        most.append(len(running))
        time.sleep(0.2)
        running.remove(concepts)
        order.append(concepts[0])

    monkeypatch.setattr(workshop, "_add", slow)
    with ThreadPoolExecutor(4) as threads:
        sent = [threads.submit(workshop.add, shipped, [str(i)], lambda *_: None, lambda: False) for i in range(3)]
        left = threads.submit(workshop.add, shipped, ["left"], lambda *_: None, lambda: True)
        with pytest.raises(Stopped):
            left.result()
        for one in sent:
            one.result()
    assert set(most) == {1} and sorted(order) == ["0", "1", "2"]


def test_trainings_have_a_queue_of_their_own_whoever_sends_them():
    with gr.Blocks() as page:
        text = gr.Textbox()
        text.submit(lambda text: text, text, text, **TRAIN)
    (handler,) = page.fns.values()
    assert handler.concurrency_limit == 1 and handler.concurrency_id not in (WORK["concurrency_id"], "lookups")
