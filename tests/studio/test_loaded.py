"""The guard of uploads, and what an inspection says."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from small_hub import CONCEPTS, Pictures, make_hub

from cbsae_hub.pack_builder import build_pack
from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.studio.loaded import ImageRefused, Loaded, read_picture


def bomb(side: int) -> bytes:
    """A PNG header that promises side x side pixels, over a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png(size=(20, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(6000), "36|million"),
        (bomb(60000), "not a picture|million"),
        (b"", "not a picture"),
        (b"GIF89a" + b"\0" * 50, "not a picture"),
        (b"<svg onload=alert(1)>", "not a picture"),
        (b"%PDF-1.4", "not a picture"),
        (png()[:-30], "damaged"),
        (png((1, 500)), "line of pixels"),
    ],
)
def test_bad_uploads_get_a_sentence(tmp_path, content, message):
    path = tmp_path / "upload.png"
    path.write_bytes(content)
    with pytest.raises(ImageRefused, match=message):
        read_picture(str(path))


def test_good_uploads_are_upright_rgb(tmp_path):
    picture = Image.new("RGB", (40, 20), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(str(tmp_path / "a.jpg")).size == (20, 40)
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "b.png")
    found = read_picture(str(tmp_path / "b.png"))
    assert found.mode == "RGB" and found.getpixel((0, 0)) == (255, 255, 255)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    sae, encoder, judge, folder = make_hub(tmp_path_factory.mktemp("hub"))
    scorer = NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS}, truth=Truth.read(Pictures(), {}))
    build_pack(scorer, Pictures(), folder, source={}, alt_column="caption")
    info = (folder / "pack.json").read_text().replace(str(folder.parent / "judge"), "me/judge")
    (folder / "pack.json").write_text(info)
    return Loaded(folder)


def test_an_inspection_is_the_models_own_numbers(loaded):
    picture = Pictures()[7]["image"]
    seen = loaded.inspect(picture)
    with torch.no_grad():
        x = loaded.encoder([picture])[0]
        z, decoded = loaded.sae(x)
        error, size = (x - decoded).square().sum(1), (x - loaded.sae.b_dec).square().sum(1)
    assert set(seen.active) == set(z.any(0).nonzero().ravel().tolist())
    np.testing.assert_allclose(seen.latents, z[:, seen.active.tolist()], atol=1e-5)
    assert (np.diff(seen.latents.mean(0)) <= 1e-7).all(), "strongest first"
    assert seen.explained == pytest.approx(1 - (error.sum() / size.sum()).item(), abs=1e-5)
    np.testing.assert_allclose(seen.token_error, error / size, rtol=1e-4)


def test_the_picture_is_shown_as_the_encoder_sees_it(loaded):
    wide = Image.new("RGB", (60, 20), "red")
    wide.paste("lime", (20, 0, 40, 20))  # the centre crop is all green
    with Image.open(io.BytesIO(loaded.inspect(wide).shown)) as shown:
        centre = np.asarray(shown.convert("RGB"), int).reshape(-1, 3).mean(0)
    assert centre[1] > 200 and centre[0] < 60


def test_siblings_are_found_and_a_missing_judge_is_survived(loaded, tmp_path, caplog):
    assert loaded.judge is not None and loaded.encoder.repo_id == "me/encoder"
    lonely = Loaded(loaded.model_id)
    lonely.pack.info["judge"]["id"] = str(tmp_path)
    lonely.pack.info["judge"]["revision"] = None
    assert lonely.judge is None
    assert "no search by meaning" in caplog.text
