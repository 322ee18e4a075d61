"""The memory of pictures that were all read once: where they are from, and which of them are left out."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cbsae_hub.hub.files import read_json, write_json
from cbsae_hub.version import __version__

logger = logging.getLogger(__name__)

RECORD = "collection.json"
STREAMED = "streamed"  # folder of the pictures that a stream gave
FORMAT, SCHEMA_VERSION = "cbsae_hub collection of pictures", 1


class Unreadable(NamedTuple):
    """A picture that is left out.

    Attributes:
        row: Its row in the dataset.
        file: Its file, as far as the dataset knows.
        reason: Why it cannot be read.
    """

    row: int
    file: str
    reason: str


@dataclass
class Record:
    """The content of ``collection.json``.

    Attributes:
        settings: All that the choice of the pictures depends on.
        rows: Rows of the dataset.
        chosen: Rows that were drawn, in order; None for all.
        read: So many of these have been read.
        unreadable: Those that are left out.
    """

    settings: Mapping[str, Any]
    rows: int | None = None
    chosen: list[int] | None = None
    read: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)

    @classmethod
    def open(cls, folder: str | Path) -> "Record | None":
        """The record in a folder; None if there is none.

        Raises:
            ValueError: If it is damaged, or of a newer version of this package.
        """
        path = Path(folder) / RECORD
        content = read_json(path) if path.is_file() else None
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:  # people may call their files so
            return None
        if content.pop("schema_version", None) != SCHEMA_VERSION:
            raise ValueError(f"{path} was written by a newer version of cbsae_hub: update it, or delete the file")
        try:
            content["unreadable"] = [Unreadable(*picture) for picture in content["unreadable"]]
            return cls(**{name: content[name] for name in cls.__dataclass_fields__})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): delete it, and all pictures are read again") from error

    def write(self, folder: Path) -> None:
        """Writes it whole, or leaves what was there."""
        stamp = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "package_version": __version__}
        write_json(folder / RECORD, {**stamp, **asdict(self)})

    @property
    def candidates(self) -> "range | list[int]":
        """Rows that are read."""
        return range(self.rows or 0) if self.chosen is None else self.chosen

    @property
    def is_complete(self) -> bool:
        """Whether all of them have been read."""
        return self.rows is not None and self.read == len(self.candidates)

    @property
    def readable(self) -> list[int]:
        """Rows that could be read."""
        left_out = {picture.row for picture in self.unreadable}
        return [row for row in self.candidates if row not in left_out]
