"""Folders of every kind, and several that refer to each other, on their way to a stand-in for the Hub."""

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import stub_hub
import torch
from PIL import Image
from small_hub import make_bottleneck, make_hub

from cbsae_hub import CBSAE, SAE, VisionEncoder
from cbsae_hub.hub import upload as upload_module
from cbsae_hub.hub.locate import download_folder, locate
from cbsae_hub.hub.references import references, with_names
from cbsae_hub.hub.results import RESULTS
from cbsae_hub.hub.stamp import edited_by_hand
from cbsae_hub.models import folder_revision
from cbsae_hub.neurons.pack import CONTEXTS, FILES, ICONS, INFO
from cbsae_hub.publishing import PublishError, plan, plan_together, publish, publish_together


def write(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture
def model(tmp_path):
    """One of another library."""
    files = {"config.json": "{}", "model.safetensors": b"weights", "README.md": "# A model\n", "sub/vocab.txt": "a"}
    return write(tmp_path / "clip", files)


@pytest.fixture
def space(tmp_path):
    return write(
        tmp_path / "page",
        {"README.md": "---\ntitle: x\nsdk: gradio\n---\n", "app.py": "1", "cbsae_hub/checkpoint.py": "2"},
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """encoder, judge, sae and bottleneck, side by side."""
    folder = tmp_path_factory.mktemp("world") / "hub"
    sae, encoder, *_ = make_hub(folder)
    sae.provenance = replace(sae.provenance, encoder_id="hub/encoder")
    sae.save_pretrained(folder / "sae")
    make_bottleneck(SAE.from_pretrained(folder / "sae"), encoder, folder)
    return folder


# ------------------------------------------------------------------------------------------------------- plan


def test_plan_lists_what_goes_and_nothing_else(model):
    left = ("log.jsonl", "checkpoint.safetensors", "checkpoint-10/x.bin", "x.tmp", "y.parquet.partial", ".git/HEAD",
            "sub/.x.tmp", "__pycache__/a.pyc", "run.log")  # fmt: skip
    write(model, dict.fromkeys(left, "no"))
    upload = plan(model, "me/clip")
    assert upload.files == {"README.md": 10, "config.json": 2, "model.safetensors": 7, "sub/vocab.txt": 1}
    assert (upload.size, upload.repo_type, upload.repo_id, upload.folder) == (20, "model", "me/clip", model)
    assert (upload.references, upload.rewritten) == ({}, {})
    assert plan(model).repo_id == "clip"


def test_plan_sees_what_a_folder_is(tmp_path, model, space):
    data = write(tmp_path / "data", {"data/test.parquet": "x", "README.md": "---\nlicense: mit\n---\n"})
    assert [plan(folder).repo_type for folder in (model, space, data)] == ["model", "space", "dataset"]
    assert plan(model, repo_type="dataset").repo_type == "dataset"


def test_metrics_of_other_weights_stay_behind(model, caplog):
    write(model, {"metrics.json": '{"top1": 5}'})
    assert "metrics.json" in plan(model, "me/clip").files, "nobody knows of which weights"
    write(model, {"metrics.json": json.dumps({"top1": 5, "revision": folder_revision(model)})})
    assert "metrics.json" in plan(model, "me/clip").files and not caplog.records
    write(model, {"model.safetensors": b"others"})
    assert "metrics.json" not in plan(model, "me/clip").files
    assert "of other weights: metrics.json in" in caplog.text


@pytest.mark.parametrize("target", ["secret.txt", "secrets", "nothing"])
def test_what_a_link_leads_to_is_not_published(model, tmp_path, target):
    write(tmp_path, {"secret.txt": "hf_secret", "secrets/key.txt": "hf_secret"})
    (model / "sub" / "notes.txt").symlink_to(tmp_path / target)
    with pytest.raises(PublishError, match=f"notes.txt is a link to {tmp_path / target}, which is no file in "):
        plan(model, "me/clip")
    (model / "sub" / "notes.txt").unlink()
    (model / "sub" / ".hidden").symlink_to(tmp_path / target)
    (model / "sub" / "same.txt").symlink_to("vocab.txt")
    assert plan(model, "me/clip").files["sub/same.txt"] == 1


def test_a_folder_in_the_cache_of_the_hub_is_published(hub, model):
    publish(plan(model, "me/clip"))
    publish(plan(download_folder("me/clip", patterns=["*"]), "me/copy"))
    assert hub.paths("me/copy") == hub.paths("me/clip")


def test_names_of_files_are_what_they_are(hub, model, monkeypatch):
    names = ["a b.txt", "é.txt", "back\\slash.txt", "100%.txt", "q?.txt", "#h.txt", "~", "~root/.x/~", "Readme.md"]
    write(model, dict.fromkeys(names, "told") | {"empty.txt": "", "~root/model.safetensors": b"more"})
    monkeypatch.chdir(model)
    assert publish(plan(".", "me/clip")).changed and not publish(plan(".", "me/clip")).changed
    there = {"config.json", "model.safetensors", "README.md", "sub/vocab.txt", "empty.txt", "~root/model.safetensors"}
    assert hub.paths("me/clip") == there | set(names) - {"~root/.x/~"}


def test_plan_of_half_a_thing_says_so(tmp_path, model, world):
    half = tmp_path / "half"
    shutil.copytree(world / "sae", half)
    (half / "model.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    write(tmp_path / "text", {"a.txt": "a"})
    write(tmp_path / "weights", {"model.safetensors": "a"})
    for folder, repo_id, repo_type, message in [
        (half, None, None, "has no model.safetensors: was its saving interrupted?"),
        (tmp_path / "weights", None, None, "has none of config.json, model_index.json.* interrupted"),
        (tmp_path / "empty", None, None, "nothing to publish"),
        (tmp_path / "none", None, None, "is no folder"),
        (tmp_path / "text", None, None, "say which with repo_type"),
        (model, "a/b/c", None, "no id on the Hub"),
        (model, None, "kernel", "repo_type must be one of model, dataset, space"),
    ]:
        with pytest.raises(ValueError, match=message):
            plan(folder, repo_id, repo_type=repo_type)


def test_plan_of_damaged_weights_or_pack_names_the_file(tmp_path, world):
    shutil.copytree(world / "sae", tmp_path / "sae")
    pack = tmp_path / "sae" / "pack.json"
    pack.write_text('{"schema_version": 3}')
    with pytest.raises(ValueError, match=f"nobody could use it: {pack} is damaged: no good files"):
        plan(tmp_path / "sae", "me/sae")
    pack.unlink()
    weights = tmp_path / "sae" / "model.safetensors"
    for cut in (weights.read_bytes()[:-40], b"version https://git-lfs.github.com/spec/v1\n"):
        weights.write_bytes(cut)
        with pytest.raises(ValueError, match=f"{weights} is damaged or half-written .*: save or download it again"):
            plan(tmp_path / "sae", "me/sae")


@pytest.mark.parametrize("content", ["Für alle".encode("latin-1"), b"---\n: [\n---\n", b"---\n- a\n---\n"])
def test_plan_names_a_card_whose_header_is_damaged(model, content):
    write(model, {"README.md": content})
    with pytest.raises(ValueError, match="the header of .*/clip/README.md cannot be read .*: mend it, or delete it"):
        plan(model, "me/clip")


@pytest.mark.parametrize("name", ["pack.json", "evaluation.json", "training.json", "metrics.json"])
@pytest.mark.parametrize("content", ["{", "[1]"])
def test_plan_names_a_damaged_results_file(world, tmp_path, name, content):
    shutil.copytree(world / "sae", tmp_path / "sae")
    write(tmp_path / "sae", {name: content})
    with pytest.raises(ValueError, match=f"{tmp_path}/sae/{name} .*: write it again, or delete it"):
        plan(tmp_path / "sae", "me/sae")


def test_plan_writes_nothing_and_names_the_repository_in_the_card(world):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    upload = plan(world / "sae", "me/sae")
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before
    assert "me/sae" in upload.rewritten["README.md"].decode() and not edited_by_hand(
        upload.rewritten["README.md"].decode()
    )
    assert upload.files["README.md"] == len(upload.rewritten["README.md"])


def test_every_file_of_a_pack_is_known_as_a_result():
    assert {INFO, *FILES, CONTEXTS, ICONS} <= set(RESULTS)


# ---------------------------------------------------------------------------------------------------- publish


def test_any_folder_is_one_commit_and_then_none(hub, tmp_path, model, space):
    data = write(tmp_path / "data", {"data/test.parquet": "x"})
    for folder, key in ((model, "me/it"), (data, "datasets/me/it"), (space, "spaces/me/it")):
        upload = plan(folder, "me/it")
        first = publish(upload)
        assert {path: hub.files[key][first.commit][path] for path in upload.files} == {
            path: (folder / path).read_bytes() for path in upload.files
        }
        assert first.changed and first.url.endswith(f"/{key}/commit/{first.commit}")
        again = publish(upload)
        assert (again.changed, again.commit, again.url) == (False, first.commit, first.url)
    assert len(hub.commits) == 3 and not hub.private


def test_what_is_there_is_not_sent_again(hub, model):
    publish(plan(model, "me/clip"))
    (model / "sub" / "vocab.txt").write_text("b")
    sent = len(hub.calls)
    assert publish(plan(model, "me/clip")).changed
    later = [call.request for call in hub.calls[sent:]]
    assert not any(request.startswith("PUT") for request in later)
    assert hub.files["me/clip"]["main"]["sub/vocab.txt"] == b"b"


def test_what_has_another_size_is_not_hashed(hub, model, monkeypatch):
    publish(plan(model, "me/clip"))
    hashed = []
    monkeypatch.setattr(upload_module, "content_hash", lambda source, like: hashed.append(source.name) or like)
    (model / "sub" / "vocab.txt").write_text("longer")
    publish(plan(model, "me/clip"))
    assert sorted(hashed) == ["README.md", "config.json", "model.safetensors"]
    assert hub.files["me/clip"]["main"]["sub/vocab.txt"] == b"longer"


def test_a_space_is_replaced_as_a_whole(hub, space):
    publish(plan(space, "me/page"))
    assert b"sdk: gradio" in hub.files["spaces/me/page"]["main"]["README.md"], "instead of the Hub's own card"
    (space / "cbsae_hub" / "checkpoint.py").rename(space / "cbsae_hub" / "new.py")
    publish(plan(space, "me/page"))
    assert hub.paths("spaces/me/page") == {"README.md", "app.py", "cbsae_hub/new.py"}
    (space / "README.md").write_text("---\ntitle: x\n---\n")
    with pytest.raises(PublishError, match="is no Space: it needs a README.md whose header says `sdk: gradio`"):
        publish(plan(space, "me/page", repo_type="space"))


def test_other_files_of_a_model_stay(hub, model):
    publish(plan(model, "me/clip"))
    (model / "sub" / "vocab.txt").unlink()
    (model / "model.safetensors").write_bytes(b"others")
    publish(plan(model, "me/clip"))
    assert "sub/vocab.txt" in hub.paths("me/clip")


def test_weights_in_other_shards_replace_all_of_the_old_ones(hub, model, caplog):
    write(model, {"vae/model.safetensors": b"vae", "model.fp16.safetensors": b"half"})
    publish(plan(model, "me/clip"))
    (model / "model.safetensors").unlink()
    (model / "vae" / "model.safetensors").unlink()
    index = "model.safetensors.index.json"
    shards = {"model-00001-of-00002.safetensors": b"wei", "model-00002-of-00002.safetensors": b"ghts"}
    write(model, {**shards, index: "{}"})
    publish(plan(model, "me/clip"))
    others = {"README.md", "config.json", "sub/vocab.txt", "vae/model.safetensors", "model.fp16.safetensors"}
    assert hub.paths("me/clip") == {*others, *shards, index}
    assert "removing what is of the replaced weights from me/clip: model.safetensors" in caplog.text
    for name in (*shards, index):
        (model / name).unlink()
    write(model, {"model.safetensors": b"weights"})
    publish(plan(model, "me/clip"))
    assert hub.paths("me/clip") == {*others, "model.safetensors"}


def test_a_card_edited_on_the_hub_is_kept_until_told_otherwise(hub, model, caplog):
    upload = plan(model, "me/clip")
    publish(upload)
    hub.files["me/clip"]["main"]["README.md"] = b"# Better\n"
    assert not publish(upload).changed and "keeping the hand-edited README.md of me/clip" in caplog.text
    assert publish(upload, overwrite_card=True).changed
    assert hub.files["me/clip"]["main"]["README.md"] == b"# A model\n"


def test_a_pull_request(hub, model):
    publish(plan(model, "me/clip"))
    before = dict(hub.files["me/clip"]["main"])
    hub.fail("POST /api/repos/create", 403)  # somebody else's
    (model / "sub" / "vocab.txt").write_text("b")
    asked = publish(plan(model, "me/clip"), create_pr=True, message="Another word")
    assert asked.changed and asked.url.endswith("/me/clip/discussions/1")
    assert hub.files["me/clip"]["main"] == before
    assert hub.files["me/clip"]["refs/pr/1"]["sub/vocab.txt"] == b"b"


def test_a_folder_that_changes_while_it_is_sent(hub, model, monkeypatch):
    def writes(handler, body, **_):
        (model / "model.safetensors").write_bytes(b"longer weights")
        os.utime(model / "model.safetensors", ns=(0, 0))
        handler.answer({"errors": [], "warnings": []})

    monkeypatch.setitem(stub_hub._Handler.ROUTES, r"POST /api/validate-yaml", writes)
    with pytest.raises(PublishError, match="me/clip was published while model.safetensors changed.*: publish it again"):
        publish(plan(model, "me/clip"))
    assert not any(name.startswith("sha256-") for name in hub.files["me/clip"])


def test_a_repository_that_would_leave_out_half_of_a_model(hub, model):
    publish(plan(model, "me/clip"))
    hub.files["me/clip"]["main"][".gitignore"] = b"*.safetensors\n"
    write(model, {"model.safetensors": "others", "sub/vocab.txt": "b"})
    with pytest.raises(PublishError, match="its .gitignore makes the Hub leave out model.safetensors; delete it there"):
        publish(plan(model, "me/clip"))
    assert len(hub.commits) == 1
    hub.files["me/clip"]["main"][".gitignore"] = b"*.log\n"
    publish(plan(model, "me/clip"))
    assert hub.files["me/clip"]["main"]["model.safetensors"] == b"others" and len(hub.commits) == 2


def test_a_card_that_the_hub_does_not_take(hub, model):
    (model / "README.md").write_text("---\ntype: nonsense\n---\n")
    with pytest.raises(PublishError, match='me/clip was not published: Invalid metadata in README.md. - "type" is not'):
        publish(plan(model, "me/clip"))
    assert not hub.paths("me/clip")


# --------------------------------------------------------------------------------------------------- together


def test_published_copies_refer_to_each_other(hub, world, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in world.rglob("*") if path.is_file()}
    uploads = plan_together([world / name for name in ("bottleneck", "sae", "judge", "encoder")], "lab")
    order = [upload.repo_id for upload in uploads]
    assert order.index("lab/encoder") < order.index("lab/sae") < order.index("lab/bottleneck")
    assert uploads[order.index("lab/sae")].references == {"hub/encoder": "lab/encoder"}
    done = list(publish_together(uploads))
    assert [upload for upload, _ in done] == uploads and all(published.changed for _, published in done)
    assert {path: path.read_bytes() for path in world.rglob("*") if path.is_file()} == before

    sae, cb = SAE.from_pretrained("lab/sae"), CBSAE.from_pretrained("lab/bottleneck")
    assert (sae.encoder_id, sae.encoder_revision) == ("lab/encoder", folder_revision(world / "encoder"))
    assert cb.parent["id"] == "lab/sae" and cb.parent["revision"] == folder_revision(world / "sae")
    encoder = VisionEncoder.from_pretrained(sae.encoder_id, sae.layer, sae.tokens, sae.encoder_revision)
    picture = Image.new("RGB", (40, 40), "red")
    here = VisionEncoder.from_pretrained(world / "encoder", sae.layer, sae.tokens)
    assert torch.equal(encoder([picture]), here([picture]))
    assert folder_revision(world / "sae") == sae_revision(hub)

    assert not any(published.changed for _, published in publish_together(uploads))


def sae_revision(hub):
    [tag] = [name for name in hub.files["lab/sae"] if name.startswith("sha256-")]
    return tag.replace("-", ":")


def test_an_encoder_that_was_replaced_is_still_found(hub, world, tmp_path):
    publish(plan(world / "encoder", "lab/encoder"))
    wanted = folder_revision(world / "encoder")
    changed = tmp_path / "encoder"
    shutil.copytree(world / "encoder", changed)
    content = bytearray((changed / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (changed / "model.safetensors").write_bytes(content)
    publish(plan(changed, "lab/encoder"))
    assert VisionEncoder.from_pretrained("lab/encoder", 1, revision=wanted).revision == wanted
    with pytest.raises(ValueError, match=f"lab/encoder holds weights {folder_revision(changed)}, but sha256:0{{16}}"):
        VisionEncoder.from_pretrained("lab/encoder", 1, revision="sha256:" + "0" * 16)


def test_checkpoints_beside_weights_do_not_change_what_they_are_called(hub, model):
    write(model, {"checkpoint-10/model.safetensors": b"old", ".cache/model.safetensors": b"other"})
    wanted = folder_revision(model)
    publish(plan(model, "lab/clip"))
    located = locate("lab/clip", wanted)
    folder, found = located.folder, located.revision
    assert found == wanted == folder_revision(folder)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])  # the second is what Windows makes of an edited file
def test_a_reference_to_other_weights_is_no_reference(world, tmp_path, encoding):
    copy = tmp_path / "hub"
    shutil.copytree(world, copy)
    config = json.loads((copy / "sae" / "config.json").read_text())
    config["encoder_revision"] = "sha256:0123456789abcdef"
    (copy / "sae" / "config.json").write_text(json.dumps(config), encoding=encoding)
    with pytest.raises(ValueError, match="refers to hub/encoder with weights sha256:0123456789abcdef, but .* holds"):
        plan_together([copy / "sae", copy / "encoder"], "lab")


def test_only_ids_are_replaced(world, tmp_path):
    copy = tmp_path / "hub"
    shutil.copytree(world, copy)
    notes = """{"id": "hub/encoder", "list": ["hub/encoder"], "number": 1e-05,
        "said": "see hub/encoder", "command": "train.py --output hub/encoder", "label": "encoder",
        "teacher": {"id": "openai/encoder", "revision": "0123456789012345678901234567890123456789"}}"""
    (copy / "sae" / "notes.json").write_text(notes)
    (copy / "sae" / "broken.json").write_text("{")
    uploads = {upload.repo_id: upload for upload in plan_together([copy / "sae", copy / "encoder"], "lab")}
    expected = notes.replace('"hub/encoder"', '"lab/encoder"').encode()
    assert uploads["lab/sae"].rewritten["notes.json"] == expected
    assert uploads["lab/sae"].references == {"hub/encoder": "lab/encoder"}
    assert "broken.json" in uploads["lab/sae"].files


@pytest.mark.parametrize("name", ["clip é", "clip\\vit", 'clip"vit'])
@pytest.mark.parametrize("ascii", [True, False])
def test_ids_are_replaced_however_json_writes_them(model, tmp_path, name, ascii):
    encoder = tmp_path / name
    shutil.copytree(model, encoder)
    user = write(tmp_path / "user", {"model.safetensors": b"weights"})
    for file in ("config.json", "notes.json"):
        (user / file).write_text(json.dumps({"encoder_id": str(encoder)}, ensure_ascii=ascii), encoding="utf-8")
    assert references(user, {encoder: "lab/clip"}) == {str(encoder): "lab/clip"}
    rewritten = with_names(user, {str(encoder): "lab/clip"})
    assert [json.loads(rewritten[file]) for file in ("config.json", "notes.json")] == 2 * [{"encoder_id": "lab/clip"}]


def test_parts_of_cards_written_by_hand(world, tmp_path):
    (tmp_path / "sae.md").write_text("---\nlicense: mit\n---\nThe story of {{ repo_id }}.\n")
    [upload] = plan_together([world / "sae"], "lab", cards=tmp_path)
    assert "The story of lab/sae." in upload.rewritten["README.md"].decode()


def test_the_first_failure_says_what_is_done_and_left(hub, world, model):
    uploads = plan_together([world / "encoder", world / "sae", model], "lab")
    stop = uploads[1].repo_id
    hub.fail(f"POST /api/models/{stop}/commit", 403)
    done = []
    with pytest.raises(PublishError, match=f"{stop} was not published.*\nDone: {uploads[0].repo_id}\nLeft: {stop}, "):
        done.extend(upload.repo_id for upload, _ in publish_together(uploads))
    assert [key for key in hub.files if hub.paths(key)] == [uploads[0].repo_id]
    hub.heal()
    assert [published.changed for _, published in publish_together(uploads)] == [False, True, True]


def test_a_collection_that_cannot_be_had_is_no_loss(hub, model):
    uploads = [plan(model, "lab/clip")]
    hub.fail("POST /api/collections", 500)
    with pytest.raises(
        PublishError, match="lab/clip was published, but is not in the collection 'Ours': the Hub is in"
    ):
        list(publish_together(uploads, collection="Ours"))
    hub.heal()
    for _ in range(2):
        list(publish_together(uploads, collection="Ours"))
    [collection] = hub.collections.values()
    assert collection["items"] == [{"id": "lab/clip", "type": "model"}] and collection["namespace"] == "lab"


def test_a_collection_of_whoever_is_logged_in(hub, model):
    [(_, published)] = publish_together([plan(model)], collection="Ours")
    assert published.repo_id == "me/clip"
    [collection] = hub.collections.values()
    assert collection["items"] == [{"id": "me/clip", "type": "model"}] and collection["namespace"] == "me"


def test_folders_of_one_name(model, tmp_path):
    shutil.copytree(model, tmp_path / "other" / "clip")
    with pytest.raises(ValueError, match="same name"):
        plan_together([model, tmp_path / "other" / "clip"], "lab")


def test_folders_of_this_machine_are_named(world, monkeypatch, caplog):
    monkeypatch.chdir(world.parent)
    with caplog.at_level(logging.WARNING):
        plan(world / "sae", "lab/sae")
    assert "hub/encoder are folders of this machine: publish them together" in caplog.text
    caplog.clear()
    plan_together([world / "sae", world / "encoder"], "lab")
    assert not caplog.records


def test_no_whole_path_of_this_machine_is_published(tmp_path, hub):
    folder, pictures = tmp_path / "secret" / "sae", tmp_path / "secret" / "my pictures"
    pictures.mkdir(parents=True)
    data = {"id": str(pictures), "split": "train"}
    sae = SAE(8, 16, "topk", 2, seed=0, encoder_id=str(tmp_path / "secret" / "encoder"), layer=1, training_data=data)
    sae.save_pretrained(folder)
    command = f"python {tmp_path}/secret/train_sae.py --output={folder} --set k=2"
    told = {"revision": folder_revision(folder), "seed": 0, "versions": {}, "config": {}, "command": command}
    (folder / "training.json").write_text(json.dumps(told))
    (folder / "evaluation.json").write_text(json.dumps({**told, "settings": {"output": str(pictures)}, "tables": {}}))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    upload = plan(folder, "me/sae")
    sent = {path: upload.source(path) for path in upload.files}
    texts = {path: source if isinstance(source, bytes) else source.read_bytes() for path, source in sent.items()}
    assert not [path for path, text in texts.items() if b"secret" in text]
    config = json.loads(texts["config.json"])
    assert (config["encoder_id"], config["training_data"]["id"]) == ("encoder", "my pictures")
    assert json.loads(texts["training.json"])["command"] == "python train_sae.py --output=sae --set k=2"
    assert upload.files["config.json"] == len(texts["config.json"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "the folder stays as it is"

    SAE.from_pretrained(folder).push_to_hub("me/pushed")
    for path in ("config.json", "training.json", "evaluation.json", "README.md"):
        assert b"secret" not in Path(download_folder("me/pushed", None, [path]) / path).read_bytes(), path
