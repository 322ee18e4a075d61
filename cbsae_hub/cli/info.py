"""``cbsae info`` describes a model and its scores."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cbsae_hub.cli.options import Model, Revision
from cbsae_hub.cli.output import Data, command, facts, percent, printable, table
from cbsae_hub.cli.sources import k_of, of_other_weights, pack_of
from cbsae_hub.words import number

if TYPE_CHECKING:
    from cbsae_hub.models import CBSAE, SAE
    from cbsae_hub.neurons.pack import Pack

TABLES = ("SAE and CB-SAE", "parts")  # of evaluation.json: those of this model
FACTS = ("d_in", "d_sae", "activation", "group_sizes", "encoder_id", "encoder_revision", "layer", "tokens",
         "preprocessing", "training_data", "norm_factor")  # fmt: skip


def _show(data: Data) -> str:
    imported = data["imported_from"]
    size = f"{number(data['neurons'])} neurons on {number(data['d_in'])} dimensions"
    if data["concepts"]:
        size += f": {number(data['d_sae'])} of its parent and {len(data['concepts'])} concepts"
    text = facts(
        [
            ("model", _of(data["model"], data["revision"])),
            ("class", f"{data['class']}, {data['activation']}" + (f", k {data['k']}" if data["k"] else "")),
            ("size", size),
            ("groups", data["group_sizes"] and ", ".join(map(number, data["group_sizes"]))),
            ("concepts", ", ".join(data["concepts"])),
            ("parent", _spelled(data["parent"])),
            ("encoder", data["encoder_id"] and _of(data["encoder_id"], data["encoder_revision"])),
            ("reads", None if data["layer"] is None else f"layer {data['layer']}, tokens: {data['tokens']}"),
            ("trained on", _spelled(data["training_data"])),
            ("imported from", imported and f"{imported['source']}, {imported['format']}"),
            ("notes", imported and "\n".join(imported["notes"])),
            ("held out", _spelled(data["heldout"])),
            *_pack_lines(data["pack"]),
        ]
    )
    for name, rows in data["evaluation"].items():
        text += f"\n\n{printable(name)}\n{_turned(rows)}"
    return text


def _pack_lines(pack: Data | None) -> list[tuple[str, Any]]:
    if pack is None:
        return [("pack", "none; `cbsae pack` builds one")]
    judge, images, scores = pack["judge"], pack["images"], pack["scores"]
    steered = scores.get("steerability")
    return [
        ("pack", f"{number(pack['named'])} neurons have names" + (", OF OTHER WEIGHTS" if pack["stale"] else "")),
        ("judge", _of(judge["id"], judge["revision"]) if judge["id"] else "none"),
        ("images", f"{number(images['n'])} of {images['id']}, {images['split']}"),
        ("vocabulary", judge["id"] and f"{pack['concepts']['name']}, {number(pack['concepts']['n'])} concepts"),
        ("reconstruction", _spelled(scores["reconstruction"])),
        ("neurons", ", ".join(f"{percent(share)} {status}" for status, share in scores["shares"].items())),
        ("names", judge["id"] and f"{percent(scores['interpretability']['share_above_chance'])} above chance"),
        ("monosemanticity", f"{number(scores['monosemanticity']['mean'])}; of any two images "
                            f"{number(scores['monosemanticity']['population'])}"),
        ("steerability", steered and f"{number(steered[steered['main']]['mean'])} ({steered['main']}), "
                                     f"set to {steered['alpha']:g}"),
    ]  # fmt: skip


def _of(name: str, revision: str | None) -> str:
    return f"{name} ({revision})" if revision else name


def _spelled(value: Any) -> str | None:
    """Returns a short record in one line."""
    if not isinstance(value, dict):
        return value
    cells = {name: number(inner) if isinstance(inner, float) else inner for name, inner in value.items()}
    return ", ".join(f"{name} {cell}" for name, cell in cells.items() if cell is not None)


def _turned(rows: list[Data]) -> str:
    """Returns a table of scores, models beside each other."""
    first, *scores = rows[0]
    values = {str(row[first]): [row.get(name) for name in scores] for row in rows}
    columns = {
        name: [number(value) if isinstance(value, float) else value for value in column]
        for name, column in values.items()
    }
    return table({"": scores, **columns})


@command(_show)
def info(model: Model, revision: Revision = None) -> Data:
    """Say what a model is, which encoder it explains, and what was measured of it."""
    described, commit = _described(model, revision)
    pack = pack_of(model, revision)
    training, evaluation = (_results(model, name, revision, commit) for name in ("training.json", "evaluation.json"))
    tables = evaluation.get("tables", {})
    if not isinstance(tables, dict):
        raise ValueError(f"evaluation.json of {model} has no tables by name: write it again, or delete it")
    return {
        "model": model,
        "revision": commit,
        "class": type(described).__name__,
        "neurons": described.d_latent,
        **{name: getattr(described, name) for name in FACTS},
        "k": k_of(described),
        "concepts": getattr(described, "concepts", []),
        "parent": getattr(described, "parent", None),
        "imported_from": getattr(described, "imported_from", None),
        "heldout": training.get("heldout"),
        "pack": None if pack is None else _pack_facts(pack, commit),
        "evaluation": {name: tables[name] for name in TABLES if tables.get(name)},
    }


def _described(model: str, revision: str | None) -> "tuple[SAE | CBSAE, str | None]":
    """Returns a model and its revision; of this package's own format the weights are not read."""
    from cbsae_hub.formats.load import CLASSES, load
    from cbsae_hub.hub.files import CONFIG_NAME, read_config
    from cbsae_hub.hub.locate import download, find_in_folder
    from cbsae_hub.models import ModelFileError

    local = Path(model).exists()
    try:
        path = Path(model) / CONFIG_NAME if local else download(model, CONFIG_NAME, revision, {})
        own = CLASSES.get(read_config(path).get("model_class", ""))
    except (ModelFileError, FileNotFoundError, NotADirectoryError):  # another format, perhaps
        own = None
    if own is None:
        sae = load(model, revision=revision)
        return sae, sae.revision
    commit = find_in_folder(Path(model), revision)[2] if local else path.parent.name
    return own.described_by(path), commit


def _pack_facts(pack: "Pack", commit: str | None) -> Data:
    info = pack.info
    concepts = {name: info["concepts"][name] for name in ("name", "sha256")}
    return {
        "named": int(pack.neurons.frame["name"].notna().sum()),
        "stale": of_other_weights(pack, commit),
        **{name: info[name] for name in ("encoder", "judge", "naming", "images", "grid")},
        "concepts": {**concepts, "n": len(pack.vocabulary)},
        "scores": info["scores"],
    }


def _results(model: str, name: str, revision: str | None, commit: str | None) -> Data:
    """Reads a file of results beside a model; empty if there is none, or it is of other weights."""
    from cbsae_hub.hub.files import read_config
    from cbsae_hub.hub.locate import download
    from cbsae_hub.models import ModelFileError

    if not Path(model).exists():  # what is on the Hub was checked when it was published
        try:
            return read_config(download(model, name, revision, {}))
        except ModelFileError:
            return {}
    results = read_config(Path(model) / name) if (Path(model) / name).is_file() else {}
    if results and results.get("revision") != commit:
        typer.echo(f"{name} of {model} is of other weights and is left out", err=True)
        return {}
    return results
