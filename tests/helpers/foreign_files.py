"""Files of other projects' SAEs, written here as those projects lay them out, with their formulas in float64."""

import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

K = 5


@dataclass
class Weights:
    """Random weights under neutral names, ``[d_in, d_sae]`` and the like, and tokens to try them on."""

    d_in: int = 12
    d_sae: int = 48
    seed: int = 0
    names: dict[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self):
        generator = torch.Generator().manual_seed(self.seed)
        shapes = {"enc": (self.d_in, self.d_sae), "dec": (self.d_sae, self.d_in), "b_dec": (self.d_in,)}
        shapes |= dict.fromkeys(("b_enc", "b_gate", "b_mag", "r_mag"), (self.d_sae,))
        for name, shape in shapes.items():
            setattr(self, name, torch.randn(shape, generator=generator) / self.d_in**0.5)
        self.theta = 0.3 + 0.5 * torch.rand(self.d_sae, generator=generator)
        self.x = 3 * torch.randn(40, self.d_in, generator=generator) + torch.randn(self.d_in, generator=generator)

    def double(self, name: str) -> np.ndarray:
        return getattr(self, name).double().numpy()


def relu(pre):
    return np.maximum(pre, 0)


def above(threshold):
    return lambda pre: relu(pre) * (pre > threshold)


def largest(k):
    """The k largest of each token, one by one."""

    def keep(pre):
        kept = np.zeros_like(pre)
        for row, values in enumerate(pre):
            best = np.argsort(-values)[:k]
            kept[row, best] = relu(values[best])
        return kept

    return keep


def layer_norm(x):
    mean, deviation = x.mean(-1, keepdims=True), x.std(-1, keepdims=True, ddof=1)
    return (x - mean) / (deviation + 1e-5), lambda y: y * deviation + mean


def constant_norm(x):
    factor = x.shape[-1] ** 0.5 / np.sqrt((x * x).sum(-1, keepdims=True))
    return x * factor, lambda y: y / factor


def unnormalised(x):
    return x, lambda y: y


@dataclass
class Golden:
    """A file of another project, and what that project makes of tokens with it."""

    path: Path
    x: torch.Tensor
    latents: np.ndarray
    reconstruction: np.ndarray


def golden(path: Path, w: Weights, choose: Callable, *, subtract=True, norm=unnormalised) -> Golden:
    """By the formulas ``choose((norm(x) - b_dec) @ enc + b_enc)`` and ``denorm(z @ dec + b_dec)``."""
    tokens, back = norm(w.x.double().numpy())
    pre = (tokens - (w.double("b_dec") if subtract else 0)) @ w.double("enc") + w.double("b_enc")
    latents = choose(pre)
    return Golden(path, w.x, latents, back(latents @ w.double("dec") + w.double("b_dec")))


def gated(path: Path, w: Weights, *, subtract=True, norm=unnormalised) -> Golden:
    tokens, back = norm(w.x.double().numpy())
    product = (tokens - (w.double("b_dec") if subtract else 0)) @ w.double("enc")
    latents = (product + w.double("b_gate") > 0) * relu(product * np.exp(w.double("r_mag")) + w.double("b_mag"))
    return Golden(path, w.x, latents, back(latents @ w.double("dec") + w.double("b_dec")))


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------------------------- SAELens


def saelens(folder: Path, w: Weights, architecture="standard", norm="none", tensors=None, metadata=None, **more):
    config = {
        "architecture": architecture,
        "d_in": w.d_in,
        "d_sae": w.d_sae,
        "dtype": "float32",
        "device": "cuda",
        "apply_b_dec_to_input": True,
        "normalize_activations": norm,
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.22.1", "model_name": "me/encoder", **(metadata or {})},
        **more,
    }
    write_json(folder / "cfg.json", config)
    stored = {"W_enc": w.enc, "W_dec": w.dec, "b_dec": w.b_dec}
    if architecture == "gated":
        stored |= {"b_gate": w.b_gate, "b_mag": w.b_mag, "r_mag": w.r_mag}
    else:
        stored["b_enc"] = w.b_enc
    save_file(stored | (tensors or {}), folder / "sae_weights.safetensors")
    return folder


