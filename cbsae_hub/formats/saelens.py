"""SAEs of SAELens: ``cfg.json`` and ``sae_weights.safetensors``; read, and written such that SAELens reads them."""

import posixpath
from pathlib import Path
from typing import Any

from torch import Tensor

from cbsae_hub.formats.encoders import Explained, at_hook, tokens_of
from cbsae_hub.formats.foreign import Foreign, read_safetensors, refuse, refuse_unknown, take, whole_number
from cbsae_hub.formats.source import Source
from cbsae_hub.hub.files import ConfigError, write_model
from cbsae_hub.models.base import weights_of
from cbsae_hub.models.sae import SAE
from cbsae_hub.version import __version__

CONFIG_FILE, WEIGHTS_FILE, SCALER_FILE = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
STORE_FILE, STORED_FACTOR = "activations_store_state.safetensors", "estimated_norm_scaling_factor"  # of versions 4, 5
WRITTEN_FOR = "6.0.0"
"""The version of SAELens whose format is written; without one it would convert the config as an older one."""
ARCHITECTURES = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "batch_topk",  # only training checkpoints: SAEs that are done are saved as jumprelu
    "matryoshka_batchtopk": "batch_topk",
}
NORMS = {"none": None, "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
MATRICES = ("W_enc", "W_dec", "b_dec")
HEEDED = """
activation_fn activation_fn_str activation_fn_kwargs apply_b_dec_to_input finetuning_scaling_factor hook_head_index
hook_point_head_index normalize_activations rescale_acts_by_decoder_norm reshape_activations uses_scaling_factor
""".split()
OF_TRAINING = """
act_store_device activations_mixing_fraction b_dec_init_method cached_activations_path dead_feature_threshold
decoder_heuristic_init decoder_heuristic_init_norm decoder_init_norm decoder_orthogonal_init
init_encoder_as_decoder_transpose jumprelu_bandwidth jumprelu_init_threshold jumprelu_sparsity_loss_mode
jumprelu_ste_to_input jumprelu_tanh_scale log_activations_store_to_wandb lp_norm mse_loss_normalization
n_batches_for_norm_estimate noise_scale normalize_sae_decoder output_path pre_act_loss_coefficient
scale_sparsity_penalty_by_decoder_norm topk_threshold_lr use_cached_activations use_sparse_activations
""".split()


def read(source: Source, weights: str, config_name: str) -> Foreign:
    """Reads one, of any version: ``pre = (x - b_dec) @ W_enc + b_enc``, ``relu(pre) * (pre > threshold)``."""
    config = source.json(config_name)
    architecture = config.get("architecture", "standard")
    functions = {config[key] for key in ("activation_fn", "activation_fn_str") if isinstance(config.get(key), str)}
    if len(functions) > 1:
        raise ConfigError(f"{config_name} names two activation functions: {', '.join(sorted(functions))}")
    function = next(iter(functions), "relu")
    if function == "topk" and architecture in ("standard", "topk"):  # before version 6
        architecture = "topk"
        if isinstance(of_function := config.get("activation_fn_kwargs"), dict) and "k" in of_function:
            config = {**config, "k": of_function["k"]}
    elif function != "relu":
        raise refuse(f"one with activation_fn {function!r:.80}", ("relu", "topk"), source.name)
    if architecture not in ARCHITECTURES:
        raise refuse(f"a {architecture!r:.80}", ARCHITECTURES, source.name)
    refuse_unknown(config, (*HEEDED, *OF_TRAINING), config_name)
    if config.get("reshape_activations", "none") != "none":
        raise refuse("of attention heads (reshape_activations)", ("SAEs of blocks",), source.name)
    if config.get("finetuning_scaling_factor") or config.get("uses_scaling_factor"):
        raise refuse("fine-tuned with a scaling factor", ("SAEs without one",), source.name)
    settings: dict[str, Any] = {"activation": ARCHITECTURES[architecture]}
    tensors = read_safetensors(source.path(weights))
    tensors.pop("scaling_factor", None)  # of versions before 6, used only if finetuning_scaling_factor says so
    threshold = tensors.pop("topk_threshold", None)
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    foreign = Foreign(weights, take(tensors, _names(settings["activation"]), weights), settings, config)
    if "topk" in architecture:
        k = config.get("k")  # that of a batchtopk may be no whole number
        k = round(k) if isinstance(k, float) and k >= 1 else k
        settings["k"] = whole_number({"k": k}, "k", config_name)
    if config.get("rescale_acts_by_decoder_norm"):
        foreign.scale_neurons(foreign.weights["W_dec"].double().norm(dim=-1))
        foreign.notes.append("rescale_acts_by_decoder_norm: the norms of decoder rows were folded into the encoder")
    if settings["activation"] == "batch_topk":
        foreign.take_threshold(threshold, unset_at_zero=True)
        if widths := config.get("matryoshka_widths"):
            settings["group_sizes"] = [b - a for a, b in zip([0, *widths], widths)]
    if not config.get("apply_b_dec_to_input", True):
        foreign.keep_input()
    _normalisation(foreign, config, source)
    metadata = config.get("metadata")
    foreign.explained = _explained({**config, **(metadata if isinstance(metadata, dict) else {})})
    return foreign


def _names(activation: str) -> tuple[str, ...]:
    if activation == "gated":
        return (*MATRICES, "b_gate", "b_mag", "r_mag")
    return (*MATRICES, "b_enc", *(["threshold"] if activation == "jumprelu" else []))


def _normalisation(foreign: Foreign, config: dict[str, Any], source: Source) -> None:
    """Applies what SAELens does to tokens before it encodes them."""
    mode = config.get("normalize_activations")
    if isinstance(mode, bool) or mode is None:
        mode = "expected_average_only_in" if mode else "none"
    if mode in NORMS:
        foreign.normalise_tokens(NORMS[mode])
    elif mode == "expected_average_only_in":
        if (factor := _scale_beside(foreign.file, source)) is not None:
            for name, power in (("W_enc", 1), ("W_dec", -1), ("b_dec", -1)):
                foreign.weights[name] = foreign.weights[name].double() * factor**power
            foreign.notes.append(f"activations were multiplied by {factor:.6g} in training: folded into the weights")
        else:
            foreign.doubts.append(
                "its config says expected_average_only_in, but not by which factor tokens were scaled: taken to be "
                "in the weights, as SAELens does; if it is not, reconstructions will be poor"
            )
    else:
        raise refuse(f"one with normalize_activations {mode!r:.80}", (*NORMS, "expected_average_only_in"), source.name)


def _scale_beside(weights: str, source: Source) -> float | None:
    """By what a checkpoint's activations were multiplied, as versions 6 and 4 to 5 write it; None if nobody says so.

    Raises:
        ConfigError: If that is no number above 0.
    """
    folder = posixpath.dirname(weights)
    scaler, store = posixpath.join(folder, SCALER_FILE), posixpath.join(folder, STORE_FILE)
    if source.has(scaler):
        factor = source.json(scaler).get("scaling_factor")
    elif source.has(store):
        stored = read_safetensors(source.path(store)).get(STORED_FACTOR)
        factor = stored.item() if stored is not None and stored.numel() == 1 else stored
    else:
        return None
    if factor is None:
        return None
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < float("inf"):
        raise ConfigError(f"the scale of activations beside {weights} is {factor!r:.80}, no number above 0")
    return float(factor)


def _explained(config: dict[str, Any]) -> Explained:
    if config.get("hook_head_index") is not None:
        return Explained(notes=["it is of one attention head: only blocks' outputs can be read here"])
    tokens = tokens_of(config, config.get("tokens"))
    hook = config.get("hook_name") or config.get("hook_point")
    return at_hook(config.get("model_name"), hook, tokens if isinstance(tokens, str) else None)


def write(sae: SAE, folder: Path) -> None:
    """Writes an SAE; see :func:`cbsae_hub.formats.convert.export_saelens`."""
    config, weights = translated(sae)
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / CONFIG_FILE, config, folder / WEIGHTS_FILE, weights)


