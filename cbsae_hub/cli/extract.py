"""``cbsae extract`` stores the activations of an encoder."""

from cbsae_hub.cli.options import Output, Overrides, Recipe
from cbsae_hub.cli.output import Data, command
from cbsae_hub.cli.processes import speaks
from cbsae_hub.words import number


def _show(data: Data) -> str:
    stores = data.get("stores", [data])
    return "\n".join(
        f"{one['folder']}: {number(one['rows'])} activations of {number(one['images'])} images" for one in stores
    )


@command(_show)
def extract(recipe: Recipe = None, overrides: Overrides = None, output: Output = None) -> Data | None:
    """Store the activations of an encoder on a set of images: section `activations` of a recipe.

    With a list of layers or tokens (`--set layer=[0,1,2]`) one pass over the images fills a store for each of them.
    Started again with the same settings, it goes on where it was. On several processes: accelerate launch -m
    cbsae_hub.cli extract ...
    """
    from cbsae_hub.pipeline.sections import ActivationsSection

    settings = ActivationsSection.read(recipe, overrides, output=output)

    from cbsae_hub.pipeline import extract as pipeline

    main = speaks()
    stores = [
        {"folder": store.folder, "rows": len(store), "images": store.num_images} for store in pipeline.extract(settings)
    ]
    if not main:
        return None
    return {"stores": stores} if settings.is_of_several else stores[0]
