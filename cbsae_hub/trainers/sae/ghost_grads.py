"""Ghost grads: dead neurons learn to reconstruct the error, by their exponentials instead of their latents."""

from torch import Tensor

from cbsae_hub.trainers.run import Processes

EPSILON = 1e-6


def ghost_loss(hidden: Tensor, decoder: Tensor, residual: Tensor, size: Tensor, processes: Processes) -> Tensor:
    """The loss of dead neurons, differentiable in ``hidden`` and ``decoder``, of this process's share of the batch.

    Jermyn and Templeton, "Ghost grads: an improvement on resampling", 2024, in the form of ViT-Prisma: ``exp(hidden)``
    has a gradient where ReLU has none. What it decodes to is scaled, token by token, to half the length of the error.
    Each squared difference to the error, over the length of the centred error, is scaled to the reconstruction's loss.
    Neither these scales nor the error are differentiated.

    Args:
        hidden: Hidden values of the dead neurons, before the activation function, ``[n, dead]``.
        decoder: Their decoder rows, ``[dead, d_in]``.
        residual: Error of the reconstruction, ``[n, d_in]``.
        size: Loss of the reconstruction over the global batch.
        processes: The processes that share the batch; the sum of their losses is that of the batch.
    """
    residual = residual.detach()
    tokens = len(residual) * processes.count
    mean = processes.sum_(residual.sum(0)) / tokens
    spread = (residual - mean).norm(dim=-1, keepdim=True).clamp_min(EPSILON)
    decoded = hidden.exp() @ decoder
    scale = residual.norm(dim=-1, keepdim=True) / (2 * decoded.detach().norm(dim=-1, keepdim=True) + EPSILON)
    errors = (scale * decoded - residual).square() / spread
    return (size.detach() / (errors.detach() + EPSILON) * errors).sum() / (tokens * residual.shape[1])
