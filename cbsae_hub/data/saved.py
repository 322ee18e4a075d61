"""Reads the folders that ``save_to_disk`` of `datasets` writes."""

from pathlib import Path

from cbsae_hub.data.image_files import SAVED_SPLITS
from cbsae_hub.hub.files import read_json
from cbsae_hub.lazy import needed

with needed("datasets", "reading an image dataset"):
    import datasets
    import pyarrow

END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream of Arrow; without it, pyarrow reads what there is and says nothing


def load_saved(root: str | Path, split: str) -> datasets.Dataset:
    """One split of a folder, as rows of Python's types whatever its format was.

    Args:
        root: The folder of a Dataset, whose split is "train", or of a DatasetDict.
        split: The split.

    Raises:
        ValueError: If a file is damaged or missing; names it.
    """
    folder = Path(root)
    if (listed := folder / SAVED_SPLITS).is_file():
        for part in read_json(listed)["splits"]:
            if not (folder / part).is_dir():
                raise ValueError(f"{folder} is damaged: the folder of the split {part!r} is missing")
        folder /= split
    for path in sorted(folder.glob("*.arrow")):
        with pyarrow.memory_map(str(path)) as file:
            try:
                pyarrow.ipc.open_stream(file).read_all()
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(f"{path} is damaged: {error}") from error
            file.seek(max(file.size() - len(END), 0))
            if file.read() != END:
                raise ValueError(f"{path} is damaged: its end is missing")
    try:
        return datasets.load_from_disk(folder).with_format(None)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} is damaged: {error}") from error
