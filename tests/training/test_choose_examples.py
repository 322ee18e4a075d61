"""The worked example of suppression is of the labelled pictures of the recipe."""

import json
from pathlib import Path

import pytest

from training.choose_examples import groups_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("model", ["emoji-cbsae", "emoji-sae"])
def test_labelled_pictures_are_those_of_the_recipe(model):
    record = json.loads((ROOT / "hub" / model / "worked_examples.json").read_text())["suppress"]
    groups = groups_of(ROOT / "training" / "recipes" / "emoji.yaml")
    assert groups.items() <= record.items()
    assert groups["find"] != groups["test"] and set(groups["prompts"]) == set(groups["target"]["classes"])
