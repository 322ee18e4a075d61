"""Lists of concepts to name neurons with: a user's own, the one that comes with the package, or published ones."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import httpx
from huggingface_hub import constants

from cbsae_hub.hub.files import read_text, replace_file, sha256
from cbsae_hub.words import clean_name, name_key

logger = logging.getLogger(__name__)

RAW = "https://raw.githubusercontent.com"
TIMEOUT = 30.0
COMMON = "common"


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


def _values(text: str) -> list[str]:
    """All values of a JSON object of lists, sorted, each once."""
    return sorted({value for values in json.loads(text).values() for value in values})


@dataclass(frozen=True)
class PublishedList:
    """A published list: its address, and how to know that a file is it."""

    url: str  # at a fixed commit
    sha256: str  # first 16 digits
    count: int  # of concepts, before duplicates are removed
    parse: Callable[[str], list[str]] = _lines  # makes a list of the file's text


_DISSECT = f"{RAW}/Trustworthy-ML-Lab/CLIP-dissect/21e7697/data"
_VLG_CBM = f"{RAW}/Trustworthy-ML-Lab/VLG-CBM/376a768/concept_files/imagenet_per_class.json"
_DECIDER = f"{RAW}/kowshikthopalli/DECIDER/9c744b9/core_concepts/imagenet_core_concepts.json"
PUBLISHED = {
    "broden": PublishedList(f"{_DISSECT}/broden_labels_clean.txt", "603036d4b138c664", 1197),
    "3k": PublishedList(f"{_DISSECT}/3k.txt", "425845cf228cf912", 3000),
    "20k": PublishedList(f"{_DISSECT}/20k.txt", "4ed6e5336d7760d2", 20000),
    "vlg-cbm": PublishedList(_VLG_CBM, "6ce98f1ee1060291", 4729, _values),
    "decider": PublishedList(_DECIDER, "2117ed591aa408db", 7827, _values),
}


class ConceptSet:
    """Concepts in order, cleaned, each once.

    Names are kept as :func:`cbsae_hub.words.clean_name` writes them; empty ones are dropped. Of names with the same
    :func:`cbsae_hub.words.name_key`, which differ in case only, say, the first is kept: with duplicates, all but one
    could never be any neuron's name (44 of Broden's 1,197 labels are such).

    Args:
        concepts: The names.
        name: Name of the set in reports.

    Attributes:
        concepts: The cleaned names.
        duplicates_removed: Number of names that were dropped as duplicates.
        sha256: Hash of the cleaned list, one concept a line.

    Raises:
        ValueError: If nothing is left, or it is not a list of strings.
    """

    def __init__(self, concepts: Iterable[str], name: str = "custom"):
        if isinstance(concepts, str):
            raise ValueError(f"concepts must be a list of names, got {concepts!r:.80}")
        cleaned: dict[str, str] = {}
        count = 0
        for concept in concepts:
            if not isinstance(concept, str):
                raise ValueError(f"concepts must be strings, got {concept!r}")
            if text := clean_name(concept):
                count += 1
                cleaned.setdefault(name_key(text), text)
        if not cleaned:
            raise ValueError(f"the concept set {name!r} is empty")
        self.name = name
        self.concepts = tuple(cleaned.values())
        self.duplicates_removed = count - len(self.concepts)
        self.sha256 = sha256("\n".join(self.concepts))
        if self.duplicates_removed:
            logger.info("%s: %d duplicates removed, %d concepts kept", name, self.duplicates_removed, len(self))

    def __len__(self) -> int:
        return len(self.concepts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.concepts)

    def __getitem__(self, index: int) -> str:
        return self.concepts[index]

    @classmethod
    def from_file(cls, path: str | Path) -> "ConceptSet":
        """Reads a text file in UTF-8, or in UTF-16 as Windows writes it, one concept a line.

        Raises:
            ValueError: If it is no text or has no concepts.
            OSError: If it cannot be read.
        """
        path = Path(path)
        return cls(read_text(path).splitlines(), path.stem)

    @classmethod
    def common(cls) -> "ConceptSet":
        """The list "common": about 2,000 things that pictures show, in English, for arbitrary photographs.

        It comes with the package and needs no network. It was written for the package, from no dataset's classes, and
        has the package's licence (MIT). Words are spelled as in America, as most captions are that CLIPs have read.
        """
        return cls(_lines((files("cbsae_hub.data") / "common_concepts.txt").read_text(encoding="utf-8")), COMMON)

    @classmethod
    def from_published(cls, name: str, cache: str | Path | None = None) -> "ConceptSet":
        """A published list: "broden", "3k", "20k" (CLIP-Dissect), "vlg-cbm" or "decider".

        It is downloaded once, at a fixed commit, and compared with its hash. The lists carry no licence and are not
        part of this package.

        Args:
            name: Name of the list.
            cache: Folder for the downloaded file; default ``cbsae_hub/concepts`` in Hugging Face's cache.

        Raises:
            ValueError: If there is no such list, or the file is not the expected one.
            ConnectionError: If it is not there and cannot be downloaded; says where to put it by hand.
        """
        if name not in PUBLISHED:
            raise ValueError(f"no published concept list {name!r}; known are {', '.join(PUBLISHED)}")
        source = PUBLISHED[name]
        file = Path(cache or Path(constants.HF_HOME) / "cbsae_hub" / "concepts") / source.url.rsplit("/", 1)[1]
        if not file.is_file():
            _download(source.url, file, name)
        content = file.read_bytes()
        if (digest := sha256(content)[:16]) != source.sha256:
            raise ValueError(f"{file} is not the published list {name!r} (sha256 {digest}): delete it and try again")
        concepts = source.parse(content.decode("utf-8"))
        if len(concepts) != source.count:
            raise ValueError(f"{file} holds {len(concepts)} concepts, the published list {name!r} has {source.count}")
        return cls(concepts, name)

    @classmethod
    def load(cls, source: str | Path) -> "ConceptSet":
        """The list "common" or a published one by its name, or a text file by its path.

        Raises:
            ValueError: See :meth:`from_file` and :meth:`from_published`.
            OSError: Likewise; or there is neither.
        """
        if str(source) == COMMON:
            return cls.common()
        if str(source) in PUBLISHED:
            return cls.from_published(str(source))
        if not Path(source).is_file():
            names = ", ".join([COMMON, *PUBLISHED])
            raise FileNotFoundError(f"no file {source}, and no list of that name: those are {names}")
        return cls.from_file(source)


def _download(url: str, file: Path, name: str) -> None:
    try:
        response = httpx.get(url, timeout=TIMEOUT, follow_redirects=True)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise ConnectionError(
            f"the concept list {name!r} could not be downloaded ({error}). Fetch {url} elsewhere and put it at {file}"
        ) from error
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as partial:
        partial.write_bytes(response.content)
