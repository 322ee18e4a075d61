"""Files are whole or as they were, whoever else writes them."""

import pytest

from cbsae_hub.models.files import replace_file, write_text


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
