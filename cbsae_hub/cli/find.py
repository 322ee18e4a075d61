"""``cbsae find`` looks up the neurons that stand for a concept."""

from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.cli.options import Model, Revision
from cbsae_hub.cli.output import Data, about_marks, command, names, percent, printable, table
from cbsae_hub.cli.sources import of_other_weights
from cbsae_hub.words import number

ABSENT = "not in this model"


def _show(answer: Data) -> str:
    verdict = f"{printable(answer['query'])}: {answer['verdict']}"
    if answer["reason"]:
        verdict += f"; {printable(answer['reason'])}"
    neurons, columns = answer["neurons"], ("neuron", "kind", "concept", "name", "verdict")
    lines = [verdict]
    if neurons:
        cells = {column: [row[column] for row in neurons] for column in columns}
        cells["name"] = names(neurons)
        cells["score"] = [number(row["score"], 2) for row in neurons]
        cells["above chance"] = [percent(row["null_percentile"]) for row in neurons]
        cells["density"] = [percent(row["density"]) for row in neurons]
        cells["p99"] = [number(row["p99"], 2) for row in neurons]
        lines += [table(cells), *about_marks(neurons)]
    concepts = {row["concept"] for row in neurons}
    if near := [printable(concept) for concept in answer["nearest"] if concept not in concepts]:
        how = "near in meaning" if answer["near_by"] == "meaning" else "spelled alike"
        lines.append(f"{how}: {', '.join(near)}")
    return "\n".join(lines)


@command(_show, failed=lambda answer: answer["verdict"] == ABSENT)
def find(
    model: Model,
    query: Annotated[str, typer.Argument(help='One or a few words, such as "striped fur".')],
    limit: Annotated[int, typer.Option(min=1, help="Largest number of neurons.")] = 10,
    meaning: Annotated[
        bool, typer.Option("--meaning", help="Load the judge and name concepts that are near in meaning.")
    ] = False,
    revision: Revision = None,
) -> Data:
    """Find the neurons that stand for a concept; reads the pack alone. Exit code 1 if there is none.

    strong: all words are what a neuron finds best on images whose content is known; or, where nothing is known of the
    images, its name, which fits well and better than any other. weak: anything less; the first line says why.
    """
    from cbsae_hub.hub.files import WEIGHTS_NAME, folder_revision
    from cbsae_hub.neurons.chance import by_chance
    from cbsae_hub.neurons.pack import Pack

    pack = Pack.from_pretrained(model, revision)
    if (Path(model) / WEIGHTS_NAME).is_file() and of_other_weights(pack, folder_revision(model)):
        raise ValueError(f"the pack of {model} is of other weights: build it again, `cbsae pack --overwrite`")
    embed_texts = None
    if meaning:
        from cbsae_hub.encoders.clip_like import ClipLike

        judge = pack.info["judge"]
        if judge["id"] is None:
            raise ValueError(f"the neurons of {model} were named by no judge: nothing can be compared by meaning")
        embed_texts = ClipLike.from_pretrained(judge["id"], judge["revision"], beside=model).embed_texts
    answer = pack.find(query, limit, embed_texts)
    neurons = []
    for match in answer.matches:
        row = pack.neurons[match.neuron]
        columns = ("kind", "name", "null_percentile", "density", "p99", "status")
        facts = {name: getattr(row, name) for name in columns}
        neurons.append({**vars(match), **facts, "by_chance": by_chance(row)})
    return {
        "model": model,
        "query": query,
        "verdict": answer.verdict,
        "reason": answer.reason,
        "neurons": neurons,
        "nearest": answer.nearest,
        "near_by": answer.near_by,
    }
