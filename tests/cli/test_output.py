"""What all commands share: JSON and nothing else, errors, exit codes, text that obeys nobody, a fast start."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from known_words import SAE_NAME, strong_word
from typer.testing import CliRunner

from cbsae_hub.cli import output
from cbsae_hub.cli.app import app

ROOT = Path(__file__).parents[2]


def plain(line):
    """Without bold."""
    return re.sub(r"\x1b\[\d+m", "", line)


def run(function, *arguments, show=str, failed=lambda data: False, **options):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(output.command(show, failed, **options)(function))
    return CliRunner().invoke(app, list(arguments))


def fine(name: str, count: int = 2) -> dict:
    """Says something."""
    print("a library talks")
    return {"name": name, "count": np.int64(count), "nothing": math.nan, "where": Path("a") / "b"}


def test_json_is_one_document_and_talk_goes_to_stderr():
    result = run(fine, "zebra", "--count", "3", "--json")
    assert json.loads(result.stdout) == {"name": "zebra", "count": 3, "nothing": None, "where": "a/b"}
    assert result.stderr == "a library talks\n"


def test_text_is_what_show_makes_of_the_same_data():
    result = run(fine, "zebra", show=lambda data: f"{data['name']} x {data['count']}")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "zebra x 2\n", "a library talks\n")


def test_help_is_as_wide_as_the_terminal():
    def wordy() -> dict:
        """Says something.

        Its help has a second paragraph, whose source has
        a line break.
        """

    assert "whose source has a line break." in plain(run(wordy, "--help").stdout)


def test_a_process_that_has_no_answer_writes_none():
    def silent() -> None:
        """Is one of several."""

    assert [run(silent, *given).stdout for given in ([], ["--json"])] == ["", ""]


def test_what_goes_on_after_the_answer_comes_after_it_and_not_after_an_error():
    def broken() -> dict:
        """Fails."""
        raise FloatingPointError("loss is nan at step 3")

    result = run(fine, "zebra", show=lambda data: "answer", then=lambda data: print("and then", data["count"]))
    assert result.stdout == "answer\nand then 2\n"
    result = run(broken, then=lambda data: print("and then"))
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: loss is nan at step 3\n")


def test_what_is_not_there_is_answered_with_exit_code_1():
    result = run(fine, "zebra", "--json", failed=lambda data: data["count"] == 2)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["count"] == 2


@pytest.mark.parametrize("error", [OSError, ValueError, RuntimeError, ImportError])
def test_bad_input_is_a_sentence_not_a_traceback(error):
    def bad() -> dict:
        raise error("the file \x1b[31mx is not there")

    text, as_json = run(bad), run(bad, "--json")
    assert text.exit_code == as_json.exit_code == 1
    assert text.stdout == ""
    assert text.stderr.startswith("Error: the file \N{REPLACEMENT CHARACTER}[31mx is not there\n")
    assert ("cbsae doctor" in text.stderr) == (error is ImportError)
    assert json.loads(as_json.stdout) == {"error": "the file \x1b[31mx is not there", "type": error.__name__}


def test_mistakes_of_the_package_keep_their_traceback():
    def buggy() -> dict:
        return {}["nothing"]

    assert isinstance(run(buggy, "--json").exception, KeyError)


def test_arguments_that_cannot_be_are_exit_code_2():
    def picky(count: int) -> dict:
        raise typer.BadParameter(f"{count} is not a good number")

    for arguments in (["3"], ["three"], []):
        result = run(picky, *arguments, "--json")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Usage" in result.stderr


def test_table_aligns_numbers_right_and_wide_characters():
    lines = output.table({"name": ["zebra", "猫"], "share": ["5.0%", "100.0%"]}).splitlines()
    assert [plain(line) for line in lines] == ["name    share", "zebra    5.0%", "猫     100.0%"]


def test_facts_leave_out_what_is_empty_and_indent_lines():
    text = plain(output.facts([("a", "x\ny"), ("longer", 3), ("none", None), ("empty", "")]))
    assert text == "a       x\n        y\nlonger  3"


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_help_loads_nothing_heavy():
    """In one process: a module that any of them loads stays."""
    names = [one.callback.__name__.replace("_", "-") for one in app.registered_commands]
    calls = [["--help"], ["--version"], *([name, "--help"] for name in names)]
    loaded = python(
        "import sys\nfrom cbsae_hub.cli.app import app\n"
        f"for arguments in {calls}:\n    try: app(arguments)\n    except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'gradio', 'pandas', 'huggingface_hub') if m in sys.modules])"
    )
    assert {"extract", "train", "serve", "recipe", "doctor"} <= set(names)
    assert loaded.count("Usage:") == len(names) + 1 and loaded.splitlines()[-1] == "[]"


def test_a_recipe_and_an_error_in_one_come_without_waiting_for_what_computes():
    loaded = python(
        "import sys\nfrom cbsae_hub.cli.app import app\n"
        "for arguments in (['recipe', 'own-encoder'], ['recipe'], ['train', '--set', 'k=3'], ['score']):\n"
        "    try: app(arguments)\n    except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'gradio', 'pandas') if m in sys.modules])"
    )
    assert "sae: # cbsae train" in loaded and loaded.splitlines()[-1] == "[]"


def test_find_reads_a_pack_without_waiting_for_what_computes():
    word = strong_word(SAE_NAME)
    loaded = python(
        "import sys\nfrom cbsae_hub.cli.app import app\n"
        f"try: app(['find', 'hub/emoji-sae', '{word}'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'scipy', 'gradio') if m in sys.modules])"
    )
    assert loaded.startswith(f"{word}: strong") and loaded.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", ["نامه‌ای", "क्‍ष", "👨‍👩‍👧", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "\U0001fae9", "❤️"])
def test_names_of_all_scripts_are_shown_whole(name):
    assert output.printable(name) == name


@pytest.mark.parametrize("char", ["\x1b", "\r", "\x9b", "\u202e", "\u2066", "\ufeff", "\ud800"])
def test_what_a_terminal_obeys_is_not_shown(char):
    assert output.printable(f"a{char}b") == "a\N{REPLACEMENT CHARACTER}b"
