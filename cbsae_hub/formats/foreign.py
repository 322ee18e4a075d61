"""The common part of all formats' readers: weights under our names, and a record of what was done to them."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cbsae_hub.formats.encoders import Explained
from cbsae_hub.hub.files import ConfigError, ModelFileError

MAX_FACT = 500  # characters of a config's entry that is kept
MAX_FACTS = 12_000
MATTERS = re.compile(
    "activ|act_|norm|scal|sign|bias|b_dec|b_enc|thresh|gate|skip|transcod|cross|cent(er|re)|mean|whiten|relu|tanh|soft"
    "|leak|shift|decoder|encoder|w_dec|w_enc|reshape|head|mask|tied|residual|out|groupmax|abs"
)
"""Parts of the names of settings that may change what an SAE computes."""


@dataclass
class Foreign:
    """Somebody else's SAE, not yet an :class:`cbsae_hub.models.SAE`.

    Raises:
        ModelFileError: If the shapes of the weights do not fit each other.
    """

    file: str  # of its weights
    weights: dict[str, Tensor]  # by the names that they have in our SAE
    settings: dict[str, Any]  # arguments of our SAE, but for widths and the encoder
    config: dict[str, Any] = field(default_factory=dict)
    explained: Explained = field(default_factory=Explained)
    notes: list[str] = field(default_factory=list)  # changes that were made, a sentence each
    doubts: list[str] = field(default_factory=list)  # facts that its user has to know or to check, likewise
    norm_factor: float | None = None  # by which the weights expect activations to be divided

    def __post_init__(self) -> None:
        if self.weights["W_enc"].ndim != 2:
            raise ModelFileError(f"{self.file}: the encoder has shape {list(self.weights['W_enc'].shape)}")
        d_in, d_sae = self.weights["W_enc"].shape
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(self.weights, (d_sae,))
        shapes |= {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
        actual = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        if wrong := [f"{n} is {list(actual[n])}, not {list(s)}" for n, s in shapes.items() if actual[n] != s]:
            raise ModelFileError(f"{self.file}: the weights do not fit each other: {'; '.join(wrong)}")
        self.stored = self.weights["W_dec"].dtype  # before anything is folded in, in double precision

    def keep_input(self) -> None:
        """Makes up for an encoder that reads ``x`` itself, where ours reads ``x - b_dec``: adds ``b_dec @ W_enc``."""
        if not self.weights["b_dec"].any():
            return
        shift = self.weights["b_dec"].double() @ self.weights["W_enc"].double()
        if self.settings["activation"] == "gated":
            self.weights["b_gate"] = self.weights["b_gate"].double() + shift
            self.weights["b_mag"] = self.weights["b_mag"].double() + self.weights["r_mag"].double().exp() * shift
        else:
            self.weights["b_enc"] = self.weights["b_enc"].double() + shift
        self.notes.append("its encoder does not subtract b_dec, ours does: b_dec @ W_enc was added to its biases")

    def scale_neurons(self, norms: Tensor) -> None:
        """Multiplies each neuron's latents by a number, and divides its decoder row by it."""
        for name in ("W_enc", "b_enc"):
            self.weights[name] = self.weights[name].double() * norms.double()
        self.weights["W_dec"] = self.weights["W_dec"].double() / norms.double()[:, None]

    def normalise_tokens(self, kind: str | None) -> None:
        """Has each token normalised, see :mod:`cbsae_hub.models.input_norm`, or with None left as it is."""
        self.settings["input_norm"] = kind
        if kind:
            self.notes.append(f"each token is normalised before encoding ({kind}): decode(latents, like=x)")

    def take_threshold(self, threshold: Tensor | None, unset_at_zero: bool = False) -> None:
        """Takes a threshold of batch_topk, or the marker that training has not reached one."""
        if threshold is not None and threshold.numel() != 1:
            raise ModelFileError(f"{self.file}: threshold is {list(threshold.shape)}, not one number")
        value = -1.0 if threshold is None else float(threshold)
        if value < 0 or (unset_at_zero and value == 0):
            value = -1.0
            self.doubts.append(
                "threshold unset: training has not got as far as to track one, so the k largest latents of each token "
                "are kept until calibrate_threshold(activations) is called"
            )
        self.weights["threshold"] = torch.tensor(value)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, by name.

    Raises:
        ModelFileError: If it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is damaged or half-written ({error}); download it again") from None


def take(tensors: dict[str, Tensor], names: Iterable[str], whose: str) -> dict[str, Tensor]:
    """Exactly the named tensors, floating point.

    Raises:
        ModelFileError: If one is missing, is no floating-point tensor, or there is another.
    """
    names = set(names)
    problems = [f"{name} is missing" for name in sorted(names - tensors.keys())]
    problems += [f"{name!r:.80} is not known" for name in sorted(tensors.keys() - names)]
    weights = {name: tensors[name] for name in sorted(names & tensors.keys())}
    problems += [f"{name} is of type {t.dtype}" for name, t in weights.items() if not t.is_floating_point()]
    if problems:
        raise ModelFileError(f"{whose} does not hold the weights that its layout has: {'; '.join(problems[:8])}")
    return weights


def refuse(what: str, supported: Iterable[str], whose: str) -> ConfigError:
    """The error for a feature that somebody else's project has and this package does not."""
    return ConfigError(f"{whose} is {what}, which is not supported; supported are {', '.join(supported)}")


def refuse_unknown(config: dict[str, Any], settings: Iterable[str], whose: str) -> None:
    """Refuses a config with a setting that its reader does not know and that may change what the SAE computes.

    Known are ``settings``: those that the reader heeds, or that concern the training only.

    Raises:
        ConfigError: If there is such a setting and it is on.
    """
    expected = set(settings)
    off: tuple[Any, ...] = (None, False, 0, "", "none", [], {})
    strange = [f"{key} = {value!r:.80}" for key, value in config.items() if key not in expected and value not in off]
    if strange := [text for text in strange if MATTERS.search(text.split(" = ")[0].lower())]:
        raise ConfigError(
            f"{whose} has settings that are not known here and may change what the SAE computes: "
            f"{'; '.join(strange[:8])}. If they concern the training only, load a copy without them"
        )


def whole_number(config: dict[str, Any], name: str, whose: str) -> int:
    """An entry of a config that must be a positive int (or a float of that value).

    Raises:
        ConfigError: If it is not.
    """
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != round(value) or value < 1:
        raise ConfigError(f"{whose}: {name} must be a whole number above 0, got {value!r:.80}")
    return int(value)


def facts(config: dict[str, Any]) -> dict[str, Any]:
    """The short entries of a config, which are worth keeping."""
    short = {key: value for key, value in config.items() if value is not None and len(json.dumps(value)) <= MAX_FACT}
    while short and len(json.dumps(short)) > MAX_FACTS:
        short.popitem()
    return short
