"""Scores the neurons of an SAE on a set of images, as `cbsae score` does: names, MonoSemanticity, truth and more.

    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml
    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml --steer

An interrupted run goes on where its last checkpoint was. docs/metrics.md says what each score is.
"""

import typer

from cbsae_hub.cli.score import score as main

if __name__ == "__main__":
    typer.run(main)
