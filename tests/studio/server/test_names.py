"""What the page calls its models, wherever their folders lie."""

import re

import pytest

from cbsae_hub.studio.server.names import as_typed, distinct_names, public_id


@pytest.fixture
def at(tmp_path, monkeypatch):
    """Makes folders below the one that the page is started in."""
    monkeypatch.chdir(tmp_path)

    def make(*folders):
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True)
        return list(folders)

    return make


def test_a_folder_is_called_by_its_name_and_a_repository_by_its_id(at):
    assert distinct_names([*at("runs/first"), "me/my-sae"]) == ["first", "me/my-sae"]
    assert public_id("me/my-sae") == "me/my-sae" and public_id("runs") == "runs"


def test_folders_of_one_name_are_told_apart_by_the_folders_they_are_in(at):
    assert distinct_names(at("dogs/cbsae", "dogs/sae", "cats/sae")) == ["dogs/cbsae", "dogs/sae", "cats/sae"]
    assert distinct_names(at("a/explained/sae", "b/explained/sae")) == ["a/explained/sae", "b/explained/sae"]


def test_a_folder_is_told_apart_from_a_repository_of_the_same_name(at, tmp_path):
    (folder,) = at("other/me/my-sae")
    assert distinct_names([folder, "me/my-sae", *at("x/my-sae")]) == [
        "other/me/my-sae",
        "me/my-sae",
        f"{tmp_path.name}/x/my-sae",
    ]


def test_what_is_given_twice_is_refused(at, tmp_path):
    (folder,) = at("dogs/sae")
    (tmp_path / "link").symlink_to(folder)
    for again in (folder, f"{folder}/", "dogs/../dogs/sae", str(tmp_path / folder), "link"):
        with pytest.raises(ValueError, match=f"{re.escape(again)}|{folder} was given twice"):
            distinct_names([folder, again])
    with pytest.raises(ValueError, match="me/my-sae was given twice"):
        distinct_names(["me/my-sae", "me/my-sae"])


def test_names_hold_nothing_that_separates_the_parts_of_a_link(at):
    assert distinct_names(at("lr=1e-3;k~8/sae", "lr=1e-4/sae")) == ["lr-1e-3-k-8/sae", "lr-1e-4/sae"]
    with pytest.raises(ValueError, match="rename a folder"):
        distinct_names(at("k=8/x", "k~8/x"))


def test_code_has_a_path_that_works_where_the_page_was_started(at, tmp_path, monkeypatch):
    at("runs/dogs/sae", "started", 'quoted "/sae')
    assert as_typed("me/my-sae") == "me/my-sae"
    assert as_typed(str(tmp_path / "runs/dogs/sae"), "dogs/sae") == "runs/dogs/sae"
    monkeypatch.chdir(tmp_path / "started")
    assert as_typed("../runs/dogs/sae", "dogs/sae") == "../runs/dogs/sae", "as it was typed"
    elsewhere = as_typed(str(tmp_path / "runs/dogs/sae"), "dogs/sae")
    assert elsewhere == "path/to/dogs/sae", "where folders lie is nobody's business"
