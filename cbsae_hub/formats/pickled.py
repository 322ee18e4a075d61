"""Tensors out of files that ``torch.save`` wrote, without running anything that such a file may ask for.

A ``.pt`` file is a ZIP archive with a pickle, and a pickle is a program: it may call any function by its name.
:func:`read_tensors` first asks torch, whose ``weights_only`` mode refuses programs. Some projects pickle their configs
beside the weights, so that all their files are refused. For those there is an unpickler that knows five harmless things
(dictionaries, tensors, parameters, storages) and puts in the place of everything else an :class:`Inert` object, which
takes any treatment and does nothing.

torch alone could do it with a list of allowed names that stand for :class:`Inert` objects. But that list holds for the
whole process, all threads of a server too. And torch then still refuses a file as a whole, although the weights in it
are sound, if its config is filled like a dictionary or list of another class (a ``defaultdict``), is pickled by another
protocol, or names a module that torch blocks, such as ``os``.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cbsae_hub.hub.files import ModelFileError

MAX_PICKLE_BYTES = 2**26
MAX_DEPTH = 4
# Where checkpoints keep the weights that count, outermost first.
WEIGHTS_KEYS = ("state_dict", "ae", "autoencoder", "model_state_dict")
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Checkpoint(NamedTuple):
    """Content of a file."""

    tensors: dict[str, Tensor]
    """The weights, by name."""
    extras: dict[str, Any]
    """Numbers, texts and tensors beside them."""
    incomplete: bool
    """Whether there was something else in the file, which was not read."""


class Inert:
    """Stands for everything in a pickle that is not a tensor: it can be made, called and filled, to no effect."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Nothing; so does the next."""

    def extend(self, values: Any) -> None:
        """Nothing."""


class _Storage(NamedTuple):
    data: Tensor
    """Flat."""


class _TensorsOnly(pickle.Unpickler):
    """Makes tensors, and :class:`Inert` objects of everything else."""

    def __init__(self, archive: zipfile.ZipFile, name: str, folder: str):
        super().__init__(io.BytesIO(_entry(archive, name)))
        self._archive, self._folder = archive, folder
        self.incomplete = False

    def find_class(self, module: str, name: str) -> Any:
        self.incomplete |= (module, name) not in _HARMLESS
        return _HARMLESS.get((module, name), Inert)

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isalnum():
            raise pickle.UnpicklingError(f"an unknown kind of storage {str(pid):.80}")
        content = bytearray(_entry(self._archive, f"{self._folder}/data/{key}"))
        if len(content) != int(count) * dtype.itemsize:
            raise pickle.UnpicklingError(f"storage {key} has {len(content)} bytes for {count} numbers of {dtype}")
        return _Storage(torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype))


def read_tensors(path: Path | io.BytesIO, whose: str) -> Checkpoint:
    """Weights in a file (or its content) of ``torch.save``: a state dict, or one of the usual checkpoints around one.

    Raises:
        ModelFileError: If the file is damaged, of a torch older than 1.6, or holds no weights.
    """
    incomplete = False
    try:
        mmap = isinstance(path, Path) and zipfile.is_zipfile(path)  # not all of a large file has to be in memory
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:
        content, incomplete = _without_pickle(path, whose)
    except Exception as error:  # whatever a file that is not of torch makes it stumble over
        raise ModelFileError(f"{whose} is damaged, or not a file of torch.save: {str(error):.200}") from error
    extras: dict[str, Any] = {}
    for _ in range(MAX_DEPTH):
        if not isinstance(content, dict):
            break
        # the methods of dict, as a pickle may have given the object others
        items = {key: value for key, value in dict.items(content) if isinstance(key, str)}
        inner = next((items[key] for key in WEIGHTS_KEYS if isinstance(items.get(key), dict)), None)
        tensors = {key: value.detach() for key, value in items.items() if isinstance(value, Tensor)}
        if inner is None and tensors:
            return Checkpoint(_require_full(tensors, whose), extras, incomplete)
        extras |= {key: value for key, value in items.items() if isinstance(value, (int, float, str, Tensor))}
        content = inner
    raise ModelFileError(f"{whose} holds no weights: no dictionary of tensors was found in it")


def _require_full(tensors: dict[str, Tensor], whose: str) -> dict[str, Tensor]:
    """The tensors, if none takes a few numbers for many, which as a model's weights would fill any memory."""
    for name, tensor in tensors.items():
        if tensor.is_sparse or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise ModelFileError(f"{whose}: {name} is larger than what is stored of it")
    return tensors


def _without_pickle(path: Path | io.BytesIO, whose: str) -> tuple[Any, bool]:
    """Content of a file without all that is not a tensor, and whether there was any of that."""
    if not isinstance(path, Path):
        path.seek(0)
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(pickles) != 1:
                raise pickle.UnpicklingError("it has no data.pkl")
            folder = pickles[0].rpartition("/")[0]
            order = f"{folder}/byteorder"
            if order in archive.namelist() and _entry(archive, order) != sys.byteorder.encode():
                raise pickle.UnpicklingError("its numbers have another byte order than this machine's")
            unpickler = _TensorsOnly(archive, pickles[0], folder)
            return unpickler.load(), unpickler.incomplete
    except zipfile.BadZipFile:
        raise ModelFileError(
            f"{whose} is no archive: it is damaged, or was saved by a torch older than 1.6 (load and save it again)"
        ) from None
    except Exception as error:  # a hostile pickle may fail in any way that Python has
        raise ModelFileError(f"{whose} is damaged or hostile, nothing of it was run: {error!r:.200}") from None


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry of an archive that is stored as it is, as torch does it: what is compressed may be a bomb."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or (name.endswith(".pkl") and info.file_size > MAX_PICKLE_BYTES):
        raise pickle.UnpicklingError(f"{name} is compressed or too large")
    return archive.read(info)


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """The tensor that torch makes of a storage, after a check of its bounds."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor of impossible shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if 0 not in size and last >= len(storage.data):
        raise pickle.UnpicklingError("a tensor that is larger than its storage")
    return storage.data.as_strided(size, stride, offset)


_HARMLESS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}
