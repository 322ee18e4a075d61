"""SAEs of dictionary_learning and of sae-for-vlm, which trains with it: ``ae.pt`` or ``checkpoints/ae_<step>.pt``."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cbsae_hub.formats.encoders import Explained, at_hook, of_sae_for_vlm
from cbsae_hub.formats.foreign import Foreign, refuse, refuse_unknown, take, whole_number
from cbsae_hub.formats.pickled import read_tensors
from cbsae_hub.formats.source import Source
from cbsae_hub.hub.files import ConfigError

LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
MATRICES = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
GATED = {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec"}
GATED |= {"r_mag": "r_mag", "gate_bias": "b_gate", "mag_bias": "b_mag"}


class Layout(NamedTuple):
    """Names of our tensors in a class of dictionary_learning, and its activation function."""

    cls: str
    names: dict[str, str]
    activation: str
    subtracts: bool = True
    """Whether its encoder subtracts the decoder's bias."""


LAYOUTS = (
    Layout("AutoEncoder", {**LINEAR, "bias": "b_dec"}, "relu"),
    Layout("AutoEncoderNew", {**LINEAR, "decoder.bias": "b_dec"}, "relu", subtracts=False),
    Layout("AutoEncoderTopK", {**LINEAR, "b_dec": "b_dec"}, "topk"),
    Layout("BatchTopKSAE", {**LINEAR, "b_dec": "b_dec"}, "batch_topk"),
    Layout("MatryoshkaBatchTopKSAE", MATRICES, "batch_topk"),
    Layout("JumpReluAutoEncoder", {**MATRICES, "threshold": "threshold"}, "jumprelu", subtracts=False),
    Layout("GatedAutoEncoder", GATED, "gated"),
)
COUNTERS = ("k", "threshold", "group_sizes")  # of the classes that select by rank
EXPECTED = ("activation_dim", "threshold_beta", "threshold_start_step")
"""Settings of trainers that concern the training."""
OF_FOLDER = {"top_k": "AutoEncoderTopK", "batch_top_k": "BatchTopKSAE"}


def read(source: Source, weights: str, config_name: str | None) -> Foreign:
    """Reads one: ``relu((x - b) @ W + b_enc)``, and then what each class keeps of it."""
    content = read_tensors(source.path(weights), weights)
    config = source.json(config_name) if config_name else {}
    trainer = trainer if isinstance(trainer := config.get("trainer"), dict) else {}
    refuse_unknown(trainer, EXPECTED, f"the trainer of {config_name}")
    cls = trainer.get("dict_class")
    if cls is not None and cls not in (classes := [layout.cls for layout in LAYOUTS]):
        raise refuse(f"a {cls!r:.80}", classes, source.name)
    explained, folder = of_sae_for_vlm(source.words(weights))
    doubts: list[str] = []
    layout = _layout(content.tensors, cls, folder, weights, doubts)
    tensors = dict(content.tensors)
    counters = {name: tensors.pop(name, None) for name in COUNTERS if name not in layout.names}
    renamed = {layout.names[name]: tensor for name, tensor in take(tensors, layout.names, weights).items()}
    if "encoder.weight" in layout.names:
        renamed |= {name: renamed[name].T for name in ("W_enc", "W_dec")}
    settings: dict[str, Any] = {"activation": layout.activation}
    foreign = Foreign(weights, renamed, settings, config, explained, doubts=doubts)
    if layout.activation in ("topk", "batch_topk"):
        counts = {"k": _number(counters["k"]) if counters["k"] is not None else trainer.get("k")}
        settings["k"] = whole_number(counts, "k", weights)
    if layout.activation == "batch_topk":
        foreign.take_threshold(counters["threshold"])
    if (sizes := counters.get("group_sizes")) is not None:
        settings["group_sizes"] = [int(size) for size in sizes]
    if not layout.subtracts:
        foreign.keep_input()
    if layout.cls == "AutoEncoder":
        _unit_rows(foreign)
    if "step" in content.extras and "norm_factor" in content.extras:
        foreign.norm_factor = _norm_factor(content.extras["norm_factor"], weights)
        foreign.notes.append(
            f"a backup, whose weights were for activations divided by {foreign.norm_factor:.6g}: folded in"
        )
    if content.incomplete:
        foreign.notes.append("the file holds objects that are no tensors, which were not read")
    if foreign.explained == Explained():
        foreign.explained = _of_trainer(trainer)
    return foreign


def _layout(tensors: dict[str, Tensor], cls: Any, folder: str | None, whose: str, doubts: list[str]) -> Layout:
    """The layout of some tensors; which one, where two have the same names, the config or the folder must say."""
    names = tensors.keys() - set(COUNTERS)
    candidates = [layout for layout in LAYOUTS if layout.names.keys() - set(COUNTERS) == names]
    if "W_enc" in names:
        # JumpReLU has a threshold per neuron and no k
        jumps = "k" not in tensors and getattr(tensors.get("threshold"), "ndim", 0) == 1
        candidates = [layout for layout in candidates if (layout.activation == "jumprelu") == jumps]
    if not candidates:
        known_layouts = "; ".join(f"{layout.cls}: {', '.join(layout.names)}" for layout in LAYOUTS)
        raise ConfigError(
            f"{whose} holds {', '.join(sorted(tensors))[:300]}, which is no layout known. Known: {known_layouts}"
        )
    name = cls or OF_FOLDER.get(folder or "")
    if matches := [layout for layout in candidates if layout.cls == name]:
        return matches[0]
    if cls is not None:
        fitting = " or ".join(layout.cls for layout in candidates)
        raise ConfigError(f"{whose} holds the weights of {fitting}, but its config says that it is of {cls}")
    if len(candidates) == 1:
        return candidates[0]
    doubts.append(
        "no config says whether it is of AutoEncoderTopK or BatchTopKSAE: read as the latter, whose latents are those "
        "above its threshold (if that is unset, the k largest, as in the former)"
    )
    return next(layout for layout in candidates if layout.cls == "BatchTopKSAE")


def _unit_rows(foreign: Foreign) -> None:
    """Makes decoder rows of an AutoEncoder unit, as the library does when it loads one."""
    norms = foreign.weights["W_dec"].double().norm(dim=-1)
    if torch.allclose(norms, torch.ones_like(norms)):
        return
    foreign.scale_neurons(norms.clamp_min(torch.finfo(norms.dtype).tiny))
    foreign.notes.append(
        "decoder rows were made unit, as the library makes them: a latent is that of the file times the row's length"
    )


def _of_trainer(trainer: dict[str, Any]) -> Explained:
    """Reads the trainer's config, which may be of a vision encoder."""
    layer = trainer.get("layer")
    hook = trainer.get("submodule_name")
    if not isinstance(hook, str) and isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0:
        hook = f"layers.{layer}"
    return at_hook(trainer.get("lm_name"), hook)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _norm_factor(value: Any, whose: str) -> float:
    value = _number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ConfigError(f"{whose} is a backup whose norm_factor {value!r:.80} is no number above 0")
    return float(value)
