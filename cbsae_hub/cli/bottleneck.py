"""``cbsae bottleneck`` makes a concept bottleneck SAE."""

from cbsae_hub.cli.options import Output, Overrides, Recipe, Resume
from cbsae_hub.cli.output import Data, command, facts
from cbsae_hub.cli.processes import speaks


def _show(data: Data) -> str:
    return facts([("model", data["folder"]), *((name, f"{value:.4f}") for name, value in data["heldout"].items())])


@command(_show)
def bottleneck(
    recipe: Recipe = None, overrides: Overrides = None, output: Output = None, resume: Resume = False
) -> Data | None:
    """Prune an SAE, and train a bottleneck of the concepts that it then misses: section `cbsae` of a recipe.

    Reads the neurons' scores from a folder of `cbsae score` or a model's pack. Ctrl-C saves, --resume continues. On
    several processes: accelerate launch -m cbsae_hub.cli bottleneck ...
    """
    from cbsae_hub.pipeline.sections import CBSAESection

    settings = CBSAESection.read(recipe, overrides, output=output)

    from cbsae_hub.pipeline import bottleneck as pipeline

    main = speaks()
    final = pipeline.train_bottleneck(settings, resume=resume)
    return {"folder": settings.output, "heldout": final._asdict()} if main else None
