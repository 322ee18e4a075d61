"""Writes docs/api.md, the page of the public names, from their signatures and docstrings.

Also writes the columns of the neuron table into docs/neuron-table.md, from their schema.

python docs/api_page.py
"""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import cbsae_hub
from cbsae_hub.neurons.table import columns_in_markdown

PAGE = Path(__file__).parent / "api.md"
TABLE_PAGE, COLUMNS = PAGE.with_name("neuron-table.md"), re.compile(r"\| column \| type \|.*\n(?:\|.*\n)*")
EVERY = "__all__"
# What is public: module to names, by topic. Everything in `cbsae_hub.__all__` and in those of its packages is there.
PUBLIC: dict[str, dict[str, tuple[str, ...] | str]] = {
    "From pictures to a page": {
        "cbsae_hub.pipeline.explain": ("Explanation", "Question"),
        "cbsae_hub.pipeline.fit": ("fit", "fit_bottleneck", "Amount"),
        "cbsae_hub.pipeline.report": ("write_report",),
    },
    "Models": {
        "cbsae_hub.models": EVERY,
        "cbsae_hub.formats.load": ("load",),
        "cbsae_hub.formats.convert": ("detect", "import_sae", "export_saelens"),
        "cbsae_hub.neurons.pruning": ("prune", "Pruned"),
        "cbsae_hub.neurons.selection": ("select_concepts",),
    },
    "Encoders": {"cbsae_hub.encoders": EVERY},
    "Data": {
        "cbsae_hub.data.concepts": ("ConceptSet",),
        "cbsae_hub.data.hierarchy": ("ConceptTree",),
        "cbsae_hub.data.images": ("load_images",),
        "cbsae_hub.data.groups": ("GroupedImages", "group_images", "read_split"),
        "cbsae_hub.data.collection": ("collect_images", "Collection"),
        "cbsae_hub.data.extraction": ("extract_activations", "extract_layers"),
        "cbsae_hub.data.texts": ("Texts", "Questions", "load_texts"),
        "cbsae_hub.data.embeddings": ("extract_embeddings", "all_embeddings"),
        "cbsae_hub.data.activations": ("ActivationStore", "StoreError"),
    },
    "Packs": {
        "cbsae_hub.neurons.pack": ("Pack", "Example", "Context", "FindResult"),
        "cbsae_hub.neurons.table": ("NeuronTable", "PackError"),
        "cbsae_hub.neurons.search": ("Match",),
        "cbsae_hub.scoring.build_pack": ("build_pack",),
        "cbsae_hub.scoring.extend_pack": ("extend_pack",),
    },
    "Publishing": {"cbsae_hub.publishing": EVERY, "cbsae_hub.cards.write": ("write_card", "CardError")},
    "Steerers": {
        "cbsae_hub.steering": EVERY,
        "cbsae_hub.steering.suppression": ("image_latents", "edited_tokens"),
        "cbsae_hub.steering.removal": ("remove_each", "Removals"),
        "cbsae_hub.steering.llava_original": ("load_original",),
    },
    "Training": {
        "cbsae_hub.trainers.config": ("TrainConfig", "SAETrainConfig", "CBSAETrainConfig"),
        "cbsae_hub.trainers.sae.trainer": ("SAETrainer",),
        "cbsae_hub.trainers.cbsae.trainer": ("CBSAETrainer", "add_concepts"),
        "cbsae_hub.trainers.loop": ("Interrupted",),
    },
    "Scoring": {
        "cbsae_hub.scoring": EVERY,
        "cbsae_hub.scoring.steerability": ("SteerabilityScorer",),
        "cbsae_hub.scoring.words": ("WordScorer",),
        "cbsae_hub.studies.insertion": ("InsertionExperiment",),
        "cbsae_hub.metrics": EVERY,
        "cbsae_hub.metrics.linear_probe": ("Features", "LinearProbe", "fit_probe", "search_probe"),
        "cbsae_hub.metrics.out_of_distribution": ("image_errors", "auroc", "NearestClass"),
    },
}
HEAD = """# Public names

Written by `python docs/api_page.py` from the docstrings, which say more: `help(SAE.encode)`. What is not on this page
may change in any version.
"""
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):\n", re.MULTILINE)
ITEM, NAMED = re.compile(r"^([\w*,. ]+): "), r"`\1`: "
ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")


@functools.cache
def public() -> list[tuple[str, str, str, Any]]:
    """Topic, module, name and object of each public name, each once."""
    found: dict[str, tuple[str, str, str, Any]] = {}
    for topic, modules in PUBLIC.items():
        for module, names in modules.items():
            home = import_module(module)
            for name in home.__all__ if names == EVERY else names:
                shortest = "cbsae_hub" if name in cbsae_hub.__all__ else module
                found.setdefault(name, (topic, shortest, name, getattr(home, name)))
    return list(found.values())


