"""The page's own pieces of HTML. Everything that comes from a model, a data set or a user is escaped."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbsae_hub.neurons.pack import Example, Pack
from cbsae_hub.studio.view.pictures import data_uri

# Five colours of viridis, dark to light: order is readable without telling colours apart.
VIRIDIS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], float)
STRIP_TITLES = {
    "top": "Strongest images",
    "p75": "Upper quarter of the images on which it fires",
    "p50": "Middle",
    "p25": "Lower quarter",
    "random": "Drawn at random from all images on which it fires",
}
CARD_STRIPS = ("top", "p50", "random")
STATUS_NOTES = {
    "dead": "This neuron never fired on the probe images: it has no name.",
    "rare": "This neuron fires on fewer than 1 in 10,000 patches: its name rests on few images.",
    "dense": "This neuron fires on more than 10 % of all patches: it rarely stands for one concept.",
}
VERDICTS = {"strong": "●", "weak": "◐", "not in this model": "○"}
CONCEPT_NOTE = "This neuron grades every patch: it counts where it is among the largest of the concepts."


def escape(text: Any) -> str:
    """Text of a model, a data set or a visitor, as HTML."""
    return html.escape(str(text), quote=False)


def attribute(text: Any) -> str:
    """The same between quotation marks."""
    return html.escape(str(text), quote=True)


def colour(heat: float) -> str:
    """CSS colour of a strength 0..1: viridis, transparent at 0."""
    place = min(max(heat, 0.0), 1.0) * (len(VIRIDIS) - 1)
    low = min(int(place), len(VIRIDIS) - 2)
    r, g, b = VIRIDIS[low] + (place - low) * (VIRIDIS[low + 1] - VIRIDIS[low])
    return f"rgba({r:.0f},{g:.0f},{b:.0f},{0.0 if heat <= 0 else 0.35 + 0.45 * min(heat, 1.0):.2f})"


def neuron_title(row: Any) -> str:
    """``pizza (3.41) - #12``: never a bare number; neurons that were trained for a concept bear that name first."""
    if row.kind == "cb" and row.designated != row.name:
        return f"{row.designated} (found to be {row.name or 'nothing'}, {row.score:.2f}) - #{row.neuron}"
    mark = ", concept neuron" if row.kind == "cb" else ""
    return f"{row.name} ({row.score:.2f}{mark}) - #{row.neuron}" if row.name else f"no name - #{row.neuron}"


def heat_svg(heat: np.ndarray) -> str:
    """A patch map as an overlay that stretches over its picture."""
    rows, columns = heat.shape
    cells = "".join(
        f'<rect x="{c}" y="{r}" width="1" height="1" fill="{colour(float(heat[r, c]))}"/>'
        for r, c in np.argwhere(heat > 0.02)
    )
    box = f'viewBox="0 0 {columns} {rows}" preserveAspectRatio="none"'
    return f'<svg class="cb-heat" {box} aria-hidden="true">{cells}</svg>'


def figure(pack: Pack, example: Example) -> str:
    """One example image with its patch map and activation."""
    overlay = frame = fit = ""
    if example.patch_map is not None:  # the part of the picture that the encoder sees is under its map
        rows, columns = example.patch_map.shape
        cropped = pack.info["encoder"].get("preprocessing", {}).get("do_center_crop")
        frame = f' style="aspect-ratio:{columns}/{rows}"'
        fit = f' style="object-fit:{"cover" if cropped else "fill"}"'
        overlay = heat_svg(example.patch_map)
    alt = attribute(f"{example.alt}; mean activation {example.activation:.2f}")
    source = data_uri(pack.image_bytes(example.image_id))
    return (
        f'<figure class="cb-figure"><div class="cb-frame"{frame}><img src="{source}" alt="{alt}"{fit}>{overlay}</div>'
        f"<figcaption>{example.activation:.2f}</figcaption></figure>"
    )


def strips(pack: Pack, neuron: int, which: Sequence[str] = tuple(STRIP_TITLES)) -> str:
    """Example strips of a neuron."""
    parts = []
    for strip in which:
        title = STRIP_TITLES[strip]
        if examples := pack.examples(neuron, strip, limit=9):
            figures = "".join(figure(pack, example) for example in examples)
            parts.append(f'<h4>{title}</h4><div class="cb-strip">{figures}</div>')
    return "".join(parts)


