"""The guard of uploads, and the names by which pictures are known."""

import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.view.images import WHITE, ImageStore, from_text, read_image


class Pack:
    """A pack of one picture, number 12."""

    def has_image(self, image):
        return image == 12

    def image(self, image):
        return Image.new("RGB", (8, 8), (0, image, 0))


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
    with pytest.raises(Refused, match=message):
        read_image(str(path))


def test_good_uploads_are_upright_rgb(tmp_path):
    picture = Image.new("RGB", (40, 20), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(str(tmp_path / "a.jpg")).size == (20, 40)
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "b.png")
    found = read_image(str(tmp_path / "b.png"))
    assert found.mode == "RGB" and found.getpixel((0, 0)) == (255, 255, 255)


def test_names_lead_to_pictures_and_nobody_finds_anothers_upload():
    pictures = ImageStore()
    assert pictures.get(WHITE, Pack()).getextrema() == ((255, 255),) * 3
    assert pictures.get("s12", Pack()).getpixel((0, 0)) == (0, 12, 0)
    large = Image.radial_gradient("L").convert("RGB").resize((3000, 1500))
    names = [pictures.keep(large) for _ in range(2)]
    assert names[0] != names[1] and min(map(len, names)) > 20
    assert pictures.get(names[0], Pack()).size == (512, 256)
    for bad in ("s13", "s-1", "s12/..", names[0][1:], names[0][:-1], "/etc/passwd", "", None, 7, ["s12"]):
        with pytest.raises(Refused, match="no longer in memory"):
            pictures.get(bad, Pack())


def test_pictures_as_text():
    text = base64.b64encode(png((20, 30))).decode()
    assert from_text(text, Pack()).size == (20, 30)
    assert from_text(f"data:image/png;base64,{text}", Pack()).getpixel((0, 0)) == (255, 0, 0)
    assert from_text("s12", Pack()).size == (8, 8)


@pytest.mark.parametrize(
    "write",
    [
        lambda text: "\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\n",  # base64 of coreutils
        lambda text: "\r\n".join(text[i : i + 64] for i in range(0, len(text), 64)),
        lambda text: f"  {text}\t",
        lambda text: "data:image/png;base64,\n" + text,
        lambda text: "data:image/png;name=my%20cat.png;base64," + text,
        lambda text: "data:image/svg+xml;charset=utf-8;base64," + text,  # its content counts, which is PNG
        lambda text: "data:application/octet-stream;base64," + text,
        lambda text: "data:;base64," + text,
        lambda text: "DATA:IMAGE/PNG;BASE64," + text,
    ],
)
def test_base64_is_read_as_people_write_it(write):
    assert from_text(write(base64.b64encode(png((20, 30))).decode()), Pack()).size == (20, 30)


def test_line_ends_do_not_count_as_bytes_of_a_picture():
    noise = Image.effect_noise((1650, 1600), 90).convert("RGB")
    buffer = io.BytesIO()
    Image.merge("RGB", [noise.getchannel(0), noise.getchannel(0).rotate(90), noise.getchannel(0)]).save(buffer, "PNG")
    content = buffer.getvalue()
    padded = content + b"\0" * (8_000_000 - len(content))  # a PNG ends where it says
    assert len(padded) == 8_000_000
    text = base64.encodebytes(padded).decode()
    assert from_text(text, Pack()).size == (1650, 1600)
    with pytest.raises(Refused, match="larger than 8 MB"):
        from_text(base64.encodebytes(padded + b"\0" * 200).decode(), Pack())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://127.0.0.1/x.png", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("/etc/passwd", "not fetched|not a picture"),
        ("s13", "not fetched|not a picture"),
        (base64.b64encode(b"<svg onload=alert(1)>").decode(), "not a picture"),
        (base64.b64encode(bomb(6000)).decode(), "million"),
        ("A" * 12_000_000, "larger than 8 MB"),
        ("data:image/png," + base64.b64encode(png()).decode(), "not fetched"),
        ("data:text/html,x;base64," + base64.b64encode(png()).decode(), "not fetched"),
        ("https://a.b/data:image/png;base64," + base64.b64encode(png()).decode(), "not fetched"),
        (None, "given as text"),
        ({"path": "/etc/passwd"}, "given as text"),
    ],
)
def test_texts_that_are_no_pictures_are_refused(text, message):
    with pytest.raises(Refused, match=message):
        from_text(text, Pack())
