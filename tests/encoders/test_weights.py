"""Loading in several threads, as a server does it: transformers changes its own classes meanwhile."""

import threading

import pytest
from transformers import PreTrainedModel

from cbsae_hub import SAE, VisionEncoder
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.sentences import Sentences
from cbsae_hub.encoders.weights import load_complete
from cbsae_hub.steering.clip import ClipZeroShotSteerer
from cbsae_hub.steering.unclip import UnclipSteerer
from training.emoji_world.paths import HUB

CLIP, SPARSE = HUB / "emoji-clip", HUB / "emoji-sae"
DOORS = {
    "weights": lambda: load_complete("CLIPModel", CLIP, str(CLIP)),
    "encoder": lambda: VisionEncoder.from_pretrained(CLIP, 4),
    "judge": lambda: ClipLike.from_pretrained(CLIP),
    "clip": lambda: ClipZeroShotSteerer.from_pretrained(CLIP, SAE.from_pretrained(SPARSE), ["owl", "pizza"]),
    "sentences": lambda: Sentences.from_pretrained("sentence-transformers/all-MiniLM-L6-v2"),
    "unclip": lambda: UnclipSteerer.from_pretrained(HUB / "emoji-unclip", SAE.from_pretrained(SPARSE)),
}


@pytest.mark.parametrize("door", DOORS)
def test_loads_in_two_threads_leave_transformers_as_it_was(door, monkeypatch):
    """The first load is held until the second has begun, the second until the first has ended, if they may overlap."""
    first_began, second_began, first_ended = threading.Event(), threading.Event(), threading.Event()
    real = PreTrainedModel.__init__
    held = threading.local()

    def slow(self, *args, **kwargs):
        if not getattr(held, "done", False):
            held.done = True
            if threading.current_thread().name == "first":
                first_began.set()
                second_began.wait(0.5)
            else:
                second_began.set()
                first_ended.wait(0.5)
        real(self, *args, **kwargs)

    def first():
        DOORS[door]()
        first_ended.set()

    tie, errors = PreTrainedModel.tie_weights, []
    monkeypatch.setattr(PreTrainedModel, "tie_weights", tie)  # so that a failure does not spoil other tests
    monkeypatch.setattr(PreTrainedModel, "__init__", slow)
    monkeypatch.setattr(threading, "excepthook", lambda args: errors.append(args.exc_value))
    threads = [threading.Thread(target=first, name="first"), threading.Thread(target=DOORS[door], name="second")]
    threads[0].start()
    first_began.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert not errors
    assert PreTrainedModel.tie_weights is tie
