"""A page of what an explanation found, in one file that can be mailed: pictures first, then numbers."""

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from jinja2 import Environment
from PIL import Image

from cbsae_hub.hub.files import write_text
from cbsae_hub.neurons.pack import Example, Pack
from cbsae_hub.version import __version__
from cbsae_hub.words import number

REPORT = "report.html"
PICTURES = 6  # a neuron
SIDE = 112  # pixels of the longer side
DIMMED = 0.25  # brightness of what a neuron does not fire on


def write_report(folder: Path, summary: dict[str, Any]) -> Path:
    """Writes ``report.html`` into the folder of an explanation; it needs no other file.

    Args:
        folder: With the models and their packs.
        summary: See :meth:`cbsae_hub.pipeline.explain.Explanation.summary`.

    Returns:
        The file.

    Raises:
        OSError: If there is no pack, or it is damaged.
    """
    pack = Pack.from_pretrained(folder / "sae")
    bottleneck = Pack.from_pretrained(folder / "cbsae") if (folder / "cbsae" / "pack.json").is_file() else None
    source = (files("cbsae_hub.pipeline") / "report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "percent": _percent, "short": _short}
    text = environment.from_string(source).render(
        **summary,
        command=f"cbsae serve {quote(folder.as_posix())}",
        encoder_name=_short(summary["question"]["encoder"]),
        images_name=_short(summary["question"]["images"]),
        version=__version__,
        mapped=any(one.patch_map is not None for neuron in summary["best"] for one in pack.examples(neuron, "top", 1)),
        best_rows=[_row(pack, neuron) for neuron in summary["best"]],
        worst_rows=[_row(pack, neuron) for neuron in summary["worst"]],
        wanted_rows=[_wish(one, pack, bottleneck) for one in summary["wanted"] or []],
    )
    write_text(folder / REPORT, text)
    return folder / REPORT


def spotlight(example: Example) -> Image.Image:
    """The picture of an example, dark where the neuron does not fire; the whole one if it has no map."""
    picture = example.image.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    if example.patch_map is None:
        return picture
    share = np.clip(example.patch_map / max(example.patch_map.max(), 1e-6), 0, 1)
    heat = Image.fromarray((255 * share).astype(np.uint8))
    mask = np.asarray(heat.resize(picture.size, Image.Resampling.BICUBIC), np.float32)[..., None] / 255
    return Image.fromarray((np.asarray(picture) * (DIMMED + (1 - DIMMED) * mask)).astype(np.uint8))


def _short(source: str) -> str:
    """A Hub id as it is, and the last part of a path."""
    return Path(source).name if Path(source).exists() else source


def _percent(share: float | None) -> str:
    return "nothing" if share is None else f"{100 * share:.0f} %"


def _row(pack: Pack, neuron: int) -> dict[str, Any]:
    row = pack.neurons[neuron]
    return {
        "neuron": neuron,
        "name": row.name,
        "percentile": row.null_percentile,
        "fires": round((row.density or 0) * pack.info["images"]["n"]),
        "monosemanticity": row.monosemanticity,
        "truth": getattr(row, "truth", None),
        "truth_ap": getattr(row, "truth_ap", None),
        "pictures": _pictures(pack.examples(neuron, "top", PICTURES)),
    }


def _wish(report: dict[str, Any], pack: Pack, bottleneck: Pack | None) -> dict[str, Any]:
    """A wanted concept: the neuron that had it already, or the one that was trained for it."""
    if report["where"] == "sae":
        return {**report, **_row(pack, int(report["neuron"]))}
    if bottleneck is None or report["where"] != "bottleneck":
        return {**report, "pictures": []}
    frame = bottleneck.neurons.frame
    (place,) = frame.loc[frame["designated"] == report["concept"], "neuron"]
    return {**report, **_row(bottleneck, int(place))}


def _pictures(examples: Sequence[Example]) -> list[dict[str, str]]:
    return [{"plain": _address(one.image), "lit": _address(spotlight(one)), "alt": one.alt} for one in examples]


def _address(image: Image.Image) -> str:
    """A picture as an address that holds it."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
