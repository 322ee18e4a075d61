"""Files are whole or as they were, whoever else writes them."""

import hashlib
import json

import numpy as np
import pytest

from cbsae_hub.hub.files import (
    ConfigError,
    OtherSettings,
    claim,
    content_revision,
    folder_revision,
    plain,
    read_config,
    read_text,
    replace_file,
    sha256,
    write_json,
    write_text,
)
from cbsae_hub.hub.locate import Located, OtherWeights, locate


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "run.json"
    with replace_file(path) as first:
        first.write_text("one")
        with replace_file(path) as second:
            second.write_text("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_writer_leaves_what_was_there(tmp_path):
    path = tmp_path / "run.json"
    write_text(path, "whole")
    with pytest.raises(RuntimeError), replace_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_of_windows_are_those_of_linux(tmp_path, encoding):
    path = tmp_path / "config.json"
    path.write_bytes('{"name":\r\n"piñata"}\r'.encode(encoding))
    assert read_text(path) == '{"name":\n"piñata"}\n'
    assert read_config(path) == {"name": "piñata"}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "cp1252"])
def test_a_text_that_does_not_say_its_encoding_is_refused(tmp_path, encoding):
    path = tmp_path / "config.json"
    path.write_bytes('{"name": "piñata"}'.encode(encoding))
    with pytest.raises(ValueError, match="config.json is not UTF-8 text: save it again with the encoding UTF-8"):
        read_text(path)
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_config(path)


def test_json_is_strict(tmp_path):
    content = {1: float("nan"), "array": np.array([1.5, np.inf]), "path": tmp_path, "in": ({"x": np.float32(0.5)}, {2})}
    write_json(tmp_path / "it.json", content)
    text = (tmp_path / "it.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == plain(content)
    assert plain(content) == {"1": None, "array": [1.5, None], "path": str(tmp_path), "in": [{"x": 0.5}, [2]]}
    assert text.endswith("}\n")


def test_hashes_are_of_all_parts_in_their_order(tmp_path):
    (tmp_path / "file").write_bytes(b"bc")
    expected = hashlib.sha256(b"abcd").hexdigest()
    assert sha256("a", tmp_path / "file", memoryview(b"d")) == expected
    assert content_revision(b"ab", "cd") == f"sha256:{expected[:16]}"


def test_a_folder_is_of_one_run(tmp_path):
    folder, settings = tmp_path / "run", {"k": 3, "images": ("a", "b"), "path": tmp_path}
    claim(folder, settings)
    claim(folder, settings)
    with pytest.raises(OtherSettings, match=r"k: 3 there, 4 now; more: None there, 1 now.*delete it to start over"):
        claim(folder, settings | {"k": 4, "more": 1})
    (folder / "settings.json").write_text("{")
    with pytest.raises(ValueError):
        claim(folder, settings)


def test_a_model_is_located_once(tmp_path):
    for name in ("sae", "clip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    there = locate("me/clip", beside=tmp_path / "sae")
    assert (there.id, there.folder) == ("me/clip", tmp_path / "clip")
    assert there.revision == folder_revision(tmp_path / "clip") and locate(there, there.revision) is there
    assert there.pretrained == {"pretrained_model_name_or_path": str(tmp_path / "clip")}
    on_hub = locate("me/other", "v1", beside=tmp_path / "sae")
    assert on_hub == Located("me/other", None, "v1") and on_hub.revision == "v1"
    assert on_hub.pretrained == {"pretrained_model_name_or_path": "me/other", "revision": "v1"}
    for revision in ("v1", "sha256:0123456789abcdef"):
        with pytest.raises(OtherWeights, match=f"(?s)me/clip.*{revision}.*another model"):
            locate(there, revision)
