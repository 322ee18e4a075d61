"""The neurons of an SAE that are left when others are discarded."""

from collections.abc import Iterable

import torch

from cbsae_hub.models import checks
from cbsae_hub.models.activations import PER_NEURON
from cbsae_hub.models.sae import SAE


@torch.no_grad()
def retain(sae: SAE, ids: Iterable[int]) -> SAE:
    """An SAE of some of an SAE's neurons, in the order given, each with the rows and columns it had, bit for bit.

    With a threshold (relu, batch_topk that was calibrated, jumprelu, gated) a neuron's latents do not depend on the
    others: the retained latents stay the same, up to the rounding of a product of another width. In topk, and in
    batch_topk without a threshold, neurons compete. A discarded neuron no longer takes a place, so the ``k`` places go
    to retained ones: active latents stay active at the same value, and weaker ones join them. If the discarded went
    on to compete, all of the parent's encoder would be needed, which pruning saves.

    Matryoshka groups keep those of their neurons that are retained, and a group of which none is left is gone. Where
    the order of ``ids`` mixes groups, prefixes mean nothing and the SAE has none.

    Raises:
        ValueError: If there are no ids, or one does not exist or comes twice.
    """
    ids = checks.neuron_ids("ids", ids, sae.d_sae - 1)
    groups = sae.group_of[ids]
    sizes = None
    if sae.group_sizes is not None and bool((groups.diff() >= 0).all()):
        sizes = groups.unique_consecutive(return_counts=True)[1].tolist()
    with torch.device("meta"):
        retained = SAE(**sae.arguments | {"d_sae": len(ids), "group_sizes": sizes})
    weights = sae.state_dict()
    for name, tensor in weights.items():
        if name == "W_enc":
            weights[name] = tensor[:, ids]
        else:
            per_neuron = name in ("W_dec", *PER_NEURON) or (name == "threshold" and tensor.ndim)
            weights[name] = tensor[ids] if per_neuron else tensor.clone()
    retained.load_state_dict(weights, assign=True)
    return retained.train(sae.training)
