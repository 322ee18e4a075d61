"""The hand-written part of a card: ``model_cards/<name>.md``, or what a card holds of it already."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult
from jinja2 import TemplateError

from cbsae_hub.cards.facts import Facts, Measure, is_measured, model_index
from cbsae_hub.cards.markdown import environment
from cbsae_hub.hub.files import read_text
from cbsae_hub.hub.stamp import edited_by_hand

TASK = "feature-extraction"  # of the models of this package
GENERATED = ("model-index", "model_name", "eval_results")
LICENCES = ("license", "license_name", "license_link", "language")  # a card keeps them of its hand-written part
_FRONT = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
_MARKED = re.compile(r"<!-- by hand, of (\S+) -->\n(.*?)<!-- end -->\n", re.DOTALL)


class CardError(ValueError):
    """A hand-written part of a card that cannot be used."""


@dataclass(frozen=True)
class ByHand:
    """The hand-written part of a card.

    What stands before the first heading of its text is the story, which comes first in a card; the sections come last.
    """

    metadata: dict[str, Any] = field(default_factory=dict)  # for the Hub
    text: str = ""  # Markdown
    measures: list[Measure] = field(default_factory=list)  # entries of metrics.json with their meaning
    results: list[EvalResult] = field(default_factory=list)  # the same for the Hub's model-index
    measured_by: str | None = None  # the command that measured them

    @classmethod
    def read(cls, path: str | Path, facts: Facts, repo_id: str) -> "ByHand":
        """Reads ``model_cards/<name>.md``: YAML between ``---``, then Markdown; both may use the facts.

        In expressions there are ``config``, ``metrics``, ``training``, ``evaluation``, ``pack``,
        ``file("vae/config.json")``, ``parameters("unet")``, ``repo_id``, ``owner``, and the filters of
        :func:`cbsae_hub.cards.markdown.environment`. In the YAML, ``measures`` names entries of metrics.json
        (``metric``, ``name``, ``key``, ``split``, ``meaning``), ``measured_on`` a dataset, ``measured_by`` a command;
        the rest is metadata of the Hub.

        Raises:
            CardError: If an expression or the YAML is wrong, or the Hub would not take what it says.
        """
        path = Path(path)
        files = {name: getattr(facts, name) for name in ("config", "metrics", "training", "evaluation", "pack")}
        own = {"file": facts.file, "parameters": facts.parameters, "repo_id": repo_id}
        if owner := repo_id.rpartition("/")[0]:
            own["owner"] = owner
        try:
            front, text = _split(environment().from_string(read_text(path)).render(**files, **own), path)
            metadata = yaml.safe_load(front)
            rows, command = metadata.pop("measures", []), metadata.pop("measured_by", None)
            dataset = metadata.pop("measured_on", None)
            if generated := sorted(metadata.keys() & set(GENERATED)):
                raise CardError(f"{path}: {', '.join(generated)} is made of measures, do not write it")
            values = [facts.metrics[row["metric"]] for row in rows]
            measures = [Measure(row["name"], row["key"], one, None, row["meaning"]) for row, one in zip(rows, values)]
        except (TemplateError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise CardError(f"{path}: {error!r}; metrics.json has {', '.join(facts.metrics) or 'nothing'}") from error
        if unmeasured := [row["metric"] for row, one in zip(rows, values) if not is_measured(one)]:
            raise CardError(f"{path}: {', '.join(unmeasured)} of metrics.json cannot be measures, they are no numbers")
        task = metadata.get("pipeline_tag") or (TASK if facts.model_class else "")
        if rows and dataset and not task:
            raise CardError(f"{path}: results on a data set need the task, pipeline_tag")
        pairs = zip(rows, measures)
        results = [entry for row, one in pairs for entry in model_index([one], task, dataset, row.get("split"))]
        return cls(metadata, text.strip(), measures, results, command)

    @classmethod
    def of_card(cls, card: str, revision: str | None) -> "ByHand":
        """The hand-written part of a card that this package wrote about the same weights; empty of any other."""
        if edited_by_hand(card):
            return cls()
        texts = [text.strip() for of_weights, text in _MARKED.findall(card) if of_weights == str(revision)]
        front = yaml.safe_load(_split(card, "the card")[0]) if texts else {}
        return cls({name: front[name] for name in LICENCES if name in front}, "\n\n".join(texts))

    def marked(self, revision: str | None) -> tuple[str, str]:
        """Story and sections, which :meth:`of_card` finds by the marks around them; an empty one has none."""
        story, heading, sections = f"\n{self.text}".partition("\n## ")

        def mark(part: str) -> str:
            return f"<!-- by hand, of {revision} -->\n{part}\n<!-- end -->\n" if part else ""

        return mark(story.strip()), mark((heading + sections).strip())


def _split(card: str, owner: str | Path) -> tuple[str, str]:
    """The metadata of a card, YAML, and the rest of it."""
    front = _FRONT.match(card)
    if front is None:
        raise CardError(f"{owner} must begin with its metadata, YAML between two lines of ---")
    return front[1], card[front.end() :]
