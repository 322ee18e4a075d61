"""Draws the concept neurons of a CB-SAE with ``hub/emoji-unclip``, and lets emoji-judge say what is drawn.

    python -m training.emoji_world.evaluate_concepts

Each neuron is set in a white picture, and alone (nothing else is active), and drawn from several seeds with the steps
and the guidance of the model's pack. A drawing is right if, of all objects, its concept is what emoji-judge finds it
most like. Concepts that are backgrounds are no objects and are left out. Beside it:

- controls: pushes that are as long, for every drawing in another random direction;
- the SAE's own neurons of objects, those that are named after the object that they detect best.

Concept neurons are set to the strength of the pack, ``alpha``. The SAE's may have another one: it is chosen among
multiples of alpha by half of its neurons of objects, and reported are the others. What is chosen so is tried on the
concept neurons too. An interval is Wilson's, 95 %, over neurons: as if all drawings of one were alike.

Writes ``concepts.json`` and the picture ``concepts.png`` beside the CB-SAE, and prints the table.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
import torch
import typer
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from cbsae_hub import CBSAE, SAE, Pack
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.hub.files import folder_revision, replace_file, write_json
from cbsae_hub.pictures import white_image
from cbsae_hub.plots import plot_sheet
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring.outcomes import spread
from cbsae_hub.steering import Edit, RandomDirection, Steering, UnclipSteerer
from cbsae_hub.studies.tables import markdown_table
from training.emoji_world.evaluate import Judge, percent
from training.emoji_world.loop import use_two_threads
from training.emoji_world.paths import HUB

BATCH = 64
MODES = {"white picture": False, "alone": True}
"""Ways to set a neuron, and whether all others are silent."""
FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
CONCEPTS, OBJECTS = "concept neurons", "the SAE's neurons of objects"
IN_SHEET = 24  # concepts in the picture
SURE = 1.959963984540054  # deviations of a normal distribution within which 95 % lie


class Neurons(NamedTuple):
    """Neurons of one model, and the concept that each of them stands for."""

    unclip: UnclipSteerer
    ids: list[int]
    concepts: list[str]

    def every_other(self, first: int) -> "Neurons":
        """Half of them."""
        return Neurons(self.unclip, self.ids[first::2], self.concepts[first::2])


class Drawings(NamedTuple):
    """The drawings of neurons, and what each shows: a list of the seeds' for each neuron."""

    concepts: list[str]
    pictures: list[list[Image.Image]]
    answers: list[list[str]]

    @property
    def share(self) -> float:
        """The share of drawings that are right, in per cent."""
        return percent(
            answer == concept for concept, row in zip(self.concepts, self.answers, strict=True) for answer in row
        )


