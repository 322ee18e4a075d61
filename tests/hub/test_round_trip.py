import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import stub_hub
import torch
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import close_session

from cbsae_hub import CBSAE, SAE, Pack
from cbsae_hub.hub import locate as fetch
from cbsae_hub.models.base import ConfigError, ModelFileError, folder_revision
from cbsae_hub.publishing import PublishError

pytestmark = pytest.mark.slow

REPO = "me/sae"


def test_push_load_by_revision_and_offline(hub, sae, x, monkeypatch):
    expected = sae.encode(x).detach()
    first = sae.push_to_hub(REPO).rsplit("/", 1)[-1]
    with torch.no_grad():
        sae.b_dec.add_(1.0)
    sae.push_to_hub(REPO)

    latest = SAE.from_pretrained(REPO)
    assert torch.equal(latest.b_dec, sae.b_dec)
    old = SAE.from_pretrained(REPO, revision=first)
    assert torch.equal(old.encode(x), expected)
    assert (old.repo_id, old.revision) == (REPO, first)
    assert latest.revision != first
    assert old.config == sae.config

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert torch.equal(SAE.from_pretrained(REPO, revision=first).encode(x), expected)
    assert torch.equal(SAE.from_pretrained(REPO, local_files_only=True).b_dec, sae.b_dec)
    assert len(hub.requests) == before


@pytest.mark.parametrize("name", ["v1", "feature/x", "commit"])
def test_branches_tags_and_short_commits(hub, sae, x, monkeypatch, name):
    sae.push_to_hub(REPO)
    commit = hub.commit_of(REPO, "main")
    name = commit[:7] if name == "commit" else name
    hub.files[REPO][name] = hub.files[REPO]["main"]
    assert SAE.from_pretrained(REPO, revision=name).revision == commit
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(SAE.from_pretrained(REPO, revision=name).encode(x), sae.encode(x))
    with pytest.raises(ModelFileError, match="not in the cache"):
        SAE.from_pretrained(REPO, revision="v2")


def test_pushes_one_commit_without_pickles(hub, make_sae):
    make_sae("topk").push_to_hub(REPO)
    assert hub.paths(REPO) == {"README.md", "config.json", "model.safetensors"}
    assert len(hub.commits) == 1


def test_the_same_again_is_no_commit(hub, make_sae):
    first = make_sae("topk").push_to_hub(REPO)
    assert make_sae("topk").push_to_hub(REPO) == first
    assert len(hub.commits) == 1


def test_pushes_a_folder_with_what_lies_in_it(hub, make_sae, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("# My own card\n")
    (folder / "notes.json").write_text("{}")
    (folder / "draft.txt").write_text("not yet")
    (folder / "log.jsonl").write_text("{}")
    make_sae("topk").push_to_hub(REPO, folder=folder, ignore_patterns=["draft.*"])
    assert hub.files[REPO]["main"]["README.md"] == b"# My own card\n"
    assert hub.paths(REPO) == {"README.md", "config.json", "model.safetensors", "notes.json"}
    assert folder_revision(folder) == SAE.from_pretrained(folder).revision


def test_what_is_ignored_is_not_pushed_and_the_rest_is(hub, make_sae, tmp_path):
    make_sae("topk").push_to_hub(REPO, ignore_patterns="*.md")
    assert hub.paths(REPO) == {"config.json", "model.safetensors"}
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "one.png").write_bytes(b"not much")
    make_sae("topk").push_to_hub(REPO, folder=tmp_path, ignore_patterns=["drawn/", "*.json"])
    assert hub.paths(REPO) == {"README.md", "config.json", "model.safetensors"}
    with pytest.raises(PublishError, match="me/other was not published: .* leaves nothing of it"):
        make_sae("topk").push_to_hub("me/other", ignore_patterns="*")
    assert "me/other" not in hub.files


