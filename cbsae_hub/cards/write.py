"""Model cards: a hand-written part, and around it what was measured.

Every number in a card comes out of a file that lies beside the weights (:mod:`cbsae_hub.cards.facts`). A hand-written
part uses them as ``{{ metrics.top1_test }}``; a number that is typed there is refused.
"""

import json
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from cbsae_hub.cards.facts import Facts, Measure, is_measured, model_index
from cbsae_hub.cards.numbers import typed_numbers
from cbsae_hub.hub.files import read_text, write_text
from cbsae_hub.hub.stamp import code, edited_by_hand, inline, is_hub_id, literal, stamped
from cbsae_hub.version import __version__

CARD_NAME = "README.md"
TABLES = ("SAE and CB-SAE", "parts")  # of evaluation.json
TASK = "feature-extraction"  # of the models of this package
GENERATED = ("model-index", "model_name", "eval_results")
LICENCES = ("license", "license_name", "license_link", "language")  # of a hand-written part, what its card keeps
_TEMPLATE = (files("cbsae_hub.cards") / "card.md.jinja").read_text(encoding="utf-8")
_FRONT = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
_KEPT = re.compile(r"<!-- by hand, (opening|closing) of (\S+) -->\n(.*?)<!-- end -->\n", re.DOTALL)


class CardError(ValueError):
    """A hand-written part of a card that cannot be used."""


