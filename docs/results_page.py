"""Puts the tables that the studies have written into docs/results.md, each between its two marks.

python docs/results_page.py

A mark names a file in runs/, or one of ``SHIPPED``. A study that has not run here leaves the page as it was.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from cbsae_hub.hub.files import read_text, write_text
from cbsae_hub.studies.tables import markdown_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
MARKED = re.compile(r"<!-- table (\S+) -->\n.*?<!-- end -->", re.DOTALL)
KINDS = {
    "original": "scene",
    "canonical": "its canonical picture",
    "decoded": "decoded from exact latents",
    "reconstructed": "through the whole autoencoder",
}

MODES = {"unit": "unit vector", "white": "white image"}
SAID = {
    "one word, split test": "word_test",
    **{f"one word, {style}": f"word_test_{style}" for style in ("greyscale", "sketch", "pixelated", "blurred")},
    "one word, another word on a label": "word_typographic",
    "one word, two or three objects: one of them": "word_several",
    "background": "background",
    "count": "count",
    "style": "style",
    "the written word": "written",
    "that nothing is written": "written_nothing",
    "is there ...? where it is": "presence_yes",
    "is there ...? where it is not": "presence_no",
    "describe: names all objects": "describe",
}


def encoders(hub: Path) -> str:
    """Zero-shot top-1 of the three CLIPs on each split."""
    models = {name: _metrics(hub / name) for name in ("emoji-clip", "emoji-teacher", "emoji-judge")}
    splits = [key for key in models["emoji-clip"] if key.startswith("top1_")]
    lines = [
        {"split": key.removeprefix("top1_").replace("test_", "")}
        | {name: f"{figures[key]:.1f}" for name, figures in models.items()}
        for key in splits
    ]
    return markdown_table(pd.DataFrame(lines))


def unclip(hub: Path) -> str:
    """What two judges recognise of scenes, canonical pictures and drawings, and the backgrounds."""
    figures = _metrics(hub / "emoji-unclip")
    lines = []
    for key in [key for key in figures if key.startswith("judge_") and "background" not in key]:
        kind = key.removeprefix("judge_")
        measured = {"object, by emoji-judge": key, "by emoji-clip": f"clip_{kind}",
                    "background, by emoji-judge": f"judge_background_{kind}"}  # fmt: skip
        shown = KINDS.get(kind) or f"drawn, guidance {kind.removeprefix('drawn_')}"
        lines.append({"picture": shown} | {title: f"{figures[name]:.1f}" for title, name in measured.items()})
    return markdown_table(pd.DataFrame(lines))


def llava(hub: Path) -> str:
    """What emoji-llava answers rightly; open prompts together, from the worst to the best."""
    figures = {key: value for key, value in _metrics(hub / "emoji-llava").items() if isinstance(value, float)}
    shown = {title: f"{figures[key]:.1f}" for title, key in SAID.items()}
    for title, end in {"the form is kept": "_follows", "an object is named": "_names"}.items():
        some = [value for key, value in figures.items() if key.endswith(end)]
        shown[f"open prompts: {title}"] = f"{min(some):.1f} to {max(some):.1f}"
    return markdown_table(pd.DataFrame({"answer": shown.keys(), "right, %": shown.values()}))


def scores(hub: Path) -> str:
    """What score_neurons.py found about emoji-sae."""
    found = _scores(hub)
    rebuilt, after, mono = found["reconstruction"], found["downstream"], found["monosemanticity"]
    share, names, pairs = found["shares"], found["coverage"], found["uniqueness"]
    emoji, kinds, tree, truth = names["emoji"], names["kinds"], found["hierarchy"], found["truth"]
    groups = ", ".join(f"{group['mean']:.3f}" for group in mono["by_group"])
    accuracy = [f"{100 * after[f'accuracy_{kind}']:.1f}" for kind in ("original", "reconstructed", "zeroed")]
    entropy = [f"{after[f'cross_entropy_{kind}']:.3f}" for kind in ("original", "reconstructed", "zeroed")]
    depths = ", ".join(f"{group['mean']:.2f}" for group in tree["ancestor_depth_by_group"])
    return _listed(
        {
            "explained variance, cosine, L0": ", ".join(
                f"{rebuilt[name]:.3f}" for name in ("explained_variance", "cosine", "l0")
            ),
            "neurons dead, rare, dense": ", ".join(f"{100 * share[name]:.1f} %" for name in ("dead", "rare", "dense")),
            "zero-shot accuracy of emoji-clip: original, reconstructed, patches zeroed": f"{', '.join(accuracy)} %",
            "cross-entropy: original, reconstructed, zeroed": ", ".join(entropy),
            "concepts that are some neuron's name": f"{emoji['named']} of {emoji['concepts']}; by more than chance "
            f"{100 * emoji['share_above_chance']:.1f} %",
            "kinds of things": f"{kinds['named']} of {kinds['concepts']}",
            "neurons whose name is above chance (above 95 % of neurons with random images)":
            f"{100 * found['interpretability']['share_above_chance']:.1f} %",
            "names that are right: all neurons; where a label is clearly detected (AP >= 0.5)":
            f"{100 * truth['name_agreement']:.1f} %; {100 * truth['name_agreement_clear']:.1f} % of "
            f"{100 * truth['clear_share']:.1f} %",
            "concepts, backgrounds, styles that some neuron detects (AP >= 0.5)": ", ".join(
                f"{100 * truth['labels'][family]['detected']:.0f} %" for family in ("concept", "background", "style")
            ),
            "best average precision for a concept, mean": f"{truth['labels']['concept']['mean_best_ap']:.2f}",
            "MonoSemanticity: any two images; mean, best, worst neuron": f"{mono['population']:.3f}; "
            f"{mono['mean']:.3f}, {mono['best']:.3f}, {mono['worst']:.3f} ({mono['undefined']} undefined)",
            "by Matryoshka group, coarsest first": groups,
            "pairs of neurons that share any of their 16 top images; more than half":
            f"{100 * pairs['share_overlapping']:.2f} %; {100 * pairs['share_above_half']:.4f} % of {pairs['pairs']:,}",
            "neurons of several concepts, and the share of their common kind that they cover":
            f"{tree['neurons_of_several_concepts']}; {tree['mean_coverage']:.2f}",
            "depth at which top images meet (3: the same emoji), by group": depths,
        }
    )  # fmt: skip


def steerability(hub: Path) -> str:
    """What emoji-llava says and emoji-unclip draws of emoji-sae's neurons, beside controls."""
    found = _scores(hub)["steerability"]
    said = {mode: found[f"said_{mode}"] for mode in MODES}
    rows: dict[str, Callable[[str], str]] = {
        "cosine of the first word to the neuron's name": lambda mode: _mean(found, f"text_{mode}"),
        "control: a random direction of the same length": lambda mode: _mean(found, f"text_{mode}_random"),
        "control: nothing set": lambda mode: (
            f'{said[mode]["reconstruction_score"]:.3f} ("{said[mode]["reconstruction_only"]}")'
        ),
        "control: each word against some other neuron's name": lambda mode: f"{said[mode]['shuffled_score']:.3f}",
        "the word is the name": lambda mode: f"{100 * said[mode]['is_concept']:.1f} %",
        "different words": lambda mode: str(said[mode]["different_words"]),
        "variant of Pach et al., in emoji-teacher's space": lambda mode: _mean(found, f"clip_{mode}"),
        "cosine of the drawing to the top images": lambda mode: _mean(found, f"image_{mode}"),
        "control: a random direction, drawn": lambda mode: _mean(found, f"image_{mode}_random"),
    }
    lines = [{"": title} | {MODES[mode]: cell(mode) for mode in MODES} for title, cell in rows.items()]
    return markdown_table(pd.DataFrame(lines))


