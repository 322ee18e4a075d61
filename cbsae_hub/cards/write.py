"""Model cards: a hand-written part (:mod:`cbsae_hub.cards.by_hand`), and around it what was measured.

Every number of a card comes out of a file that lies beside the weights (:mod:`cbsae_hub.cards.facts`). A hand-written
part uses them as ``{{ metrics.top1_test }}``.
"""

import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Template, TemplateError

from cbsae_hub.cards.by_hand import TASK, ByHand, CardError
from cbsae_hub.cards.facts import Facts, Measure, model_index
from cbsae_hub.cards.markdown import environment
from cbsae_hub.hub.files import write_text
from cbsae_hub.hub.locate import CARD_NAME
from cbsae_hub.hub.stamp import edited_by_hand, is_hub_id, stamped
from cbsae_hub.version import __version__

__all__ = ["CardError", "render_card", "write_card"]

TABLES = ("SAE and CB-SAE", "parts")  # of evaluation.json


def write_card(folder: str | Path, repo_id: str | None = None, by_hand: str | Path | None = None) -> None:
    """Writes the README.md of a folder from the results files in it; one that was edited by hand is kept.

    Args:
        folder: The folder of a model.
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
    hand = ByHand.read(by_hand, facts, repo_id) if by_hand else ByHand.of_card(before or "", facts.revision)
    try:
        text = render_card(facts, repo_id, hand)
    except (TemplateError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"a results file in {folder} is not what this package writes: {error!r}") from error
    write_text(card, text)


def render_card(facts: Facts, repo_id: str, by_hand: ByHand | None = None) -> str:
    """The card as text, whose examples load ``repo_id``.

    Values are inserted as data, they cannot add metadata, markup or template code.
    """
    by_hand = by_hand or ByHand()
    measures = facts.measures()
    story, sections = by_hand.marked(facts.revision)
    text = _template().render(
        metadata=_metadata(facts, repo_id, by_hand, measures).to_yaml().strip(),
        title=repo_id.rsplit("/", 1)[-1],
        repo_id=repo_id,
        facts=facts,
        config=facts.config,
        sae=facts.sae,
        by_hand=by_hand,
        story=story,
        sections=sections,
        measures=measures,
        tables={name: _turned(rows) for name, rows in facts.evaluation.get("tables", {}).items() if name in TABLES},
        version=__version__,
    )
    return stamped(re.sub(r"\n{3,}", "\n\n", text))


@cache  # compiled when the first card is written, not when a trainer is imported
def _template() -> Template:
    return environment().from_string((files("cbsae_hub.cards") / "card.md.jinja").read_text(encoding="utf-8"))


def _metadata(facts: Facts, repo_id: str, by_hand: ByHand, measures: list[Measure]) -> ModelCardData:
    """Valid metadata of the Hub: what was written by hand, over what follows from the config."""
    own, results = dict(by_hand.metadata), list(by_hand.results)
    derived: dict[str, Any] = {}
    if facts.config.get("model_class"):  # a model of this package
        images, data = facts.pack.get("images", {}), facts.config.get("training_data")
        results += model_index(measures, TASK, images.get("id"), images.get("split"))
        tags = {"interpretability", "vision", *_tags(facts), *own.pop("tags", [])}
        models = _ids(facts.config.get("encoder_id"), facts.parent.get("id"))
        derived = {
            "library_name": "cbsae_hub",
            "pipeline_tag": TASK,
            "base_model": models if len(models) > 1 else next(iter(models), None),
            "datasets": _ids(data.get("id") if isinstance(data, dict) else data, images.get("id")) or None,
            "tags": sorted(tags),
        }
    if results:
        derived |= {"model_name": repo_id.rsplit("/", 1)[-1], "eval_results": results}
    return ModelCardData(**derived | own)


def _tags(facts: Facts) -> list[str]:
    if facts.sae is None:
        return []
    kinds = {"concept-bottleneck": facts.model_class == "CBSAE", "matryoshka": facts.sae.get("group_sizes")}
    return ["sparse-autoencoder", facts.sae["activation"], *(tag for tag, applies in kinds.items() if applies)]


def _turned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table with its columns as rows: models are few, and measures many."""
    if not rows:
        return []
    first, *measures = rows[0]
    return [{"": measure, **{str(row[first]): row.get(measure) for row in rows}} for measure in measures]


def _ids(*names: Any) -> list[str]:
    return list(dict.fromkeys(name for name in names if is_hub_id(name)))
