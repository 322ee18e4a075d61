"""``cbsae explain`` makes a page of named neurons of an encoder and pictures."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from cbsae_hub.cli.options import Device
from cbsae_hub.cli.output import Data, command, facts
from cbsae_hub.cli.serve import wait
from cbsae_hub.cli.sources import device_of
from cbsae_hub.words import number

HOST = "127.0.0.1"


def _show(data: Data) -> str:
    lines = [
        ("pictures", f"{data['images']}" + (f", {data['unreadable']} unreadable" if data["unreadable"] else "")),
        ("neurons", f"{data['neurons']}, {data['dead']} of them never fire"),
        ("explained variance", number(data["explained_variance"])),
    ]
    if names := data.get("names"):
        better = f"{names['better_than_both']} of {names['of']} are better than chance and than nonsense"
        lines.append(("names", f"{better}; luck gives {names['by_luck']}"))
    else:
        lines.append(("names", "none, as there was no judge: give --judge"))
    lines += [("best", ", ".join(data["best_names"]) or "none"), ("worst", ", ".join(data["worst_names"]) or "none")]
    lines += [(f"wanted: {one['concept']}", _place(one)) for one in data["wanted"] or []]
    page = f"{data['url']}; Ctrl-C ends it" if "url" in data else f"cbsae serve {quote(data['folder'])}"
    return facts([*lines, ("report", data["report"]), ("page", page)])


def _place(one: Data) -> str:
    if one["where"] == "bottleneck":
        fits = (
            "fit it best" if one["designated_first"] else "fit it" if one["designated_among_five"] else "do not fit it"
        )
        return f"trained; its pictures {fits}"
    return f"neuron {one['neuron']} already" if one["where"] == "sae" else f"left out, {one['why']}"


@command(_show, then=wait)
def explain(
    encoder: Annotated[str, typer.Argument(help="Folder or Hub id of a vision encoder of transformers.")],
    images: Annotated[str, typer.Argument(help="Folder of pictures, Parquet files or tars, or Hub id of a dataset.")],
    judge: Annotated[
        str,
        typer.Option(help="Image-text model that names: a CLIP or SigLIP, or `none`; `auto` is the encoder's own."),
    ] = "auto",
    concepts: Annotated[
        list[str] | None,
        typer.Option(help="Text file, one concept a line, or a list by name; default `common`, 2,000 words."),
    ] = None,
    want: Annotated[str, typer.Option(help="Concepts that the model shall have, with commas between.")] = "",
    output: Annotated[Path, typer.Option(help="Folder of the answer; the same command goes on there.")] = Path(
        "explained"
    ),
    layer: Annotated[int, typer.Option(help="Block whose output is explained, from 0 or from the end.")] = -2,
    tokens: Annotated[str, typer.Option(help="patches, cls, all, mean or random:n.")] = "patches",
    split: Annotated[str | None, typer.Option(help='Split of the pictures; several with "+".')] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Train a quarter as long.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="Train four times as long.")] = False,
    max_images: Annotated[int | None, typer.Option(min=2, help="Draw so many of the pictures.")] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Take --max-images from the beginning of what is too large to download.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a picture that cannot be read.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of all that is drawn.")] = 0,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the page when all is done.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 7860,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 64,
    device: Device = None,
) -> Data:
    """Explain an encoder by pictures: train an SAE, name its neurons, write a report and what the page shows.

    Everything goes into one folder. A run that was stopped goes on where it was with the same command.
    """
    import logging

    from cbsae_hub.pipeline.explain import Explanation, Question
    from cbsae_hub.pipeline.report import write_report

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if quick and thorough:
        raise typer.BadParameter("--quick and --thorough cannot both be meant")
    question = Question(
        encoder=encoder,
        images=images,
        layer=layer,
        tokens=tokens,
        split=split,
        judge=judge,
        concepts=tuple(concepts or ["common"]),
        want=tuple(part.strip() for part in want.split(",") if part.strip()),
        effort="quick" if quick else "thorough" if thorough else "normal",
        max_images=max_images,
        streaming=streaming,
        strict=strict,
        seed=seed,
    )
    if serve:
        from cbsae_hub.studio.serve import require_free
        from cbsae_hub.studio.serve import serve as start

        require_free(HOST, port)  # before the work is done
    work = Explanation(question, output, device_of(device), batch_size)
    summary = work.answer()
    report = write_report(output, summary)
    page = {"url": start([output], host=HOST, port=port).local_url} if serve else {}
    return {**summary, "folder": output.as_posix(), "report": report.as_posix(), **page}
