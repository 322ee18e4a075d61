"""Sending a folder to the Hub in one commit, or saying why not."""

import logging
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoUrl,
    constants,
    hf_hub_download,
    metadata_load,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import httpx

from cbsae_hub.hub.files import MAIN_WEIGHTS, ModelFileError, content_tag, folder_revision, is_left_out
from cbsae_hub.hub.locate import CARD_NAME, content_hash
from cbsae_hub.hub.references import foreign_ids
from cbsae_hub.hub.results import RESULTS
from cbsae_hub.hub.stamp import edited_by_hand
from cbsae_hub.version import __version__

logger = logging.getLogger(__name__)

_SHARD = re.compile(r"(-\d+-of-\d+)?\.safetensors$")
GITIGNORE = ".gitignore"
RepoType = Literal["model", "dataset", "space"]


class PublishError(OSError):
    """Something was not published; the message says what to do about it."""


@dataclass(frozen=True)
class Upload:
    """Files to send, and their destination.

    Attributes:
        folder: The folder of the files.
        repo_id: Their repository.
        repo_type: "model", "dataset" or "space".
        files: Path in the folder and in the repository to size in bytes.
        rewritten: Contents that go there instead of those in the folder, by path.
        references: Local ids that are replaced, to their names on the Hub.
    """

    folder: Path
    repo_id: str
    repo_type: RepoType
    files: Mapping[str, int]
    rewritten: Mapping[str, bytes] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def source(self, path: str) -> Path | bytes:
        """The source of a path: a file, or its content."""
        # a whole path: huggingface_hub takes one that begins with "~" for somebody's home
        return self.rewritten.get(path, self.folder.absolute() / path)


@dataclass(frozen=True)
class Published:
    """The result of an :class:`Upload`.

    Attributes:
        repo_id: Its repository, with the owner.
        url: Address of the commit, or of the pull request.
        commit: Its hash, or that of the newest commit if there was nothing to do.
        changed: Whether there was anything to do.
    """

    repo_id: str
    url: str
    commit: str
    changed: bool


def files_of(folder: Path) -> dict[str, int]:
    """The files of a folder that are published, with their sizes: no checkpoints, logs, unfinished or hidden files.

    Raises:
        PublishError: If one is a link out of the folder, to a folder or to nothing: nobody sees in the folder what it
            would publish. Links into the blobs of the Hub's cache are files.
    """
    sizes, root = {}, folder.resolve()
    roots = [root, *([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])]
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if is_left_out(relative):
            continue
        if path.is_symlink() and not (path.is_file() and any(path.resolve().is_relative_to(one) for one in roots)):
            link = f"{path} is a link to {path.resolve()}, which is no file in {folder}"
            raise PublishError(f"{link}: put a copy in its place, or delete it")
        if path.is_file():
            sizes[relative.as_posix()] = path.stat().st_size
    return sizes


def header_of(folder: Path) -> dict[str, Any]:
    """The metadata of a folder's card; empty where there is none.

    Raises:
        ValueError: If it cannot be read.
    """
    card = folder / CARD_NAME
    try:
        return (metadata_load(card) or {}) if card.is_file() else {}
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"the header of {card} cannot be read ({_one_line(error)}): mend it, or delete it") from None


def publish(
    upload: Upload,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    overwrite_card: bool = False,
    message: str | None = None,
    branch: str | None = None,
) -> Published:
    """Sends a folder in one commit: the repository never holds half of it. Files that it has are not sent again.

    If the answer to a commit is lost, the commit is looked for. It counts if it is there.

    Files of the repository that the folder does not have stay, but for shards and results of replaced weights beside a
    model, and all but the card of a Space, which runs what lies in it.

    Args:
        upload: Files and destination.
        token: Access token; default the stored one.
        private: Whether a new repository is private.
        create_pr: Open a pull request instead.
        overwrite_card: Replace the README.md on the Hub even if it was edited by hand there.
        message: Message of the commit.
        branch: An existing branch; default main.

    Raises:
        PublishError: If the Hub refuses or is out of reach; nothing was committed then, unless the message says
            otherwise, and trying again does no harm.
    """
    api = HfApi(token=token)
    with explained(f"{upload.repo_id} was not published", upload):
        repo = _create(api, upload, private)
        repo_id = repo.repo_id
        about: dict[str, Any] = {"repo_id": repo_id, "repo_type": upload.repo_type}
        head = api.repo_info(**about, revision=branch)
        if private and head.private is False:
            raise PublishError(f"{repo_id} exists and is public: make it private in its settings, or publish openly")
        newest = str(head.sha)
        existing = _existing_files(api, about, newest)
        before = _written(upload)
        is_model = upload.repo_type == "model" and any(path.endswith(".safetensors") for path in upload.files)
        tag = content_tag(folder_revision(upload.folder)) if is_model else None
        changed = [path for path in upload.files if _differs(upload.source(path), existing.get(path))]
        if CARD_NAME in changed and not overwrite_card and _keeps_card(upload, repo_id, existing, newest, token):
            changed.remove(CARD_NAME)
        outdated = _outdated(upload, existing, changed)
        url, commit = f"{repo.url}/commit/{newest}", newest
        if changed or outdated:
            details = {
                "commit_message": message or f"Upload with cbsae_hub {__version__}",
                "parent_commit": newest,
                "revision": branch,
                "create_pr": create_pr,
            }
            url, commit = _commit(api, repo, upload, existing, changed, outdated, details)
    after = _written(upload)
    if late := [path for path in changed if before.get(path) != after.get(path)]:
        raise PublishError(
            f"{repo_id} was published while {', '.join(late)} changed, so it may hold files of two versions: publish "
            "it again when nobody writes there"
        )
    if tag is not None and not create_pr:
        # Others refer to these weights by what they contain, also when there are newer ones.
        with explained(f"{upload.repo_id} was published, but has not got its tag {tag}", upload):
            api.create_tag(repo_id, tag=tag, revision=commit, exist_ok=True)
    return Published(repo_id, url, commit, bool(changed or outdated))


