"""``cbsae evaluate`` sets a concept bottleneck SAE against its SAE."""

from cbsae_hub.cli.options import Overrides, Recipe
from cbsae_hub.cli.output import Data, command
from cbsae_hub.cli.processes import speaks

SECTIONS = ("evaluate", "cbsae", "scores", "steerability")


def _show(data: Data) -> str:
    return data["markdown"]


@command(_show)
def evaluate(recipe: Recipe = None, overrides: Overrides = None) -> Data | None:
    """Train and score all variants of a CB-SAE beside its SAE: section `evaluate` of a recipe, and those it varies.

    Writes the CB-SAE paper's tables and figures. Started again, it goes on where it was. --set KEY=VALUE is of section
    `evaluate`, --set cbsae.KEY=VALUE of that one.
    """
    from cbsae_hub.pipeline.sections import CBSAESection, EvaluationSection, ScoresSection, SteerabilitySection

    settings = EvaluationSection.read(recipe, overrides, among=SECTIONS)
    base = CBSAESection.read(recipe, overrides, among=SECTIONS)
    scores = ScoresSection.read(recipe, overrides, among=SECTIONS)
    steering = SteerabilitySection.read_or_default(recipe, overrides, among=SECTIONS)

    from cbsae_hub.pipeline import evaluate as pipeline
    from cbsae_hub.studies.evaluation import as_markdown

    main = speaks()
    tables = pipeline.evaluate(settings, base, scores, steering)
    if not main:
        return None
    records = {title: table.to_dict("records") for title, table in tables.items()}
    return {"folder": settings.output, "tables": records, "markdown": as_markdown(tables)}
