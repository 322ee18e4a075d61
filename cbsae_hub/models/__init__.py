"""The models this package publishes on the Hub, and what they are made of."""

from cbsae_hub.models.base import ConfigError, HubModel, ModelFileError, folder_revision, resolve_id
from cbsae_hub.models.cbsae import CBSAE
from cbsae_hub.models.provenance import Provenance
from cbsae_hub.models.sae import SAE, SAEOutput, TrainingLatents
from cbsae_hub.models.sparse_latents import SparseLatents

__all__ = [
    "CBSAE",
    "SAE",
    "ConfigError",
    "HubModel",
    "ModelFileError",
    "Provenance",
    "SAEOutput",
    "SparseLatents",
    "TrainingLatents",
    "folder_revision",
    "resolve_id",
]