@dataclass(frozen=True)
class ByHand:
    """The hand-written part of a card.

    Attributes:
        metadata: Of the Hub.
        story: What comes first.
        sections: What comes last.
        measures: Entries of metrics.json with their meaning.
        results: The same for the Hub's model-index.
        measured_by: The command that measured them.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    story: str = ""
    sections: str = ""
    measures: list[Measure] = field(default_factory=list)
    results: list[EvalResult] = field(default_factory=list)
    measured_by: str | None = None

    @classmethod
    def read(cls, path: str | Path, facts: Facts, repo_id: str) -> "ByHand":
        """Reads ``model_cards/<name>.md``: YAML between ``---``, then Markdown; both may use the facts.

        What comes before the first heading is the story. In expressions there are ``config``, ``metrics``,
        ``training``, ``evaluation``, ``pack``, ``file("vae/config.json")``, ``parameters("unet")``, ``repo_id``,
        ``owner``, and the filters of :func:`_environment`. In the YAML, ``measures`` names entries of metrics.json
        (``metric``, ``name``, ``key``, ``split``, ``meaning``), ``measured_on`` a dataset, ``measured_by`` a command;
        the rest is metadata of the Hub.

        Raises:
            CardError: If a number is typed instead of taken from a file, or an expression or the YAML is wrong, or the
                Hub would not take what it says.
        """
        path = Path(path)
        source = read_text(path)
        front = _FRONT.match(source)
        if front is None:
            raise CardError(f"{path} must begin with its metadata, YAML between two lines of ---")
        known = {name: getattr(facts, name) for name in ("config", "metrics", "training", "evaluation", "pack")}
        own = {"file": facts.file, "parameters": facts.parameters, "repo_id": repo_id}
        if owner := repo_id.rpartition("/")[0]:
            own["owner"] = owner
        try:
            if typed := typed_numbers(source[: front.end()], source[front.end() :], _environment()):
                raise CardError(
                    f"{path} has typed numbers ({', '.join(typed[:5])}): write {{{{ metrics.... }}}} or another "
                    "expression that takes them from a results file, or put them into code if they are no results"
                )
            text = _environment().from_string(source).render(**known, **own)
            front = _FRONT.match(text)
            metadata = yaml.safe_load(front[1])
            rows, command = metadata.pop("measures", []), metadata.pop("measured_by", None)
            dataset = metadata.pop("measured_on", None)
            if generated := sorted(metadata.keys() & set(GENERATED)):
                raise CardError(f"{path}: {', '.join(generated)} is made of measures, do not write it")
            measures = [
                Measure(row["name"], row["key"], facts.metrics[row["metric"]], None, row["meaning"]) for row in rows
            ]
        except (TemplateError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise CardError(f"{path}: {error!r}; metrics.json has {', '.join(facts.metrics) or 'nothing'}") from error
        if unmeasured := [row["metric"] for row, one in zip(rows, measures) if not is_measured(one.value)]:
            raise CardError(f"{path}: {', '.join(unmeasured)} of metrics.json cannot be measures, they are no numbers")
        task = metadata.get("pipeline_tag") or (facts.model_class and TASK)
        if rows and dataset and not task:
            raise CardError(f"{path}: results on a data set need the task, pipeline_tag")
        results = [
            entry for row, one in zip(rows, measures) for entry in model_index([one], task, dataset, row.get("split"))
        ]
        story, heading, sections = text[front.end() :].strip().partition("\n## ")
        return cls(metadata, story.strip(), (heading + sections).strip(), measures, results, command)

    @classmethod
    def kept(cls, card: str, revision: str | None) -> "ByHand":
        """The hand-written part of a card that this package wrote about the same weights; empty of any other."""
        if edited_by_hand(card):
            return cls()
        parts = {name: text.strip() for name, told, text in _KEPT.findall(card) if told == str(revision)}
        front = yaml.safe_load(_FRONT.match(card)[1]) if parts else {}
        told = {name: front[name] for name in LICENCES if name in front}
        return cls(told, parts.get("opening", ""), parts.get("closing", ""))

    def marked(self, part: str, revision: str | None) -> str:
        """One part, marked so that :meth:`kept` finds it: "opening" is the story, "closing" the sections."""
        text = self.story if part == "opening" else self.sections
        return f"<!-- by hand, {part} of {revision} -->\n{text}\n<!-- end -->\n" if text else ""


def write_card(folder: str | Path, repo_id: str | None = None, by_hand: str | Path | None = None) -> None:
    """Writes the README.md of a folder from the results files in it; one that was edited by hand is kept.

    Args:
        folder: That of a model.
        repo_id: Hub id that the card's examples load; default the folder as it is given, or the name
            of one that is given with its whole path.
        by_hand: The hand-written part, see :meth:`ByHand.read`; default that of the card which is there already, if
            that is of the same weights.

    Raises:
        CardError: If the hand-written part cannot be used.
        ValueError: If a results file is damaged.
    """
    folder = Path(folder)
    card = folder / CARD_NAME
    before = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    if by_hand is None and before is not None and edited_by_hand(before):
        return
    repo_id = repo_id or (folder.name if folder.is_absolute() else folder.as_posix())
    facts = Facts.read(folder)
    hand = ByHand.read(by_hand, facts, repo_id) if by_hand else ByHand.kept(before or "", facts.revision)
    try:
        text = render_card(facts, repo_id, hand)
    except (TemplateError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"a results file in {folder} is not what this package writes: {error!r}") from error
    write_text(card, text)


def render_card(facts: Facts, repo_id: str, by_hand: ByHand | None = None) -> str:
    """The card as text: values are inserted as data, they cannot add metadata, markup or template code.

    Args:
        facts: What is known.
        repo_id: What the examples load.
        by_hand: The hand-written part.
    """
    by_hand = by_hand or ByHand()
    measures = facts.measures()
    metadata = _metadata(facts, repo_id, by_hand, measures)
    text = (
        _environment()
        .from_string(_TEMPLATE)
        .render(
            metadata=metadata.to_yaml().strip(),
            title=repo_id.rsplit("/", 1)[-1],
            repo_id=repo_id,
            facts=facts,
            config=facts.config,
            sae=facts.sae,
            by_hand=by_hand,
            measures=measures,
            tables={name: _turned(rows) for name, rows in facts.evaluation.get("tables", {}).items() if name in TABLES},
            version=__version__,
        )
    )
    return stamped(re.sub(r"\n{3,}", "\n\n", text))


def _metadata(facts: Facts, repo_id: str, by_hand: ByHand, measures: list[Measure]) -> ModelCardData:
    """Valid metadata of the Hub: what was written by hand, over what follows from the config."""
    told, results, found = dict(by_hand.metadata), list(by_hand.results), {}
    if facts.config.get("model_class"):  # a model of this package
        images, data = facts.pack.get("images", {}), facts.config.get("training_data")
        results += model_index(measures, TASK, images.get("id"), images.get("split"))
        tags = {"interpretability", "vision", *_tags(facts), *told.pop("tags", [])}
        found = {
            "library_name": "cbsae_hub",
            "pipeline_tag": TASK,
            "base_model": _ids(facts.config.get("encoder_id"), facts.parent.get("id")),
            "datasets": _ids(data.get("id") if isinstance(data, dict) else data, images.get("id")) or None,
            "tags": sorted(tags),
        }
        if len(found["base_model"]) < 2:
            found["base_model"] = (found["base_model"] or [None])[0]
    named = {"model_name": repo_id.rsplit("/", 1)[-1], "eval_results": results} if results else {}
    return ModelCardData(**named, **found | told)


def _tags(facts: Facts) -> list[str]:
    if facts.sae is None:
        return []
    kind = ["concept-bottleneck"] if facts.model_class == "CBSAE" else []
    return [
        "sparse-autoencoder",
        facts.sae["activation"],
        *kind,
        *(["matryoshka"] if facts.sae.get("group_sizes") else []),
    ]


def _turned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table with its columns as rows: models are few, and measures many."""
    if not rows:
        return []
    first, *measures = rows[0]
    return [{"": measure, **{str(row[first]): row.get(measure) for row in rows}} for measure in measures]


def _ids(*names: Any) -> list[str]:
    return list(dict.fromkeys(name for name in names if is_hub_id(name)))


def _environment() -> SandboxedEnvironment:
    """Escapes everything that is inserted, unless a filter says how else.

    Filters: ``code``, ``block`` (lines of a code block), ``literal`` (a Python string), ``pretty`` (JSON),
    ``decimals(1)``, ``share`` (0.125: "12.5 %"), and ``raw`` for what is Markdown already.
    """
    environment = SandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, _Ready) else inline(value),
    )  # fmt: skip
    environment.filters.update(
        code=lambda value: _Ready(code(value)),
        block=lambda value: _Ready(value.replace("```", "'''")),
        literal=lambda value: _Ready(literal(value)),
        pretty=lambda value: _Ready(json.dumps(value, indent=1).replace("`", "'")),
        decimals=lambda value, count=1: _Ready(f"{value:,.{count}f}"),
        share=lambda value: _Ready(f"{100 * value:.1f} %"),
        raw=_Ready,
    )
    return environment


class _Ready(str):
    """Text that is inserted as it is."""
