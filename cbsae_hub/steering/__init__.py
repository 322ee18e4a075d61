"""Steering changes latents of an SAE inside a model, and asks the model what it sees now."""

from typing import TYPE_CHECKING

from cbsae_hub.lazy import on_first_use

if TYPE_CHECKING:  # for editors and type checkers, which run no __getattr__
    from cbsae_hub.steering.base import SteeredGenerator as SteeredGenerator
    from cbsae_hub.steering.base import Steerer as Steerer
    from cbsae_hub.steering.clip import ClipZeroShotSteerer as ClipZeroShotSteerer
    from cbsae_hub.steering.edits import DiffMean as DiffMean
    from cbsae_hub.steering.edits import Edit as Edit
    from cbsae_hub.steering.edits import RandomDirection as RandomDirection
    from cbsae_hub.steering.edits import Steering as Steering
    from cbsae_hub.steering.edits import apply as apply
    from cbsae_hub.steering.edits import resolve as resolve
    from cbsae_hub.steering.llava import LlavaSteerer as LlavaSteerer
    from cbsae_hub.steering.stable_diffusion import StableDiffusionSteerer as StableDiffusionSteerer
    from cbsae_hub.steering.suppression import suppress as suppress
    from cbsae_hub.steering.unclip import UnclipSteerer as UnclipSteerer

_EDITS = ("Edit", "Steering", "DiffMean", "RandomDirection", "apply", "resolve")
_HOME_OF = dict.fromkeys(_EDITS, "cbsae_hub.steering.edits") | {
    "Steerer": "cbsae_hub.steering.base",
    "SteeredGenerator": "cbsae_hub.steering.base",
    "LlavaSteerer": "cbsae_hub.steering.llava",
    "UnclipSteerer": "cbsae_hub.steering.unclip",
    "StableDiffusionSteerer": "cbsae_hub.steering.stable_diffusion",
    "ClipZeroShotSteerer": "cbsae_hub.steering.clip",
    "suppress": "cbsae_hub.steering.suppression",
}

__all__ = [*_HOME_OF]

__getattr__, __dir__ = on_first_use(__name__, _HOME_OF, __all__)