def facts(pairs: list[tuple[str, str, str]]) -> str:
    """A list of (name, value, explanation)."""
    items = "".join(
        f'<div title="{attribute(why)}"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
        for name, value, why in pairs
    )
    return f'<dl class="cb-facts">{items}</dl>'


def belonging(content: str, of: Mapping[str, str], button: str) -> str:
    """A result as HTML, which static/address.js marks as soon as the page no longer says what it was made with.

    Args:
        content: HTML.
        of: The parts of the address that it was made with, as :func:`cbsae_hub.studio.links.as_text` spells them.
        button: Id of the button that makes it anew.
    """
    return (
        f'<div class="cb-result" data-of="{attribute(json.dumps(of))}"><p class="cb-again" role="status">These are '
        f'results of earlier settings. <button type="button" class="cb-do" data-run="{button}">Run again</button></p>'
        f'<div class="cb-made">{content}</div></div>'
    )


def download(text: str, address: str) -> str:
    """A link to a file, which looks like a button."""
    return f'<p class="cb-actions"><a class="cb-do" href="{attribute(address)}" download>{escape(text)}</a></p>'


def neuron_head(pack: Pack, row: Any) -> str:
    """A neuron's title, what can be done with it, warnings, and its figures."""
    others = ", ".join(f"{name} ({score:.2f})" for name, score in list(zip(row.names, row.scores))[1:])
    note = CONCEPT_NOTE if row.kind == "cb" else STATUS_NOTES.get(row.status)
    return (
        f"<h3>{escape(neuron_title(row))}</h3>"
        f'<p class="cb-actions"><button type="button" class="cb-do" data-act="add" data-neuron="{row.neuron}">'
        f'Add to basket</button><button type="button" class="cb-do" data-act="open" data-neuron="{row.neuron}">'
        'Open its page</button><button type="button" class="cb-do" data-link>Copy link</button></p>'
        + (f'<p class="cb-note">{note}</p>' if note else "")
        + (f'<p class="cb-also">Also near: {escape(others)}</p>' if others else "")
        + facts(_figures(pack, row))
    )


def neuron_card(pack: Pack, row: Any) -> str:
    """A neuron in short: its head and its pictures."""
    return (
        f'<section class="cb-card" aria-live="polite">{neuron_head(pack, row)}'
        f"{strips(pack, row.neuron, CARD_STRIPS)}</section>"
    )


def _figures(pack: Pack, row: Any) -> list[tuple[str, str, str]]:
    """A neuron's scores: name, value, explanation."""
    pairs = [
        ("Fires on", f"{row.density:.1%} of images", f"and on {row.token_density:.2%} of all patches"),
        ("Strongest", f"{row.max:.1f}", "largest activation of a patch of the probe images"),
        ("p99", "-" if math.isnan(row.p99) else f"{row.p99:.1f}", "99 % of its activations are below this"),
        ("Group", str(row.group), "Matryoshka group: 0 is the coarsest"),
    ]
    if not math.isnan(row.interpretability):
        why = "how well its name fits, between the worst, 0, and the best, 1, of this model's neurons (CLIP-Dissect)"
        pairs.append(("Interpretability", f"{row.interpretability:.2f}", why))
    if not math.isnan(row.monosemanticity):
        chance = pack.info["scores"]["monosemanticity"]["population"]
        why = f"how alike the images are on which it fires; any two images: {chance:.2f}"
        pairs.append(("MonoSemanticity", f"{row.monosemanticity:.2f}", why))
    if not math.isnan(getattr(row, "steerability", math.nan)):  # packs without steerability lack the columns
        why = "how near the word is to its name that LLaVA says when it is set on a white picture: 1 is the name itself"
        pairs.append(("Steerability", f"{row.steerability:.2f} (“{row.said_white}”)", why))
    if row.truth:
        verdict = "the name agrees" if row.truth_agrees else "the name differs"
        why = "the label that its activation predicts best on images whose content is known, and the average precision"
        pairs.append(("Ground truth", f"{row.truth_family} {row.truth}, AP {row.truth_ap:.2f} ({verdict})", why))
    if row.kind == "cb":
        why = "a concept neuron of the bottleneck; its name is what it was then found to fire on"
        pairs.insert(0, ("Trained for", row.designated, why))
    return pairs


