"""Image-level latents as the scores take them: ``[images, neurons]``, dense or sparse (COO), a batch at a time."""

import torch
from torch import Tensor


def mean_over_tokens(values: Tensor, neurons: Tensor, count: int, signed_from: int | None = None) -> Tensor:
    """Image-level latents: the mean over an image's tokens of its gated latents, or of its concept activations.

    Args:
        values: ``[images, tokens, K]``, as from ``encode_sparse``; 0 is inactive.
        neurons: ``[images, tokens, K]``, the neurons that they belong to.
        count: Number of neurons.
        signed_from: From this neuron on they are a bottleneck's: signed, and given for every token.

    Returns:
        Sparse COO ``[images, count]`` float32, coalesced; signed neurons are stored for every image.
    """
    active = values > 0
    if signed_from is not None:
        active |= neurons >= signed_from
    rows = active.nonzero()[:, 0]
    entries = values[active].float() / values.shape[1]
    indices = torch.stack([rows, neurons[active]])
    return torch.sparse_coo_tensor(indices, entries, (len(values), count), check_invariants=False).coalesce()


def entries_of(latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, neurons and values of the stored entries, each ``[entries]``; dense latents store zeros too."""
    if latents.is_sparse:
        latents = latents.coalesce()
        return *latents.indices(), latents.values()
    images, neurons = latents.shape
    rows = torch.arange(images, device=latents.device).repeat_interleave(neurons)
    return rows, torch.arange(neurons, device=latents.device).repeat(images), latents.flatten()


def check_rows(name: str, rows: Tensor, width: int, **others: Tensor) -> None:
    """Raises a ValueError if rows ``[images, width]``, or what is given beside them, do not fit or are not finite."""
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"{name} must be [images, {width}], got {tuple(rows.shape)}")
    for title, other in others.items():
        if len(other) != len(rows):
            raise ValueError(f"{name} of {len(rows)} images and {title} of {len(other)} were given")
    stored = rows.coalesce().values() if rows.is_sparse else rows
    for title, values in {name: stored, **others}.items():
        if values.is_floating_point() and values.numel() and not torch.stack(values.aminmax()).isfinite().all():
            raise ValueError(f"{title} are NaN or infinite")


def check_batch(latents: Tensor, neurons: int, **others: Tensor) -> None:
    """Raises a ValueError if the number of neurons or of images is another one, or something is NaN or infinite."""
    check_rows("latents", latents, neurons, **others)


def check_similarities(latents: Tensor, similarities: Tensor) -> None:
    """Refuses what :func:`check_batch` refuses, and raises a ValueError if there are no images."""
    if not len(latents):
        raise ValueError("no images were given")
    check_batch(latents, latents.shape[1], similarities=similarities)


def transposed_product(latents: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The neurons ``[touched]`` that a batch stores and their rows of ``latents.T @ x``, ``[touched, d]``.

    It costs the active entries of ``latents [images, neurons]``, not all neurons; in the dtype of ``x [images, d]``.
    """
    if not latents.is_sparse:
        return torch.arange(latents.shape[1], device=latents.device), latents.to(x.dtype).T @ x
    rows, neurons, values = entries_of(latents)
    touched, place = neurons.unique(return_inverse=True)
    weights = torch.sparse_coo_tensor(
        torch.stack([place, rows]), values.to(x.dtype), (len(touched), len(latents)), check_invariants=False
    )
    return touched, torch.sparse.mm(weights, x)
