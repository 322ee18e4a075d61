"""Prunes an SAE and trains a bottleneck of the concepts that it then misses, as `cbsae bottleneck` does.

    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml
    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml --steer
    python training/build_pack.py runs/emoji-scores
    accelerate launch training/train_cbsae.py --recipe training/recipes/emoji.yaml

Reads the scores of the SAE's neurons from the neuron table in the folder `scores`, that of score_neurons.py or of a
pack (if `names` names another folder, their names come from that), and the activations it was trained on.
"""

import typer

from cbsae_hub.cli.bottleneck import bottleneck as main

if __name__ == "__main__":
    typer.run(main)
