"""SAEs of ViT-Prisma: ``config.json``, and ``weights.pt`` or ``n_images_<count>.pt`` with a pickled config inside."""

from typing import Any

from cbsae_hub.formats.encoders import at_hook, tokens_of
from cbsae_hub.formats.foreign import Foreign, refuse, refuse_unknown, take, whole_number
from cbsae_hub.formats.pickled import read_tensors
from cbsae_hub.formats.source import Source

MARKS = {"hook_point_layer", "layer_subtype", "cls_token_only", "activation_fn_str", "hook_point"}
"""Keys, one of which tells such a config."""
NORMS = {"layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm", "none": None, None: None}
EXPECTED = """
activation_fn_kwargs activation_fn_str b_dec_init_method cached_activations_path d_out dead_feature_threshold
hook_point_head_index initialization_method is_transcoder layer_out_subtype lp_norm max_grad_norm normalize_activations
out_hook_point_layer transcoder_with_skip_connection use_cached_activations
""".split()
"""Keys that an SAE heeds, that concern the training, or that only a transcoder would heed."""
STANDARD = ("W_enc", "b_enc", "W_dec", "b_dec")
GATED = ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec")


def read(source: Source, weights: str, config_name: str) -> Foreign:
    """Reads one: SAELens' formulas, on tokens that are normalised unless the config says otherwise."""
    config = source.json(config_name)
    supported = ("standard SAEs with relu or topk", "gated SAEs with relu")
    if config.get("is_transcoder"):
        raise refuse("a transcoder", supported, source.name)
    refuse_unknown(config, EXPECTED, config_name)
    architecture, function = config.get("architecture", "standard"), config.get("activation_fn_str", "relu")
    # a class of Prisma's configs, not None, stands for what a config does not say
    norm = config.get("normalize_activations", "layer_norm")
    if (architecture, function) not in (("standard", "relu"), ("standard", "topk"), ("gated", "relu")):
        raise refuse(f"{architecture!r:.80} with {function!r:.80}", supported, source.name)
    if norm not in NORMS:
        raise refuse(f"one with normalize_activations {norm!r:.80}", (str(name) for name in NORMS), source.name)
    content = read_tensors(source.path(weights), weights)
    tensors = dict(content.tensors)
    settings: dict[str, Any] = {"activation": "gated" if architecture == "gated" else function}
    if architecture == "gated":
        tensors.pop("b_enc", None)  # saved, but never used
    elif function == "topk":
        settings["k"] = whole_number(config.get("activation_fn_kwargs") or {}, "k", config_name)
    names = GATED if architecture == "gated" else STANDARD
    explained = at_hook(config.get("model_name"), _hook(config), tokens_of(config, "all"))
    foreign = Foreign(weights, take(tensors, names, weights), settings, config, explained)
    foreign.normalise_tokens(NORMS[norm])
    if content.incomplete:
        unread = "the file holds a pickled config, which was not read: only its tensors and config.json were"
        foreign.notes.append(unread)
    return foreign


def _hook(config: dict[str, Any]) -> str | None:
    layer = config.get("hook_point_layer")
    layer = layer[0] if isinstance(layer, list) and len(layer) == 1 else layer
    if layer is None:
        return config.get("hook_point")
    return f"blocks.{layer}.{config.get('layer_subtype', 'hook_resid_post')}"
