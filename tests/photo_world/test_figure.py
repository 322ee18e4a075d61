import pandas as pd

from training.photo_world.figure import best_rows


def test_the_best_neurons_of_kinds_come_first_and_each_once():
    rows = [("SAE", "kinds", f"kind {i}", i // 2, 0.1 * i) for i in range(9)]
    rows += [("SAE", "background", "grass", 20, 0.95), ("SAE", "background", "wood", 4, 0.99)]
    rows += [("random directions", "kinds", "kind 0", 7, 1.0), ("SAE", "place", "top", 21, 1.0)]
    best = best_rows(pd.DataFrame(rows, columns=["units", "family", "label", "unit", "lift"]))
    assert best["label"].tolist() == ["kind 7", "kind 5", "kind 3", "kind 1", "wood"]
