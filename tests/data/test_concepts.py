import hashlib
import http.server
import json
import re
import socket
import threading
from collections import defaultdict

import pytest

from cbsae_hub.data import concepts as module
from cbsae_hub.data.concepts import ConceptSet, PublishedList
from cbsae_hub.words import name_key, words_of


def test_cleaning_keeps_the_first_of_duplicates():
    found = ConceptSet(["  striped\tfur ", "Dog", "", "dog", "cat", "DOG ", "   "])
    assert found.concepts == ("striped fur", "Dog", "cat")
    assert found.duplicates_removed == 2
    assert (len(found), found[1], list(found)) == (3, "Dog", ["striped fur", "Dog", "cat"])
    assert found.sha256 == hashlib.sha256(b"striped fur\nDog\ncat").hexdigest()
    assert found.sha256 != ConceptSet(["Dog", "striped fur", "cat"]).sha256


@pytest.mark.parametrize("bad", [[], ["", "  "], ["a", 3]])
def test_empty_and_wrong_lists_are_refused(bad):
    with pytest.raises(ValueError, match="empty|strings"):
        ConceptSet(bad)


def test_a_name_is_no_list_of_letters():
    with pytest.raises(ValueError, match="list of names, got 'zebra'"):
        ConceptSet("zebra")


def test_names_that_look_the_same_are_one():
    found = ConceptSet(["Café", "CAFE\u0301", "\u200b", "\ufeffcat", "Cat\u00ad", "Maße", "Masse", "काला", "किला"])
    assert found.concepts == ("Café", "cat", "Maße", "Masse", "काला", "किला")
    assert found.duplicates_removed == 2
    assert found.sha256 == ConceptSet(["Cafe\u0301", "cat", "Maße", "Masse", "काला", "किला"]).sha256
    with pytest.raises(ValueError, match="empty"):
        ConceptSet(["\u200b", "\ufeff", "\u2060\u00ad"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_the_mark_of_windows_is_no_part_of_the_first_concept(tmp_path, encoding):
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    plain.write_text("cat\nCat\npiñata\n", encoding="utf-8")
    marked.write_bytes("cat\r\nCat\r\npiñata\r\n".encode(encoding))
    found = ConceptSet.from_file(marked)
    assert found.concepts == ("cat", "piñata")
    assert found.sha256 == ConceptSet.from_file(plain).sha256


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "cp1252"])
def test_other_encodings_are_refused_with_what_to_do(tmp_path, encoding):
    (tmp_path / "list.txt").write_bytes("cat\npiñata\n".encode(encoding))
    with pytest.raises(ValueError, match="list.txt is not UTF-8 text: save it again with the encoding UTF-8"):
        ConceptSet.from_file(tmp_path / "list.txt")


def test_text_files(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("pizza\r\n\nowl\n", encoding="utf-8")
    assert ConceptSet.load(path).concepts == ("pizza", "owl")
    assert ConceptSet.load(path).name == "mine"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        ConceptSet.from_file(path)
    with pytest.raises(FileNotFoundError, match="no file brodn, and no list of that name: those are common, broden"):
        ConceptSet.load("brodn")


@pytest.fixture(scope="module")
def common():
    """The list that comes with the package, opened where every connection fails."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket.socket, "connect", lambda *_: pytest.fail("the list asked for the network"))
        return ConceptSet.load("common")


def test_the_common_list_comes_with_the_package(common):
    assert common.name == "common" and 1500 <= len(common) <= 2500
    assert {"dog", "tulip", "guitar", "x-ray", "polka dots", "black and white", "blurred background"} <= set(common)


def test_common_concepts_are_short_plain_lower_case(common):
    word = re.compile(r"[a-z0-9]+(['-][a-z0-9]+)*")
    assert [name for name in common if not all(map(word.fullmatch, name.split()))] == []
    assert [name for name in common if len(name.split()) > 3] == []


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(name_key, id="name"),
        pytest.param(lambda name: tuple(sorted(words_of(name))), id="words in any order, singular"),
        pytest.param(lambda name: "".join(words_of(name)).replace("-", ""), id="written as one word"),
    ],
)
def test_no_common_concept_comes_twice(common, key):
    assert common.duplicates_removed == 0
    alike = defaultdict(list)
    for name in common:
        alike[key(name)].append(name)
    assert [names for names in alike.values() if len(names) > 1] == []


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A server with two files in place of the published lists; counts how often each was asked for."""
    files = {
        "/lines.txt": b"tree\nTree\nhouse\n",
        "/values.json": json.dumps({"a": ["wing", "beak"], "b": ["beak", "tail"]}).encode(),
    }
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path in files else 404)
            self.end_headers()
            self.wfile.write(files.get(self.path, b""))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    digest = {name: hashlib.sha256(content).hexdigest()[:16] for name, content in files.items()}
    lists = {
        "lines": PublishedList(f"{root}/lines.txt", digest["/lines.txt"], 3),
        "values": PublishedList(f"{root}/values.json", digest["/values.json"], 3, module._values),
        "changed": PublishedList(f"{root}/lines.txt", "0" * 16, 3),
        "gone": PublishedList(f"{root}/gone.txt", "0" * 16, 3),
        "offline": PublishedList("http://127.0.0.1:9/offline.txt", "0" * 16, 3),
    }
    monkeypatch.setattr(module, "PUBLISHED", lists)
    monkeypatch.setattr(module.constants, "HF_HOME", str(tmp_path))
    yield asked
    server.shutdown()


def test_published_lists_are_downloaded_once(published):
    for _ in range(2):
        assert ConceptSet.load("lines").concepts == ("tree", "house")
    assert published == ["/lines.txt"]
    assert ConceptSet.from_published("values").concepts == ("beak", "tail", "wing")


def test_other_content_is_refused_and_the_way_out_named(published):
    with pytest.raises(ValueError, match="not the published list 'changed'.*delete it"):
        ConceptSet.from_published("changed")


@pytest.mark.parametrize("name", ["gone", "offline"])
def test_no_network_says_what_to_put_where(published, name, tmp_path):
    with pytest.raises(ConnectionError, match=rf"put it at {tmp_path}.*{name}.txt"):
        ConceptSet.from_published(name)
    assert not list(tmp_path.rglob(f"{name}.txt*"))


def test_unknown_list_is_named():
    with pytest.raises(ValueError, match="broden, 3k, 20k, vlg-cbm, decider"):
        ConceptSet.from_published("nonsense")
