"""What is drawn against what the data say."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cbsae_hub import plots as plotting

CURVES = [{"thresholds": [0, 0.5, 1], "share": [0.75, 0.5, 0]}, {"thresholds": [0, 1], "share": [0.01, 0]}]
COVERAGE = {
    "few": {"concepts": 4, "named": 3, "share": 0.75, "by_threshold": CURVES[0]},
    "many": {"concepts": 900, "named": 9, "share": 0.01, "by_threshold": CURVES[1]},
}


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "kind": ["sae"] * 280 + ["cb"] * 20,
            "interpretability": rng.random(300),
            "steerability": rng.random(300),
            "token_density": np.where(rng.random(300) < 0.1, 0, 10 ** rng.uniform(-5, -1, 300)),
        }
    )
    frame.loc[[3, 5], "interpretability"] = np.nan
    frame.loc[5, "steerability"] = np.nan
    return frame


@pytest.mark.parametrize("threshold", ["mean", "median", 0.3, ("mean", 0.2)])
def test_quadrants_are_counted_as_a_loop_counts_them(frame, threshold):
    known = [(i, s) for i, s in zip(frame["interpretability"], frame["steerability"]) if i == i and s == s]
    x, y = zip(*known)
    rules = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    limits = [getattr(np, rule)(axis) if isinstance(rule, str) else rule for rule, axis in zip(rules, (x, y))]
    expected = dict.fromkeys(plotting.QUADRANTS, 0)
    for i, s in known:
        name = f"{'high' if i >= limits[0] else 'low'} / {'high' if s >= limits[1] else 'low'}"
        expected[name] += 1
    found = plotting.quadrants(frame, threshold)
    assert found["counts"] == expected and found["left_out"] == 2
    assert found["shares"] == pytest.approx({name: count / 298 for name, count in expected.items()})
    axes = plotting.plot_quadrants(frame, threshold).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == [f"{expected[n]:,}\n{expected[n] / 298:.1%}" for n in plotting.QUADRANTS]
    assert [len(part.get_offsets()) for part in axes.collections] == [280, 20]
    assert "2 neurons without" in axes.get_title()


def test_counts_of_quadrants_hide_no_dot(frame):
    figure = plotting.plot_quadrants(frame)
    figure.savefig(io.BytesIO(), format="png")
    axes = figure.axes[0]
    boxes = [axes.transData.inverted().transform(text.get_bbox_patch().get_window_extent()) for text in axes.texts]
    assert [top < 0 for (_, _), (_, top) in boxes] == [True, True, False, False]
    assert [bottom > 1 for (_, bottom), (_, _) in boxes] == [False, False, True, True]


def test_curves_are_sorted_and_count_what_is_undefined():
    rng = np.random.default_rng(1)
    values = pd.Series(np.r_[rng.random(40), [np.nan] * 7])
    axes = plotting.plot_monosemanticity({"a": values, "b": pd.Series(rng.random(5))}, 0.25).axes[0]
    first, second, line = axes.lines
    np.testing.assert_array_equal(first.get_ydata(), sorted(values.dropna(), reverse=True))
    assert first.get_xdata()[[0, -1]].tolist() == [0, 1] and len(second.get_ydata()) == 5
    assert "7 undefined" in first.get_label() and "undefined" not in second.get_label()
    assert line.get_ydata()[0] == 0.25


def test_coverage_bars_and_lines():
    figure = plotting.plot_coverage({"one": COVERAGE, "two": {"few": COVERAGE["few"]}})
    bars, lines = figure.axes
    heights = [[bar.get_height() for bar in group] for group in bars.containers]
    assert heights == [[0.75, 0.01], [0.75]]
    assert [text.get_text() for text in bars.texts] == ["3\nof 4", "9\nof 900", "3\nof 4"]
    assert [line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else list(line.get_ydata())
            for line in lines.lines] == [[0.75, 0.5, 0], [0.01, 0], [0.75, 0.5, 0]]  # fmt: skip


def test_histograms(frame):
    l0 = {"histogram": {"edges": [0, 1, 2, 3], "counts": [1, 2, 1]}}
    left, right = plotting.plot_histograms(frame, l0).axes
    assert left.patches[0].get_data().values.tolist() == [0.25, 0.5, 0.25]
    assert left.lines[0].get_xdata()[0] == 1.0, "the mean"
    assert sum(bar.get_height() for bar in right.patches) == (frame["token_density"] > 0).sum()
    assert right.texts[0].get_text() == f"{(frame['token_density'] == 0).sum()} of 300 are never active"


def test_patch_map_over_a_picture():
    heat = np.arange(6).reshape(2, 3)
    axes = plotting.plot_patch_map(heat, Image.new("RGB", (30, 20), "red")).axes[0]
    picture, drawn = axes.images
    assert np.asarray(picture.get_array())[0, 0].tolist() == [255, 0, 0]
    np.testing.assert_array_equal(drawn.get_array(), heat)
    assert picture.get_extent() == drawn.get_extent()


def test_steering_against_strength_ends_at_the_asymptote():
    table = pd.DataFrame(
        {
            "neurons_of": ["sae"] * 3 + ["raw"] * 3,
            "strength": [0.0, 2.5, np.inf] * 2,
            "neurons": [1000] * 3 + [8] * 3,
            "share_above_gamma": [0, 0.5, 1, 0, 0.25, 0.75],
            "share_beyond_loss": [0, 0.25, 0.5, 0, 0, 0.125],
        }
    )
    figure = plotting.plot_zero_shot_steering({"one": table, "two": table.assign(share_above_gamma=0.5)}, 0.2)
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    assert drawn == [[0, 0.5, 1], [0, 0.25, 0.5], [0, 0.25, 0.75], [0, 0, 0.125]]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0", "2.5", "\N{INFINITY}"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sae (1,000)", "raw (8)"]
    assert "S_f > 0.2" in figure.axes[1].get_ylabel()


def test_a_sweep_of_typographic_features_has_a_line_for_each_lambda_and_those_of_no_defence_and_the_prefix():
    rows = [
        ("SAE", None, None, 40, 90),
        ("SAE", 0.1, 0.2, 50, 80),
        ("SAE", 1.0, 0.2, 44, 88),
        ("SAE", 0.1, 1.0, 48, 85),
    ]
    rows += [("SAE", 0.1, 0.2, 60, 82), ("SAE", 1.0, 1.0, 41, 90), ("raw neurons", 0.1, 1.0, 20, 30)]
    sweep = pd.DataFrame(rows, columns=["neurons_of", "tau", "lambda", "attacked", "clean"])
    figure = plotting.plot_typographic_sweep(sweep, {"attacked": 70.0, "clean": 89.0})
    drawn = [line.get_ydata() for line in figure.axes[0].lines]
    assert [list(map(float, line)) for line in drawn] == [[55, 44], [48, 41], [20], [40, 40], [70, 70]]
    assert [float(line.get_ydata()[0]) for line in figure.axes[1].lines] == [81, 85, 30, 90, 89]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["SAE, λ = 0.2", "SAE, λ = 1", "raw neurons", "no defence", "Defense-Prefix"]
    with pytest.raises(ValueError, match="no values of tau"):
        plotting.plot_typographic_sweep(sweep[:1], {"attacked": 70.0, "clean": 89.0})


def test_intervals_are_drawn_around_means_with_chance_beside():
    row = {"mean": 0.5, "low": 0.4, "high": 0.7, "chance": 0.1}
    rows = [{"model": model, "measure": measure, **row} for model in ("SAE", "raw") for measure in ("a", "b")]
    figure = plotting.plot_intervals(pd.DataFrame(rows), {"b": "second", "a": "first"})
    assert [axes.get_title() for axes in figure.axes] == ["second", "first"]
    dots, chance = figure.axes[0].lines[0], figure.axes[0].lines[-1]
    assert dots.get_xydata().tolist() == [[0.5, 0], [0.5, 1]] and chance.get_xdata().tolist() == [0.1, 0.1]
    [(start, stop), _] = [segment[:, 0] for segment in figure.axes[0].collections[0].get_segments()]
    assert (start, stop) == pytest.approx((0.4, 0.7))
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["SAE", "raw"]
    with pytest.raises(ValueError, match="none of these measures"):
        plotting.plot_intervals(pd.DataFrame(rows), {"c": "third"})


def test_variants_are_drawn_in_order_beside_the_sae():
    rows = pd.DataFrame({"k": [5, 1, 50], "CD": [0.2, 0.1, 0.3], "MS": np.nan, "zero-shot": [70.0, 71.0, 72.0]})
    figure = plotting.plot_variants(rows, "k", "k of the bottleneck", {"CD": 0.15})
    names, zero_shot = figure.axes
    assert [panel.get_title() for panel in figure.axes] == ["CD", "zero-shot"]
    curve, line = names.get_lines()
    np.testing.assert_array_equal(curve.get_xydata(), [[1, 0.1], [5, 0.2], [50, 0.3]])
    np.testing.assert_array_equal(line.get_ydata(), [0.15, 0.15])
    assert len(zero_shot.get_lines()) == 1
    with pytest.raises(ValueError, match="nothing to draw"):
        plotting.plot_variants(rows[:0], "k", "k", {})


def test_densities_count_the_features_of_each_layer():
    layers = [
        (3, pd.DataFrame({"height": [0, 0, 2.5], "coverage": [1, 1, 0.3]})),
        (5, pd.DataFrame(columns=["height", "coverage"])),
    ]
    first, second = plotting.plot_densities(layers).axes
    shades = first.collections[0].get_array()
    assert sorted(shades.compressed()) == pytest.approx([1, 1 + np.log10(2)]) and "3: 3 features" in first.get_title()
    assert second.collections[0].get_array().mask.all()


def test_lines_are_those_of_the_table():
    rows = pd.DataFrame({"line": list("aab"), "x": [1, 2, 1], "first": [3, 4, 5], "second": [6, 7, 8]})
    one, two = plotting.plot_lines(rows, "x", {"first": "one", "second": "two"}, "x").axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in two.lines}
    assert drawn == {"a": [[1, 6], [2, 7]], "b": [[1, 8]]} and one.get_title() == "one"


def test_what_cannot_be_drawn_is_said(frame):
    with pytest.raises(ValueError, match="no column steerability"):
        plotting.plot_quadrants(frame.drop(columns="steerability"))
    with pytest.raises(ValueError, match="no neuron has both"):
        plotting.quadrants(frame.assign(steerability=np.nan))
    with pytest.raises(ValueError, match="mean, median or a number"):
        plotting.quadrants(frame, "mode")
    with pytest.raises(ValueError, match="no models"):
        plotting.plot_monosemanticity({})
    with pytest.raises(ValueError, match="no coverage"):
        plotting.plot_coverage({"a": {}})
    with pytest.raises(ValueError, match="no scores"):
        plotting.plot_zero_shot_steering({})
    with pytest.raises(ValueError, match="rows and columns"):
        plotting.plot_patch_map([])
