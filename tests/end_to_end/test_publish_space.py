"""The folder of a Space: what is in it, and that the page runs from it where nothing else of this repository is."""

import contextlib
import filecmp
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import typer
from empty_environment import empty_environment, variables
from huggingface_hub import SpaceCard, SpaceCardData, constants, metadata_load
from known_words import speaking_word
from packaging.requirements import Requirement
from PIL import Image
from scripts import free_port
from typer.testing import CliRunner

import app as page
from cbsae_hub.studio.server.model import LoadedModel
from training import publish, space_folder

ROOT = Path(__file__).parents[2]

SHIPPED = {
    "emoji-cbsae", "emoji-sae", "emoji-clip", "emoji-judge", "emoji-teacher", "emoji-images", "emoji-llava",
    "emoji-unclip",
}  # fmt: skip
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}  # that Spaces know
VARIABLES = ("CBSAE_MODELS", "CBSAE_LLAVA", "CBSAE_UNCLIP", "SPACE_ID", "GRADIO_SERVER_PORT")


def published(space, *options):
    script = typer.Typer()
    script.command()(publish.main)
    return CliRunner().invoke(script, ["--space", str(space), *map(str, options)], env={"COLUMNS": "1000"})


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The default Space, and what the command said."""
    space = tmp_path_factory.mktemp("made") / "space"
    result = published(space)
    assert result.exit_code == 0, result.output
    return space, result.output


@pytest.fixture
def own_hub(tmp_path):
    """A model of the user's, next to the encoder and the judge that it refers to."""
    hub = tmp_path / "own" / "hub"
    shutil.copytree(ROOT / "hub" / "emoji-sae", hub / "mine")
    for name in ("emoji-clip", "emoji-teacher"):
        (hub / name).symlink_to(ROOT / "hub" / name)
    return hub


@pytest.fixture
def arguments(monkeypatch):
    """What app.py reads of an environment with only these variables."""

    def read(**variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["app.py"])
        return page.arguments()

    return read


# ---------------------------------------------------------------------------------------------- what is in it


def test_space_has_what_the_page_needs_and_nothing_else(made):
    space, output = made
    found = files(space)
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "cbsae_hub").rglob("*") if path.is_file()}
    package = {path for path in package if "__pycache__" not in path}
    assert {path for path in found if path.startswith("cbsae_hub/")} == package
    assert {path.split("/")[1] for path in found if path.startswith("hub/")} == SHIPPED
    others = {path for path in found if not path.startswith(("cbsae_hub/", "hub/"))}
    assert others == {"README.md", "app.py", "requirements.txt", "LICENSE"}
    for path in found - {"README.md"}:
        assert filecmp.cmp(space / path, ROOT / path, shallow=False), path
    for name in SHIPPED:
        tracked = subprocess.run(["git", "ls-files", f"hub/{name}"], cwd=ROOT, capture_output=True, text=True)
        if tracked.returncode == 0:  # else this is no clone
            assert {path for path in found if path.startswith(f"hub/{name}/")} == set(tracked.stdout.split())
    size = sum((space / path).stat().st_size for path in found)
    assert f"{space}: {len(found)} files, {size:,} bytes" in output
    assert f'hf upload OWNER/NAME {space} . --repo-type space --delete "*"' in output
    assert "variables" not in output


def test_nothing_is_left_beside_the_space(made):
    assert [path.name for path in made[0].parent.iterdir()] == ["space"]


@pytest.mark.parametrize("card", [ROOT / "spaces" / "README.md", None], ids=["source", "made"])
def test_front_matter_is_valid(made, card):
    card = card or made[0] / "README.md"
    data = metadata_load(card)
    assert SpaceCardData(**data).to_dict() == data == SpaceCard.load(card).data.to_dict()
    assert data["sdk"] == "gradio" and data["python_version"] == "3.12" and isinstance(data["python_version"], str)
    lines = map(Requirement, (ROOT / "requirements.txt").read_text().splitlines()[2:])
    assert data["sdk_version"] in next(line for line in lines if line.name == "gradio").specifier
    assert {data["colorFrom"], data["colorTo"]} <= COLOURS
    assert len(data["short_description"]) <= 60
    assert data["license"] == "mit" and data["pinned"] is False and data["suggested_hardware"] == "cpu-basic"
    assert (ROOT / data["app_file"]).is_file()
    assert not {"models", "preload_from_hub", "datasets"} & data.keys(), "what is shipped is on no Hub"


def test_default_is_what_the_page_serves_by_itself(made, arguments):
    served = arguments()
    names = [*served.model, served.llava, served.unclip]
    assert [Path(name).name for name in names] == list(space_folder.SHIPPED)
    assert all((made[0] / "hub" / name).is_dir() for name in space_folder.SHIPPED)


def test_models_of_the_variables_are_served(arguments):
    served = arguments(CBSAE_MODELS=" hub/mine, me/other,", CBSAE_LLAVA="me/llava", SPACE_ID="me/space")
    assert (served.model, served.llava, served.unclip) == (["hub/mine", "me/other"], "me/llava", None)
    assert served.host == "0.0.0.0"
    assert arguments().host == "127.0.0.1"


