"""``cbsae inspect`` lists the neurons that fire on images."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbsae_hub.cli.options import Device, Model, Revision
from cbsae_hub.cli.output import Data, about_marks, command, names, percent, printable, table
from cbsae_hub.cli.sources import device_of, model_and_pack, name_of, open_image
from cbsae_hub.words import number

if TYPE_CHECKING:
    from cbsae_hub.encoders.inspection import Inspection
    from cbsae_hub.models import CBSAE, SAE
    from cbsae_hub.neurons.pack import Pack

PACK_COLUMNS = ("score", "null_percentile", "density", "token_density", "p99", "status")


def _show(data: Data) -> str:
    return "\n\n".join(map(_show_image, data["images"]))


def _show_image(image: Data) -> str:
    neurons = image["neurons"]
    head = (
        f"{printable(image['image'])}: {image['active']} neurons fire; the SAE keeps "
        f"{percent(image['explained'])} of the activations, cosine {number(image['cosine'])}"
    )
    if not neurons:
        return head
    columns: dict[str, list[Any]] = {
        "neuron": [row["neuron"] for row in neurons],
        "name": names(neurons),
        "mean": [number(row["mean"]) for row in neurons],
        "peak": [number(row["peak"]) for row in neurons],
        f"of {image['tokens']} tokens": [percent(row["share"]) for row in neurons],
    }
    if "density" in neurons[0]:
        columns["peak / p99"] = [number(row["peak"] / row["p99"], 2) if row["p99"] else "" for row in neurons]
        columns["density"] = [percent(row["density"]) for row in neurons]
    return "\n".join([head, table(columns), *about_marks(neurons)])


@command(_show)
def inspect(
    model: Model,
    images: Annotated[list[str], typer.Argument(help='Files of pictures, or "white".')],
    limit: Annotated[int, typer.Option(min=1, help="Largest number of neurons of each picture.")] = 10,
    density_below: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Only neurons that fire on a smaller share of the pack's images than this."),
    ] = None,
    revision: Revision = None,
    device: Device = None,
) -> Data:
    """Show which neurons fire on pictures, strongest mean activation first.

    Names, densities and percentiles come from the model's pack, where it has one. Concept neurons grade every picture:
    --density-below leaves them in.
    """
    from cbsae_hub.encoders.explained import explained_encoder
    from cbsae_hub.encoders.inspection import Inspection

    pictures = [open_image(source) for source in images]
    sae, pack = model_and_pack(model, revision)
    if pack is None and density_below is not None:
        raise ValueError(f"{model} has no pack, and densities are in it: build one with `cbsae pack`")
    encoder = explained_encoder(sae, device=device_of(device), beside=model)
    answers = []
    for source, image in zip(images, pictures):
        x = encoder([image], seeds=[0])[0].cpu()
        answers.append({"image": source, **_answer(sae, Inspection.of(sae, x), pack, limit, density_below)})
    return {"model": model, "encoder": encoder.repo_id, "images": answers}


def _answer(
    sae: "SAE | CBSAE", inspection: "Inspection", pack: "Pack | None", limit: int, density_below: float | None
) -> Data:
    from cbsae_hub.neurons.chance import by_chance

    neurons = []
    for place, neuron in enumerate(inspection.active.tolist()):
        row = None if pack is None else pack.neurons[neuron]
        if row is not None and density_below is not None and row.kind != "cb" and row.density >= density_below:
            continue
        strengths = inspection.latents[:, place]
        neurons.append(
            {
                "neuron": neuron,
                "name": name_of(neuron, sae, pack),
                "mean": float(strengths.mean()),
                "peak": float(strengths.max()),
                "share": float((strengths > 0).mean()),
                **({} if row is None else {name: getattr(row, name) for name in PACK_COLUMNS}),
                "by_chance": row is not None and by_chance(row),
            }
        )
        if len(neurons) == limit:
            break
    return {
        "tokens": len(inspection.latents),
        "active": len(inspection.active),
        "explained": inspection.explained,
        "cosine": inspection.cosine,
        "neurons": neurons,
    }
