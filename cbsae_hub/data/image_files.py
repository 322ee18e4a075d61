"""The files of each split of an image dataset.

A picture's name never decides: "photo of a train.png" is no training data, and a folder "train" beside "cat" and "bus"
is a class. What does decide: the card's ``configs``, else folders, else the names of Parquet files and tars.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.utils import glob_translate

from cbsae_hub.lazy import needed
from cbsae_hub.words import some

with needed("datasets", "reading an image dataset"):
    from datasets.data_files import sanitize_patterns
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from datasets.utils.metadata import MetadataConfigs

logger = logging.getLogger(__name__)

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
IMAGES = frozenset(ImageFolder.EXTENSIONS)
METADATA = frozenset(ImageFolder.METADATA_FILENAMES)
TABLE, TAR, ARCHIVE = ".parquet", ".tar", ".zip"
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"  # `save_to_disk` writes them for a Dataset, a DatasetDict
# Images, or archives of images, that `datasets` does not read: they are named where they are left out.
UNREAD = frozenset(
    ".heic .heif .avif .jxl .svg .dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .gz .tgz .bz2 .xz .7z .rar .arrow".split()
)
_SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-\d{5}(?:[-.].*)?")
_HIDDEN = re.compile(r"(^|/)(\.|__MACOSX(/|$)|__pycache__(/|$))")
_SPLIT_NAME = re.compile(r"\w+(?:\.\w+)*")


class NoImages(ValueError):
    """There is nothing in a dataset that could be read as images."""


@dataclass
class Layout:
    """Files of a dataset by split."""

    kind: str  # "saved" (by `save_to_disk`), or the builder of `datasets`: "imagefolder", "parquet", "webdataset"
    splits: dict[str, list[str]]  # names to paths of images and their metadata, of Parquet files, tars or archives
    left_out: list[str]  # files with images that belong to no split
    options: dict[str, Any] = field(default_factory=dict)  # arguments of the builder
    config: str = "default"  # name of the card's configuration

    def images(self, split: str) -> list[str]:
        """Paths of the images of a split, as far as they are files of their own."""
        return [file for file in self.splits[split] if _suffix(file) in IMAGES]

    def has_metadata(self, split: str) -> bool:
        """Whether images of a split are listed by a metadata file."""
        return self.kind == "imagefolder" and any(map(_is_metadata, self.splits[split]))


def list_folder(folder: Path, strict: bool = True) -> list[str]:
    """Paths of all files in a folder, relative and sorted; links are followed, hidden files are left out.

    Args:
        folder: The folder.
        strict: Whether links to files that are not there are an error; else they are left out, and named in the log.

    Raises:
        OSError: If a folder cannot be read, or see ``strict``.
    """
    files = []
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not _leads_back(Path(parent), name)]
        files += [Path(parent, name).relative_to(folder).as_posix() for name in names]
    present = [file for file in visible(files) if (folder / file).exists()]
    if broken := sorted({*visible(files)} - {*present}):
        problem = f"{folder} has links to files that are not there: {some(broken)}"
        if strict:
            raise FileNotFoundError(problem)
        logger.warning("%s: they are left out", problem)
    return present


def visible(files: Iterable[str]) -> list[str]:
    """Drops hidden files and those of macOS and Python; sorted."""
    return sorted(file for file in files if not _HIDDEN.search(file))


def _raise(error: OSError) -> None:
    raise error


def _leads_back(parent: Path, name: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    inner = parent / name
    return inner.is_symlink() and any(inner.samefile(folder) for folder in (parent, *parent.parents))


def arrange(files: Sequence[str], card: Mapping[str, Any]) -> Layout:
    """Finds the files that hold the images, and their splits.

    With ``configs`` in the card, the files that its default configuration names. Else splits are folders at one depth
    that are all named after splits ("train", "val2017", "test_images"; "train" beside "cat" and "bus" is a class), or
    Parquet files that are all named so, or shards as `datasets` writes them ("data/probe-00000-of-00002.parquet").
    Everything else is the split "train". What `save_to_disk` wrote has the splits of a DatasetDict, else "train".

    Args:
        files: Paths of all visible files, relative, with "/".
        card: YAML header of README.md.

    Raises:
        NoImages: If there are neither images nor Parquet files nor tars.
        ValueError: If the card is damaged, or has several configurations and no default.
    """
    configs = MetadataConfigs.from_dataset_card_data(dict(card))
    name = configs.get_default_config_name()
    if configs and name is None:
        raise ValueError(f"README.md has the configurations {', '.join(configs)}, and says of none that it is default")
    config = configs.get(name, {})
    if "data_files" in config:
        layout = _by_card(files, configs, config)
    else:
        base = _folder(config)
        files = [file for file in files if file.startswith(base)]
        layout = _saved(files) or _by_structure(files)
    layout.config = name or "default"
    layout.options |= {key: value for key, value in config.items() if key not in ("data_files", "data_dir", "default")}
    return layout


# -------------------------------------------------------------------------------------------------------- with a card


def _by_card(files: Sequence[str], configs: MetadataConfigs, config: Mapping[str, Any]) -> Layout:
    matched = {split: _matching(files, patterns) for split, patterns in _patterns(config).items()}
    if not any(matched.values()):
        raise NoImages("the configs in its README.md name none of its files")
    kind, data = _kind(sorted(set().union(*matched.values())))
    splits = {split: _readable(kind, part) for split, part in matched.items()}
    if empty := [split for split, part in splits.items() if not part]:
        logger.warning("the configs in README.md name no files of the splits %s", ", ".join(empty))
    splits = {split: part for split, part in splits.items() if part}
    # What other configurations name is left out on purpose; of other kinds of files, the card need not speak.
    read = set().union(*splits.values())
    patterns = [part for other in configs.values() for part in _patterns(other).values()]
    listed = {file for part in patterns for file in _matching(files, part)}
    lost = set().union(*matched.values()) - read
    lost |= {file for file in files if _suffix(file) in set(map(_suffix, data)) and file not in listed}
    depth = min(len(os.path.commonprefix([_parts(file)[:-1] for file in part])) for part in splits.values())
    return Layout(kind, splits, sorted(filter(_holds_images, lost)), _label_options(kind, sorted(read), depth))


def _patterns(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Patterns of each split, relative to the dataset; without any, everything in the configuration's folder."""
    base = _folder(config)
    patterns = sanitize_patterns(config.get("data_files", "**"))
    return {split: [base + pattern.removeprefix("./") for pattern in part] for split, part in patterns.items()}


