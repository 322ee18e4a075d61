"""Times the parts of a recipe at its own shapes, with random weights and data, and keeps the figures by device."""

import io
import json
import logging
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import costs
import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from PIL import Image

from cbsae_hub import CBSAE, SAE
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.hub.files import write_text
from cbsae_hub.trainers.cbsae.bottleneck import BottleneckState
from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig
from cbsae_hub.trainers.sae.state import TrainingState

logger = logging.getLogger(__name__)

PROBE_BATCH = 256  # tokens of the first, small step, which tells how long a whole one takes
PATIENCE = 120.0  # seconds that the timed steps of one part may take
STEPS = 3
PICTURE = (500, 375)  # ImageNet's most frequent size


def device_name() -> str:
    """What figures are valid for."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Figures of this device; none if there is no file.

    Raises:
        ValueError: If the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8")).get(device_name(), {})
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} holds no figures: {error}") from error


def encoder_key(encoder: VisionEncoder) -> str:
    """Name of a figure: seconds an image."""
    side = encoder.model.config.image_size
    return f"encoder {encoder.model.config.model_type} {encoder.d_in} x {encoder.num_layers} at {side}"


def sae_key(sae: SAE, config: SAETrainConfig) -> str:
    """Name of a figure: seconds a step."""
    precision = config.mixed_precision
    return f"sae {sae.activation} {sae.d_in} x {sae.d_sae}, k {sae.k}, batch {config.batch_size}, {precision}"


def bottleneck_key(cb: CBSAE, config: CBSAETrainConfig) -> str:
    """Name of a figure: seconds a step."""
    shape = f"{cb.d_in} x {cb.d_sae} and {len(cb.concepts)}"
    return f"bottleneck {shape}, k {cb.sae.k} and {cb.cb_k}, batch {config.batch_size}, {'+'.join(config.objectives)}"


def keep(file: Path, key: str, figure: dict[str, Any]) -> None:
    """Adds a figure of this device to the file."""
    everything = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    everything.setdefault(device_name(), {})[key] = figure
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(everything, indent=1) + "\n")
    logger.info("%s: %s", key, figure)


def time_encoder(encoder: VisionEncoder, batch: int = 8) -> dict[str, Any]:
    """Seconds an image: of an encoder like this one, all of whose blocks run, and of reading a JPEG for it.

    Args:
        encoder: Of the shape; it may be on "meta".
        batch: Images a forward pass.
    """
    real = costs.make_encoder(encoder.model.config, None, encoder.layer, encoder.tokens, _device())
    noise = np.random.default_rng(0).integers(0, 256, (PICTURE[1] // 8, PICTURE[0] // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(PICTURE).save(file, "jpeg", quality=90)

    def read() -> torch.Tensor:
        return real.pixel_values([Image.open(io.BytesIO(file.getvalue())) for _ in range(batch)])

    reading, pixels = _seconds(read) / batch, read()
    return {"seconds": _seconds(lambda: real(pixels)) / batch, "reading_seconds": reading}


def time_sae(config: SAETrainConfig, d_in: int) -> dict[str, Any]:
    """Seconds a step of training an SAE, on noise."""
    with _accelerator(config.mixed_precision) as accelerator:
        state = TrainingState(costs.make_sae(config, d_in, accelerator.device), config, accelerator)
        return _time_step(lambda x: state.update(x / d_in**0.5), config.batch_size, d_in)


def time_bottleneck(cb: CBSAE, config: CBSAETrainConfig) -> dict[str, Any]:
    """Seconds a step of training a bottleneck of this shape, on noise."""
    with _accelerator("no") as accelerator:
        real = costs.make_bottleneck(cb.sae, cb.d_sae, len(cb.concepts), cb.cb_k, accelerator.device)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2 * PROBE_BATCH, cb.d_in, generator=generator).to(accelerator.device)
        if real.sae.threshold is not None:
            real.sae.calibrate_threshold(x)
        embeddings = torch.randn(config.batch_size, 512, generator=generator)
        texts = torch.randn(len(cb.concepts), 512, generator=generator)
        state = BottleneckState(real, config, embeddings, texts, accelerator)
        return _time_step(lambda x: state.update(x, torch.arange(len(x))), config.batch_size, cb.d_in)


@contextmanager
def _accelerator(precision: str) -> Iterator[Accelerator]:
    """One of its own precision: Accelerate keeps the first for the whole process, which here has several."""
    AcceleratorState._reset_state()
    try:
        yield Accelerator(mixed_precision=precision)
    finally:
        AcceleratorState._reset_state()


def _device() -> torch.device:
    return PartialState().device


def _time_step(step: Callable[[torch.Tensor], Any], batch: int, width: int) -> dict[str, Any]:
    """Seconds of a step on a batch; of a smaller one in proportion, said so, where the whole takes too long."""
    x = torch.randn(batch, width, generator=torch.Generator().manual_seed(1)).to(_device())
    small = min(batch, PROBE_BATCH)
    seconds = _seconds(lambda: step(x[:small]), 1)
    if small == batch or seconds * batch / small * (STEPS + 1) <= PATIENCE:
        return {"seconds": _seconds(lambda: step(x)), "batch_size": batch}
    seconds = _seconds(lambda: step(x[:small]))
    note = f"time scaled up from batches of {small}: at most"
    return {"seconds": seconds * batch / small, "batch_size": small, "note": note}


def _seconds(do: Callable[[], Any], times: int = STEPS) -> float:
    """Median time of a few calls, after one that is not counted."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        do()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return median(taken[1:])
