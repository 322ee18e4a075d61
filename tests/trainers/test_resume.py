import pytest
import torch
from safetensors.torch import load_file
from small_run import train

from cbsae_hub.hub.files import ModelFileError
from cbsae_hub.trainers.loop import Interrupted
from cbsae_hub.trainers.run import CHECKPOINT_NAME, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_killed_and_resumed_run_equals_the_uninterrupted_one_to_the_bit(run_training, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    # Step 130 lies between two checkpoints, in the sixth epoch.
    assert run_training({"output": parts}, KILL_AT="130", KILL_WITH="SIGKILL") == [-9]
    assert load_checkpoint(parts / CHECKPOINT_NAME, torch.device("cpu"))[1]["step"] == 100
    assert not (parts / "model.safetensors").exists()
    assert run_training({"output": parts, "resume": True}, {"output": whole}) == [0]
    assert_same_run(parts, whole)


@pytest.mark.parametrize(("signal", "activation"), [("SIGINT", "topk"), ("SIGTERM", "gated")])
def test_signal_saves_and_resumed_run_is_the_same(tmp_path, monkeypatch, signal, activation):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, activation=activation)
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="step 130.*--resume"):
        patched.setenv("KILL_AT", "130")
        patched.setenv("KILL_WITH", signal)
        train(parts, activation=activation)
    with pytest.raises(FileExistsError, match="--resume"):
        train(parts, activation=activation)
    with pytest.raises(ValueError, match=r"lr \(was 0.02\)"):
        train(parts, resume=True, activation=activation, lr=0.01)
    train(parts, resume=True, activation=activation)
    assert_same_run(parts, whole)
    with pytest.raises(FileExistsError, match="finished"):
        train(parts, resume=True, activation=activation)


def assert_same_run(folder, expected_folder):
    expected = load_file(expected_folder / "model.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
    for name in ("log.jsonl", "training.json"):
        assert (folder / name).read_text() == (expected_folder / name).read_text()
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected_folder.iterdir()}
    assert not (folder / CHECKPOINT_NAME).exists()


def test_kill_while_a_checkpoint_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / CHECKPOINT_NAME, {"a": torch.zeros(3)}, {"step": 1})

    def killed(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("cbsae_hub.hub.files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / CHECKPOINT_NAME, {"a": torch.ones(3)}, {"step": 2})
    tensors, facts = load_checkpoint(tmp_path / CHECKPOINT_NAME, torch.device("cpu"))
    assert facts == {"step": 1} and torch.equal(tensors["a"], torch.zeros(3))


def test_damaged_checkpoint_is_named(tmp_path):
    save_checkpoint(tmp_path / CHECKPOINT_NAME, {"a": torch.zeros(3)}, {"step": 1})
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelFileError, match=CHECKPOINT_NAME):
        load_checkpoint(tmp_path / CHECKPOINT_NAME, torch.device("cpu"))
