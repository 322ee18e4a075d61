"""Names say what they hold, and docstrings are sentences or noun phrases."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = "cbsae_hub", "training", "benchmarks"
FILES = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# Participles and adverbs: what was told, said or found is the name.
FORBIDDEN = set(
    "asked beat done found gathered given heard held here kept known left made meant named put said seen shown taken "
    "there told used wanted".split()
)
SCRIPTS = sorted((ROOT / "cbsae_hub/studio/view/static").glob("*.js"))
# What gives no name in a script: comments, texts, called methods, an edge of a rectangle and a key of the address.
NAMELESS = re.compile(r"//.*|'(?:\\.|[^'\\])*'|`[^`]*`|\.\w+(?=\()|\.(left|seen)\b")
FRAGMENT = re.compile(r"(Of|Whose|Which|What|Where|How|That|Who)\b(?!.*\?$)")


def names(tree):
    """Names that a file gives: variables, parameters, attributes, functions and classes, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


@pytest.mark.parametrize("file", FILES)
def test_no_name_is_a_participle(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert [f"line {line}: {name}" for line, name in names(tree) if name.strip("_").lower() in FORBIDDEN] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_no_name_of_a_script_is_a_participle(script):
    code = NAMELESS.sub("", script.read_text(encoding="utf-8"))
    assert FORBIDDEN & {name.lower() for name in re.findall(r"[A-Za-z]\w*", code)} == set()


@pytest.mark.parametrize("file", FILES)
def test_no_docstring_is_half_a_sentence(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert [f"line {line}: {text[:60]}" for line, text in docstrings(tree) if FRAGMENT.match(text)] == []
