"""The sums of a scoring run on disk, so that it can go on where it was interrupted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbsae_hub.hub.files import ModelFileError, plain, require_same_settings
from cbsae_hub.metrics.streaming import StreamingMetric
from cbsae_hub.trainers.run import load_checkpoint, save_checkpoint


def save(file: Path, metrics: Mapping[str, StreamingMetric], identity: Mapping[str, Any], batches: int) -> None:
    """Saves the sums of one process after so many batches."""
    states = {f"{name}.{state}": value for name, one in metrics.items() for state, value in one.metric_state.items()}
    tensors = {
        key: torch.cat(value) if isinstance(value, list) else value
        for key, value in states.items()
        if isinstance(value, Tensor) or value
    }
    save_checkpoint(file, tensors, {"batches": batches, "identity": plain(identity)})


def load(file: Path, metrics: Mapping[str, StreamingMetric], identity: Mapping[str, Any]) -> int:
    """Puts saved sums into the metrics.

    Returns:
        The number of their batches; 0 if the file does not exist.

    Raises:
        OtherSettings: If they are of a run with other settings.
        ModelFileError: If the file is damaged, or of another version of the package.
    """
    checkpoint = load_checkpoint(file, "cpu")
    if checkpoint is None:
        return 0
    tensors, facts = checkpoint
    require_same_settings(facts["identity"], identity, file)
    for key, value in tensors.items():
        name, _, state = key.partition(".")
        metric = metrics.get(name)
        if not hasattr(metric, state):
            raise ModelFileError(f"{file} is of another version of cbsae_hub: delete it to start again")
        setattr(metric, state, [value] if isinstance(getattr(metric, state), list) else value)
    return facts["batches"]