def page() -> str:
    """The page."""
    entries = public()
    parts = [HEAD, "\n"]
    for topic in PUBLIC:
        parts.append(f"- **{topic}**: {', '.join(_link(value) for of, _, _, value in entries if of == topic)}\n")
    for topic in PUBLIC:
        parts.append(f"\n## {topic}\n")
        parts += [
            f"\n### {name}\n\n`from {module} import {name}`\n\n{_described(value).rstrip()}\n"
            for of, module, name, value in entries
            if of == topic
        ]
    return "".join(parts)


def _link(value: Any) -> str:
    """A link to an entry: GitHub numbers the headings that differ in case only."""
    names = [name for _, _, name, _ in public()]
    place = [each for *_, each in public()].index(value)
    same = sum(name.lower() == names[place].lower() for name in names[:place])
    return f"[{names[place]}](#{names[place].lower()}{f'-{same}' if same else ''})"


def _described(value: Any) -> str:
    if not inspect.isclass(value):
        return _block(_signature(value)) + _text(value)
    header, fields = _signature(value), []
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        for field, told in _fields(value):
            fields += [f"- `{field}`: {_plain(told)}\n"] if told else []
            header += "" if told else f"\n    {field}"
    elif "__init__" in vars(value):
        header += "\n" + textwrap.indent(_signature(value.__init__), "    ")
    members = "".join(_member(name, member) for name, member in vars(value).items())
    bases = [base for base in value.__bases__ if any(base is each for *_, each in public())]
    more = f"- and all that {_link(bases[0])} has\n" if bases else ""
    return _block(header) + _text(value) + "".join(fields) + f"\n{members}{more}"


def _fields(cls: type) -> Iterator[tuple[str, str]]:
    """Fields of a named tuple or dataclass, each with the text that stands below it in the source."""
    body = _source(cls).body
    for node, after in zip(body, [*body[1:], None]):
        if isinstance(node, ast.AnnAssign) and node.target.id[0] != "_":
            told = after.value if isinstance(after, ast.Expr) else None
            yield ast.unparse(node), told.value if isinstance(told, ast.Constant) else ""


def _member(name: str, member: Any) -> str:
    """A public method or property as an item of a list, with its arguments below it."""
    if isinstance(member, (property, functools.cached_property)) and name[0] != "_":
        getter = member.fget if isinstance(member, property) else member.func
        returned = getattr(_source(getter), "returns", None)  # an entry of a provenance has none
        return f"- **{name}**{f' `{ast.unparse(returned)}`' if returned else ''}: {_first(member)}\n"
    function = getattr(member, "__func__", member)
    if not inspect.isfunction(function) or (name[0] == "_" and name != "__call__") or not function.__doc__:
        return ""
    if function.__doc__.startswith("See :"):  # does what it does in the class above
        return ""
    node = _source(function)
    if not isinstance(member, staticmethod):
        (node.args.posonlyargs or node.args.args).pop(0)  # self, cls
    arguments = ast.unparse(node.args)
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    kind = "" if inspect.isfunction(member) else f" ({type(member).__name__})"
    text = f"- **{name}**{kind} `({arguments}){returned}`: {_first(function)}\n"
    return text.replace("**__call__**", "called") + textwrap.indent(_sections(function), "  ")


def _text(value: Any) -> str:
    return f"{_first(value)}\n\n{_sections(value)}"


def _first(value: Any) -> str:
    """The first paragraph of a docstring."""
    return _plain(SECTION.split(inspect.getdoc(value) or "")[0].split("\n\n")[0])


def _sections(value: Any) -> str:
    """Arguments and the like as lists."""
    parts = SECTION.split(inspect.getdoc(value) or "")
    return "".join(_section(title, text) for title, text in zip(parts[1::2], parts[2::2]))


def _section(title: str, text: str) -> str:
    text = textwrap.dedent(text.split("\n\n\n")[0]).strip("\n")
    if title in ("Returns", "Yields"):
        return f"- *{title.lower()}* {_plain(text)}\n"
    items = re.split(r"\n(?! )", text)
    mark = {"Raises": "*raises* ", "Attributes": "*attribute* "}.get(title, "")
    return "".join(f"- {mark}{ITEM.sub(NAMED, _plain(item), count=1)}\n" for item in items if item.strip())


def _plain(text: str) -> str:
    """A paragraph on one line, in Markdown."""
    return ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`")


def _block(code: str) -> str:
    return f"```pyi\n{code}\n```\n\n"


def _source(value: Any) -> Any:
    """The syntax tree of a function or class, with its text."""
    text = textwrap.dedent(inspect.getsource(inspect.unwrap(value)))
    (node,) = ast.parse(text).body
    node.text = text.splitlines()
    return node


def _signature(value: Any) -> str:
    """The source of a function or class up to its body."""
    node = _source(value)
    return "\n".join(node.text[node.lineno - 1 : node.body[0].lineno - 1])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    text = TABLE_PAGE.read_text(encoding="utf-8")
    TABLE_PAGE.write_text(COLUMNS.sub(lambda _: columns_in_markdown(), text), encoding="utf-8")
