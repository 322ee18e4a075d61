"""The three objectives of a concept bottleneck and the state of its training (CB-SAE paper, section 5.2)."""

from typing import Any

import torch
import torch.distributed.nn
from accelerate import Accelerator
from torch import Tensor

from cbsae_hub.models.cbsae import CBSAE
from cbsae_hub.trainers.config import CBSAETrainConfig
from cbsae_hub.trainers.processes import Processes

TINY = 1e-12


def cosine_cubed_similarity(u: Tensor, y: Tensor, processes: Processes | None = None) -> Tensor:
    """How alike concept activations and the teacher's are over a batch: cosine of centred and cubed columns.

    Label-free CBM's similarity (Oikarinen et al., 2023), the paper's equation 11. Scales and offsets of a column do not
    matter, so each is divided by its deviation before it is cubed, for the sake of float32. A column that does not vary
    is similar to nothing: 0.

    It is not a sum over tokens, so the sums are taken over the batches of all processes, and gradients flow through
    them: each process gets its tokens' part of the gradient of the global value, times the number of processes.

    Args:
        u: ``[n, concepts]``.
        y: ``[n, concepts]``, without gradient.
        processes: Over whose batches the similarity is.

    Returns:
        ``[concepts]``, -1 to 1.
    """
    count = len(u) * (processes.count if processes else 1)
    cubes = []
    for x in (u.float(), y.float()):
        x = x - _summed(x.sum(0), processes) / count
        deviation = (_summed(x.detach().square().sum(0), processes) / count).sqrt()
        cubes.append((x / deviation.clamp_min(TINY)).pow(3))
    a, b = cubes
    dot, aa, bb = _summed(torch.stack([(a * b).sum(0), a.square().sum(0), b.square().sum(0)]), processes)
    return dot / (aa * bb).clamp_min(TINY).sqrt()


def _summed(x: Tensor, processes: Processes | None) -> Tensor:
    """Sum over processes, through which gradients flow."""
    if processes is None or processes.count == 1:
        return x
    return torch.distributed.nn.all_reduce(x)


