"""Answers of commands: one JSON document or plain text on stdout, everything else on stderr, and an exit code."""

import inspect
import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import wraps
from typing import Annotated, Any

import typer
from rich.cells import cell_len

from cbsae_hub.hub.files import plain

FAILED = 1  # what was asked for cannot be had; 2 is typer's, for arguments that cannot be

OBEYED = ("Cc", "Cf", "Cs")  # control characters, directions of writing, halves of characters
HARMLESS = frozenset("\n\u200c\u200d" + "".join(map(chr, range(0xE0020, 0xE0080))))

Data = dict[str, Any]
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON document instead of text.")]


def command(
    show: Callable[[Data], str],
    failed: Callable[[Data], bool] = lambda data: False,
    then: Callable[[Data], None] = lambda data: None,
) -> Callable[..., Any]:
    """Makes a command of a function that returns its answer as data; adds the option ``--json``.

    Of several processes one answers: the functions of the others return None.

    Args:
        show: Returns the answer as text.
        failed: Returns whether the answer is that there is no such thing: the exit code is then 1.
        then: Is called with the answer, once that is written.
    """

    def decorate(function: Callable[..., Data | None]) -> Callable[..., None]:
        @wraps(function)
        def run(*, as_json: bool, **arguments: Any) -> None:
            code = FAILED
            try:
                with redirect_stdout(sys.stderr):  # libraries print: stdout is for the answer
                    answer = function(**arguments)
                if answer is None:
                    return
                data = plain(answer)
            except (typer.Exit, typer.Abort):
                raise
            # What bad input leads to: files, ids and values; of torch, devices and memory; an installation in pieces;
            # a training that diverges, or was stopped and says with which code.
            except (OSError, ValueError, RuntimeError, ImportError, FloatingPointError) as error:
                code = getattr(error, "exit_code", FAILED)
                data = {"error": str(error) or type(error).__name__, "type": type(error).__name__}
                if not as_json:
                    typer.echo(f"{'Error: ' if code == FAILED else ''}{printable(data['error'])}", err=True)
                    if isinstance(error, ImportError) or "torchvision::" in data["error"]:
                        typer.echo("`cbsae doctor` looks at the installation.", err=True)
            if as_json:
                typer.echo(json.dumps(data, indent=2, allow_nan=False))
            elif "error" not in data:
                typer.echo(show(data))
            if "error" in data or failed(data):
                raise typer.Exit(code)
            then(data)

        signature = inspect.signature(function)
        option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]  # typer reads it
            parameters=[*signature.parameters.values(), option], return_annotation=None
        )
        run.__annotations__ = {**function.__annotations__, "as_json": AsJson, "return": None}
        # As wide as the terminal: typer keeps the line breaks of the source.
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        run.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        return run

    return decorate


def printable(text: Any) -> str:
    """Returns text without characters that a terminal would obey: names come from other people's files.

    Joiners and tags, of which Persian, Hindi and pictographs are made, and characters that are newer than Python stay.
    """
    return "".join(
        char if char in HARMLESS or unicodedata.category(char) not in OBEYED else "\N{REPLACEMENT CHARACTER}"
        for char in str(text)
    )


def percent(value: float | None) -> str:
    """Returns a share for a table, in percent."""
    return "" if value is None else f"{value:.1%}"


def table(columns: Mapping[str, Sequence[Any]]) -> str:
    """Aligns columns under their headings, those of numbers to the right.

    rich's tables would wrap or cut cells at the console's width, which is 80 in a pipe, and read [brackets] in names.
    """
    lines = [list(columns), *zip(*columns.values())]
    cells = [["" if value is None else printable(value).replace("\n", " ") for value in line] for line in lines]
    widths = [max(map(cell_len, column)) for column in zip(*cells)]
    right = [all(_is_number(cell) for cell in column[1:]) for column in zip(*cells)]
    rows = [
        "  ".join(_pad(cell, width, side) for cell, width, side in zip(line, widths, right)).rstrip() for line in cells
    ]
    return "\n".join([typer.style(rows[0], bold=True), *rows[1:]])


def names(neurons: Sequence[Data]) -> list[str | None]:
    """Returns the names of neurons for a table, those that are no better than chance marked."""
    from cbsae_hub.neurons.chance import MARK

    return [f"{row['name']} ({MARK})" if row["by_chance"] else row["name"] for row in neurons]


def about_marks(neurons: Sequence[Data]) -> list[str]:
    """Returns the line below a table that says what the mark of :func:`names` means, if it is there."""
    from cbsae_hub.neurons.chance import MEANING

    return [MEANING] if any(row["by_chance"] for row in neurons) else []


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Returns names and values below each other; without those whose value is empty."""
    lines = [(name, printable(value)) for name, value in pairs if value not in (None, "")]
    width = max((cell_len(name) for name, _ in lines), default=0)
    return "\n".join(
        typer.style(_pad(name, width, False), bold=True) + "  " + value.replace("\n", "\n" + " " * (width + 2))
        for name, value in lines
    )


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").rstrip("%x").replace(".", "", 1).lstrip("-").isdecimal() or not cell
