"""Draws a sheet of a dozen concepts: what discarded, retained and concept neurons make unCLIP draw and LLaVA say.

    python training/sheets.py --recipe training/recipes/emoji.yaml

Reads the recipe's CB-SAE and the scores by which it was pruned. Concepts are chosen by rule, not by result: those of
the bottleneck that a discarded neuron is named after and that are among the five names of a retained one, by the
discarded one's score. Writes sheet.png, and sheet.json with all sentences.
"""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from cbsae_hub import CBSAE, SAE, Edit, Steering
from cbsae_hub.data.images import load_images
from cbsae_hub.hub.files import replace_file, write_text
from cbsae_hub.neurons.table import NeuronTable
from cbsae_hub.plots import plot_sheet
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.scoring.steerability import WHITE
from cbsae_hub.steering import LlavaSteerer, UnclipSteerer
from training.recipes import CBSAESection, ScoresSection, SteerabilitySection

KINDS = ("discarded", "retained", "concept neuron")
QUESTIONS = {"one word": ONE_WORD, "sentence": "Describe the image."}


def choose(frame: pd.DataFrame, cb: CBSAE, count: int) -> pd.DataFrame:
    """Concepts and their three neurons: ids in the parent SAE for the first two, in the CB-SAE for the third.

    A discarded and a retained neuron stand for a concept if it is among the five names of theirs that score best; of
    several the one is taken with which it scores best.

    Args:
        frame: Neuron table of the parent.
        cb: Pruned by it.
        count: How many concepts at most: the first ones of the bottleneck that have all three.

    Raises:
        ValueError: If no concept has all three.
    """
    retained = frame["neuron"].isin(cb.sae_neuron_ids)
    found = {}
    for kind, part in zip(KINDS, (frame[~retained], frame[retained])):
        among = part[["neuron", "names", "scores"]].explode(["names", "scores"])
        best = among.sort_values("scores", ascending=False, kind="stable").drop_duplicates("names")
        found[kind] = dict(zip(best["names"], best["neuron"]))
    rows = [
        {"concept": name, **{kind: neurons[name] for kind, neurons in found.items()}, KINDS[2]: cb.d_sae + place}
        for place, name in enumerate(cb.concepts)
        if all(name in neurons for neurons in found.values())
    ]
    if not rows:
        raise ValueError("no concept of the bottleneck has a discarded and a retained neuron")
    return pd.DataFrame(rows[:count])


def steered(
    llava: LlavaSteerer, unclip: UnclipSteerer, scene: Any, neurons: list[int], alpha: float, guidance: float
) -> list[dict]:
    """What neurons of one model make of a white image and of a scene, and what they alone make unCLIP draw."""
    alone = [Steering([Edit(neuron, alpha)], isolate=True) for neuron in neurons]
    within = [Steering([Edit(neuron, alpha)]) for neuron in neurons]
    pictures = unclip.generate([WHITE] * len(neurons), alone, guidance_scale=guidance)
    word = llava.generate([WHITE] * len(neurons), QUESTIONS["one word"], within)
    sentence = llava.generate([scene] * len(neurons), QUESTIONS["sentence"], within)
    return [
        {"picture": picture, "one word": said, "sentence": told}
        for picture, said, told in zip(pictures, word, sentence, strict=True)
    ]


def main(
    recipe: Annotated[Path, typer.Option(help="YAML file: sections `cbsae`, `scores` and `steerability` are read.")],
    output: Annotated[Path, typer.Option(help="Folder of the sheet.")] = Path("runs/sheet"),
    count: Annotated[int, typer.Option(help="Concepts.")] = 12,
    image: Annotated[int, typer.Option(help="Row of the scored images: the scene that LLaVA describes.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default the fastest there is.")] = None,
) -> None:
    """Steer a dozen concepts by a discarded, a retained and a concept neuron, side by side."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        settings, scores = CBSAESection.read(recipe), ScoresSection.read(recipe)
        steering = SteerabilitySection.read(recipe)
        if not steering.llava or not steering.unclip:
            raise ValueError("section `steerability` of the recipe lacks llava or unclip")
        where = {"device": device, "beside": settings.model}
        sae, cb = SAE.from_pretrained(settings.model), CBSAE.from_pretrained(settings.output)
        chosen = choose(NeuronTable.read(settings.scores).frame, cb, count)
        scene = load_images(scores.images, scores.split, beside=settings.model)[image]["image"]
        llava = LlavaSteerer.from_pretrained(steering.llava, sae, **where)
        unclip = UnclipSteerer.from_pretrained(steering.unclip, sae, **where)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    alpha, guidance = steering.alpha, steering.guidance
    of_parent = llava, unclip
    of_cb = LlavaSteerer(llava.model, llava.processor, cb), UnclipSteerer(unclip.pipeline, cb)
    found = {
        kind: steered(*steerers, scene, chosen[kind].tolist(), alpha, guidance)
        for kind, steerers in zip(KINDS, (of_parent, of_parent, of_cb), strict=True)
    }
    unsteered = llava.generate([scene], QUESTIONS["sentence"])[0]
    cells = [
        [(found[kind][i]["picture"], f"“{found[kind][i]['one word']}”\n{found[kind][i]['sentence']}") for kind in KINDS]
        for i in range(len(chosen))
    ]
    caption = f"Drawn by the neuron alone; “the word” for a white image; what becomes of: {unsteered}"
    output.mkdir(parents=True, exist_ok=True)
    with replace_file(output / "sheet.png") as partial:
        plot_sheet(cells, chosen["concept"].tolist(), KINDS, caption).savefig(partial, format="png")
    told = {
        "alpha": alpha,
        "questions": QUESTIONS,
        "scene": {"row": image, "unsteered": unsteered},
        "concepts": [
            {"concept": row["concept"]}
            | {
                kind: {"neuron": int(row[kind]), **{question: found[kind][i][question] for question in QUESTIONS}}
                for kind in KINDS
            }
            for i, row in enumerate(chosen.to_dict("records"))
        ],
    }
    write_text(output / "sheet.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    logging.info("%s", output / "sheet.png")


if __name__ == "__main__":
    typer.run(main)
