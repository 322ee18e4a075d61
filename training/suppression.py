"""Suppresses what follows a spurious attribute, as `cbsae suppress` does: section 7.1 of "Steering CLIP's vision ...".

    python -m training.suppression --recipe training/recipes/emoji.yaml

Trains the SAEs that the recipe does not name. Writes suppression.json, suppression.md, sweep.parquet, and the figures
suppression.png and pictures.png. Started again, it goes on where it was.
"""

import typer

from cbsae_hub.cli.suppress import suppress as main

if __name__ == "__main__":
    typer.run(main)
