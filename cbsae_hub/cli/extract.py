"""``cbsae extract`` stores the activations of an encoder."""

from cbsae_hub.cli.options import Output, Overrides, Recipe
from cbsae_hub.cli.output import Data, command
from cbsae_hub.cli.processes import speaks
from cbsae_hub.words import number


def _show(data: Data) -> str:
    return f"{data['folder']}: {number(data['rows'])} activations of {number(data['images'])} images"


@command(_show)
def extract(recipe: Recipe = None, overrides: Overrides = None, output: Output = None) -> Data | None:
    """Store the activations of an encoder on a set of images: section `activations` of a recipe.

    Started again with the same settings, it goes on where it was. On several processes: accelerate launch -m
    cbsae_hub.cli extract ...
    """
    from cbsae_hub.pipeline.sections import ActivationsSection

    settings = ActivationsSection.read(recipe, overrides, output=output)

    from cbsae_hub.pipeline import extract as pipeline

    main = speaks()
    store = pipeline.extract(settings)
    return {"folder": store.folder, "rows": len(store), "images": store.num_images} if main else None
