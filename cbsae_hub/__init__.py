"""Concept bottleneck sparse autoencoders for vision encoders.

The public names are imported on first use, so that ``import cbsae_hub`` costs nothing.
"""

from typing import TYPE_CHECKING

from cbsae_hub.lazy import on_first_use
from cbsae_hub.version import __version__

if TYPE_CHECKING:  # for editors and type checkers, which run no __getattr__
    from cbsae_hub.data.concepts import ConceptSet as ConceptSet
    from cbsae_hub.encoders.vision import VisionEncoder as VisionEncoder
    from cbsae_hub.formats.load import load as load
    from cbsae_hub.models.cbsae import CBSAE as CBSAE
    from cbsae_hub.models.sae import SAE as SAE
    from cbsae_hub.neurons.pack import Pack as Pack
    from cbsae_hub.neurons.table import NeuronTable as NeuronTable
    from cbsae_hub.steering.edits import Edit as Edit
    from cbsae_hub.steering.edits import Steering as Steering

_HOME_OF = {
    "load": "cbsae_hub.formats.load",
    "SAE": "cbsae_hub.models.sae",
    "CBSAE": "cbsae_hub.models.cbsae",
    "VisionEncoder": "cbsae_hub.encoders.vision",
    "ConceptSet": "cbsae_hub.data.concepts",
    "NeuronTable": "cbsae_hub.neurons.table",
    "Pack": "cbsae_hub.neurons.pack",
    "Edit": "cbsae_hub.steering.edits",
    "Steering": "cbsae_hub.steering.edits",
}

__all__ = ["__version__", *_HOME_OF]

__getattr__, __dir__ = on_first_use(__name__, _HOME_OF, __all__)
