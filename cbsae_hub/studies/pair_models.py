"""The models of the study of pairs: an SAE, controls that are nonsense by construction, and the true directions."""

import functools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.images import image_batches
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.metrics import mean_over_tokens
from cbsae_hub.metrics.latents import entries_of
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.steering.latents import RawNeurons, decoder_rows

OWN, RAW, RANDOM, UNTRAINED, TRUE = "SAE", "raw neurons", "random directions", "untrained SAE", "true directions"
CONTROLS = (RAW, RANDOM, UNTRAINED)
CALIBRATED = 128  # images on which an untrained SAE gets as many active latents as the trained one


@dataclass(frozen=True)
class Candidate:
    """A set of neurons that is scored.

    Attributes:
        name: Name of its kind.
        seed: Seed of its random numbers; 0 where there are none.
        rows: ``[neurons, d]``, the unit directions along which neurons write.
        sae: The model whose latents they are; None if they are projections on ``rows``.
    """

    name: str
    seed: int
    rows: Tensor
    sae: SAE | CBSAE | None = None

    @property
    def key(self) -> str:
        """The name, with the seed."""
        return f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class Observations:
    """A look at some images.

    Attributes:
        means: Activations in the mean over tokens, ``[images, d]``.
        embeddings: The encoder's embeddings, ``[images, e]``; of no width if nobody asked for them.
        latents: Image-level latents ``[images, neurons]`` of each SAE, by :attr:`Candidate.key`.
    """

    means: Tensor
    embeddings: Tensor
    latents: dict[str, sparse.csr_matrix]


def candidates(sae: SAE | CBSAE, layer: int, activations: Tensor, seeds: Sequence[int]) -> list[Candidate]:
    """The SAE and its controls.

    Raw neurons and random orthogonal directions count twice, once in either direction: an SAE's latents have a sign.
    An untrained SAE has the settings and the ``b_dec`` of the trained one, random rows and their transpose.

    Args:
        sae: The SAE.
        layer: The block that it explains.
        activations: Activations ``[..., d]`` of some images, on which thresholds of untrained SAEs are set.
        seeds: Seeds of the controls that are random.
    """

    def both_ways(seed: int | None) -> Tensor:
        rows = RawNeurons(sae.d_in, layer, seed).W_dec
        return torch.cat([rows, -rows])

    every = [Candidate(OWN, 0, _unit(decoder_rows(sae, range(sae.d_latent))), sae), Candidate(RAW, 0, both_ways(None))]
    for seed in seeds:
        untrained = untrained_sae(sae.sae if isinstance(sae, CBSAE) else sae, activations, seed)
        every.append(Candidate(RANDOM, seed, both_ways(seed)))
        every.append(Candidate(UNTRAINED, seed, _unit(untrained.W_dec), untrained))
    return every


@torch.no_grad()
def untrained_sae(sae: SAE, activations: Tensor, seed: int) -> SAE:
    """An SAE as another one was before its training, with as many active latents on these activations."""
    fresh = deepcopy(sae)
    fresh.seed = seed
    fresh.reset_matrices_()
    for shift in (fresh.b_enc, fresh.b_gate, fresh.b_mag, fresh.r_mag):
        if shift is not None:
            shift.zero_()
    if fresh.threshold is not None:
        fresh.calibrate_threshold(
            activations, float((sae.encode_sparse(activations).values > 0).sum(-1).float().mean())
        )
    return fresh


@torch.no_grad()
def observe(
    encoder: VisionEncoder,
    images: ImageDataset,
    saes: Mapping[str, SAE | CBSAE],
    title: str,
    *,
    batch: int = 64,
    embed: bool = False,
) -> Observations:
    """Looks at images once, with the encoder and all SAEs.

    Args:
        encoder: The encoder that the SAEs explain, with their tokens.
        images: Map-style dataset with a column ``image``.
        saes: The SAEs, by their keys.
        title: Title of the progress bar.
        batch: Images at once.
        embed: Whether embeddings are wanted.
    """
    means, embeddings = [], []
    parts: dict[str, list[sparse.csr_matrix]] = {key: [] for key in saes}
    batches = image_batches(images, batch)
    for ids, pictures in tqdm(batches, desc=title, total=-(-len(images) // batch), unit="batch"):
        pixels = encoder.pixel_values(pictures)
        everything = encoder.site.read(functools.partial(encoder.model, pixels)).float()
        v = encoder.select(everything, list(ids))
        means.append(v.mean(1).cpu())
        embeddings.append(encoder.embed_from(everything).cpu() if embed else v.new_zeros(len(v), 0).cpu())
        for key, sae in saes.items():
            values, owners = sae.encode_sparse(v)
            parts[key].append(csr(mean_over_tokens(values.cpu(), owners.cpu(), sae.d_latent, signed_from=sae.d_sae)))
    latents = {key: sparse.csr_matrix(sparse.vstack(part)) for key, part in parts.items()}
    return Observations(torch.cat(means), torch.cat(embeddings), latents)


def csr(latents: Tensor) -> sparse.csr_matrix:
    """Image-level latents of torch as a matrix of scipy."""
    rows, owners, values = (part.numpy() for part in entries_of(latents))
    return sparse.csr_matrix((values, (rows, owners)), tuple(latents.shape))


def active_parts(images: np.ndarray, pairs: np.ndarray, density: float) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Latents of neurons that have no rule of their own for when they are active: directions, and a bottleneck's.

    Each is active where it exceeds the quantile that lets this share of the labelled images through.

    Args:
        images: Values on the labelled images, ``[images, neurons]``, by which the quantile is found.
        pairs: Values on the images of the pairs, likewise.
        density: Share of the images on which a neuron is active.

    Returns:
        Both, less the quantile, and 0 below it.
    """
    threshold = np.quantile(images, 1 - density, axis=0)
    first, second = (sparse.csr_matrix(np.maximum(part - threshold, 0)) for part in (images, pairs))
    return first, second


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.detach().float().cpu(), dim=1)
