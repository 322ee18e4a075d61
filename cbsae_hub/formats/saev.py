"""SAEs of OSU's saev: ``sae.pt``, whose first line is a JSON header, and the rest a file of ``torch.save``."""

import io
import json
from typing import Any

from cbsae_hub.formats.encoders import of_saev
from cbsae_hub.formats.foreign import Foreign, refuse, refuse_unknown, take, whole_number
from cbsae_hub.formats.pickled import read_tensors
from cbsae_hub.formats.source import Source
from cbsae_hub.hub.files import ConfigError, ModelFileError

MAX_HEADER = 2**20
NEWEST = 5
ACTIVATIONS = {"Relu": "relu", "TopK": "topk", "BatchTopK": "batch_topk"}
EXPECTED = """
activation ghost_grads normalize_w_dec reinit_blend reinit_enc_dec_tranpose reinit_enc_dec_transpose
remove_parallel_grads sparsity sparsity_coeff
""".split()
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


def read(source: Source, weights: str, config_name: str | None = None) -> Foreign:
    """Reads one.

    ``latents = activation(x @ W_enc + b_enc)``: nothing is subtracted from ``x``. Only the code that wrote the first
    files (without a schema, or of schema 1 with the activation as ``cls``) subtracted ``b_dec``, as ours does.
    """
    with source.path(weights).open("rb") as file:
        header = _header(file.readline(MAX_HEADER), weights)
        content = read_tensors(io.BytesIO(file.read()), weights)
    schema, config = header.get("schema", 0), header.get("cfg", header)
    if type(schema) is not int or not 0 <= schema <= NEWEST or not isinstance(config, dict):
        raise ConfigError(f"{weights} has schema {schema!r:.80}; those up to {NEWEST} are known")
    refuse_unknown(config, EXPECTED, weights)
    activation = config.get("activation")
    first_code = schema == 0 or header.get("cls") in ACTIVATIONS
    k: Any
    if first_code:
        kind, k = header.get("cls", "Relu"), config
    elif isinstance(activation, dict):
        kind, k = activation.get("cls"), activation.get("params")
    else:
        raise ConfigError(f"{weights} does not name its activation")
    if kind not in ACTIVATIONS:
        raise refuse(f"one with activation {kind!r:.80}", ACTIVATIONS, weights)
    settings: dict[str, Any] = {"activation": ACTIVATIONS[kind]}
    if kind != "Relu":
        settings["k"] = whole_number(k if isinstance(k, dict) else {}, "top_k", weights)
    tensors = dict(content.tensors)
    threshold = tensors.pop("activation.threshold", None)
    foreign = Foreign(weights, take(tensors, NAMES, weights), settings, header, of_saev(source.words(weights)))
    if kind == "BatchTopK":
        foreign.take_threshold(threshold, unset_at_zero=True)
    if first_code:
        foreign.doubts.append(
            "of the first saev, whose code subtracted b_dec before encoding (today's does not): done as then. Its "
            "loader could centre and scale activations by statistics that are not in the file: compare a reconstruction"
        )
    else:
        foreign.keep_input()
    return foreign


def starts_with_header(source: Source, name: str) -> bool:
    """Whether a file that is here begins as saev's do."""
    with source.path(name).open("rb") as file:
        return file.read(1) == b"{"


def _header(line: bytes, whose: str) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ModelFileError(f"{whose} does not begin with a line of JSON: it is damaged, or not of saev")
    return header
