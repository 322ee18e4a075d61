"""What the steering tabs show where nothing can be steered: why, what was measured, and how to run it elsewhere."""

import math

from cbsae_hub.studio.server.generators import Unavailable
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.tabs.use_it import as_typed
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.html import escape

SHOWN = 12


def instead_of(loaded: Loaded, which: str) -> str:
    """What stands in place of a steering tab's results; "" where steering works.

    Args:
        loaded: The model.
        which: "llava" or "unclip".
    """
    try:
        getattr(loaded, which)
    except Unavailable as reason:
        return _stored(loaded, which, str(reason))
    return ""


def _stored(loaded: Loaded, which: str, reason: str) -> str:
    """The reason, the command, and the neurons that steered best when scores were measured."""
    given = loaded.generators.ids[which] or ("llava-hf/llava-1.5-7b-hf" if which == "llava" else "me/my-unclip")
    command = f"python app.py --model {as_typed(loaded.model_id)} --{which} {as_typed(given)}"
    return (
        f'<section class="cb-card" role="status"><p class="cb-note">{escape(reason)}</p>'
        f"<p>On a machine that can carry it:</p><pre><code>{escape(command)}</code></pre>"
        f"{_best_words(loaded)}</section>"
    )


def _best_words(loaded: Loaded) -> str:
    """A table of stored answers."""
    frame = loaded.pack.neurons.frame
    if loaded.alpha is None or "said_white" not in frame:
        return "<p>Steerability of this model has not been measured: training/score_neurons.py --steer does it.</p>"
    best = frame[frame["steerability"].notna()].sort_values("steerability", ascending=False).head(SHOWN)
    rows = [
        (html.neuron_title(row), f"“{row.said_white}”", _two(row.steer_text_white), f"“{row.said_white_random}”",
         _two(row.steer_text_white_random))
        for row in best.itertuples()
    ]  # fmt: skip
    columns = ("Neuron", "LLaVA said", "nearness to the name", "random direction", "nearness")
    return (
        f"<p>What was measured when each was set to {loaded.alpha:g} on a white picture:</p>{html.table(columns, rows)}"
    )


def _two(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
