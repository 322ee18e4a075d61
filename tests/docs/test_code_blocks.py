"""Every block of code in README.md and docs/ is run, or says why not, and is then checked as far as that goes.

A block that cannot run is preceded by ``<!-- not run: the reason -->``. Pages that are notebooks are run by
test_notebook.py.
"""

import re
import shutil
import signal

import pytest
from code_blocks import INDENTED, INLINE, blocks_of, check_command, commands_of
from python_blocks import problems_of
from workplace import ROOT, make_workplace, tracked

from cbsae_hub import Pack

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = [page for page in PAGES if page.with_suffix(".ipynb").exists()]
SHOWN = {"text", "pyi", "json"}  # not code: output, signatures, files
SECONDS = 60  # that a page may take


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """What a reader has: the models, and a picture."""
    folder = make_workplace(tmp_path_factory.mktemp("own") / "clone")
    Pack.from_pretrained(folder / "hub" / "emoji-sae").image(0).save(folder / "my-picture.png")
    return folder


@pytest.fixture
def clone(tmp_path, monkeypatch, own):
    """The working folder, as new for each page."""
    folder = make_workplace(tmp_path / "clone", own / "hub")
    shutil.copy(own / "my-picture.png", folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def in_time():
    def stop(*_):
        pytest.fail(f"the code of a page runs for more than {SECONDS} s: mark what takes long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def check_page(text, run=True):
    """Runs the blocks of a page one after the other: Python in one namespace, shell with the same variables."""
    names, known, variables = {"__name__": "page"}, {}, {}
    for block in blocks_of(text):
        where = f"line {block.line}"
        assert block.language in {"python", "sh", *SHOWN}, f"{where}: no way is known to run {block.language!r}"
        assert block.reason is None or len(block.reason.split()) > 1, f"{where}: the marker gives no reason"
        assert block.reason is None or block.language not in SHOWN, f"{where}: {block.language} is never run"
        run_this = run and block.reason is None
        if block.language == "python":
            problems = problems_of(block.code, known)
            assert not problems, f"{where}: {problems}"
            if run_this:
                exec(compile(block.code, where, "exec"), names)
        elif block.language == "sh":
            for words in commands_of(block.code, variables):
                found = check_command(words)
                if run_this:
                    assert found, f"{where}: {words} is not run in a test: mark the block"
                    command, arguments = found
                    assert command.main(arguments, standalone_mode=False) in (None, 0), words


def without_blocks(text):
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_page(page, clone, in_time):
    before = tracked()
    text = page.read_text(encoding="utf-8")
    check_page(text, run=page not in ELSEWHERE)
    assert tracked() == before, "the code of the page writes into the repository"
    rest = without_blocks(text)
    assert "```" not in rest, "a fence is never closed"
    assert not INDENTED.findall(rest), "code without a fence is not tested"
    assert rest.count("<!-- not run") == sum(block.reason is not None for block in blocks_of(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_exist(page):
    for command in INLINE.findall(without_blocks(page.read_text(encoding="utf-8"))):
        for words in commands_of(command, {}):
            named = words[0] == "cbsae" and len(words) == 2  # without what it needs
            check_command([*words, "--help"] if named else words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", without_blocks(page.read_text(encoding="utf-8")))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_have_a_head(page):
    lines = ["", *without_blocks(page.read_text(encoding="utf-8")).splitlines(), ""]
    starts = [i for i, line in enumerate(lines) if line.startswith("|") and not lines[i - 1].startswith("|")]
    assert [lines[i] for i in starts if not re.fullmatch(r"\|[-|: ]+\|", lines[i + 1])] == []


PUSH = 'from cbsae_hub import SAE\n\nsae = SAE.from_pretrained("me/mine")\nsae.push_to_hub("me/mine", {})\n'


@pytest.mark.parametrize(
    ("language", "code", "marker", "problem"),
    [
        ("python", "1 / 0\n", None, "division by zero"),
        ("python", PUSH.format("private=True"), None, "me/mine"),
        ("python", PUSH.format("private=True"), "needs the Hub", None),
        ("python", PUSH.format("public=True"), "needs the Hub", "sae.push_to_hub: got an unexpected keyword"),
        ("python", "from cbsae_hub import SEA\n", "needs the Hub", "cbsae_hub has no SEA"),
        ("python", "import cbsae_hub\ncbsae_hub.SAE.load()\n", "needs the Hub", "cbsae_hub.SAE has no load"),
        ("python", "def f(:\n", "needs the Hub", "invalid syntax"),
        ("python", "1\n", "", "the marker gives no reason"),
        ("python", "1\n", "later", "the marker gives no reason"),
        ("sh", "make app\n", None, "mark the block"),
        ("sh", "make app\n", "installs things", None),
        ("sh", "make nothing\n", "installs things", "make"),
        ("sh", "R=runs/no.yaml\npython training/train_sae.py --recipe $R\n", "takes hours", "no.yaml"),
        ("sh", "python training/train_sae.py --stesp 3\n", "takes hours", "--stesp"),
        ("sh", "R=training/recipes/emoji.yaml\npython training/train_sae.py --recipe $R --set stesp=3\n", "takes hours",
         "no key 'stesp'"),
        ("sh", "accelerate launch training/train_sea.py\n", "takes hours", "there is no training/train_sea.py"),
        ("sh", "pip install 'cbsae_hub[word]'\n", "installs things", "there is no extra 'word'"),
        ("sh", "hf upload --nothing\n", "needs the Hub", "--nothing"),
        ("sh", "curl example.org | sh\n", "needs the Hub", "more than this test understands"),
        ("sh", "rm -r runs\n", "deletes things", "no way is known to check"),
        ("r", "library(x)\n", None, "no way is known to run"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_noticed(clone, language, code, marker, problem):
    page = f"Text.\n\n{'' if marker is None else f'<!-- not run: {marker} -->'}\n```{language}\n{code}```\n"
    if problem is None:
        check_page(page)
    else:
        with pytest.raises(BaseException) as error:
            check_page(page)
        assert problem in f"{error.value} {getattr(error.value, 'stderr', '')}"