class BottleneckState:
    """A bottleneck in training: its weights, an Adam for each objective, and the number of steps.

    In every step the objectives take turns, each with a fresh forward pass and its own Adam:

    - reconstruction, ``mean |x - x_hat|^2``: both matrices, or the decoder only;
    - interpretability, ``- mean_k similarity(c_k, y_k)``: the encoder only;
    - steerability, ``- mean_k similarity(c'_k, y_k)`` of the concepts ``c'`` that the encoder reads in the
      reconstruction: the decoder only, concept activations being constants.

    The retained SAE is frozen, so its part of the reconstruction is computed once a batch.

    Args:
        cb: The model, on the accelerator's device; its bottleneck is trained in place.
        config: The recipe.
        embeddings: The teacher's unit embeddings of all images, ``[images, e]``.
        texts: Its unit embeddings of the concepts, ``[concepts, e]``.
        accelerator: Of the run; default one process.
        first: Concepts before this number are not trained, and stay bit for bit.

    Attributes:
        step: Updates done.

    Raises:
        ValueError: If there is nothing to train, or the teacher's embeddings do not fit.
    """

    def __init__(
        self,
        cb: CBSAE,
        config: CBSAETrainConfig,
        embeddings: Tensor,
        texts: Tensor,
        accelerator: Accelerator | None = None,
        first: int = 0,
    ):
        if not 0 <= first < len(cb.concepts):
            raise ValueError("there is no concept to train: every one that was asked for is there already")
        if len(texts) != len(cb.concepts) or embeddings.shape[1] != texts.shape[1]:
            raise ValueError(
                f"the teacher embeds {len(texts)} texts of width {texts.shape[1]} for {len(cb.concepts)} concepts, and "
                f"images of width {embeddings.shape[1]}"
            )
        self.cb, self.config, self.first = cb, config, first
        self.processes = Processes(accelerator)
        device = cb.W_dec_cb.device
        self.embeddings, self.texts = embeddings, texts[first:].to(device).float()
        self.encoder = cb.W_enc_cb.detach()[:, first:].clone().requires_grad_()
        self.decoder = cb.W_dec_cb.detach()[first:].clone().requires_grad_()
        trained = {
            "reconstruction": (self.encoder, self.decoder) if config.reconstruction_moves_encoder else (self.decoder,),
            "interpretability": (self.encoder,),
            "steerability": (self.decoder,),
        }
        self.objectives = {name: trained[name] for name in config.objectives}
        self.adams = {
            name: torch.optim.Adam(weights, lr=config.lr, betas=config.betas)
            for name, weights in self.objectives.items()
        }
        self.step = 0

    def update(self, x: Tensor, images: Tensor) -> dict[str, Tensor]:
        """One step of all objectives.

        Args:
            x: ``[batch_size / processes, d_in]``.
            images: Which image each row is of, ``[batch_size / processes]``.

        Returns:
            The objectives before their steps, over the global batch; only those that are trained.
        """
        inputs = self.prepare(x, images)
        losses = {}
        for name, weights in self.objectives.items():
            loss = getattr(self, name)(*inputs)
            gradients = torch.autograd.grad(loss, weights)
            for weight, gradient in zip(weights, gradients):
                weight.grad = self.processes.sum_(gradient) / self.processes.count
            self.adams[name].step()
            losses[name] = self.processes.sum_(loss.detach().clone()) / self.processes.count
        self.step += 1
        self._store()
        return losses

    @torch.no_grad()
    def prepare(self, x: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a batch is to the objectives: centred activations, what the SAE leaves of them, the teacher's answers.

        Returns:
            ``x - b_dec [n, d_in]``, the SAE's error ``[n, d_in]``, and ``y [n, concepts that are trained]``.
        """
        sae = self.cb.sae
        centred = x - sae.b_dec
        values, indices = sae.encode_sparse(x)
        y = self.embeddings[images.to(self.embeddings.device)].to(self.texts) @ self.texts.T
        return centred, x - sae.decode_sparse(values, indices), y

    def reconstruction(self, centred: Tensor, error: Tensor, y: Tensor) -> Tensor:
        """Mean squared error of the whole reconstruction."""
        return (error - self._decoded(self._concepts(centred))).square().sum(-1).mean()

    def interpretability(self, centred: Tensor, error: Tensor, y: Tensor) -> Tensor:
        """Negative mean similarity of concept activations to the teacher's."""
        return -cosine_cubed_similarity(centred @ self.encoder, y, self.processes).mean()

    def steerability(self, centred: Tensor, error: Tensor, y: Tensor) -> Tensor:
        """The same of what the encoder reads in the reconstruction ("cyclic reconstruction")."""
        decoded = centred - error + self._decoded(self._concepts(centred).detach())
        return -cosine_cubed_similarity(decoded @ self.encoder.detach(), y, self.processes).mean()

    def _concepts(self, centred: Tensor) -> Tensor:
        return torch.cat([centred @ self.cb.W_enc_cb.detach()[:, : self.first], centred @ self.encoder], -1)

    def _decoded(self, c: Tensor) -> Tensor:
        decoder = torch.cat([self.cb.W_dec_cb.detach()[: self.first], self.decoder])
        return self.cb.select_concepts(c) @ decoder

    @torch.no_grad()
    def _store(self) -> None:
        """Puts the trained weights into the model."""
        self.cb.W_enc_cb[:, self.first :] = self.encoder
        self.cb.W_dec_cb[self.first :] = self.decoder

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is large, by name."""
        tensors = {"encoder": self.encoder, "decoder": self.decoder}
        for name, adam in self.adams.items():
            for index, state in adam.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{key}": value for key, value in state.items()}
        return tensors

    def facts(self) -> dict[str, Any]:
        """Everything else, as JSON."""
        return {"step": self.step, "config": self.config.to_dict(), "concepts": self.cb.concepts}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continues from what :meth:`tensors` and :meth:`facts` returned.

        Raises:
            ValueError: If they are of a run with other settings or concepts.
        """
        changed = self.config.changed_from(facts["config"])
        if facts["concepts"] != self.cb.concepts:
            changed.append("concepts")
        if changed:
            raise ValueError(f"the checkpoint is of other settings: {', '.join(changed)}")
        with torch.no_grad():
            self.encoder.copy_(tensors["encoder"])
            self.decoder.copy_(tensors["decoder"])
        for name, adam in self.adams.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                objective, _, rest = key.partition(".")
                if objective == name:
                    index, what = rest.split(".")
                    state.setdefault(int(index), {})[what] = value
            adam.load_state_dict({**adam.state_dict(), "state": state})
        self.step = facts["step"]
        self._store()
