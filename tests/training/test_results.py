"""``make results``: every command that makes a shipped figure, in an order that goes on where it was."""

import os
import re
import shlex
import subprocess

import pytest
from code_blocks import INLINE, blocks_of, check_command, commands_of
from workplace import ROOT

STEPS = ROOT / "training" / "results.mk"
PAGES = [
    *(ROOT / "docs" / f"{name}.md" for name in ("results", "replication", "emoji-world", "cbsae", "metrics", "space")),
    ROOT / "README.md",
    *sorted((ROOT / "model_cards").glob("*.md")),
]
MENTION = re.compile(r"\b((?:training|benchmarks|docs)[./](?:emoji_world[./])?\w+)\b")
NOT_OF_THE_MODELS = {
    "training.dry_run": "checks a recipe",
    "training.publish": "sends what is made",
    "benchmarks.scores": "times the scores",
    "benchmarks.linear_probe": "times the solvers of probes",
    "benchmarks.sae_training": "times a training step",
    "benchmarks.space": "times the page",
    "benchmarks.explain": "times cbsae explain",
    "benchmarks.imports": "times imports",
    "benchmarks.steerability": "times the text score",
    "benchmarks.fit": "chose constants of the package, once",
    "docs.api_page": "writes what the code says",
    "docs.recipe_page": "writes what the code says",
}
"""Scripts that make no figure of the shipped models: the others are all reached."""
COMMANDS = {"extract": "extract_activations", "train": "train_sae", "score": "score_neurons",
            "bottleneck": "train_cbsae", "evaluate": "evaluate"}  # fmt: skip


def without_make():
    """The environment without what a make above has put there, whose tests these may be."""
    return {name: value for name, value in os.environ.items() if "MAKE" not in name}


