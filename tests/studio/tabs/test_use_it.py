"""The code that the page shows: it can be run, and what others have named cannot add to it."""

import ast
import copy
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from code_blocks import check_command, commands_of
from own_model import make_own_model
from typer.testing import CliRunner

from cbsae_hub.cli.app import app
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import Edit
from cbsae_hub.studio.api import Api
from cbsae_hub.studio.basket import Basket
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.tabs import use_it
from cbsae_hub.studio.tabs.use_it import LANGUAGES, snippets, where

ADDRESS = "http://127.0.0.1:7999"


@pytest.fixture(params=["example", "basket"])
def basket(request):
    return Basket() if request.param == "example" else Basket((Edit(275, 40.0), Edit(1000, -5.5)))


def test_code_is_whole_and_sets_what_is_in_the_basket(shipped, basket):
    code = snippets(shipped, basket, ADDRESS)
    assert code.keys() == LANGUAGES.keys()
    calls = [node for node in ast.walk(ast.parse(code["python"])) if isinstance(node, ast.Call)]
    edits = [tuple(map(ast.literal_eval, call.args)) for call in calls if getattr(call.func, "id", "") == "Edit"]
    assert edits == [(edit.neuron, edit.value) for edit in basket.edits] or (not basket.edits and len(edits) == 1)
    ast.parse(code["client"])
    find, inspect, steer = commands_of(code["shell"], {})
    for words in (find, inspect, steer):
        check_command(words)
    given = [b for a, b in zip(steer, steer[1:]) if a == "--edit"]
    assert given == [f"{neuron}={value:.2f}" for neuron, value in edits]
    assert json.loads(code["mcp"])["mcpServers"]["cbsae_hub"]["url"].startswith(ADDRESS)


def test_a_name_adds_no_code(shipped, monkeypatch):
    monkeypatch.setattr(use_it, "concept_of", lambda loaded, neuron: "sun\nimport os\r; rm -rf ~ $(reboot)")
    code = snippets(shipped, Basket((Edit(275, 40.0),)), ADDRESS)
    assert not any("os" in ast.dump(node) for node in ast.parse(code["python"]).body if isinstance(node, ast.Import))
    first = code["shell"].splitlines()[0]
    assert first.endswith("'sun import os ; rm -rf ~ $(reboot)'")


def test_nobody_is_told_to_look_up_what_has_no_name(shipped, monkeypatch):
    monkeypatch.setattr(use_it, "concept_of", lambda loaded, neuron: "sun" if neuron == 12 else None)
    code = snippets(shipped, Basket((Edit(275, 40.0), Edit(12, 1.0))), ADDRESS)
    assert code["shell"].splitlines()[0].endswith(" sun") and "# unnamed, sun" in code["python"]
    code = snippets(shipped, Basket((Edit(275, 40.0),)), ADDRESS)
    assert code["shell"].startswith("cbsae inspect") and "# unnamed" in code["python"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two explanations of somebody's own encoder, which no LLaVA and no unCLIP reads."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("dogs", "cats"):
        (folder / name).mkdir()
        make_own_model(folder / name)
    return Serving([folder / "dogs" / "sae", folder / "cats" / "sae"])


def asked(code, serving):
    """The answer of the endpoint to what curl sends."""
    endpoint = re.search(r"call/(\w+) ", code["curl"])[1]
    words = shlex.split(code["curl"].replace("\\\n", " ").split("|")[0].removeprefix("id=$("))
    return endpoint, getattr(Api(serving), endpoint)(*json.loads(words[words.index("-d") + 1])["data"])


def test_where_nothing_reads_the_encoder_code_looks_and_runs(own, monkeypatch, capsys):
    second = own.of("cats/sae")
    monkeypatch.chdir(Path(own.first.model_id).parents[1])
    for model, key in ((own.first, ""), (second, second.key)):
        code = snippets(model, Basket((Edit(12, 1.0), Edit(13, 1.0))), ADDRESS, key)
        assert not re.search("llava|unclip|steer", "".join(code.values()).lower())
        exec(compile(code["python"], "python", "exec"), {})  # noqa: S102  (it is what the page tells people to run)
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["12", "13"]
        for words in commands_of(code["shell"], {}):
            check_command(words)
            assert words[2] == model.name, "two folders of one name, seen from where the page was started"
            assert CliRunner().invoke(app, words[1:]).exit_code == 0
        endpoint, answer = asked(code, own)
        assert endpoint == "encode_image" and answer == Api(own).encode_image("white", 10, model.key)
        calls = [node for node in ast.walk(ast.parse(code["client"])) if isinstance(node, ast.Call)]
        models = {word.value.value for call in calls for word in call.keywords if word.arg == "model"}
        assert models == ({key} if key else set())


def test_endpoints_are_asked_about_the_model_that_is_on_screen(serving):
    second = serving.of("emoji-sae")
    code = snippets(second, Basket((Edit(275, 40.0),)), ADDRESS, second.key)
    endpoint, answer = asked(code, serving)
    assert endpoint == "steer_caption"
    assert answer == Api(serving).steer_caption("white", ONE_WORD, [{"neuron": 275, "value": 40.0}], model="emoji-sae")


def test_a_generator_of_the_hub_is_in_code_but_not_asked_of_the_page(own):
    model = copy.copy(own.first)
    model.sae = copy.copy(model.sae)
    model.sae.provenance = replace(model.sae.provenance, encoder_id="openai/clip-vit-large-patch14-336")
    code = snippets(model, Basket(), ADDRESS)
    assert "llava-hf/llava-1.5-7b-hf" in code["python"] and "--llava llava-hf/llava-1.5-7b-hf" in code["shell"]
    assert "unclip" not in (code["python"] + code["shell"]).lower() and "--output" not in code["shell"]
    assert "steer" not in code["client"] + code["curl"]


def test_the_reader_learns_where_the_model_is(own, shipped, monkeypatch, tmp_path):
    monkeypatch.chdir(Path(own.first.model_id).parents[1])
    assert where(own.first) == "dogs/sae is a folder, seen from the one in which this page was started."
    monkeypatch.chdir(tmp_path)
    assert where(own.first) == "Put the path of the folder dogs/sae on your machine in place of path/to/dogs/sae."
    assert 'load("path/to/dogs/sae")' in snippets(own.first, Basket(), ADDRESS)["python"]
    extended = copy.copy(shipped)
    extended.own = 1
    assert "Download your model under Your concepts" in where(extended)
    code = snippets(extended, Basket((Edit(12, 1.0),)), ADDRESS)
    assert 'load("path/to/emoji-cbsae-extended")' in code["python"] and "cbsae find" not in code["shell"]
    of_the_hub = copy.copy(shipped)
    of_the_hub.model_id = "me/my-sae"
    assert where(of_the_hub) == ""
