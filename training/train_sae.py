"""Trains a sparse autoencoder on stored activations, as `cbsae train` does.

    python training/extract_activations.py --recipe training/recipes/emoji.yaml
    accelerate launch training/train_sae.py --recipe training/recipes/emoji.yaml --set steps=2000

Writes the SAE, training.json, log.jsonl and a checkpoint into the output folder. Ctrl-C saves; --resume continues.
"""

import typer

from cbsae_hub.cli.train import train as main

if __name__ == "__main__":
    typer.run(main)
