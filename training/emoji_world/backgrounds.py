"""The named backgrounds of Emoji World: plain colours and procedural textures."""

import functools

import numpy as np
import torch
import torch.nn.functional as F

COLOURS = {
    "red": (205, 45, 45), "orange": (240, 140, 40), "yellow": (245, 220, 70), "green": (60, 160, 75),
    "blue": (50, 90, 205), "turquoise": (65, 200, 195), "purple": (130, 65, 170), "pink": (250, 165, 190),
    "brown": (120, 75, 45), "black": (18, 18, 20), "white": (248, 248, 248), "grey": (135, 135, 135),
}  # fmt: skip
TEXTURES = ("stripes", "dots", "checker", "grass", "water", "sand", "night sky", "brick wall")
BACKGROUNDS = (*COLOURS, *TEXTURES)
VARIANTS = 24  # of each texture; a scene shows a random crop of one of them
TILE = 96
SIDE = 64


def smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Noise in 0..1 on TILE x TILE, smooth at the scale of TILE / cells pixels."""
    coarse = torch.from_numpy(rng.random((1, 1, cells, cells)))
    return F.interpolate(coarse, (TILE, TILE), mode="bicubic", align_corners=True)[0, 0].clamp(0, 1).numpy()


def _between(dark: tuple[int, int, int], light: tuple[int, int, int], mix: np.ndarray) -> np.ndarray:
    return np.asarray(dark) + mix[..., None] * (np.asarray(light) - np.asarray(dark))


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two colours that differ clearly in brightness."""
    return rng.uniform(20, 120, 3), rng.uniform(150, 250, 3)


def _draw_texture(name: str, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:TILE, :TILE].astype(float)
    if name in ("stripes", "dots", "checker"):
        a, b = _two_colours(rng)
        cell = rng.integers(5, 11)
        angle = rng.uniform(0, np.pi)
        if name == "stripes":
            mask = np.floor((x * np.cos(angle) + y * np.sin(angle)) / cell) % 2 == 0
        elif name == "dots":
            period = cell + 3
            mask = ((x % period) - period / 2) ** 2 + ((y % period) - period / 2) ** 2 < (period * 0.3) ** 2
        else:
            mask = (np.floor(x / cell) + np.floor(y / cell)) % 2 == 0
        return np.where(mask[..., None], a, b)
    if name == "grass":
        blades = np.sin(x * rng.uniform(1.2, 1.8) + 6 * smooth_noise(rng, 12)) * 0.25 + 0.5
        return _between((25, 80, 20), (130, 190, 60), np.clip(blades * 0.6 + smooth_noise(rng, 30) * 0.5, 0, 1))
    if name == "water":
        phase = y * rng.uniform(0.5, 0.8) + 4 * smooth_noise(rng, 7) + np.sin(x * 0.25 + rng.uniform(0, 6))
        return _between((15, 75, 150), (120, 195, 235), (0.5 + 0.5 * np.sin(phase)) ** 1.5)
    if name == "sand":
        return _between((205, 170, 110), (240, 215, 160), smooth_noise(rng, 8) * 0.6 + rng.random((TILE, TILE)) * 0.4)
    if name == "night sky":
        sky = _between((5, 5, 25), (30, 25, 70), smooth_noise(rng, 4))
        for row, column in rng.integers(1, TILE - 1, (70, 2)):
            sky[row, column] = rng.uniform(190, 255)
        return sky
    height, width = 8, 16
    course = np.floor(y / height)
    mortar = (y % height < 1.5) | ((x + (course % 2) * width / 2) % width < 1.5)
    bricks = _between((140, 50, 35), (185, 85, 60), smooth_noise(rng, 12))
    return np.where(mortar[..., None], (200, 190, 180), bricks)


class BackgroundBank:
    """Crops of named backgrounds, deterministic from a seed."""

    def __init__(self, seed: int):
        rng = np.random.default_rng([seed, 1])
        tiles = np.stack([[_draw_texture(name, rng) for _ in range(VARIANTS)] for name in TEXTURES])
        self._tiles = torch.from_numpy(tiles.astype(np.float32) / 255).permute(0, 1, 4, 2, 3).contiguous()
        self._colours = np.array(list(COLOURS.values()), dtype=np.float32)

    def crop(self, names: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """One background for each index into BACKGROUNDS: ``[n, 3, 64, 64]`` float in 0..1, a fresh tensor."""
        n = len(names)
        canvas = torch.empty(n, 3, SIDE, SIDE)
        jitter = rng.uniform(-18, 18, (n, 3))
        variant, y, x = rng.integers(0, VARIANTS, n), *rng.integers(0, TILE - SIDE + 1, (2, n))
        mirror = rng.random(n) < 0.5
        plain = np.flatnonzero(names < len(COLOURS))
        colours = np.clip(self._colours[names[plain]] + jitter[plain], 0, 255) / 255
        canvas[torch.from_numpy(plain)] = torch.from_numpy(colours.astype(np.float32))[:, :, None, None]
        for i in np.flatnonzero(names >= len(COLOURS)):
            tile = self._tiles[names[i] - len(COLOURS), variant[i], :, y[i] : y[i] + SIDE, x[i] : x[i] + SIDE]
            canvas[i] = tile.flip(-1) if mirror[i] else tile
        return canvas


@functools.cache
def canonical_backgrounds() -> torch.Tensor:
    """One picture of each of BACKGROUNDS, ``[20, 3, 64, 64]`` float in 0..1, the same for every seed of scenes.

    A plain colour has no variation; a texture is the first crop of its first variant.
    """
    bank = BackgroundBank(3)  # of whose textures each can be recognised by the margin around a large object
    colours = torch.from_numpy(bank._colours / 255)[:, :, None, None].expand(-1, -1, SIDE, SIDE)
    return torch.cat([colours, bank._tiles[:, 0, :, :SIDE, :SIDE]])
