"""SAEs of EleutherAI's sparsify: ``cfg.json`` and ``sae.safetensors``, one folder for each hook point."""

import posixpath

from cbsae_hub.formats.encoders import at_hook
from cbsae_hub.formats.foreign import Foreign, read_safetensors, refuse, refuse_unknown, take, whole_number
from cbsae_hub.formats.source import Source
from cbsae_hub.hub.files import ConfigError

EXPECTED = ("activation", "normalize_decoder", "skip_connection", "transcode")
NAMES = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def read(source: Source, weights: str, config_name: str) -> Foreign:
    """Reads one; ``latents = top_k(relu((x - b_dec) @ encoder.weight.T + encoder.bias))``."""
    config = source.json(config_name)
    supported = ("plain SAEs with activation topk",)
    for name in ("transcode", "skip_connection"):
        if config.get(name):
            raise refuse(f"a transcoder ({name})", supported, source.name)
    refuse_unknown(config, EXPECTED, config_name)
    if config.get("activation", "topk") != "topk":
        raise refuse(f"one with activation {config['activation']!r:.80}", supported, source.name)
    tensors = take(read_safetensors(source.path(weights)), NAMES, weights)
    if config.get("d_in") not in (None, tensors["encoder.weight"].shape[-1]):
        raise ConfigError(f"{config_name} says d_in {config['d_in']!r:.80}, {weights} has another")
    tensors |= {"W_enc": tensors.pop("encoder.weight").T, "b_enc": tensors.pop("encoder.bias")}
    settings = {"activation": "topk", "k": whole_number(config, "k", config_name)}
    above = posixpath.join(posixpath.dirname(weights), "..", "config.json")
    run = source.json(above) if source.has(above) else {}
    words = source.words(weights)
    return Foreign(weights, tensors, settings, config, at_hook(run.get("model"), words[-2] if words[1:] else None))
