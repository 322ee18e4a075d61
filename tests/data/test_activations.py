import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_models import build, processor

from cbsae_hub.data.activations import ActivationStore, StoreError
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.vision.encoder import VisionEncoder

ROOT = Path(__file__).parents[2]


class Pictures:
    """A map-style dataset of random pictures."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, rows):
        pixels = [np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8) for i in range(self.count)[rows]]
        return {"image": [Image.fromarray(p) for p in pixels]}


def make_encoder(tokens="patches"):
    name = "CLIPVisionModelWithProjection"
    return VisionEncoder(build(name), processor(name), 1, tokens, "me/tiny", "abc")


def extract(folder, count=21, tokens="patches", **settings):
    settings = {"images_per_shard": 8, "batch_size": 3, "dtype": "float32", **settings}
    return extract_activations(make_encoder(tokens), Pictures(count), folder, source={"id": "random"}, **settings)


def flip_byte(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("tokens", ["cls", "patches", "all", "mean"])
def test_rows_are_the_encoders_tokens_in_order(tmp_path, tokens):
    store = extract(tmp_path, tokens=tokens)
    expected = torch.cat([make_encoder(tokens)(Pictures(21)[i : i + 1]["image"])[0] for i in range(21)])
    torch.testing.assert_close(store.read(0, len(store)), expected, atol=1e-5, rtol=1e-5)
    assert (len(store), store.d_in, store.num_images) == (*expected.shape, 21)
    per_image = len(expected) // 21
    assert [store.image_of(row) for row in range(len(store))] == [row // per_image for row in range(len(store))]
    assert store.manifest["encoder"]["encoder_revision"] == "abc"
    assert store.manifest["encoder"]["tokens"] == tokens


def test_random_tokens_do_not_depend_on_batches(tmp_path):
    a, b = (extract(tmp_path / str(size), tokens="random:3", batch_size=size) for size in (2, 7))
    torch.testing.assert_close(a.read(0, 63), b.read(0, 63), atol=1e-5, rtol=1e-5)
    every = make_encoder("all")(Pictures(21)[:]["image"])
    for row in range(63):
        distance = (every[row // 3] - a.read(row, row + 1)).abs().amax(1)
        assert distance.min() < 1e-5
    assert not torch.equal(a.read(0, 63), extract(tmp_path / "c", tokens="random:3", seed=1).read(0, 63))


@pytest.mark.parametrize("memory", [1, 10**9])
@pytest.mark.parametrize("drop_last", [True, False])
def test_batches_cover_each_row_once_and_split_over_processes(tmp_path, memory, drop_last):
    store = extract(tmp_path)
    known = {tuple(row) for row in store.read(0, len(store)).tolist()}
    options = {"seed": 3, "epoch": 1, "memory": memory, "drop_last": drop_last}
    batches = list(store.batches(10, **options))
    rows = [tuple(row) for batch in batches for row in batch.tolist()]
    assert len(set(rows)) == len(rows) == (len(store) // 10 * 10 if drop_last else len(store))
    assert set(rows) <= known
    for rank in range(3):
        for whole, part in zip(batches, store.batches(10, **options, rank=rank, world=3)):
            assert torch.equal(part, whole[rank::3])
    late = list(store.batches(10, **options, start_batch=4))
    assert all(torch.equal(a, b) for a, b in zip(late, batches[4:])) and len(late) == len(batches) - 4
    assert next(store.batches(10, 0, 0, dtype=torch.float64)).dtype == torch.float64


def test_holdout_splits_by_image(tmp_path):
    store = extract(tmp_path)
    train, heldout = store.holdout(0.2, seed=5)
    assert len(heldout.images) == 4 and not set(train.images) & set(heldout.images)
    assert set(train.images) | set(heldout.images) == set(range(21))
    t = store.tokens_per_image
    for view in (train, heldout):
        rows = view.read(0, len(view))
        expected = torch.cat([store.read(i * t, (i + 1) * t) for i in view.images])
        assert torch.equal(rows, expected)
        assert view.image_of(len(view) - 1) == view.images[-1]
    with pytest.raises(ValueError, match="empty"):
        store.holdout(0.001)


def test_files_are_plain_safetensors_with_a_manifest(tmp_path):
    store = extract(tmp_path, dtype="float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        "settings.json",
        *(f"shard-0000{i}.safetensors" for i in range(3)),
    ]
    rows = torch.cat([load_file(path)["activations"] for path in sorted(tmp_path.glob("shard-*"))])
    assert rows.dtype == torch.float16
    assert torch.equal(rows, store.read(0, len(store)))


def test_damage_is_noticed_and_named(tmp_path):
    store = extract(tmp_path)
    victim = tmp_path / "shard-00001.safetensors"
    flip_byte(victim, victim.stat().st_size - 3)
    with pytest.raises(StoreError, match="shard-00001"):
        ActivationStore.open(tmp_path).verify()
    with pytest.raises(StoreError, match="shard-00001"):
        list(ActivationStore.open(tmp_path).batches(10, 0, 0))
    ActivationStore.open(tmp_path).read(0, 8 * store.tokens_per_image)  # the first shard is sound
    victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.raises(StoreError, match=r"shard-00001.* truncated"):
        ActivationStore.open(tmp_path)
    victim.write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="shard-00001"):
        ActivationStore.open(tmp_path)
    victim.unlink()
    with pytest.raises(StoreError, match=r"shard-00001.* missing"):
        ActivationStore.open(tmp_path)
    extract(tmp_path).verify()  # extraction mends it


def test_foreign_and_unfinished_stores_are_named(tmp_path):
    extract(tmp_path / "a")
    extract(tmp_path / "b", tokens="cls")
    shard = tmp_path / "a" / "shard-00000.safetensors"
    shard.write_bytes((tmp_path / "b" / "shard-00000.safetensors").read_bytes())
    with pytest.raises(StoreError, match="does not belong"):
        ActivationStore.open(tmp_path / "a")
    (tmp_path / "b" / "manifest.json").unlink()
    with pytest.raises(StoreError, match="unfinished"):
        ActivationStore.open(tmp_path / "b")
    with pytest.raises(StoreError, match="no activation store"):
        ActivationStore.open(tmp_path / "c")
    manifest = tmp_path / "a" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 99}))
    with pytest.raises(StoreError, match="99"):
        ActivationStore.open(tmp_path / "a")


def test_resuming_with_other_settings_is_refused(tmp_path):
    extract(tmp_path)
    with pytest.raises(StoreError, match="dtype: 'float32' there, 'float16' now"):
        extract(tmp_path, dtype="float16")
    with pytest.raises(StoreError, match="tokens"):
        extract(tmp_path, tokens="cls")


def test_numbers_that_do_not_fit_are_named(tmp_path):
    encoder = make_encoder()
    with encoder.site.edit(lambda v: v * 1e6), pytest.raises(ValueError, match=r"image 0 .*float16"):
        extract_activations(encoder, Pictures(5), tmp_path, source={}, dtype="float16")
    with pytest.raises(ValueError, match="no images"):
        extract_activations(encoder, Pictures(0), tmp_path, source={})


def test_killed_extraction_goes_on_and_gives_the_same_store(tmp_path):
    """kill -9 at whatever point it has come to."""
    script = textwrap.dedent(f"""
        import sys, time
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT / "tests/helpers")!r}]
        import test_activations as t
        read = t.Pictures.__getitem__
        t.Pictures.__getitem__ = lambda self, rows: (time.sleep(0.15), read(self, rows))[1]
        t.extract({str(tmp_path / "killed")!r}, batch_size=2)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "killed").glob("shard-00001.safetensors")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    first = (tmp_path / "killed" / "shard-00000.safetensors").stat().st_mtime_ns
    resumed, whole = extract(tmp_path / "killed", batch_size=2), extract(tmp_path / "whole", batch_size=2)
    assert (tmp_path / "killed" / "shard-00000.safetensors").stat().st_mtime_ns == first
    assert resumed.manifest == whole.manifest
    assert torch.equal(resumed.read(0, len(resumed)), whole.read(0, len(whole)))


def test_two_processes_write_the_same_store(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT / "tests/helpers")!r}]
        from accelerate import Accelerator
        import test_activations as t
        accelerator = Accelerator(cpu=True)
        assert accelerator.num_processes == 2
        t.extract({str(tmp_path / "two")!r}, accelerator=accelerator)
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, str(script)], check=True, capture_output=True, timeout=120)
    extract(tmp_path / "one")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
