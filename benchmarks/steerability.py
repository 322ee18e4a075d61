"""Neurons per second of the text score: many at once, against one call of ``generate`` for each neuron.

    python benchmarks/steerability.py

All ask the shipped LLaVA for the first word about each neuron set to 50: ``generate``, one call of
``LlavaSteerer.generate`` for each neuron, which checks that each had an effect; ``published``, the same without that
check, by a hook and a call of the model's own ``generate``, as published code does it; ``at_once``, as the steerability
score does it, with the check. The answers must be the same, word for word, or the benchmark fails. Rounds take turns;
ratios are those of median times.
"""

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from machine import THREADS, machine
from tqdm import tqdm

from cbsae_hub import SAE, Edit, Steering
from cbsae_hub.hub.files import write_json
from cbsae_hub.metrics.steerability import first_word
from cbsae_hub.scoring.first_words import ONE_WORD, FirstWords
from cbsae_hub.scoring.outcomes import WHITE, Outcomes
from cbsae_hub.steering import LlavaSteerer

ALPHA, TOKENS = 50.0, 5


def generate(llava: LlavaSteerer, neurons: list[int], isolate: bool) -> list[str]:
    """Asks one neuron after the other, the plain way of this package."""
    return [
        first_word(llava.generate([WHITE], ONE_WORD, Steering([Edit(n, ALPHA)], isolate=isolate), TOKENS)[0])
        for n in neurons
    ]


@torch.no_grad()
def published(llava: LlavaSteerer, neurons: list[int], isolate: bool) -> list[str]:
    """A forward pass of everything, hooked, and a call of the model's generate, for every neuron."""
    words = []
    sae, text = llava.tower.sae, llava.conversation(ONE_WORD)
    for neuron in neurons:
        inputs = llava.processor(images=[WHITE], text=[text], return_tensors="pt")
        steering = Steering([Edit(neuron, ALPHA)], isolate=isolate)

        def edit(v: torch.Tensor, steering: Steering = steering) -> torch.Tensor:
            z = torch.zeros_like(sae.encode(v)) if steering.isolate else sae.encode(v)
            z[..., steering.edits[0].neuron] = ALPHA
            return sae.decode(z)

        with llava.tower.site.edit(edit):
            tokens = llava.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        answer = llava.processor.tokenizer.decode(tokens[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        words.append(first_word(answer))
    return words


def at_once(llava: LlavaSteerer, neurons: list[int], isolate: bool) -> list[str]:
    """As the steerability score does it, preparations included."""
    outcomes = Outcomes(llava, llava.features_of, isolate, seed=0)
    words, ask = [], FirstWords(llava, ONE_WORD, TOKENS)
    for start in range(0, len(neurons), 64):
        part = neurons[start : start + 64]
        words += ask(outcomes.steered(part, [ALPHA] * len(part)))
    return words


def compare(llava: LlavaSteerer, neurons: list[int], isolate: bool, rounds: int, plain: int) -> dict[str, Any]:
    """Times of all ways in turn; those with one call each take a few of the neurons only."""
    few = neurons[:: max(1, len(neurons) // plain)][:plain]
    ways = {"generate": (generate, few), "published": (published, few), "at_once": (at_once, neurons)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    words: dict[str, dict[int, str]] = {}
    for _ in tqdm(range(rounds), desc="unit vector" if isolate else "white image"):
        for name, (way, chosen) in ways.items():
            start = time.perf_counter()
            words[name] = dict(zip(chosen, way(llava, chosen, isolate)))
            times[name].append((time.perf_counter() - start) / len(chosen))
    for name, answers in words.items():
        if differ := [(n, word, words["at_once"][n]) for n, word in answers.items() if word != words["at_once"][n]]:
            raise SystemExit(f"answers of {name} differ: {differ[:5]}")
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        "neurons_per_second": {name: 1 / value for name, value in seconds.items()},
        "ratios": {name: value / seconds["at_once"] for name, value in seconds.items()},
        "compared": len(few),
        "different_words": len(set(words["at_once"].values())),
    }


def main(
    model: Annotated[Path, typer.Option(help="Folder of the SAE.")] = Path("hub/emoji-sae"),
    llava: Annotated[Path, typer.Option(help="Folder of the LLaVA.")] = Path("hub/emoji-llava"),
    neurons: Annotated[int, typer.Option(help="Neurons at once.")] = 512,
    plain: Annotated[int, typer.Option(help="Neurons of the ways with one call each.")] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 5,
    output: Annotated[Path, typer.Option(help="JSON file of the results.")] = Path("runs/benchmark-steerability.json"),
) -> None:
    """Measures, compares the answers, prints and writes JSON."""
    torch.set_num_threads(THREADS)
    sae = SAE.from_pretrained(model)
    steerer = LlavaSteerer.from_pretrained(llava, sae)
    ids = torch.linspace(0, sae.d_sae - 1, neurons).long().tolist()
    ways = {"unit": True, "white": False}
    results = {name: compare(steerer, ids, isolate, rounds, plain) for name, isolate in ways.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, {**results, "machine": machine()})
    for name, result in results.items():
        for way, rate in result["neurons_per_second"].items():
            ratio = result["ratios"][way]
            typer.echo(f"{name:6s} {way:10s} {rate:7.1f} neurons/s; at once is {ratio:.1f} times as fast")


if __name__ == "__main__":
    typer.run(main)