class Artist:
    """Draws neurons and asks the judge.

    Args:
        judge: Says what a picture shows.
        seeds: One drawing of each neuron for each of them.
        steps: Denoising steps.
        guidance: Guidance by the embedding.
    """

    def __init__(self, judge: Judge, seeds: Sequence[int], steps: int, guidance: float):
        self.judge, self.seeds, self.steps, self.guidance = judge, list(seeds), steps, guidance

    def draw(self, neurons: Neurons, mode: str, strength: float, random: bool = False) -> Drawings:
        """Drawings of neurons that are set to a strength; ``random`` draws their controls."""
        edits = [Steering([Edit(neuron, strength)], isolate=MODES[mode]) for neuron in neurons.ids]
        pairs = [(edit, neuron, seed) for edit, neuron in zip(edits, neurons.ids) for seed in self.seeds]
        pictures: list[Image.Image] = []
        title = f"{mode}, {strength:g}{', random' if random else ''}"
        with tqdm(total=len(pairs), desc=title, unit="drawing") as bar:
            for start in range(0, len(pairs), BATCH):
                part = pairs[start : start + BATCH]
                steerings = [
                    RandomDirection(one, 10_000 * neuron + seed) if random else one for one, neuron, seed in part
                ]
                embeddings = neurons.unclip.image_embeds([white_image()] * len(part), steerings)
                seeds = [seed for *_, seed in part]
                pictures += neurons.unclip.draw(embeddings, seeds, self.steps, self.guidance)
                bar.update(len(part))
        answers, count = self.judge.answers(pictures), len(self.seeds)
        rows = range(0, len(pictures), count)
        return Drawings(
            neurons.concepts, [pictures[i : i + count] for i in rows], [answers[i : i + count] for i in rows]
        )


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in per cent: scipy has it of whole successes only, and these are means."""
    p, spread_of = share / 100, SURE**2 / count
    middle, half = p + spread_of / 2, math.sqrt(spread_of * (p * (1 - p) + spread_of / 4))
    return 100 * max(0.0, middle - half) / (1 + spread_of), 100 * min(1 + spread_of, middle + half) / (1 + spread_of)


def concept_neurons(folder: Path, unclip: UnclipSteerer, objects: Sequence[str]) -> tuple[Neurons, list[str]]:
    """The concept neurons of a CB-SAE that stand for objects, and the concepts of the others."""
    cb = CBSAE.from_pretrained(folder)
    numbered = [(cb.d_sae + place, name) for place, name in enumerate(cb.concepts)]
    chosen = [(neuron, name) for neuron, name in numbered if name in set(objects)]
    if not chosen:
        raise ValueError(f"none of the concepts of {folder} is an object of Emoji World: there is nothing to draw")
    ids, names = (list(column) for column in zip(*chosen))
    return Neurons(unclip.with_sae(cb), ids, names), [name for _, name in numbered if name not in set(objects)]


def object_neurons(folder: Path, unclip: UnclipSteerer, objects: Sequence[str], count: int) -> Neurons:
    """So many of an SAE's neurons that are named after the object that they detect best, evenly spread."""
    frame = Pack.from_pretrained(folder).neurons.frame
    right = frame["truth_agrees"].eq(True) & frame["truth_family"].eq("concept") & frame["name"].isin(objects)
    if right.sum() < 2:
        raise ValueError(f"fewer than two neurons of {folder} are named after the object that they detect best")
    chosen = spread(frame.index[right].tolist(), count)
    rows = frame.loc[chosen]
    return Neurons(unclip.with_sae(SAE.from_pretrained(folder)), rows["neuron"].tolist(), rows["name"].tolist())


def choose_strength(artist: Artist, neurons: Neurons, alpha: float) -> tuple[float, list[dict[str, Any]]]:
    """The multiple of alpha at which most drawings are right over both modes, and the shares at each of them."""
    rows = [
        {"strength": factor * alpha, **{mode: artist.draw(neurons, mode, factor * alpha).share for mode in MODES}}
        for factor in FACTORS
    ]
    return max(rows, key=lambda row: sum(row[mode] for mode in MODES))["strength"], rows


def row_of(name: str, mode: str, strength: float, right: Drawings, random: Drawings) -> dict[str, Any]:
    """A row of the table: drawings of neurons beside their controls, in per cent."""
    count = len(right.concepts)
    facts = {
        "neurons": name,
        "mode": mode,
        "strength": strength,
        "count": count,
        "drawings": sum(map(len, right.answers)),
    }
    for title, drawings in (("right", right), ("random", random)):
        low, high = wilson(drawings.share, count)
        facts |= {title: drawings.share, f"{title}_low": low, f"{title}_high": high}
    return facts


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table as it stands in the documentation."""
    cells = [
        {
            **{title: row[title] for title in ("neurons", "mode")},
            "strength": f"{row['strength']:g}",
            "drawings": f"{row['count']} x {row['drawings'] // row['count']}",
            **{
                title: f"{row[key]:.1f} ({row[f'{key}_low']:.1f} to {row[f'{key}_high']:.1f})"
                for title, key in (("recognised, %", "right"), ("random directions, %", "random"))
            },
        }
        for row in rows
    ]
    return markdown_table(pd.DataFrame(cells))


def sheet_of(columns: dict[str, Drawings]) -> Figure:
    """The first drawing of the first concepts in every column, each beside the judge's answer."""
    first = next(iter(columns.values()))
    count = min(IN_SHEET, len(first.concepts))
    cells = [
        [
            (one.pictures[i][0], ("✓ " if one.answers[i][0] == one.concepts[i] else "") + one.answers[i][0])
            for one in columns.values()
        ]
        for i in range(count)
    ]
    caption = (
        "The first drawing of each concept neuron, and of a random direction as long; beside it what emoji-judge sees"
    )
    return plot_sheet(cells, first.concepts[:count], list(columns), caption)


