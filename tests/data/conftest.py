import datasets
import numpy as np
import pytest
from datasets.packaged_modules.parquet.parquet import Parquet
from PIL import Image


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of `datasets` for this test alone, in a folder that holds nothing else."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(Parquet, "SLEEP_ON_THREADS_SHUTDOWNS", False)  # five seconds after each stream
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pixels():
    """Random pictures, each unlike the others: ``[8, h, w, 3]`` as a list, since their sizes differ."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (6 + i, 9 - i % 3, 3), np.uint8) for i in range(8)]


@pytest.fixture
def png(tmp_path, pixels):
    """The files of these pictures, as bytes."""
    paths = [tmp_path / f"{i}.png" for i in range(len(pixels))]
    for path, values in zip(paths, pixels, strict=True):
        Image.fromarray(values).save(path)
    contents = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    return contents


@pytest.fixture
def flat(tmp_path, png):
    folder = tmp_path / "flat"
    folder.mkdir()
    for i, content in enumerate(png):
        (folder / f"{i}.png").write_bytes(content)
    return folder