def warn_of_foreign_ids(folder: Path, others: Collection[str] = ()) -> None:
    """Says so if a model refers to folders of this machine, other than those in ``others``."""
    if ids := [name for name in foreign_ids(folder) if name not in others]:
        logger.warning("%s are folders of this machine: publish them together with what refers to them, else nobody "
                       "finds them", ", ".join(ids))  # fmt: skip


def _create(api: HfApi, upload: Upload, private: bool | None) -> RepoUrl:
    """Makes the repository if there is none."""
    sdk = header_of(upload.folder).get("sdk") if upload.repo_type == "space" else None
    if upload.repo_type == "space" and sdk is None:
        raise PublishError(f"{upload.folder} is no Space: it needs a {CARD_NAME} whose header says `sdk: gradio`")
    return api.create_repo(upload.repo_id, repo_type=upload.repo_type, private=private, exist_ok=True, space_sdk=sdk)


def _keeps_card(
    upload: Upload, repo_id: str, existing: Mapping[str, RepoFile], commit: str, token: str | bool | None
) -> bool:
    """Whether somebody has edited the existing card."""
    made_by_hub = upload.repo_type == "space" and set(existing) <= {CARD_NAME, ".gitattributes"}
    if CARD_NAME not in existing or made_by_hub:
        return False
    path = hf_hub_download(repo_id, CARD_NAME, repo_type=upload.repo_type, revision=commit, token=token)
    if not edited_by_hand(Path(path).read_text(encoding="utf-8", errors="replace")):
        return False
    logger.warning("keeping the hand-edited %s of %s; overwrite_card=True replaces it", CARD_NAME, repo_id)
    return True


def _commit(
    api: HfApi,
    repo: RepoUrl,
    upload: Upload,
    existing: Mapping[str, RepoFile],
    changed: list[str],
    outdated: list[str],
    details: Mapping[str, Any],
) -> tuple[str, str]:
    """Makes the commit, or the pull request, and returns its URL and hash; if the answer is lost, it is looked for."""
    about: dict[str, Any] = {"repo_id": repo.repo_id, "repo_type": upload.repo_type}
    additions = [CommitOperationAdd(path, upload.source(path)) for path in changed]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [*additions, *map(CommitOperationDelete, outdated)]
    try:
        if GITIGNORE in existing:
            _refuse_ignored(api, about, additions, details)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            answer = api.create_commit(**about, operations=operations, **details)
        return answer.pr_url or answer.commit_url, answer.oid
    except httpx.HTTPError as error:
        if not _answer_lost(error):
            raise
        if details["create_pr"]:
            raise PublishError(
                f"{repo.repo_id} may have got the pull request, only the answer was lost: look at "
                f"{repo.url}/discussions before you try again"
            ) from error
        with explained(f"the answer was lost, so {repo.repo_id} may be published or not", upload):
            commit = str(api.repo_info(**about, revision=details["revision"]).sha)
            now = _existing_files(api, about, commit)
        if any(_differs(upload.source(path), now.get(path)) for path in changed) or now.keys() & set(outdated):
            raise
        return f"{repo.url}/commit/{commit}", commit


