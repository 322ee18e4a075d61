"""``cbsae score`` scores the neurons of an SAE."""

from typing import Annotated, Any

import typer

from cbsae_hub.cli.options import Output, Overrides, Recipe
from cbsae_hub.cli.output import Data, command, facts
from cbsae_hub.cli.processes import speaks

SECTIONS = ("steerability", "scores")  # that --steer reads


def _show(data: Data) -> str:
    return facts([("scores", data["folder"]), *((name, f"{value:.4f}") for name, value in data["figures"].items())])


@command(_show)
def score(
    recipe: Recipe = None,
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="Folder or Hub id of the SAE; default as in the recipe.")] = None,
    output: Output = None,
    steer_too: Annotated[
        bool, typer.Option("--steer", help="Add steerability (section `steerability`) to scores that are there.")
    ] = False,
    words: Annotated[
        bool, typer.Option("--words", help="Name neurons that read texts by their words (section `words`).")
    ] = False,
) -> Data | None:
    """Score the neurons of an SAE in one pass over images, names first: section `scores` of a recipe.

    With --steer each neuron is set while LLaVA speaks and unCLIP draws, and those scores are added to what is there;
    --set is then of section `steerability`, and --set scores.KEY=VALUE of the other. Started again with the same
    settings, it goes on where it was. With --words, the neurons of an SAE of a text encoder or a language model are
    named by the words on which they fire. `cbsae pack MODEL --scores FOLDER` makes of the scores what the page shows.
    On several processes: accelerate launch -m cbsae_hub.cli score ...
    """
    from cbsae_hub.pipeline.sections import ScoresSection, SteerabilitySection, WordsSection

    if words:
        of_words = WordsSection.read(recipe, overrides, model=model, output=output)

        from cbsae_hub.pipeline.words import score_words
        from cbsae_hub.scoring import headline

        return {"folder": of_words.output, "figures": headline(score_words(of_words).summary)}
    among = SECTIONS if steer_too else ()
    settings = ScoresSection.read(recipe, overrides, among=among, model=model, output=output)
    steering = SteerabilitySection.read(recipe, overrides, among=among) if steer_too else None

    from cbsae_hub.pipeline import score as pipeline
    from cbsae_hub.scoring import headline

    main = speaks()
    if steering is None:
        figures = headline(pipeline.score(settings).summary)
    else:
        figures = _steered(pipeline.steer(steering, settings))
    return {"folder": settings.output, "figures": figures} if main else None


def _steered(summary: dict[str, Any]) -> dict[str, float]:
    """The figures of steerability to look at first."""
    means = {key: part["mean"] for key, part in summary.items() if isinstance(part, dict) and "mean" in part}
    return means | {f"share {name}": share for name, share in summary["quadrants"]["shares"].items()}
