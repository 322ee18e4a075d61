"""Disk and memory that the steps of a recipe take, from the shapes of what they make, and what this machine lacks."""

import copy
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from cbsae_hub import CBSAE, SAE
from cbsae_hub.encoders.families import family_of, prefix_tokens
from cbsae_hub.encoders.passages import random_count, require_tokens
from cbsae_hub.encoders.site import ResidualSite, find_blocks
from cbsae_hub.encoders.text import CLASSES
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig

FLOAT32 = 4
TOKENS_AT_ONCE = 256  # whose latents inference holds, see cbsae_hub.models.calibration


@dataclass
class Step:
    """The costs of one step of a recipe.

    Attributes:
        name: Section of the recipe.
        shapes: Numbers of images, neurons, concepts and the like, in words.
        disk: Folder and bytes, by what they are for.
        memory: Bytes at the device; 0 if not known.
        host: Bytes beside the device.
    """

    name: str
    shapes: str = ""
    disk: dict[str, tuple[Path, int]] = field(default_factory=dict)
    memory: int = 0
    host: int = 0


def make_encoder(
    config: Any,
    pixels: int | tuple[int, int] | None,
    layer: int,
    tokens: str,
    device: Any = "meta",
    processor: Any = None,
) -> VisionEncoder:
    """A vision encoder with weights that mean nothing, and CLIP's preprocessing; on "meta" it has shapes and no memory.

    The config is that of the encoder in transformers, or of a CLIP that contains it. Pictures have the size that the
    encoder's own processor makes them, else ``pixels``, a side or height and width, else what the config says.
    :class:`VisionEncoder` raises a ValueError for a wrong layer or tokens.
    """
    vision = copy.deepcopy(getattr(config, "vision_config", config))
    family = family_of(vision)
    if processor is None:
        size = vision.image_size = pixels or vision.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        processor = transformers.CLIPImageProcessor(
            size={"shortest_edge": max(height, width)}, crop_size={"height": height, "width": width}
        )
    with torch.device(device):
        model = getattr(transformers, family.model)(vision, **family.options)
    return VisionEncoder(model, processor, layer, tokens)


@dataclass(frozen=True)
class TowerShape:
    """A tower that reads texts, without weights.

    Attributes:
        model: The model, on the meta device.
        layer: Block that is read.
        num_layers: Number of blocks.
        d_in: Width of the activations.
        num_tokens: Tokens of an item at most, of a forward pass.
        tokens_per_image: Rows that an item gives, in the mean.
    """

    model: torch.nn.Module
    layer: int
    num_layers: int
    d_in: int
    num_tokens: int
    tokens_per_image: float


AnyEncoder = VisionEncoder | TowerShape


