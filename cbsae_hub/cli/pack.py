"""``cbsae pack`` names and scores a model's neurons, and picks example images of each."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbsae_hub.cli.options import Device, Model
from cbsae_hub.cli.output import Data, command, facts
from cbsae_hub.cli.sources import device_of
from cbsae_hub.words import number

if TYPE_CHECKING:
    from cbsae_hub.models import CBSAE, SAE
    from cbsae_hub.neurons.pack import Pack


PARTIAL = ".scores"  # hidden, so that it is never published


def _show(data: Data) -> str:
    from cbsae_hub.scoring import headline

    lines = [("pack", data["folder"]), ("neurons", f"{number(data['named'])} of {number(data['neurons'])} have names")]
    return facts([*lines, *((name.strip(), number(value)) for name, value in headline(data["scores"]).items())])


@command(_show)
def pack(
    model: Model,
    images: Annotated[
        str | None, typer.Option(help="Folder of pictures or Parquet files, or Hub id of a dataset.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Image-text model that names: ARCHITECTURE/TAG of open_clip, a folder or Hub id.")
    ] = None,
    concepts: Annotated[
        list[str] | None,
        typer.Option(
            help="Text file, one concept a line; common, the list that comes with the package; or a published one "
            "(broden, 3k, 20k ...). The first is for names."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help='Split of the images; several with "+"; default train.')] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="Take only the first so many.")] = None,
    similarity: Annotated[
        str | None, typer.Option(help="Encoder that MonoSemanticity is measured with; default the judge.")
    ] = None,
    truth: Annotated[
        list[str] | None, typer.Option(help="KIND=COLUMN of labels that neurons are compared with; several times.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Instead of the one that the model's config names.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Images that a neuron is named by; default 100.")] = None,
    alt_column: Annotated[str, typer.Option(help="Column that says what an image shows.")] = "caption",
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Folder of `cbsae score`: alone, the pack is made of these scores; beside images, judge and concepts, "
            "their steerability goes into it."
        ),
    ] = None,
    unclip: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of a Stable unCLIP, which draws every neuron alone: its second icon."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of model and pack; default MODEL itself, if that is a folder.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the pack that is there.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once; default 64.")] = None,
    device: Device = None,
) -> Data:
    """Name and score a model's neurons on images, and pick examples: all that find, inspect and the page read.

    Nothing needs to be computed before; with --scores, those of `cbsae score`, nothing is scored again. Started again
    after a kill, it goes on where it was. A model of the Hub or of a foreign format is saved in --output first.
    """
    scoring = {
        "--images": images, "--judge": judge, "--concepts": concepts, "--split": split, "--max-images": max_images,
        "--similarity": similarity, "--truth": truth, "--encoder": encoder, "--top-k": top_k,
        "--batch-size": batch_size,
    }  # fmt: skip
    folder = output or Path(model)
    if not (output or folder.is_dir()):
        raise typer.BadParameter(f"{model} is no folder here: say with --output where model and pack are to be")
    if scores is not None and not any(scoring.values()):
        return _of_scores(scores, model, folder, alt_column, overwrite, device, unclip)
    if images is None or judge is None or not concepts:
        lacking = [name for name in ("--images", "--judge", "--concepts") if not scoring[name]]
        others = ", ".join(name for name, value in scoring.items() if value)
        alone = f", or --scores without {others}" if others else ", or --scores alone"
        raise typer.BadParameter(f"{', '.join(lacking)} missing: a pack needs images, a judge and concepts{alone}")
    labels = dict(_label(text) for text in truth or [])
    lists = {Path(source).stem: source for source in concepts}
    if len(lists) < len(concepts):
        raise typer.BadParameter("two of the --concepts have the same name: rename one")
    split, batch_size = split or "train", batch_size or 64
    _require_none(folder, overwrite)

    from cbsae_hub.cards.write import write_card
    from cbsae_hub.data.images import load_images
    from cbsae_hub.pipeline.pack import icon_drawer
    from cbsae_hub.scoring import NeuronScorer, Scores
    from cbsae_hub.scoring.build_pack import build_pack, caption_column
    from cbsae_hub.scoring.card_pictures import write_pictures

    probe = load_images(images, split, beside=model)
    if max_images is not None:
        probe = probe.select(range(min(max_images, len(probe))))
    caption_column(probe, alt_column)  # an error comes before the scores take their time
    scorer = NeuronScorer.from_pretrained(
        model,
        probe,
        judge=judge,
        concepts=lists,
        similarity=similarity,
        truth=labels,  # even without labels: the examples need the latents that are kept with truth
        encoder=encoder,
        top_k=top_k or 100,
        device=device_of(device),
    )
    drawer = icon_drawer(unclip, scorer.sae, device_of(device), model)  # likewise
    if folder.resolve() != Path(model).resolve():
        _save(scorer.sae, folder)
    partial = folder / PARTIAL
    about: Data = {"images": images, "split": split, "judge": judge, "concepts": lists, "similarity": similarity}
    about |= {"truth": labels, "encoder": scorer.encoder.provenance(), "top_k": top_k, "weights": scorer.sae.revision}
    scorer.run(probe, batch_size, checkpoint=partial, settings=about)
    results = scorer.results()
    if scores is not None:
        results = results.with_steerability_of(Scores.load(scores))
    new = build_pack(
        results,
        scorer.sae,
        scorer.encoder,
        probe,
        folder,
        source={"id": images, "split": split},
        alt_column=alt_column,
        batch_size=batch_size,
        drawer=drawer,
    )
    shutil.rmtree(partial)
    write_pictures(folder)
    write_card(folder)
    return _facts(new, model, folder)


def _of_scores(
    scores: Path, model: str, folder: Path, alt_column: str, overwrite: bool, device: str | None, unclip: str | None
) -> Data:
    """Makes the pack of scores that are there."""
    _require_none(folder, overwrite)

    from cbsae_hub.formats.load import load
    from cbsae_hub.pipeline.pack import make_pack

    if folder.resolve() != Path(model).resolve():
        _save(load(model), folder)
    built = make_pack(scores, folder, alt_column=alt_column, device=device_of(device), unclip=unclip)
    return _facts(built, model, folder)


def _require_none(folder: Path, overwrite: bool) -> None:
    from cbsae_hub.neurons.pack import INFO

    if (folder / INFO).exists() and not overwrite:
        raise FileExistsError(f"{folder} has a pack already: --overwrite replaces it")


def _facts(pack: "Pack", model: str, folder: Path) -> Data:
    return {
        "model": model,
        "folder": folder,
        "neurons": len(pack.neurons),
        "named": int(pack.neurons.frame["name"].notna().sum()),
        "images": pack.info["images"]["n"],
        "scores": pack.info["scores"],
    }


def _save(sae: "SAE | CBSAE", folder: Path) -> None:
    """Saves the model, unless an earlier attempt has done so."""
    import torch

    from cbsae_hub.formats.load import load
    from cbsae_hub.hub.files import CONFIG_NAME

    if not (folder / CONFIG_NAME).exists():
        sae.save_pretrained(folder)
        return
    old, own = load(folder).state_dict(), sae.state_dict()
    if old.keys() != own.keys() or not all(torch.equal(old[name], own[name].cpu()) for name in own):
        raise FileExistsError(f"{folder} holds another model: take an empty folder")


def _label(text: str) -> tuple[str, str]:
    kind, equals, column = (part.strip() for part in text.partition("="))
    if not (kind and equals and column):
        raise typer.BadParameter(f"--truth takes KIND=COLUMN, such as object=label, got {text!r}")
    return kind, column
