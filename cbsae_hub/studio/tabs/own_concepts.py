"""The tab "Your concepts": which of them the model has, and neurons for those it lacks, trained while one looks."""

import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from cbsae_hub.hub.files import sha256
from cbsae_hub.neurons.search import Match
from cbsae_hub.neurons.verdicts import STRONG
from cbsae_hub.steering.tower import Stopped
from cbsae_hub.studio.links import MAX_CONCEPTS, MAX_LETTERS, MAX_WORDS, Link, as_text
from cbsae_hub.studio.server import downloads
from cbsae_hub.studio.server.concept_training import ConceptTraining
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import REFUSALS, Refused, kindly
from cbsae_hub.studio.server.session import LOOKUP, PRIVATE, SessionState
from cbsae_hub.studio.tabs.tab import Tab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.templates import template
from cbsae_hub.words import clean_name, name_key, same_name, words_of

logger = logging.getLogger(__name__)

SEPARATORS = re.compile(r"[\n,;，、；،؛]")  # the last ones are Chinese and Arabic
LOOK = 0.25  # seconds between two looks at how far the training is
_TEMPLATE = template("own_concepts")
_EMPTY = html.PIECES.empty(
    "Type concepts that matter to you. The page says which neurons stand for them already; for the others it trains "
    "concept neurons beside the model, on the pictures that its neurons were named with, in about half a minute. They "
    "are yours alone, work in all tabs at once, and can be downloaded."
)
_WEAK = "A neuron is called so, but is weak: tick “Train it anyway” for one of your own."
_NOTHING = "All of them are there: nothing is to be trained."
_FAILED = "Something went wrong; the model stays as it was. The log says what."
_STOPPED = "Stopped before it began: nothing was trained."


