"""Numbers in the hand-written part of a card that come out of no results file."""

import re
from collections.abc import Iterator

from jinja2 import Environment, nodes

from cbsae_hub.cards.markdown import environment

_FRONT = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)

_IN_CODE = re.compile(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL | re.MULTILINE)
_WORDS = "|".join(
    (
        "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen",
        "(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:-[a-z]+)?|hundred",
    )
)
# What is joined to a word is part of a name: ViT-L/14-336, LLaVA-1.5, top-1, OFL-1.1.
_NUMBER = re.compile(rf"(?<![\w./-])[./_-]*\d[\d.,]*(?:\s?%)?|[¼-¾⅐-⅞]|\b(?:{_WORDS}) per ?cent\b", re.IGNORECASE)
_FORMAT = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?[a-z]")
# In the metadata there are licences, sizes and versions; here a number is what stands alone or is a percentage.
_VALUE = re.compile(r"""(?:[:\[{,]|^\s*-)\s*["']?[-+.]*\d[\d.,]*["']?\s*(?=[,\]}#]|$)|\d[\d.,]*\s?%""", re.MULTILINE)
_MEASURES = re.compile(r"^measures:.*(?:\n(?![\w-]+:).*)*", re.MULTILINE)
_COMPLEMENT = (1, 100)


def typed_numbers(source: str) -> list[str]:
    """What a template says in numbers outside of code, or puts into expressions instead of taking it from a file."""
    end = _FRONT.match(source).end()
    front, body = (_IN_CODE.sub(" ", _text(part, environment())) for part in (source[:end], source[end:]))
    measures = _MEASURES.search(front)
    found = [match[0] for match in _VALUE.finditer(front)]
    found += [match[0] for part in (measures[0] if measures else "", body) for match in _NUMBER.finditer(part)]
    return [one.strip() for one in (*found, *_constants(environment().parse(source)))]


def _text(template: str, environment: Environment) -> str:
    """What stands outside of expressions, each of which becomes a space."""
    parts = []
    for _, kind, value in environment.lex(template):
        if kind in ("data", "variable_begin"):
            parts.append(value if kind == "data" else " ")
    return "".join(parts)


def _constants(node: nodes.Node, harmless: bool = False) -> Iterator[str]:
    """Numbers, and texts with numbers, that an expression may show."""
    if isinstance(node, nodes.Const) and not harmless:
        text = node.value if isinstance(node.value, str) else f"{node.value:g}" if _is_number(node.value) else ""
        if _NUMBER.search(_FORMAT.sub("", text)):
            yield text
    for child in node.iter_child_nodes():
        yield from _constants(child, harmless or _is_harmless(node, child))


def _is_harmless(node: nodes.Node, child: nodes.Node) -> bool:
    """Whether constants in this part of an expression are not shown: keys, settings of filters, conditions, units."""
    if isinstance(node, nodes.Getitem):
        return child is node.arg
    if isinstance(node, nodes.Filter):
        return child is not node.node and node.name not in ("d", "default")
    if isinstance(node, nodes.Call):  # file("vae/config.json")
        return child in node.args[:1] and not _is_number(getattr(child, "value", None))
    if isinstance(node, (nodes.Mul, nodes.Div, nodes.Mod)):
        return node.find(nodes.Name) is not None
    if isinstance(node, nodes.Sub):
        return child is node.left and getattr(child, "value", None) in _COMPLEMENT
    return isinstance(node, (nodes.Compare, nodes.Test, nodes.Slice))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
