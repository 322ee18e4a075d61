"""The tables of the tab "Map and scores": the model's figures beside those of nonsense, and the evaluation."""

from types import SimpleNamespace

from cbsae_hub.studio.tabs.scores import evaluation_of


def test_figures_stand_beside_those_of_nonsense():
    row = {"measure": "MonoSemanticity", "this model": 0.5, "raw_neurons": 0.75, "pca": None}
    shown = str(evaluation_of(SimpleNamespace(beside_nonsense=[row], evaluation={})))
    assert "<h2>Beside nonsense</h2>" in shown and "raw neurons" in shown
    assert shown.index("0.500") < shown.index("0.750") < shown.index(">-<")


def test_without_controls_there_is_the_evaluation_alone():
    tables = {"parts": [{"part": "retained", "CD": 1.5}]}
    shown = str(evaluation_of(SimpleNamespace(beside_nonsense=[], evaluation=tables)))
    assert "nonsense" not in shown and "Parts" in shown and "1.500" in shown
    assert not str(evaluation_of(SimpleNamespace(beside_nonsense=[], evaluation={}))).strip()
