"""Finding the files of a model in a folder or on the Hub, or saying what to do about their absence."""

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cbsae_hub.models.card import edited_by_hand
from cbsae_hub.models.files import CONFIG_NAME, WEIGHTS_NAME, ModelFileError, folder_revision

CARD_NAME = "README.md"


def find_in_folder(folder: Path, revision: str | None) -> tuple[Path, Path, str]:
    """The paths of config and weights in a folder, and its revision: ``revision``, if that is given."""
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            others = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
            hint = f" {others} is a pickle and is not read." if others else " Was its saving interrupted?"
            raise ModelFileError(f"{folder} has no {name}.{hint}")
    found = folder_revision(folder)
    if revision not in (None, found):
        raise ModelFileError(f"{folder} is at revision {found}, not at {revision!r:.80}")
    return folder / CONFIG_NAME, folder / WEIGHTS_NAME, found


def download(repo_id: str, name: str, revision: str | None, arguments: dict[str, Any]) -> Path:
    """Downloads a file of a repository, or finds it in the cache; every failure is a ModelFileError."""
    try:
        return Path(hf_hub_download(repo_id, name, revision=revision, **arguments))
    except HFValidationError:
        raise ModelFileError(f"{repo_id!r:.200} is neither an existing folder nor a Hub id 'user/name'") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelFileError(
            f"{name} of {repo_id} is not in the cache, and the Hub is out of reach: {error}"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelFileError(f"{repo_id} has no revision {revision!r:.80} on the Hub") from error
    except RepositoryNotFoundError as error:
        raise ModelFileError(
            f"{repo_id} is no folder here, and on the Hub it does not exist or needs a token: {error}"
        ) from error
    except EntryNotFoundError as error:
        raise ModelFileError(f"{repo_id} has no {name} on the Hub: not a model of this package") from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelFileError(f"{name} of {repo_id} could not be downloaded: {error}") from error


def card_was_edited(repo_id: str, branch: str | None, token: str | None) -> bool:
    """Whether the README.md of a repository on the Hub was written by somebody else than this package."""
    try:
        path = hf_hub_download(repo_id, CARD_NAME, revision=branch, token=token)
    except LocalEntryNotFoundError as error:  # an EntryNotFoundError too, but it only means "not known"
        raise ModelFileError(f"could not look for a {CARD_NAME} in {repo_id}, nothing pushed: {error}") from error
    except (EntryNotFoundError, RevisionNotFoundError):
        return False
    return edited_by_hand(Path(path).read_text(encoding="utf-8"))