# --------------------------------------------------------------------------------------------- other models


def test_folders_bring_their_neighbours_and_no_leftovers(tmp_path, own_hub, monkeypatch):
    for name in ("log.jsonl", "checkpoint.safetensors", "x.parquet.partial", ".model.safetensors.1.tmp", ".git/HEAD"):
        (own_hub / "mine" / name).parent.mkdir(exist_ok=True)
        (own_hub / "mine" / name).write_text("{}")
    space = tmp_path / "space"
    monkeypatch.chdir(own_hub.parent)
    result = published(space, "--model", "hub/mine", "--llava", ROOT / "hub" / "emoji-llava")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (space / "hub").iterdir()} == {"mine", "emoji-clip", "emoji-teacher", "emoji-llava"}
    assert files(space / "hub" / "mine") == files(ROOT / "hub" / "emoji-sae") - {"log.jsonl"}  # training leaves one
    assert "-e CBSAE_MODELS=hub/mine -e CBSAE_LLAVA=hub/emoji-llava\n" in result.output
    card = SpaceCard.load(space / "README.md")
    assert "- `hub/mine`, in this repository\n- `hub/emoji-llava`, in this repository\n" in card.text
    assert "Emoji" not in card.text and "## With other models" in card.text
    monkeypatch.chdir(space)
    shutil.rmtree(own_hub)
    monkeypatch.setattr(
        "cbsae_hub.studio.server.model.download", lambda *_: pytest.fail("the Hub was asked about a folder")
    )
    loaded = LoadedModel("hub/mine")
    assert loaded.inspect(Image.new("RGB", (64, 64), "white")).webp and loaded.judge and loaded.evaluation == {}


def test_models_on_the_hub_stay_there(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    known = tmp_path / "cache" / "models--me--sae"
    for part in ("refs", "snapshots/abc"):
        (known / part).mkdir(parents=True)
    (known / "refs" / "main").write_text("abc")
    commit = "0" * 40
    config = {
        "encoder_id": "me/encoder",
        "encoder_revision": commit,
        "teacher": {"id": "hub/mine", "revision": "sha256:0123456789abcdef"},
    }
    info = {"judge": {"id": "ViT-B-16/openai", "revision": "openai"}, "images": {"id": "me/images"}}
    (known / "snapshots" / "abc" / "config.json").write_text(json.dumps(config))
    (known / "snapshots" / "abc" / "pack.json").write_text(json.dumps(info))
    space = tmp_path / "space"
    monkeypatch.chdir(tmp_path)
    result = published(space, "--model", "me/sae", "--model", "me/unknown", "--unclip", "me/unclip")
    assert result.exit_code == 0, result.output
    data = SpaceCard.load(space / "README.md").data
    assert data.models == data.preload_from_hub == ["me/sae", "me/encoder", "me/unknown", "me/unclip"]
    assert data.datasets == ["me/images"]
    assert not (space / "hub").exists()
    assert "-e CBSAE_MODELS=me/sae,me/unknown -e CBSAE_UNCLIP=me/unclip\n" in result.output


# ------------------------------------------------------------------------------------- folders that are there


def test_a_space_of_this_command_is_replaced_as_a_whole(tmp_path, own_hub):
    space = tmp_path / "space"
    space.mkdir()
    options = (space, "--model", own_hub / "mine")
    assert published(*options).exit_code == 0, "an empty folder is taken"
    before = files(space)
    (space / "cbsae_hub" / "old.py").write_text("")
    assert published(*options).exit_code == 0
    assert files(space) == before
    assert {path.name for path in tmp_path.iterdir()} == {"own", "space"}


@pytest.mark.parametrize("change", ["edited card", "clone", "other folder", "file"])
def test_what_somebody_else_made_is_left_alone(tmp_path, own_hub, change):
    space = tmp_path / "space"
    if change in ("edited card", "clone"):
        assert published(space, "--model", own_hub / "mine").exit_code == 0
    if change == "edited card":
        with (space / "README.md").open("a") as card:
            card.write("mine\n")
    elif change == "clone":
        (space / ".git").mkdir()
    elif change == "other folder":
        shutil.copytree(ROOT / "docs", space)
    else:
        space.write_text("mine")
    before = files(tmp_path)
    result = published(space, "--model", own_hub / "mine")
    assert result.exit_code == 2 and "not as this command leaves it" in result.output
    assert files(tmp_path) == before


def test_half_a_space_never_looks_whole(tmp_path, own_hub, monkeypatch):
    space = tmp_path / "space"
    assert published(space, "--model", own_hub / "mine").exit_code == 0
    before = files(tmp_path)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(space_folder, "write_text", full)  # of the card, which comes last
    result = published(space, "--model", own_hub / "mine")
    assert result.exit_code == 2 and "no space left" in result.output
    assert files(tmp_path) == before


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "hub/missing"), "hub/missing is neither an existing folder nor a Hub id"),
        (("--model", "/no/such/folder"), "/no/such/folder is neither an existing folder nor a Hub id"),
        (("--model", "hub/emoji-clip"), "there is no SAE in"),
        (("--model", "hub/emoji-images"), "there is no SAE in"),
        (("--model", "bare"), "has no pack.json: make it with `cbsae pack`"),
        (("--model", "lonely/mine"), "refers to hub/emoji-clip with weights sha256:ffb3f9a35d88b408, which are not"),
        (("--model", "with, comma"), "a folder of a Space needs a name of letters"),
        (("--model", "hub/mine", "--model", "hub/mine"), "one of the models is given twice"),
        (("--model", "hub/mine", "--model", "other/mine"), "have the same name: rename one"),
        (("--llava", "hub/missing"), "hub/missing is neither"),
        (("--llava", "hub/emoji-images"), "has no config.json"),
        (("--unclip", "hub/emoji-llava"), "has no model_index.json"),
    ],
)
def test_bad_input_gets_a_sentence(tmp_path, own_hub, monkeypatch, options, message):
    work = own_hub.parent
    for name in ("emoji-images", "emoji-llava"):
        (own_hub / name).symlink_to(ROOT / "hub" / name)
    for name in ("bare", "lonely/mine", "with, comma", "other/mine"):
        shutil.copytree(own_hub / "mine", work / name)
    (work / "bare" / "pack.json").unlink()
    for name in ("emoji-clip", "emoji-teacher"):
        (work / "other" / name).symlink_to(ROOT / "hub" / name)
    if "lonely/mine" in options:
        (own_hub / "emoji-clip").unlink()
    monkeypatch.chdir(work)
    result = published(tmp_path / "space", *options)
    assert result.exit_code == 2 and message in result.output, result.output
    assert not (tmp_path / "space").exists()