def saelens_standard(folder, w):
    return golden(saelens(folder, w), w, relu)


def saelens_raw_input(folder, w):
    return golden(saelens(folder, w, apply_b_dec_to_input=False), w, relu, subtract=False)


def saelens_topk(folder, w):
    return golden(saelens(folder, w, "topk", k=K), w, largest(K))


def saelens_topk_rescaled(folder, w):
    """Selection by latents times the norms of decoder rows; decoding divides by them again."""
    saelens(folder, w, "topk", k=K, rescale_acts_by_decoder_norm=True)
    norms = np.linalg.norm(w.double("dec"), axis=-1)
    result = golden(folder, w, lambda pre: largest(K)(pre * norms))
    result.reconstruction = (result.latents / norms) @ w.double("dec") + w.double("b_dec")
    return result


def saelens_jumprelu(folder, w):
    return golden(saelens(folder, w, "jumprelu", tensors={"threshold": w.theta}), w, above(w.double("theta")))


def saelens_gated(folder, w):
    return gated(saelens(folder, w, "gated"), w)


def saelens_gated_raw_input(folder, w):
    return gated(saelens(folder, w, "gated", apply_b_dec_to_input=False), w, subtract=False)


def saelens_layer_norm(folder, w):
    return golden(saelens(folder, w, norm="layer_norm"), w, relu, norm=layer_norm)


def saelens_constant_norm(folder, w):
    return golden(saelens(folder, w, "topk", "constant_norm_rescale", k=K), w, largest(K), norm=constant_norm)


