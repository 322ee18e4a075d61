"""``cbsae steer --clip`` against the steerer; a tiny random CLIP."""

import pytest
import torch
from own_model import make_clip_model

from cbsae_hub import SAE, Edit, Pack, Steering
from cbsae_hub.pictures import white_image
from cbsae_hub.steering import ClipZeroShotSteerer, RandomDirection


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_clip_model(tmp_path_factory.mktemp("clip"))


def test_words_are_those_of_the_steerer(answer, folder):
    encoder = folder.parent / "encoder"
    told = answer("steer", folder, "white", "--edit", "7=9", "--edit", "8=2", "--keep-error", "--clip", encoder,
                  "--words", 3, "--template", "a {}")  # fmt: skip
    sae, pack = SAE.from_pretrained(folder), Pack.from_pretrained(folder)
    clip = ClipZeroShotSteerer.from_pretrained(encoder, sae, pack.vocabulary, pack, template="a {}")
    steering = Steering([Edit(7, 9.0), Edit(8, 2.0)], keep_error=True)
    versions = [None, Steering([]), steering, RandomDirection(steering, 0)]
    expected = clip.effect([white_image()] * 4, versions).after
    assert list(told["words"]) == ["original", "sae", "steered", "random"] and told["answers"] is None
    for words, row in zip(told["words"].values(), expected):
        best = sorted(zip(row.tolist(), clip.vocabulary), reverse=True)[:3]
        assert [one["word"] for one in words] == [word for _, word in best]
        torch.testing.assert_close(torch.tensor([one["probability"] for one in words]),
                                   torch.tensor([value for value, _ in best]))  # fmt: skip


def test_words_of_a_file_as_text(cbsae, folder, tmp_path):
    (tmp_path / "words.txt").write_text("zebra\ncow\n")
    result = cbsae("steer", folder, "white", "--edit", "7=9", "--clip", folder.parent / "encoder", "--vocabulary",
                   tmp_path / "words.txt")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    names = ["original", "SAE alone", "steered", "random direction"]
    for line, name in zip(result.stdout.splitlines(), names, strict=True):
        assert line.startswith(name) and "zebra " in line and "cow " in line and line.count("%") == 2


def test_words_of_whom_nobody_asks_are_usage_errors(cbsae, folder):
    result = cbsae("steer", folder, "white", "--edit", "7=9", "--words", 2, "--llava", "hub/emoji-llava")
    assert (result.exit_code, result.stdout) == (2, "") and "--words" in result.stderr
    for file in folder.glob("*"):
        if file.suffix == ".safetensors" or file.name == "config.json":
            (folder.parent / "bare").mkdir(exist_ok=True)
            (folder.parent / "bare" / file.name).write_bytes(file.read_bytes())
    bare = cbsae("steer", folder.parent / "bare", "white", "--edit", "7=9", "--clip", folder.parent / "encoder")
    assert bare.exit_code == 1 and "give --vocabulary" in bare.stderr
