"""The ids by which a model refers to its encoder, its judge, ...: entries of the JSON files beside its weights."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
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
        return _is_id(self.key)


def told_elsewhere(content: Any) -> dict[str, str]:
    """Strings of a JSON content that hold whole paths of this machine, and what others are told: the last name.

    A string is taken for a path where it is an id, or where there is such a file or folder; a concept may begin with a
    slash. In the ``command`` of a training every word is looked at.
    """
    public = {}
    for key, value, _ in _strings(content):
        if key == "command":
            public[value] = command_elsewhere(value)
        elif _is_whole(value) and (_is_id(key) or os.path.exists(os.path.expanduser(value))):
            public[value] = _last_name(value)
    return {value: name for value, name in public.items() if value != name}


def command_elsewhere(command: str) -> str:
    """A command line in which whole paths, ``--option=/a/path`` too, are their last names."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    public = []
    for word in words:
        option, equals, value = word.rpartition("=")
        public.append(f"{option}{equals}{_last_name(value)}" if _is_whole(value) else word)
    return command if public == words else shlex.join(public)


def told_in(folder: Path) -> dict[str, str]:
    """:func:`told_elsewhere` of all JSON files of a folder."""
    return {value: name for content in _contents(folder).values() for value, name in told_elsewhere(content).items()}


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


def _is_id(key: str) -> bool:
    return key == "id" or key.endswith("_id")


def _is_whole(value: str) -> bool:
    """Whether this is a path from a root or from somebody's home, on any system."""
    return value.startswith("~/") or PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()


def _last_name(path: str) -> str:
    return PureWindowsPath(path).name or path  # which knows both slashes


def _is_folder(value: str) -> bool:
    return 0 < len(value) < 200 and Path(value).is_dir()


def _contents(folder: Path) -> dict[Path, Any]:
    contents = {}
    for file in sorted(folder.glob("*.json")):
        try:
            contents[file] = read_json(file)
        except ValueError:  # somebody else's; whoever loads it will say
            continue
    return contents


def _entries(folder: Path) -> Iterator[Entry]:
    for file, content in _contents(folder).items():
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
