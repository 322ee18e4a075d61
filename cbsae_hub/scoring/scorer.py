"""One pass over images through encoder, SAE and judge, into every metric at once."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.data.images import image_batches
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.explained import explained_encoder
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.formats.load import load
from cbsae_hub.metrics import (
    ActiveLatents,
    CommonAncestorDepth,
    Dissector,
    DownstreamCost,
    GroundTruth,
    HierarchyScore,
    MonosemanticityScore,
    NeuronActivity,
    Reconstruction,
    SpatialCoherence,
    Uniqueness,
    mean_over_tokens,
    redundancy,
)
from cbsae_hub.metrics.streaming import StreamingMetric
from cbsae_hub.models import CBSAE, SAE, SparseLatents
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.processes import claimed
from cbsae_hub.scoring import checkpoint as checkpoints
from cbsae_hub.scoring.examples import choose_examples
from cbsae_hub.scoring.report import Measurements, label_table, neuron_table, origin_of, summary_of
from cbsae_hub.scoring.scores import Scores
from cbsae_hub.scoring.similarity import ImageEmbedder, OwnActivations, image_model
from cbsae_hub.scoring.truth import Truth
from cbsae_hub.steering.latents import decoder_rows
from cbsae_hub.words import name_key

NAMES = 5
CHECKPOINT_EVERY = 100  # batches


class Observation(NamedTuple):
    """Activations and embeddings of a batch of images, which do not depend on the SAE."""

    activations: Tensor
    """``[images, all tokens, d_in]``, the output of the block that the SAE explains."""
    embeddings: Tensor
    """``[images, d]``, of the judge of names."""
    similarity: Tensor
    """``[images, e]``, of the judge of MonoSemanticity."""


class NeuronScorer:
    """Scores of all neurons of an SAE or concept bottleneck SAE, over a stream of batches.

    Args:
        sae: The model.
        encoder: The encoder that it explains, with the SAE's layer and tokens.
        judge: Embeds images and concepts for CLIP-Dissect. None, together with no concepts, leaves neurons unnamed.
        concepts: Concept sets by name; the first one names the neurons, coverage is reported of all.
        similarity: ``images -> [images, d]``, the judge of MonoSemanticity; default the embeddings of ``judge``, or
            without one :class:`OwnActivations`.
        truth: Labels of the images. With it, even without labels, all image-level latents are kept.
        tree: Kinds of the labels of the first kind of truth; with it the generality of neurons is measured.
        zero_shot: Classifies embeddings of the encoder into ``truth.classes()``: then the downstream cost is measured,
            which takes two more passes through the encoder.
        top_k: Images that a neuron is named by. CLIP-Dissect's 100 suits 50,000 images; with fewer, a concept may be
            on fewer images than that, and most of a neuron's would be images on which it is silent.

    Attributes:
        metrics: The streaming metrics, by name.

    Raises:
        ValueError: If the encoder does not fit the SAE, there is no concept set, or ``zero_shot`` or ``tree`` come
            without truth.
    """

    def __init__(
        self,
        sae: SAE | CBSAE,
        encoder: VisionEncoder,
        judge: ClipLike | None,
        concepts: Mapping[str, ConceptSet],
        *,
        similarity: Callable[[list[Image.Image]], Tensor] | None = None,
        truth: Truth | None = None,
        tree: ConceptTree | None = None,
        zero_shot: ZeroShotHead | None = None,
        top_k: int = 100,
    ):
        if encoder.d_in != sae.d_in:
            raise ValueError(f"the encoder gives activations of width {encoder.d_in}, the SAE wants {sae.d_in}")
        if judge is not None and not concepts:
            raise ValueError("there is no concept set to name neurons with")
        if judge is None and concepts:
            raise ValueError("concept sets are compared with images by a judge: give one, or no concepts")
        if (zero_shot is not None or tree is not None) and (truth is None or not truth.labels):
            raise ValueError("zero_shot and tree need truth: the classes are its labels")
        if zero_shot is not None:
            encoder.require_embedding()
        self.sae, self.encoder, self.judge, self.concepts = sae, encoder, judge, dict(concepts)
        self.similarity, self.truth, self.zero_shot, self.top_k = similarity, truth, zero_shot, top_k
        self.texts, self.names = {}, None
        if judge is not None:
            self.texts = {name: judge.embed_texts(list(names)) for name, names in self.concepts.items()}
            self.names = Dissector(sae.d_latent, self.texts, top_k=top_k, count_silent=False)
        elif similarity is None:
            self.similarity = OwnActivations(encoder)
        self.monosemanticity = MonosemanticityScore(sae.d_latent, self._similarity_width())
        self.uniqueness = Uniqueness(sae.d_latent)
        self.ground_truth = None if truth is None else GroundTruth(sae.d_latent)
        self.metrics: dict[str, StreamingMetric] = {
            "activity": NeuronActivity(sae.d_latent),
            "reconstruction": Reconstruction(sae.d_in),
            "active": ActiveLatents(sae.d_latent, encoder.tokens_per_image),
            "monosemanticity": self.monosemanticity,
            "uniqueness": self.uniqueness,
        }
        if encoder.patch_rows is not None:
            self.metrics["spatial"] = SpatialCoherence(sae.d_latent, encoder.grid)
        if self.names is not None:
            self.metrics["names"] = self.names
        if truth is not None and self.ground_truth is not None:
            self.metrics["truth"] = self.ground_truth
            classes, targets = truth.classes()
            self._targets = torch.from_numpy(targets)
        if tree is not None:
            self.metrics["kinds"] = HierarchyScore(sae.d_latent, tree, classes)
            self.metrics["ancestor_depth"] = CommonAncestorDepth(sae.d_latent, tree, classes)
        if zero_shot is not None:
            self.metrics["downstream"] = DownstreamCost()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        images: ImageDataset,
        *,
        judge: str | None = None,
        concepts: Mapping[str, str] | None = None,
        similarity: str | None = None,
        truth: Mapping[str, str] | None = None,
        tree: str | None = None,
        zero_shot: Sequence[str] | None = None,
        encoder: str | None = None,
        top_k: int = 100,
        device: str | torch.device = "cpu",
    ) -> "NeuronScorer":
        """Loads everything by id.

        Args:
            model: Folder or Hub id of the SAE.
            images: The dataset that will be scored: the truth is read from it.
            judge: Folder or Hub id of the judge of CLIP-Dissect, see :meth:`ClipLike.from_pretrained`; None, together
                with no concepts, leaves neurons without names.
            concepts: Name to file, or to the name of a list ("common", "broden" ...), see :meth:`ConceptSet.load`.
            similarity: Likewise of the judge of MonoSemanticity, see :func:`image_model`; default ``judge``.
            truth: See :attr:`Truth.families`; none for images without labels.
            tree: File of a :class:`ConceptTree`.
            zero_shot: Templates with which the encoder's text tower names the classes; none for no downstream cost.
            encoder: Encoder instead of the one that the SAE's config names.
            top_k: See the class.
            device: Device of the models.

        Raises:
            ValueError: See the class and the models.
            OSError: If something is missing.
        """
        sae = load(model).to(device)
        labels = None if truth is None else Truth.read(images, truth)
        head = None
        if zero_shot:
            classes, source = labels.classes()[0] if labels else [], encoder or sae.encoder_id
            head = ZeroShotHead.from_pretrained(source, classes, zero_shot, sae.encoder_revision, beside=model)
        return cls(
            sae,
            explained_encoder(sae, encoder, device, beside=model),
            ClipLike.from_pretrained(judge, device=device, beside=model) if judge else None,
            {name: ConceptSet.load(source) for name, source in (concepts or {}).items()},
            similarity=ImageEmbedder(image_model(similarity, device, beside=model)) if similarity else None,
            truth=labels,
            tree=ConceptTree.load(tree) if tree else None,
            zero_shot=head,
            top_k=top_k,
        )

    def _similarity_width(self) -> int:
        if self.similarity is None:
            return next(iter(self.texts.values())).shape[1]
        return self.similarity([Image.new("RGB", (64, 64))]).shape[1]

    def run(
        self,
        images: ImageDataset,
        batch_size: int = 64,
        accelerator: Accelerator | None = None,
        checkpoint: Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Scores a dataset; each process takes every so many-th batch, and the results merge when they are read.

        Args:
            images: Map-style dataset with a column ``image``.
            batch_size: Images a forward pass.
            accelerator: The accelerator of several processes.
            checkpoint: Folder to save the sums in every hundred batches, and to go on from; one file a process.
            settings: Settings that decide the sums, besides the number of images; a checkpoint of others is refused.

        Raises:
            ValueError: If there are no images, one cannot be read, activations are not finite, or the checkpoint is
                one of another run.
            FolderInUse: If another run saves its sums there.
        """
        if not len(images):
            raise ValueError("there are no probe images")
        rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
        identity = {**(settings or {}), "images": len(images), "batch_size": batch_size, "processes": world}
        with claimed(checkpoint, accelerator) if checkpoint else nullcontext():
            file = checkpoint / f"process-{rank}.safetensors" if checkpoint else None
            self._read(images, batch_size, rank, world, file, identity)
            if accelerator:
                accelerator.wait_for_everyone()  # nobody needs the folder any more

    def _read(
        self,
        images: ImageDataset,
        batch_size: int,
        rank: int,
        world: int,
        file: Path | None,
        identity: Mapping[str, Any],
    ) -> None:
        """Adds this process's batches, from where its checkpoint is."""
        batch = checkpoints.load(file, self.metrics, identity) if file else 0
        total = len(range(rank, -(-len(images) // batch_size), world))
        batches = image_batches(images, batch_size, rank + batch * world, world)
        for ids, pictures in tqdm(batches, initial=batch, total=total, desc="score", unit="batch", disable=rank != 0):
            self.update(torch.tensor(ids), pictures)
            batch += 1
            if file and (batch % CHECKPOINT_EVERY == 0 or batch == total):
                checkpoints.save(file, self.metrics, identity, batch)

    def run_stored(
        self,
        store: ActivationStore,
        embeddings: Tensor | None = None,
        batch_size: int = 64,
        similarity: Tensor | None = None,
    ) -> None:
        """Scores images whose activations and embeddings are there already; no model runs.

        Args:
            store: Activations of all images, of the tokens that are scored.
            embeddings: ``[images, d]``, unit, of the judge, or where there is none of ``similarity``; None for those
                that the activations give.
            batch_size: Images at once.
            similarity: ``[images, e]``, unit, of ``similarity`` where there is a judge of names, too.

        Raises:
            ValueError: If the scorer needs what is not stored, or the store is of other activations.
        """
        two_judges = self.names is not None and self.similarity is not None
        if self.zero_shot is not None or (two_judges and similarity is None):
            raise ValueError("the downstream cost, and a second judge without its embeddings, need the images: use run")
        if similarity is not None and not two_judges:
            raise ValueError("embeddings of a second judge were given, and there is none: make the scorer with one")
        if (store.d_in, store.tokens_per_image) != (self.encoder.d_in, self.encoder.tokens_per_image):
            raise ValueError(f"{store.folder} has activations of other tokens than the encoder's")
        total = -(-store.num_images // batch_size)
        batches = store.of_images(range(store.num_images), batch_size)
        for ids, v in tqdm(batches, total=total, desc="score", unit="batch"):
            numbers = torch.tensor(ids)
            own = OwnActivations.of_tokens(v) if embeddings is None else embeddings[numbers].float()
            alike = own if similarity is None else similarity[numbers].float()
            self._add(numbers, v.to(self.sae.b_dec.device), own, alike)

    def update(self, ids: Tensor, pictures: list[Image.Image]) -> None:
        """Adds a batch of images and their ids, rows of ``truth``."""
        self.add(ids, self.observe(pictures))

    @torch.no_grad()
    def observe(self, pictures: list[Image.Image]) -> Observation:
        """Runs encoder and judges on images."""
        pixels = self.encoder.pixel_values(pictures)
        activations = self.encoder.site.read(lambda: self.encoder.model(pixels))
        judges = [self.judge.embed_images if self.judge else None, self.similarity]
        embeddings = [embed(pictures) for embed in judges if embed is not None]
        return Observation(activations, embeddings[0], embeddings[-1])

    @torch.no_grad()
    def add(self, ids: Tensor, observation: Observation) -> None:
        """Adds an observation of a batch of images, and their ids.

        Raises:
            ValueError: If activations are not finite.
        """
        v = self.encoder.select(observation.activations.float(), ids.tolist())
        self._add(ids, v, observation.embeddings, observation.similarity)
        if self.zero_shot is not None:
            logits = self._conditions(self.zero_shot, observation.activations)
            self.metrics["downstream"].update(self._targets[ids], **logits)

    @torch.no_grad()
    def _add(self, ids: Tensor, v: Tensor, embeddings: Tensor, similarity: Tensor) -> None:
        """Adds the activations of some images, ``[images, tokens, d_in]``, and what the judges see of them."""
        if not (finite := v.isfinite().flatten(1).all(1)).all():
            raise ValueError(f"the encoder's activations of image {int(ids[~finite.cpu()][0])} are NaN or infinite")
        values, owners = self.sae.encode_sparse(v)
        active = SparseLatents(*(part.cpu() for part in self.sae.only_active(SparseLatents(values, owners))))
        count = (active.values != 0).sum(-1)
        decoded = self.sae.decode_sparse(values, owners, like=v).cpu()
        v, values, owners = v.cpu(), values.cpu(), owners.cpu()  # the metrics' device
        latents = mean_over_tokens(values, owners, self.sae.d_latent, signed_from=self.sae.d_sae)
        metrics = self.metrics
        metrics["activity"].update(active.values.flatten(0, 1), active.indices.flatten(0, 1))
        metrics["active"].update(count)
        if "spatial" in metrics:
            patches = self.encoder.patch_rows
            metrics["spatial"].update(active.values[:, patches], active.indices[:, patches])
        metrics["reconstruction"].update(v.flatten(0, 1), decoded.flatten(0, 1), count.flatten())
        if "names" in metrics:
            metrics["names"].update(latents, embeddings, ids)
        metrics["monosemanticity"].update(latents, similarity)
        metrics["uniqueness"].update(latents, ids)
        if self.truth is not None:
            labels = torch.from_numpy(self.truth.matrix[ids.numpy()])
            metrics["truth"].update(latents, labels, ids)
            if "kinds" in metrics:
                own = labels[:, self.truth.columns(next(iter(self.truth.families)))]
                metrics["kinds"].update(latents, own)
                metrics["ancestor_depth"].update(latents, own, ids)

    def _conditions(self, head: ZeroShotHead, v: Tensor) -> dict[str, Tensor]:
        """Zero-shot logits with the activations as they are, reconstructed, and zero at the SAE's tokens."""
        edits = {
            "original": lambda v: v,
            "reconstructed": lambda v: self.sae(v.float()).reconstruction,
            "zeroed": torch.zeros_like,
        }
        embeddings = {name: self.encoder.embed_from(self.encoder.on_tokens(edit)(v)) for name, edit in edits.items()}
        return {name: head(e).cpu() for name, e in embeddings.items()}

    def latents(self) -> sparse.csc_matrix:
        """Image-level latents of all images of all processes, ``[images, neurons]``, by id.

        Raises:
            ValueError: If the scorer was made without ``truth``: they are kept for its sake.
        """
        if self.ground_truth is None:
            raise ValueError("latents are kept only with truth; if nothing is known, give Truth.read(images, {})")
        with self.ground_truth.sync_context():
            return self.ground_truth.whole()[0]

    def judge_embeddings(self) -> Tensor:
        """The judge's embeddings of all images of all processes, ``[images, d]``, by id.

        Raises:
            ValueError: If there is no judge, or there were no images.
        """
        if self.names is None:
            raise ValueError("there is no judge of names, and so there are no embeddings of it")
        with self.names.sync_context():
            return self.names.image_embeddings()

    def _trained_for(self) -> Tensor:
        """The place in the vocabulary of the concept that each neuron was trained for, -1 for none, ``[neurons]``."""
        trained = getattr(self.sae, "concepts", [])
        place = {name_key(name): i for i, name in enumerate(next(iter(self.concepts.values())))}
        return torch.tensor([-1] * self.sae.d_sae + [place.get(name_key(name), -1) for name in trained])

    def results(self) -> Scores:
        """All scores of the images so far, on every process; with examples, if there is truth."""
        metrics = self.metrics
        measured = Measurements(
            naming={} if self.names is None else self.names.name_by_set(NAMES, own=self._trained_for()),
            density=self.uniqueness.density(),
            population=self.monosemanticity.population(),
            redundancy=redundancy(decoder_rows(self.sae, range(self.sae.d_latent))).cpu(),
            **{name: metrics[name].compute() for name in metrics if name != "names"},
        )
        concepts = getattr(self.sae, "concepts", [])
        neurons = neuron_table(measured, self.sae.group_of.cpu().numpy(), self.concepts, self.truth, concepts)
        sae, vocabulary = self.sae, next(iter(self.concepts.values()), None)
        facts = {
            "model": {"class": type(sae).__name__, "d_in": sae.d_in, "d_sae": sae.d_sae, "concepts": len(concepts),
                      "activation": sae.activation, "k": sae.k, "group_sizes": sae.group_sizes,
                      "revision": sae.revision},
            "encoder": self.encoder.provenance(),
            "judge": origin_of(self.judge) or {"id": None, "revision": None},
            "naming": {"method": "soft_wpmi", "top_k": self.top_k, "count_silent": False, "pool": "mean"},
            "concepts": {"name": None, "sha256": None, "names": []},
        }  # fmt: skip
        if vocabulary is None:
            facts["naming"] = {"method": None}
        else:
            facts["concepts"] = {"name": vocabulary.name, "sha256": vocabulary.sha256, "names": list(vocabulary)}
        grid = None if self.encoder.patch_rows is None else self.encoder.grid
        summary = {**facts, **summary_of(measured, neurons, self.concepts, self.truth, grid)}
        summary["monosemanticity"] = {"judge": origin_of(self.similarity or self.judge), **summary["monosemanticity"]}
        examples = None if self.truth is None else choose_examples(self.latents())
        texts = next((part.numpy() for part in self.texts.values()), np.zeros((0, 1))).astype(np.float16)
        return Scores(neurons, label_table(measured.truth, self.truth), summary, examples, texts)
