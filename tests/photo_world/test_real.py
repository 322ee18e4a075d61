"""The whole path on a small encoder that knows nothing, without a download."""

import pandas as pd
import pytest
import timm
import torch
from cutout_files import noise
from PIL import Image
from safetensors.torch import save_file
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from cbsae_hub import Pack
from cbsae_hub.hub.files import OtherSettings, claim
from training.photo_world import real
from training.photo_world.cutouts import Cutout
from training.photo_world.judges import ARCHITECTURE
from training.photo_world.real import explain, make_once, table
from training.photo_world.scenes import write_scenes

COLOURS = {"rose": (220, 30, 40), "leaf": (40, 200, 60), "plum": (90, 30, 160), "sun": (240, 220, 60)}
KINDS = {"rose": "plants", "leaf": "plants", "plum": "food", "sun": "space"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photo-world")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_attention_heads=2, num_hidden_layers=12, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(folder / "encoder")
    size = {"height": 56, "width": 56}
    BitImageProcessor(size={"shortest_edge": 56}, crop_size=size).save_pretrained(folder / "encoder")
    (folder / "judge").mkdir()
    state = {name: one for name, one in timm.create_model(ARCHITECTURE).state_dict().items() if "tracked" not in name}
    save_file(state, folder / "judge" / "model.safetensors")
    cutouts = [
        Cutout(f"{name}{i}", name, (KINDS[name],), noise(60, 50, colour, i), True)
        for name, colour in COLOURS.items()
        for i in range(3)
    ]
    splits = {
        split: [i for i in range(12) if i % 3 == number] for number, split in enumerate(("train", "probe", "test"))
    }
    backdrops = {"grass": Image.new("RGB", (300, 300), (40, 160, 40))}
    write_scenes(cutouts, splits, backdrops, {"train": 10, "probe": 10, "test": 10}, 0, folder / "scenes")
    return folder


@pytest.fixture(scope="module")
def summary(folder):
    return explain(folder, {"effort": "quick", "seed": 0}, 16)


@pytest.mark.slow
def test_the_answer_is_a_model_with_a_pack_of_the_probe_split(folder, summary):
    pack = Pack.from_pretrained(folder / "explained" / "sae")
    assert pack.info["images"]["n"] == 40
    assert summary["explained"]["question"]["split"] == "probe"
    assert summary["explained"]["names"]["of"] > 0
    assert {"concept", "kinds", "background"} <= set(summary["explained"]["labels"])
    assert (folder / "explained" / "report.html").is_file()


@pytest.mark.slow
def test_controls_and_figure_are_written(folder, summary):
    assert set(summary["controls"]["units"]) == {"SAE", "untrained SAE", "single numbers", "random directions"}
    rows = pd.read_parquet(folder / "controls.parquet")
    assert set(rows.loc[rows["family"] == "kinds", "label"]) == {"plants", "food", "space"}
    figure = Image.open(folder / "neurons.webp")
    assert figure.format == "WEBP"
    assert (folder / "neurons.webp").stat().st_size < 150_000
    lines = table(summary["controls"]).splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:2] == ["kinds", "background"]


@pytest.mark.slow
def test_what_is_done_is_not_done_again(folder, summary, monkeypatch):
    monkeypatch.setattr(real, "compare", lambda *arguments: pytest.fail("compared again"))
    monkeypatch.setattr("cbsae_hub.trainers.sae.trainer.SAETrainer.train", lambda *a, **k: pytest.fail("trained again"))
    again = explain(folder, {"effort": "quick", "seed": 0}, 16)
    assert again["controls"] == summary["controls"]


def test_a_folder_is_made_whole_or_not_at_all(tmp_path):
    def fail(target):
        (target / "half").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        make_once(tmp_path / "made", fail)
    assert not (tmp_path / "made").exists()
    make_once(tmp_path / "made", lambda target: (target / "whole").write_text("whole"))
    make_once(tmp_path / "made", fail)
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["whole"]


def test_another_seed_in_the_same_folder_is_refused(tmp_path, monkeypatch):
    claim(tmp_path, {"effort": "normal", "seed": 0})
    monkeypatch.setattr("sys.argv", ["photo_world", "--folder", str(tmp_path), "--seed", "1"])
    with pytest.raises(SystemExit, match="seed"):
        real.typer.run(real.main)
    with pytest.raises(OtherSettings):
        claim(tmp_path, {"effort": "quick", "seed": 0})
