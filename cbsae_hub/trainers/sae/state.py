"""The state of an SAE's training: a batch changes it, a checkpoint stores it and restores it."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from cbsae_hub.models.sae import SAE
from cbsae_hub.processes import make_accelerator
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.run import Processes
from cbsae_hub.trainers.sae.controls import CONTROLS
from cbsae_hub.trainers.sae.optimizer import DictionaryAdam
from cbsae_hub.trainers.sae.step import AutogradStep, DeadNeurons, Loss, SparseStep


class SAEState:
    """An SAE in training, with its optimiser and counters.

    Args:
        sae: The autoencoder as it starts, on the accelerator's device; trained in place.
        config: The settings.
        accelerator: The run's accelerator; default one process, full precision.

    Attributes:
        step: Updates done.
        norm_factor: The divisor of activations before :meth:`update`.

    Raises:
        ValueError: If the SAE normalises each token (``input_norm``).
    """

    def __init__(self, sae: SAE, config: SAETrainConfig, accelerator: Accelerator | None = None):
        if sae.input_norm is not None:
            raise ValueError(
                f"an SAE with input_norm {sae.input_norm!r} is not trained here: its loss would be of activations that "
                "it does not see. Train one without; its activations are scaled by one factor, which is folded in"
            )
        self.sae = sae
        self.config = config
        self.accelerator = accelerator or make_accelerator(cpu=sae.W_dec.device.type == "cpu")
        self.processes = Processes(self.accelerator)
        self.dead_neurons = DeadNeurons(sae.d_sae, config.dead_after_tokens, self.processes, sae.W_dec.device)
        kind = SparseStep if sae.activation_function.selects_by_rank else AutogradStep
        self.gradients = kind(sae, config, self.dead_neurons, self.processes, self.accelerator.autocast)
        self.control = CONTROLS[config.control]
        self._start = sae.W_dec.detach().clone() if self.control.hold else None
        self.optimizer = DictionaryAdam(sae, config.betas, config.max_grad_norm, self.control.frozen)
        self.norm_factor = 1.0
        self.step = 0

    @property
    def model(self) -> SAE:
        """The SAE as it is now."""
        return self.sae

    def update(self, x: Tensor) -> tuple[Loss, Tensor]:
        """One step of training on ``x [batch_size / processes, d_in]``, in the units of the SAE.

        Returns:
            The loss of the global batch, and the norm of its gradient before clipping.
        """
        self.optimizer.set_lr(self.config.lr_at(self.step, self.sae.d_sae))
        loss = self.gradients(x)
        self._track_threshold()
        gradient_norm = self.optimizer.step()
        if self.control.hold is not None and self._start is not None:
            self.control.hold(self.sae.W_dec.data, self._start)
        self.step += 1
        return loss, gradient_norm

    @property
    def _smallest(self) -> float:
        """The smallest active latent of the last batch; 0 if it is not known."""
        return self.gradients.selector.smallest if isinstance(self.gradients, SparseStep) else 0.0

    def _track_threshold(self) -> None:
        tracked = self.config.activation == "batch_topk" and self.step > self.config.threshold_start
        if tracked and self._smallest > 0:
            estimate = torch.tensor(self._smallest, device=self.sae.W_dec.device)
            self.sae.track_threshold_(estimate, self.config.threshold_decay)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is large, by name."""
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        tensors |= {f"adam.{name}": tensor for name, tensor in self.optimizer.tensors().items()}
        return tensors | {"silent_tokens": self.dead_neurons.silent_tokens}

    def facts(self) -> dict[str, Any]:
        """Everything else, as JSON."""
        facts = {"step": self.step, "norm_factor": self.norm_factor, "smallest": self._smallest}
        return {**facts, "config": self.config.to_dict()}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continues from what :meth:`tensors` and :meth:`facts` returned.

        Raises:
            ValueError: If they are of a run with other settings.
        """
        self.config.require_same(facts["config"])
        with torch.no_grad():
            for name, tensor in self.sae.state_dict().items():
                tensor.copy_(tensors[f"sae.{name}"])
        moments = {name[len("adam.") :]: tensor for name, tensor in tensors.items() if name.startswith("adam.")}
        self.optimizer.load_tensors(moments)
        self.dead_neurons.silent_tokens.copy_(tensors["silent_tokens"])
        self.norm_factor, self.step = facts["norm_factor"], facts["step"]
        if isinstance(self.gradients, SparseStep):
            self.gradients.selector.smallest = facts["smallest"]
