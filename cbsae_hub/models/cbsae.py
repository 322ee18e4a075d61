"""The concept bottleneck SAE: the retained neurons of a pruned SAE, and beside them a bottleneck of concepts."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cbsae_hub.hub.files import sha256
from cbsae_hub.models import checks
from cbsae_hub.models.base import HubModel, entry
from cbsae_hub.models.provenance import SHARED, BottleneckProvenance
from cbsae_hub.models.retained import retain
from cbsae_hub.models.sae import MAX_D_SAE, MAX_MATRIX, SAE, SAEOutput
from cbsae_hub.models.sparse_latents import SparseLatents, gather_rows
from cbsae_hub.words import name_key

CB_ACTIVATIONS = ("topk_relu", "topk_signed", "topk_abs")


class CBSAE(HubModel, tags=["sparse-autoencoder", "concept-bottleneck"]):
    """Concept bottleneck sparse autoencoder (CB-SAE paper, section 5).

    ``z = latents of x in the retained SAE``, ``c = (x - b_dec) @ W_enc_cb``;
    ``reconstruction = z @ W_dec + b_dec + top_k(c) @ W_dec_cb``. Latents are ``[z, c]``: neurons of the SAE first, then
    one per concept. ``c`` is signed and not cut off: only the decoder selects. A concept neuron is set before that
    selection. So it competes with the others, and a concept that is set to a negative value just loses its place.

    Parameters: those of the retained SAE under ``sae.``, frozen and bit for bit those of its parent; ``W_enc_cb [d_in,
    concepts]`` and ``W_dec_cb [concepts, d_in]``. There are no biases but ``sae.b_dec``. :meth:`from_sae` makes one.

    Args:
        sae_config: Arguments of the retained :class:`SAE`, without those that follow below.
        sae_neuron_ids: Its neurons' ids in the parent, in the order of the latents.
        concepts: Names of the concept neurons, all different.
        cb_k: Number of concepts that the decoder reads.
        cb_activation: Which: "topk_relu" the largest, if positive; "topk_signed" the largest; "topk_abs" those of the
            largest magnitude.
        concepts_sha256: Hash of the names, one a line; None takes it from the names.
        sae_names: Names of the retained neurons, None for those without; or None.
        parent_group_sizes: Matryoshka groups of the SAE that was pruned.
        seed: Seed of the first bottleneck; None draws from torch's global generator.
        **provenance: Entries of :class:`cbsae_hub.models.provenance.BottleneckProvenance`: ``teacher``, ...

    Raises:
        ValueError: If a value is of the wrong type, out of range, or unreasonably large.
    """

    provenance_class = BottleneckProvenance
    provenance: BottleneckProvenance

    parent = entry("parent", "The SAE that was pruned: ``id``, ``revision``, ``sha256`` of its weights, ``d_sae``.")
    teacher = entry("teacher", "The image-text model that the concepts were learned from.")
    pruning = entry("pruning", "By which scores and how neurons were discarded.")
    trained_on = entry("trained_on", "Data and settings of the bottleneck's training.")
    activation = entry("activation", "Activation function of the retained SAE.", part="sae")
    k = entry("k", "Active latents per token of the retained SAE.", part="sae")
    group_sizes = entry("group_sizes", "Matryoshka groups of the retained SAE.", part="sae")
    input_norm = entry("input_norm", "Normalisation of each token before all else; see :class:`SAE`.", part="sae")
    norm_factor = entry("norm_factor", "The input scale that was folded into the retained SAE.", part="sae")
    imported_from = entry(
        "imported_from", "Source and changes of somebody else's SAE, of which the neurons are.", part="sae"
    )

    def __init__(
        self,
        sae_config: dict[str, Any],
        sae_neuron_ids: Sequence[int],
        concepts: Sequence[str],
        cb_k: int = 5,
        *,
        cb_activation: str = "topk_relu",
        concepts_sha256: str | None = None,
        sae_names: Sequence[str | None] | None = None,
        parent_group_sizes: Sequence[int] | None = None,
        seed: int | None = None,
        **provenance: Any,
    ):
        super().__init__()
        self.provenance = BottleneckProvenance(**provenance)
        try:
            self.sae = SAE(**sae_config, **self.provenance.of_activations()).requires_grad_(False)
        except TypeError as error:
            raise ValueError(f"sae_config does not fit an SAE: {error}") from None
        self.sae_neuron_ids = checks.neuron_ids("sae_neuron_ids", sae_neuron_ids, MAX_D_SAE)
        if len(self.sae_neuron_ids) != self.d_sae:
            raise ValueError(f"there are {len(self.sae_neuron_ids)} sae_neuron_ids for {self.d_sae} neurons")
        self.parent_group_sizes = checks.partition("parent_group_sizes", parent_group_sizes)
        if self.parent_group_sizes and max(self.sae_neuron_ids) >= sum(self.parent_group_sizes):
            raise ValueError(f"there is no neuron {max(self.sae_neuron_ids)} in the parent_group_sizes")
        self.concepts = checks.concept_names("concepts", concepts)
        if self.d_in * len(self.concepts) > MAX_MATRIX:
            raise ValueError(f"{len(self.concepts)} concepts of width {self.d_in} exceed {MAX_MATRIX} weights")
        self.concepts_sha256 = sha256("\n".join(self.concepts))
        if concepts_sha256 not in (None, self.concepts_sha256):
            raise ValueError("concepts_sha256 is not the hash of these concepts: were they edited by hand?")
        self.cb_k = checks.integer("cb_k", cb_k, 1, MAX_D_SAE)
        self.cb_activation = checks.choice("cb_activation", cb_activation, CB_ACTIVATIONS)
        self.sae_names = None if sae_names is None else _names("sae_names", sae_names, self.d_sae)
        self.seed = None if seed is None else checks.integer("seed", seed, 0, 2**63 - 1)
        self.W_enc_cb = nn.Parameter(torch.empty(self.d_in, len(self.concepts)))
        self.W_dec_cb = nn.Parameter(torch.empty(len(self.concepts), self.d_in))
        if not self.W_enc_cb.is_meta:
            self.reset_bottleneck_()

    @classmethod
    def from_sae(
        cls,
        sae: SAE,
        keep: Iterable[int],
        concepts: Iterable[str],
        cb_k: int = 5,
        *,
        names: Sequence[str | None] | None = None,
        **more: Any,
    ) -> "CBSAE":
        """Prunes an SAE and puts an untrained bottleneck beside it; see :func:`retain`.

        Args:
            sae: The parent, which stays as it is.
            keep: Ids of the neurons to retain, in the order that the latents shall have. At least one.
            concepts: Names of the concept neurons. At least one; without any, :func:`retain` is what is wanted.
            cb_k: Number of them that the decoder reads.
            names: Names of the parent's neurons, one per neuron; None or NaN for those without.
            **more: ``cb_activation``, ``teacher``, ``pruning``, ``trained_on`` and ``seed``, see the class.

        Raises:
            ValueError: If an id does not exist or comes twice, or a concept is empty or comes twice.
        """
        if isinstance(sae, CBSAE):
            raise ValueError("that is a CBSAE already: take its to_sae_part(), or with_concepts(more)")
        ids = checks.neuron_ids("keep", keep, sae.d_sae - 1)
        all_names = None if names is None else _names("names", names, sae.d_sae)
        retained = retain(sae, ids)
        arguments = {
            "sae_config": _without_shared(retained.arguments),
            "sae_neuron_ids": ids,
            "concepts": concepts,
            "cb_k": cb_k,
            "sae_names": all_names and [all_names[i] for i in ids],
            "parent": {"id": sae.repo_id, "revision": sae.revision, "sha256": _sha256(sae), "d_sae": sae.d_sae},
            "parent_group_sizes": sae.group_sizes,
        }
        return cls._made_of(arguments | sae.provenance.of_activations() | more, retained.state_dict())

    @classmethod
    @torch.no_grad()
    def _made_of(cls, arguments: dict[str, Any], sae_weights: dict[str, Tensor]) -> "CBSAE":
        """A model with these weights of the SAE (which become its own) and a new bottleneck beside them."""
        with torch.device("meta"):
            model = cls(**arguments)
        model.sae.load_state_dict(sae_weights, assign=True)
        model.W_enc_cb = nn.Parameter(model.b_dec.new_empty(model.W_enc_cb.shape))
        model.W_dec_cb = nn.Parameter(model.b_dec.new_empty(model.W_dec_cb.shape))
        model.reset_bottleneck_()
        return model

    @torch.no_grad()
    def reset_bottleneck_(self) -> None:
        """Draws the weights of all concepts as ``nn.Linear`` does: uniformly, within ``1 / sqrt(fan_in)``.

        Concept by concept, so that those of a longer list with the same seed start out in the same directions.
        """
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        unit = torch.rand(len(self.concepts), 2, self.d_in, generator=generator, device="cpu") * 2 - 1
        self.W_enc_cb.copy_(unit[:, 0].T / self.d_in**0.5)
        self.W_dec_cb.copy_(unit[:, 1] / len(self.concepts) ** 0.5)

    # ----------------------------------------------------------------------------------- what it is made of

    @property
    def sae_config(self) -> dict[str, Any]:
        """Arguments of the retained SAE, without those of the whole model."""
        return _without_shared(self.sae.arguments)

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.sae.d_in

    @property
    def d_sae(self) -> int:
        """Number of retained neurons."""
        return self.sae.d_sae

    def extra_repr(self) -> str:
        """Text in ``print(cb)`` besides the SAE in it: number of concepts, and how many of them count at a token."""
        return f"concepts={len(self.concepts)}, cb_k={self.cb_k}"

    @property
    def d_latent(self) -> int:
        """Number of latents: retained neurons and concepts."""
        return self.d_sae + len(self.concepts)

    @property
    def b_dec(self) -> Tensor:
        """The bias that the SAE and the bottleneck share, ``[d_in]``."""
        return self.sae.b_dec

    @property
    def neuron_names(self) -> list[str | None]:
        """Names of all latents: retained neurons (None where there is none), then concepts."""
        return [*(self.sae_names or [None] * self.d_sae), *self.concepts]

    @property
    def group_of(self) -> Tensor:
        """Group of each latent, ``[d_latent]`` int64: the parent's Matryoshka groups, and one more of the concepts."""
        sizes = torch.tensor(self.parent_group_sizes or (MAX_D_SAE + 1,))
        groups = torch.searchsorted(sizes.cumsum(0), torch.tensor(self.sae_neuron_ids), right=True)
        own = groups.new_full((len(self.concepts),), len(sizes))
        return torch.cat([groups, own]).to(self.b_dec.device)

    def to_sae_part(self) -> SAE:
        """The retained neurons alone, as an SAE of its own that can be trained."""
        sae = copy.deepcopy(self.sae).requires_grad_(True)
        sae.provenance = replace(sae.provenance, **self.provenance.of_activations())
        return sae

    def decoder_rows(self, neurons: Tensor) -> Tensor:
        """Vectors that a latent of 1 adds to a reconstruction: ``[n] -> [n, d_in]``."""
        in_sae = neurons < self.d_sae
        rows = self.W_dec_cb[(neurons - self.d_sae).clamp_min(0)]
        return torch.where(in_sae[:, None], self.sae.W_dec[neurons.clamp_max(self.d_sae - 1)], rows)

    # ------------------------------------------------------------------------------------------- inference

    def encode(self, x: Tensor) -> Tensor:
        """Latents ``[..., d_in] -> [..., d_latent]``; those of concepts are signed, and none is cut off.

        Raises:
            ValueError: See :meth:`SAE.encode`.
        """
        return torch.cat([self.sae.encode(x), self.concept_activations(x)], -1)

    def concept_activations(self, x: Tensor) -> Tensor:
        """``c = (x - b_dec) @ W_enc_cb``, ``[..., d_in] -> [..., concepts]``."""
        return (self.sae.normalized(x) - self.b_dec) @ self.W_enc_cb

    @torch.no_grad()
    def encode_sparse(self, x: Tensor) -> SparseLatents:
        """Latents of :meth:`encode` with only the active ones of the SAE, and all of the concepts.

        Returns:
            ``(values, indices)``, each ``[..., K + concepts]``: what :meth:`SAE.encode_sparse` gives, then the
            concepts in their order, signed.
        """
        active = self.sae.encode_sparse(x)
        concepts = self.concept_activations(x)
        ids = torch.arange(self.d_sae, self.d_latent, device=concepts.device).expand(concepts.shape)
        return SparseLatents(torch.cat([active.values, concepts], -1), torch.cat([active.indices, ids], -1))

    def decode(self, latents: Tensor, like: Tensor | None = None) -> Tensor:
        """Reconstruction ``[..., d_latent] -> [..., d_in]``; of the concepts it reads the ``cb_k`` that count most.

        ``like`` and errors as in :meth:`SAE.decode`.
        """
        z, c = latents.split([self.d_sae, len(self.concepts)], -1)
        return self.sae.decode(z, like) + self.decode_concepts(c, like)

    def decode_sparse(self, values: Tensor, indices: Tensor, like: Tensor | None = None) -> Tensor:
        """:meth:`decode` of ``(values, indices)`` from :meth:`encode_sparse`: ``[..., K + concepts] -> [..., d_in]``.

        Raises:
            ValueError: If they do not end on all concepts in their order, or ``like`` is needed and missing.
        """
        active = values.shape[-1] - len(self.concepts)
        ids = torch.arange(self.d_sae, self.d_latent, device=indices.device)
        if active < 0 or not (indices[..., active:] == ids).all():
            raise ValueError("values and indices must be those of encode_sparse: they end on all concepts in order")
        of_sae = self.sae.decode_sparse(values[..., :active], indices[..., :active], like)
        return of_sae + self.decode_concepts(values[..., active:], like)

    def origin(self, like: Tensor | None = None) -> Tensor:
        """See :meth:`SAE.origin`."""
        return self.sae.origin(like)

    def only_active(self, latents: SparseLatents) -> SparseLatents:
        """The part of :meth:`encode_sparse` that the decoder reads: no concepts but those that it selects."""
        width = latents.values.shape[-1] - len(self.concepts)
        chosen = self._chosen(latents.values[..., width:])
        return SparseLatents(
            torch.cat([latents.values[..., :width], chosen.values], -1),
            torch.cat([latents.indices[..., :width], chosen.indices + self.d_sae], -1),
        )

    def decode_concepts(self, c: Tensor, like: Tensor | None = None) -> Tensor:
        """The bottleneck's part of a reconstruction, ``top_k(c) @ W_dec_cb``: ``[..., concepts] -> [..., d_in]``.

        ``like`` and errors as in :meth:`SAE.decode`.
        """
        return gather_rows(self._chosen(c.to(self.W_dec_cb.dtype)), self.W_dec_cb) * self.sae.unit(like)

    def select_concepts(self, c: Tensor) -> Tensor:
        """``top_k(c)``: concept activations of which all but ``cb_k`` are zero; gradients reach those."""
        values, indices = self._chosen(c)
        return torch.zeros_like(c).scatter(-1, indices, values)

    def _chosen(self, c: Tensor) -> SparseLatents:
        ranked = c.abs() if self.cb_activation == "topk_abs" else c
        indices = ranked.topk(min(self.cb_k, c.shape[-1]), -1).indices
        values = c.gather(-1, indices)
        return SparseLatents(values.relu() if self.cb_activation == "topk_relu" else values, indices)

    def forward(self, x: Tensor) -> SAEOutput:
        """Latents and reconstruction; ``x [..., d_in]`` in raw units."""
        latents = self.encode(x)
        return SAEOutput(latents, self.decode(latents, like=x))

    # ------------------------------------------------------------------------------------ another concept list

    @torch.no_grad()
    def with_concepts(self, more: Iterable[str]) -> "CBSAE":
        """A copy with more concepts at the end, untrained; everything that was there stays bit for bit.

        Raises:
            ValueError: If there is nothing to add, or a name is empty or there already.
        """
        more = checks.concept_names("concepts", more)
        old = len(self.concepts)
        wider = self._with([*self.concepts, *more])
        wider.W_enc_cb[:, :old], wider.W_dec_cb[:old] = self.W_enc_cb, self.W_dec_cb
        return wider

    @torch.no_grad()
    def without_concepts(self, names: Iterable[str]) -> "CBSAE":
        """A copy without some of its concepts; everything else stays bit for bit.

        Raises:
            ValueError: If there is nothing to drop, no such concept, or none would be left.
        """
        dropped = {name_key(name) for name in checks.concept_names("concepts", names)}
        keys = [name_key(name) for name in self.concepts]
        if missing := sorted(dropped.difference(keys)):
            raise ValueError(f"this model has no concept {missing[0]!r:.80}")
        rest = [i for i, key in enumerate(keys) if key not in dropped]
        narrower = self._with([self.concepts[i] for i in rest])
        narrower.W_enc_cb.copy_(self.W_enc_cb[:, rest])
        narrower.W_dec_cb.copy_(self.W_dec_cb[rest])
        return narrower

    def _with(self, concepts: list[str]) -> "CBSAE":
        arguments = self.arguments | {"concepts": concepts, "concepts_sha256": None}
        weights = {name: tensor.clone() for name, tensor in self.sae.state_dict().items()}
        return self._made_of(arguments, weights).train(self.training)


def _without_shared(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in SHARED}


def _names(name: str, names: Sequence[str | None], count: int) -> list[str | None]:
    if isinstance(names, str) or not isinstance(names, Iterable) or len(names := list(names)) != count:
        raise ValueError(f"{name} must be {count} names, one per neuron, None for those without; got {names!r:.80}")
    return [None if one != one else checks.text(name, one) for one in names]  # NaN is what a DataFrame makes of None


def _sha256(sae: SAE) -> str:
    """Hash of all weights, in the order of their names."""
    parts: list[Any] = []
    for name, tensor in sorted(sae.state_dict().items()):
        parts += [name, tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()]
    return sha256(*parts)