def _refuse_ignored(
    api: HfApi, about: Mapping[str, Any], additions: Sequence[CommitOperationAdd], details: Mapping[str, Any]
) -> None:
    """Raises PublishError if the Hub would leave out files, without a word, for the sake of a .gitignore there."""
    options = {name: details[name] for name in ("revision", "create_pr")}
    api.preupload_lfs_files(**about, additions=additions, free_memory=False, **options)
    if ignored := sorted(operation.path_in_repo for operation in additions if operation._should_ignore):
        raise PublishError(
            f"{about['repo_id']} was not published: its {GITIGNORE} makes the Hub leave out {', '.join(ignored)}; "
            "delete it there, or the lines that do"
        )


def _answer_lost(error: httpx.HTTPError) -> bool:
    """Whether a commit was sent, and perhaps made although it failed: no answer arrived, or that of a gateway."""
    if not isinstance(error, HfHubHTTPError):
        return "/commit/" in error.request.url.path
    return error.response.status_code in (502, 504) and "/commit/" in error.response.request.url.path


def _existing_files(api: HfApi, about: Mapping[str, Any], commit: str) -> dict[str, RepoFile]:
    tree = api.list_repo_tree(**about, recursive=True, revision=commit)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _written(upload: Upload) -> dict[str, int | None]:
    """Time at which each file was written; None of one that is gone."""
    sources = {path: upload.folder / path for path in upload.files if path not in upload.rewritten}
    return {path: source.stat().st_mtime_ns if source.is_file() else None for path, source in sources.items()}


def _differs(source: Path | bytes, existing: RepoFile | None) -> bool:
    """Whether a file is another one than that on the Hub."""
    if existing is None:
        return True
    expected, size = (existing.lfs.sha256, existing.lfs.size) if existing.lfs else (existing.blob_id, existing.size)
    if size != (len(source) if isinstance(source, bytes) else source.stat().st_size):
        return True  # large ones take long to hash
    return content_hash(source, expected) != expected


def _outdated(upload: Upload, existing: Mapping[str, RepoFile], changed: Sequence[str]) -> list[str]:
    """Files of the repository that would be wrong beside those that come."""
    others = set(existing) - set(upload.files)
    if upload.repo_type == "space":
        return sorted(path for path in others if path != CARD_NAME and not path.startswith("."))
    weights = {_SHARD.sub("", path) for path in changed if MAIN_WEIGHTS.search(path)}
    shards = {path for path in existing if MAIN_WEIGHTS.search(path) and _SHARD.sub("", path) in weights}
    if not shards:
        return []
    # What loads a model prefers one whole file, which would be the old one beside new shards.
    replaced = others & (shards | {f"{name}.safetensors.index.json" for name in weights})
    if outdated := sorted(others & set(RESULTS) | replaced):
        logger.warning("removing what is of the replaced weights from %s: %s", upload.repo_id, ", ".join(outdated))
    return outdated


@contextmanager
def explained(what: str, upload: Upload) -> Iterator[None]:
    """Makes a PublishError of whatever huggingface_hub raises."""
    try:
        yield
    except (PublishError, ModelFileError):
        raise
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise PublishError(f"{what}: {_advice(error, upload)}") from error


def _advice(error: Exception, upload: Upload) -> str:
    """Text that says what went wrong, and what to do about it."""
    # failed uploads, and a card that is not in the cache, hide what the Hub answered
    hidden = isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and error.__cause__
    cause = hidden or error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    settings = f"{constants.ENDPOINT}/settings/tokens"
    if isinstance(cause, OfflineModeIsEnabled):
        return "huggingface_hub is told to work offline; unset HF_HUB_OFFLINE"
    if isinstance(cause, LocalTokenNotFoundError) or status == 401:
        return f"the Hub does not know who you are: log in with `hf auth login`, or give a token ({settings})"
    if isinstance(cause, HFValidationError):
        return f"that is no id on the Hub, 'owner/name': {cause}"
    if status == 403:
        return (
            f"your token may not write there: take one with write permission ({settings}), or open a pull request "
            "with create_pr=True, if there is such a repository"
        )
    if isinstance(cause, RevisionNotFoundError):
        return f"the repository has no such branch ({_one_line(cause)})"
    if status == 404:
        return f"the Hub finds no such {upload.repo_type}: is the owner right, and may your token see it?"
    if status in (409, 412):
        return f"it was changed meanwhile, or something else has that name: look there, try again ({_one_line(cause)})"
    if status == 429:
        return "the Hub gets too many requests from you: wait some minutes and try again"
    if status is not None and status >= 500:
        return f"the Hub is in trouble ({status}): try again later; what was sent is not sent twice"
    if status is None and isinstance(cause, httpx.HTTPError):
        return f"the connection broke ({cause}): try again; what was sent is not sent twice"
    return _one_line(cause)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
