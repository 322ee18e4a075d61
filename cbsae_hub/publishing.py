"""Publishing folders on the Hub: one as it is, or several that refer to each other.

A model refers to its encoder, judge, ... by an id and by what the weights contain, "sha256:...". Where those are
folders of this machine, the id means nothing to anybody else; :func:`plan_together` puts their names on the Hub in its
place. Of other paths of this machine only the last name is published. The weights stay what they are, so what pins them
still does.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast, get_args

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from cbsae_hub.cards.write import write_card
from cbsae_hub.formats.load import CLASSES
from cbsae_hub.hub.files import CONFIG_NAME, WEIGHTS_NAME, read_config
from cbsae_hub.hub.locate import CARD_NAME
from cbsae_hub.hub.references import references, told_in, with_names
from cbsae_hub.hub.results import without_results_of_other_weights
from cbsae_hub.hub.upload import (
    Published,
    PublishError,
    RepoType,
    Upload,
    explained,
    files_of,
    header_of,
    publish,
    warn_of_foreign_ids,
)
from cbsae_hub.neurons.pack import INFO, Pack, PackError

__all__ = ["Published", "PublishError", "Upload", "plan", "plan_together", "publish", "publish_together"]

REPO_TYPES = get_args(RepoType)
INDICES = (CONFIG_NAME, "model_index.json", "open_clip_config.json")  # files that say how to load a model
DATA = (".parquet", ".arrow", ".csv", ".jsonl", ".tar", ".webp", ".jpg", ".jpeg", ".png")


def plan(folder: str | Path, repo_id: str | None = None, *, repo_type: str | None = None) -> Upload:
    """The files of a folder that :func:`publish` would send; asks nobody and writes nothing.

    Checkpoints, logs, unfinished and hidden files stay behind, and results that name other weights. The card of a model
    of this package names the repository, unless it was edited by hand.

    Args:
        folder: A model, data set or Space.
        repo_id: Its repository, "owner/name"; default the folder's name, with whoever is logged in as its owner.
        repo_type: "model", "dataset" or "space"; default what the folder looks like.

    Raises:
        ValueError: If there is no such folder, nothing in it, half a model, or the id or type is none.
        PublishError: If there are links out of it.
    """
    folder = Path(folder)
    return _plan(folder, repo_id or folder.resolve().name, repo_type, {}, None)


def plan_together(folders: Sequence[str | Path], namespace: str, *, cards: str | Path | None = None) -> list[Upload]:
    """:func:`plan` of several folders, which refer to each other by their names on the Hub.

    Args:
        folders: Models and data sets; each becomes ``namespace/folder's name``.
        namespace: A user or organisation.
        cards: A folder with parts of cards that are written by hand, ``<folder's name>.md``: see
            :func:`cbsae_hub.cards.write.write_card`.

    Returns:
        Data sets, then models after those that they refer to.

    Raises:
        ValueError: See :func:`plan`; or two folders have the same name, or one refers to other weights of another
            than there are.
        PublishError: See :func:`plan`.
    """
    names = {Path(folder).resolve(): f"{namespace}/{Path(folder).resolve().name}" for folder in folders}
    if len(set(names.values())) < len(folders):
        raise ValueError("two of the folders have the same name")
    uploads = {}
    for folder, repo_id in names.items():
        by_hand = Path(cards) / f"{folder.name}.md" if cards else None
        others = references(folder, names)
        uploads[repo_id] = _plan(folder, repo_id, None, others, by_hand if by_hand and by_hand.is_file() else None)
    needed = {repo_id: set(upload.references.values()) - {repo_id} for repo_id, upload in uploads.items()}
    order = list(TopologicalSorter(needed).static_order())
    return sorted((uploads[repo_id] for repo_id in order), key=lambda upload: upload.repo_type)  # datasets, models


def publish_together(
    uploads: Sequence[Upload],
    *,
    collection: str | None = None,
    token: str | None = None,
    private: bool | None = None,
    overwrite_card: bool = False,
) -> Iterator[tuple[Upload, Published]]:
    """Publishes one after the other. What is there already is left alone, so that it can be started again.

    Args:
        uploads: Results of :func:`plan_together`, say.
        collection: Title of a collection of the first one's owner that gathers them; made if needed.
        token: See :func:`publish`.
        private: Likewise, and of the collection.
        overwrite_card: Likewise.

    Yields:
        Each one, as soon as it is published.

    Raises:
        PublishError: At the first that fails; says which are done and which are left.
    """
    api, slug = HfApi(token=token), None
    for position, upload in enumerate(uploads):
        try:
            published = publish(upload, token=token, private=private, overwrite_card=overwrite_card)
            if collection is not None:
                with explained(f"{upload.repo_id} was published, but is not in the collection {collection!r}", upload):
                    if slug is None:
                        about: dict[str, Any] = {"namespace": published.repo_id.split("/")[0], "private": bool(private)}
                        slug = api.create_collection(collection, exists_ok=True, **about).slug
                    api.add_collection_item(slug, published.repo_id, upload.repo_type, exists_ok=True)
        except PublishError as error:
            before, after = (", ".join(part.repo_id for part in parts) or "nothing" for parts in
                             (uploads[:position], uploads[position:]))  # fmt: skip
            raise PublishError(f"{error}\nDone: {before}\nLeft: {after}\nStart it again to go on from here") from error
        yield upload, published


def _plan(folder: Path, repo_id: str, repo_type: str | None, others: Mapping[str, str], by_hand: Path | None) -> Upload:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no id on the Hub, owner/name: {error}") from error
    files = files_of(folder)
    if not files:
        raise ValueError(f"there is nothing to publish in {folder}")
    repo_type = repo_type or _guess_type(folder, files)
    if repo_type not in REPO_TYPES:
        raise ValueError(f"repo_type must be one of {', '.join(REPO_TYPES)}, got {repo_type!r}")
    ours = _is_ours(folder)
    if repo_type == "model":
        _check_model(folder, files, ours)
        files = without_results_of_other_weights(folder, files)
        warn_of_foreign_ids(folder, others)
    names = {**told_in(folder), **others}
    rewritten = {path: text for path, text in with_names(folder, names).items() if path in files}
    if by_hand or ours:
        rewritten[CARD_NAME] = _card(folder, files, rewritten, repo_id, by_hand)
    if repo_type == "model" and INFO in files and ours:
        try:
            Pack.from_pretrained(folder)
        except PackError as error:
            raise ValueError(f"the pack cannot be read, so nobody could use it: {error}") from error
    sizes = {path: len(text) for path, text in rewritten.items()}
    return Upload(folder, repo_id, cast(RepoType, repo_type), files | sizes, rewritten, others)


def _card(
    folder: Path, files: Iterable[str], rewritten: Mapping[str, bytes], repo_id: str, by_hand: Path | None
) -> bytes:
    """The card that a folder has on the Hub; made beside links to its files, so that nothing is written into it."""
    with TemporaryDirectory() as temporary:
        copy = Path(temporary) / "card"
        for path in files:
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            if path in rewritten:
                (copy / path).write_bytes(rewritten[path])
                continue
            try:
                (copy / path).symlink_to((folder / path).resolve())
            except OSError:  # Windows, unless it is told to
                shutil.copyfile(folder / path, copy / path)
        try:
            write_card(copy, repo_id, by_hand)
        except ValueError as error:
            raise type(error)(str(error).replace(str(copy), str(folder))) from error
        return (copy / CARD_NAME).read_bytes()


def _guess_type(folder: Path, files: Mapping[str, int]) -> str:
    if "sdk" in header_of(folder):
        return "space"
    if any(name in files for name in INDICES) or any(path.endswith(".safetensors") for path in files):
        return "model"
    if any(path.endswith(DATA) for path in files):
        return "dataset"
    raise ValueError(f"{folder} looks like no model, data set or Space: say which with repo_type")


def _check_model(folder: Path, files: Mapping[str, int], ours: bool) -> None:
    if not any(name in files for name in INDICES):
        raise ValueError(f"{folder} has none of {', '.join(INDICES)}: was its saving interrupted?")
    if not ours:
        return
    if WEIGHTS_NAME not in files:
        raise ValueError(f"{folder} has no {WEIGHTS_NAME}: was its saving interrupted?")
    try:
        with safe_open(folder / WEIGHTS_NAME, framework="pt"):
            pass
    except SafetensorError as error:
        damaged = f"{folder / WEIGHTS_NAME} is damaged or half-written ({error})"
        raise ValueError(f"{damaged}: save or download it again") from error


def _is_ours(folder: Path) -> bool:
    config = folder / CONFIG_NAME
    return config.is_file() and read_config(config).get("model_class") in CLASSES
