"""Steering: latents of an SAE are changed inside a model, and the model is asked what it sees now."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers, which run no __getattr__
    from cbsae_hub.steering.clip_zero_shot import ClipZeroShotSteerer as ClipZeroShotSteerer
    from cbsae_hub.steering.edits import DiffMean as DiffMean
    from cbsae_hub.steering.edits import Edit as Edit
    from cbsae_hub.steering.edits import RandomDirection as RandomDirection
    from cbsae_hub.steering.edits import Steering as Steering
    from cbsae_hub.steering.edits import apply as apply
    from cbsae_hub.steering.edits import resolve as resolve
    from cbsae_hub.steering.llava import LlavaSteerer as LlavaSteerer
    from cbsae_hub.steering.unclip import UnclipSteerer as UnclipSteerer

_HOME_OF = {
    "Edit": "cbsae_hub.steering.edits",
    "Steering": "cbsae_hub.steering.edits",
    "DiffMean": "cbsae_hub.steering.edits",
    "RandomDirection": "cbsae_hub.steering.edits",
    "apply": "cbsae_hub.steering.edits",
    "resolve": "cbsae_hub.steering.edits",
    "LlavaSteerer": "cbsae_hub.steering.llava",
    "UnclipSteerer": "cbsae_hub.steering.unclip",
    "ClipZeroShotSteerer": "cbsae_hub.steering.clip_zero_shot",
}

__all__ = [*_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'cbsae_hub.steering' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
