"""The code that the page shows: it can be run, and what others have named cannot add to it."""

import ast
import json

import pytest
from code_blocks import check_command, commands_of

from cbsae_hub.steering import Edit
from cbsae_hub.studio.basket import Basket
from cbsae_hub.studio.tabs import use_it
from cbsae_hub.studio.tabs.use_it import LANGUAGES, snippets

ADDRESS = "http://127.0.0.1:7999"


@pytest.fixture(params=["example", "basket"])
def basket(request):
    return Basket() if request.param == "example" else Basket((Edit(275, 40.0), Edit(1256, -5.5)))


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
