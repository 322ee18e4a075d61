import json
import re
import shutil

import datasets
import pandas as pd
import pytest
from small_hub import CONCEPTS, Pictures, make_bottleneck, make_hub, make_pack

from cbsae_hub import CBSAE, SAE, Pack
from cbsae_hub.scoring import NeuronScorer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Encoder, judge, SAE, bottleneck, pictures and a list of concepts, as somebody has them who has no pack."""
    folder = tmp_path_factory.mktemp("world")
    sae, encoder, _, _ = make_hub(folder)
    make_bottleneck(sae, encoder, folder)
    columns = Pictures().columns
    (folder / "pictures").mkdir()
    datasets.Dataset.from_dict(columns).to_parquet(folder / "pictures" / "train.parquet")
    (folder / "colours.txt").write_text("\n".join(CONCEPTS))
    return folder


@pytest.fixture
def given(world):
    return ("--images", world / "pictures", "--judge", world / "judge", "--concepts", world / "colours.txt",
            "--top-k", 8, "--batch-size", 16)  # fmt: skip


@pytest.mark.parametrize(("model", "cls"), [("sae", SAE), ("bottleneck", CBSAE)])
def test_pack_is_that_of_the_library(answer, world, given, tmp_path, model, cls):
    told = answer("pack", world / model, *given, "--truth", "thing=things.name", "--output", tmp_path / "new")
    images = datasets.Dataset.from_dict(Pictures().columns)
    scorer = NeuronScorer.from_pretrained(
        world / model, images, judge=str(world / "judge"), concepts={"colours": world / "colours.txt"},
        truth={"thing": "things.name"}, top_k=8,
    )  # fmt: skip
    shutil.copytree(world / model, tmp_path / "by-hand")
    expected = make_pack(scorer, images, tmp_path / "by-hand", source={}, alt_column="caption", batch_size=16)
    found = Pack.from_pretrained(tmp_path / "new")
    pd.testing.assert_frame_equal(found.neurons.frame, expected.neurons.frame)
    neuron = int(found.neurons.sort("density").frame["neuron"][0])
    strips = [[vars(example) | {"patch_map": None, "image": None} for example in one.examples(neuron)]
              for one in (found, expected)]  # fmt: skip
    assert strips[0] == strips[1] and "on the" in strips[0][0]["alt"]
    assert found.info["images"] == {"id": str(world / "pictures"), "split": "train", "n": 48}
    assert told["scores"] == found.info["scores"]
    assert (told["neurons"], told["images"]) == (len(found.neurons), 48)
    # The folder is whole: a model with its pack, of which the other commands tell.
    assert cls.from_pretrained(tmp_path / "new").revision == cls.from_pretrained(world / model).revision
    assert answer("info", tmp_path / "new")["pack"]["stale"] is False


def test_pack_goes_beside_the_model_and_is_not_replaced_unasked(cbsae, answer, world, given, tmp_path):
    for name in ("encoder", "sae"):
        shutil.copytree(world / name, tmp_path / name)
    model = tmp_path / "sae"
    result = cbsae("pack", model, *given, "--max-images", 20)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0].split() == ["pack", str(model)]
    before = (model / "pack.json").read_bytes()
    assert json.loads(before)["images"]["n"] == 20
    assert "--overwrite replaces it" in answer("pack", model, *given, code=1)["error"]
    assert (model / "pack.json").read_bytes() == before
    assert answer("pack", model, *given, "--overwrite")["images"] == 48


def test_scores_that_are_there_make_the_same_pack_and_nothing_is_scored_again(
    cbsae, answer, world, given, tmp_path, monkeypatch
):
    for name in ("encoder", "judge", "sae"):
        shutil.copytree(world / name, tmp_path / name)
    model = tmp_path / "sae"
    settings = {"model": model, "judge": tmp_path / "judge", "images": world / "pictures", "split": "train",
                "concepts": f"{{colours: {world / 'colours.txt'}}}", "top_k": 8, "batch_size": 16}  # fmt: skip
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    told = answer("score", *sets, "--output", tmp_path / "scores")
    assert told["folder"] == str(tmp_path / "scores") and 0 <= told["figures"]["names above chance"] <= 1
    answer("pack", model, *given, "--output", tmp_path / "new")

    monkeypatch.setattr("cbsae_hub.scoring.NeuronScorer.run", None)  # nothing is scored again
    told = answer("pack", model, "--scores", tmp_path / "scores")
    assert told["folder"] == str(model) and told["images"] == 48
    frames = [Pack.from_pretrained(folder).neurons.frame for folder in (model, tmp_path / "new")]
    pd.testing.assert_frame_equal(*frames)
    assert "--overwrite replaces it" in answer("pack", model, "--scores", tmp_path / "scores", code=1)["error"]
    result = cbsae("pack", model, "--scores", tmp_path / "scores", "--split", "train", "--overwrite")
    assert result.exit_code == 2 and "--scores without --split" in " ".join(result.stderr.replace("│", "").split())


def test_interrupted_pack_can_be_started_again_but_not_over_another_model(answer, world, given, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise OSError("no space left on device")

    output = ("--output", tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr("cbsae_hub.scoring.build_pack.build_pack", interrupted)
        assert answer("pack", world / "sae", *given, *output, code=1)["error"] == "no space left on device"
    assert "holds another model" in answer("pack", world / "bottleneck", *given, *output, code=1)["error"]
    assert answer("pack", world / "sae", *given, *output)["neurons"] == 32


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (["--truth", "colour"], 2, "KIND=COLUMN"),
        (["--truth", "colour=nothing"], 1, "'nothing'"),
        (["--truth", "colour=things.colour"], 1, "no records with 'colour'"),
        (["--truth", "colour=side.name"], 1, "no records with 'name'"),
        (["--split", "probe"], 1, "it has train"),
        (["--concepts", "missing.txt"], 1, "missing.txt"),
        (["--concepts", "elsewhere/colours.txt"], 2, "the same name"),
        (["--judge", "hub/emoji-dino"], 1, "without a text"),
        (["--images", "nowhere"], 1, "nowhere"),
    ],
)
def test_what_is_missing_is_said(cbsae, world, given, tmp_path, changes, code, said):
    result = cbsae("pack", world / "sae", *given, "--output", tmp_path / "new", *changes)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr.replace("\n", " ")
    assert not (tmp_path / "new").exists()


def test_model_of_the_hub_needs_a_folder(cbsae, given):
    result = cbsae("pack", "somebody/sae", *given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--output" in result.stderr


def test_many_captions_and_labels_and_a_folder_with_brackets(answer, world, given, tmp_path):
    """As COCO and Flickr30k have them; and classes by number."""
    columns = Pictures().columns
    columns["caption"] = [[text, f"again: {text}"] for text in columns["caption"]]
    columns["label"] = [[0.0, 1.0] if row % 2 else [] for row in range(48)]
    (tmp_path / "my [pictures] 2024").mkdir()
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "my [pictures] 2024" / "train.parquet")
    answer("pack", world / "sae", "--images", tmp_path / "my [pictures] 2024", *given[2:], "--truth", "number=label",
           "--output", tmp_path / "new")  # fmt: skip
    pack = Pack.from_pretrained(tmp_path / "new")
    alt = pack.alt(pack.image_ids()[0])
    first, second = alt.split("; ")
    assert second == f"again: {first}"
    assert set(pack.neurons.frame["truth"].dropna()) == {"0"}, "both fit equally well"


def test_help_names_the_list_that_comes_with_the_package(cbsae):
    assert "common, the list" in " ".join(re.sub("[│|]", " ", cbsae("pack", "--help").stdout).split())
