import json

import datasets
import pytest
import torch
from small_hub import CONCEPTS, Pictures, make_hub

from cbsae_hub import SAE, Pack


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small SAE beside its encoder and judge."""
    folder = tmp_path_factory.mktemp("world")
    make_hub(folder)
    return folder


def latents(folder):
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return SAE.from_pretrained(folder).encode(x)


def test_to_saelens_and_back_encodes_the_same(answer, world, tmp_path):
    there = answer("convert", world / "sae", tmp_path / "there", "--to", "saelens")
    assert {file.name for file in (tmp_path / "there").iterdir()} == {"cfg.json", "sae_weights.safetensors"}
    assert (there["to"], there["activation"], there["k"]) == ("saelens", "batch_topk", 4)
    back = answer("convert", tmp_path / "there", tmp_path / "back", "--encoder-id", "me/encoder", "--layer", 1)
    assert (back["format"], back["activation"], back["k"]) == ("saelens", "jumprelu", None)
    assert (back["encoder_id"], back["layer"], back["tokens"]) == ("me/encoder", 1, "patches")
    torch.testing.assert_close(latents(tmp_path / "back"), latents(world / "sae"))


@pytest.mark.slow
def test_imported_sae_gets_a_pack_and_is_looked_into(answer, cbsae, world, picture, tmp_path):
    saelens = world / "saelens"
    assert answer("convert", world / "sae", saelens, "--to", "saelens")
    assert answer("info", saelens)["imported_from"]["format"] == "saelens"
    assert "saelens, saelens" in cbsae("info", saelens).stdout
    assert answer("inspect", saelens, picture)["images"][0]["neurons"][0]["name"] is None
    datasets.Dataset.from_dict(Pictures().columns).to_parquet(tmp_path / "pictures" / "train.parquet")
    (tmp_path / "colours.txt").write_text("\n".join(CONCEPTS))
    told = answer("pack", saelens, "--images", tmp_path / "pictures", "--judge", world / "judge", "--top-k", 8,
                  "--concepts", tmp_path / "colours.txt", "--output", world / "imported")  # fmt: skip
    names = Pack.from_pretrained(world / "imported").neurons.frame["name"]
    assert told["named"] == names.notna().sum() > 10
    seen = answer("inspect", world / "imported", picture)["images"][0]["neurons"][0]
    assert seen["name"] == names[seen["neuron"]]
    assert answer("find", world / "imported", seen["name"])["neurons"]


def test_what_the_files_do_not_say_is_noted_and_asked_for(answer, cbsae, world, picture, tmp_path):
    answer("convert", world / "sae", tmp_path / "there", "--to", "saelens")
    config = json.loads((tmp_path / "there" / "cfg.json").read_text())
    del config["metadata"]
    (tmp_path / "there" / "cfg.json").write_text(json.dumps(config))
    result = cbsae("convert", tmp_path / "there", tmp_path / "bare")
    assert "encoder_id" in result.stdout
    assert "encoder_id" in answer("inspect", tmp_path / "bare", picture, code=1)["error"]


def test_nothing_is_written_over(answer, world, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    assert "not empty" in answer("convert", world / "sae", tmp_path, code=1)["error"]
    assert "not empty" in answer("convert", world / "sae", tmp_path / "mine.txt", code=1)["error"]
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["hub/emoji-cbsae", "--to", "saelens"], 1, "concept bottleneck"),
        (["hub/emoji-clip"], 1, "there is no SAE in"),
        (["hub/emoji-sae", "--from", "sparsify"], 1, "sparsify"),
        (["hub/emoji-sae", "--to", "pickle"], 2, "pickle"),
        (["nobody/nothing"], 1, "nobody/nothing"),
        (["hub/emoji-sae", "--tokens", "banana"], 1, "tokens must be cls, patches, all, mean or random:n"),
    ],
)
def test_what_cannot_be_converted_is_said(cbsae, tmp_path, arguments, code, said):
    source, *more = arguments
    result = cbsae("convert", source, tmp_path / "new", *more)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert not (tmp_path / "new").exists()
