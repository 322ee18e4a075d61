"""Explanations side by side, against scores that are computed one by one."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from cbsae_hub.metrics import detection_score, draw_trials, explain_linearly
from cbsae_hub.plots import plot_names
from cbsae_hub.scoring.simulation import SeenImages, score_names, simulation_summary
from cbsae_hub.studies.names import NameTrial, as_markdown, choose, says, shuffled, summary

CONCEPTS = ["dog", "cat", "red hat", "sky", "sea"]


class Judge:
    """Knows five concepts, each a dimension of its own."""

    repo_id, revision = "judge", None

    def embed_texts(self, texts):
        if "~" in texts:
            raise ValueError("the text has no tokens")
        return torch.eye(6)[[CONCEPTS.index(text) if text in CONCEPTS else 5 for text in texts]]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(300, 6))
    latents = np.maximum(embeddings[:, [0, 1, 2, 0, 3, 4]] - 0.7, 0)
    latents[:, 3] = 0
    return SeenImages(sparse.csc_matrix(latents), embeddings, Judge())


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(
        {"neuron": range(6), "name": ["dog", "sea", "Red hat", "dog", None, "sea"], "truth_ap": [0.9, 0.2, 0.6] * 2,
         "truth": ["dog", "cat", "red hat", "dog", "sky", "sea"]}
    )  # fmt: skip


def test_names_and_answers_are_scored_one_by_one(images, frame):
    neurons = choose(frame, 10)
    assert neurons["neuron"].tolist() == [0, 1, 2, 3, 5]
    trial = NameTrial(neurons, images, 8, seed=1)
    names = ["dog", "sea", "red hat", "dog", None]
    rows = trial.of_names("names", names)
    assert rows["right"].tolist() == [1, 0, 1, 1, 0]
    np.testing.assert_array_equal(rows["right_clear"], [1, np.nan, 1, 1, 0])
    trials = draw_trials(images.latents[:, neurons["neuron"].to_numpy()], 8, 1)
    for place, (neuron, name) in enumerate(zip(neurons["neuron"], names)):
        prediction = np.zeros(300) if name is None else images.embeddings[:, CONCEPTS.index(name)]
        z = images.latents[:, [neuron]].toarray()[:, 0]
        expected = 0.0 if name is None else np.corrcoef(z, prediction)[0, 1] if z.any() else np.nan
        assert rows["correlation"][place] == pytest.approx(expected, nan_ok=True)
        assert rows["detection"][place] == pytest.approx(detection_score(prediction, trials[place]), nan_ok=True)
    assert rows["detection"][4] == 0.5 and rows["detection"][0] == 1
    answers = trial.of_answers("answers", ["a dog.", "Cats!", "a hat, red", None, "the sea shore"])
    assert answers["right"].tolist() == [1, 1, 0, 0, 1]
    nothing = trial.of_answers("nothing", ["~", "", None, "~", "~"])
    assert nothing["detection"].dropna().eq(0.5).all() and nothing["correlation"].dropna().eq(0).all()
    unknown = NameTrial(neurons[["neuron", "name"]], images).of_names("names", names)
    assert unknown[["right", "right_clear"]].isna().all(axis=None) and unknown["correlation"].notna().sum() == 4


def test_sums_of_concepts(images, frame):
    explanations = explain_linearly(images.latents, images.embeddings[:, :5], 2)
    neurons = choose(frame, 10)
    rows = NameTrial(neurons, images).of_sums("sum", explanations, CONCEPTS, 1)
    assert rows["text"].tolist() == ["dog", "cat", "red hat", None, "sea"]
    assert rows["right"].tolist() == [1, 1, 1, 0, 1]
    z = images.latents[:, [1]].toarray()[:, 0]
    assert rows["correlation"][1] == pytest.approx(np.corrcoef(z, images.embeddings[:, 1])[0, 1])
    assert "+" in NameTrial(neurons, images).of_sums("sum", explanations, CONCEPTS, 2)["text"][1]


def test_columns_of_the_neuron_table(images, frame):
    named = frame.assign(name=["dog", "sea", "red hat", "dog", None, "sea"])
    columns = score_names(named.sample(frac=1, random_state=0), images)
    assert columns["name_correlation"].notna().tolist() == [True, True, True, False, False, True]
    assert columns["name_percentile"][[0, 2, 5]].tolist() == [1, 1, 1] and columns["name_ap"][0] == 1
    told = simulation_summary(columns, 0.95)
    assert told["neurons"] == 4 and told["share_above_null"] in (0.75, 1)
    assert told["name_ap"] == pytest.approx(columns["name_ap"].mean())
    with pytest.raises(ValueError, match="the table has 5 neurons, the model 6"):
        score_names(named[:5], images)


def test_words_are_told_one_behind_the_other():
    assert says("Two red hats on a table", "red hat") and not says("a hat that is red", "red hat")
    assert not says("", "dog") and not says(None, "dog") and not says("hotdog", "dog")


def test_shuffled_texts_are_all_elsewhere():
    texts = [str(i) for i in range(9)]
    other = shuffled(texts, 3)
    assert sorted(other) == texts and all(a != b for a, b in zip(texts, other))
    with pytest.raises(ValueError, match="no neuron has a name"):
        choose(pd.DataFrame({"neuron": [0], "name": [None]}), 3)


def test_means_have_intervals_and_are_drawn():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    rows = pd.DataFrame({"method": "a", "neuron": range(400), "text": ["x", "X", "y", None] * 100, "right": 1.0,
                         "right_clear": np.nan, "correlation": values, "detection": 0.5})  # fmt: skip
    table = summary(rows)
    row = table.set_index("measure").loc["correlation"]
    error = values.std() / 20
    assert row["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert row["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error) and row["texts"] == 2
    line = as_markdown(table).splitlines()[2]
    assert line.startswith("| a | 100.0 (100.0 to 100.0) |  | ") and line.endswith("| 400 | 2 |")
    panels = plot_names(table).axes
    assert [axes.get_title() for axes in panels] == ["right, %", "correlation", "detection"]
    with pytest.raises(ValueError, match="no explanations"):
        plot_names(table[:0])