def verdict(kind: str, text: str) -> str:
    """A verdict chip and a sentence."""
    return (
        f'<p class="cb-verdict" role="status" aria-live="polite"><span class="cb-chip cb-{kind.split()[0]}">'
        f"{VERDICTS[kind]} {escape(kind)}</span> {escape(text)}</p>"
    )


def patch_grid(shown: bytes, heat: np.ndarray, caption: str, chosen: int | None = None, ratio: float = 1.0) -> str:
    """A picture whose patches can be chosen by mouse, arrow keys and Enter.

    Args:
        shown: The picture as WebP.
        heat: Strengths 0..1 ``[rows, columns]``.
        caption: What is seen.
        chosen: The patch that was chosen.
        ratio: The picture's width, by its height.
    """
    rows, columns = heat.shape
    focus = 0 if chosen is None else chosen
    cells = "".join(
        f'<button type="button" class="cb-cell" data-patch="{i}" tabindex="{0 if i == focus else -1}" '
        f'aria-pressed="{"true" if i == chosen else "false"}" style="background:{colour(float(value))}" '
        f'aria-label="patch row {i // columns + 1}, column {i % columns + 1}, strength {value:.2f}"></button>'
        for i, value in enumerate(heat.ravel())
    )
    return (
        f'<figure class="cb-grid-figure"><div class="cb-grid" data-columns="{columns}" role="group" '
        f'aria-label="patches of the picture" style="aspect-ratio:{ratio:.4g};'
        f'grid-template-columns:repeat({columns},1fr);grid-template-rows:repeat({rows},1fr);background-image:url({data_uri(shown)})">{cells}</div>'
        f'<figcaption><span role="status" aria-live="polite">{escape(caption)}</span></figcaption></figure>'
    )


def header(pack: Pack, own: int = 0) -> str:
    """What the model is, in numbers with explanations, and how many concepts the visitor has added to it."""
    info, scores = pack.info, pack.info["scores"]
    kept = scores["reconstruction"]
    encoder, model = info["encoder"], info["model"]
    pairs = [
        ("Encoder", str(encoder["encoder_id"]), "the vision model that is explained"),
        ("Layer", f"{encoder['layer']}, {encoder['tokens']}", "where its activations are read, and of which tokens"),
        ("Neurons", _neurons(model), f"{model['activation']}, k = {model['k']}"),
        ("L0", f"{kept['l0']:.1f}", "neurons that fire on a patch, on average"),
        ("Explained variance", f"{kept['explained_variance']:.1%}", "what the neurons together keep of the input"),
        ("Dead", f"{scores['shares']['dead']:.1%}", "neurons that never fire on the probe images"),
    ]
    if "truth" in scores:
        why = "how often a neuron's name is the concept that it predicts best on images whose content is known"
        pairs.append(("Names that are right", f"{scores['truth']['name_agreement']:.0%}", why))
    if own:
        pairs.insert(
            0, ("Yours", f"{own} concept{'s' if own > 1 else ''}", "that you have added; nobody else has them")
        )
    return f'<details class="cb-about"><summary>About this model</summary>{facts(pairs)}</details>'


def _neurons(model: Mapping[str, Any]) -> str:
    concepts = model.get("concepts", 0)
    return f"{model['d_sae']:,}" + (f" + {concepts:,} concepts" if concepts else "")


def bar(share: float, text: str) -> str:
    """How far something is that takes long, in a bar and in words."""
    return (
        f'<div class="cb-progress" role="status" aria-live="polite"><progress max="1" value="{share:.3f}" '
        f'aria-label="how far it is"></progress>'
        f"<span>{escape(text)}</span></div>"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of texts; the first column heads its rows."""
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return scrolled(f'<table class="cb-table"><thead><tr>{heads(columns)}</tr></thead><tbody>{body}</tbody></table>')


def heads(columns: Sequence[str]) -> str:
    """The cells that head the columns of a table; a column without a name has nothing that a reader would announce."""
    return "".join(f"<th>{escape(column)}</th>" if column else "<td></td>" for column in columns)


def scrolled(table: str, kind: str = "") -> str:
    """A table, as HTML, that scrolls where the screen is too narrow for it: by keyboard, too."""
    return f'<div class="cb-scroll {kind}" tabindex="0" role="group" aria-label="table">{table}</div>'
