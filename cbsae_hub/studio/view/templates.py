"""The page's HTML: templates/NAME.html holds the macros of one tab, or of pieces that several tabs show."""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup, escape

from cbsae_hub.neurons.chance import MARK, MEANING


class _Layout(Extension):
    """Removes line breaks between tags: they are the layout of the template, and would be spaces on the page."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return re.sub(r"(?<=[>}])\s*\n\s*(?=[<{])", "", source)


# Everything that is put into a template is escaped, unless it comes from a template itself.
_ENVIRONMENT = Environment(
    loader=PackageLoader("cbsae_hub.studio.view"), autoescape=True, undefined=StrictUndefined, extensions=[_Layout]
)


def explained(title: str) -> Markup:
    """Returns a neuron's title, escaped, in which the mark of a name that is no better than chance has a tooltip."""
    mark = Markup('<abbr class="cb-chance" title="{}">{}</abbr>').format(MEANING, MARK)
    return escape(title).replace(escape(MARK), mark)


_ENVIRONMENT.filters["explained"] = explained


def template(name: str) -> Any:
    """Returns a template, whose macros are called like functions and return Markup."""
    return _ENVIRONMENT.get_template(f"{name}.html").module
