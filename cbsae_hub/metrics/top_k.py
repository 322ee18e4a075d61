"""The images on which each neuron is most active, kept batch by batch."""

import torch
from torch import Tensor


def empty_top_k(neurons: int, k: int) -> Tensor:
    """State of no images: ``[neurons, k, 2]`` float64 of (activation, image id), filled with (-inf, -1)."""
    state = torch.full((neurons, k, 2), -torch.inf, dtype=torch.float64)
    state[..., 1] = -1
    return state


def merge_top_k(states: Tensor) -> Tensor:
    """The strongest k of several states, by activation descending, ties by image id ascending.

    Which images are kept does not depend on the order of merging.

    Args:
        states: ``[parts, neurons, k, 2]``.

    Returns:
        ``[neurons, k, 2]``.
    """
    parts, neurons, k, _ = states.shape
    pool = states.permute(1, 0, 2, 3).reshape(neurons, parts * k, 2)
    by_id = pool[..., 1].argsort(dim=1)
    pool = pool.gather(1, by_id[..., None].expand_as(pool))
    by_value = pool[..., 0].argsort(dim=1, descending=True, stable=True)[:, :k]
    return pool.gather(1, by_value[..., None].expand(-1, -1, 2))


def update_top_k(state: Tensor, latents: Tensor, image_ids: Tensor) -> Tensor:
    """Adds a batch of image-level latents ``[images, neurons]`` to a state."""
    neurons, k = state.shape[:2]
    values = latents.T.double()
    if values.shape[1] > k:
        # Ties at the k-th place must be broken by image id, which topk does not promise: a stable sort does.
        order = image_ids.argsort()
        values, chosen = values[:, order].sort(dim=1, descending=True, stable=True)
        values, ids = values[:, :k], image_ids[order][chosen[:, :k]]
    else:
        ids = image_ids.expand(neurons, -1)
    batch = empty_top_k(neurons, k).to(state.device)
    batch[:, : values.shape[1], 0] = values
    batch[:, : values.shape[1], 1] = ids.double()
    return merge_top_k(torch.stack([state, batch]))
