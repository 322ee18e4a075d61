"""WebDataset tars: the files of a sample lie one after the other, and share their name up to its first dot."""

import json
import logging
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pyarrow

from cbsae_hub.lazy import needed

with needed("datasets", "reading an image dataset"):
    import datasets
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

logger = logging.getLogger(__name__)

PICTURES = {*WebDataset.IMAGE_EXTENSIONS, "avif"}
CLASS, CAPTION, RECORD = "__cls__", "caption", "__json__"  # what is between "__" becomes columns, see unfold
FIELDS = {"cls": CLASS, "txt": CAPTION, "text": CAPTION, "caption": CAPTION, "json": RECORD}
# A picture is no `Image` yet: `datasets` would read a file of the same name on this machine instead of the tar's.
FEATURES = datasets.Features(
    {
        "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        **dict.fromkeys(("__key__", CLASS, CAPTION, RECORD), datasets.Value("string")),
    }
)
ZEROS = bytes(tarfile.BLOCKSIZE)


class Tars(WebDataset):
    """The builder of `datasets`, for samples with one picture each, of any kind, and with any of the :data:`FIELDS`.

    All its columns are known before: whichever fields a sample has, and whatever its JSON says, nothing is left out
    because the first samples lacked it. Nothing is decoded here: the builder of `datasets` would unpickle ``.pth``.
    """

    DECODERS: dict[str, Any] = {}

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=FEATURES)

    @classmethod
    def _get_pipeline_from_tar(cls, tar_path: str, tar_iterator: Any) -> Iterator[dict[str, Any]]:
        name = PurePath(tar_path).name
        if "://" not in tar_path:
            require_whole(tar_path)
        read, unread = set(), set()
        try:
            for sample in super()._get_pipeline_from_tar(tar_path, tar_iterator):
                row, others = _row(name, sample)
                if row["__key__"] in read:
                    raise ValueError(
                        f"{name}: the files of the sample {row['__key__']!r} do not lie one after the other: "
                        "pack it again with tar --sort=name"
                    )
                read.add(row["__key__"])
                unread |= others
                yield row
        except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
            raise ValueError(f"{tar_path} is damaged: {error}") from error
        if unread:
            logger.info("%s: its files .%s are not read", name, ", .".join(sorted(unread)))


def _row(tar: str, sample: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The columns of a sample, and which of its fields are none."""
    key, fields = sample["__key__"], [field for field in sample if not field.startswith("__")]
    pictures = [field for field in fields if field.lower().rpartition(".")[2] in PICTURES]
    if len(pictures) > 1:
        names = " and ".join(f"{key}.{field}" for field in pictures)
        raise ValueError(
            f"{tar}: the sample {key!r} has {len(pictures)} pictures, {names}, and one is read: pack others apart"
        )
    row: dict[str, Any] = {"__key__": key, "image": None}
    stem = ""
    if pictures:
        stem = pictures[0].rpartition(".")[0]  # "5" of "photo 1.5.jpg", beside which "photo 1.5.txt" lies
        row["image"] = {"bytes": sample[pictures[0]], "path": f"{tar}/{key}.{pictures[0]}"}
    others = set()
    for field in set(fields).difference(pictures):
        column = FIELDS.get(field.lower().removeprefix(f"{stem}." if stem else ""))
        if column is None or column in row:
            others.add(field)
            continue
        try:
            row[column] = sample[field].decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{tar}: {key}.{field} is no UTF-8 text: {error}") from error
    return row, others


def require_whole(path: str) -> None:
    """Raises ValueError if a tar is cut off or damaged, of which `tarfile` would read the part before, and no more."""
    try:
        with tarfile.open(path) as tar:
            while tar.next() is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it collects them all
            tar.fileobj.seek(tar.offset)
            end = tar.fileobj.read(tarfile.BLOCKSIZE)
            if end != ZEROS:
                raise tarfile.ReadError(f"no file begins at byte {tar.offset}, nor does it end there")
            while block := tar.fileobj.read(2**20):
                if block.strip(b"\0"):
                    raise tarfile.ReadError(f"something follows its end at byte {tar.offset}; two tars joined, perhaps")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def unfold(dataset: datasets.Dataset) -> datasets.Dataset:
    """Makes columns of the texts that tars held: ``label`` of ``cls``, and one of each key of ``json``.

    A key that is a column already is called "json." and its name; what no sample has is no column. A dataset that
    came from elsewhere stays as it is.

    Raises:
        ValueError: If a JSON is damaged or no object; names the sample.
    """
    if not {CLASS, RECORD} <= set(dataset.column_names):
        return dataset
    columns: dict[str, Sequence[Any]] = {"label": _numbers(dataset[CLASS][:])}
    present = {"image", "__key__"}
    if any(dataset[CAPTION]):
        present.add(CAPTION)
    else:
        dataset = dataset.remove_columns(CAPTION)
    if any(value is not None for value in columns["label"]):
        present.add("label")
    records = [_record(key, text) for key, text in zip(dataset["__key__"], dataset[RECORD], strict=True)]
    for name in dict.fromkeys(name for record in records for name in record):
        columns[f"json.{name}" if name in present else name] = [record.get(name) for record in records]
    dataset = dataset.remove_columns([CLASS, RECORD])
    arrays = {name: _array(values) for name, values in columns.items() if any(value is not None for value in values)}
    if not arrays:
        return dataset
    return datasets.concatenate_datasets([dataset, datasets.Dataset(pyarrow.table(arrays))], axis=1)


def _record(key: str, text: str | None) -> dict[str, Any]:
    try:
        record = {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key}.json is damaged: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{key}.json holds {text!r:.80}, expected an object with names and values")
    return record


def _numbers(texts: Sequence[str | None]) -> Sequence[str | int | None]:
    """Classes as numbers, if all of them are."""
    try:
        return [None if text is None else int(text) for text in texts]
    except ValueError:
        return texts


def _array(values: Sequence[Any]) -> pyarrow.Array:
    """Values as a column; as JSON texts, where they are of several kinds."""
    try:
        array = pyarrow.array(values)
        if not (pyarrow.types.is_struct(array.type) and not array.type.num_fields):
            return array
    except (pyarrow.ArrowException, OverflowError, TypeError, ValueError):
        pass
    texts = (value if value is None or isinstance(value, str) else json.dumps(value) for value in values)
    return pyarrow.array(list(texts), pyarrow.string())
