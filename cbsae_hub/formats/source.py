"""The source of somebody else's SAE: a folder, a file, or a Hub repository, from which only needed files come."""

import os
import posixpath
from pathlib import Path
from typing import Any

from cbsae_hub.hub.files import ModelFileError, read_config
from cbsae_hub.hub.locate import download, list_files
from cbsae_hub.hub.stamp import REPO_ID


class Source:
    """The files of a folder, a file or a repository, by their paths with ``/``.

    Arguments as of :meth:`cbsae_hub.models.HubModel.from_pretrained`.

    Attributes:
        name: The Hub id, or the name of the folder or file, without its path: that is private.
        names: Paths of all files; of a single file, its own.
        revision: The commit on the Hub, or None.

    Raises:
        ModelFileError: If there is no such thing, it cannot be reached, or a local folder is asked for a revision.
    """

    def __init__(
        self,
        source: str | Path,
        revision: str | None = None,
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ):
        path = Path(source)
        self._downloads = dict(
            token=token, cache_dir=cache_dir, force_download=force_download, local_files_only=local_files_only
        )
        if path.is_file() and path.suffix == ".safetensors":
            path = path.parent  # such weights mean nothing without the config beside them
        self.revision, self._root = None, None
        if path.is_dir() or path.is_file():
            if revision is not None:
                raise ModelFileError(f"{path} is no Hub repository, it has no revision {revision!r:.80}")
            self.name = path.resolve().name
            self._root = path if path.is_dir() else path.parent
            self.names = _walk(path) if path.is_dir() else [path.name]
        elif REPO_ID.fullmatch(str(source)):
            self.name = str(source)
            self.names, self.revision = list_files(self.name, revision, self._downloads)
        else:
            raise ModelFileError(f"{str(source)!r:.200} is no existing folder or file, and no Hub id 'user/name'")

    @property
    def is_local(self) -> bool:
        """Whether the files are here already."""
        return self._root is not None

    def has(self, name: str) -> bool:
        """Whether there is such a file; ``..`` leads out of a local folder, as a config may lie above a checkpoint."""
        if self._root is None:
            return posixpath.normpath(name) in self.names
        return (self._root / name).is_file()

    def path(self, name: str) -> Path:
        """The file on this machine, downloaded if need be."""
        name = posixpath.normpath(name)
        return download(self.name, name, self.revision, self._downloads) if self._root is None else self._root / name

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object; see :func:`cbsae_hub.hub.files.read_config`."""
        return read_config(self.path(name))

    def words(self, name: str) -> list[str]:
        """The parts of a file's whole path, from which some projects' settings are read; then the Hub id's."""
        whole = str(self.path(name).resolve()) if self.is_local else f"{self.name}/{name}"
        return whole.replace(os.sep, "/").split("/")


def _walk(folder: Path) -> list[str]:
    """Files of a folder, hidden ones and folders left out."""
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [(Path(parent) / name).relative_to(folder).as_posix() for name in files if not name.startswith(".")]
    return sorted(names)
