import numpy as np
import pytest
import timm
import torch
from PIL import Image

from training.photo_world.cutouts import STAMPS_FOLDER
from training.photo_world.judges import ARCHITECTURE, Lite, convert_lite


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model(ARCHITECTURE).eval()


def test_weights_under_other_names_make_the_same_network(network, tmp_path):
    state = {
        f"_layers.{i}.{name.rpartition('.')[2]}": one for i, (name, one) in enumerate(network.state_dict().items())
    }
    torch.save(state, tmp_path / "lite.pth")
    convert_lite(tmp_path / "lite.pth", tmp_path / "judge")
    lite = Lite(tmp_path / "judge")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    pixels = torch.from_numpy((np.asarray(picture, np.float32) - 127) / 128).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = network.global_pool(network.forward_features(pixels)).flatten(1)
    torch.testing.assert_close(lite([picture]), expected / expected.norm(), rtol=1e-4, atol=1e-5)


def test_weights_of_another_network_are_refused(network, tmp_path):
    state = dict(list(network.state_dict().items())[:-2])
    torch.save(state, tmp_path / "lite.pth")
    with pytest.raises(ValueError, match=f"is no {ARCHITECTURE}"):
        convert_lite(tmp_path / "lite.pth", tmp_path / "judge")


def test_the_real_judge_knows_what_is_on_photographs(real):
    """ImageNet's numbers of zebra, broccoli and lemon."""
    known = {"animals/mammals/equines/zebra": 340, "food/vegetables/broccoli": 937, "food/fruit/lemon": 951}
    lite, root = Lite(real / "judge"), real / "downloads" / "tuxpaint-stamps-default" / STAMPS_FOLDER
    pictures = [Image.open(root / f"{name}.png") for name in known]
    squares = []
    for picture in pictures:
        square = Image.new("RGBA", [round(max(picture.size) * 1.2)] * 2, "white")
        square.alpha_composite(picture.convert("RGBA"), tuple((square.width - side) // 2 for side in picture.size))
        squares.append(square)
    with torch.no_grad():
        answers = lite.model(lite.pixel_values(squares)).argmax(1).tolist()
    assert answers == list(known.values())
