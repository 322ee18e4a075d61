"""The training loop that all models of Emoji World share: Accelerate, checkpoints without pickle, exact resume."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from cbsae_hub.hub.files import replace_file
from cbsae_hub.processes import make_accelerator
from training.emoji_world.glyphs import Atlas
from training.emoji_world.render import SceneRenderer


def use_two_threads() -> None:
    """Two threads compute, or one where OMP_NUM_THREADS says so: models of this size do not gain from more."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


def begin(seed: int, precision: str) -> tuple[Accelerator, SceneRenderer]:
    """An accelerator, and the scenes of a seed, with which torch's random numbers begin too."""
    use_two_threads()
    set_seed(seed)
    return make_accelerator(mixed_precision=precision), SceneRenderer(Atlas.build(), seed)


def _learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _save(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model.{name}": tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value).contiguous() for name, value in state.items()}
    with replace_file(path) as temporary:
        save_file(tensors, temporary, metadata={"step": str(step)})


def _load(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    weights, moments = {}, {}
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        for key in file.keys():
            kind, name = key.split(".", 1)
            if kind == "model":
                weights[name] = file.get_tensor(key)
            else:
                index, name = name.split(".", 1)
                moments.setdefault(int(index), {})[name] = file.get_tensor(key)
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def train(
    model: torch.nn.Module,
    make_batch: Callable[[int], tuple],
    accelerator: Accelerator,
    *,
    run: Path,
    steps: int,
    learning_rate: float,
    warmup: int = 200,
    weight_decay: float = 0.05,
    checkpoint_every: int = 250,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Trains a model with AdamW; continues from the run folder's checkpoint if there is one.

    Args:
        model: ``batch -> (loss, figures to log)``; a checkpoint holds its state, frozen parts included.
        make_batch: ``index -> arguments of the model``, which go to its device. The index, over all steps and
            processes, alone decides about a batch, so that a resumed run sees those of an uninterrupted one.
        accelerator: The run's.
        run: Folder of ``checkpoint.safetensors`` and ``log.jsonl``.
        steps: Optimiser steps in total.
        learning_rate: The peak; linear warm-up, cosine to zero.
        warmup: Steps of warm-up.
        weight_decay: The matrices' one; vectors and scalars have none.
        checkpoint_every: Steps between checkpoints.
        after_step: Function that is called with the step after each update, e.g. for a moving average.
    """
    run.mkdir(parents=True, exist_ok=True)
    model.to(accelerator.device)
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    checkpoint = run / "checkpoint.safetensors"
    start = _load(checkpoint, model, optimizer) if checkpoint.is_file() else 0
    prepared, stepper = accelerator.prepare(model, optimizer)
    prepared.train()
    hidden = not accelerator.is_main_process
    bar = tqdm(range(start, steps), initial=start, total=steps, disable=hidden, mininterval=5)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, steps, learning_rate, warmup)
        # On a CPU the backward pass of fused attention takes most of a step at this width; the formula is 3x faster.
        with sdpa_kernel(SDPBackend.MATH):
            batch = make_batch(step * accelerator.num_processes + accelerator.process_index)
            loss, figures = prepared(*send_to_device(batch, accelerator.device))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trainable, 1.0)
        stepper.step()
        stepper.zero_grad()
        if after_step:
            after_step(step)
        if accelerator.is_main_process:
            if (step + 1) % 50 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}", **{k: f"{v:.3f}" for k, v in figures.items()})
                with (run / "log.jsonl").open("a") as log:
                    log.write(json.dumps({"step": step + 1, "loss": loss.item(), **figures}) + "\n")
            if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
                _save(checkpoint, model, optimizer, step + 1)
    accelerator.wait_for_everyone()