def _folder(config: Mapping[str, Any]) -> str:
    """The folder of a configuration, "" or with "/" at its end."""
    folder = PurePosixPath(config.get("data_dir") or ".").as_posix()
    return "" if folder == "." else f"{folder}/"


def _matching(files: Sequence[str], patterns: Iterable[str]) -> list[str]:
    tests = [(pattern, re.compile(glob_translate(pattern)).match) for pattern in patterns]
    matching = (file for pattern, matches in tests for file in files if file == pattern or matches(file))
    return list(dict.fromkeys(matching))


# ------------------------------------------------------------------------------------------------------ without a card


def _saved(files: Sequence[str]) -> Layout | None:
    """The files of `save_to_disk`, if they are its."""
    if {SAVED, "dataset_info.json"} <= set(files):
        return Layout("saved", {"train": list(files)}, [])
    if SAVED_SPLITS not in files:
        return None
    splits = {_parts(file)[0] for file in files if _parts(file)[1:] == (SAVED,)}
    return Layout("saved", {split: [f for f in files if _parts(f)[0] == split] for split in _ordered(splits)}, [])


def _ordered(splits: Collection[str]) -> list[str]:
    order = [name for name in dict.fromkeys(SPLITS.values()) if name in splits]
    return [*order, *sorted(set(splits) - set(order))]


def _by_structure(files: Sequence[str]) -> Layout:
    kind, data = _kind(files)
    owners, depth = _split_folders(data)
    by_name = {} if owners or _suffix(data[0]) in IMAGES else _split_names(data)
    if not (owners or by_name):
        _warn_of_splits(data)
        owners = dict.fromkeys(data, "train")
    if kind == "imagefolder":  # a list of images belongs to the folder of a split that it lies in
        folders = {_parts(file)[:depth]: split for file, split in owners.items()}
        for file in filter(_is_metadata, files):
            if _parts(file)[:depth] in folders:
                owners[file] = folders[_parts(file)[:depth]]
    owners |= by_name
    splits: dict[str, list[str]] = {name: [] for name in _ordered(set(owners.values()))}
    for file in sorted(owners):
        splits[owners[file]].append(file)
    left_out = [file for file in files if file not in owners and _holds_images(file)]
    return Layout(kind, splits, left_out, _label_options(kind, list(owners), depth))


def _split_folders(data: Sequence[str]) -> tuple[dict[str, str], int]:
    """The split of each file that lies in a folder named after one, and how many folders down that is.

    One depth holds them all: train/cat/1.png, or bottle/train/1.png. Files that lie nowhere in such folders must be
    fewer than those that do, and do not count at all where all folders are of one split: then that is a mere name.
    """
    for depth in range(1, max(len(_parts(file)) for file in data)):
        inside = {file: _parts(file)[depth - 1] for file in data if len(_parts(file)) > depth}
        splits = _named_after_splits(set(inside.values()))
        others = len(data) - len(inside)
        if splits and (others == 0 or (len(set(splits.values())) > 1 and others < len(inside))):
            return {file: splits[name] for file, name in inside.items()}, depth
    return {}, 0


