"""The part of a picture that an encoder sees, measured: every family of processors has its own settings for it."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

Box = tuple[float, float, float, float]
RAMPS = np.array([[245.0, 10.0], [10.0, 245.0]])
"""What red and green grow by across and down a picture. Each grows a little the other way too, so that the rounding of
values differs from line to line, and cancels out."""
LEAST_SIDE = 32  # pixels: pictures with a smaller side are measured enlarged


class View(NamedTuple):
    """The part of a picture that lies under an encoder's grid of patches.

    Attributes:
        box: Left, upper, right and lower edge in pixels of the upright picture, right to half a pixel of the model. It
            is larger than the picture where the processor pads, and of another shape than the grid where it squashes.
        padding: Colour of what is around the picture.
    """

    box: Box
    padding: tuple[int, ...] = (0, 0, 0)


def measure_view(
    prepare: Callable[[Sequence[Image.Image]], torch.Tensor], size: tuple[int, int], under_grid: tuple[int, int]
) -> View:
    """Finds out what a processor does with pictures of a size, by pictures whose pixels say where they are.

    Args:
        prepare: Makes ``[images, 3, h, w]`` of pictures. It may resize, crop, pad and scale values, but not turn.
        size: Width and height of the picture.
        under_grid: Height and width of the pixels that patches are made of, from the upper left corner.
    """
    times = math.ceil(LEAST_SIDE / min(size)) if min(size) < LEAST_SIDE else 1
    width, height = (times * side for side in size)
    x, y = ((np.arange(side) + 0.5) / side for side in (width, height))
    ramps = np.full((height, width, 3), 255, dtype=np.uint8)
    ramps[..., :2] = np.rint(np.stack(np.meshgrid(x, y), axis=-1) @ RAMPS)
    pictures = [Image.new("RGB", (width, height), colour) for colour in ("black", "white")]
    pixels = prepare([*pictures, Image.fromarray(ramps)])[..., : under_grid[0], : under_grid[1]]
    black, white, values = pixels.double().cpu().numpy()
    contrast = np.abs(white - black).min(0)
    inside = contrast > contrast.max() / 2  # padding does not depend on the picture
    low, high = (part[:, inside].mean(1) for part in (black, white))
    levels = 255 * (values - low[:, None, None]) / (high - low)[:, None, None]
    across, down = np.linalg.inv(RAMPS) @ levels[:2].reshape(2, -1)
    x0, x1 = _edges(across.reshape(inside.shape), inside, size[0])
    y0, y1 = _edges(down.reshape(inside.shape).T, inside.T, size[1])
    padding: tuple[int, ...] = (0, 0, 0)
    if not inside.all():
        colour = (black[:, ~inside].mean(1) - low) / (high - low)
        padding = tuple(int(value) for value in np.rint(255 * colour.clip(0, 1)))
    return View((x0, y0, x1, y1), padding)


def draw_view(image: Image.Image, view: View, grid: tuple[int, int], side: int) -> Image.Image:
    """Draws what an encoder sees of an RGB picture, in the shape of its grid.

    Args:
        image: The picture.
        view: Its view.
        grid: Rows and columns of patches.
        side: Pixels of the longer side, at most; pictures are not enlarged.
    """
    rows, columns = grid
    x0, y0, x1, y1 = view.box
    if is_whole(view, image.size) and abs(image.width * rows - image.height * columns) < max(grid):
        small = image.copy()
        small.thumbnail((side, side))
        return small
    longer = min(side, max(x1 - x0, y1 - y0))
    width, height = (max(1, round(longer * count / max(grid))) for count in (columns, rows))
    box = max(0.0, x0), max(0.0, y0), min(float(image.width), x1), min(float(image.height), y1)
    start, stop = (round(width * (edge - x0) / (x1 - x0)) for edge in box[::2])
    top, bottom = (round(height * (edge - y0) / (y1 - y0)) for edge in box[1::2])
    part = image.resize((max(1, stop - start), max(1, bottom - top)), box=box, reducing_gap=2.0)
    drawn = Image.new("RGB", (width, height), view.padding)
    drawn.paste(part, (start, top))
    return drawn


def framed(image: Image.Image, view: View) -> Image.Image:
    """A picture with a frame of its own edge's colours, so that a processor that cuts a margin off sees all of it.

    Args:
        image: RGB picture in the shape of the grid, see :func:`draw_view`.
        view: What the processor would leave of it.
    """
    if is_whole(view, image.size):
        return image
    margins = []
    for start, stop, length in zip(view.box[:2], view.box[2:], image.size):
        scale = length / (stop - start)
        margins.append((max(0, round(start * scale)), max(0, round((length - stop) * scale))))
    across, down = margins
    return Image.fromarray(np.pad(np.asarray(image), (down, across, (0, 0)), mode="edge"))


def is_whole(view: View, size: tuple[int, int]) -> bool:
    """Whether all of a picture is seen, and nothing around it."""
    return view.box == (0.0, 0.0, *map(float, size))


def _edges(places: np.ndarray, inside: np.ndarray, length: int) -> tuple[float, float]:
    """The places in a picture of a length where pixels ``[lines, n]`` begin and end, by the places 0..1 that they tell.

    A line through the middle half: at the rim, resampling bends it.
    """
    columns = np.flatnonzero(inside.any(0))
    quarter = len(columns) // 4
    columns = columns[quarter : len(columns) - quarter]
    if len(columns) < 2:
        return 0.0, float(length)
    lines = inside.any(1)
    slope, start = np.polyfit(columns + 0.5, places[lines][:, columns].mean(0), 1)
    pixel = slope * length
    edges = start * length, (start + slope * places.shape[1]) * length
    x0, x1 = (
        float(end) if abs(edge - end) < abs(pixel) / 2 else round(float(edge), 2)
        for edge, end in zip(edges, (0, length))
    )
    return x0, x1
