"""The three objectives of a concept bottleneck and the state of its training (CB-SAE paper, section 5.2)."""

import itertools
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed.nn
from accelerate import Accelerator
from torch import Tensor

from cbsae_hub.models.cbsae import CBSAE
from cbsae_hub.trainers.config import CBSAETrainConfig
from cbsae_hub.trainers.run import Processes

TINY = 1e-12
RIDGE = 1e-3  # of the mean variance of an input
WEAKEST = 0.03
START_BATCHES = 100  # more do not change a regression


def cosine_cubed_similarity(u: Tensor, y: Tensor, processes: Processes | None = None) -> Tensor:
    """Similarity of concept activations to the teacher's over a batch: the cosine of centred and cubed columns.

    Label-free CBM's similarity (Oikarinen et al., 2023), the paper's equation 11. Scales and offsets of a column do not
    matter, so each is divided by its deviation before it is cubed, for the sake of float32. A column that does not vary
    is similar to nothing: 0.

    It is not a sum over tokens, so the sums are taken over the batches of all processes, and gradients flow through
    them: each process gets its tokens' part of the gradient of the global value, times the number of processes.

    Args:
        u: ``[n, concepts]``.
        y: ``[n, concepts]``, without gradient.
        processes: Default one.

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

    The retained SAE is frozen, so its part of the reconstruction is computed once a batch. With ``config.unit_rows``
    rows of the decoder are brought back to length 1 after every step, and the encoder takes over what they lose.

    Args:
        cb: The model, on the accelerator's device; its bottleneck is trained in place.
        config: The settings.
        embeddings: The teacher's unit embeddings of all images, ``[images, e]``.
        texts: Its unit embeddings of the concepts, ``[concepts, e]``.
        accelerator: The run's accelerator; default one process.
        first: Number of the first concept that is trained; those before it stay bit for bit.

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
        self.embeddings, self.texts = embeddings, texts[first:].to(cb.W_dec_cb.device).float()
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

    @torch.no_grad()
    def initialise(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Computes the first weights, unless ``config.start`` leaves them as they were drawn.

        From "ridge": the encoder is a ridge regression of the teacher's answers, each in units of its deviation, on
        activations. The decoder's row of a concept is its pattern ``cov(x, c_k)``, which is what a change of the
        concept looks like (Haufe et al., 2014), as long as what the SAE leaves unexplained has of it (at least
        ``WEAKEST`` of the pattern). Closed form, one pass over at most ``START_BATCHES`` of this process's batches
        ``(x, images)``, the same on all processes.
        """
        if self.config.start == "random":
            return
        d_in = len(self.encoder)
        width = 2 * d_in + self.encoder.shape[1]
        sums, squares = self.encoder.new_zeros(2, width, dtype=torch.float64)
        products = self.encoder.new_zeros(d_in, width, dtype=torch.float64)
        count = sums.new_zeros(())
        for x, images in itertools.islice(batches, START_BATCHES):
            centred, error, y = (part.double() for part in self.prepare(x.to(self.encoder), images))
            whole = torch.cat([centred, error, y], -1)
            count += len(whole)
            sums += whole.sum(0)
            squares += whole.square().sum(0)
            products += centred.T @ whole
        for part in (count, sums, squares, products):
            self.processes.sum_(part)
        mean = sums / count
        deviation = (squares / count - mean.square()).clamp_min(TINY).sqrt()[2 * d_in :]
        of_x, of_error, of_y = (products / count - mean[:d_in].outer(mean)).tensor_split((d_in, 2 * d_in), 1)
        penalty = RIDGE * of_x.diagonal().mean() * torch.eye(d_in).to(of_x)
        encoder = torch.linalg.solve(of_x + penalty, of_y / deviation)
        variance = (encoder * (of_x @ encoder)).sum(0).clamp_min(TINY)
        pattern, unexplained = encoder.T @ of_x / variance[:, None], encoder.T @ of_error / variance[:, None]
        share = (pattern * unexplained).sum(1) / pattern.square().sum(1).clamp_min(TINY)
        self.encoder.copy_(encoder)
        self.decoder.copy_(pattern * share.clamp_min(WEAKEST)[:, None])
        self._hold_rows()
        self._store()

    def update(self, x: Tensor, images: Tensor) -> dict[str, Tensor]:
        """One step of all objectives on ``x [batch_size / processes, d_in]`` with the number of each row's image.

        Returns:
            The objectives before their steps, over the global batch; only those that are trained.
        """
        inputs = self.prepare(x, images)
        losses = {}
        for name, weights in self.objectives.items():
            loss = getattr(self, name)(*inputs)
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights)):
                weight.grad = self.processes.sum_(gradient) / self.processes.count
            self.adams[name].step()
            losses[name] = self.processes.sum_(loss.detach().clone()) / self.processes.count
        self.step += 1
        self._hold_rows()
        self._store()
        return losses

    @torch.no_grad()
    def prepare(self, x: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the inputs of the objectives, in the units of the weights: with ``input_norm``, tokens of one scale.

        Returns:
            ``x - b_dec [n, d_in]``, the SAE's error ``[n, d_in]``, the teacher's answers ``y [n, trained concepts]``.
        """
        sae = self.cb.sae
        centred = sae.normalized(x) - sae.b_dec
        values, indices = sae.encode_sparse(x)
        error = (x - sae.decode_sparse(values, indices, like=x)) / sae.unit(x)
        return centred, error, self._answers(images)

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

    def _answers(self, images: Tensor) -> Tensor:
        """The teacher's similarities of images to the concepts that are trained, ``[n, concepts]``."""
        return self.embeddings[images.to(self.embeddings.device)].to(self.texts) @ self.texts.T

    def _concepts(self, centred: Tensor) -> Tensor:
        return torch.cat([centred @ self.cb.W_enc_cb.detach()[:, : self.first], centred @ self.encoder], -1)

    def _decoded(self, c: Tensor) -> Tensor:
        decoder = torch.cat([self.cb.W_dec_cb.detach()[: self.first], self.decoder])
        return self.cb.select_concepts(c) @ decoder

    @torch.no_grad()
    def _hold_rows(self) -> None:
        """Brings rows back to length 1, if they are to have it; what a concept adds stays the same."""
        if self.config.unit_rows:
            length = self.decoder.norm(dim=1).clamp_min(TINY)
            self.decoder /= length[:, None]
            self.encoder *= length

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
