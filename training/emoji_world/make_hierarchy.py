"""Writes the tree of Emoji World's concepts, ``hub/emoji-images/hierarchy.json``: everything, group, subgroup, concept.

python -m training.emoji_world.make_hierarchy
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.data.hierarchy import ConceptTree
from training.emoji_world.glyphs import Atlas, Concept
from training.emoji_world.paths import HUB


def tree_of(concepts: Sequence[Concept]) -> ConceptTree:
    """Unicode's groups and subgroups over the concepts, marked as such: a concept may have the same name."""
    edges = set()
    for concept in concepts:
        group, kind = f"group: {concept.group}", f"subgroup: {concept.subgroup}"
        edges |= {("everything", group), (group, kind), (kind, concept.name)}
    return ConceptTree.from_edges(sorted(edges), "emoji")


def main(
    output: Annotated[Path, typer.Option(help="File to write.")] = HUB / "emoji-images" / "hierarchy.json",
) -> None:
    """Write the tree of concepts."""
    tree_of(Atlas.build().concepts).save(output)


if __name__ == "__main__":
    typer.run(main)
