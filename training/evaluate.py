"""Evaluates the SAE and the CB-SAE of a recipe, as `cbsae evaluate` does: tables and figures of the CB-SAE paper.

    python training/evaluate.py --recipe training/recipes/emoji.yaml

Started again, it goes on where it was. Writes evaluation.json, evaluation.md and the figures.
"""

import typer

from cbsae_hub.cli.evaluate import evaluate as main

if __name__ == "__main__":
    typer.run(main)
