"""Blocks of code in Markdown, and what can be known of shell commands without running them."""

import dataclasses
import importlib.util
import inspect
import re
import shlex
import string
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from accelerate.commands.launch import launch_command_parser
from click.exceptions import Exit
from torch.distributed.run import get_args_parser
from workplace import ROOT

from cbsae_hub.pipeline import sections

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

LAUNCHERS = {("accelerate", "launch"): launch_command_parser, ("torchrun",): get_args_parser}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
MARKER = re.compile(r"<!-- not run:(.*?)-->\n\s*\Z", re.DOTALL)
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:accelerate launch|cbsae|make|pip install|python) [^`\[]+)`")
INDENTED = re.compile(r"^ {4,}(?:accelerate|cbsae|hf|make|pip|python|from \S+ import|import) ?\S*", re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@dataclass(frozen=True)
class Block:
    """A block of code; ``reason`` says why it is not run, None that it is."""

    line: int
    language: str
    code: str
    reason: str | None


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = []
    for match in FENCE.finditer(text):
        marker = MARKER.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(line, match[2], textwrap.dedent(match[3]), marker and marker[1].strip()))
    return found


def commands_of(code: str, variables: dict[str, str]) -> Iterator[list[str]]:
    """The words of each command of a shell block; assignments go into ``variables``.

    Raises:
        ValueError: If a command does more than call programs one after the other.
    """
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(string.Template(line).safe_substitute(variables), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in (";", "&&"):
                assigned = [*_leading_assignments(words)]
                if len(assigned) == len(words):
                    variables.update(assigned)
                else:
                    yield words[len(assigned) :]
                words = []
            elif words and words[-1] == ">":  # the file that a command writes
                words.pop()
            elif (word != ">" and re.fullmatch(r"[();<>|&]+", word)) or "$" in word:
                raise ValueError(f"{line.strip()!r}: {word} is more than this test understands")
            else:
                words.append(word)


def _leading_assignments(words: list[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            return
        yield name, value


def check_command(words: list[str]) -> tuple[Any, list[str]] | None:
    """Looks whether a command exists and knows all of its arguments; does not run it.

    Returns:
        The command and its arguments, if it is one that this process could run.

    Raises:
        AssertionError: If it does not exist, or this function knows no way to tell.
        Exception: The usage error of its parser, if it does not take these arguments.
    """
    for launcher, make_parser in LAUNCHERS.items():
        if tuple(words[: len(launcher)]) == launcher:
            launched = make_parser().parse_args(words[len(launcher) :])
            script = ["-m", launched.training_script] if launched.module else [launched.training_script]
            words = ["python", *script, *launched.training_script_args]
    match words:
        case ["make", *targets]:
            subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True)
            return None
        case ["pip", "install", *what]:
            _check_installed(what)
            return None
        case ["hf", *arguments]:
            # Its parser comes from another library with each major version: the program itself is asked.
            hub = [sys.executable, "-m", "huggingface_hub.cli.hf", *arguments, "--help"]
            subprocess.run(hub, check=True, capture_output=True)
            return None
        case [name, *arguments] if name in PROJECT.get("scripts", {}):
            module, _, attribute = PROJECT["scripts"][name].partition(":")
            return _parsed(typer.main.get_command(getattr(import_module(module), attribute)), name, arguments)
        case ["python", "-m", "cbsae_hub" | "cbsae_hub.cli", command, *arguments]:
            return check_command(["cbsae", command, *arguments])
        case ["python", "-m", module, *arguments] if module.startswith("training."):
            return _check_script(import_module(module), arguments)
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), f"there is no module {module}"
            return None
        case ["python", script, *arguments]:
            return _check_script(_loaded(ROOT / script), arguments)
    raise AssertionError(f"no way is known to check {shlex.join(words)!r}: add one to check_command")


def _check_installed(what: list[str]) -> None:
    """Of what ``pip install`` is asked for, extras of this package must exist."""
    for requirement in what:
        named = re.fullmatch(r"(?:cbsae_hub|\.)\[(.+)\]", requirement)
        for extra in named[1].split(",") if named else ():
            assert extra in PROJECT["optional-dependencies"], f"there is no extra {extra!r}"


def _loaded(script: Path) -> Any:
    assert script.is_file(), f"there is no {script.relative_to(ROOT)}"
    spec = importlib.util.spec_from_file_location(f"documented_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(script.parent))  # where benchmarks find each other
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def _check_script(module: Any, arguments: list[str]) -> tuple[Any, list[str]] | None:
    if hasattr(module, "arguments"):  # argparse
        with_arguments, sys.argv = sys.argv, ["script", *arguments]
        try:
            module.arguments()
        finally:
            sys.argv = with_arguments
        return None
    if not hasattr(module, "main"):
        assert not arguments, f"{module.__file__} takes no arguments"
        return None
    script = typer.Typer()
    script.command()(module.main)
    return _parsed(typer.main.get_command(script), Path(module.__file__).name, arguments)


def _check_recipe(function: Any, arguments: list[str]) -> None:
    """The recipe has the sections that a command reads, and keys of ``--set`` are settings of one of them."""
    given = {option: [b for a, b in zip(arguments, arguments[1:]) if a == option] for option in ("--recipe", "--set")}
    source = inspect.getsource(inspect.unwrap(function))
    read = [getattr(sections, name) for name in re.findall(r"(\w+Section)\.read\(recipe", source)]
    for recipe in given["--recipe"]:
        path = ROOT / recipe
        if path.parent != ROOT:  # else a file of the reader's
            for section in read:  # that of words takes the place of the others where it is asked for
                if sections.WordsSection not in read or (section is sections.WordsSection) == ("--words" in arguments):
                    section.read(path)
    names = [(one.section, each.name) for one in read for each in dataclasses.fields(one)]
    known = {name for section, key in names for name in (key, f"{section}.{key}")}
    for key in (item.partition("=")[0] for item in given["--set"]):
        assert key in known, f"no key {key!r}"


def _parsed(command: Any, name: str, arguments: list[str]) -> tuple[Any, list[str]]:
    """Parses arguments as the program would before it does anything."""
    last, rest = command, list(arguments)
    while hasattr(last, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in last.commands, f"{name} has no command {rest[0]!r}; it has {', '.join(last.commands)}"
        last, name, rest = last.commands[rest[0]], f"{name} {rest[0]}", rest[1:]
    with suppress(Exit, typer.Exit):  # --help, --version
        last.make_context(name, list(rest))  # it empties the list
    if last.callback is not None:
        _check_recipe(last.callback, rest)
    return command, arguments