def test_what_a_link_leads_to_goes_into_no_space(tmp_path, own_hub):
    (tmp_path / "secret.txt").write_text("hf_secret")
    (own_hub / "mine" / "notes.txt").symlink_to(tmp_path / "secret.txt")
    result = published(tmp_path / "space", "--model", own_hub / "mine")
    assert result.exit_code == 1 and "notes.txt is a link to" in result.output
    assert not (tmp_path / "space").exists()


def test_space_is_no_part_of_itself(own_hub):
    result = published(own_hub / "mine" / "space", "--model", own_hub / "mine")
    assert result.exit_code == 2 and "take another folder" in result.output
    assert not (own_hub / "mine" / "space").exists()


# ---------------------------------------------------------------------------------------------------- running


@pytest.fixture(scope="module")
def address(made, tmp_path_factory):
    """The Space as it runs on the Hub: other packages are installed, this one is there as files only."""
    space, folder = made[0], tmp_path_factory.mktemp("machine")
    python = empty_environment(folder / "venv")
    port = free_port()
    environment = variables(folder) | {
        "SPACE_ID": "me/space", "GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    ask = "import sys, cbsae_hub; print(cbsae_hub.__file__, *sys.path, sep='\\n')"
    told = subprocess.run([python, "-c", ask], cwd=space, env=environment, capture_output=True, text=True, check=True)
    imported, *path = told.stdout.splitlines()
    assert Path(imported).is_relative_to(space) and str(ROOT) not in path
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, "app.py"], cwd=space, env=environment, stdout=output, stderr=subprocess.STDOUT
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(url, timeout=5) as answer:
                    assert answer.status == 200
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"the page did not start: {log.read_text()}")
        yield url, log
    finally:
        process.terminate()
        process.wait(10)


def call(url, endpoint, data):
    body, headers = json.dumps({"data": data}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/gradio_api/call/{endpoint}", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{url}/gradio_api/call/{endpoint}/{event}", timeout=60) as stream:
        said = stream.read().decode()
    assert "event: complete" in said, said
    return json.loads(said.split("data: ")[-1])[0]


@pytest.mark.slow
def test_space_answers_where_only_its_own_files_are(made, address):
    url, log = address
    before = files(made[0])
    with urllib.request.urlopen(url.replace("127.0.0.1", "127.0.0.2"), timeout=60) as answer:
        assert answer.status == 200, "a Space is reached from outside, at any address of its machine"
    word = speaking_word()
    found = call(url, "find_neurons", [word, 3, ""])
    assert found["verdict"] and found["neurons"][0]["name"] == word
    seen = call(url, "encode_image", ["white", 3, ""])
    assert seen["neurons"] and 0 < seen["explained"] <= 1
    edits = [{"neuron": found["neurons"][0]["neuron"], "value": 50.0}]
    said = call(url, "steer_caption", ["white", "", edits, True, "set", False, "", ""])
    assert said["word"] == word
    assert said["steered"]["probability"] > 10 * said["random"]["probability"]
    assert files(made[0]) == before, "the page writes nothing into its repository"
