"""The sanity tests of scores: ideal neurons in closed form, soft-WPMI against its formula, verdicts that are known."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.metrics import average_precision_score, roc_auc_score

from cbsae_hub.metrics import soft_wpmi
from cbsae_hub.plots import plot_sanity
from cbsae_hub.studies.sanity import (
    CLAIMS,
    EPSILON,
    REFERENCES,
    SCORES,
    TESTS,
    LabelledNeurons,
    as_markdown,
    can_be_changed,
    change_labels,
    run_tests,
)

N, LABELS = 240, 6
BY_KEY = {name.split("`")[1] if "`" in name else name: name for name in SCORES if "above chance" not in name}


@pytest.fixture(scope="module")
def known():
    """Neurons that fire on most images of their label, and on some others."""
    rng = np.random.default_rng(0)
    labels = rng.random((N, LABELS)) < 0.12
    fires = (labels & (rng.random(labels.shape) < 0.9)) | (rng.random(labels.shape) < 0.02)
    latents = sparse.csc_matrix(fires * (rng.random(labels.shape) + labels))
    return LabelledNeurons.clear(latents, labels, 0.5, 10, top_k=12, seed=3)


def test_labels_are_halved_and_doubled(known):
    rng = np.random.default_rng(0)
    labels = known.labels
    half, double = (change_labels(labels, test, rng) for test in TESTS)
    assert (half.sum(0) == labels.sum(0) - labels.sum(0) // 2).all() and not (half & ~labels).any()
    assert (double.sum(0) == 2 * labels.sum(0)).all() and (double & labels).sum() == labels.sum()
    edge = np.zeros((8, 3), bool)
    edge[0, 0], edge[:5, 1], edge[:4, 2] = True, True, True
    assert can_be_changed(edge).tolist() == [False, False, True]


def test_neurons_are_tested_with_what_they_detect(known):
    assert known.neurons.tolist() == known.own.tolist() == list(range(LABELS))
    few = LabelledNeurons.clear(known.latents, known.labels, 0.5, 3, 12)
    assert len(few.neurons) == 3
    with pytest.raises(ValueError, match="lower least_ap"):
        run_tests(LabelledNeurons.clear(known.latents, known.labels, 1.1, 3, 12))


def test_soft_wpmi_with_one_label_changed_is_the_formula(known):
    changed = change_labels(known.labels, "double", np.random.default_rng(1))
    latents = torch.from_numpy(known.latents.toarray())
    scores = SCORES[BY_KEY["score"]](known, changed)
    for label in range(LABELS):
        similarities = known.labels.astype(float)
        similarities[:, label] = changed[:, label]
        one = soft_wpmi(latents, torch.from_numpy(similarities), top_k=12, count_silent=False)
        assert scores[label] == pytest.approx(one[label, label].item(), rel=1e-6)


def test_scores_are_those_of_other_libraries(known):
    for labels in (known.labels, change_labels(known.labels, "half", np.random.default_rng(2))):
        z = known.activations
        pairs = [(labels[:, i], z[:, i]) for i in range(LABELS)]
        expected = {
            "truth_ap": [average_precision_score(c, a) for c, a in pairs],
            "truth_auroc": [roc_auc_score(c, a) for c, a in pairs],
            "name_correlation": [np.corrcoef(c, a)[0, 1] for c, a in pairs],
            "name_ap": [average_precision_score(a > 0, c) for c, a in pairs],
            "cosine": [a @ c / np.linalg.norm(a) / np.sqrt(c.sum()) for c, a in pairs],
        }
        for name, values in expected.items():
            np.testing.assert_allclose(SCORES[BY_KEY[name]](known, labels), values, err_msg=name)


def test_ideal_neurons_in_closed_form():
    """Of a neuron that is its label: n of N images."""
    labels = np.zeros((N, 3), bool)
    labels[:20, 0], labels[20:60, 1], labels[:200, 2] = True, True, True  # the last one cannot be doubled
    ideal = LabelledNeurons.ideal(labels)
    assert ideal.own.tolist() == [0, 1]
    n = np.array([20, 40])
    half, double = (change_labels(labels[:, :2], test, np.random.default_rng(0)) for test in TESTS)
    expected = {
        "F1": (2 / 3, 2 / 3), "IoU": (0.5, 0.5), "recall": (1, 0.5), "precision": (0.5, 1),
        "accuracy": (1 - n / 2 / N, 1 - n / N), "truth_ap": (1, 0.5 + n / N), "name_ap": (0.5 + n / 2 / N, 0.5),
    }  # fmt: skip
    expected["truth_ap"] = 0.5, 0.5 + 0.5 * 2 * n / N  # half of the images above all others; then all images
    by_key = {**SCORES, **REFERENCES, **{key: SCORES[name] for key, name in BY_KEY.items()}}
    for name, (halved, doubled) in expected.items():
        np.testing.assert_allclose(by_key[name](ideal, half), np.broadcast_to(halved, 2), err_msg=name)
        np.testing.assert_allclose(by_key[name](ideal, double), np.broadcast_to(doubled, 2), err_msg=name)


def test_verdicts_that_are_known(known):
    """Those of the paper, and of a number that means nothing."""
    table = run_tests(known, draws=4)
    falls = table.pivot(index="score", columns="test", values="falls")
    passes = table.groupby("score")["passes"].all()
    by_key = BY_KEY | {name: name for name in REFERENCES}
    assert {by_key[name] for name in ("F1", "IoU", "cosine", "truth_ap", "name_correlation", "name_ap")} < CLAIMS
    assert table[table["claims"]]["passes"].all() and len(CLAIMS) == 7  # with truth_ap above chance
    for name in ("recall", "precision", "truth_auroc", "a number that means nothing"):
        assert not passes[by_key[name]], name
    rare = np.zeros((4000, 1), bool)
    rare[:4] = True  # rightly called without the label are nearly all images, whatever its labels are
    table = run_tests(LabelledNeurons.ideal(rare), 2, {name: REFERENCES[name] for name in ("accuracy", "F1")})
    assert table["passes"].tolist() == [False, False, True, True]
    assert falls.loc["precision", "double"] == 0 and falls.loc["precision", "half"] == 1
    assert 0.1 < falls.loc["a number that means nothing"].mean() < 0.9
    assert (table["low"] <= table["falls"]).all() and (table["falls"] <= table["high"]).all()


def test_shares_and_changes_are_counted(known):
    values = iter([np.full(LABELS, 2.0), *np.array([[1, 1, 3, 3, 2, 2 - EPSILON]] * 2), *np.full((2, LABELS), 3.0)])
    table = run_tests(known, 2, {"mine": lambda *_: next(values)}).set_index("test")
    assert table["falls"].tolist() == pytest.approx([2 / 6, 0])
    assert table["change"].tolist() == pytest.approx([-EPSILON / 4, 0.5])
    assert table["pairs"].tolist() == [6, 6] and not table["passes"].any()


def test_table_and_figure():
    rows = [
        {"score": score, "test": test, "falls": share, "low": share / 2, "high": 1.0, "passes": share > 0.8,
         "neurons": "neurons"}
        for score, share in (("`a`", 0.5), ("b", 1.0)) for test in TESTS
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    lines = as_markdown(table).splitlines()
    assert lines[0] == "| score | neurons: half | neurons: double | claims to pass | passes, neurons |"
    assert lines[2:] == [
        "| `a` | 50 (25 to 100) | 50 (25 to 100) | no | no |",
        "| b | 100 (50 to 100) | 100 (50 to 100) | no | yes |",
    ]
    axes = plot_sanity(table, 0.9).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.5, 1.0, 0.5, 1.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    with pytest.raises(ValueError, match="no tests"):
        plot_sanity(table[:0], 0.9)
    assert json.dumps(table.to_dict("records"))
