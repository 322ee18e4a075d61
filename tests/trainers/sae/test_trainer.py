import json

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker, register_tracker_class
from small_run import SETTINGS, sparse_combinations, train

from cbsae_hub import SAE
from cbsae_hub.processes import FolderInUse, claimed
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.run import CHECKPOINT_NAME, load_checkpoint
from cbsae_hub.trainers.sae.state import SAEState
from cbsae_hub.trainers.sae.trainer import SAETrainer

pytestmark = pytest.mark.slow

PENALTIES = {"relu": 0.01, "gated": 0.01, "jumprelu": 0.002}


@pytest.mark.parametrize("activation", ["batch_topk", "topk", "relu", "jumprelu", "gated"])
def test_trained_sae_explains_heldout_activations_in_raw_units(tmp_path, activation):
    train, heldout, _ = sparse_combinations()
    penalty = PENALTIES.get(activation, 0.0)
    config = SAETrainConfig(**SETTINGS, activation=activation, bandwidth=0.1, sparsity_coefficient=penalty)
    final = SAETrainer(config, train, heldout, tmp_path).train()
    sae = SAE.from_pretrained(tmp_path)
    x = heldout.rows
    with torch.no_grad():
        latents, reconstruction = sae(x)
    explained = 1 - (x - reconstruction).square().sum() / (x - x.mean(0)).square().sum()
    assert final.explained_variance == pytest.approx(explained.item(), abs=1e-4)
    assert final.l0 == pytest.approx((latents > 0).sum(1).double().mean().item(), abs=1e-12)
    assert final.silent_share == pytest.approx((latents == 0).all(0).double().mean().item(), abs=1e-12)
    assert final.explained_variance > 0.8
    if activation in ("batch_topk", "topk"):
        assert final.l0 == pytest.approx(3, abs=0.01)
    torch.testing.assert_close(sae.decoder_norms(), torch.ones(48))


def test_thresholds_and_figures_are_recorded_in_raw_units(tmp_path):
    final = train(tmp_path)
    facts = json.loads((tmp_path / "training.json").read_text())
    sae = SAE.from_pretrained(tmp_path)
    assert facts["threshold"]["calibrated"] == pytest.approx(sae.threshold.item())
    # The running estimate is of batches with L0 3, so it lies where calibration ends up.
    assert facts["threshold"]["running"] == pytest.approx(sae.threshold.item(), rel=0.3)
    train_rows = sparse_combinations()[0].rows
    scale = train_rows.square().sum(1).mean().sqrt().item()
    assert facts["norm_factor"] == sae.norm_factor == pytest.approx(scale, rel=1e-3)
    assert facts["heldout"] == final._asdict()
    assert facts["tokens_seen"] == 300 * 100


def test_bf16_autocast_stays_close_to_float32(tmp_path):
    exact = train(tmp_path / "float32")
    AcceleratorState._reset_state(reset_partial_state=True)  # Accelerate wants one precision per program
    rounded = train(tmp_path / "bf16", mixed_precision="bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert rounded.explained_variance == pytest.approx(exact.explained_variance, abs=0.05)
    assert rounded.explained_variance != exact.explained_variance
    assert SAE.from_pretrained(tmp_path / "bf16").W_enc.dtype == torch.float32


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_auxiliary_loss_is_what_revives_dead_neurons(alpha):
    config = SAETrainConfig(**SETTINGS | {"auxk_alpha": alpha, "lr": 0.003, "group_fractions": None})
    sae = SAE(12, 48, "batch_topk", 3, seed=0)
    weak = torch.arange(48) >= 32
    with torch.no_grad():
        sae.W_enc[:, weak] *= 0.02
    state = SAEState(sae, config)
    state.dead_neurons.silent_tokens[weak] = config.dead_after_tokens
    for epoch in range(6):
        for x in sparse_combinations()[0].batches(100, 0, epoch):
            state.update((x - 3) / 4)
    alive = (state.dead_neurons.silent_tokens[weak] < config.dead_after_tokens).sum()
    assert alive == 0 if alpha == 0 else alive > 8


def test_batch_must_divide_among_data_and_processes(tmp_path):
    with pytest.raises(ValueError, match="2500 activations are fewer than one batch of 2600"):
        train(tmp_path, batch_size=2600)


def test_diverged_run_ends_with_an_error_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="lower lr"):
        train(tmp_path, lr=1e38, checkpoint_every=1, log_every=300)
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME, torch.device("cpu"))[1]["step"] < 5
    assert not (tmp_path / "model.safetensors").exists()


