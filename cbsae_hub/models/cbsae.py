"""The concept bottleneck SAE: what is left of a pruned SAE, and beside it a bottleneck of the user's concepts."""

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cbsae_hub.models import checks
from cbsae_hub.models.hub_model import HubModel
from cbsae_hub.models.sae import MAX_D_SAE, MAX_MATRIX, SAE, SAEOutput
from cbsae_hub.models.sparse_latents import SparseLatents

MAX_NAME = 200
ACTIVATIONS = ("topk_relu", "topk_signed", "topk_abs")


class CBSAE(HubModel, tags=["sparse-autoencoder", "concept-bottleneck"]):
    """Concept bottleneck sparse autoencoder (CB-SAE paper, section 5).

    ``z = retained SAE's latents of x``, ``c = (x - b_dec) @ W_enc_cb``;
    ``reconstruction = z @ W_dec + b_dec + top_k(c) @ W_dec_cb``. Latents are ``[z, c]``: neurons of the SAE first, then
    one per concept. ``c`` is signed and nothing is cut off it; only the decoder reads the ``cb_k`` largest.

    Parameters: those of the retained SAE under ``sae.``, frozen and bit for bit those of its parent; ``W_enc_cb [d_in,
    concepts]`` and ``W_dec_cb [concepts, d_in]``, drawn as ``nn.Linear`` does. No biases of its own: ``sae.b_dec`` is
    shared. :meth:`from_sae` makes one.

    Args:
        sae_config: Arguments of the retained :class:`SAE`.
        sae_neuron_ids: Its neurons' ids in the parent, in the order of the latents.
        concepts: Names of the concept neurons, all different.
        cb_k: How many concepts the decoder reads.
        cb_activation: Which: "topk_relu" the largest, if positive; "topk_signed" the largest; "topk_abs" those of the
            largest magnitude.
        sae_names: Names of the retained neurons, None for those without; or None.
        parent: The SAE that was pruned: ``id``, ``revision`` and ``sha256`` of its weights.
        teacher: The image-text model that the concepts were learned from.
        pruning: By which scores and how neurons were discarded.
        trained_on: What the bottleneck was trained on, and how.
        seed: Of the first bottleneck; None draws from torch's global generator.

    Raises:
        ValueError: If a value is of the wrong type, out of range, or unreasonably large.
    """

    def __init__(
        self,
        sae_config: dict[str, Any],
        sae_neuron_ids: Sequence[int],
        concepts: Sequence[str],
        cb_k: int = 5,
        *,
        cb_activation: str = "topk_relu",
        sae_names: Sequence[str | None] | None = None,
        parent: dict | None = None,
        teacher: dict | None = None,
        pruning: dict | None = None,
        trained_on: dict | None = None,
        seed: int | None = None,
    ):
        super().__init__()
        if not isinstance(sae_config, dict):
            raise ValueError(f"sae_config must be the arguments of an SAE, got {sae_config!r:.80}")
        try:
            self.sae = SAE(**sae_config).requires_grad_(False)
        except TypeError as error:
            raise ValueError(f"sae_config does not fit an SAE: {error}") from None
        self.sae_neuron_ids = _neuron_ids("sae_neuron_ids", sae_neuron_ids, MAX_D_SAE)
        if len(self.sae_neuron_ids) != self.sae.d_sae:
            raise ValueError(f"there are {len(self.sae_neuron_ids)} sae_neuron_ids for {self.sae.d_sae} neurons")
        self.concepts = concept_names(concepts)
        if self.d_in * len(self.concepts) > MAX_MATRIX:
            raise ValueError(f"{len(self.concepts)} concepts of width {self.d_in} exceed {MAX_MATRIX} weights")
        self.cb_k = checks.integer("cb_k", cb_k, 1, MAX_D_SAE)
        self.cb_activation = checks.choice("cb_activation", cb_activation, ACTIVATIONS)
        self.sae_names = None if sae_names is None else _retained_names(sae_names, self.sae.d_sae)
        self.parent = checks.description("parent", parent)
        self.teacher = checks.description("teacher", teacher)
        self.pruning = checks.description("pruning", pruning)
        self.trained_on = checks.description("trained_on", trained_on)
        self.seed = None if seed is None else checks.integer("seed", seed, 0, 2**64 - 1)
        self.W_enc_cb = nn.Parameter(torch.empty(self.d_in, len(self.concepts)))
        self.W_dec_cb = nn.Parameter(torch.empty(len(self.concepts), self.d_in))
        if not self.W_enc_cb.is_meta:
            self.reset_bottleneck_()

    @classmethod
    def from_sae(
        cls,
        sae: SAE,
        keep: Sequence[int],
        concepts: Sequence[str],
        cb_k: int = 5,
        *,
        names: Sequence[str | None] | None = None,
        **more: Any,
    ) -> "CBSAE":
        """Prunes an SAE and puts an untrained bottleneck beside it.

        Args:
            sae: The parent, which stays as it is.
            keep: Ids of the neurons to retain, in the order that the latents shall have. Ascending ids, as
                :func:`cbsae_hub.models.pruning.prune` gives them, keep the Matryoshka groups.
            concepts: Names of the concept neurons.
            cb_k: How many of them the decoder reads.
            names: Names of the parent's neurons, one per neuron.
            **more: ``cb_activation``, ``teacher``, ``pruning`` and ``seed``, see the class.

        Raises:
            ValueError: If an id does not exist or comes twice, or a threshold is missing, so that discarding neurons
                would change the latents of those that stay.
        """
        ids = _neuron_ids("keep", keep, sae.d_sae - 1)
        if sae.activation == "batch_topk" and not sae.threshold_is_set:
            raise ValueError("this SAE has no threshold: call calibrate_threshold(activations) before pruning it")
        if names is not None and len(names) != sae.d_sae:
            raise ValueError(f"there are {len(names)} names for the {sae.d_sae} neurons of the SAE")
        retained = retain(sae, ids)
        model = cls(
            _arguments(retained),
            ids,
            concepts,
            cb_k,
            sae_names=None if names is None else [names[i] for i in ids],
            parent={"id": sae.repo_id, "revision": sae.revision, "sha256": _sha256(sae)},
            **more,
        ).to(sae.W_dec.device, sae.W_dec.dtype)
        model.sae.load_state_dict(retained.state_dict())
        return model

    @torch.no_grad()
    def reset_bottleneck_(self, first: int = 0) -> None:
        """Draws the weights of the concepts from number ``first`` on, as ``nn.Linear`` does, with the seed."""
        generator = None
        if self.seed is not None:
            generator = torch.Generator(self.W_enc_cb.device).manual_seed(self.seed)
        for weight, fan_in in ((self.W_enc_cb[:, first:], self.d_in), (self.W_dec_cb[first:], len(self.concepts))):
            if weight.numel():
                bound = fan_in**-0.5
                weight.uniform_(-bound, bound, generator=generator)

    # ----------------------------------------------------------------------------------- what it is made of

    @property
    def sae_config(self) -> dict[str, Any]:
        """Arguments of the retained SAE."""
        return _arguments(self.sae)

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.sae.d_in

    @property
    def d_sae(self) -> int:
        """Number of retained neurons."""
        return self.sae.d_sae

    @property
    def d_latent(self) -> int:
        """Number of latents: retained neurons and concepts."""
        return self.sae.d_sae + len(self.concepts)

    @property
    def neuron_names(self) -> list[str | None]:
        """Names of all latents: retained neurons (None where there is none), then concepts."""
        return [*(self.sae_names or [None] * self.d_sae), *self.concepts]

    @property
    def concepts_sha256(self) -> str:
        """Hash of the concept list, one name a line."""
        return hashlib.sha256("\n".join(self.concepts).encode()).hexdigest()

    @property
    def group_of(self) -> Tensor:
        """Matryoshka group of each latent, ``[d_latent]``; the concepts are a group after the last."""
        groups = self.sae.group_of
        own = groups.new_full((len(self.concepts),), int(groups.max()) + 1)
        return torch.cat([groups, own])

    def __getattr__(self, name: str) -> Any:
        """What the SAE says of its activations is true of the whole: encoder, layer, tokens, preprocessing ..."""
        if name in _OF_THE_SAE:
            return getattr(self.sae, name)
        return super().__getattr__(name)

    def to_sae_part(self) -> SAE:
        """The retained neurons alone, as an SAE of its own."""
        return copy.deepcopy(self.sae).requires_grad_(True)

    # ------------------------------------------------------------------------------------------- inference

    def encode(self, x: Tensor) -> Tensor:
        """Latents ``[..., d_in] -> [..., d_latent]``; those of concepts are signed, and none is cut off.

        Raises:
            ValueError: See :meth:`SAE.encode`.
        """
        z = self.sae.encode(x)
        return torch.cat([z, self.concept_activations(x)], -1)

    def concept_activations(self, x: Tensor) -> Tensor:
        """``c = (x - b_dec) @ W_enc_cb``, ``[..., d_in] -> [..., concepts]``."""
        return (x.to(self.W_enc_cb.dtype) - self.sae.b_dec) @ self.W_enc_cb

    @torch.no_grad()
    def encode_sparse(self, x: Tensor) -> SparseLatents:
        """Latents of :meth:`encode` with only the active ones of the SAE, and all of the concepts, signed.

        Returns:
            ``(values, indices)``, each ``[..., K]``; padded with value 0 and neuron 0.
        """
        active = self.sae.encode_sparse(x)
        concepts = self.concept_activations(x)
        ids = torch.arange(self.d_sae, self.d_latent, device=concepts.device).expand(concepts.shape)
        return SparseLatents(torch.cat([active.values, concepts], -1), torch.cat([active.indices, ids], -1))

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstruction ``[..., d_latent] -> [..., d_in]``; of the concepts it reads the ``cb_k`` that count most."""
        z, c = latents.split([self.d_sae, len(self.concepts)], -1)
        return self.sae.decode(z) + self.decode_concepts(c)

    def decode_sparse(self, values: Tensor, indices: Tensor) -> Tensor:
        """Reconstruction from ``(values, indices)`` of :meth:`encode_sparse`, ``[..., K] -> [..., d_in]``."""
        width = values.shape[-1] - len(self.concepts)
        return self.sae.decode_sparse(values[..., :width], indices[..., :width]) + self.decode_concepts(
            values[..., width:]
        )

    def decode_concepts(self, c: Tensor) -> Tensor:
        """What the bottleneck adds to a reconstruction, ``top_k(c) @ W_dec_cb``: ``[..., concepts] -> [..., d_in]``."""
        return self.select_concepts(c) @ self.W_dec_cb

    def select_concepts(self, c: Tensor) -> Tensor:
        """``top_k(c)``: concept activations of which all but ``cb_k`` are zero; gradients reach those."""
        ranked = c.abs() if self.cb_activation == "topk_abs" else c
        chosen = ranked.topk(min(self.cb_k, c.shape[-1]), -1).indices
        kept = torch.zeros_like(c).scatter(-1, chosen, c.gather(-1, chosen))
        return kept.relu() if self.cb_activation == "topk_relu" else kept

    def forward(self, x: Tensor) -> SAEOutput:
        """Latents and reconstruction; ``x [..., d_in]`` in raw units."""
        latents = self.encode(x)
        return SAEOutput(latents, self.decode(latents))

    # ------------------------------------------------------------------------------------ another concept list

    @torch.no_grad()
    def with_concepts(self, more: Sequence[str]) -> "CBSAE":
        """A copy with more concepts, untrained; everything that was there stays bit for bit.

        Raises:
            ValueError: If a name is empty or there already.
        """
        wider = self._with([*self.concepts, *more])
        old = len(self.concepts)
        wider.W_enc_cb[:, :old], wider.W_dec_cb[:old] = self.W_enc_cb, self.W_dec_cb
        return wider

    @torch.no_grad()
    def without_concepts(self, names: Sequence[str]) -> "CBSAE":
        """A copy without some of its concepts.

        Raises:
            ValueError: If there is no such concept.
        """
        if missing := [name for name in names if name not in self.concepts]:
            raise ValueError(f"this model has no concept {missing[0]!r:.80}")
        left = [i for i, name in enumerate(self.concepts) if name not in names]
        narrower = self._with([self.concepts[i] for i in left])
        narrower.W_enc_cb.copy_(self.W_enc_cb[:, left])
        narrower.W_dec_cb.copy_(self.W_dec_cb[left])
        return narrower

    def _with(self, concepts: Sequence[str]) -> "CBSAE":
        arguments = self.config | {"concepts": list(concepts)}
        for stamp in ("model_class", "schema_version", "package_version"):
            arguments.pop(stamp)
        other = CBSAE(**arguments).to(self.W_dec_cb.device, self.W_dec_cb.dtype)
        other.sae.load_state_dict(self.sae.state_dict())
        return other.train(self.training)

    def card_summary(self) -> str:
        """See :meth:`HubModel.card_summary`."""
        origin = (self.parent or {}).get("id") or "an SAE"
        layer = "" if self.layer is None else f", layer {self.layer}"
        return (
            f"Concept bottleneck SAE: {self.d_sae} neurons retained of {origin}, and {len(self.concepts)} concepts, of "
            f"the activations of {self.encoder_id or 'a vision encoder'}{layer}."
        )


_OF_THE_SAE = {
    "encoder_id", "encoder_revision", "layer", "tokens", "preprocessing", "training_data", "norm_factor", "activation",
    "k", "group_sizes",
}  # fmt: skip
_PER_NEURON = ("b_enc", "threshold", "b_gate", "b_mag", "r_mag")


@torch.no_grad()
def retain(sae: SAE, ids: Sequence[int]) -> SAE:
    """An SAE of some of an SAE's neurons, in that order, with the same latents for them.

    topk is the exception: its neurons compete, and with those that are gone others take their places. A model that no
    longer has them cannot know. Ids of which the groups do not ascend leave no Matryoshka groups.

    Args:
        sae: The parent.
        ids: At least one.
    """
    groups = sae.group_of[list(ids)]
    sizes = None
    if sae.group_sizes is not None and bool((groups.diff() >= 0).all()):
        sizes = groups.unique_consecutive(return_counts=True)[1].tolist()
    retained = SAE(**{**_arguments(sae), "d_sae": len(ids), "group_sizes": sizes}).to(sae.W_dec.device, sae.W_dec.dtype)
    own = retained.state_dict()
    for name, tensor in sae.state_dict().items():
        if name == "W_enc":
            tensor = tensor[:, list(ids)]
        elif name == "W_dec" or (name in _PER_NEURON and tensor.ndim):
            tensor = tensor[list(ids)]
        own[name].copy_(tensor)
    return retained


def concept_names(concepts: Sequence[str]) -> list[str]:
    """Names of concepts, without white space around them.

    Raises:
        ValueError: If one is no text, empty, too long, or there twice.
    """
    if isinstance(concepts, str) or not all(isinstance(name, str) for name in concepts):
        raise ValueError(f"concepts must be a list of names, got {concepts!r:.80}")
    names = [name.strip() for name in concepts]
    if bad := [name for name in names if not name or len(name) > MAX_NAME]:
        raise ValueError(f"a concept's name must have 1 to {MAX_NAME} characters, got {bad[0]!r:.80}")
    seen: set[str] = set()
    if twice := [name for name in names if name in seen or seen.add(name)]:
        raise ValueError(f"the concept {twice[0]!r:.80} is there twice")
    return names


def _neuron_ids(name: str, ids: Sequence[int], highest: int) -> list[int]:
    numbers = [checks.integer(name, i, 0, highest) for i in (ids.tolist() if hasattr(ids, "tolist") else ids)]
    if not numbers:
        raise ValueError(f"{name} is empty: retain at least one neuron")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} names a neuron twice")
    return numbers


def _retained_names(names: Sequence[str | None], count: int) -> list[str | None]:
    if len(names) != count or not all(name is None or isinstance(name, str) for name in names):
        raise ValueError(f"sae_names must be {count} names, or None for neurons without")
    return [None if name is None else checks.text("sae_names", name) for name in names]


def _arguments(sae: SAE) -> dict[str, Any]:
    config = sae.config
    for stamp in ("model_class", "schema_version", "package_version"):
        config.pop(stamp)
    return config


def _sha256(sae: SAE) -> str:
    """Of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
