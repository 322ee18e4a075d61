"""The tab "Your concepts": which of them the model has, and neurons for those it lacks, trained while one looks."""

import logging
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from cbsae_hub.hub.files import sha256
from cbsae_hub.neurons.search import Found
from cbsae_hub.neurons.verdicts import STRONG
from cbsae_hub.steering.tower import Stopped
from cbsae_hub.studio.links import MAX_CONCEPTS, MAX_LETTERS, MAX_WORDS, Link, as_text
from cbsae_hub.studio.server import downloads
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.visit import KINDLY, LOOKUP, PRIVATE, Visit, kindly
from cbsae_hub.studio.server.workshop import Workshop
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.html import escape
from cbsae_hub.studio.view.pictures import ImageRefused
from cbsae_hub.words import clean_name, name_key, words_of

logger = logging.getLogger(__name__)

SEPARATORS = re.compile(r"[\n,;，、；،؛]")  # the last ones are Chinese and Arabic
LOOK = 0.25  # seconds between two looks at how far the training is


class OwnConceptsTab:
    """Check, train, use, download; nobody else's page changes.

    Args:
        visit: What the tabs share.
        workshop: What trains.
    """

    def __init__(self, visit: Visit, workshop: Workshop):
        self.visit, self.workshop = visit, workshop

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
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
                    False,
                    label="Train it anyway: also what a neuron of the SAE is called",
                    elem_id="own-anyway",
                )
                self.download = gr.HTML("", elem_id="own-download", min_height=0)
            with gr.Column(scale=7, min_width=280):
                self.progress = gr.HTML("", elem_id="own-progress", min_height=44)
                self.report = self.visit.card(_EMPTY, "own-report")
        self.check.click(self.which, [self.visit.served, self.words], self.report, **LOOKUP)
        self.stop.click(self._stop, None, None, queue=False, **PRIVATE)

    @property
    def trained(self) -> list[Any]:
        """What :meth:`add` sets first; the page appends what shows the new model."""
        return [self.progress, self.report, self.download, self.visit.served]

    @kindly
    def which(self, served: Any, words: Any) -> str:
        """Where each concept is."""
        loaded = self.visit.loaded(served)
        return _made(served, words, report(loaded, concepts_of(words)))

    @kindly
    def add(self, request: gr.Request, served: Any, words: Any, anyway: Any) -> Iterator[list[Any]]:
        """Trains the missing ones, or ``anyway`` all without a concept neuron; yields progress, then the new model."""
        loaded = self.visit.loaded(served)
        wanted = concepts_of(words)
        found = located(loaded, wanted)
        missing = [name for name, match in found if match is None or (anyway and not _trained(loaded, match))]
        if not missing:
            weak = any(match.verdict != STRONG and not _trained(loaded, match) for _, match in found)
            said = report(loaded, wanted) + (_WEAK if weak else _NOTHING)
            yield ["", _made(served, words, said), gr.skip(), gr.skip()]
            return
        with self.visit.serving.jobs.of(request.session_hash) as stop:
            work = _Work(self.workshop, loaded, missing, stop)
            while work.running(LOOK):
                yield [html.bar(*work.said), gr.skip(), gr.skip(), gr.skip()]
        try:
            made = work.result()
        except (*KINDLY, ValueError) as error:
            yield [f'<p class="cb-note" role="alert">{escape(error)}</p>', gr.skip(), gr.skip(), gr.skip()]
            return
        except Stopped:
            yield [_STOPPED, gr.skip(), gr.skip(), gr.skip()]
            return
        except Exception:
            logger.exception("concepts could not be added")
            yield [_FAILED, gr.skip(), gr.skip(), gr.skip()]
            return
        stopped = " Stopped early: the neurons are as good as they were by then." if stop() else ""
        done = f"{_counted(missing)} added in {work.seconds:.0f} s.{stopped}{_failures(made, missing)}"
        file = html.download("Download your model", downloads.address(archive(made)))
        yield [html.bar(1.0, done), _made(made.key, words, report(made, wanted)), file, made.key]

    def restore(self, loaded: Loaded, link: Link, new: bool) -> list[Any]:
        """What a link asks for: the words, and what to train; where they are stays, marked if the model is another."""
        if not new:
            return [link.words, link.anyway, gr.skip(), gr.skip()]
        file = html.download("Download your model", downloads.address(archive(loaded))) if loaded.own else ""
        return [link.words, link.anyway, "", file]

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`restore` sets."""
        return [self.words, self.anyway, self.progress, self.download]

    @property
    def parts(self) -> dict[str, Any]:
        """What the address says of the tab."""
        return {"words": self.words, "anyway": self.anyway}

    def _stop(self, request: gr.Request) -> None:
        self.visit.serving.jobs.stop(request.session_hash)


def _made(served: Any, words: Any, content: str) -> str:
    return html.belonging(content, {"m": as_text("m", served), "words": as_text("words", words)}, "own-check")


class _Work:
    """Training in a thread of its own, so that its progress can be shown."""

    def __init__(self, workshop: Workshop, loaded: Loaded, concepts: list[str], stop: Any):
        self.said = (0.0, "starting")
        self._made: Loaded | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(workshop, loaded, concepts, stop), daemon=True)
        self.seconds = 0.0
        self._thread.start()

    def running(self, seconds: float) -> bool:
        """Waits a little; whether it still runs then."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def result(self) -> Loaded:
        """The extended model, or the error that came instead."""
        if self._error is not None:
            raise self._error
        return self._made

    def _run(self, workshop: Workshop, loaded: Loaded, concepts: list[str], stop: Any) -> None:
        start = time.perf_counter()
        try:
            self._made = workshop.add(loaded, concepts, self._tell, stop)
        except Exception as error:  # handed on to the thread that waits
            self._error = error
        self.seconds = time.perf_counter() - start

    def _tell(self, share: float, text: str) -> None:
        self.said = (share, text)


