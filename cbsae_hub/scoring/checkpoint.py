"""Sums of a scoring run on disk, so that it can go on where it was interrupted."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cbsae_hub.hub.files import replace_file, require_same_settings
from cbsae_hub.metrics.streaming import StreamingMetric


def save(file: Path, metrics: Mapping[str, StreamingMetric], identity: Mapping[str, Any], done: int) -> None:
    """The sums of one process after so many batches."""
    tensors = {}
    for name, metric in metrics.items():
        for state, value in metric.metric_state.items():
            if isinstance(value, list):
                value = torch.cat(value) if value else None
            if value is not None:
                tensors[f"{name}.{state}"] = value.contiguous()
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as partial:
        save_file(tensors, partial, metadata={"done": str(done), "identity": json.dumps(identity, sort_keys=True)})


def load(file: Path, metrics: Mapping[str, StreamingMetric], identity: Mapping[str, Any]) -> int:
    """Puts saved sums into the metrics; returns how many batches they are of."""
    with safe_open(file, framework="pt") as saved:
        facts = saved.metadata()
        require_same_settings(json.loads(facts["identity"]), identity, file)
        for key in saved.keys():
            name, state = key.split(".", 1)
            value = saved.get_tensor(key)
            metric = metrics[name]
            setattr(metric, state, [value] if isinstance(getattr(metric, state), list) else value)
    return int(facts["done"])