def test_save_pretrained_can_push(hub, make_sae, tmp_path):
    url = make_sae("topk").save_pretrained(tmp_path / "model", repo_id=REPO, push_to_hub=True)
    assert url.rsplit("/", 1)[-1] in hub.files[REPO]
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_card_edited_on_the_hub_is_kept_until_told_otherwise(hub, make_sae, caplog):
    sae = make_sae("topk")
    sae.push_to_hub(REPO)
    sae.provenance = replace(sae.provenance, training_data="me/photos")
    sae.push_to_hub(REPO)  # the card was ours: renewed
    assert b"me/photos" in hub.files[REPO]["main"]["README.md"]

    edited = hub.files[REPO]["main"]["README.md"].replace(b"# sae", b"# The best one")
    hub.files[REPO]["main"]["README.md"] = edited
    sae.k = 7
    sae.push_to_hub(REPO)
    assert hub.files[REPO]["main"]["README.md"] == edited
    assert "keeping the hand-edited README.md" in caplog.text
    assert SAE.from_pretrained(REPO).k == 7

    sae.push_to_hub(REPO, overwrite_card=True)
    assert ModelCard(hub.files[REPO]["main"]["README.md"].decode()).data.datasets == ["me/photos"]
    assert b"The best one" not in hub.files[REPO]["main"]["README.md"]


# --------------------------------------------------------------------------------- what lies beside the weights