def translated(sae: SAE) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Contents of cfg.json and of the weights' file."""
    names = {ours: theirs for theirs, ours in reversed(ARCHITECTURES.items())} | {"batch_topk": "jumprelu"}
    weights = weights_of(sae)
    if sae.activation == "batch_topk":
        if not sae.threshold_is_set:
            raise ValueError(
                "this SAE has no threshold yet, and SAELens knows batch_topk by its threshold only: call "
                "sae.calibrate_threshold(activations) first"
            )
        weights["threshold"] = weights["threshold"].expand(sae.d_sae).contiguous()
    metadata = {
        "sae_lens_version": WRITTEN_FOR,
        "model_name": sae.encoder_id,
        "model_revision": sae.encoder_revision,
        "hook_name": None if sae.layer is None else f"blocks.{sae.layer}.hook_resid_post",
        "tokens": sae.tokens,
        "cbsae_hub_version": __version__,
        "activation": sae.activation,
        "group_sizes": sae.group_sizes,
    }
    config = {
        "architecture": names[sae.activation],
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": next(theirs for theirs, ours in NORMS.items() if ours == sae.input_norm),
        "reshape_activations": "none",
        "metadata": {name: value for name, value in metadata.items() if value is not None},
    }
    if sae.activation == "topk":
        config |= {"k": min(sae.k, sae.d_sae), "rescale_acts_by_decoder_norm": False}
    return config, weights
