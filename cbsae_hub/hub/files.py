"""Reading and writing files: whole or not at all, as strict JSON, and without trusting what is in them."""

import codecs
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeGuard

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:  # what reads no weights does not wait for torch
    import torch
    from torch import Tensor

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
MAX_CONFIG_BYTES = 2**24  # a pruned SAE's config lists all retained neurons, with their names
LEFT_OUT = (".*", "__pycache__", "checkpoint-*", "checkpoint.safetensors", "log.jsonl", "*.log", "*.tmp", "*.partial")
_MARKS = (  # UTF-32's begins as UTF-16's does
    ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    ((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
)
_CONTENT = re.compile(r"sha256:[0-9a-f]{16}")
MAIN_WEIGHTS = re.compile(r"(^|_)model(-\d+-of-\d+)?\.safetensors$")


class ModelFileError(OSError):
    """A model's file is missing, unreachable, damaged, or not what its config says."""


class ConfigError(ValueError):
    """A config.json that does not describe a model of the asked class."""


class OtherSettings(ValueError):
    """A file or folder of an earlier run, which had other settings than this one."""


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside ``path``, of nobody else; once it is written, it takes the place of ``path``."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file in UTF-8, or leaves what was there."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """The same as strict JSON knows it: NaN and infinities are null, arrays are lists, keys and paths are texts."""
    if hasattr(value, "tolist"):  # of NumPy and torch
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: Any, indent: int = 1) -> None:
    """Writes a whole JSON file, see :func:`plain`, or leaves what was there."""
    write_text(path, json.dumps(plain(content), indent=indent, allow_nan=False) + "\n")


def sha256(*parts: "str | Path | bytes | memoryview") -> str:
    """Hexadecimal digits of the hash of texts, bytes and contents of files (:class:`Path`), one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        else:
            digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def content_revision(*parts: "str | Path | bytes | memoryview") -> str:
    """A revision that names contents: "sha256:" and the first 16 digits of :func:`sha256`."""
    return f"sha256:{sha256(*parts)[:16]}"


def is_content(revision: Any) -> "TypeGuard[str]":
    """Whether a revision names contents, as :func:`content_revision` does, and no commit, branch or tag."""
    return isinstance(revision, str) and _CONTENT.fullmatch(revision) is not None


def content_tag(revision: str) -> str:
    """The tag on the Hub of the commit that holds these weights; a ref cannot have a colon."""
    return revision.replace(":", "-")


def require_same_settings(existing: Mapping[str, Any], settings: Mapping[str, Any], owner: str | Path) -> None:
    """Compares the settings of this run with those that an earlier one left, as JSON, in its file or folder ``owner``.

    Raises:
        OtherSettings: If they differ; names where.
    """
    now = plain(settings)
    if differing := [key for key in {**now, **existing} if existing.get(key) != now.get(key)]:
        changes = "; ".join(f"{key}: {existing.get(key)!r:.200} there, {now.get(key)!r:.200} now" for key in differing)
        raise OtherSettings(
            f"{owner} is of another run with other settings ({changes}): give the same ones, choose another folder, or "
            "delete it to start over"
        )


def claim(folder: Path, settings: Mapping[str, Any], name: str = "settings.json") -> None:
    """Marks a folder, made if needed, as the one of a run, by the settings on which its content depends.

    Raises:
        OtherSettings: If it is the folder of a run with other settings.
        ValueError: If the file is damaged.
    """
    if (folder / name).is_file():
        require_same_settings(read_json(folder / name), settings, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / name, settings)


def read_text(path: str | Path) -> str:
    """Reads a text that people may have written, on Windows perhaps: UTF-8, or UTF-16 and UTF-32 that say so.

    The mark that says so (a BOM) is no part of the text, and lines end as on Linux.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is in another encoding, or no text.
    """
    content = Path(path).read_bytes()
    encoding = next((name for marks, name in _MARKS if content.startswith(marks)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # as in UTF-16 without its mark
        raise ValueError(f"{path} is not UTF-8 text: save it again with the encoding UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file that people may have written.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not valid JSON; says what to do.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): write it again, or delete it") from None


def read_config(path: Path) -> dict[str, Any]:
    """Reads a config.json.

    Raises:
        ConfigError: If it is too large, no JSON object, or has a key twice or a number that JSON does not know.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes: not a config of this package")
    try:
        config = json.loads(read_text(path), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); save or download the model again") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must hold a JSON object, found {type(config).__name__}")
    return config


