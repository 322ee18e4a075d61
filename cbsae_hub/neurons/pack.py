"""The pack of a model, computed beforehand: its neuron table, example images, and maps of the neurons' activations.

A pack lies beside the model in its Hub folder: Parquet, safetensors and WebP, with a schema version and checksums.
docs/neuron-table.md describes the columns.
"""

import copy
import io
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from safetensors.numpy import load_file, save_file

from cbsae_hub.hub.files import read_text, replace_file, sha256, write_text
from cbsae_hub.hub.locate import download_folder, locate
from cbsae_hub.neurons.icons import firing_part, icon_bytes
from cbsae_hub.neurons.search import Match
from cbsae_hub.neurons.table import NeuronTable, PackError
from cbsae_hub.neurons.verdicts import STRONG
from cbsae_hub.pictures import to_rgb
from cbsae_hub.version import __version__
from cbsae_hub.words import clean_name

SCHEMA_VERSION = 3
INFO = "pack.json"
FILES = ("neurons.parquet", "examples.parquet", "images.parquet", "patch_maps.safetensors", "vocabulary.safetensors")
CONTEXTS = "contexts.parquet"  # of a model of texts
ICONS = "icons.parquet"  # of a model of images, since packs have them
PARTS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("files", "model", "encoder", "judge", "naming", "images", "concepts", "scores"), dict),
    "grid": (list, type(None)),
}
"""Parts of pack.json, beside the versions, and their types."""
NEAREST = 5  # concepts that are named where a query has no strong match
NONSENSE, NEARER_THAN = 200, 0.99
"""Near in meaning is what is nearer to a concept than this share of so many made-up words is to any."""
STRIPS = ("top", "p75", "p50", "p25", "random")
ICON_KINDS = ("crop", "drawn")
Embed = Callable[[list[str]], Any]  # texts to unit embeddings [texts, d]


class PackMissing(PackError):
    """There is none."""


@dataclass(frozen=True)
class Example:
    """One image of a neuron.

    Attributes:
        image_id: Row of the image in the probe split.
        activation: The neuron's mean over the image's tokens.
        patch_map: ``[rows, columns]`` in 0..1 of the neuron's largest activation; None for SAEs without a grid.
        image: The picture as the encoder saw it, in the shape of the map; packs of older versions have it whole.
        alt: Description of the image.
    """

    image_id: int
    activation: float
    patch_map: np.ndarray | None
    image: Image.Image
    alt: str


@dataclass(frozen=True)
class Context:
    """A part of a text in which a neuron fires.

    Attributes:
        text_id: Number of the text.
        activation: The neuron's largest activation in it.
        passage: The part, around the token of that activation.
        starts: First character of each token on which the neuron fires.
        stops: Likewise, the character after the last.
        strengths: Activation of each of these tokens.
    """

    text_id: int
    activation: float
    passage: str
    starts: list[int]
    stops: list[int]
    strengths: list[float]


class StoredImage(NamedTuple):
    """A row of images.parquet."""

    image: int
    webp: bytes
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class FindResult:
    """Result of a search.

    Attributes:
        matches: Best first.
        verdict: "strong", "weak" or "not in this model": that of the best match.
        nearest: Concepts of the vocabulary that are closest to the query, where nothing or little was found.
        reason: Why the verdict, as a clause that tells of the best match; "" without one.
        near_by: The kind of nearness, "meaning" or "spelling".
    """

    matches: list[Match]
    verdict: str
    nearest: list[str]
    reason: str = ""
    near_by: str = "spelling"


