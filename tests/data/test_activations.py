import json
import resource
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scripts import run_program
from tiny_models import build, processor

from cbsae_hub.data.activations import ActivationStore, StoreError
from cbsae_hub.data.extraction import extract_activations, extract_layers
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.processes import FolderInUse, claimed

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


def extract(folder, count=21, tokens="patches", encoder=None, images=None, **settings):
    settings = {"images_per_shard": 8, "batch_size": 3, "dtype": "float32", "source": {"id": "random"}, **settings}
    return extract_activations(encoder or make_encoder(tokens), images or Pictures(count), folder, **settings)


def flip_byte(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_pictures_need_not_be_square(tmp_path):
    name = "Dinov2Model"
    store = extract(tmp_path, encoder=VisionEncoder(build(name), processor(name, 96, 64), 1, "patches", "me/tall"))
    assert store.tokens_per_image == 96 and len(store) == 21 * 96
    expected = VisionEncoder(build(name), processor(name, 96, 64), 1, "patches")(Pictures(21)[20:21]["image"])[0]
    torch.testing.assert_close(store.read(20 * 96, 21 * 96), expected, atol=1e-5, rtol=1e-5)


def test_pixels_of_another_size_than_the_encoders_end_the_run_at_once(tmp_path):
    class Tall(Pictures):
        def pixel_batch(self, start, stop):
            return torch.zeros(stop - start, 3, 24, 16)

    encoder = VisionEncoder(build("Dinov2Model"), processor("Dinov2Model"), 1, "patches")
    with pytest.raises(ValueError, match="24 x 16 pixels have 7 tokens"):
        extract(tmp_path, encoder=encoder, images=Tall(21))
    assert not list(tmp_path.glob("shard-*"))


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


def test_other_pictures_under_the_same_name_are_refused(tmp_path):
    class Inverted(Pictures):
        def __getitem__(self, rows):
            images = super().__getitem__(rows)["image"]
            return {"image": [Image.eval(image, lambda value: 255 - value) for image in images]}

    extract(tmp_path)
    with pytest.raises(StoreError, match="fingerprint: 'sha256:"):
        extract(tmp_path, images=Inverted(21))


def test_settings_may_change_while_there_is_no_shard(tmp_path):
    class Unreadable(Pictures):
        def __getitem__(self, rows):
            if rows.stop - rows.start > 1:
                raise OSError("out of memory")
            return super().__getitem__(rows)

    with pytest.raises(OSError, match="out of memory"):
        extract(tmp_path, images=Unreadable(21), batch_size=20)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    assert extract(tmp_path, batch_size=2).manifest["batch_size"] == 2


def test_ready_pixels_give_what_pictures_give(tmp_path):
    encoder = make_encoder()

    class Pixels:
        def __len__(self):
            return 21

        def pixel_batch(self, start, stop):
            return encoder.pixel_values(Pictures(21)[start:stop]["image"])

    a, b = extract(tmp_path / "a"), extract(tmp_path / "b", images=Pixels(), readers=3)
    assert torch.equal(a.read(0, len(a)), b.read(0, len(b)))


def test_more_shards_than_files_may_be_open(tmp_path):
    images = 90
    extract(tmp_path, count=images, images_per_shard=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, hard))
    try:
        store = ActivationStore.open(tmp_path)
        rows = torch.cat(list(store.batches(50, 0, 0, drop_last=False)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    expected = make_encoder()(Pictures(images)[:]["image"]).flatten(0, 1)
    torch.testing.assert_close(rows.sum(0), expected.sum(0), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 10**6}, "fewer than one batch"),
        ({"batch_size": 0}, "no batches of 0"),
        ({"rank": 2, "world": 2}, "process 2 of 2"),
        ({"start_batch": -1}, "from -1 on"),
    ],
)
def test_batches_that_there_are_not_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        extract(tmp_path).batches(**{"batch_size": 10, "seed": 0, "epoch": 0, **arguments})


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (0, 85), (5, 4)])
def test_rows_that_there_are_not_are_refused(tmp_path, start, stop):
    with pytest.raises(IndexError, match=f"rows {start} to {stop}.* 84"):
        extract(tmp_path).read(start, stop)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 20}, "do not have its 80 rows"),
        ({"shards": [{"file": "shard-00000.safetensors"}]}, "incomplete: KeyError"),
        ({"d_in": 17}, "does not belong"),
        ({"dtype": "float16"}, "does not belong"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, change, message):
    extract(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StoreError, match=message):
        ActivationStore.open(tmp_path)
    path.write_text("[]")
    with pytest.raises(StoreError, match="no manifest"):
        ActivationStore.open(tmp_path)
    path.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        ActivationStore.open(tmp_path)


def test_numbers_that_do_not_fit_are_named(tmp_path):
    encoder = make_encoder()
    with encoder.site.edit(lambda v: v * 1e6), pytest.raises(ValueError, match=r"image 0 .*float16"):
        extract_activations(encoder, Pictures(5), tmp_path, source={}, dtype="float16")
    with pytest.raises(ValueError, match="no images"):
        extract_activations(encoder, Pictures(0), tmp_path, source={})


KILLING = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{here!r}, {helpers!r}]
import test_activations as t
from cbsae_hub.data import extraction

folder, encoder = Path({folder!r}), t.make_encoder()

