"""Stands in for the steering tabs where nothing can be steered: the reason, stored answers, and a command."""

from cbsae_hub.studio.server.generators import Unavailable
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.tabs.use_it import as_typed
from cbsae_hub.studio.view import html
from cbsae_hub.words import number

ROWS = 12


def instead_of(model: LoadedModel, name: str) -> str:
    """Returns what stands in place of the results of "llava" or "unclip"; "" where steering works."""
    try:
        getattr(model, name)
    except Unavailable as reason:
        usual = "llava-hf/llava-1.5-7b-hf" if name == "llava" else "me/my-unclip"
        generator = as_typed(model.generators.ids[name] or usual)
        command = f"cbsae serve {as_typed(model.model_id)} --{name} {generator}"
        return html.PIECES.unavailable(str(reason), command, model.alpha, _best_answers(model))
    return ""


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
