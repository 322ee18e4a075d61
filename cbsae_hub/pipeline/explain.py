"""From an encoder and pictures to a model whose neurons have names, in one process that goes on where it stopped."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from accelerate import Accelerator

from cbsae_hub.cards.write import write_card
from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.collection import Collection, collect_images, require_outside
from cbsae_hub.data.concepts import COMMON, PUBLISHED, ConceptSet
from cbsae_hub.data.embeddings import all_embeddings, extract_embeddings
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.labels import class_names
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.two_towers import has_text_tower
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.formats.load import load
from cbsae_hub.hub.files import claim, content_revision, plain, read_json, read_text, write_json, write_text
from cbsae_hub.hub.locate import locate
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.neurons.chance import telling
from cbsae_hub.neurons.pack import INFO
from cbsae_hub.neurons.pruning import prune
from cbsae_hub.neurons.selection import select_concepts
from cbsae_hub.pipeline.answers import NONSENSE, QUESTION
from cbsae_hub.pipeline.fit import Amount, Effort, fit, fit_bottleneck
from cbsae_hub.pipeline.nonsense import Nonsense, name_nonsense
from cbsae_hub.pipeline.ranking import rank_neurons
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring import NeuronScorer, Scores, Truth
from cbsae_hub.scoring.build_pack import build_pack
from cbsae_hub.scoring.card_pictures import write_pictures
from cbsae_hub.trainers.cbsae.trainer import CBSAETrainer
from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig
from cbsae_hub.trainers.loop import TRAINING_NAME
from cbsae_hub.trainers.run import CHECKPOINT_NAME
from cbsae_hub.trainers.sae.trainer import SAETrainer

logger = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
SUMMARY = "summary.json"
ACTIVATIONS = "activations"
AUTOMATIC, NONE = "auto", "none"
RETAINED = 0.9  # of the neurons, beside a bottleneck
BOTTLENECK_K = 5
LEAST_TOP_IMAGES, MOST_TOP_IMAGES = 5, 100  # 100 is CLIP-Dissect's, of 50,000 images
NO_TEACHER = "wanted concepts need a judge that knows what they look like: give --judge"


@dataclass(frozen=True)
class Question:
    """All that the answer depends on; each attribute is an option of ``cbsae explain``.

    Attributes:
        encoder: Folder or Hub id of the vision encoder.
        images: Pictures, see :func:`cbsae_hub.data.collection.collect_images`.
        layer: Block whose output is explained.
        tokens: Its tokens, see :class:`cbsae_hub.VisionEncoder`.
        split: Split of the pictures.
        judge: Image-text model that names, see :meth:`ClipLike.from_pretrained`; "auto" for the encoder's own text
            tower, if it has one; "none" for neurons without names.
        concepts: Lists of names, see :meth:`ConceptSet.load`; they become one.
        want: Concepts that the model shall have.
        effort: How long to train.
        max_images: Draws so many of the pictures.
        streaming: Takes them from the beginning of a source that is too large to be downloaded.
        strict: Whether a picture that cannot be read is an error.
        seed: Seed of all that is drawn.
    """

    encoder: str
    images: str
    layer: int = -2
    tokens: str = "patches"
    split: str | None = None
    judge: str = AUTOMATIC
    concepts: tuple[str, ...] = (COMMON,)
    want: tuple[str, ...] = ()
    effort: Effort = "normal"
    max_images: int | None = None
    streaming: bool = False
    strict: bool = False
    seed: int = 0

    def from_anywhere(self) -> "Question":
        """The same question in any working directory, and however its paths are written: with whole paths."""
        encoder, images, judge, *concepts = map(_whole, (self.encoder, self.images, self.judge, *self.concepts))
        return replace(self, encoder=encoder, images=images, judge=judge, concepts=tuple(concepts))


def _whole(source: str) -> str:
    by_name = source in (AUTOMATIC, NONE, COMMON, *PUBLISHED)
    return source if by_name or not os.path.exists(source) else os.path.abspath(source)


@dataclass
class Explanation:
    """The work on a question, and its answer in a folder.

    Every step leaves its result in the folder and takes what is there already: images/ (which can be read),
    activations/, embeddings/ (the judge's), sae/ and cbsae/ (models with packs and cards), scores of both,
    recipe.yaml, summary.json. Models are loaded when a step needs them, and only once.

    Args:
        question: What is asked.
        folder: The folder; made if needed.
        device: Device of the models.
        batch_size: Pictures at once.
        accelerator: Processes and devices of the trainings; default one that finds them.

    Raises:
        OtherSettings: If the folder answers another question, or lists of names have changed.
        ValueError: If a list of names is damaged, or the folder lies among the pictures.
        OSError: If a list of names is not there.
    """

    question: Question
    folder: Path
    device: str = "cpu"
    batch_size: int = 64
    accelerator: Accelerator = field(default_factory=lambda: make_accelerator(alone=True))

    def __post_init__(self) -> None:
        self.question = self.question.from_anywhere()
        names = "\n".join(name for source in self.question.concepts for name in ConceptSet.load(source))
        require_outside(self.question.images, self.folder)
        if not (self.folder / ACTIVATIONS).is_dir():  # a question that failed before any work was done binds nobody
            (self.folder / QUESTION).unlink(missing_ok=True)
        claim(self.folder, {**vars(self.question), "names in the concepts": content_revision(names)}, QUESTION)

    @cached_property
    def collection(self) -> Collection:
        """The pictures, all of which can be read."""
        names = "split", "max_images", "streaming", "strict", "seed"
        options = {name: getattr(self.question, name) for name in names}
        return collect_images(self.question.images, self.folder / "images", **options)

    @cached_property
    def encoder(self) -> VisionEncoder:
        """The encoder."""
        question = self.question
        return VisionEncoder.from_pretrained(question.encoder, question.layer, question.tokens, device=self.device)

    @cached_property
    def judge(self) -> ClipLike | None:
        """The judge of names, if there is one."""
        judge = self.question.judge
        if judge == AUTOMATIC:
            own = self.encoder.repo_id or self.question.encoder
            judge = own if has_text_tower(locate(own)) else NONE
        return None if judge == NONE else ClipLike.from_pretrained(judge, device=self.device)

    @cached_property
    def truth(self) -> Truth:
        """The labels that the pictures come with."""
        return Truth.read(self.collection.images, {column: column for column in self.collection.labels})

    @cached_property
    def concepts(self) -> ConceptSet:
        """The names to choose from: labels, wanted ones, and the lists."""
        labels = [name for column in self.collection.labels for name in self._classes(column)]
        lists = [list(ConceptSet.load(source)) for source in self.question.concepts]
        return ConceptSet([*labels, *self.question.want, *(name for names in lists for name in names)], "concepts")

    def _classes(self, column: str) -> Sequence[str]:
        names = class_names(self.collection.images, column)
        return names or sorted({label for kind, label in self.truth.labels if kind == column})

    @cached_property
    def store(self) -> ActivationStore:
        """Activations of the pictures."""
        return extract_activations(
            self.encoder,
            self.collection.images,
            self.folder / ACTIVATIONS,
            source=self.collection.source,
            batch_size=self.batch_size,
            seed=self.question.seed,
            accelerator=self.accelerator,
        )

    @cached_property
    def judged(self) -> ActivationStore | None:
        """Embeddings of the pictures by the judge, if there is one."""
        if self.judge is None:
            return None
        options = {"accelerator": self.accelerator, "batch_size": self.batch_size}
        folder, source = self.folder / "embeddings", self.collection.source
        return extract_embeddings(self.judge, self.collection.images, folder, source=source, **options)

    @cached_property
    def embeddings(self) -> torch.Tensor | None:
        """The same in memory, ``[images, d]``."""
        return None if self.judged is None else all_embeddings(self.judged)

    @property
    def top_k(self) -> int:
        """Pictures that a neuron is named by: one in a hundred."""
        return min(max(LEAST_TOP_IMAGES, len(self.collection.images) // 100), MOST_TOP_IMAGES)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The settings of all steps, as single commands take them; those that are in the folder, if any are."""
        path = self.folder / RECIPE
        if path.is_file():
            return yaml.safe_load(read_text(path))
        question, place = self.question, lambda name: str(self.folder.resolve() / name)
        amount = Amount(len(self.collection.images), self.encoder.tokens_per_image, self.encoder.d_in)
        images = {"images": place("images"), "split": self.collection.source["split"]}
        recipe: dict[str, Any] = {
            "activations": {"encoder": question.encoder, "layer": question.layer, "tokens": question.tokens, **images,
                            "batch_size": self.batch_size, "seed": question.seed, "output": place(ACTIVATIONS)},
            "sae": {"activations": place(ACTIVATIONS), "output": place("sae"), "seed": question.seed,
                    **fit(amount, question.effort)},
        }  # fmt: skip
        if self.judge is not None:
            write_text(self.folder / "concepts.txt", "\n".join(self.concepts) + "\n")
            recipe["scores"] = {"model": place("sae"), "judge": self.judge.repo_id, **images,
                                "concepts": {"concepts": place("concepts.txt")},
                                "truth": {column: column for column in self.collection.labels},
                                "top_k": self.top_k, "output": place("scores")}  # fmt: skip
        write_text(path, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
        return recipe

    def train(self) -> SAE:
        """Trains the SAE, or goes on with it."""
        output = self.folder / "sae"
        if not (output / TRAINING_NAME).is_file():
            section = self.recipe["sae"]
            config = SAETrainConfig.from_dict({k: v for k, v in section.items() if k not in ("activations", "output")})
            train, heldout = self.store.holdout(config.heldout_fraction, config.seed)
            trainer = SAETrainer(config, train, heldout, output, accelerator=self.accelerator)
            trainer.train(resume=(output / CHECKPOINT_NAME).is_file())
        return SAE.from_pretrained(output)

    def measure(self, model: SAE | CBSAE) -> Scores:
        """Scores the neurons of a model; no file is written."""
        sets = {} if self.judge is None else {"concepts": self.concepts}
        scorer = NeuronScorer(model, self.encoder, self.judge, sets, truth=self.truth, top_k=self.top_k)
        scorer.run_stored(self.store, self.embeddings, self.batch_size)
        return scorer.results()

    def score(self, model: SAE | CBSAE, name: str) -> Scores:
        """Scores the neurons of the model in folder ``name``, and builds its pack."""
        folder, output = self.folder / f"{name}-scores", self.folder / name
        if (folder / "scores.json").is_file():
            scores = Scores.load(folder)
        else:
            scores = self.measure(model)
            scores.save(folder, n_images=len(self.collection.images))
        if not (output / INFO).is_file():
            build_pack(
                scores, model, self.encoder, self.collection.images, output,
                source={"id": f"{self.folder.name}/images", "split": self.collection.source["split"]},
                alt_column=self.collection.captions, batch_size=self.batch_size, store=self.store,
            )  # fmt: skip
            write_pictures(output)
            write_card(output)
        return scores

    def nonsense(self, model: SAE | CBSAE) -> Nonsense | None:
        """The names that neurons of an SAE get which has learnt nothing; None without a judge."""
        path = self.folder / NONSENSE
        if self.judge is None or self.embeddings is None:
            return None
        if not path.is_file():
            texts = self.judge.embed_texts(list(self.concepts))
            write_json(path, vars(name_nonsense(model, self.store, self.embeddings, texts, self.top_k)))
        return Nonsense(**read_json(path))

    def add_wanted(self, sae: SAE, scores: Scores, nonsense: Nonsense | None) -> pd.DataFrame | None:
        """Trains concept neurons for what is wanted and no neuron stands for.

        A neuron stands for a concept if it may be shown for it: it is specific, and its name is better than chance and
        than nonsense.

        Returns:
            The report of :func:`cbsae_hub.neurons.selection.select_concepts`, and of concept neurons, whether the
            concept is the best name of their pictures, or among the five best; None if nothing is wanted.

        Raises:
            ValueError: If there is no judge, who is the teacher.
        """
        if not self.question.want:
            return None
        if self.judge is None or self.judged is None:
            raise ValueError(NO_TEACHER)
        output, frame = self.folder / "cbsae", scores.neurons
        pruned = prune(frame, "interpretability", share=RETAINED)
        standing = telling(frame, None if nonsense is None else nonsense.score)["neuron"]
        trusted = frame.assign(name=frame["name"].where(frame["neuron"].isin(standing)))
        missing, report = select_concepts(self.question.want, trusted, pruned.keep)
        if not missing:
            logger.info("all wanted concepts are neurons already: no bottleneck is needed")
        elif not (output / TRAINING_NAME).is_file():
            seed, names = self.question.seed, frame["name"].where(frame["name"].notna(), None).tolist()
            cb = CBSAE.from_sae(
                sae, pruned.keep, missing, min(BOTTLENECK_K, len(missing)), names=names, pruning=pruned.settings,
                seed=seed,
            )  # fmt: skip
            amount = Amount(len(self.collection.images), self.encoder.tokens_per_image, self.encoder.d_in)
            config = CBSAETrainConfig.from_dict({**fit_bottleneck(amount, self.question.effort), "seed": seed})
            train, heldout = self.store.holdout(config.heldout_fraction, config.seed)
            texts = self.judge.embed_texts(cb.concepts)
            trainer = CBSAETrainer(config, cb, train, heldout, self.judged, texts, output, accelerator=self.accelerator)
            trainer.train(resume=(output / CHECKPOINT_NAME).is_file())
        if not missing:
            return report
        trained = self.score(load(output), "cbsae").neurons.dropna(subset="designated").set_index("designated")
        return report.join(trained[["designated_first", "designated_among_five"]], on="concept")

    def answer(self) -> dict[str, Any]:
        """Does all that is left to do; returns the summary, which is also in summary.json."""
        if self.judge is None and self.question.want:  # before the work is done
            raise ValueError(NO_TEACHER)
        logger.info(
            "%d pictures, %d left out; encoder %s on %s, %s, %d process",
            len(self.collection.images),
            len(self.collection.unreadable),
            self.question.encoder,
            self.device,
            f"judge {self.judge.repo_id}" if self.judge else "no judge: neurons get no names",
            self.accelerator.num_processes,
        )
        sae = self.train()
        scores = self.score(sae, "sae")
        nonsense = self.nonsense(sae)
        report = self.add_wanted(sae, scores, nonsense)
        summary = plain(self.summary(scores, nonsense, report))
        write_json(self.folder / SUMMARY, summary)
        return summary

    def summary(self, scores: Scores, nonsense: Nonsense | None, report: pd.DataFrame | None) -> dict[str, Any]:
        """The figures that a person looks at first."""
        frame, figures = scores.neurons, scores.summary
        training = read_json(self.folder / "sae" / TRAINING_NAME)
        summary = {
            "question": vars(self.question),
            "images": len(self.collection.images),
            "unreadable": len(self.collection.unreadable),
            "labels": list(self.collection.labels),
            "neurons": len(frame),
            "explained_variance": training["heldout"]["explained_variance"],
            "l0": figures["reconstruction"]["l0"],
            "dead": int((frame["status"] == "dead").sum()),
            "judge": figures["judge"],
            "truth": figures.get("truth"),
            "wanted": None if report is None else report.to_dict("records"),
            **rank_neurons(frame, len(self.collection.images), nonsense),
        }
        names = frame.set_index("neuron")["name"]
        for rank in ("best", "worst"):
            summary[f"{rank}_names"] = [names[neuron] or f"#{neuron}" for neuron in summary[rank]]
        return summary
