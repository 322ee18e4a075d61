"""The page of the public names: up to date, complete, and what it says of types and arguments is all there."""

import ast
import importlib.util
import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest
from workplace import ROOT

import cbsae_hub
import cbsae_hub.encoders
import cbsae_hub.steering

spec = importlib.util.spec_from_file_location("api_page", ROOT / "docs" / "api_page.py")
api = importlib.util.module_from_spec(spec)
spec.loader.exec_module(api)

NOT_PYTHON = {"cbsae_hub.studio", "cbsae_hub.cli"}  # the page and the command line
ENTRIES = {f"{module}.{name}": value for _, module, name, value in api.public()}


def functions():
    """Every public function and method of the package's own, by its name."""
    for name, value in ENTRIES.items():
        if inspect.isfunction(value):
            yield name, value
            continue
        for member in dir(value):
            found = inspect.getattr_static(value, member)
            found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
            found = getattr(found, "func", found)  # of a cached_property
            wanted = member[0] != "_" or member in ("__init__", "__call__")
            if wanted and inspect.isfunction(found) and found.__module__.startswith("cbsae_hub."):
                yield f"{name}.{member}", found


def test_page_is_up_to_date():
    assert api.PAGE.read_text(encoding="utf-8") == api.page(), "run python docs/api_page.py"


def test_page_is_complete():
    named = {name for _, _, name, _ in api.public()}
    assert set(cbsae_hub.__all__) - {"__version__"} <= named
    packages = [found.name for found in pkgutil.iter_modules(cbsae_hub.__path__, "cbsae_hub.") if found.ispkg]
    assert {"cbsae_hub.metrics", "cbsae_hub.models", "cbsae_hub.steering"} <= set(packages)
    for package in set(packages) - NOT_PYTHON:
        assert set(getattr(import_module(package), "__all__", ())) <= named, package


def test_names_are_where_the_page_says():
    for _, module, name, value in api.public():
        assert getattr(import_module(module), name) is value
        assert f"### {name}\n\n`from {module} import {name}`" in api.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "package", [cbsae_hub, cbsae_hub.steering, cbsae_hub.encoders], ids=lambda package: package.__name__
)
def test_type_checkers_see_the_names_that_are_imported_on_first_use(package):
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname: line.module
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for line in node.body
        for alias in line.names
    }
    assert seen == package._HOME_OF
    for name in seen:
        assert getattr(package, name).__name__ == name and name in dir(package)
    with pytest.raises(
        AttributeError, match=f"module '{package.__name__}' has no attribute 'Nothing'; it has .*{name}"
    ):
        _ = package.Nothing


def test_public_functions_are_typed():
    """Completely, as py.typed says."""
    checked = 0
    for name, function in functions():
        signature = inspect.signature(function)
        given = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
        untyped = [each.name for each in given if each.annotation is each.empty]
        assert not untyped, f"{name}: no types of {untyped}"
        returned = signature.return_annotation is not signature.empty or name.endswith("__init__")
        assert returned, f"{name}: no type of what it returns"
        checked += 1
    assert checked > 200


def test_all_arguments_are_described():
    """Where a docstring describes arguments, it describes those that there are."""
    for name, function in functions():
        owner = ENTRIES.get(name.removesuffix(".__init__"))
        text = inspect.getdoc(owner if name.endswith("__init__") else function)
        assert text, f"{name}: no docstring"
        if "Args:\n" in text:
            told = re.split(r"\n(?=\S)", text.split("Args:\n")[1])[0]
            given = [each for each in inspect.signature(function).parameters if each not in ("self", "cls")]
            assert re.findall(r"^    \**(\w+)", told, re.MULTILINE) == given, name


def test_links_lead_to_headings():
    text = api.PAGE.read_text(encoding="utf-8")
    headings = [heading.lower() for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    numbered = {f"{heading}-{headings[:i].count(heading)}".removesuffix("-0") for i, heading in enumerate(headings)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= numbered
    assert len({name for _, _, name, _ in api.public()}) == text.count("\n### ")
