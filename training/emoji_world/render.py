"""Draws scenes of Emoji World in batches: sprites are placed by one affine sampling a layer, not one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from training.emoji_world.backgrounds import BACKGROUNDS, SIDE, BackgroundBank, canonical_backgrounds
from training.emoji_world.glyphs import Atlas

STYLES = ("plain", "greyscale", "sketch", "pixelated", "blurred")
# Pixels a side of an object, by how many objects share the scene: they shrink so that they need not overlap.
SIZES = {1: (26, 54), 2: (22, 40), 3: (18, 32)}
LABEL_SIZE = (44, 62)
# Centre x, y and size of each object in a canonical picture, by how many objects it shows.
CANONICAL = {1: ((32, 32, 54),), 2: ((20, 24, 34), (44, 42, 34)), 3: ((18, 20, 30), (46, 20, 30), (32, 46, 30))}
NO_OBJECT = -1
Arrange = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
CACHED = 32  # sprites composited at once: their layers fit the processor's cache, which doubles the speed
PIXELS = (torch.arange(SIDE) * 2 + 1) / SIDE - 1  # pixel centres in the -1..1 of torch's samplers


@dataclass(frozen=True)
class SceneSpec:
    """A kind of scenes.

    Attributes:
        objects: The numbers of objects to choose from, each as likely.
        style_share: Share of scenes in one of the four styles; the others are plain.
        word_share: Share of scenes with a label that names a concept which is not in the scene.
        styles: The styles to choose from where a scene has one.
    """

    objects: Sequence[int] = (1, 2, 3)
    style_share: float = 0.0
    word_share: float = 0.0
    styles: Sequence[str] = STYLES[1:]


@dataclass
class Scenes:
    """A batch of scenes with their ground truth.

    Attributes:
        pixels: ``[n, 3, 64, 64]`` uint8.
        concepts: ``[n, 3]`` indices into the atlas, -1 where there is no object.
        boxes: ``[n, 3, 4]`` x0, y0, x1, y1 in pixels, around what is visible of the object before styling.
        backgrounds, styles, words: ``[n]`` indices into BACKGROUNDS, STYLES, the atlas (-1: no label).
    """

    pixels: torch.Tensor
    concepts: np.ndarray
    boxes: np.ndarray
    backgrounds: np.ndarray
    styles: np.ndarray
    words: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def joined(cls, first: "Scenes", second: "Scenes") -> "Scenes":
        """The scenes of two batches, one after the other."""
        parts = ((getattr(first, one.name), getattr(second, one.name)) for one in fields(cls))
        return cls(*(torch.cat(part) if isinstance(part[0], torch.Tensor) else np.concatenate(part) for part in parts))


@dataclass
class SceneRenderer:
    """Draws deterministic batches: batch ``i`` of a seed is always the same, whichever batches were drawn before.

    Args:
        atlas: The sprites.
        seed: The seed of everything random here, textures of the backgrounds included.
    """

    atlas: Atlas
    seed: int = 0
    bank: BackgroundBank = field(init=False)

    def __post_init__(self) -> None:
        self.bank = BackgroundBank(self.seed)

    def batch(
        self, index: int, size: int, spec: SceneSpec, arrange: Arrange | None = None, **fixed: np.ndarray
    ) -> Scenes:
        """Draws one batch.

        Args:
            index: Number of the batch in the endless sequence.
            size: Number of scenes.
            spec: The kind of scenes.
            arrange: Changes the random sizes ``[n, 3]`` and centres ``[n, 3, 2]`` of objects, in pixels.
            **fixed: ``concepts [n, 3]``, ``backgrounds [n]``, ``words [n]`` or ``styles [n]`` that replace random ones.
        """
        rng = np.random.default_rng([self.seed, index, size])
        drawn = {**self._choose(rng, size, spec), **fixed}
        # Fixed concepts may hold the word that was drawn: a label never names what is in the scene.
        while (clash := (drawn["concepts"] == drawn["words"][:, None]).any(1) & (drawn["words"] != NO_OBJECT)).any():
            drawn["words"] = np.where(clash, (drawn["words"] + 1) % len(self.atlas.concepts), drawn["words"])
        count = (drawn["concepts"] != NO_OBJECT).sum(1)
        canvas = self.bank.crop(drawn["backgrounds"], rng)
        sizes, centres = _place(rng, count)
        if arrange is not None:
            sizes, centres = arrange(sizes, centres)
        angles = rng.uniform(-30, 30, (size, 3))
        flips = np.where(rng.random((size, 3)) < 0.5, -1.0, 1.0)
        cover = torch.zeros(size, 3, SIDE, SIDE, dtype=torch.bool)
        for slot in range(3):
            rows = np.flatnonzero(drawn["concepts"][:, slot] != NO_OBJECT)
            alpha = _paste(
                canvas, rows, self.atlas.glyphs, drawn["concepts"][rows, slot],
                sizes[rows, slot], centres[rows, slot], angles[rows, slot], flips[rows, slot],
            )  # fmt: skip
            cover[rows] &= ~alpha[:, None]  # what is drawn later hides what was drawn before
            cover[rows, slot] = alpha
        rows = np.flatnonzero(drawn["words"] != NO_OBJECT)
        if len(rows):
            cover[rows] &= ~paste_labels(canvas, rows, self.atlas.labels, drawn["words"][rows], rng)[:, None]
        return Scenes(pixels=_levels(_styled(canvas, drawn["styles"])), boxes=_boxes(cover), **drawn)

    def _choose(self, rng: np.random.Generator, size: int, spec: SceneSpec) -> dict[str, np.ndarray]:
        names = len(self.atlas.concepts)
        # Four different concepts a scene: three for the objects, one for the word.
        chosen = (rng.integers(0, names, (size, 1)) + np.cumsum(rng.integers(1, names // 4, (size, 4)), 1)) % names
        count = rng.choice(np.asarray(spec.objects), size)
        concepts = np.where(np.arange(3) < count[:, None], chosen[:, :3], NO_OBJECT)
        styles = np.array([STYLES.index(style) for style in spec.styles])
        return {
            "concepts": concepts,
            "backgrounds": rng.integers(0, len(BACKGROUNDS), size),
            "styles": np.where(rng.random(size) < spec.style_share, rng.choice(styles, size), 0),
            "words": np.where(rng.random(size) < spec.word_share, chosen[:, 3], NO_OBJECT),
        }

    def rows(self, scenes: Scenes) -> list[dict[str, Any]]:
        """The ground truth of each scene, as the published dataset's columns (images excluded)."""
        atlas = self.atlas.concepts
        return [
            {
                "objects": [
                    {
                        "name": atlas[concept].name,
                        "box": [round(float(side), 1) for side in box],
                        "group": atlas[concept].group,
                        "subgroup": atlas[concept].subgroup,
                    }
                    for concept, box in zip(scenes.concepts[i], scenes.boxes[i])
                    if concept != NO_OBJECT
                ],
                "background": BACKGROUNDS[scenes.backgrounds[i]],
                "style": STYLES[scenes.styles[i]],
                "written_word": None if scenes.words[i] == NO_OBJECT else atlas[scenes.words[i]].name,
            }
            for i in range(len(scenes))
        ]