class OwnConceptsTab(Tab):
    """Check, train, use, download; nobody else's page changes.

    Args:
        training: Trains concepts.

    Attributes:
        training_outputs: The components that :meth:`add` sets.
    """

    def __init__(self, session: SessionState, training: ConceptTraining):
        super().__init__(session)
        self.training = training

    def render(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.words = gr.Textbox(
                    label="Your concepts", lines=6, max_length=MAX_WORDS, elem_id="own-words",
                    placeholder="one a line, or with commas between them:\nspiral\nchess piece",
                    info=f"at most {MAX_CONCEPTS}, each of at most {MAX_LETTERS} letters",
                )  # fmt: skip
                with gr.Row():
                    self.check = gr.Button("Check", elem_id="own-check", min_width=80)
                    self.train = gr.Button("Train missing ones", variant="primary", elem_id="own-train", min_width=170)
                    self.stop = gr.Button("Stop", variant="stop", elem_id="own-stop", min_width=80)
                self.anyway = gr.Checkbox(
                    False, label="Train it anyway: also what a neuron of the SAE is called", elem_id="own-anyway"
                )
                self.download = gr.HTML("", elem_id="own-download", min_height=0)
            with gr.Column(scale=7, min_width=280):
                self.progress = gr.HTML("", elem_id="own-progress", min_height=44)
                self.report = self.session.card(_EMPTY, "own-report")
        self.outputs = [self.words, self.anyway, self.progress, self.download]
        self.parts = {"words": self.words, "anyway": self.anyway}
        self.training_outputs = [self.progress, self.report, self.download, self.session.model]
        self.check.click(self.which, [self.session.model, self.words], self.report, **LOOKUP)
        self.stop.click(self.session.stop_job, None, None, queue=False, **PRIVATE)

    @kindly
    def which(self, key: Any, words: Any) -> str:
        """Returns which neuron stands for each concept."""
        return _result(key, words, report(self.session.model_of(key), concepts_of(words)))

    @kindly
    def add(self, request: gr.Request, key: Any, words: Any, anyway: Any) -> Iterator[list[Any]]:
        """Trains the missing ones, or ``anyway`` all without a concept neuron; yields progress, then the new model."""
        model, concepts = self.session.model_of(key), concepts_of(words)
        matches = located(model, concepts)
        missing = [name for name, match in matches if match is None or (anyway and not _is_own(model, match))]
        if not missing:
            weak = any(match and match.verdict != STRONG and not _is_own(model, match) for _, match in matches)
            answer = report(model, concepts, _WEAK if weak else _NOTHING)
            yield ["", _result(key, words, answer), gr.skip(), gr.skip()]
            return
        progress, start = (0.0, "starting"), time.perf_counter()

        def report_progress(share: float, text: str) -> None:
            nonlocal progress
            progress = share, text

        with self.session.serving.jobs.of(request.session_hash) as stop:
            training = _in_background(lambda: self.training.add(model, missing, report_progress, stop))
            while not wait([training], LOOK).done:
                yield [html.PIECES.progress(*progress), gr.skip(), gr.skip(), gr.skip()]
        try:
            extended = training.result()
        except (*REFUSALS, ValueError) as error:
            message = _TEMPLATE.alert(str(error))
        except Stopped:
            message = _TEMPLATE.hint(_STOPPED)
        except Exception:
            logger.exception("concepts could not be added")
            message = _TEMPLATE.alert(_FAILED)
        else:
            early = " Stopped early: the neurons are as good as they were by then." if stop() else ""
            count = f"{len(missing)} concept{'s' if len(missing) > 1 else ''}"
            seconds = time.perf_counter() - start
            text = f"{count} added in {seconds:.0f} s.{early}{_failures(extended, missing)}"
            answer = _result(extended.key, words, report(extended, concepts))
            yield [html.PIECES.progress(1.0, text), answer, _download(extended), extended.key]
            return
        yield [message, gr.skip(), gr.skip(), gr.skip()]

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link; the report stays, marked if the model is another."""
        if not new:
            return [link.words, link.anyway, gr.skip(), gr.skip()]
        return [link.words, link.anyway, "", _download(model) if model.own else ""]


def _result(key: Any, words: Any, content: Markup) -> Markup:
    return html.result(content, {"m": as_text("m", key), "words": as_text("words", words)}, "own-check")


def _download(model: LoadedModel) -> Markup:
    return html.PIECES.download("Download your model", downloads.address(archive(model)))


def _in_background(work: Callable[[], LoadedModel]) -> "Future[LoadedModel]":
    """Begins work in a thread of its own, which does not keep the page from ending."""
    future: Future[LoadedModel] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # handed on to the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def concepts_of(words: Any) -> list[str]:
    """Returns the concepts of a text, each once.

    Raises:
        Refused: If there are none, too many, or one is too long or no word at all.
    """
    parts = map(clean_name, SEPARATORS.split(str(words or "")))
    concepts = list({name_key(part): part for part in parts if part}.values())
    if not concepts:
        raise Refused("Type a concept or two, one a line.")
    if len(concepts) > MAX_CONCEPTS:
        raise Refused(f"These are {len(concepts)} concepts; at most {MAX_CONCEPTS} can be added at once.")
    for name in concepts:
        if len(name) > MAX_LETTERS or not words_of(name):
            raise Refused(f"“{name[:MAX_LETTERS]}” is no concept of at most {MAX_LETTERS} letters.")
    return concepts


def located(model: LoadedModel, concepts: list[str]) -> list[tuple[str, Match | None]]:
    """Returns the neuron of each concept: of the bottleneck, else the best SAE neuron of that name."""
    return [(concept, _match(model, concept)) for concept in concepts]


def _match(model: LoadedModel, concept: str) -> Match | None:
    matches = model.pack.neurons.index.find(concept)
    same = [match for match in matches if same_name(match.concept, concept)]
    of_bottleneck = [match for match in same if _is_own(model, match)]
    of_sae = [match for match in same if match.rank == 0 and model.pack.neurons[match.neuron].kind != "cb"]
    return next(iter(of_bottleneck + of_sae), None)


def _is_own(model: LoadedModel, match: Match) -> bool:
    """Returns whether a neuron was trained for the concept that it matches."""
    row = model.pack.neurons[match.neuron]
    return row.kind == "cb" and same_name(row.designated, match.concept)


def report(model: LoadedModel, concepts: list[str], note: str = "") -> Markup:
    """Returns the neuron of each concept, how well it stands for the concept, and buttons."""
    rows = [_row(model, concept, match) for concept, match in located(model, concepts)]
    return _TEMPLATE.report(rows, note)


def _row(model: LoadedModel, concept: str, match: Match | None) -> dict[str, Any]:
    if match is None:
        return {"concept": concept, "neuron": None}
    return {
        "concept": concept,
        "neuron": match.neuron,
        "trained": _is_own(model, match),
        "sign": html.VERDICTS[match.verdict],
        "verdict": match.verdict,
        "reason": match.reason,
        "icon": model.icon(match.neuron),
        "title": html.neuron_title(model.pack.neurons[match.neuron]),
    }


def _failures(model: LoadedModel, concepts: list[str]) -> str:
    """Returns a sentence about concepts whose neurons do not stand for them, although they were trained."""
    weak = [name for name, match in located(model, concepts) if match is None or match.verdict != STRONG]
    if not weak:
        return ""
    names = ", ".join(f"“{name}”" for name in weak)
    return f" Not surely learned: {names}. The table says why."


def archive(model: LoadedModel) -> Path:
    """Zips the model, as its folder on the Hub would be, into a file whose name nobody guesses."""
    folder = downloads.served(sha256(model.key))  # the key is secret
    if files := list(folder.glob("*.zip")):
        return files[0]
    model.sae.save_pretrained(folder / "model")
    file = Path(shutil.make_archive(str(folder / model.archive_name), "zip", folder / "model"))
    shutil.rmtree(folder / "model")
    return file
