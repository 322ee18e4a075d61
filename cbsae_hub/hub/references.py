"""The ids by which a model refers to its encoder, its judge, ...: entries of the JSON files beside its weights."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cbsae_hub.hub.files import folder_revision, is_content, read_json, resolve_id
from cbsae_hub.hub.stamp import REPO_ID


class Entry(NamedTuple):
    """A string in a JSON file, and the revision that stands beside it if it is an id."""

    file: Path
    key: str
    value: str
    revision: Any

    @property
    def is_id(self) -> bool:
        return self.key == "id" or self.key.endswith("_id")


def foreign_ids(folder: Path) -> list[str]:
    """Ids that are paths on this machine, and mean nothing elsewhere."""
    return sorted({entry.value for entry in _entries(folder) if entry.is_id and _is_folder(entry.value)})


def references(folder: Path, published: Mapping[Path, str]) -> dict[str, str]:
    """Names in a model's files that mean one of several folders, and what those are called on the Hub (``published``).

    Raises:
        ValueError: If such a folder holds other weights than those that are meant.
    """
    names: dict[str, str] = {}
    for entry in _entries(folder):
        if "/" not in entry.value and not entry.is_id:  # a label in somebody's table
            continue
        if not REPO_ID.fullmatch(entry.value) and not _is_folder(entry.value):  # a text
            continue
        by_content = is_content(entry.revision)
        if entry.revision is not None and not by_content:  # a commit: that is on the Hub already
            continue
        target = Path(resolve_id(entry.value, folder)).resolve()
        if target not in published:
            continue
        names[entry.value] = published[target]
        if by_content and (now := folder_revision(target)) != entry.revision:
            raise ValueError(
                f"{entry.file} refers to {entry.value} with weights {entry.revision}, but {target} holds {now}"
            )
    return names


def with_names(folder: Path, names: Mapping[str, str]) -> dict[str, bytes]:
    """A model's JSON files in which strings that are just one of some names are replaced, by their paths.

    All else, numbers too, stays as it is written.
    """
    rewritten = {}
    for file in sorted(folder.glob("*.json")):
        before = after = file.read_bytes()
        for name, published in names.items():
            for written in {json.dumps(name), json.dumps(name, ensure_ascii=False)}:  # of another alphabet, say
                after = after.replace(written.encode(), json.dumps(published).encode())
        if after != before:
            rewritten[file.name] = after
    return rewritten


def _is_folder(value: str) -> bool:
    return 0 < len(value) < 200 and Path(value).is_dir()


def _entries(folder: Path) -> Iterator[Entry]:
    for file in sorted(folder.glob("*.json")):
        try:
            content = read_json(file)
        except ValueError:  # somebody else's; whoever loads it will say
            continue
        yield from (Entry(file, *entry) for entry in _strings(content))


def _strings(value: Any, key: str = "", revision: Any = None) -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, str):
        yield key, value, revision
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(item, name, value.get(f"{name[:-2]}revision") if name.endswith("id") else None)