def canonical_pictures(
    atlas: Atlas, concepts: np.ndarray, backgrounds: np.ndarray, styles: np.ndarray | None = None
) -> torch.Tensor:
    """The contents of scenes, drawn in one way: uint8 ``[n, 3, 64, 64]``.

    Objects are large, upright and at fixed places, in the order of the atlas. Scenes that differ in place, size, turn,
    mirroring, crop of the background or written word alone have the same canonical picture.

    Args:
        atlas: The sprites.
        concepts: As of :class:`Scenes`, ``[n, 3]``.
        backgrounds: Likewise, ``[n]``.
        styles: Likewise, and as in the scene; default all plain.
    """
    canvas = canonical_backgrounds()[torch.from_numpy(backgrounds)]  # a copy
    _paste_canonical(canvas, atlas, concepts)
    return _levels(_styled(canvas, np.zeros(len(canvas), int) if styles is None else styles))


def canonical_layers(
    atlas: Atlas, concepts: np.ndarray, backgrounds: np.ndarray, styles: np.ndarray | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws the layers of :func:`canonical_pictures`, in 0..1; the arguments are the same.

    Returns:
        Colours of the objects times their opacity ``[n, 3, 64, 64]``, opacity ``[n, 1, 64, 64]``, and colours of the
        background ``[n, 3, 64, 64]``. A picture is objects + (1 - opacity) background. Each layer has the style; of a
        blurred or pixelated one that is nearly, not exactly, the styled picture. A sketch is opaque strokes on white.
    """
    background = canonical_backgrounds()[torch.from_numpy(backgrounds)]
    on_black, on_white = torch.zeros_like(background), torch.ones_like(background)
    for canvas in (on_black, on_white):
        _paste_canonical(canvas, atlas, concepts)
    opacity = 1 - (on_white - on_black)  # alike in all colours
    if styles is not None:
        drawn = torch.from_numpy(np.flatnonzero(styles == STYLES.index("sketch")))
        strokes = 1 - _sketch(torch.addcmul(on_black[drawn], background[drawn], 1 - opacity[drawn]))
        on_black, opacity, background = (_styled(layer, styles) for layer in (on_black, opacity, background))
        on_black[drawn], opacity[drawn], background[drawn] = 0.0, strokes, 1.0
    return on_black, opacity[:, :1], background


def _paste_canonical(canvas: torch.Tensor, atlas: Atlas, concepts: np.ndarray) -> None:
    """Draws the objects of canonical pictures, in place."""
    count = (concepts != NO_OBJECT).sum(1)
    ordered = np.sort(np.where(concepts == NO_OBJECT, len(atlas.concepts), concepts), 1)
    for slot in range(3):
        rows = np.flatnonzero(count > slot)
        place = np.array([CANONICAL[count[row]][slot] for row in rows], dtype=float).reshape(-1, 3)
        upright, unmirrored = np.zeros(len(rows)), np.ones(len(rows))
        sprites, size, centre = ordered[rows, slot], place[:, 2], place[:, :2]
        _paste(canvas, rows, atlas.glyphs, sprites, size, centre, upright, unmirrored)


def paste_labels(
    canvas: torch.Tensor,
    rows: np.ndarray,
    pyramid: tuple[torch.Tensor, torch.Tensor],
    labels: np.ndarray,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Draws a label on each of these rows of the canvas ``[n, 3, 64, 64]`` in 0..1, in place, at a random place.

    Args:
        canvas: Pictures; those of other rows stay as they are.
        rows: Numbers of the pictures.
        pyramid: Textures of labels, see :class:`training.emoji_world.glyphs.Atlas`.
        labels: Number of the label of each row.
        rng: Source of places, sizes and angles.

    Returns:
        The pixels that labels hide, ``[rows, 64, 64]`` bool.
    """
    centre = np.stack([rng.uniform(28, 36, len(rows)), rng.uniform(10, 54, len(rows))], 1)
    width, angle = rng.uniform(*LABEL_SIZE, len(rows)), rng.uniform(-12, 12, len(rows))
    return _paste(canvas, rows, pyramid, labels, width, centre, angle, np.ones(len(rows)))


def _place(rng: np.random.Generator, count: np.ndarray, tries: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Sizes ``[n, 3]`` and centres ``[n, 3, 2]`` in pixels: of several random layouts, the one that overlaps least."""
    n = len(count)
    low, high = np.array([SIZES[max(c, 1)] for c in count]).T  # nothing is drawn where there is no object
    sizes = rng.uniform(low[:, None], high[:, None], (n, 3))
    margin = sizes[:, None, :, None] * 0.45
    centres = margin + rng.random((n, tries, 3, 2)) * (SIDE - 2 * margin)
    gap = np.full((n, tries), np.inf)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        distance = np.linalg.norm(centres[:, :, a] - centres[:, :, b], axis=-1)
        distance -= (sizes[:, a] + sizes[:, b])[:, None] / 2
        gap = np.where((count > b)[:, None], np.minimum(gap, distance), gap)
    return sizes, centres[np.arange(n), gap.argmax(1)]


def _paste(
    canvas: torch.Tensor,
    rows: np.ndarray,
    pyramid: tuple[torch.Tensor, torch.Tensor],
    sprites: np.ndarray,
    size: np.ndarray,
    centre: np.ndarray,
    angle: np.ndarray,
    flip: np.ndarray,
) -> torch.Tensor:
    """Draws one sprite on each of these rows of the canvas, in place; returns what is opaque, ``[n, 64, 64]``."""
    turn = np.deg2rad(angle)
    scale = SIDE / size
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    shift = centre / SIDE * 2 - 1
    theta = np.empty((len(rows), 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = cos * flip, sin * flip
    theta[:, 1, 0], theta[:, 1, 1] = -sin, cos
    theta[:, :, 2] = -np.einsum("nij,nj->ni", theta[:, :, :2], shift)
    opaque = torch.zeros(len(rows), SIDE, SIDE, dtype=torch.bool)
    # A sprite drawn at less than two thirds of its texture's size is taken from the smaller texture: no aliasing.
    small = size < SIDE * 2 / 3
    for level, chosen in enumerate((np.flatnonzero(~small), np.flatnonzero(small))):
        for start in range(0, len(chosen), CACHED):
            part = chosen[start : start + CACHED]
            grid = _sampling_grid(torch.from_numpy(theta[part]))
            textures = pyramid[level][torch.from_numpy(sprites[part])]
            layer = F.grid_sample(textures, grid, align_corners=False)
            target = torch.from_numpy(rows[part])
            canvas[target] = torch.addcmul(layer[:, :3], canvas[target], 1 - layer[:, 3:])
            opaque[torch.from_numpy(part)] = layer[:, 3] > 0.5
    return opaque


def _sampling_grid(theta: torch.Tensor) -> torch.Tensor:
    """Sampling points of affine maps ``[n, 2, 3]``: ``[n, 64, 64, 2]``; faster here than affine_grid's product."""
    a, b, shift = theta[:, None, None, :, 0], theta[:, None, None, :, 1], theta[:, None, None, :, 2]
    return torch.addcmul(b * PIXELS[:, None, None], a, PIXELS[None, :, None]) + shift


def _boxes(cover: torch.Tensor) -> np.ndarray:
    """Boxes x0, y0, x1, y1 around the true pixels of ``[n, 3, h, w]``; zeros where there are none."""
    spans = []
    for line in (cover.any(2), cover.any(3)):  # columns, rows
        first = line.float().argmax(-1)
        last = line.shape[-1] - line.flip(-1).float().argmax(-1)
        spans.append(torch.stack([first, last], -1) * line.any(-1, keepdim=True))
    x, y = spans
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1).float().numpy()


def _grey(images: torch.Tensor) -> torch.Tensor:
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def _sketch(images: torch.Tensor) -> torch.Tensor:
    """Dark strokes on white where brightness changes (Sobel)."""
    sobel = images.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])[None, None]
    grey = F.pad(_grey(images), (1, 1, 1, 1), mode="replicate")
    strength = torch.hypot(F.conv2d(grey, sobel), F.conv2d(grey, sobel.transpose(2, 3)))
    return (1 - strength).clamp(0, 1).expand_as(images)


