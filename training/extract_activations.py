"""Stores the activations of an encoder on a set of images, as `cbsae extract` does.

    accelerate launch training/extract_activations.py --recipe training/recipes/emoji.yaml

Killed or stopped, it goes on where it was when it is started again with the same settings.
"""

import typer

from cbsae_hub.cli.extract import extract as main

if __name__ == "__main__":
    typer.run(main)
