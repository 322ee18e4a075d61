"""``cbsae suppress`` suppresses the features that follow a spurious attribute."""

from typing import Annotated

import typer

from cbsae_hub.cli.options import Output, Overrides, Recipe
from cbsae_hub.cli.output import Data, command
from cbsae_hub.cli.processes import speaks


def _show(data: Data) -> str:
    return data["markdown"]


@command(_show)
def suppress(
    recipe: Recipe = None,
    overrides: Overrides = None,
    saes: Annotated[
        list[str] | None,
        typer.Option("--sae", help="Folder or Hub id of an SAE, instead of trained ones; several times."),
    ] = None,
    output: Output = None,
) -> Data | None:
    """Suppress what follows a spurious attribute in a CLIP, layer by layer: section `suppression` of a recipe.

    Features of SAEs are found on a training split, chosen on a validation split and tested on a third, beside raw
    neurons, random features and LEACE. Writes suppression.json, suppression.md, the sweep and two figures. Layers that
    are finished are kept: started again, it goes on where it was.
    """
    from cbsae_hub.pipeline.sections import SuppressionSection

    if saes:
        overrides = [*(overrides or ()), "sae_images=null"]
    settings = SuppressionSection.read(recipe, overrides, saes=saes or None, output=output)

    from cbsae_hub.pipeline.suppress import suppress_spurious

    speaks()
    return {"folder": settings.output, **suppress_spurious(settings)}
