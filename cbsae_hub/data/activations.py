"""The activation store: an encoder's activations on disk, in shards. docs/activation-store.md is normative."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cbsae_hub.data.ahead import load_ahead
from cbsae_hub.data.rows import EvenRows, RaggedRows, Rows
from cbsae_hub.data.shuffling import ShuffledOrder
from cbsae_hub.hub.files import sha256

FORMAT = "cbsae_hub.activations"
SCHEMA_VERSION, RAGGED_VERSION = 1, 2  # of stores whose images have one number of tokens, and many
MANIFEST = "manifest.json"
TENSOR, COUNTS = "activations", "tokens"
MAX_HEADER = 2**20  # bytes; a shard's header has some hundred
DTYPES = {"F16": np.float16, "F32": np.float32, "I32": np.int32}
FITS_IN_MEMORY = 4 * 2**30  # bytes up to which shuffling is one exact permutation


class StoreError(OSError):
    """A store that is damaged, incomplete, or not one."""


def digest(array: np.ndarray) -> str:
    """sha256 of an array's bytes."""
    return sha256(np.ascontiguousarray(array).data.cast("B"))


def layer_folder(folder: str | Path, layer: int, tokens: str) -> Path:
    """The store of a layer in a folder of the stores of several, ``layer-5-cls``."""
    return Path(folder) / f"layer-{layer}-{tokens.replace(':', '-')}"


def layers_in(folder: str | Path) -> list[Path]:
    """The stores of a folder of several, see :func:`layer_folder`, by layer and tokens; none if it is another."""
    stores = [path.parent for path in Path(folder).glob(f"layer-*/{MANIFEST}")]
    return sorted(stores, key=lambda path: (len(path.name.split("-")[1]), path.name))  # 9 before 10


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The safetensors header of a shard, and where the data after it begin.

    Raises:
        StoreError: If the file is missing or no shard; names it.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= MAX_HEADER else {}
        if TENSOR not in header:
            raise ValueError(f"it has no tensor {TENSOR!r}")
    except FileNotFoundError as error:
        raise StoreError(f"shard {path} is missing: extract again with the same settings to make it") from error
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is damaged or no shard of activations: {error}") from error
    return header, 8 + size


def map_shard(path: Path, tensor: str = TENSOR) -> np.ndarray:
    """The rows of a shard ``[rows, d_in]``, or another tensor of it, memory-mapped, read-only.

    Raises:
        StoreError: If the file is missing, truncated, or no shard; names it.
    """
    header, data = read_header(path)
    try:
        form = header[tensor]
        start, stop = form["data_offsets"]
        size, end = path.stat().st_size, max(one["data_offsets"][1] for one in header.values() if "dtype" in one)
        if size != data + end:
            raise StoreError(f"shard {path} is truncated or damaged: it has {size} bytes, not {data + end}")
        # Unlike numpy.memmap, this keeps no file open: a store may have more shards than a process may open files.
        content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
        rows = content[data + start : data + stop].view(DTYPES[form["dtype"]]).reshape(form["shape"])
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{path} is damaged or no shard of activations: {error!r}") from error
    rows.flags.writeable = False
    return rows


def read_counts(path: Path) -> np.ndarray:
    """The number of rows of each image of a shard, ``[images]``, compared with its checksum.

    Raises:
        StoreError: If the file is missing, damaged, or no shard of such images; names it.
    """
    counts, (header, _) = map_shard(path, COUNTS), read_header(path)
    if digest(counts) != header.get("__metadata__", {}).get(f"{COUNTS}_sha256"):
        raise StoreError(f"shard {path} is damaged: delete it and extract again")
    return counts