def main(
    model: Annotated[Path, typer.Argument(help="Folder of a CB-SAE with a pack that has steerability.")] = HUB
    / "emoji-cbsae",
    sae: Annotated[Path, typer.Option(help="Folder of an SAE with a pack that knows the truth.")] = HUB / "emoji-sae",
    unclip: Annotated[Path, typer.Option(help="Folder of the pipeline.")] = HUB / "emoji-unclip",
    judge: Annotated[Path, typer.Option(help="Folder of the CLIP that says what is drawn.")] = HUB / "emoji-judge",
    seeds: Annotated[int, typer.Option(help="Drawings of each neuron.", min=1)] = 4,
    compared: Annotated[
        int, typer.Option(help="Neurons of the SAE: half choose the strength, half are reported.", min=2)
    ] = 128,
) -> None:
    """Measure, and write concepts.json and concepts.png."""
    use_two_threads()
    device = make_accelerator(alone=True).device
    try:
        steered = Pack.from_pretrained(model).info["scores"].get("steerability")
        if not steered or not steered.get("unclip"):
            raise ValueError(f"the pack of {model} has no steerability through pictures: score it with --steer first")
        clip = ClipLike.from_pretrained(judge, device=device)
        asked_judge = Judge(clip.embed_images, clip.embed_texts)
        base = UnclipSteerer.from_pretrained(unclip, model, device=device)
        concepts, others = concept_neurons(model, base, asked_judge.concepts)
        objects = object_neurons(sae, base, asked_judge.concepts, compared)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    alpha, options = float(steered["alpha"]), (steered["steps"], steered["guidance"])
    artist = Artist(asked_judge, range(seeds), *options)
    with torch.inference_mode():
        best, choice = choose_strength(Artist(asked_judge, [0], *options), objects.every_other(0), alpha)
        rows, columns = [], {}
        for name, neurons in ((CONCEPTS, concepts), (OBJECTS, objects.every_other(1))):
            for mode in MODES:
                for strength in dict.fromkeys((alpha, best)):
                    right, random = (artist.draw(neurons, mode, strength, control) for control in (False, True))
                    rows.append(row_of(name, mode, strength, right, random))
                    if name == CONCEPTS and strength == alpha:
                        columns |= {mode: right, f"random, {mode}": random}
    content = {
        **{
            title: folder_revision(folder)
            for title, folder in (("revision", model), ("sae", sae), ("unclip", unclip), ("judge", judge))
        },
        "settings": {"alpha": alpha, "steps": options[0], "guidance": options[1], "seeds": seeds, "compared": compared},
        "strengths": {"chosen": best, "half of the SAE's neurons": choice},
        "rows": rows,
        "no objects": others,
        "concepts": [
            {"concept": name, "neuron": neuron, **{mode: drawings.answers[i] for mode, drawings in columns.items()}}
            for i, (neuron, name) in enumerate(zip(concepts.ids, concepts.concepts))
        ],
    }
    write_json(model / "concepts.json", content)
    with replace_file(model / "concepts.png") as partial:
        sheet_of(columns).savefig(partial, format="png")
    typer.echo(as_markdown(rows), nl=False)


if __name__ == "__main__":
    typer.run(main)