class Pack:
    """A model's pack, read from its folder.

    Attributes:
        neurons: The neuron table.
        info: ``pack.json``: model, encoder, judge, images, concepts, scores.
        vocabulary: The concepts that neurons were named with.
    """

    def __init__(self, info: dict[str, Any], tables: dict[str, pd.DataFrame], maps: np.ndarray, texts: np.ndarray):
        self.info = info
        self.neurons = NeuronTable(tables["neurons"])
        self.vocabulary: list[str] = list(info["concepts"]["names"])
        self._texts = texts.astype(np.float32)
        self._maps = maps
        self._examples = tables["examples"]
        self._places: dict[tuple[int, str], np.ndarray] | None = None
        self._noise: float | None = None
        self._images = _by_image(tables["images"])
        self._contexts = tables.get("contexts")
        self._context_places: dict[int, np.ndarray] | None = None
        icons = tables.get("icons", pd.DataFrame(columns=["neuron", *ICON_KINDS]))
        self._icons = {kind: dict(zip(icons["neuron"], icons[kind])) for kind in ICON_KINDS}

    @classmethod
    def from_pretrained(cls, repo_id: str | Path, revision: str | None = None) -> "Pack":
        """Reads a pack and compares every file with its checksum.

        Args:
            repo_id: Folder or Hub id of the model.
            revision: Branch, tag or commit on the Hub; of a folder: what :func:`cbsae_hub.models.folder_revision` must
                say.

        Raises:
            ModelFileError: If it cannot be downloaded, or the folder is at another revision.
            PackError: If the pack is missing, damaged (the file is named), or of another schema version.
        """
        folder = Path(repo_id)
        if not folder.is_dir():
            folder = download_folder(str(repo_id), revision, (INFO, *FILES, CONTEXTS, ICONS))
        elif revision is not None:
            locate(folder, revision)
        try:
            info = json.loads(read_text(folder / INFO))
        except FileNotFoundError as error:
            mend = "make it with `cbsae pack`"
            raise PackMissing(f"{repo_id} has no {INFO}: {mend}") from error
        except ValueError as error:
            raise PackError(f"{folder / INFO} is damaged: {error}") from error
        if not isinstance(info, dict):
            raise PackError(f"{folder / INFO} is damaged: it holds no JSON object")
        if info.get("schema_version") != SCHEMA_VERSION:
            raise PackError(
                f"{repo_id} has a pack of schema version {info.get('schema_version')!r}; this version of cbsae_hub "
                f"reads {SCHEMA_VERSION}: build it again or install another version"
            )
        if lacking := [part for part, kind in PARTS.items() if not isinstance(info.get(part, ...), kind)]:
            raise PackError(f"{folder / INFO} is damaged: no good {', '.join(lacking)} in it; build the pack again")
        files = (*FILES, *(file for file in (CONTEXTS, ICONS) if file in info["files"]))
        for file in files:
            if not (folder / file).is_file():
                raise PackError(f"the pack of {repo_id} lacks {file}")
            if sha256(folder / file) != info["files"].get(file):
                raise PackError(f"{folder / file} is damaged or of another pack: its checksum differs from {INFO}")
        tables = {Path(file).stem: pd.read_parquet(folder / file) for file in files if file.endswith(".parquet")}
        maps = load_file(folder / "patch_maps.safetensors")["maps"]
        texts = load_file(folder / "vocabulary.safetensors")["text_embeddings"]
        return cls(info, tables, maps, texts)

    @staticmethod
    def write(
        folder: str | Path,
        info: dict[str, Any],
        neurons: pd.DataFrame,
        examples: pd.DataFrame,
        images: pd.DataFrame,
        maps: np.ndarray,
        text_embeddings: np.ndarray,
        contexts: pd.DataFrame | None = None,
        icons: pd.DataFrame | None = None,
    ) -> None:
        """Writes a pack; ``pack.json`` comes last, so that a half-written one is noticed.

        Args:
            folder: Folder of the model.
            info: Everything of ``pack.json`` but versions and checksums; ``concepts.names`` is the vocabulary.
            neurons: The neuron table.
            examples: neuron, strip, rank, image, activation; row i has map i.
            images: image, webp, alt, width, height.
            maps: ``[examples, patches]`` uint8; ``[examples, tokens]`` if there is no grid.
            text_embeddings: ``[concepts, d]`` of the judge.
            contexts: Of a model of texts: neuron, rank, text, and the values of a :class:`Context`.
            icons: neuron, and its icons as WebP or None, see :meth:`icon`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tables = {"neurons": neurons, "examples": examples, "images": images, "contexts": contexts, "icons": icons}
        for name, frame in tables.items():
            if frame is not None:
                with replace_file(folder / f"{name}.parquet") as partial:
                    frame.to_parquet(partial, index=False)
        texts = text_embeddings.astype(np.float16)
        for name, key, array in (("patch_maps", "maps", maps), ("vocabulary", "text_embeddings", texts)):
            with replace_file(folder / f"{name}.safetensors") as partial:
                save_file({key: np.ascontiguousarray(array)}, partial)
        files = (*FILES, *(f"{name}.parquet" for name in ("contexts", "icons") if tables[name] is not None))
        sums = {file: sha256(folder / file) for file in files}
        content = {"schema_version": SCHEMA_VERSION, "package_version": __version__, "files": sums, **info}
        write_text(folder / INFO, json.dumps(content, indent=1) + "\n")

    def extended(self, neurons: pd.DataFrame, examples: pd.DataFrame, images: pd.DataFrame, maps: np.ndarray) -> "Pack":
        """A copy with more neurons; what the table has and their rows lack is empty.

        Args:
            neurons: Rows of the neuron table that come after those that are there.
            examples: See :meth:`write`; row i has map i.
            images: Images that the pack does not hold yet.
            maps: ``[examples, map_size]`` uint8.
        """
        other = copy.copy(self)
        other.neurons = NeuronTable(pd.concat([self.neurons.frame, neurons], ignore_index=True))
        other._maps = np.concatenate([self._maps, maps])
        other._examples, other._places = pd.concat([self._examples, examples], ignore_index=True), None
        other._images = {**self._images, **_by_image(images)}
        return other

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the patch maps; None for SAEs on other tokens."""
        return tuple(self.info["grid"]) if self.info.get("grid") else None

    @property
    def map_size(self) -> int:
        """Number of values of a map."""
        return self._maps.shape[1]

    @property
    def cropped(self) -> bool:
        """True if the pictures show what the encoder saw; packs of older versions show them whole."""
        return self.info.get("cropped") is True

    def examples(self, neuron: int, strip: str = "top", limit: int = 8) -> list[Example]:
        """Images of a neuron.

        Args:
            neuron: The neuron's number.
            strip: "top" (strongest first), or "p75", "p50", "p25": images around that quantile of those on which the
                neuron is active. Top images alone mislead about what a neuron does.
            limit: At most so many.

        Raises:
            ValueError: If there is no such strip.
            IndexError: If there is no such neuron.
        """
        if strip not in STRIPS:
            raise ValueError(f"strip must be one of {', '.join(STRIPS)}, got {strip!r}")
        neuron = self.neurons[neuron].neuron
        rows = self._examples.iloc[self._rows_of(neuron, strip)[:limit]]
        return [
            Example(row.image, row.activation, self._map(row.Index), self.image(row.image), self._images[row.image].alt)
            for row in rows.itertuples()
        ]

    @property
    def of_texts(self) -> bool:
        """True if the model reads texts: its neurons have contexts instead of images."""
        return self._contexts is not None

    def contexts(self, neuron: int, limit: int = 8) -> list[Context]:
        """The texts in which a neuron fires most, strongest first; none of a model of images.

        Args:
            neuron: The neuron's number.
            limit: At most so many.

        Raises:
            IndexError: If there is no such neuron.
        """
        neuron = self.neurons[neuron].neuron
        if self._contexts is None:
            return []
        if self._context_places is None:
            self._context_places = self._contexts.groupby("neuron").indices
        rows = self._contexts.iloc[self._context_places.get(neuron, [])[:limit]]
        return [
            Context(
                row.text, row.activation, row.passage, *(list(part) for part in (row.starts, row.stops, row.strengths))
            )
            for row in rows.itertuples()
        ]

    def icon(self, neuron: int, kind: str = "crop") -> bytes | None:
        """A small picture of a neuron, as WebP; None where there is none.

        Args:
            neuron: The neuron's number.
            kind: "crop", the part of its strongest picture where it fires, which every neuron has that fires on a
                picture; or "drawn", what unCLIP draws of it alone, where the pack was built with an unCLIP.

        Raises:
            ValueError: If there is no such kind.
            IndexError: If there is no such neuron.
        """
        if kind not in ICON_KINDS:
            raise ValueError(f"kind must be one of {', '.join(ICON_KINDS)}, got {kind!r}")
        neuron = self.neurons[neuron].neuron
        icon = self._icons[kind].get(neuron)
        if icon is None and kind == "crop":  # older packs have none, and neurons that came later
            for example in self.examples(neuron, "top", limit=1):
                return icon_bytes(firing_part(example.image, example.patch_map))
        return icon

    def has_icon(self, neuron: int, kind: str = "crop") -> bool:
        """True if there is such an :meth:`icon`, which need not be made to know that."""
        return self._icons[kind].get(neuron) is not None or kind == "crop" and len(self._rows_of(neuron, "top")) > 0

    def image(self, image_id: int) -> Image.Image:
        """A probe image that is somebody's example."""
        return to_rgb(Image.open(io.BytesIO(self.image_bytes(image_id))))

    def image_bytes(self, image_id: int) -> bytes:
        """Its WebP bytes, as a page embeds them."""
        return self._images[image_id].webp

    def alt(self, image_id: int) -> str:
        """Description of an image."""
        return self._images[image_id].alt

    def has_image(self, image_id: int) -> bool:
        """True if the pack holds an image."""
        return image_id in self._images

    def image_ids(self) -> list[int]:
        """The images of the pack."""
        return list(self._images)

    def find(self, query: str, limit: int = 20, embed_texts: Callable[[list[str]], Any] | None = None) -> FindResult:
        """Neurons for a concept in free words.

        Args:
            query: One or a few words.
            limit: At most so many matches.
            embed_texts: The judge's ``embed_texts``: then concepts that are near in meaning are named too.

        Returns:
            Matches by words. Where there is no strong one, ``nearest`` names concepts of the vocabulary by meaning
            (with ``embed_texts``: only those that are nearer than nonsense gets to any), else by spelling.
        """
        matches = self.neurons.index.find(query)[:limit]
        verdict, reason = (matches[0].verdict, matches[0].reason) if matches else ("not in this model", "")
        if verdict == STRONG or not clean_name(query):
            return FindResult(matches, verdict, [], reason)
        nearest, near_by = self._nearest(query, embed_texts)
        return FindResult(matches, verdict, nearest, reason, near_by)

    def _nearest(self, query: str, embed_texts: Embed | None) -> tuple[list[str], str]:
        """Concepts near the query, nearest first, and what that is by."""
        embedding = None
        if embed_texts is not None:
            with suppress(ValueError):  # there is nothing to read for it: an invisible character, perhaps
                embedding = embed_texts([query])[0]
        if embed_texts is None or embedding is None:
            return self.neurons.index.spelled_like(query, NEAREST), "spelling"
        names = self.neurons.index.concepts
        places = [place for place, concept in enumerate(self.vocabulary) if concept in names]
        concepts, texts = [self.vocabulary[place] for place in places], self._texts[places]
        if not concepts:
            return [], "meaning"
        if self._noise is None:
            self._noise = _noise_level(texts, self.vocabulary, embed_texts)
        similarity = texts @ np.asarray(embedding, dtype=np.float32)
        ranked = np.argsort(-similarity, kind="stable")[:NEAREST]
        return [concepts[i] for i in ranked if similarity[i] > self._noise], "meaning"

    def _rows_of(self, neuron: int, strip: str) -> Any:
        """Rows of a neuron's examples."""
        if self._places is None:  # made at the first use: who searches for names does without
            self._places = self._examples.groupby(["neuron", "strip"]).indices
        return self._places.get((neuron, strip), [])

    def _map(self, row: int) -> np.ndarray | None:
        return None if self.grid is None else self._maps[row].reshape(self.grid).astype(np.float32) / 255


def _noise_level(texts: np.ndarray, vocabulary: list[str], embed_texts: Embed) -> float:
    """The cosine that 99 % of nonsense stays below with the concept that is nearest to it, of ``texts [concepts, d]``.

    Nonsense is drawn from the vocabulary's own letters, in lengths of its own names, so that it looks like them.
    """
    rng = random.Random(0)
    letters = [letter for name in vocabulary for letter in name if letter.isalpha()] or list("etaoinshr")
    drawn = ("".join(rng.choices(letters, k=len(rng.choice(vocabulary)))) for _ in range(NONSENSE))
    embeddings = np.asarray(embed_texts(list(drawn)), dtype=np.float32)
    return float(np.quantile((embeddings @ texts.T).max(1), NEARER_THAN))


def _by_image(images: pd.DataFrame) -> dict[int, StoredImage]:
    rows = images.reindex(columns=StoredImage._fields).itertuples(index=False, name=None)
    return {image: StoredImage(image, *others) for image, *others in rows}
