import json
import os

import pandas as pd
import pytest
from read_pictures import lists, pictures
from tar_files import pack

import cbsae_hub.data.collection as collection
from cbsae_hub.data.collection import collect_images
from cbsae_hub.data.images import load_images

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_stream_holds_the_original_files(flat, tmp_path, png):
    (flat / "9.png").write_bytes(b"no picture")
    found = collect_images(flat, tmp_path / "c", streaming=True, max_images=9, seed=1)
    table = pd.read_parquet(tmp_path / "c" / "streamed" / "00000.parquet")
    assert {row["bytes"] for row in table["image"]} == {*png, b"no picture"}
    assert [picture.file for picture in found.unreadable] == ["9.png"] and len(found.images) == 8
    for path in flat.iterdir():
        path.unlink()
    assert pictures(load_images(tmp_path / "c", "train")) == pictures(found.images)


def forget(folder, **changes):
    content = json.loads((folder / "collection.json").read_text())
    (folder / "collection.json").write_text(json.dumps({**content, **changes}))


def test_a_stream_that_was_shorter_goes_on(flat, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "PICTURES_A_SHARD", 3)
    whole = collect_images(flat, tmp_path / "c", streaming=True, max_images=99)
    forget(tmp_path / "c", rows=None, read=0)
    again = collect_images(flat, tmp_path / "c", streaming=True, max_images=99)
    assert pictures(again.images) == pictures(whole.images) and len(again.images) == 8


def test_files_of_others_are_not_deleted(flat, tmp_path):
    mine = tmp_path / "c" / "streamed" / "mine.parquet"
    mine.parent.mkdir(parents=True)
    mine.touch()
    with pytest.raises(
        ValueError, match="mine.parquet is of something else than an earlier run: choose another folder"
    ):
        collect_images(flat, tmp_path / "c", streaming=True, max_images=4)
    assert mine.exists()


def test_a_stream_goes_on_where_it_was_killed(flat, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "PICTURES_A_SHARD", 2)
    whole = collect_images(flat, tmp_path / "a", streaming=True, max_images=7, seed=5)
    write, written = collection.pyarrow.parquet.write_table, []

    def kill(table, path):
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"half")
            os.link(path, tmp_path / "b" / "streamed" / ".00002.parquet.ffffffff.tmp")
            raise KeyboardInterrupt
        write(table, path)

    monkeypatch.setattr(collection.pyarrow.parquet, "write_table", kill)
    with pytest.raises(KeyboardInterrupt):
        collect_images(flat, tmp_path / "b", streaming=True, max_images=7, seed=5)
    assert len(list((tmp_path / "b" / "streamed").glob("*.parquet"))) == 2
    written[:] = [None] * 5
    second = collect_images(flat, tmp_path / "b", streaming=True, max_images=7, seed=5)
    assert len(written) == 7 and pictures(second.images) == pictures(whole.images)
    assert sorted(os.listdir(tmp_path / "b" / "streamed")) == [f"0000{i}.parquet" for i in range(4)]
    forget(tmp_path / "b", rows=None, read=0)  # killed when all was written, before that was recorded
    third = collect_images(flat, tmp_path / "b", streaming=True, max_images=7, seed=5)
    assert len(written) == 7 and pictures(third.images) == pictures(whole.images)
    collect_images(flat, tmp_path / "b", streaming=True, max_images=7, seed=5)
    assert len(written) == 7
    other = collect_images(flat, tmp_path / "b", streaming=True, max_images=4, seed=6)
    assert len(other.images) == 4 and len(list((tmp_path / "b" / "streamed").iterdir())) == 2


def test_a_damaged_source_of_a_stream_is_named(tmp_path, png):
    pack(tmp_path / "s" / "a.tar", [("1.png", png[0])])
    (tmp_path / "s" / "b.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ValueError, match="b.tar is damaged"):
        collect_images(tmp_path / "s", tmp_path / "c", streaming=True, max_images=4)
    (tmp_path / "p").mkdir()
    pd.DataFrame({"image": png}).to_parquet(tmp_path / "p" / "a.parquet")
    content = (tmp_path / "p" / "a.parquet").read_bytes()
    (tmp_path / "p" / "b.parquet").write_bytes(content[:-50])
    with pytest.raises(ValueError, match="p cannot be read: b.parquet is damaged"):
        collect_images(tmp_path / "p", tmp_path / "d", streaming=True, max_images=20)


def test_a_local_file_does_not_take_the_place_of_a_streamed_one(tmp_path, png, pixels):
    (tmp_path / "x.png").write_bytes(png[5])
    (tmp_path / "s").mkdir()
    rows = pd.DataFrame({"image": [{"bytes": content, "path": "x.png"} for content in png[:3]]})
    rows.to_parquet(tmp_path / "s" / "a.parquet")
    found = collect_images(tmp_path / "s", tmp_path / "c", streaming=True, max_images=3)
    assert sorted(pictures(found.images)) == sorted(lists(pixels[:3]))