def saelens_training(folder, w):
    """A checkpoint of a Matryoshka SAE that is still trained: not yet saved as jumprelu."""
    tensors = {"topk_threshold": torch.tensor(0.4, dtype=torch.float64)}
    widths = [w.d_sae // 4, w.d_sae]
    saelens(folder, w, "matryoshka_batchtopk", tensors=tensors, k=float(K), matryoshka_widths=widths)
    return golden(folder, w, above(0.4))


def saelens_5_topk(folder, w):
    """Version 4 or 5 with an architecture of that name."""
    more = {"activation_fn": "topk", "activation_fn_kwargs": {"k": K}, "normalize_sae_decoder": True}
    saelens(folder, w, "topk", metadata={"sae_lens_version": "5.9.1"}, **more)
    return golden(folder, w, largest(K))


def saelens_5_scaled(folder, w, factor=0.25):
    """A checkpoint of version 4 or 5, whose scale of activations is in the state of the activations' store."""
    saelens(folder, w, norm="expected_average_only_in", activation_fn="relu", activation_fn_kwargs={})
    state = {"estimated_norm_scaling_factor": torch.tensor(factor), "n_dataset_processed": torch.tensor(3)}
    save_file(state, folder / "activations_store_state.safetensors")
    return golden(folder, w, relu, norm=lambda x: (x * factor, lambda y: y / factor))


def saelens_before_6(folder, w):
    """Version 3: no metadata, the activation function and its settings apart."""
    saelens(folder, w, "standard", activation_fn_str="topk", activation_fn_kwargs={"k": K}, model_name="gpt2-small")
    config = json.loads((folder / "cfg.json").read_text())
    for name in ("metadata", "reshape_activations"):
        del config[name]
    write_json(folder / "cfg.json", config | {"hook_point": "blocks.3.hook_resid_pre", "normalize_activations": False})
    return golden(folder, w, largest(K))


# ------------------------------------------------------------------------------------------- dictionary_learning


def _trainer(folder: Path, cls: str, **more) -> None:
    trainer = {"dict_class": cls, "trainer_class": "Trainer", "layer": 3, "lm_name": "me/encoder", **more}
    write_json(folder / "trainer_0" / "config.json", {"trainer": trainer, "buffer": {"d_submodule": 12}})


def _linear(w: Weights) -> dict:
    return {"encoder.weight": w.enc.T, "encoder.bias": w.b_enc, "decoder.weight": w.dec.T}


def _counters(threshold: float) -> dict:
    return {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(threshold)}


def _save(folder: Path, content, name="ae.pt") -> Path:
    path = folder / "trainer_0" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return folder


def dl_autoencoder(folder, w):
    """The library makes decoder rows unit when it loads one: latents take over their length."""
    _trainer(folder, "AutoEncoder")
    result = golden(_save(folder, _linear(w) | {"bias": w.b_dec}), w, relu)
    result.latents = result.latents * np.linalg.norm(w.double("dec"), axis=-1)
    return result


def dl_autoencoder_new(folder, w):
    _trainer(folder, "AutoEncoderNew")
    return golden(_save(folder, _linear(w) | {"decoder.bias": w.b_dec}), w, relu, subtract=False)


def dl_topk(folder, w):
    _trainer(folder, "AutoEncoderTopK", k=K)
    return golden(_save(folder, _linear(w) | {"b_dec": w.b_dec} | _counters(0.3)), w, largest(K))


def dl_batch_topk(folder, w):
    _trainer(folder, "BatchTopKSAE", k=K)
    content = _linear(w) | {"b_dec": w.b_dec} | _counters(0.4)
    return golden(_save(folder, content, "checkpoints/ae_2000.pt"), w, above(0.4))


def dl_batch_topk_unset(folder, w):
    _trainer(folder, "BatchTopKSAE", k=K)
    return golden(_save(folder, _linear(w) | {"b_dec": w.b_dec} | _counters(-1.0)), w, largest(K))


def dl_matryoshka(folder, w, threshold=0.4):
    _trainer(folder, "MatryoshkaBatchTopKSAE", k=K)
    sizes = {"group_sizes": torch.tensor([w.d_sae // 4, w.d_sae - w.d_sae // 4])}
    matrices = {"W_enc": w.enc, "b_enc": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec}
    return golden(_save(folder, matrices | sizes | _counters(threshold)), w, above(threshold))


def dl_jumprelu(folder, w):
    _trainer(folder, "JumpReluAutoEncoder")
    content = {"W_enc": w.enc, "b_enc": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec, "threshold": w.theta}
    return golden(_save(folder, content), w, above(w.double("theta")), subtract=False)


def dl_gated(folder, w):
    _trainer(folder, "GatedAutoEncoder")
    content = {"decoder_bias": w.b_dec, "encoder.weight": w.enc.T, "decoder.weight": w.dec.T}
    return gated(_save(folder, content | {"r_mag": w.r_mag, "gate_bias": w.b_gate, "mag_bias": w.b_mag}), w)


def dl_backup(folder, w, factor=2.5):
    """What a run that was to be continued leaves in ae.pt: weights for activations that are divided by ``factor``."""
    scaled = _linear(w) | {"encoder.bias": w.b_enc / factor, "b_dec": w.b_dec / factor} | _counters(0.4 / factor)
    _trainer(folder, "BatchTopKSAE", k=K)
    content = {"step": 700, "ae": scaled, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}}
    content |= {"config": {"trainer_class": "BatchTopKTrainer"}, "norm_factor": factor}
    return golden(_save(folder, content), w, above(0.4))


# ------------------------------------------------------------------------------------------------------ sparsify


def sparsify(folder, w, **more):
    hook = folder / "encoder.layers.3"
    config = {"activation": "topk", "expansion_factor": 4, "num_latents": 0, "k": K, "d_in": w.d_in}
    write_json(hook / "cfg.json", config | {"skip_connection": False, "transcode": False, **more})
    tensors = {"encoder.weight": w.enc.T.contiguous(), "encoder.bias": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec}
    save_file(tensors, hook / "sae.safetensors")
    write_json(folder / "config.json", {"model": "me/encoder", "hookpoints": ["encoder.layers.3"]})
    return golden(folder, w, largest(K))


# ---------------------------------------------------------------------------------------------------------- saev


def saev(folder: Path, w: Weights, header: dict, tensors=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sae.pt").open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        torch.save({"W_enc": w.enc, "b_enc": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec, **(tensors or {})}, file)
    return folder


def _saev_header(w: Weights, schema: int, cls: str, **params) -> dict:
    width = {"d_model": w.d_in, "d_sae": w.d_sae} if schema > 2 else {"d_vit": w.d_in, "exp_factor": 4}
    activation = {"cls": cls, "params": {"key": cls.lower(), **params}}
    return {"schema": schema, "cfg": {**width, "activation": activation}, "commit": "ab12", "lib": "0.1"}


def saev_relu(folder, w):
    sparsity = {"cls": "L1Sparsity", "params": {"coeff": 4e-4}}
    header = _saev_header(w, 5, "Relu", sparsity=sparsity)
    return golden(saev(folder, w, header), w, relu, subtract=False)


def saev_topk(folder, w):
    return golden(saev(folder, w, _saev_header(w, 2, "TopK", top_k=K)), w, largest(K), subtract=False)


def saev_batch_topk(folder, w):
    header = _saev_header(w, 5, "BatchTopK", top_k=K, momentum=0.1)
    saev(folder, w, header, {"activation.threshold": torch.tensor(0.4)})
    return golden(folder, w, above(0.4), subtract=False)


def saev_first(folder, w):
    """Before there were schemas; its code subtracted ``b_dec``."""
    header = {"d_vit": w.d_in, "exp_factor": 4, "sparsity_coeff": 4e-4, "ghost_grads": False, "seed": 42}
    return golden(saev(folder, w, header), w, relu)


# -------------------------------------------------------------------------------------------------------- Prisma


class RunnerConfig:
    """Stands for the class that Prisma pickles into its files; it cannot be imported by its name there."""


def prisma(folder: Path, w: Weights, pickled=True, name="n_images_2600058.pt", gate=False, **more) -> Path:
    config = {
        "model_class_name": "HookedViT",
        "model_name": "open-clip:laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
        "hook_point_layer": 3,
        "layer_subtype": "hook_resid_post",
        "d_in": w.d_in,
        "expansion_factor": 4,
        "cls_token_only": False,
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "normalize_activations": "layer_norm",
        "device": {"__type__": "torch.device", "value": "cuda"},
        "architecture": "gated" if gate else "standard",
        **more,
    }
    write_json(folder / "config.json", config)
    tensors = {"W_enc": w.enc, "b_enc": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec}
    if gate:
        tensors |= {"b_gate": w.b_gate, "b_mag": w.b_mag, "r_mag": w.r_mag}
    if not pickled:
        torch.save(tensors, folder / name)
        return folder
    module = types.ModuleType("vit_prisma_sae_config")
    module.RunnerConfig = RunnerConfig
    was, sys.modules[module.__name__] = RunnerConfig.__module__, module
    RunnerConfig.__module__ = module.__name__
    try:
        instance = RunnerConfig()
        instance.__dict__ |= config | {"device": torch.device("cpu"), "dtype": torch.float32}
        torch.save({"cfg": instance, "state_dict": tensors}, folder / name)
    finally:
        RunnerConfig.__module__ = was
        del sys.modules[module.__name__]
    return folder


def prisma_vanilla(folder, w):
    return golden(prisma(folder, w), w, relu, norm=layer_norm)


def prisma_topk(folder, w):
    prisma(folder, w, False, "weights.pt", activation_fn_str="topk", activation_fn_kwargs={"k": K}, cls_token_only=True)
    return golden(folder, w, largest(K), norm=layer_norm)


def prisma_gated(folder, w):
    return gated(prisma(folder, w, gate=True, normalize_activations="none"), w)


GOLDEN = {
    "saelens": [
        saelens_standard,
        saelens_raw_input,
        saelens_topk,
        saelens_topk_rescaled,
        saelens_jumprelu,
        saelens_gated,
        saelens_gated_raw_input,
        saelens_layer_norm,
        saelens_constant_norm,
        saelens_training,
        saelens_5_topk,
        saelens_5_scaled,
        saelens_before_6,
    ],
    "dictionary_learning": [
        dl_autoencoder,
        dl_autoencoder_new,
        dl_topk,
        dl_batch_topk,
        dl_batch_topk_unset,
        dl_matryoshka,
        dl_jumprelu,
        dl_gated,
        dl_backup,
    ],
    "sparsify": [sparsify],
    "saev": [saev_relu, saev_topk, saev_batch_topk, saev_first],
    "prisma": [prisma_vanilla, prisma_topk, prisma_gated],
}
EVERY = [(name, write) for name, writers in GOLDEN.items() for write in writers]
