"""A control that is nonsense by construction: names of neurons that have learnt nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.metrics import Dissector, mean_over_tokens
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.neurons.chance import SURE


@dataclass(frozen=True)
class Nonsense:
    """The worth of the names that an untrained SAE gets.

    Attributes:
        neurons: Number of its neurons that fire.
        share_above_chance: Share of those whose name is better than chance.
        score: Score that 95 % of them stay below; None if none fires.
    """

    neurons: int
    share_above_chance: float
    score: float | None


@torch.no_grad()
def untrained(model: SAE | CBSAE) -> SAE:
    """An SAE of the same size, sparsity and origin as a model, whose directions are random."""
    other = SAE(model.d_in, model.d_sae, "topk", model.k or 8, seed=1).to(model.b_dec.device)
    other.b_dec.copy_(model.b_dec)
    return other


@torch.no_grad()
def name_nonsense(
    model: SAE | CBSAE, store: ActivationStore, embeddings: Tensor, texts: Tensor, top_k: int, batch_size: int = 64
) -> Nonsense:
    """Names the neurons of an SAE of the same size and sparsity whose directions are random.

    Random directions of real activations are not meaningless: they follow what activations vary in. A name that is
    not better than theirs says nothing about what training has found.

    Args:
        model: The trained model.
        store: Activations of the images.
        embeddings: ``[images, d]``, unit, of the judge.
        texts: ``[concepts, d]``, unit, of the judge.
        top_k: Images that a neuron is named by.
        batch_size: Images at once.

    Returns:
        What the names are worth.
    """
    random = untrained(model)
    names = Dissector(random.d_latent, texts, top_k=top_k, count_silent=False)
    batches, total = store.of_images(range(store.num_images), batch_size), -(-store.num_images // batch_size)
    for ids, v in tqdm(batches, total=total, desc="nonsense", unit="batch"):
        values, owners = (part.cpu() for part in random.encode_sparse(v.to(random.b_dec.device)))
        numbers = torch.tensor(ids)
        names.update(mean_over_tokens(values, owners, random.d_latent), embeddings[numbers].float(), numbers)
    naming = names.name_by_set(1)[""]
    alive = naming.density > 0
    if not alive.any():  # the pictures are all alike
        return Nonsense(0, 0.0, None)
    scores, percentile = naming.scores[alive, 0].double(), naming.percentile[alive].double()
    return Nonsense(int(alive.sum()), float((percentile >= SURE).double().mean()), float(scores.quantile(SURE)))