def _split_names(data: Sequence[str]) -> dict[str, str]:
    """The split of each Parquet file or archive, by its own name."""
    shards = {file: match["name"] for file in data if (match := _SHARD.fullmatch(_parts(file)[-1]))}
    if shards and all(_parts(file)[-2:-1] == ("data",) for file in shards):
        if all(map(_SPLIT_NAME.fullmatch, shards.values())):
            return shards
    names = shards or {file: PurePosixPath(file).stem for file in data}
    splits = _named_after_splits(set(names.values()))
    return {file: splits[name] for file, name in names.items()} if splits else {}


def _named_after_splits(names: Collection[str]) -> dict[str, str]:
    """The split of each name; nothing unless all are named after splits, and alike but for that."""
    meanings = {name: _split_of(name) for name in names}
    rests = {meaning and meaning[1] for meaning in meanings.values()}
    if len(rests) != 1 or None in rests:
        return {}
    splits = {name: meaning[0] for name, meaning in meanings.items() if meaning}
    return {} if rests != {()} and len(set(splits.values())) == 1 else splits  # "toy train" alone


def _split_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that a name speaks of, and its other words: ("test", ("images",)) of "test-images 2"."""
    words = [word for word in re.split(r"[-._ \d]+", name.lower()) if word]
    of_splits = [word for word in words if word in SPLITS]
    return (SPLITS[of_splits[0]], tuple(word for word in words if word not in SPLITS)) if len(of_splits) == 1 else None


def _warn_of_splits(data: Sequence[str]) -> None:
    """Says so where some names are those of splits, and yet everything becomes one split."""
    folders = {part for file in data for part in _parts(file)[:-1]}
    own = {PurePosixPath(file).stem for file in data}
    meanings = {name: _split_of(name) for name in folders | own}
    splits = {name: split[0] for name, split in meanings.items() if split and (name in folders or not split[1])}
    if len(set(splits.values())) > 1:
        logger.warning(
            "%s are not taken for splits, as there are others beside them: all pictures are in the split train; "
            "if they are splits, say so with `configs` in the README.md of the dataset",
            some(sorted(splits)),
        )


# --------------------------------------------------------------------------------------------------------------- files


def _kind(files: Sequence[str]) -> tuple[str, list[str]]:
    """The kind that most files are of, and its files; archives count where there is nothing else."""
    images = [file for file in files if _suffix(file) in IMAGES]
    tables = [file for file in files if _suffix(file) == TABLE and not (images and _is_metadata(file))]
    tars = [file for file in files if _suffix(file) == TAR]
    # A table beside each tar is about its pictures, as many tools write them.
    kind, several = ("webdataset", tars) if len(tars) >= len(tables) else ("parquet", tables)
    if several and len(several) >= len(images):
        return kind, several
    if image_files := images or [file for file in files if _suffix(file) == ARCHIVE]:
        return "imagefolder", image_files
    if not files:
        raise NoImages("it holds no files, or only hidden ones")
    counts = Counter(_suffix(file) or "without an extension" for file in files)
    existing = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    hint = ": save the pictures as PNG, JPEG or WebP" if counts.keys() & UNREAD else ""
    raise NoImages(f"it is neither Parquet nor images nor tars, but has {existing}{hint}")


def _readable(kind: str, files: Iterable[str]) -> list[str]:
    """Those that the builder reads."""
    suffixes = {"parquet": {TABLE}, "webdataset": {TAR}}.get(kind, {*IMAGES, ARCHIVE})
    return [file for file in files if _suffix(file) in suffixes or (kind == "imagefolder" and _is_metadata(file))]


def _label_options(kind: str, files: Sequence[str], depth: int) -> dict[str, Any]:
    """Whether images are labelled by the folder that they lie in: of all, at one depth, below the splits' folders."""
    images = [_parts(file) for file in files if _suffix(file) in IMAGES]
    if kind != "imagefolder" or not images:  # `datasets` looks into archives
        return {}
    depths, classes = {len(parts) - 1 for parts in images}, {parts[-2] for parts in images if len(parts) > 1}
    return {"drop_labels": not (len(depths) == 1 and min(depths) > depth and len(classes) > 1)}


def _holds_images(file: str) -> bool:
    return _suffix(file) in IMAGES | UNREAD | {TABLE, TAR, ARCHIVE} or _is_metadata(file)


def _is_metadata(file: str) -> bool:
    return _parts(file)[-1] in METADATA


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()


def _parts(file: str) -> tuple[str, ...]:
    return tuple(file.split("/"))