class ActivationStore:
    """Rows of activations, one per token, in the order of the images; or those of some of the images.

    Of a store of texts, "image" means a text here, or a question to a LLaVA.

    Attributes:
        folder: Its place.
        manifest: Description of the numbers, see docs/activation-store.md.
        d_in: Width of a row.
        images: Ids of the images whose rows these are.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], images: np.ndarray, shards: "_Shards"):
        self.folder, self.manifest, self.images, self._shards = folder, manifest, images, shards
        self.d_in: int = manifest["d_in"]
        tokens, counts = manifest["tokens_per_image"], shards.counts
        self._rows: Rows = EvenRows(images, tokens) if counts is None else RaggedRows(images, counts)

    @classmethod
    def open(cls, folder: str | Path, check: bool = True) -> "ActivationStore":
        """Opens a finished store; reads no activations yet.

        Args:
            folder: Folder of the store.
            check: Compare each shard with its checksum when it is first read. Costs one pass over the data.

        Raises:
            StoreError: If there is no finished store, or a shard is missing, truncated, or of another store.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            if several := layers_in(folder):
                names = ", ".join(path.name for path in several)
                raise StoreError(f"{folder} holds the stores of several layers: name one of them, {names}") from error
            state = "an unfinished activation store; extract with the same settings to complete it"
            unfinished = (folder / "settings.json").is_file()
            raise StoreError(f"{folder} is {state if unfinished else 'no activation store'}") from error
        except ValueError as error:
            raise StoreError(f"{folder / MANIFEST} is damaged: {error}") from error
        if not isinstance(manifest, dict):
            raise StoreError(f"{folder / MANIFEST} is no manifest of an activation store")
        versions = SCHEMA_VERSION, RAGGED_VERSION
        if manifest.get("format") != FORMAT or manifest.get("schema_version") not in versions:
            raise StoreError(
                f"{folder} has format {manifest.get('format')!r}, schema version {manifest.get('schema_version')!r}; "
                f"this version of cbsae_hub reads {FORMAT!r}, {' and '.join(map(str, versions))}"
            )
        try:
            return cls(folder, manifest, np.arange(manifest["num_images"]), _Shards(folder, manifest, check))
        except (KeyError, TypeError) as error:
            raise StoreError(f"{folder / MANIFEST} is damaged or incomplete: {error!r}") from error

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def tokens_per_image(self) -> int:
        """Rows of an image; row ``i`` belongs to image ``images[i // tokens_per_image]``.

        Raises:
            ValueError: If that depends on the image, see :attr:`lengths`.
        """
        if self._shards.counts is not None:
            raise ValueError(f"the images or texts of {self.folder} have different numbers of tokens; lengths has them")
        return self.manifest["tokens_per_image"]

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each image, ``[images]``; they come one image after the other."""
        return self._rows.lengths

    @property
    def num_images(self) -> int:
        """Number of images whose rows these are."""
        return len(self.images)

    def image_of(self, row: int) -> int:
        """Id of the image that a row belongs to."""
        return int(self.images[self._rows.owners(np.array(row))])

    def verify(self) -> None:
        """Compares every shard with its checksum.

        Raises:
            StoreError: Names all damaged shards.
        """
        self._shards.verify()

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop``, ``[rows, d_in]`` in the stored dtype.

        Raises:
            IndexError: If there are no such rows.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} are asked for; there are {len(self)}")
        return self._gather(np.arange(start, stop))

    def of_images(self, images: Sequence[int], batch_size: int) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
        """Activations of some images, ``batch_size`` of them at a time.

        Args:
            images: Places in :attr:`images`.
            batch_size: Images of a batch.

        Returns:
            Iterator of places and their activations ``[images, tokens, d_in]`` float32.

        Raises:
            ValueError: If the number of tokens depends on the image.
        """
        tokens = np.arange(self.tokens_per_image)
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            rows = np.asarray(batch)[:, None] * self.tokens_per_image + tokens
            yield batch, self._gather(rows.ravel()).float().unflatten(0, rows.shape)

    def holdout(self, fraction: float, seed: int = 0) -> tuple["ActivationStore", "ActivationStore"]:
        """Splits by image into a training and a held-out part, at random.

        Raises:
            ValueError: If one of the two parts would be empty.
        """
        count = round(fraction * len(self.images))
        if not 0 < count < len(self.images):
            raise ValueError(f"a fraction of {fraction} of {len(self.images)} images leaves one part empty")
        order = np.random.default_rng(seed).permutation(self.images)
        return self._view(np.sort(order[count:])), self._view(np.sort(order[:count]))

    def batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        start_batch: int = 0,
        rank: int = 0,
        world: int = 1,
        dtype: torch.dtype = torch.float32,
        drop_last: bool = True,
        memory: int = FITS_IN_MEMORY,
    ) -> Iterator[torch.Tensor]:
        """One pass over all rows in random order; the next batch is read while the last one is used.

        Global batch ``i`` of a seed and epoch is the same set of rows for every number of processes; process
        ``rank`` of ``world`` gets every ``world``-th row of it.

        Args:
            batch_size: Rows of a global batch.
            seed: With ``epoch``, decides the order.
            epoch: Number of the pass.
            start_batch: Skip this many batches, without reading them.
            rank: This process.
            world: Number of processes.
            dtype: Data type of the rows.
            drop_last: Leave out a last batch that is not full.
            memory: Bytes. A store up to this size is shuffled by one exact permutation; a larger one by mixing
                random runs of 256 neighbouring rows in a buffer of half this size.

        Returns:
            Iterator of ``[batch_size / world, d_in]``.

        Raises:
            ValueError: If there are fewer rows than one batch, or an argument is out of range.
        """
        order, numbers = self._order(batch_size, seed, epoch, start_batch, rank, world, drop_last, memory)
        return load_ahead(lambda number: self._gather(order(number)).to(dtype), numbers)

    def labelled_batches(
        self, batch_size: int, seed: int, epoch: int, start_batch: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Does as :meth:`batches`, and says of which image each row is.

        Returns:
            Iterator of rows ``[batch_size / world, d_in]`` float32 and image ids ``[batch_size / world]``.
        """
        order, numbers = self._order(batch_size, seed, epoch, start_batch, rank, world)

        def load(number: int) -> tuple[torch.Tensor, torch.Tensor]:
            rows = order(number)
            return self._gather(rows).float(), torch.from_numpy(self.images[self._rows.owners(rows)])

        return load_ahead(load, numbers)

    def _order(
        self, batch_size: int, seed: int, epoch: int, start_batch: int, rank: int, world: int,
        drop_last: bool = True, memory: int = FITS_IN_MEMORY,
    ) -> tuple[Callable[[int], np.ndarray], range]:  # fmt: skip
        """This process's rows of a global batch by its number, and the numbers of the batches to come."""
        if batch_size < 1 or start_batch < 0 or not 0 <= rank < world:
            raise ValueError(f"no batches of {batch_size} from {start_batch} on for process {rank} of {world}")
        order = ShuffledOrder(len(self), memory // (self.d_in * self._shards.itemsize), seed, epoch)
        count = len(self) // batch_size if drop_last else -(-len(self) // batch_size)
        if count == 0:
            raise ValueError(f"{len(self)} rows are fewer than one batch of {batch_size}")

        def rows(number: int) -> np.ndarray:
            return order.rows(number * batch_size, min((number + 1) * batch_size, len(self)))[rank::world]

        return rows, range(start_batch, count)

    def _view(self, images: np.ndarray) -> "ActivationStore":
        return ActivationStore(self.folder, self.manifest, images, self._shards)

    def _gather(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self._shards.gather(self._rows.stored(rows)))


class _Shards:
    """The rows of all shards as one array; each shard is compared with its checksum when it is first read."""

    def __init__(self, folder: Path, manifest: dict[str, Any], check: bool):
        self._dtype, self._d_in = np.dtype(manifest["dtype"]), manifest["d_in"]
        self.itemsize = self._dtype.itemsize
        self._paths = [folder / Path(shard["file"]).name for shard in manifest["shards"]]
        self._digests = [shard["sha256"] for shard in manifest["shards"]]
        self._maps = [map_shard(path) for path in self._paths]
        self._checked = [not check] * len(self._maps)
        for path, rows, shard in zip(self._paths, self._maps, manifest["shards"]):
            if rows.shape != (shard["rows"], self._d_in) or rows.dtype != self._dtype:
                raise StoreError(f"shard {path} does not belong to this store: {rows.dtype} {rows.shape}")
        self._ends = np.cumsum([len(rows) for rows in self._maps])
        self.counts: np.ndarray | None = None  # rows of each image, where that depends on the image
        images, tokens = manifest["num_images"], manifest["tokens_per_image"]
        if tokens is None:
            counts = [read_counts(path) for path in self._paths]
            fits = all(part.sum() == len(rows) for part, rows in zip(counts, self._maps))
            if not fits or sum(map(len, counts)) != images:
                raise StoreError(f"the shards that {folder / MANIFEST} lists do not have the rows of {images} images")
            self.counts = np.concatenate(counts)
        elif sum(map(len, self._maps)) != images * tokens:
            raise StoreError(f"the shards that {folder / MANIFEST} lists do not have its {images * tokens} rows")

    def verify(self) -> None:
        parts = zip(self._paths, self._maps, self._digests)
        if damaged := [str(path) for path, rows, expected in parts if digest(rows) != expected]:
            raise StoreError(f"damaged shards, delete them and extract again: {', '.join(damaged)}")

    def _rows_of(self, shard: int) -> np.ndarray:
        if not self._checked[shard]:
            if digest(self._maps[shard]) != self._digests[shard]:
                raise StoreError(f"shard {self._paths[shard]} is damaged: delete it and extract again")
            self._checked[shard] = True
        return self._maps[shard]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """A copy of some rows, in the order in which they are asked for."""
        result = np.empty((len(rows), self._d_in), self._dtype)
        order = np.argsort(rows)
        cuts = np.searchsorted(rows[order], self._ends)
        starts = np.concatenate([[0], cuts[:-1]])
        for shard in np.flatnonzero(cuts > starts).tolist():
            places = order[starts[shard] : cuts[shard]]
            first = self._ends[shard] - len(self._maps[shard])
            result[places] = self._rows_of(shard)[rows[places] - first]
        return result