def concepts_of(words: Any) -> list[str]:
    """The concepts of a text, each once.

    Raises:
        ImageRefused: If there are none, too many, or one is too long or no word at all.
    """
    parts = map(clean_name, SEPARATORS.split(str(words or "")))
    found = list({name_key(part): part for part in parts if part}.values())
    if not found:
        raise ImageRefused("Type a concept or two, one a line.")
    if len(found) > MAX_CONCEPTS:
        raise ImageRefused(f"These are {len(found)} concepts; at most {MAX_CONCEPTS} can be added at once.")
    for name in found:
        if len(name) > MAX_LETTERS or not words_of(name):
            raise ImageRefused(f"“{name[:MAX_LETTERS]}” is no concept of at most {MAX_LETTERS} letters.")
    return found


def located(loaded: Loaded, concepts: list[str]) -> list[tuple[str, Found | None]]:
    """For each concept the neuron that stands for it: of the bottleneck, else the best SAE neuron of that name."""
    found = []
    for concept in concepts:
        matches = loaded.pack.neurons.index.find(concept)
        same = [match for match in matches if name_key(match.concept) == name_key(concept)]
        trained = [match for match in same if _trained(loaded, match)]
        named = [match for match in same if match.rank == 0 and loaded.pack.neurons[match.neuron].kind != "cb"]
        found.append((concept, next(iter(trained + named), None)))
    return found


def _trained(loaded: Loaded, match: Found) -> bool:
    """Whether a neuron was trained for the concept that it was found by."""
    row = loaded.pack.neurons[match.neuron]
    return row.kind == "cb" and name_key(row.designated) == name_key(match.concept)


def report(loaded: Loaded, concepts: list[str]) -> str:
    """Where each concept is, what that is worth, and buttons."""
    rows = []
    for name, match in located(loaded, concepts):
        if match is None:
            rows.append(f"<tr><th>{escape(name)}</th><td>○ missing</td><td></td><td></td></tr>")
            continue
        where = "◆ concept neuron" if _trained(loaded, match) else "● in the SAE"
        title = escape(html.neuron_title(loaded.pack.neurons[match.neuron]))
        buttons = "".join(
            f'<button type="button" class="cb-do" data-act="{act}" data-neuron="{match.neuron}">{text}</button>'
            for act, text in (("open", "Open"), ("add", "Add to basket"))
        )
        worth = f"{html.VERDICTS[match.verdict]} {match.verdict}: {escape(match.reason)}"
        rows.append(
            f'<tr><th>{escape(name)}</th><td>{where}</td><td class="cb-wraps">{worth}</td>'
            f'<td class="cb-wraps">{title} {buttons}</td></tr>'
        )
    head = html.heads(["concept", "where", "verdict", "neuron"])
    return html.scrolled(
        f'<table class="cb-table" aria-live="polite"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _counted(names: list[str]) -> str:
    return f"{len(names)} concept{'s' if len(names) > 1 else ''}"


def _failures(made: Loaded, trained: list[str]) -> str:
    """What is to be said of concepts whose neurons do not stand for them, although they were trained."""
    weak = [name for name, match in located(made, trained) if match.verdict != STRONG]
    if not weak:
        return ""
    names = ", ".join(f"“{name}”" for name in weak)
    return f" Not surely learned: {names}. The table says why."


def archive(loaded: Loaded) -> Path:
    """The model as its folder on the Hub would be, zipped, under a name that nobody guesses."""
    folder = downloads.served(sha256(loaded.key))  # the key is secret
    if made := list(folder.glob("*.zip")):
        return made[0]
    loaded.sae.save_pretrained(folder / "model")
    name = re.sub(r"[^\w-]", "-", Path(loaded.model_id).name)
    file = Path(shutil.make_archive(str(folder / f"{name}-extended"), "zip", folder / "model"))
    shutil.rmtree(folder / "model")
    return file


_EMPTY = (
    "<p class='cb-empty'>Type concepts that matter to you. The page says which neurons stand for them already; for the "
    "others it trains concept neurons beside the model, on the pictures that its neurons were named with, in about "
    "half a minute. They are yours alone, work in all tabs at once, and can be downloaded.</p>"
)
_FAILED = '<p class="cb-note" role="alert">Something went wrong; the model stays as it was. The log says what.</p>'
_STOPPED = '<p class="cb-hint">Stopped before it began: nothing was trained.</p>'
_WEAK = '<p class="cb-hint">A neuron is called so, but is weak: tick “Train it anyway” for one of your own.</p>'
_NOTHING = '<p class="cb-hint">All of them are there: nothing is to be trained.</p>'
