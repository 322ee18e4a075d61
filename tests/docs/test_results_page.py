"""The tables of docs/results.md: those of the shipped models are current, the others are written by a study."""

import importlib.util
import json
import re

import yaml
from workplace import ROOT

spec = importlib.util.spec_from_file_location("results_page", ROOT / "docs" / "results_page.py")
writer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writer)


def test_the_tables_of_shipped_models_are_current(tmp_path):
    text = writer.PAGE.read_text(encoding="utf-8")
    filled, missing = writer.fill(text, tmp_path / "runs", ROOT / "hub")
    assert filled == text, "run python docs/results_page.py"
    assert {*re.findall(r"<!-- table (\S+) -->", text)} == {*missing, *writer.SHIPPED}


def test_every_table_is_of_a_study_of_the_recipes(tmp_path):
    _, missing = writer.fill(writer.PAGE.read_text(encoding="utf-8"), tmp_path, ROOT / "hub")
    recipes = [yaml.safe_load(file.read_text()) for file in (ROOT / "training" / "recipes").glob("emoji*.yaml")]
    outputs = {section.get("output") for recipe in recipes for section in recipe.values()}
    assert {f"runs/{name.partition('/')[0]}" for name in missing} <= outputs


def test_a_table_takes_the_place_of_the_one_before(tmp_path):
    page = "a\n<!-- table one/a.md -->\nold\n<!-- end -->\nb\n<!-- table two/b.md -->\nkept\n<!-- end -->\nc\n"
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.md").write_text("| x |\n|---|\n\\1\n")
    filled, missing = writer.fill(page, tmp_path, tmp_path)
    assert missing == ["two/b.md"]
    assert filled == page.replace("old", "| x |\n|---|\n\\1")


def test_shipped_figures_have_one_digit(tmp_path):
    for name, value in (("emoji-clip", 99.25), ("emoji-teacher", 3.0), ("emoji-judge", 0.06)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"concepts": 7, "top1_test_sketch": value}))
    assert writer.encoders(tmp_path).splitlines()[-1] == "| sketch | 99.2 | 3.0 | 0.1 |"
