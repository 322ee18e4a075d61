"""Adam for dictionaries whose decoder rows have unit norm."""

from collections.abc import Container

import torch
from torch import Tensor

from cbsae_hub.models.sae import SAE

# So many decoder rows and their gradients stay in a processor's cache while they are worked on.
BLOCK_ROWS = 512


class DictionaryAdam(torch.optim.Adam):
    """Adam on an SAE; a step also clips the gradient and keeps the decoder rows on the unit sphere.

    In the order of the reference code: the part of each decoder row's gradient that is parallel to the row is
    removed (it would only change the norm), the gradient of all parameters is clipped to a global norm, Adam
    moves the parameters, decoder rows are scaled to unit norm.

    Args:
        sae: The autoencoder, its ``W_enc`` stored by neuron (``store_by_neuron_``).
        betas: Decay rates of Adam's moments.
        max_grad_norm: Global norm above which gradients are scaled down.
        frozen: Names of parameters that stay as they are, to the bit; their gradients do not count in the norm.
    """

    def __init__(
        self,
        sae: SAE,
        betas: tuple[float, float] = (0.9, 0.999),
        max_grad_norm: float = 1.0,
        frozen: Container[str] = (),
    ):
        self.sae = sae
        self.max_grad_norm = max_grad_norm
        # The same memory as W_enc, but contiguous, as the fused kernel needs it.
        self.encoder_rows = torch.nn.Parameter(sae.W_enc.data.T)
        trained = {name: parameter for name, parameter in sae.named_parameters() if name not in frozen}
        self.names = list(trained)
        self.turns = "W_dec" in trained
        parameters = [self.encoder_rows if p is sae.W_enc else p for p in trained.values()]
        super().__init__(parameters, lr=0.0, betas=betas, fused=True)
        # Read by the fused kernel, which divides gradients by it as it goes: clipping without a pass of its own.
        self.grad_scale = torch.ones((), device=sae.W_dec.device)
        self.found_inf = torch.zeros((), device=sae.W_dec.device)

    @torch.no_grad()
    def step(self) -> Tensor:  # type: ignore[override]  # takes no closure and returns a norm
        """One update from the ``.grad`` of the SAE's parameters.

        Returns:
            The norm of the gradient before clipping.
        """
        sae = self.sae
        if sae.W_enc.grad is None or sae.W_dec.grad is None:
            raise ValueError("the SAE has no gradients: compute them first")
        self.encoder_rows.grad = sae.W_enc.grad.T.contiguous()
        if self.turns:
            for gradient, rows in zip(sae.W_dec.grad.split(BLOCK_ROWS), sae.W_dec.split(BLOCK_ROWS)):
                gradient.addcmul_(rows, torch.linalg.vecdot(gradient, rows)[:, None], value=-1)
        norm = torch.stack([parameter.grad.norm() for parameter in self.param_groups[0]["params"]]).norm()
        self.grad_scale.copy_((norm / self.max_grad_norm).clamp_min(1.0))
        super().step()
        if self.turns:
            sae.normalize_decoder_()
        return norm

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate of the next step."""
        self.param_groups[0]["lr"] = lr

    def tensors(self) -> dict[str, Tensor]:
        """The moments and step counters, by parameter: ``{"W_dec.exp_avg": ...}``; empty before a step."""
        return {
            f"{name}.{key}": value
            for name, parameter in zip(self.names, self.param_groups[0]["params"])
            for key, value in self.state[parameter].items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restores what :meth:`tensors` returned."""
        for name, parameter in zip(self.names, self.param_groups[0]["params"]):
            keys = [key for key in tensors if key.rpartition(".")[0] == name]
            self.state[parameter] = {key.rpartition(".")[2]: tensors[key].to(parameter.device) for key in keys}
