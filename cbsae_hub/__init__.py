"""Concept bottleneck sparse autoencoders for vision encoders.

The public names are imported on first use, so that ``import cbsae_hub`` costs nothing.
"""

from importlib import import_module
from typing import Any

from cbsae_hub.version import __version__

_HOME_OF = {
    "load": "cbsae_hub.models.auto",
    "SAE": "cbsae_hub.models.sae",
    "CBSAE": "cbsae_hub.models.cbsae",
    "VisionEncoder": "cbsae_hub.vision.encoder",
    "ConceptSet": "cbsae_hub.data.concepts",
    "NeuronTable": "cbsae_hub.pack",
    "Pack": "cbsae_hub.pack",
    "Edit": "cbsae_hub.steering.edits",
    "Steering": "cbsae_hub.steering.edits",
}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'cbsae_hub' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
