"""Files are whole or as they were, whoever else writes them."""

import pytest

from cbsae_hub.hub.files import ConfigError, read_config, read_text, replace_file, write_text


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
