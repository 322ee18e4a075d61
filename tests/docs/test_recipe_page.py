"""The page of the settings: up to date, and each setting has a meaning."""

import importlib.util
import sys

import pytest
from workplace import ROOT

from cbsae_hub.pipeline.sections import SECTIONS, EncoderSettings, PruneSettings

sys.path.insert(0, str(ROOT / "docs"))  # where the pages' writers find each other
try:
    spec = importlib.util.spec_from_file_location("recipe_page", ROOT / "docs" / "recipe_page.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
finally:
    sys.path.pop(0)


def test_page_is_up_to_date():
    assert writer.PAGE.read_text(encoding="utf-8") == writer.page(), "run python docs/recipe_page.py"


@pytest.mark.parametrize("kind", [*SECTIONS.values(), EncoderSettings, PruneSettings], ids=lambda kind: kind.__name__)
def test_every_setting_says_what_it_means(kind):
    assert [name for name, text in writer.meanings(kind).items() if not text] == []
    assert kind.__doc__ and not kind.__doc__.startswith(kind.__name__), "a text of its own, not dataclass's"


def test_types_and_defaults_are_in_words():
    rows = {name: rest for name, *rest in writer.settings_of(SECTIONS["sae"])}
    assert rows["steps"][:2] == ["integer above 0", "`100000`"] and rows["activations"][:2] == ["path", ""]
    assert rows["lr"][:2] == ["number or `auto_code`, `auto_paper`", "`auto_code`"]
    rows = {name: rest for name, *rest in writer.settings_of(SECTIONS["cbsae"])}
    assert rows["prune"][0].startswith("mapping: by, count, share")
    assert rows["steps"] == [
        "integer above 0",
        "`110000`",
        "Batches that are trained on; with `start: ridge` a tenth suffices.",
    ]