SHIPPED = Path(__file__).parents[2] / "hub" / "emoji-cbsae"
MODEL = {"README.md", "config.json", "model.safetensors"}
BESIDE = {path.name for path in SHIPPED.iterdir()} - MODEL - {"log.jsonl"}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A folder with a model, what was measured of it, and a picture of something."""
    monkeypatch.chdir(tmp_path)  # where there is no hub/
    folder = tmp_path / "measured"
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("log.jsonl"))
    (folder / "drawn").mkdir()
    (folder / "drawn" / "one.png").write_bytes(b"not much")
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_unchanged_weights_take_along_what_lies_beside_them(hub, measured, caplog):
    before = contents(measured)
    CBSAE.from_pretrained(measured).push_to_hub(REPO)
    assert hub.paths(REPO) == MODEL | BESIDE | {"drawn/one.png"}
    for path in {"model.safetensors", *BESIDE}:
        assert hub.files[REPO]["main"][path] == (measured / path).read_bytes()
    assert len(hub.commits) == 1 and not caplog.records
    assert f"CBSAE.from_pretrained('{REPO}')" in hub.files[REPO]["main"]["README.md"].decode().replace('"', "'")
    assert contents(measured) == before
    assert len(Pack.from_pretrained(REPO).neurons) == CBSAE.from_pretrained(REPO).d_latent


def test_a_card_edited_in_the_folder_goes_along(hub, measured):
    (measured / "README.md").write_text("# Mine\n")
    CBSAE.from_pretrained(measured).push_to_hub(REPO)
    assert hub.files[REPO]["main"]["README.md"] == b"# Mine\n"


@pytest.mark.parametrize("given", [False, True], ids=["loaded", "folder="])
def test_results_of_other_weights_stay_behind(hub, measured, caplog, given):
    CBSAE.from_pretrained(measured).push_to_hub(REPO)
    cb = CBSAE.from_pretrained(measured)
    with torch.no_grad():
        cb.b_dec.add_(1.0)
    cb.push_to_hub(REPO, **{"folder": measured} if given else {})
    assert "not published, as they are of other weights: evaluation.json, examples.parquet" in caplog.text
    assert "removing what is of the replaced weights from me/sae: evaluation.json" in caplog.text
    assert hub.paths(REPO) == MODEL | {"drawn/one.png"}, "a picture of no known name may be of anything"
    assert torch.equal(CBSAE.from_pretrained(REPO).b_dec, cb.b_dec)
    assert (measured / "pack.json").is_file(), "nothing of the user's is deleted"


@pytest.mark.parametrize(
    "name, stale", [("evaluation.json", ["evaluation.json"]), ("training.json", ["selection.json", "training.json"])]
)
def test_results_that_say_themselves_that_they_are_of_other_weights(hub, measured, caplog, name, stale):
    file = measured / name
    revision = folder_revision(measured)
    file.write_text(file.read_text().replace(revision, "sha256:0123456789abcdef"))
    CBSAE.from_pretrained(measured).push_to_hub(REPO)
    assert hub.paths(REPO) == MODEL | BESIDE - set(stale) | {"drawn/one.png"}
    assert f"of other weights: {', '.join(stale)} in" in caplog.text


def test_a_pack_on_the_hub_stays_with_the_same_weights(hub, measured):
    CBSAE.from_pretrained(measured).push_to_hub(REPO)
    cb = CBSAE.from_pretrained(REPO)
    cb.provenance = replace(cb.provenance, training_data="me/photos")
    cb.push_to_hub(REPO)
    assert hub.paths(REPO) == MODEL | BESIDE | {"drawn/one.png"}
    assert CBSAE.from_pretrained(REPO).training_data == "me/photos"


def test_a_model_of_the_hub_keeps_its_card_and_what_was_measured(hub, measured, caplog):
    CBSAE.from_pretrained(measured).push_to_hub(REPO)
    card = hub.files[REPO]["main"]["README.md"].decode()
    hub.files[REPO]["main"]["notes.txt"] = b"theirs"
    cb = CBSAE.from_pretrained(REPO)
    cb.push_to_hub(REPO)
    assert len(hub.commits) == 1, "nothing has changed"
    fetch.download_folder(REPO, patterns=["*"])  # somebody else has use for all of it
    cb.push_to_hub("me/copy")
    assert hub.paths("me/copy") == MODEL | BESIDE
    assert hub.files["me/copy"]["main"]["README.md"].decode().splitlines()[:9] == card.splitlines()[:9]
    copy = ModelCard(hub.files["me/copy"]["main"]["README.md"].decode())
    assert copy.data.license == "mit" and len(copy.data.eval_results) == len(ModelCard(card).data.eval_results)
    assert not caplog.records

    with torch.no_grad():
        cb.b_dec.add_(1.0)
    cb.push_to_hub("me/other")
    assert hub.paths("me/other") == MODEL and "removing" not in caplog.text


def test_what_lies_beside_the_weights_and_is_gone_is_told(hub, measured, caplog):
    cb = CBSAE.from_pretrained(measured)
    cb.push_to_hub(REPO)
    shutil.rmtree(measured)
    cb.push_to_hub("me/copy")
    assert f"what lay beside the weights in {measured}: it is not there" in caplog.text
    cb = CBSAE.from_pretrained(REPO)
    del hub.files[REPO]
    shutil.rmtree(constants.HF_HUB_CACHE)
    cb.push_to_hub("me/another")
    assert f"what lies beside the weights in {REPO}: {REPO} is no folder here, and on the Hub" in caplog.text
    assert hub.paths("me/copy") == hub.paths("me/another") == MODEL


def test_a_folder_that_only_this_machine_has_is_named(hub, make_sae, tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub" / "clip").mkdir(parents=True)
    make_sae("topk", encoder_id="hub/clip").push_to_hub(REPO)
    assert "hub/clip are folders of this machine" in caplog.text


# ------------------------------------------------------------------------------------------------ pull requests


def test_a_pull_request_leaves_main_alone(hub, make_sae):
    sae = make_sae("topk")
    sae.push_to_hub(REPO)
    before, tags = dict(hub.files[REPO]["main"]), set(hub.files[REPO])
    with torch.no_grad():
        sae.b_dec.add_(1.0)
    url = sae.push_to_hub(REPO, create_pr=True)
    assert url.endswith(f"/{REPO}/discussions/1")
    assert hub.files[REPO]["main"] == before
    assert {name for name in set(hub.files[REPO]) - tags if len(name) != 40} == {"refs/pr/1"}, "nor is it tagged"
    assert torch.equal(SAE.from_pretrained(REPO, revision="refs/pr/1").b_dec, sae.b_dec)
    assert not torch.equal(SAE.from_pretrained(REPO).b_dec, sae.b_dec)


# ----------------------------------------------------------------------------------------- pushes that go wrong


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ("POST /api/repos/create", 401, "the Hub does not know who you are: log in with `hf auth login`"),
        ("POST /api/repos/create", 403, "your token may not write there: take one with write permission"),
        ("POST /api/models/me/sae/commit", 401, "log in with `hf auth login`"),
        ("POST /api/models/me/sae/commit", 403, "or open a pull request with create_pr=True"),
        ("POST /api/models/me/sae/commit", 409, "it was changed meanwhile, or something else has that name"),
        ("POST /api/models/me/sae/commit", 500, r"the Hub is in trouble \(500\): try again later"),
        ("POST /api/models/me/sae/preupload", 404, "the Hub finds no such model: is the owner right"),
        ("POST /api/models/me/sae/preupload", 429, "too many requests from you: wait some minutes"),
        ("POST /me/sae.git/info/lfs", 403, "your token may not write there"),
        ("PUT /lfs", 500, r"the Hub is in trouble \(500\)"),
        ("PUT /lfs", None, "the connection broke .*: try again; what was sent is not sent twice"),
        ("POST /api/models/me/sae/commit", None, "the connection broke"),
    ],
)
def test_a_push_that_fails_says_what_to_do_and_leaves_nothing(hub, make_sae, request_, status, message):
    hub.cut(request_) if status is None else hub.fail(request_, status)
    with pytest.raises(PublishError, match=f"me/sae was not published: .*{message}"):
        make_sae("topk").push_to_hub(REPO)
    assert REPO not in hub.files or not hub.paths(REPO)
    hub.heal()
    with pytest.raises(ModelFileError):
        SAE.from_pretrained(REPO)
    make_sae("topk").push_to_hub(REPO)
    assert SAE.from_pretrained(REPO).k == 5
    assert sum(request.startswith("POST /api/repos/create") for request in hub.requests) == 2


def test_a_commit_whose_answer_is_lost_counts(hub, make_sae):
    hub.lose("POST /api/models/me/sae/commit", times=1)
    url = make_sae("topk").push_to_hub(REPO)
    assert url.rsplit("/", 1)[-1] == hub.commit_of(REPO, "main") and hub.paths(REPO) == MODEL
    assert any(name.startswith("sha256-") for name in hub.files[REPO])
    assert make_sae("topk").push_to_hub(REPO) == url and len(hub.commits) == 1

    hub.lose("POST /api/models/me/sae/commit")
    with pytest.raises(PublishError, match="may have got the pull request, .*: look at http.*/me/sae/discussions"):
        make_sae("relu").push_to_hub(REPO, create_pr=True)


@pytest.fixture
def when_committed(monkeypatch):
    """Lets the stub do something else after the first commit than answer."""
    make_commit = stub_hub._Handler.make_commit
    [route] = [route for route, method in stub_hub._Handler.ROUTES.items() if method is make_commit]

    def instead(do):
        def commit(handler, body, **about):
            answer, handler.answer = handler.answer, lambda *_, **__: None
            make_commit(handler, body, **about)
            handler.answer = answer
            monkeypatch.setitem(stub_hub._Handler.ROUTES, route, make_commit)
            do(handler)

        monkeypatch.setitem(stub_hub._Handler.ROUTES, route, commit)

    return instead


@pytest.mark.parametrize("status", [502, 504])
def test_a_commit_that_a_gateway_knows_nothing_of_counts(hub, make_sae, when_committed, status):
    when_committed(lambda handler: handler.answer({"error": "no answer in time"}, status))
    url = make_sae("topk").push_to_hub(REPO)
    assert url.rsplit("/", 1)[-1] == hub.commit_of(REPO, "main") and hub.paths(REPO) == MODEL


def test_a_commit_that_cannot_be_looked_for(hub, make_sae, when_committed):
    def dead(handler):
        hub.fail("GET /api/models/me/sae", 500)
        handler.trouble = ("lose", None)
        handler.answer({"success": True})

    when_committed(dead)
    with pytest.raises(PublishError, match="the answer was lost, so me/sae may be published or not: the Hub is in"):
        make_sae("topk").push_to_hub(REPO)
    hub.heal()
    make_sae("topk").push_to_hub(REPO)
    assert hub.paths(REPO) == MODEL and len(hub.commits) == 1


def test_a_passing_trouble_is_not_noticed(hub, make_sae):
    hub.fail("PUT /lfs", 500, times=2)
    hub.cut("POST /me/sae.git/info/lfs", times=1)
    make_sae("topk").push_to_hub(REPO)
    assert hub.paths(REPO) == MODEL


def test_somebody_elses_push_at_the_same_time_is_not_overwritten(hub, make_sae, monkeypatch):
    make_sae("topk").push_to_hub(REPO)

    def another(handler, body, **_):  # between the look at the repository and the commit
        hub.commit(REPO, [{"key": "file", "value": {"path": "theirs.txt", "content": "aGk="}}])
        handler.answer({"errors": [], "warnings": []})

    sae = make_sae("relu")
    monkeypatch.setitem(stub_hub._Handler.ROUTES, r"POST /api/validate-yaml", another)
    with pytest.raises(PublishError, match="it was changed meanwhile"):
        sae.push_to_hub(REPO)
    assert "theirs.txt" in hub.paths(REPO)
    assert SAE.from_pretrained(REPO).activation == "topk"


def test_an_untagged_model_says_that_it_is_there(hub, make_sae):
    hub.fail("POST /api/models/me/sae/tag", 500)
    with pytest.raises(
        PublishError, match="me/sae was published, but has not got its tag sha256-[0-9a-f]{16}: the Hub"
    ):
        make_sae("topk").push_to_hub(REPO)
    hub.heal()
    make_sae("topk").push_to_hub(REPO)
    assert len(hub.commits) == 1 and any(name.startswith("sha256-") for name in hub.files[REPO])


def test_nothing_is_pushed_if_the_card_there_cannot_be_looked_at(hub, make_sae):
    make_sae("topk").push_to_hub(REPO)
    hub.fail("HEAD .*README.md", 403)
    with pytest.raises(PublishError, match="me/sae was not published: your token may not"):
        make_sae("relu").push_to_hub(REPO)
    assert len(hub.commits) == 1


def test_a_repository_that_was_meant_to_be_private(hub, make_sae):
    make_sae("topk").push_to_hub(REPO, private=True)
    assert hub.private == {REPO}
    make_sae("topk").push_to_hub("me/open")
    with pytest.raises(PublishError, match="me/open exists and is public"):
        make_sae("relu").push_to_hub("me/open", private=True)
    with pytest.raises(PublishError, match="that is no id on the Hub"):
        make_sae("topk").push_to_hub("a/b/c")


def test_offline_nothing_is_pushed(hub, make_sae, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()  # it is made with or without a way out
    try:
        with pytest.raises(PublishError, match="unset HF_HUB_OFFLINE"):
            make_sae("topk").push_to_hub(REPO)
    finally:
        close_session()


# --------------------------------------------------------------------------------------- loads that go wrong


def test_what_is_not_on_the_hub(hub, make_sae):
    with pytest.raises(ModelFileError, match="does not exist or needs a token"):
        SAE.from_pretrained("me/nothing")
    make_sae("topk").push_to_hub(REPO)
    with pytest.raises(ModelFileError, match="no revision 'v9'"):
        SAE.from_pretrained(REPO, revision="v9")
    with pytest.raises(ModelFileError, match="neither an existing folder nor a Hub id"):
        SAE.from_pretrained("no/such/folder")
    with pytest.raises(ModelFileError, match="me/other is no folder here, and config.json .* not in the cache"):
        SAE.from_pretrained("me/other", local_files_only=True)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {}, "does not exist or needs a token"),
        (403, {"X-Error-Code": "GatedRepo"}, "me/sae is gated: accept its conditions at http.*/me/sae, then log in"),
        (403, {}, r"the Hub refuses {file} of me/sae to this token \(403\)"),
        (404, {"X-Error-Code": "EntryNotFound"}, "me/sae has no {file} on the Hub"),
        (404, {"X-Error-Code": "RepoNotFound"}, "does not exist or needs a token"),
        (409, {}, "{file} of me/sae could not be downloaded.*409"),
        (500, {}, r"the Hub is in trouble \(500\): try again later"),
    ],
)
def test_a_load_that_fails_says_what_to_do(hub, make_sae, file, status, headers, message):
    make_sae("topk").push_to_hub(REPO)
    hub.fail(f"(HEAD|GET) .*{file}", status, headers)
    with pytest.raises(ModelFileError, match=message.replace("{file}", file)):
        SAE.from_pretrained(REPO)
    hub.heal()
    assert SAE.from_pretrained(REPO).k == 5


@pytest.mark.parametrize("fault", ["cut", "damage"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_half_a_file_and_a_wrong_one_are_never_loaded(hub, make_sae, file, fault, tmp_path):
    make_sae("topk").push_to_hub(REPO)
    getattr(hub, fault)(f"GET .*{file}")
    message = {"cut": f"{file} of me/sae could not be downloaded, the connection broke: try again",
               "damage": "a file of me/sae arrived damaged: its hash is not the one that the Hub says"}  # fmt: skip
    for _ in range(2):
        with pytest.raises(ModelFileError, match=message[fault]):
            SAE.from_pretrained(REPO)
        with pytest.raises(ModelFileError, match=f"{file} of me/sae is not in the cache"):
            SAE.from_pretrained(REPO, local_files_only=True)
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.heal()
    assert SAE.from_pretrained(REPO).k == 5
    assert SAE.from_pretrained(REPO, local_files_only=True).k == 5


@pytest.mark.parametrize("then", [None, 403])
def test_no_damaged_file_stays_where_several_are_downloaded(hub, make_sae, then):
    make_sae("topk").push_to_hub(REPO)
    files = hub.files[REPO]["main"]
    files |= {"other.safetensors": b"others", "last.json": b"{}"}
    hub.damage("GET .*safetensors")
    if then is not None:
        hub.fail("(HEAD|GET) .*/last.json", then)
    with pytest.raises(ModelFileError, match="arrived damaged" if then is None else "the Hub refuses"):
        fetch.download_folder(REPO)
    hub.heal()
    folder = fetch.download_folder(REPO)
    for name in ("model.safetensors", "other.safetensors"):
        assert (folder / name).read_bytes() == files[name]


def test_trouble_where_the_hub_keeps_large_files(hub, make_sae, monkeypatch):
    def fetch_file(*_, **__):
        raise RuntimeError("Data processing error: CAS service error")

    make_sae("topk").push_to_hub(REPO)
    monkeypatch.setattr(fetch, "hf_hub_download", fetch_file)
    with pytest.raises(ModelFileError, match="config.json of me/sae could not be downloaded: Data processing error"):
        SAE.from_pretrained(REPO)


def test_a_download_goes_on_where_it_was_cut(hub, make_sae):
    sae = make_sae("topk")
    sae.push_to_hub(REPO)
    hub.cut("GET .*model.safetensors", times=1)
    hub.fail("HEAD .*config.json", 500, times=1)
    assert torch.equal(SAE.from_pretrained(REPO).b_dec, sae.b_dec)


def test_what_is_in_the_cache_is_not_hashed_again(hub, make_sae, monkeypatch):
    sae = make_sae("topk")
    sae.push_to_hub(REPO)
    SAE.from_pretrained(REPO)
    monkeypatch.setattr(fetch, "content_hash", lambda *_: pytest.fail("hashed again"))
    SAE.from_pretrained(REPO)
    monkeypatch.undo()


# --------------------------------------------------------------------------------------------------- tokens


def test_the_token_goes_to_the_hub_only(hub, cdn, make_sae):
    sae = make_sae("topk")
    sae.push_to_hub(REPO)
    assert torch.equal(SAE.from_pretrained(REPO).b_dec, sae.b_dec)
    elsewhere = [call for call in hub.calls if call.server == "cdn"]
    assert [call.request[:3] for call in elsewhere] == ["PUT", "GET"], "the weights, there and back"
    assert all(call.authorization is None for call in elsewhere)
    asked = [call for call in hub.calls if call.server == "hub"]
    assert asked and all(call.authorization == f"Bearer {stub_hub.TOKEN}" for call in asked)


def test_a_given_token_is_used(hub, make_sae):
    make_sae("topk").push_to_hub(REPO, token="hf_other")
    # what is uploaded goes to an address that is signed already
    assert {call.authorization for call in hub.calls if "PUT" not in call.request} == {"Bearer hf_other"}


# ------------------------------------------------------------------------------------- revisions by content


def test_weights_are_found_by_what_they_contain(hub, make_sae, tmp_path, monkeypatch):
    old, new = make_sae("topk"), make_sae("topk")
    with torch.no_grad():
        new.b_dec.add_(1.0)
    old.save_pretrained(tmp_path / "old")
    wanted = folder_revision(tmp_path / "old")
    old.push_to_hub(REPO)
    new.push_to_hub(REPO)
    assert torch.equal(SAE.from_pretrained(REPO, revision=wanted).b_dec, old.b_dec)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(SAE.from_pretrained(REPO, revision=wanted).b_dec, old.b_dec)


def test_weights_in_sub_folders_are_part_of_what_is_asked_for(hub, make_sae, tmp_path, monkeypatch):
    make_sae("topk").save_pretrained(tmp_path / "sae" / "before")
    sae = make_sae("relu")
    sae.push_to_hub(REPO, folder=tmp_path / "sae")
    wanted = folder_revision(tmp_path / "sae")
    assert SAE.from_pretrained(REPO, revision=wanted).activation == "relu"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert SAE.from_pretrained(REPO, revision=wanted).activation == "relu"


def test_other_weights_than_those_asked_for(hub, make_sae, tmp_path):
    sae = make_sae("topk")
    sae.save_pretrained(tmp_path / "sae")
    wanted = folder_revision(tmp_path / "sae")
    sae.push_to_hub(REPO)
    del hub.files[REPO][wanted.replace(":", "-")]  # somebody has published without a tag
    assert SAE.from_pretrained(REPO, revision=wanted).k == 5
    with pytest.raises(ModelFileError, match=f"holds weights {wanted} on the Hub, not sha256:0{{16}}"):
        SAE.from_pretrained(REPO, revision="sha256:" + "0" * 16)


def test_a_bad_config_on_the_hub_stops_before_the_weights_count(hub, make_sae):
    make_sae("topk").push_to_hub(REPO)
    files = hub.files[REPO]["main"]
    files["config.json"] = files["config.json"].replace(b'"k"', b'"kk"')
    with pytest.raises(ConfigError, match="unknown keys.*kk"):
        SAE.from_pretrained(REPO)


def test_a_file_that_is_damaged_on_the_hub_is_noticed(hub, make_sae):
    make_sae("topk").push_to_hub(REPO)
    files = hub.files[REPO]["main"]
    files["model.safetensors"] = files["model.safetensors"][:-40]
    with pytest.raises(ModelFileError, match="damaged or half-written"):
        SAE.from_pretrained(REPO)
