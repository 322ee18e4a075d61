"""What features draw: keywords, attributes and tests, against scikit-learn, formulas, and a world of colours."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats
from sklearn.feature_extraction.text import TfidfTransformer
from steerable_models import sae_for, stable_diffusion, table

from cbsae_hub.steering import Edit, RandomDirection, StableDiffusionSteerer, Steering
from cbsae_hub.studies import drawn_features, drawn_tables
from cbsae_hub.studies.drawn_features import Drawer
from cbsae_hub.studies.result_file import ResultFile

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (90, 90, 90)}
PROMPTS = ["grey wall", "grey sea"]


def test_neurons_are_kept_that_fire_on_descriptive_words(tmp_path):
    (tmp_path / "words.txt").write_text("Hot dog\nred\n")
    frame = pd.DataFrame(
        {"neuron": [4, 1, 2, 3, 0], "name": ["red", "dog", "of", None, "red"], "status": ["alive"] * 4 + ["dead"]}
    )
    kept = drawn_features.keep_descriptive(frame, drawn_features.descriptive_words(str(tmp_path / "words.txt")))
    assert kept["neuron"].tolist() == [1, 4]
    with pytest.raises(ValueError, match="no neuron fires on a descriptive word"):
        drawn_features.keep_descriptive(frame, lambda word: False)


def test_wordnet_tells_by_what_a_word_is_used_for(monkeypatch):
    def synset(kind, *counts):
        return SimpleNamespace(pos=lambda: kind, lemmas=lambda: [SimpleNamespace(count=lambda n=n: n) for n in counts])

    known = {
        "run": [synset("n", 3), synset("v", 50, 2)],
        "dog": [synset("n", 40, 2), synset("v", 1)],
        "in": [synset("n", 5)],
        "old": [synset("s", 0)],
        "very": [synset("r", 9), synset("a", 1)],
    }
    wordnet = SimpleNamespace(synsets=lambda word: known.get(word, []))
    monkeypatch.setattr(drawn_features, "open_wordnet", lambda: wordnet)
    is_descriptive = drawn_features.descriptive_words("wordnet")
    words = ["run", "dog", "in", "old", "very", "the"]
    assert [word for word in words if is_descriptive(word)] == ["dog", "old", "very"]


def test_keywords_are_what_is_said_anew():
    assert drawn_features.keywords('Abstract art, "Neon". abstract art;\n- sea') == ["abstract art", "neon", "sea"]
    plain, steered = ["p", "q"], ["r", "s"]
    said = {"r": "Snow, a dog", "s": "snow"}
    before = [["a dog"], ["snow"]]
    assert drawn_features.new_keywords(lambda one: said[one[0]], plain, steered, before) == ["snow"]
    seen = []
    found = drawn_features.new_keywords(lambda many: seen.append(many) or "neon, sea", plain, steered, None)
    assert found == ["neon", "sea"] and seen == [["p", "q", "r", "s"]]


def test_attributes_are_the_keywords_of_the_largest_tf_idf():
    rng = np.random.default_rng(0)
    vocabulary = np.array(["art", "bird", "cat", "desert", "emu"])
    found = {neuron: rng.choice(vocabulary, 12, p=[0.6, 0.1, 0.1, 0.1, 0.1]).tolist() for neuron in range(9)}
    counts = np.array([[Counter(words)[word] for word in vocabulary] for words in found.values()])
    idf = TfidfTransformer(norm=None, smooth_idf=False).fit(counts).idf_ - 1  # it adds one
    expected = []
    for row in counts:
        best = max((round(n * w, 9), n) for n, w in zip(row, idf))
        expected.append(min(str(word) for n, w, word in zip(row, idf, vocabulary) if (round(n * w, 9), n) == best))
    assert list(drawn_features.attributes(found).values()) == expected
    assert drawn_features.attributes({1: ["sea"], 2: [], 3: ["sea", "art"]}) == {1: "sea", 2: None, 3: "art"}


def test_tests_are_paired():
    rng = np.random.default_rng(1)
    kinds = [f"{image}|{text}" for image in drawn_tables.IMAGES for text in drawn_tables.TEXTS]
    pairs = pd.DataFrame(rng.normal(0.2, 0.05, (30, len(kinds))), columns=kinds)
    pairs["steered|attribute"] += 0.03
    found = drawn_tables.paired_tests(pairs).set_index("comparison")
    for name, ((image, text), (other_image, other_text)) in drawn_tables.COMPARISONS.items():
        gain = (pairs[f"{image}|{text}"] - pairs[f"{other_image}|{other_text}"]).to_numpy()
        error = gain.std(ddof=1) / np.sqrt(30)
        half = stats.t.ppf(0.975, 29) * error
        row = found.loc[name]
        np.testing.assert_allclose(row[["difference", "t"]].astype(float), [gain.mean(), gain.mean() / error])
        np.testing.assert_allclose(row[["low", "high"]].astype(float), [gain.mean() - half, gain.mean() + half])
        assert row["p"] == pytest.approx(2 * stats.t.sf(abs(gain.mean() / error), 29)) and row["n"] == 30
    means = drawn_tables.means(pairs).set_index("image")
    assert means.loc["random", "other"] == pytest.approx(pairs["random|other"].mean())
    text = drawn_tables.as_markdown(pairs)
    assert f"| steered | {pairs['steered|prompt'].mean():.3f} |" in text and "| 30 |" in text


def test_drawings_are_those_of_the_steerer():
    neurons = table([None] * 32, p99=2.0)
    steerer = StableDiffusionSteerer(stable_diffusion(), sae_for(layer=1), neurons)
    options = {"num_inference_steps": 1, "guidance_scale": 2.0}
    drawer = Drawer(steerer, 3.0, "words", (4, 5), options, seed=7)
    steering = Steering([Edit(2, 3.0 * 6.0, "add")], keep_error=True, tokens="words")  # p99 of neuron 2: 2 x 3
    for found, wanted in (
        (drawer.plain(["a dog"]), None),
        (drawer.steered(2, ["a dog"]), steering),
        (drawer.random(2, ["a dog"]), RandomDirection(steering, 9)),
    ):
        expected = steerer.generate(["a dog"], wanted, (4, 5), **options)
        assert [one.tobytes() for one in found] == [one.tobytes() for one in expected]


class Painter:
    """Draws grey; neurons 0, 1 and 2 their colour; neuron 3 and random directions grey too."""

    seed = 0

    def __init__(self):
        self.calls = 0

    def plain(self, prompts):
        return [Image.new("RGB", (2, 2), COLOURS["grey"])] * len(prompts)

    def steered(self, neuron, prompts):
        self.calls += 1
        return [Image.new("RGB", (2, 2), list(COLOURS.values())[neuron])] * len(prompts)

    def random(self, neuron, prompts):
        return self.plain(prompts)


class ColourJudge:
    """Embeds pictures and texts as their colours."""

    def embed_images(self, images):
        return F.normalize(torch.tensor([image.getpixel((0, 0)) for image in images], dtype=torch.float32), dim=1)

    def embed_texts(self, texts, templates):
        assert templates == ["{}"]
        sums = [sum(torch.tensor(COLOURS[word]) for word in COLOURS if word in text) for text in texts]
        return F.normalize(torch.stack(sums).float(), dim=1)


def name_of(images):
    return next(name for name, colour in COLOURS.items() if colour == images[-1].getpixel((0, 0)))


def test_a_known_world_is_found_out_and_nothing_is_drawn_twice(tmp_path):
    def run(painter):
        kept = ResultFile(tmp_path / "progress.json", {"a": 1})
        named = drawn_features.find_attributes(painter, name_of, [0, 1, 2, 3], PROMPTS, False, kept)
        attributes = {neuron: word for neuron, word in named.items() if word}
        return named, drawn_features.check_attributes(painter, ColourJudge(), attributes, PROMPTS, kept)

    first, again = Painter(), Painter()
    named, pairs = run(first)
    assert named == {0: "red", 1: "green", 2: "blue", 3: None}
    assert len(pairs) == 6 and first.calls == 4 + 3
    repeated = run(again)
    assert again.calls == 0 and repeated[0] == named
    pd.testing.assert_frame_equal(repeated[1], pairs)
    grey, red = (torch.tensor(COLOURS[word], dtype=torch.float32) for word in ("grey", "red"))
    row = pairs.iloc[0]
    assert row["steered|attribute"] == pytest.approx(F.cosine_similarity(red, grey + red, dim=0).item(), abs=1e-5)
    assert row["steered|prompt"] == pytest.approx(F.cosine_similarity(red, grey, dim=0).item(), abs=1e-5)
    assert (pairs["steered|other"] < pairs["steered|attribute"]).all()
    np.testing.assert_allclose(pairs["random|attribute"], pairs["original|attribute"])
    with pytest.raises(ValueError, match="other settings"):
        ResultFile(tmp_path / "progress.json", {"a": 2})
    with pytest.raises(ValueError, match="1 attributes were found"):
        drawn_features.check_attributes(
            first, ColourJudge(), {0: "red"}, PROMPTS, ResultFile(tmp_path / "other.json", {})
        )


def test_the_figure_has_a_row_per_prompt_and_a_column_per_title():
    figure = drawn_tables.plot_drawings(
        {"original": Painter().plain(PROMPTS), "red (0)": Painter().steered(0, PROMPTS)}, PROMPTS
    )
    assert len(figure.axes) == 4 and figure.axes[1].get_title() == "red (0)"