def run(kill_at):
    \"\"\"Extracts in a child that is killed at the kill_at-th write, flush or renaming; returns whether it was.\"\"\"
    child = os.fork()
    if child == 0:
        events = 0
        def deadly(function):
            def call(*arguments, **named):
                nonlocal events
                events += 1
                if events == kill_at and function is not os.fsync:
                    function(*arguments, **named)  # else: before the flush
                if events == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **named)
            return call
        for owner, name in ((os, "fsync"), (os, "replace"), (extraction, "save_file")):
            setattr(owner, name, deadly(getattr(owner, name)))
        t.extract(folder / str(kill_at), encoder=encoder)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

kill_at = 1
while run(kill_at):
    kill_at += 1
print(kill_at - 1)
"""


@pytest.mark.slow
def test_extraction_killed_anywhere_goes_on_and_gives_the_same_store(tmp_path):
    """kill -9 after each tensor is written, before each flush, and after each renaming."""
    names = {"here": str(Path(__file__).parent), "helpers": str(ROOT / "tests/helpers"), "folder": str(tmp_path)}
    (tmp_path / "killing.py").write_text(KILLING.format(**names))
    run = run_program(tmp_path / "killing.py", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    kills = int(run.stdout)
    assert kills == 3 * 3 + 2 * 2  # three shards; settings and manifest have no tensor
    whole = {path.name: path.read_bytes() for path in extract(tmp_path / "whole").folder.iterdir()}
    for kill_at in range(1, kills + 1):
        folder = tmp_path / str(kill_at)
        finished = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
        if kill_at < kills:
            with pytest.raises(StoreError, match="unfinished|no activation store"):
                ActivationStore.open(folder)
        extract(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole, kill_at
        assert all(path.stat().st_mtime_ns == time for path, time in finished.items())


@pytest.mark.slow
def test_two_processes_write_the_same_store(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each of the two: sums of floats depend on how many share them
    extract(tmp_path / "one")
    torch.set_num_threads(threads)
    shutil.copytree(tmp_path / "one", tmp_path / "resumed")
    for lost in ("manifest.json", "shard-00000.safetensors", "shard-00002.safetensors"):
        (tmp_path / "resumed" / lost).unlink()
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
        t.extract({str(tmp_path / "resumed")!r}, accelerator=accelerator)
        """)
    )
    done = run_program(script, cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    whole = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    for folder in ("two", "resumed"):
        assert {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} == whole, folder


def test_a_store_that_another_run_fills_is_left_alone(tmp_path):
    with claimed(tmp_path / "store"), pytest.raises(FolderInUse, match="is being written by another run"):
        extract(tmp_path / "store")
    assert not list((tmp_path / "store").iterdir())
    extract(tmp_path / "store")


def test_several_layers_from_one_pass_are_to_the_byte_those_of_a_pass_each(tmp_path):
    encoder = make_encoder()
    places = [(0, "patches"), (0, "cls"), (3, "random:2"), (-2, "all")]
    passes = []
    counter = encoder.model.vision_model.embeddings.register_forward_hook(lambda *_: passes.append(1))
    options = {"source": {"id": "random"}, "images_per_shard": 8, "batch_size": 3}
    together = tmp_path / "together"
    stores = extract_layers([encoder.at(*place) for place in places], Pictures(21), together, **options)
    assert len(passes) == 3 + 3 + 2  # batches of three, in shards of eight
    counter.remove()
    names = ["layer-0-patches", "layer-0-cls", "layer-3-random-2", "layer-2-all"]
    assert [store.folder.name for store in stores] == names
    for place, name in zip(places, names):
        extract_activations(encoder.at(*place), Pictures(21), tmp_path / name, **options)
        assert {path.name: path.read_bytes() for path in (together / name).iterdir()} == {
            path.name: path.read_bytes() for path in (tmp_path / name).iterdir()
        }
    message = "several layers: name one of them, layer-0-cls, layer-0-patches, layer-2-all, layer-3-random-2"
    with pytest.raises(StoreError, match=message):
        ActivationStore.open(together)


def test_a_layer_that_comes_later_is_all_that_is_read(tmp_path):
    encoder = make_encoder()
    options = {"source": {"id": "random"}, "images_per_shard": 8}
    extract_layers([encoder.at(0, "cls")], Pictures(21), tmp_path, **options)
    finished = (tmp_path / "layer-0-cls" / "shard-00000.safetensors").stat().st_mtime_ns
    both = [encoder.at(0, "cls"), encoder.at(1, "cls")]
    with encoder.site.edit(lambda v: v + 1):  # layer 1 alone, whose activations would be read from here
        stores = extract_layers(both, Pictures(21), tmp_path, **options)
    assert (tmp_path / "layer-0-cls" / "shard-00000.safetensors").stat().st_mtime_ns == finished
    torch.testing.assert_close(
        stores[1].read(0, 3).float(), encoder.at(1, "cls")(Pictures(21)[:3]["image"])[:, 0] + 1, atol=0.01, rtol=0
    )
    with pytest.raises(StoreError, match="batch_size: 256 there, 7 now"):
        extract_layers(both, Pictures(21), tmp_path, **options, batch_size=7)
    with pytest.raises(ValueError, match="each of them once, got layer 3, cls, layer 3, cls"):
        extract_layers([encoder.at(3, "cls"), encoder.at(-1, "cls")], Pictures(21), tmp_path, **options)
    with pytest.raises(ValueError, match="only layers of one model"):
        extract_layers([encoder.at(0, "all"), make_encoder("all")], Pictures(21), tmp_path, **options)