def make(*arguments, cwd=ROOT, **environment):
    """Runs make on the steps; a step that is run is ``sh run.sh ARGUMENTS``."""
    command = ["make", "--file", STEPS, "PY=sh run.sh", "LAUNCH=sh run.sh", *arguments]  # the last of two counts
    return subprocess.run(command, cwd=cwd, env=without_make() | environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The words of the commands that make results would run where nothing is made yet."""
    options = ["--dry-run", f"MADE={tmp_path_factory.mktemp('made')}", "PY=python", "LAUNCH=accelerate launch"]
    shown = make(*options, "results").stdout.splitlines()
    lines = [line.rpartition("||")[2] for line in shown if not re.match(r"(mkdir|rm|touch) ", line)]
    return [shlex.split(line) for line in lines]


def module_of(words):
    """Name of the script that a command runs as a module, and its arguments; None of another command."""
    words = words[2:] if words[:2] == ["accelerate", "launch"] else words[1:] if words[0] == "python" else words
    if words[:1] == ["cbsae"] and len(words) > 1:
        name = COMMANDS.get(words[1])
        return name and (f"training.{name}", words[2:])
    words = words[1:] if words[:1] == ["-m"] else words
    if not words or not re.match(r"(training|benchmarks|docs)[./]", words[0]):
        return None
    return words[0].removesuffix(".py").replace("/", "."), words[1:]


def scripts():
    """The programs of the repository that may make a figure, as modules."""
    folders = (ROOT / "training", ROOT / "training" / "emoji_world", ROOT / "benchmarks", ROOT / "docs")
    files = [file for folder in folders for file in folder.glob("*.py")]
    programs = [file for file in files if "__main__" in file.read_text(encoding="utf-8")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in programs}


def test_every_command_exists_and_takes_its_arguments(planned):
    assert len(planned) > 40
    for words in planned:
        check_command(words)


def test_every_program_of_the_models_is_reached(planned):
    reached = {module_of(words)[0] for words in planned}
    assert scripts() - reached == NOT_OF_THE_MODELS.keys()
    mentions = {
        found.replace("/", ".") for page in PAGES for found in MENTION.findall(page.read_text(encoding="utf-8"))
    }
    assert mentions & scripts() <= reached | NOT_OF_THE_MODELS.keys()


@pytest.mark.parametrize("page", ["results", "replication"])
def test_every_command_of_the_results_is_reached_as_it_stands_there(planned, page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    variables = {}
    shell = "\n".join([*INLINE.findall(text), *(block.code for block in blocks_of(text) if block.language == "sh")])
    documented = [module_of(words) for words in commands_of(shell, variables)]
    reached = [module_of(words) for words in planned]
    for module, arguments in filter(None, documented):
        if module not in NOT_OF_THE_MODELS:
            assert any(module == other and set(arguments) <= set(given) for other, given in reached), (
                module,
                arguments,
            )


def test_the_makefile_hands_on(tmp_path):
    command = ["make", "--dry-run", f"MADE={tmp_path}", "ALONE=1", "results-scores"]
    shown = subprocess.run(command, cwd=ROOT, env=without_make(), capture_output=True, text=True).stdout
    assert "training/score_neurons.py --recipe training/recipes/emoji.yaml\n" in shown
    assert "pretrain_clip" not in shown


@pytest.fixture
def folder(tmp_path):
    """A folder where a step does nothing but write down that it ran, fails where it is told to, and leaves a model."""
    (tmp_path / "run.sh").write_text(
        'echo "$*" >> log.txt\n'
        'case "$*" in *"${FAIL:-nothing fails}"*) exit 1;; esac\n'
        'case "$*" in *train_sae*emoji.yaml*) mkdir -p hub/emoji-sae; touch hub/emoji-sae/training.json;; esac\n'
    )
    return tmp_path


def ran(folder):
    """The commands that ran since the last look."""
    log = folder / "log.txt"
    lines = log.read_text().splitlines() if log.is_file() else []
    log.unlink(missing_ok=True)
    return lines


def test_a_stopped_run_goes_on_where_it_was(folder):
    finished = folder / "hub" / "emoji-sae" / "training.json"
    finished.parent.mkdir(parents=True)
    finished.touch()
    stale = folder / "runs" / "emoji-activations" / "of an older encoder"
    stale.parent.mkdir(parents=True)
    stale.touch()
    assert make("world", cwd=folder, FAIL="train_sae").returncode != 0
    assert ran(folder)[-1] == "training/train_sae.py --recipe training/recipes/emoji.yaml --resume"
    assert not finished.exists() and not stale.exists(), "a finished model is trained over"
    stale.parent.mkdir()
    (stale.parent / "half").touch()
    assert make("world", cwd=folder).returncode == 0
    first, second, *_ = ran(folder)
    assert "train_sae" in first and "score_neurons" in second
    assert (stale.parent / "half").exists(), "nothing before it is touched"
    assert make("world", cwd=folder).returncode == 0 and ran(folder) == []
    (folder / "runs" / "made" / "sae").unlink()  # killed between the training and its mark
    make("results-sae", cwd=folder)
    assert ran(folder) == []


def test_what_was_made_of_an_older_model_starts_over(folder):
    assert make("world", cwd=folder).returncode == 0
    ran(folder)
    (folder / "runs" / "made" / "llava.begun").unlink()
    assert make("world", cwd=folder).returncode == 0
    steps = ["train_llava", "score_neurons.py.*--steer", "build_pack", "train_cbsae"]
    lines = ran(folder)
    assert len(lines) == len(steps) and all(map(re.search, steps, lines)), lines


def test_one_step_alone_or_with_those_that_it_needs(folder):
    make("results-unclip", cwd=folder)
    steps = ["pretrain_clip", "pretrain_clip --sketches", "train_autoencoder", "train_unclip"]
    assert [line.split(".")[-1] for line in ran(folder)] == steps
    make("results-plots", "ALONE=1", cwd=folder)
    assert ran(folder) == ["training/plots.py runs/emoji-scores --output runs/emoji-plots"]
    wrong = make("results-plot", cwd=folder)
    assert "No rule to make target 'results-plot'" in wrong.stderr


def test_what_is_there_may_be_kept(folder):
    make("keep-world", cwd=folder)
    make("results", cwd=folder)
    lines = ran(folder)
    assert "make_images" not in str(lines) and lines[0] == "-m training.emoji_world.evaluate"
    make("keep-llava", cwd=folder)
    make("results-pack", cwd=folder)
    assert len(ran(folder)) == 2
