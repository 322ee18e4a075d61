"""Checks a recipe without its data, as `cbsae dry-run` does: settings, ids, shapes, disk and memory.

    python training/dry_run.py --recipe training/recipes/emoji.yaml

The exit code is 1, with a line for each problem, if something is wrong.
"""

import typer

from cbsae_hub.cli.dry_run import dry_run as main

if __name__ == "__main__":
    typer.run(main)
