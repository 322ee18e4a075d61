"""The one entrance for pictures, compared with what each mode and tag means, computed by numpy."""

import colorsys
import io
import re
import struct
import zlib
from pathlib import Path

import datasets
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps
from steerable_models import llava, pictures, sae_for, unclip
from tiny_models import build, processor

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.pictures import grid_of, to_rgb
from cbsae_hub.scoring.build_pack import thumbnails
from cbsae_hub.steering import LlavaSteerer, UnclipSteerer

ROOT = Path(__file__).parents[2]
NOISE = np.random.default_rng(0).integers(0, 256, (6, 9, 4), np.uint8)


def shown(image):
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and "transparency" not in rgb.info
    return np.asarray(rgb)


def on_white(rgb, alpha):
    """Alpha from 0 to 255, ``[h, w]``."""
    share = np.asarray(alpha, float)[..., None] / 255
    return np.rint(np.asarray(rgb, float) * share + 255 * (1 - share)).astype(np.uint8)


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, -1)


def palette():
    image = Image.fromarray(NOISE[..., 0], "P")
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)
    image.putpalette(colours.tobytes())
    return image, colours


def lab(lightness, a, b):
    """CIE L*a*b* at D50 to sRGB, 0 to 255, by the formulas of the ICC and of IEC 61966-2-1."""
    fy = (lightness / 255 * 100 + 16) / 116
    f = np.stack([fy + a / 500, fy, fy - b / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
    matrix = [
        (3.1338561, -1.6168667, -0.4906146),
        (-0.9787684, 1.9161415, 0.0334540),
        (0.0719453, -0.2289914, 1.4052427),
    ]
    linear = (xyz @ np.transpose(matrix)).clip(0, 1)
    return 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def of_mode(mode):
    """A picture of a mode, and what it looks like."""
    r, g, b, a = (NOISE[..., i].astype(int) for i in range(4))
    if mode == "1":
        return Image.fromarray(NOISE[..., 0] > 99), grey(255 * (NOISE[..., 0] > 99))
    if mode in ("L", "RGB", "RGBX"):
        return Image.fromarray(NOISE[..., 0] if mode == "L" else NOISE[..., :3]).convert(mode), (
            grey(r) if mode == "L" else NOISE[..., :3]
        )
    if mode == "LA":
        return Image.fromarray(NOISE[..., [0, 3]], "LA"), on_white(grey(r), a)
    if mode == "La":
        return Image.fromarray(np.stack([r * a // 255, a], -1).astype(np.uint8), "La"), grey(r * a // 255 + 255 - a)
    if mode == "P":
        image, colours = palette()
        return image, colours[r]
    if mode == "PA":
        image, colours = palette()
        image = image.convert("PA")
        image.putalpha(Image.fromarray(NOISE[..., 3]))
        return image, on_white(colours[r], a)
    if mode == "RGBA":
        return Image.fromarray(NOISE), on_white(NOISE[..., :3], a)
    if mode == "RGBa":
        multiplied = (NOISE[..., :3].astype(int) * a[..., None] // 255).astype(np.uint8)
        return Image.frombytes("RGBa", (9, 6), np.dstack([multiplied, a]).astype(np.uint8).tobytes()), (
            multiplied + grey(255 - a)
        )
    if mode == "CMYK":
        return Image.fromarray(NOISE, "CMYK"), np.stack([(255 - c) * (255 - a) / 255 for c in (r, g, b)], -1)
    if mode == "YCbCr":
        y, cb, cr = r, g - 128, b - 128
        own = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1).clip(0, 255)
        return Image.fromarray(NOISE[..., :3], "YCbCr"), own
    if mode == "HSV":
        own = [colorsys.hsv_to_rgb(*pixel / 255) for pixel in NOISE[..., :3].reshape(-1, 3).astype(float)]
        return Image.fromarray(NOISE[..., :3], "HSV"), 255 * np.reshape(own, (6, 9, 3))
    if mode == "LAB":  # a and b near grey, where no colour is out of sRGB; PIL keeps them as signed bytes
        near = np.stack([40 + r // 2, g // 8 - 16, b // 8 - 16])
        return Image.frombytes("LAB", (9, 6), np.moveaxis(near, 0, -1).astype(np.int8).tobytes()), lab(*near)
    wide = r * 256 + g  # 16 bits
    own = grey(np.rint(wide / 257))
    if mode == "I":
        return Image.fromarray(wide.astype(np.int32)), own
    order = ">" if mode == "I;16B" else "<"
    return Image.frombytes(mode, (9, 6), wide.astype(f"{order}u2").tobytes()), own


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "PA", "LA", "La", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16",
     "I;16L", "I;16B", "I;16N"],
)  # fmt: skip
def test_every_mode_shows_what_it_means(mode):
    image, expected = of_mode(mode)
    assert image.mode == mode
    off = np.abs(shown(image).astype(float) - expected).max()
    assert off <= {"RGBa": 1, "La": 1, "CMYK": 0.5, "YCbCr": 1, "HSV": 1, "LAB": 3}.get(mode, 0)


def test_pictures_of_numbers_without_a_white_are_refused():
    for values in (np.float32([[0, 0.5, 1]]), np.float32([[0, 700]]), np.int32([[-1, 4]]), np.int32([[0, 65536]])):
        with pytest.raises(ValueError, match="does not say which of them is white: scale them to 0 to 255"):
            to_rgb(Image.fromarray(values))
    dark = Image.fromarray(np.int32([[0, 200, 255]]))
    assert shown(dark)[0, :, 0].tolist() == [0, 200, 255], "8 bits in 32"


@pytest.mark.parametrize("make", [lambda v: v.astype("<u2"), lambda v: v.astype(">u2"), lambda v: v.astype("<i4")])
def test_sixteen_bits_become_eight(make):
    values = np.array([[0, 300, 25700, 40000, 65535]])
    expected = [round(value / 257) for value in values[0].tolist()]
    assert shown(Image.fromarray(make(values)))[0, :, 0].tolist() == expected


# ----------------------------------------------------------------------------------------------- transparency


def png(depth, kind, rows, transparent, colours=None):
    """A PNG file from its rows of bytes, by the specification: kind 0 is grey, 2 colour, 3 a palette."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    channels = 3 if kind == 2 else 1
    width = len(rows[0]) * 8 // depth // channels
    content = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0))
    content += chunk(b"PLTE", colours) if colours else b""
    content += chunk(b"tRNS", transparent)
    content += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + content)


def words(*values):
    return struct.pack(f">{len(values)}H", *values)


W = (255, 255, 255)
FILES = {
    "1 bit, black": (png(1, 0, [b"\x55"], words(0)), [W] * 8),
    "1 bit, white": (png(1, 0, [b"\x0f"], words(1)), [(0, 0, 0)] * 4 + [W] * 4),
    "2 bits": (png(2, 0, [b"\x1b"], words(2)), [(0, 0, 0), (85, 85, 85), W, W]),
    "2 bits, black": (png(2, 0, [b"\x1b"], words(0)), [W, (85, 85, 85), (170, 170, 170), W]),
    "4 bits": (png(4, 0, [b"\x05\xa3"], words(10)), [(0, 0, 0), (85, 85, 85), W, (51, 51, 51)]),
    "4 bits, 3 of all": (png(4, 0, [b"\x05\xa3"], words(3)), [(0, 0, 0), (85, 85, 85), (170, 170, 170), W]),
    "8 bits": (png(8, 0, [bytes([0, 3, 51, 255])], words(3)), [(0, 0, 0), W, (51, 51, 51), W]),
    "8 bits, dark": (png(8, 0, [bytes([0, 17, 1, 255])], words(1)), [(0, 0, 0), (17, 17, 17), W, W]),
    "16 bits": (png(16, 0, [words(0x1234, 0x1235, 0x34)], words(0x1234)), [W, (18, 18, 18), (0, 0, 0)]),
    "16 bits, low": (png(16, 0, [words(0x1234, 0x0034)], words(0x34)), [(18, 18, 18), W]),
    "colour": (png(8, 2, [bytes([1, 2, 3, 1, 2, 4, 0, 0, 0])], words(1, 2, 3)), [W, (1, 2, 4), (0, 0, 0)]),
    "colour, black": (png(8, 2, [bytes([1, 2, 3, 0, 0, 0])], words(0, 0, 0)), [(1, 2, 3), W]),
    "colour of 16 bits": (
        png(16, 2, [words(0x1234, 0x5678, 0x9ABC, 0x1334, 0x5678, 0x9ABC)], words(0x1234, 0x5678, 0x9ABC)),
        [W, (0x13, 0x56, 0x9A)],
    ),
    "palette, one": (png(8, 3, [bytes([0, 1])], b"\xff\0", bytes([10, 20, 30, 40, 50, 60])), [(10, 20, 30), W]),
    "palette, shares": (
        png(8, 3, [bytes([0, 1])], bytes([51, 255]), bytes([10, 20, 30, 40, 50, 60])),
        [(206, 208, 210), (40, 50, 60)],
    ),
}


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_transparent_colour_is_white(name, loaded):
    file, expected = FILES[name]
    image = Image.open(io.BytesIO(file.getvalue()))
    if loaded:
        image.load()
    assert shown(image)[0].tolist() == [list(pixel) for pixel in expected]


def test_a_transparent_colour_is_white_for_every_model_alike(entrances):
    """What an optimiser makes of a logo: the picture on white, whoever looks."""
    solid = NOISE[..., :3].copy()
    solid[:, :4] = (7, 200, 9)
    expected = solid.copy()
    expected[:, :4] = 255
    file = io.BytesIO()
    Image.fromarray(solid).save(file, "png", transparency=(7, 200, 9))
    for name, see in entrances.items():
        seen, right = see(Image.open(file)), see(Image.fromarray(expected))
        assert torch.equal(seen, right), name


def test_palettes_of_rgba_are_on_white():
    image = Image.fromarray(NOISE[..., 0] % 2, "P")
    image.putpalette([10, 20, 30, 0, 40, 50, 60, 255], "RGBA")
    expected = np.where((NOISE[..., :1] % 2) == 0, 255, np.array([40, 50, 60]))
    np.testing.assert_array_equal(shown(image), expected)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_several_frames_the_first_is_shown(kind):
    frames = [Image.new("RGBA", (4, 3), colour) for colour in ((200, 0, 0, 255), (0, 200, 0, 255))]
    frames[0].putpixel((0, 0), (0, 0, 0, 0))
    file = io.BytesIO()
    lossless = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=100, **lossless)
    image = Image.open(file)
    assert image.n_frames == 2
    pixels = shown(image).reshape(-1, 3).tolist()
    assert pixels == [[255, 255, 255]] + [[200, 0, 0]] * 11


# ------------------------------------------------------------------------------------------------ orientation

UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def tagged(image, kind, orientation):
    """A lossless file that states an orientation."""
    file, options = io.BytesIO(), {"lossless": True, "exact": True} if kind.startswith("WEBP") else {}
    if kind == "PNG with XMP":
        from PIL.PngImagePlugin import PngInfo

        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP % orientation)
    elif kind == "WEBP with XMP":
        options["xmp"] = (XMP % orientation).encode()
    else:
        options["exif"] = exif(orientation)
    image.save(file, kind.split()[0], **options)
    return file


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "PNG with XMP", "WEBP", "WEBP with XMP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_once(orientation, kind, mode):
    pixels = NOISE if mode == "RGBA" else NOISE[..., :3]
    file = tagged(Image.fromarray(pixels), kind, orientation)
    expected = UPRIGHT[orientation](on_white(NOISE[..., :3], NOISE[..., 3]) if mode == "RGBA" else pixels)
    image = Image.open(file)
    once = to_rgb(image)
    np.testing.assert_array_equal(np.asarray(once), expected)
    np.testing.assert_array_equal(np.asarray(to_rgb(once)), expected, "not again")
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), expected, "what was given stays as it was")
    np.testing.assert_array_equal(np.asarray(to_rgb(ImageOps.exif_transpose(Image.open(file)))), expected)
    assert once.getexif().get(0x0112, 1) == 1
    kept = io.BytesIO()
    once.save(kept, "png")
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(Image.open(kept))), expected)


def test_a_transparent_colour_is_found_in_a_turned_picture():
    file = io.BytesIO()
    Image.fromarray(NOISE[..., 0]).save(file, "png", exif=exif(6), transparency=int(NOISE[2, 3, 0]))
    expected = np.where(NOISE[..., 0] == NOISE[2, 3, 0], 255, NOISE[..., 0])
    np.testing.assert_array_equal(shown(Image.open(file)), grey(np.rot90(expected, -1)))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_orientations_that_do_not_exist_turn_nothing(orientation):
    file = tagged(Image.fromarray(NOISE[..., :3]), "PNG", orientation)
    np.testing.assert_array_equal(shown(Image.open(file)), NOISE[..., :3])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File Read")
def test_damaged_exif_does_not_hide_a_picture():
    """Data sets from the web have some; as every viewer does, the picture is shown."""
    whole = exif(6)
    whole[0x010F], whole[0x011A] = "camera", 72.0
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole.tobytes())
        for place in rng.integers(0, len(damaged), rng.integers(1, 6)).tolist():
            damaged[place] = int(rng.integers(256))
        image = Image.fromarray(NOISE[..., :3])
        image.info["exif"] = bytes(damaged[: rng.integers(1, len(damaged) + 1)])
        assert any(np.array_equal(shown(image), turn(NOISE[..., :3])) for turn in UPRIGHT.values())


def test_upright_rgb_is_returned_as_it_is():
    image = Image.fromarray(NOISE[..., :3])
    assert to_rgb(image) is image


def test_a_file_may_be_closed_afterwards(tmp_path):
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        rgb = to_rgb(image)
    np.testing.assert_array_equal(np.asarray(rgb), NOISE[..., :3])


def test_what_is_no_picture_is_named():
    for bad in ("one.png", NOISE):
        with pytest.raises(ValueError, match="expected pictures of PIL, as Image.open gives them"):
            to_rgb(bad)


# -------------------------------------------------------------------------------------------------- entrances


class One:
    """A map-style dataset of one picture, which is given as it was opened."""

    def __init__(self, image):
        self.image = image

    def __getitem__(self, key):
        return {"image": [self.image]} if isinstance(key, slice) else {"image": self.image}


def thumbnail(image):
    encoder = VisionEncoder(build("Dinov2Model"), processor("Dinov2Model"))
    webp = thumbnails(One(image), [0], None, encoder)["webp"][0]
    return torch.tensor(np.asarray(Image.open(io.BytesIO(webp))))


@pytest.fixture(scope="module")
def entrances():
    """Everything that looks at pictures: from a PIL image to what becomes of it."""
    torch.manual_seed(0)
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1},
    }
    encoder = VisionEncoder(build("Dinov2Model"), processor("Dinov2Model"))
    judge = ClipLike(open_clip.CLIP(**config).eval(), open_clip.image_transform(16, is_train=False), None, "judge")
    asked, drawn = LlavaSteerer(*llava(), sae_for()), UnclipSteerer(unclip(), sae_for())
    return {
        "encoder": lambda image: encoder([image]),
        "judge": lambda image: judge.embed_images([image]),
        "llava": lambda image: asked.image_features([image]),
        "unclip": lambda image: drawn.activations([image]),
        "thumbnail": thumbnail,
    }


def test_a_photo_of_a_phone_is_upright_for_every_model(entrances):
    photo = pictures(1, 32)[0].crop((0, 0, 32, 20))
    file = tagged(photo, "PNG", 6)
    upright = Image.fromarray(np.rot90(np.asarray(photo), -1))
    for name, see in entrances.items():
        assert torch.equal(see(Image.open(file)), see(upright)), name
        assert not torch.equal(see(photo), see(upright)), name


def test_pictures_of_datasets_are_turned_once(tmp_path):
    photo = Image.fromarray(NOISE[..., :3])
    (tmp_path / "a.png").write_bytes(tagged(photo, "PNG", 6).getvalue())
    features = datasets.Features({"image": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")]}, features)
    np.testing.assert_array_equal(shown(dataset[0]["image"]), np.rot90(NOISE[..., :3], -1))


def test_a_grid_has_every_image_in_its_place():
    colours = np.arange(6, dtype=np.uint8).reshape(2, 3)
    rows = [[Image.fromarray(np.full((4, 5, 3), colour, np.uint8)) for colour in row] for row in colours]
    np.testing.assert_array_equal(np.asarray(grid_of(rows))[..., 0], colours.repeat(4, 0).repeat(5, 1))


def test_there_is_one_entrance():
    """Another would show a picture otherwise than the models see it."""
    other = re.compile(r"""exif_transpose|convert\(["']RGB["']\)""")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("cbsae_hub", "training")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name != "pictures.py" or path.parent.name != "vision"
        for line in path.read_text(encoding="utf-8").splitlines()
        if other.search(line)
    ]
    assert not found
