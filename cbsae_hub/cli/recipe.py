"""``cbsae recipe`` prints the recipes that come with the package."""

from typing import Annotated

import typer

from cbsae_hub.cli.output import Data, command, table


def _show(data: Data) -> str:
    if "text" in data:
        return data["text"].rstrip("\n")
    return table({"recipe": list(data["recipes"]), "what it is for": list(data["recipes"].values())})


@command(_show)
def recipe(name: Annotated[str | None, typer.Argument(help="Which; default all are listed.")] = None) -> Data:
    """Print a recipe, with every setting explained: cbsae recipe own-encoder > my.yaml."""
    from cbsae_hub.pipeline.recipe import shipped

    recipes = shipped()
    if name is None:
        return {"recipes": {one: text.lstrip("# ").partition(": ")[0] for one, text in recipes.items()}}
    if name not in recipes:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(recipes)}")
    return {"name": name, "text": recipes[name]}
