"""Finding the files of a model in a folder or on the Hub, or saying what to do about their absence."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from cbsae_hub.hub.files import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    ModelFileError,
    content_tag,
    folder_revision,
    is_content,
    resolve_id,
    sha256,
)

CARD_NAME = "README.md"
MODEL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")  # nothing that is unpickled or run
# Where a repository has pickled weights alone, transformers would ask a Space to convert them, and give it the token.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
OTHERS = "an SAE of another library is loaded with cbsae_hub.load"


class OtherWeights(ModelFileError, ValueError):
    """A model holds other weights than were asked for."""


_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str | None) -> bool:
    """Whether a revision is the whole hash of a commit on the Hub."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def find_in_folder(folder: Path, revision: str | None) -> tuple[Path, Path, str | None]:
    """The paths of config and weights in a folder, and its revision: ``revision``, if that is given."""
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            others = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
            hint = f" {others} is a pickle and is not read." if others else " Was its saving interrupted?"
            raise ModelFileError(f"{folder} has no {name}.{hint} ({OTHERS})")
    return folder / CONFIG_NAME, folder / WEIGHTS_NAME, locate(folder, revision).revision


def find_on_hub(repo_id: str, revision: str | None, options: dict[str, Any]) -> tuple[Path, Path, str]:
    """The paths of config and weights in the cache, downloaded if need be, and their commit."""
    config = download(repo_id, CONFIG_NAME, revision, options)
    commit = config.parent.name  # the weights' too, even if somebody pushes in between
    weights = download(repo_id, WEIGHTS_NAME, commit, options)
    if is_content(revision) and folder_revision(config.parent) != revision:
        # Those in sub-folders count too.
        actual = folder_revision(download_folder(repo_id, commit, ("*.safetensors",), options))
        if actual != revision:
            raise OtherWeights(f"{repo_id} holds weights {actual} on the Hub, not {revision}: they were replaced")
    return config, weights, commit


