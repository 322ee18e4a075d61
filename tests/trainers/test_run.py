import json

import pytest
import torch
from safetensors.torch import load_file
from small_run import train

from cbsae_hub.trainers.run import CHECKPOINT_NAME, load_checkpoint

pytestmark = pytest.mark.slow

ACTIVATIONS = ("batch_topk", "topk", "gated")
# Some neurons die within these steps, so the auxiliary loss and the shared counters are part of the curve.
FITS = ["pca", "kmeans"]
SETTINGS = {"steps": 40, "log_every": 1, "dead_after_tokens": 500}


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_of_one_and_stop_together(run_training, tmp_path):
    runs = [{"output": tmp_path / f"two_{name}", "settings": SETTINGS | {"activation": name}} for name in ACTIVATIONS]
    # The last run is the only one with a step 50, after which one of the two processes gets a signal.
    fits = [{"output": tmp_path / f"two_{name}", "settings": SETTINGS | {"control": name}} for name in FITS]
    codes = run_training(*runs, *fits, {"output": tmp_path / "stopped"}, processes=2, KILL_AT="50", KILL_WITH="SIGINT")
    assert codes == [130, 130]
    assert load_checkpoint(tmp_path / "stopped" / CHECKPOINT_NAME, torch.device("cpu"))[1]["step"] == 50
    for name in ACTIVATIONS:
        one, two = tmp_path / f"one_{name}", tmp_path / f"two_{name}"
        train(one, **SETTINGS, activation=name)
        assert len(log(one)) == len(log(two)) == 41
        for line, expected in zip(log(two), log(one)):
            unknown = {key: line.pop(key) for key in ("dead_share", "dead_share_unknown") if line["step"] < 5}
            assert unknown == {key: expected.pop(key) for key in unknown}
            assert line == pytest.approx(expected, rel=1e-3, abs=1e-6)
        last = log(one)[39]
        assert last["dead_share"] > 0
        assert name == "gated" or last["loss/auxiliary"] > 0
        weights = load_file(two / "model.safetensors")
        for key, expected in load_file(one / "model.safetensors").items():
            assert (weights[key] - expected).abs().max() < 1e-3
    for name in FITS:
        train(tmp_path / f"one_{name}", **SETTINGS, control=name)
        one, two = (load_file(tmp_path / f"{count}_{name}" / "model.safetensors") for count in ("one", "two"))
        # Of the two directions of an axis either may come first.
        assert ((one["W_dec"] * two["W_dec"]).sum(1).abs() - 1).abs().max() < 1e-4
