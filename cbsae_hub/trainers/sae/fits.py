"""Dictionaries that are found without gradients, batch by batch: principal components and means of clusters."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from cbsae_hub.models.calibration import token_chunks
from cbsae_hub.models.sae import SAE
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.run import Processes


@torch.no_grad()
def set_directions_(sae: SAE, directions: Tensor) -> None:
    """Makes neurons of directions ``[d_sae, d_in]``: they are the decoder's unit rows and the encoder's columns."""
    sae.W_dec.copy_(F.normalize(directions, dim=1))
    sae.W_enc.copy_(sae.W_dec.T)


class Fit(ABC):
    """Finds the directions of an SAE.

    Args:
        sae: The SAE that gets them.
        processes: The processes that share each batch; all of them find the same.

    Attributes:
        tensors: Everything that :meth:`update` changes, by name.
    """

    tensors: dict[str, Tensor]

    def __init__(self, sae: SAE, processes: Processes):
        self.sae, self.processes = sae, processes

    @abstractmethod
    def start(self, batches: Iterable[Tensor]) -> None:
        """Sees whole batches ``[n, d_in]`` before the first update, as many as it asks for."""

    @abstractmethod
    def update(self, x: Tensor) -> dict[str, Tensor]:
        """Takes in this process's share of a batch, ``[n, d_in]``; returns scalars for the log."""

    @abstractmethod
    def directions(self) -> Tensor:
        """The directions so far, ``[d_sae, d_in]``, of any length."""

    def write_(self) -> None:
        """Makes the SAE's neurons of the directions."""
        set_directions_(self.sae, self.directions())


class PCA(Fit):
    """Principal components, each in both directions of its axis; ``b_dec`` becomes the mean.

    From sums over all tokens in double precision, so it equals the decomposition of the whole matrix.
    """

    def __init__(self, sae: SAE, processes: Processes):
        super().__init__(sae, processes)
        zeros = sae.b_dec.new_zeros(1 + sae.d_in, 1 + sae.d_in, dtype=torch.float64)
        self.tensors = {"moments": zeros}  # of (1, x): count, sums and products

    def start(self, batches: Iterable[Tensor]) -> None:
        """See :meth:`Fit.start`: it asks for none."""

    def update(self, x: Tensor) -> dict[str, Tensor]:
        """See :meth:`Fit.update`; nothing is to be logged before the end."""
        extended = F.pad(x.double(), (1, 0), value=1.0)
        self.tensors["moments"] += self.processes.sum_(extended.T @ extended)
        return {}

    def directions(self) -> Tensor:
        """Components by falling variance, ``[2 d_in, d_in]``: all in one direction, then all in the other."""
        moments = self.tensors["moments"] / self.tensors["moments"][0, 0]
        mean = moments[0, 1:]
        axes = torch.linalg.eigh(moments[1:, 1:] - mean.outer(mean)).eigenvectors.T.flip(0)
        return torch.cat([axes, -axes])

    def write_(self) -> None:
        """See :meth:`Fit.write_`; ``b_dec`` becomes the mean."""
        self.sae.b_dec.data.copy_(self.tensors["moments"][0, 1:] / self.tensors["moments"][0, 0])
        super().write_()


class KMeans(Fit):
    """Means of clusters, less ``b_dec``: mini-batch k-means with all tokens of the training, each batch once.

    Sculley, "Web-scale k-means clustering", 2010: the tokens of a batch go to the nearest means, and a mean is that of
    all tokens that it ever got. The first means are the first tokens.
    """

    def __init__(self, sae: SAE, processes: Processes):
        super().__init__(sae, processes)
        self.tensors = {"means": torch.zeros_like(sae.W_dec.data), "counts": torch.zeros_like(sae.W_dec.data[:, 0])}

    def start(self, batches: Iterable[Tensor]) -> None:
        """See :meth:`Fit.start`.

        Raises:
            ValueError: If there are fewer tokens than clusters.
        """
        means, filled = self.tensors["means"], 0
        for batch in batches:
            part = batch[: len(means) - filled]
            means[filled : filled + len(part)] = part.to(means)
            filled += len(part)
            if filled == len(means):
                return
        raise ValueError(f"{filled} tokens are fewer than the {len(means)} clusters: lower expansion")

    @torch.no_grad()
    def update(self, x: Tensor) -> dict[str, Tensor]:
        """See :meth:`Fit.update`; logs the mean squared distance to the nearest mean."""
        means, counts = self.tensors["means"], self.tensors["counts"]
        halves = means.square().sum(1) / 2
        nearest = torch.cat([(chunk @ means.T - halves).argmax(1) for chunk in token_chunks(x, len(means))])
        totals = torch.zeros_like(means).index_add_(0, nearest, x)
        numbers = torch.bincount(nearest, minlength=len(means)).to(counts)
        distance = (x - means[nearest]).square().sum()
        for tensor in (totals, numbers, distance):
            self.processes.sum_(tensor)
        counts += numbers
        got = numbers > 0
        # The mean of all tokens so far moves towards those of this batch by their share.
        means[got] += (totals[got] - numbers[got, None] * means[got]) / counts[got, None]
        return {"loss/distance": distance / numbers.sum()}

    def directions(self) -> Tensor:
        """The means, seen from ``b_dec``."""
        return self.tensors["means"] - self.sae.b_dec


class FitState:
    """An SAE whose directions are fitted; has what :class:`cbsae_hub.trainers.sae.state.SAEState` has.

    Args:
        sae: The SAE, on the accelerator's device.
        fit: What finds its directions.
        config: The settings.
        accelerator: The run's accelerator.
    """

    def __init__(self, sae: SAE, fit: type[Fit], config: SAETrainConfig, accelerator: Accelerator):
        self.sae, self.config, self.fit = sae, config, fit(sae, Processes(accelerator))
        self.norm_factor, self.step = 1.0, 0

    @property
    def model(self) -> SAE:
        """The SAE as it is now."""
        self.fit.write_()
        return self.sae

    def update(self, x: Tensor) -> dict[str, Tensor]:
        """One batch ``[batch_size / processes, d_in]``, in the units of the SAE; returns scalars for the log."""
        self.step += 1
        return self.fit.update(x)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is large, by name."""
        return {"b_dec": self.sae.b_dec, **self.fit.tensors}

    def facts(self) -> dict[str, Any]:
        """Everything else, as JSON."""
        return {"step": self.step, "norm_factor": self.norm_factor, "config": self.config.to_dict()}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continues from what :meth:`tensors` and :meth:`facts` returned.

        Raises:
            ValueError: If they are of a run with other settings.
        """
        self.config.require_same(facts["config"])
        self.sae.b_dec.data.copy_(tensors["b_dec"])
        for name, tensor in self.fit.tensors.items():
            tensor.copy_(tensors[name])
        self.norm_factor, self.step = facts["norm_factor"], facts["step"]
