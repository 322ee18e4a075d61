"""The page refuses in words: one error, which handlers show as a sentence on the page."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import Any

import gradio as gr

from cbsae_hub.encoders.site import EditError
from cbsae_hub.steering.tower import Stopped


class Refused(Exception):
    """Something that the page does not do; the message is for the visitor."""


REFUSALS = (Refused, EditError)


def error(message: str) -> gr.Error:
    """Returns what a handler raises to show a message, without a line in the log."""
    return gr.Error(message, title="That did not work", duration=10, print_exception=False)


def in_toast(message: object) -> str:
    """Returns plain text for gr.Error, gr.Warning and gr.Info, which show HTML."""
    return escape(str(message), quote=False)


def kindly(handler: Callable[..., Any], to_text: Callable[[Any], str] = in_toast) -> Callable[..., Any]:
    """Returns a handler whose refusals reach the visitor as sentences; a stopped one says nothing.

    Args:
        handler: A function or generator function that may raise :data:`REFUSALS`.
        to_text: Makes text of an error.
    """

    @contextmanager
    def in_sentences() -> Iterator[None]:
        try:
            yield
        except Stopped:
            pass
        except REFUSALS as refusal:
            raise error(to_text(refusal)) from refusal

    @wraps(handler)
    def generate(*arguments: Any, **keywords: Any) -> Any:
        with in_sentences():
            yield from handler(*arguments, **keywords)

    @wraps(handler)
    def handle(*arguments: Any, **keywords: Any) -> Any:
        with in_sentences():
            return handler(*arguments, **keywords)
        return gr.skip()

    return generate if inspect.isgeneratorfunction(handler) else handle