def make_tower(config: Any, tower: str, layer: int, tokens: str, mean_tokens: float | None) -> TowerShape:
    """The shape of a text encoder, or of what is read inside a LLaVA, by its config in transformers.

    ``mean_tokens`` are stored of an item where the number depends on the item.

    Raises:
        ValueError: For a wrong layer or tokens, a model of another kind, or if ``mean_tokens`` is missing.
    """
    require_tokens(tokens, tower)
    kinds = [*CLASSES] if tower == "text" else ["llava"]
    if config.model_type not in kinds:
        raise ValueError(f"a model of type {config.model_type!r} has no tower {tower!r}; known are {', '.join(kinds)}")
    with torch.device("meta"):
        if tower == "text":
            config = getattr(config, "text_config", config)
            model = getattr(transformers, CLASSES[config.model_type])(config)
            longest = config.max_position_embeddings
            fixed = {"end": 1, "all": longest}
        else:
            model = transformers.LlavaForConditionalGeneration(config)
            vision, config, cut = config.vision_config, config.text_config, config.vision_feature_select_strategy
            image = (vision.image_size // vision.patch_size) ** 2 + prefix_tokens(vision) - (cut == "default")
            longest, fixed = image + 256, {"image": image}  # a question and an answer beside the image
    stored = fixed.get(tokens, random_count(tokens) or mean_tokens)
    if stored is None:
        raise ValueError(f"dry_run.tokens_per_text, the mean number of tokens that are {tokens}, is missing")
    site = ResidualSite.find(model, layer, tower)
    return TowerShape(model, site.layer, len(find_blocks(model, tower)[0]), config.hidden_size, longest, stored)


def make_sae(config: SAETrainConfig, d_in: int, device: str = "meta") -> SAE:
    """The SAE that a config asks for, whose class raises a ValueError for a wrong one; see :func:`make_encoder`."""
    sizes = config.group_sizes(d_in)
    with torch.device(device):
        return SAE(d_in, config.neurons(d_in), config.activation, config.k, sizes, seed=config.seed)


def make_bottleneck(sae: SAE, retained: int, concepts: int, cb_k: int = 5, device: str = "meta") -> CBSAE:
    """A bottleneck beside as many neurons as are retained; see :func:`make_sae`."""
    config = {"d_in": sae.d_in, "d_sae": retained, "activation": sae.activation, "k": sae.k}
    with torch.device(device):
        return CBSAE(config, range(retained), [f"concept {i}" for i in range(concepts)], cb_k, seed=0)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, those on "meta" too."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def model_bytes(model: torch.nn.Module) -> int:
    """Bytes of what a model's file holds, but for its header."""
    return tensor_bytes(model.state_dict().values())


def store_bytes(images: int, tokens: float, width: int, dtype: str) -> int:
    """Bytes of the rows of an activation store; shards' headers and the manifest are thousandths of it."""
    return round(images * tokens) * width * getattr(torch, dtype).itemsize


def sae_checkpoint_bytes(sae: SAE) -> int:
    """Weights, two moments of each, and a counter for each neuron."""
    return model_bytes(sae) + 2 * tensor_bytes(sae.parameters()) + 8 * sae.d_sae


def bottleneck_checkpoint_bytes(cb: CBSAE, config: CBSAETrainConfig) -> int:
    """Weights, and two moments for each of the matrices that an objective trains."""
    return tensor_bytes((cb.W_enc_cb, cb.W_dec_cb)) + _moments(cb, config)


def training_disk(model: torch.nn.Module, checkpoint: int) -> int:
    """Bytes that a run needs while it runs: a new checkpoint lies beside the old one until it is whole."""
    return checkpoint + max(checkpoint, model_bytes(model))


def encoder_memory(encoder: AnyEncoder, batch: int) -> int:
    """Weights, and what a block makes of all tokens of a batch: queries, keys, values, the MLP's four widths ..."""
    return tensor_bytes(encoder.model.parameters()) + 10 * batch * encoder.num_tokens * encoder.d_in * FLOAT32


def sae_memory(sae: SAE, config: SAETrainConfig) -> int:
    """Device memory of SAE training, at its worst: when all neurons are dead.

    Held: weights, gradients, two moments, and the latents of a batch. On top comes the larger of the auxiliary loss
    (pre-activations of the dead neurons, those selected, their gradient) and of a checkpoint (a transposed W_enc).
    """
    weights = tensor_bytes(sae.parameters())
    latents = config.batch_size * sae.d_sae
    constant = 4 * weights + latents * (2 if config.mixed_precision == "bf16" else FLOAT32)
    return constant + max(3 * latents * FLOAT32, tensor_bytes([sae.W_enc]))


def bottleneck_memory(parent: SAE, cb: CBSAE, config: CBSAETrainConfig) -> int:
    """Device memory of bottleneck training.

    The parent and two copies of what is retained of it, the bottleneck in training, the latents of inference, and the
    rows and concepts of a batch with what their gradients need.
    """
    bottleneck = 3 * tensor_bytes((cb.W_enc_cb, cb.W_dec_cb)) + _moments(cb, config)
    batch = config.batch_size * (12 * len(cb.concepts) + 6 * parent.d_in) + TOKENS_AT_ONCE * cb.d_sae
    return model_bytes(parent) + 2 * model_bytes(cb) + bottleneck + batch * FLOAT32


def scoring_memory(sae: SAE, width: int, concepts: int, images: int, top_k: int) -> int:
    """Memory of the scores of all neurons.

    Sums of embeddings of 8 bytes, top images, a score per concept, and the probabilities of concepts in each image.
    """
    sums = 2 * 8 * sae.d_sae * width
    names = sae.d_sae * (12 * top_k + 2 * FLOAT32 * concepts) + images * FLOAT32 * (width + 2 * concepts)
    return model_bytes(sae) + sums + names + TOKENS_AT_ONCE * sae.d_sae * FLOAT32


def _moments(cb: CBSAE, config: CBSAETrainConfig) -> int:
    matrices = {"reconstruction": 1 + config.reconstruction_moves_encoder, "interpretability": 1, "steerability": 1}
    return 2 * tensor_bytes([cb.W_enc_cb]) * sum(matrices[name] for name in config.objectives)


def device_memory() -> int:
    """Bytes of memory of the device that steps run on."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else host_memory()


def host_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(folder: Path) -> int:
    """Bytes that are free on an existing folder's file system."""
    return shutil.disk_usage(folder).free


def shortages(steps: Sequence[Step]) -> list[str]:
    """Names the shortages of this machine, a line each: memory step by step, disk for all steps together."""
    lacking = [
        f"{step.name}: needs {spelled(needed)} of memory, the {where} has {spelled(size)}"
        for step in steps
        for where, needed, size in (("device", step.memory, device_memory()), ("host", step.host, host_memory()))
        if needed > size
    ]
    disks: dict[int, tuple[Path, list[tuple[int, str]]]] = {}  # by file system: a folder there, and what goes there
    for step in steps:
        for purpose, (path, size) in step.disk.items():
            folder = existing_folder(path)
            missing = max(0, size - (folder_bytes(path) if path.is_dir() else 0))
            disks.setdefault(folder.stat().st_dev, (folder, []))[1].append((missing, purpose))
    for folder, needs in disks.values():
        total, free = sum(size for size, _ in needs), free_bytes(folder)
        if total > free:
            largest = ", ".join(f"{purpose} {spelled(size)}" for size, purpose in sorted(needs, reverse=True)[:5])
            lacking.append(
                f"disk: {spelled(total)} are needed where {folder} is, {spelled(free)} are free; "
                f"the largest parts: {largest}"
            )
    return lacking


def existing_folder(path: Path) -> Path:
    """The nearest folder that exists: a path will be on its file system."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def folder_bytes(path: Path) -> int:
    """Bytes of the files that a folder holds already."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def spelled(size: float) -> str:
    """Bytes in words."""
    if not size:
        return ""
    unit, power = next((one for one in (("GB", 9), ("MB", 6)) if size >= 10 ** one[1]), ("kB", 3))
    return f"{size / 10**power:.{1 if size < 10 ** (power + 2) else 0}f} {unit}"
