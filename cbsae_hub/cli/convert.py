"""``cbsae convert`` turns SAEs of other libraries into this package's format, and into SAELens'."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cbsae_hub.cli.options import Revision
from cbsae_hub.cli.output import Data, command, facts
from cbsae_hub.cli.sources import k_of
from cbsae_hub.words import number

FACTS = ("d_in", "d_sae", "activation", "encoder_id", "encoder_revision", "layer", "tokens")


def _show(data: Data) -> str:
    return facts(
        [
            ("from", data["source"] + (f", {data['format']}" if data["format"] else "")),
            ("to", f"{data['output']}, {data['to']}"),
            ("SAE", f"{data['activation']}, {number(data['d_sae'])} neurons on {number(data['d_in'])} dimensions"),
            ("encoder", data["encoder_id"] or "not known: say it with --encoder-id"),
            ("reads", None if data["layer"] is None else f"layer {data['layer']}, tokens: {data['tokens']}"),
            ("notes", "\n".join(data["notes"])),
        ]
    )


@command(_show)
def convert(
    source: Annotated[str, typer.Argument(help="File, folder or Hub id of an SAE in any format that is known.")],
    output: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    to: Annotated[Literal["cbsae", "saelens"], typer.Option(help="Format to write.")] = "cbsae",
    source_format: Annotated[
        str | None, typer.Option("--from", help="Format of SOURCE; default what its files look like.")
    ] = None,
    sae_id: Annotated[str | None, typer.Option(help="Name of the SAE in a repository of several.")] = None,
    encoder_id: Annotated[str | None, typer.Option(help="Encoder that it explains, if its files do not say.")] = None,
    encoder_revision: Annotated[str | None, typer.Option(help="Revision of that encoder.")] = None,
    layer: Annotated[int | None, typer.Option(help="Block whose output is read, from 0.")] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Tokens that are read: cls, patches, all, mean or random:n.")
    ] = None,
    revision: Revision = None,
) -> Data:
    """Convert an SAE from other libraries' formats, or to SAELens'.

    Known are SAELens, dictionary_learning, sae-for-vlm, sparsify, saev and ViT-Prisma; nothing is ever unpickled.
    """
    from cbsae_hub.formats.convert import export_saelens
    from cbsae_hub.formats.load import load

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is not empty: take a new folder")
    sae = load(
        source,
        revision=revision,
        format=source_format,
        sae_id=sae_id,
        encoder_id=encoder_id,
        encoder_revision=encoder_revision,
        layer=layer,
        tokens=tokens,
    )
    if to == "saelens":
        export_saelens(sae, output)
    else:
        sae.save_pretrained(output)
    imported = getattr(sae, "imported_from", None) or {}
    return {
        "source": source,
        "format": imported.get("format"),
        "output": output,
        "to": to,
        **{name: getattr(sae, name) for name in FACTS},
        "k": k_of(sae),
        "notes": list(imported.get("notes", [])),
    }