@dataclass(frozen=True)
class Located:
    """A model, and where it lies."""

    id: str  # its name: the folder or Hub id that came in
    folder: Path | None = None  # None where it is on the Hub
    commit: str | None = None  # branch, tag or commit to load from the Hub, None for the newest

    @cached_property
    def revision(self) -> str | None:
        """The :func:`folder_revision` of a folder, for which all weights are read; on the Hub the commit."""
        return self.commit if self.folder is None else folder_revision(self.folder)

    @property
    def pretrained(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained`` of transformers and diffusers."""
        if self.folder is not None:
            return {"pretrained_model_name_or_path": str(self.folder)}
        return {"pretrained_model_name_or_path": self.id, "revision": self.commit}


def locate(repo_id: str | Path | Located, revision: str | None = None, beside: str | Path | None = None) -> Located:
    """Finds where a model lies. Call it once, where an id comes in, and hand the result on.

    What ``revision`` names by its weights, "sha256:...", is compared with them; a model on the Hub is downloaded as a
    whole first.

    Args:
        repo_id: Folder or Hub id; or a result of this function, which is returned as it is.
        revision: Branch, tag, commit or "sha256:..." of a Hub repository; of a folder the revision that it must have.
        beside: A model folder that refers to this model, see :func:`resolve_id`.

    Raises:
        OtherWeights: If the weights are others than ``revision`` names.
        ModelFileError: If it has to be downloaded and cannot be, or there are no weights to compare.
    """
    located = repo_id
    if not isinstance(located, Located):
        source = resolve_id(str(repo_id), beside)
        if Path(source).is_dir():
            located = Located(str(repo_id), Path(source))
        elif is_content(revision):
            located = Located(str(repo_id), download_folder(source, revision))
        else:
            located = Located(source, None, revision)
    if revision is not None and revision != located.revision:
        difference = f"is at revision {located.revision}, not at {revision!r:.80}"
        if revision.startswith("sha256:"):
            difference = f"holds weights {located.revision}, but {revision} is asked for"
        raise OtherWeights(f"{located.id} {difference}: another model?")
    return located


def download(repo_id: str, name: str, revision: str | None = None, options: dict[str, Any] | None = None) -> Path:
    """Downloads a file of a repository, or finds it in the cache; every failure is a ModelFileError.

    ``revision`` is a branch, tag, commit or "sha256:...", which the caller compares. ``options`` are further arguments
    of ``hf_hub_download``.
    """
    options = options or {}
    return _fetch(lambda ref: hf_hub_download(repo_id, name, revision=ref, **options), repo_id, name, revision, options)


def download_folder(
    repo_id: str,
    revision: str | None = None,
    patterns: Sequence[str] = MODEL_FILES,
    options: dict[str, Any] | None = None,
) -> Path:
    """Downloads files of a repository, all of one commit, or finds them in the cache: their folder there.

    Arguments and errors as of :func:`download`; ``patterns`` are those of the files' paths.
    """
    options = (options or {}) | {"allow_patterns": list(patterns)}
    return _fetch(lambda ref: snapshot_download(repo_id, revision=ref, **options), repo_id, "a copy", revision, options)


def list_files(repo_id: str, revision: str | None, options: dict[str, Any]) -> tuple[list[str], str]:
    """Paths of all files of a repository, and its commit; offline, of those that are in the cache.

    Raises:
        ModelFileError: If the Hub refuses or cannot be reached, or nothing is in the cache.
    """
    try:
        if options.get("local_files_only") or constants.HF_HUB_OFFLINE:
            folder = Path(snapshot_download(repo_id, revision=revision, **options | {"local_files_only": True}))
            files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
            return sorted(file.as_posix() for file in files), folder.name
        info = HfApi(token=options.get("token")).model_info(repo_id, revision=revision)
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        raise ModelFileError(_explain(error, repo_id, "a list of files", revision)) from error
    return sorted(file.rfilename for file in info.siblings or []), str(info.sha)


def _fetch(
    fetch: Callable[[str | None], str], repo_id: str, what: str, revision: str | None, options: dict[str, Any]
) -> Path:
    """Calls ``fetch`` with a ref of the Hub, then compares what is new in the cache with its hash, also if it failed.

    Files that were in the cache before are not hashed again.
    """
    if os.path.isfile(repo_id):
        raise ModelFileError(f"{repo_id} is a file: give the folder that it is in; {OTHERS}")
    cache = Path(options.get("cache_dir") or constants.HF_HUB_CACHE).expanduser()
    blobs = cache / f"models--{repo_id.replace('/', '--')}" / "blobs"
    before = set() if options.get("force_download") else _hashes(blobs)
    refs = [content_tag(revision), None] if is_content(revision) else [revision]
    try:
        while True:
            try:
                path = Path(fetch(refs.pop(0)))
                break
            except (RevisionNotFoundError, LocalEntryNotFoundError):
                if not refs:  # not tagged: it may still be the newest
                    raise
    # hf_xet, which the Hub keeps large files with, raises RuntimeError
    except (httpx.HTTPError, EntryNotFoundError, OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(_explain(error, repo_id, what, revision)) from error
    finally:
        damaged = [name for name in _hashes(blobs) - before if content_hash(blobs / name, name) != name]
        for name in damaged:
            (blobs / name).unlink(missing_ok=True)
    if damaged:
        raise ModelFileError(
            f"a file of {repo_id} arrived damaged: its hash is not the one that the Hub says. It was deleted, "
            "nothing was loaded: try again"
        )
    return path


def _hashes(blobs: Path) -> set[str]:
    """Names of the whole files in the cache of a repository; the Hub names them by what they contain.

    Where the file system knows no links, the cache has no such names, and nothing can be compared.
    """
    return {path.name for path in blobs.iterdir() if _HASH.fullmatch(path.name)} if blobs.is_dir() else set()


def content_hash(source: Path | bytes, like: str) -> str:
    """The hash by which the Hub names a file: SHA-256 if it is large, else git's, as the length of ``like`` tells."""
    if len(like) == 40:
        content = source if isinstance(source, bytes) else source.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return sha256(source)


def _explain(error: Exception, repo_id: str, what: str, revision: str | None) -> str:
    """Text that says what went wrong with a download, and what to do about it."""
    if isinstance(error, HFValidationError):
        return f"{repo_id!r:.200} is neither an existing folder nor a Hub id 'user/name'"
    if isinstance(error, GatedRepoError):
        return (
            f"{repo_id} is gated: accept its conditions at {constants.ENDPOINT}/{repo_id}, then log in with "
            f"`hf auth login` ({error})"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r:.80} on the Hub"
    # "not found in the cache" hides what the Hub answered
    answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
    status = answer.response.status_code if isinstance(answer, HfHubHTTPError) else None
    absent = f"{repo_id} is no folder here, and"
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return f"{absent} on the Hub it does not exist or needs a token (`hf auth login`): {error}"
    if status == 403:
        return f"the Hub refuses {what} of {repo_id} to this token (403): log in with another, `hf auth login`"
    if status is not None and status >= 500:
        return f"{what} of {repo_id} could not be downloaded, the Hub is in trouble ({status}): try again later"
    if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)) and status is None:
        offline = "HF_HUB_OFFLINE is set, unset it to download"
        why = offline if constants.HF_HUB_OFFLINE else f"the Hub is out of reach: {error}"
        return f"{absent} {what} of {repo_id} is not in the cache; {why}"
    if isinstance(error, EntryNotFoundError) and status in (None, 404):
        return f"{repo_id} has no {what} on the Hub: not a model of this package; {OTHERS}"
    if isinstance(error, httpx.HTTPError) and status is None:
        return f"{what} of {repo_id} could not be downloaded, the connection broke: try again ({error})"
    return f"{what} of {repo_id} could not be downloaded: {answer or error}"