def test_other_trackers_get_the_settings_and_figures(tmp_path):
    seen = {}

    class MemoryTracker(GeneralTracker):
        name = "memory"
        requires_logging_directory = False
        tracker = None

        def __init__(self, run_name, **kwargs):
            super().__init__()

        def store_init_configuration(self, values):
            seen["settings"] = values

        def log(self, values, step=None, **kwargs):
            seen[step] = values

        def finish(self):
            seen["finished"] = True

    register_tracker_class(MemoryTracker)
    train(tmp_path, log_with=("jsonl", "memory"))
    assert seen["settings"]["k"] == 3 and seen["settings"]["betas"] == "(0.9, 0.999)"
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line.pop("step") for line in lines] == [50, 100, 150, 200, 250, 300, 300]
    assert seen[100] == lines[1] and "heldout/explained_variance" in seen[100]
    assert seen["finished"]


def test_tracker_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.raises(ValueError, match="pip install wandb"):
        train(tmp_path, log_with=("jsonl", "wandb"))


def test_a_run_that_is_too_small_says_so_once_before_it_starts(tmp_path, caplog):
    caplog.set_level("WARNING")
    train(tmp_path / "small", dead_after_tokens=31_000, warmup_steps=200)
    warnings = [one.getMessage() for one in caplog.records if str(tmp_path / "small") in one.getMessage()]
    facts = json.loads((tmp_path / "small" / "training.json").read_text())
    assert warnings == [f"{tmp_path / 'small'}: {doubt}" for doubt in facts["doubts"]]
    begins = [" ".join(doubt.split()[:2]) for doubt in facts["doubts"]]
    assert begins == ["the threshold", "the run", "warmup_steps 200"]
    lines = [json.loads(line) for line in (tmp_path / "small" / "log.jsonl").read_text().splitlines()]
    assert all(line["dead_share"] is None for line in lines) and facts["dead_share"] is None
    assert lines[0]["dead_share_unknown"] == "5,000 tokens seen, dead after 31,000"


def test_the_share_of_dead_neurons_is_known_once_one_can_be_dead(tmp_path):
    train(tmp_path, dead_after_tokens=10_000)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["dead_share"] is None for line in lines] == [True] + [False] * 6
    assert ["dead_share_unknown" in line for line in lines] == [True] + [False] * 6


def test_resuming_an_empty_folder_says_that_it_starts(tmp_path, caplog):
    caplog.set_level("INFO")
    train(tmp_path / "new", resume=True, steps=10)
    assert f"{tmp_path / 'new'} has no checkpoint to continue from: a new run starts" in caplog.text


def test_a_folder_that_another_run_writes_is_refused(tmp_path):
    with claimed(tmp_path), pytest.raises(FolderInUse, match="is being written by another run"):
        train(tmp_path, steps=10)
    assert not list(tmp_path.iterdir())


def test_an_sae_knows_what_its_activations_are_of_without_being_told(tmp_path):
    train_data, heldout, _ = sparse_combinations()
    train_data.manifest["encoder"] = {"encoder_id": "me/tiny", "encoder_revision": "abc", "layer": 3, "tokens": "cls"}
    config = SAETrainConfig(**SETTINGS | {"steps": 10})
    SAETrainer(config, train_data, heldout, tmp_path).train()
    sae = SAE.from_pretrained(tmp_path)
    assert (sae.encoder_id, sae.encoder_revision, sae.layer, sae.tokens) == ("me/tiny", "abc", 3, "cls")
    assert sae.training_data == {"id": "memory", "num_images": 3000}