SHIPPED: dict[str, Callable[[Path], str]] = {
    "encoders": encoders,
    "llava": llava,
    "scores": scores,
    "steerability": steerability,
}
"""Tables of what lies beside the shipped models."""


def fill(text: str, runs: Path, hub: Path) -> tuple[str, list[str]]:
    """Fills the marked places of a page.

    Args:
        text: The page.
        runs: Folder of the studies' results.
        hub: Folder of the shipped models.

    Returns:
        The page, and the names of the tables that are not there.
    """
    missing = []

    def put(mark: re.Match[str]) -> str:
        name = mark[1]
        if name in SHIPPED:
            table = SHIPPED[name](hub)
        elif (file := runs / name).is_file():
            table = read_text(file)
        else:
            missing.append(name)
            return mark[0]
        return f"<!-- table {name} -->\n{table.strip()}\n<!-- end -->"

    return MARKED.sub(put, text), missing


def _scores(hub: Path) -> dict[str, Any]:
    return json.loads(read_text(hub / "emoji-sae" / "pack.json"))["scores"]


def _mean(found: dict[str, Any], name: str) -> str:
    return f"{found[name]['mean']:.3f}"


def _listed(figures: dict[str, str]) -> str:
    return markdown_table(pd.DataFrame({"": figures.keys(), " ": figures.values()}))


def _metrics(folder: Path) -> dict[str, float]:
    return json.loads(read_text(folder / "metrics.json"))


def main(
    runs: Annotated[Path, typer.Option(help="Folder of the studies' results.")] = ROOT / "runs",
    hub: Annotated[Path, typer.Option(help="Folder of the shipped models.")] = ROOT / "hub",
) -> None:
    """Fill the tables of docs/results.md."""
    text, missing = fill(read_text(PAGE), runs, hub)
    write_text(PAGE, text)
    typer.echo(f"{PAGE} is filled" + (f"; not measured here: {', '.join(missing)}" if missing else ""))


if __name__ == "__main__":
    typer.run(main)
