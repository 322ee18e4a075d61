"""Neurons per second of the text score: many at once, against one call of ``generate`` for each neuron.

    python benchmarks/steerability.py

Both ask the shipped LLaVA for the first word about each neuron set to 50. "One call each" is how the published code
does it: the image is encoded, the neuron is set by a hook, and up to five tokens are generated. The answers must be
the same, word for word, or the benchmark fails. Rounds of the two take turns; the ratio is that of the median times.
"""

import json
import platform
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from cbsae_hub import SAE, Edit, Steering
from cbsae_hub.metrics.steerability import first_word
from cbsae_hub.models.files import replace_file
from cbsae_hub.scoring.steerability import WHITE, Outcomes
from cbsae_hub.steering import LlavaSteerer
from cbsae_hub.steering.first_words import ONE_WORD, FirstWords

ALPHA, TOKENS = 50.0, 5


@torch.no_grad()
def one_call_each(llava: LlavaSteerer, neurons: list[int], isolate: bool) -> list[str]:
    """The plain way: a forward pass of everything, and a call of generate, for every neuron."""
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


def many_at_once(llava: LlavaSteerer, neurons: list[int], isolate: bool) -> list[str]:
    """As the steerability score does it, preparations included."""
    outcomes = Outcomes(llava, llava.features_of, isolate, seed=0)
    words, ask = [], FirstWords(llava, ONE_WORD, TOKENS)
    for start in range(0, len(neurons), 64):
        part = neurons[start : start + 64]
        words += ask(outcomes.steered(part, [ALPHA] * len(part)))
    return words


def compare(llava: LlavaSteerer, neurons: list[int], isolate: bool, rounds: int, plain: int) -> dict[str, Any]:
    """Times of both ways in turn; the plain one takes a few of the neurons only."""
    few = neurons[:: max(1, len(neurons) // plain)][:plain]
    times: dict[str, list[float]] = {"one_call_each": [], "many_at_once": []}
    for _ in tqdm(range(rounds), desc="unit vector" if isolate else "white image"):
        start = time.perf_counter()
        slow = one_call_each(llava, few, isolate)
        times["one_call_each"].append((time.perf_counter() - start) / len(few))
        start = time.perf_counter()
        fast = many_at_once(llava, neurons, isolate)
        times["many_at_once"].append((time.perf_counter() - start) / len(neurons))
        at_once = dict(zip(neurons, fast))
        if differ := [(n, word, at_once[n]) for n, word in zip(few, slow) if word != at_once[n]]:
            raise SystemExit(f"answers differ: {differ[:5]}")
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        "neurons_per_second": {name: 1 / value for name, value in seconds.items()},
        "ratio": seconds["one_call_each"] / seconds["many_at_once"],
        "ratios": [a / b for a, b in zip(*times.values())],
        "compared": len(few),
        "different_words": len(set(fast)),
    }


def main(
    model: Annotated[Path, typer.Option(help="Folder of the SAE.")] = Path("hub/emoji-sae"),
    llava: Annotated[Path, typer.Option(help="Folder of the LLaVA.")] = Path("hub/emoji-llava"),
    neurons: Annotated[int, typer.Option(help="Neurons at once.")] = 512,
    plain: Annotated[int, typer.Option(help="Neurons with one call each.")] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 5,
    output: Annotated[Path, typer.Option(help="JSON file of the results.")] = Path("runs/benchmark-steerability.json"),
) -> None:
    """Measures, compares the answers, prints and writes JSON."""
    torch.set_num_threads(2)
    sae = SAE.from_pretrained(model)
    steerer = LlavaSteerer.from_pretrained(llava, sae)
    ids = torch.linspace(0, sae.d_sae - 1, neurons).long().tolist()
    results = {
        name: compare(steerer, ids, isolate, rounds, plain) for name, isolate in (("unit", True), ("white", False))
    }
    results["machine"] = {"threads": 2, "torch": torch.__version__, "processor": platform.processor()}
    output.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(output) as partial:
        Path(partial).write_text(json.dumps(results, indent=1) + "\n")
    for name in ("unit", "white"):
        rates = results[name]["neurons_per_second"]
        typer.echo(
            f"{name}: {rates['one_call_each']:.1f} neurons/s one call each, {rates['many_at_once']:.1f} at once, "
            f"ratio {results[name]['ratio']:.1f}"
        )


if __name__ == "__main__":
    typer.run(main)