def read_weights(path: Path, shapes: dict[str, tuple[int, ...]], device: "str | torch.device") -> "dict[str, Tensor]":
    """Reads exactly the named floating-point tensors; names, shapes and types are compared first.

    Raises:
        ModelFileError: If the file is damaged, or holds anything else, or NaN or infinite values.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            problems = [f"{name} is missing" for name in sorted(shapes.keys() - names)]
            problems += [f"{name} is not part of the model" for name in sorted(names - shapes.keys())]
            for name in sorted(names & shapes.keys()):
                entry = file.get_slice(name)
                if tuple(entry.get_shape()) != shapes[name]:
                    problems.append(f"{name} has shape {entry.get_shape()}, the config says {list(shapes[name])}")
                if entry.get_dtype() not in ("F64", "F32", "F16", "BF16"):
                    problems.append(f"{name} is of type {entry.get_dtype()}, expected floating point")
            if problems:
                raise ModelFileError(f"{path} does not match its config: {'; '.join(problems[:8])}")
            tensors = {name: file.get_tensor(name).to(device) for name in names}
    except SafetensorError as error:
        raise ModelFileError(f"{path} is damaged or half-written ({error}); save or download it again") from None
    require_finite(tensors, str(path))
    return tensors


def write_model(config: Path, content: Mapping[str, Any], weights: Path, tensors: "dict[str, Tensor]") -> None:
    """Writes a config and weights: at every moment there are both old ones, both new ones, or no config."""
    from safetensors.torch import save_file

    with replace_file(config) as new_config:
        new_config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        with replace_file(weights) as new_weights:
            save_file(tensors, new_weights, metadata={"format": "pt"})
            config.unlink(missing_ok=True)


def require_finite(tensors: "dict[str, Tensor]", owner: str) -> None:
    """Raises ModelFileError, naming the first tensor that holds NaN or infinite values."""
    for name, tensor in sorted(tensors.items()):
        if not tensor.isfinite().all():
            raise ModelFileError(f"{owner}: {name} holds NaN or infinite values; the training run diverged")


def is_left_out(path: PurePath) -> bool:
    """Whether a file, by its path in a model's folder, is none of the model: checkpoints, logs, unfinished, hidden."""
    return any(fnmatch(part, pattern) for part in path.parts for pattern in LEFT_OUT)


def folder_revision(folder: str | Path) -> str:
    """The revision of a local model folder: "sha256:" and the first 16 hex digits of the hash of its weights.

    Of the ``*.safetensors`` files, also in sub-folders, those named as model weights count (``model.safetensors``,
    ``open_clip_model.safetensors``, shards, ...), in the order of their paths, and not a pack beside them. Where no
    file is named so, all of them count. Checkpoints and hidden files, which are not published, never do.

    Raises:
        ModelFileError: If there are no weight files.
    """
    files = [file for file in sorted(Path(folder).rglob("*.safetensors")) if not is_left_out(file.relative_to(folder))]
    files = [file for file in files if MAIN_WEIGHTS.search(file.name)] or files
    if not files:
        raise ModelFileError(f"{folder} has no *.safetensors file, so it has no revision")
    return content_revision(*files)


def resolve_id(repo_id: str, beside: str | Path | None = None) -> str:
    """The source of ``repo_id``: a folder if there is one, else the Hub.

    Models that are published together refer to each other by Hub id, and find each other as neighbouring
    folders before they are published: with ``beside="hub/my-sae"``, "somebody/my-encoder" is
    ``hub/my-encoder`` if that exists.

    Args:
        repo_id: A folder or a Hub id.
        beside: The folder of the model that refers to ``repo_id``.

    Returns:
        ``repo_id`` itself if it is an existing folder; else the sibling folder of ``beside`` that is named
        as the last component of ``repo_id``; else ``repo_id``, a Hub id.
    """
    if Path(repo_id).is_dir() or beside is None or not Path(beside).is_dir():
        return str(repo_id)
    name = Path(repo_id).name
    sibling = Path(beside).resolve().parent / name
    return str(sibling) if name not in ("", "..") and sibling.is_dir() else str(repo_id)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")