def _pixelated(images: torch.Tensor) -> torch.Tensor:
    return F.interpolate(F.avg_pool2d(images, 4), scale_factor=4, mode="nearest")


def _blurred(images: torch.Tensor) -> torch.Tensor:
    taps = torch.exp(-0.5 * (torch.arange(-4.0, 5.0) / 1.5) ** 2)
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    wide = F.conv2d(F.pad(images, (4, 4, 0, 0), mode="replicate"), taps, groups=3)
    return F.conv2d(F.pad(wide, (0, 0, 4, 4), mode="replicate"), taps.transpose(2, 3), groups=3)


def _styled(canvas: torch.Tensor, styles: np.ndarray) -> torch.Tensor:
    """The canvas ``[n, 3, 64, 64]`` in 0..1, changed in place, in these styles."""
    changes = {
        "greyscale": lambda x: _grey(x).expand_as(x),
        "sketch": _sketch,
        "pixelated": _pixelated,
        "blurred": _blurred,
    }
    for name, change in changes.items():
        rows = torch.from_numpy(np.flatnonzero(styles == STYLES.index(name)))
        if len(rows):
            canvas[rows] = change(canvas[rows])
    return canvas


def _levels(canvas: torch.Tensor) -> torch.Tensor:
    """A canvas in 0..1, which changes on the way, as uint8."""
    return canvas.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
