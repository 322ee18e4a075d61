"""Stands in for the steering tabs where nothing can be steered: the reason, stored answers, and a command."""

from shlex import quote

from cbsae_hub.studio.server.generators import TITLES, Unavailable
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.names import as_typed, public_id
from cbsae_hub.studio.view import html
from cbsae_hub.words import number

ROWS = 12


def at_once(model: LoadedModel, name: str) -> str:
    """Returns :func:`instead_of` as far as it shows before the generator is loaded: for a tab that is opened."""
    reason = model.no_reader(name)
    return "" if reason is None else _instead(model, name, reason)


def instead_of(model: LoadedModel, name: str) -> str:
    """Returns what stands in place of the results of "llava" or "unclip"; "" where steering works."""
    try:
        getattr(model, name)
    except Unavailable as reason:
        return _instead(model, name, str(reason))
    return ""


def _instead(model: LoadedModel, name: str, reason: str) -> str:
    """Returns the reason, a command only for a generator that reads this encoder, and stored answers."""
    encoder = model.sae.encoder_id
    command = None
    if generator := model.generators.advised(name, encoder, model.model_id):
        command = f"cbsae serve {quote(as_typed(model.model_id, model.name))} --{name} {quote(as_typed(generator))}"
    public = public_id(encoder or "of this model")
    return html.PIECES.unavailable(reason, command, TITLES[name], public, model.alpha, _best_answers(model))


def _best_answers(model: LoadedModel) -> list[tuple[str, ...]] | None:
    """Returns the answers of the neurons that steered best when scores were measured; None if they were not."""
    frame = model.pack.neurons.frame
    if model.alpha is None or "said_white" not in frame:
        return None
    best = frame[frame["steerability"].notna()].sort_values("steerability", ascending=False).head(ROWS)
    return [
        (html.neuron_title(row), f"“{row.said_white}”", number(row.steer_text_white, 2, "-"),
         f"“{row.said_white_random}”", number(row.steer_text_white_random, 2, "-"))
        for row in best.itertuples()
    ]  # fmt: skip
