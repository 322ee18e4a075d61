"""The contents of a Space of the page: code, card, and the models that are folders, with all that they refer to.

Models on the Hub stay there.
"""

import json
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCard, try_to_load_from_cache

from cbsae_hub import Pack
from cbsae_hub.encoders.clip_like import named_by_open_clip
from cbsae_hub.formats.load import load
from cbsae_hub.hub.files import CONFIG_NAME, is_content, read_config, read_text, write_text
from cbsae_hub.hub.stamp import REPO_ID, edited_by_hand, stamped
from cbsae_hub.hub.upload import files_of
from cbsae_hub.models import folder_revision, resolve_id
from cbsae_hub.neurons.pack import INFO

ROOT = Path(__file__).parents[1]
HUB = "hub"  # where models are, here and in the Space
SHIPPED = ("emoji-cbsae", "emoji-sae", "emoji-llava", "emoji-unclip")  # what app.py serves if nobody says what
CODE = ("app.py", "requirements.txt", "LICENSE")
PACKAGE, CARD = "cbsae_hub", "README.md"
CONTENT = {*CODE, PACKAGE, CARD, HUB}
SAFE_NAME = re.compile(r"[\w.-]+", re.ASCII)  # a comma ends a name in CBSAE_MODELS
MODELS_SECTION = re.compile(r"(?<=\n## The models\n\n).*?(?=\n## )", re.DOTALL)


class Contents:
    """The contents of a Space: folders by their names in it, and models and datasets that it gets from the Hub."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.models: list[str] = []
        self.datasets: list[str] = []

    def add(self, source: str) -> str:
        """Adds a folder or a repository; returns its name in the Space.

        Raises:
            ValueError: If another folder has the same name, or no variable can hold that name.
            OSError: If it is neither.
        """
        if Path(source).is_dir():
            folder = Path(os.path.abspath(source))
            if not SAFE_NAME.fullmatch(folder.name):
                raise ValueError(f"{source}: a folder of a Space needs a name of letters, digits, '.', '_' and '-'")
            if self.folders.setdefault(folder.name, folder).resolve() != folder.resolve():
                raise ValueError(f"{source} and {self.folders[folder.name]} have the same name: rename one")
            return f"{HUB}/{folder.name}"
        # A mistyped "hub/my-sea" looks like a Hub id; that there is a folder "hub" tells that none was meant.
        if not REPO_ID.fullmatch(source) or Path(source).parent.is_dir():
            raise FileNotFoundError(f"{source} is neither an existing folder nor a Hub id 'owner/name'")
        _add_once(self.models, source)
        return source

    def add_model(self, source: str) -> str:
        """Adds an SAE or CB-SAE and what it refers to; of one on the Hub, what this machine knows of that.

        Raises:
            ValueError: See :meth:`add`; or it is no model of this package.
            OSError: If it or its pack is missing or damaged, or what it refers to is missing or has other weights.
        """
        name = self.add(source)
        folder = Path(source)
        if folder.is_dir():
            load(folder)
            config, info = read_config(folder / CONFIG_NAME), Pack.from_pretrained(folder).info
        else:
            config, info = _cached(source, CONFIG_NAME), _cached(source, INFO)
        encoder = {"id": config.get("encoder_id"), "revision": config.get("encoder_revision")}
        teacher = config.get("teacher")
        for model in (encoder, info.get("judge"), teacher):
            if isinstance(model, dict):
                self._add_reference(model.get("id"), model.get("revision"), folder)
        if isinstance(teacher, dict) and info:  # visitors can add concepts, which takes the pictures
            self._add_images(info["images"]["id"], folder)
        return name

    def add_generator(self, source: str, index: str) -> str:
        """Adds a LLaVA or Stable unCLIP, with the JSON file ``index`` that all of them have; errors as :meth:`add`."""
        name, file = self.add(source), Path(source) / index
        if Path(source).is_dir() and not file.is_file():
            raise FileNotFoundError(f"{source} has no {index}: it is not a model, or its saving was interrupted")
        config = read_config(file) if file.is_file() else _cached(source, index)
        # LLaVA in the layout of the original code base names its vision tower instead of holding it.
        if REPO_ID.fullmatch(str(config.get("mm_vision_tower"))):
            _add_once(self.models, config["mm_vision_tower"])
        return name

    def _add_reference(self, source: str | None, revision: str | None, folder: Path) -> None:
        """Adds a reference of a model; a model on the Hub can refer only to what is on the Hub too."""
        if source is None or named_by_open_clip(source):
            return
        of_folder = is_content(revision)
        if not folder.is_dir():
            if REPO_ID.fullmatch(source) and not of_folder:
                _add_once(self.models, source)
            return
        neighbour = resolve_id(source, folder)
        if of_folder and (not Path(neighbour).is_dir() or folder_revision(neighbour) != revision):
            raise FileNotFoundError(f"{folder} refers to {source} with weights {revision}, which are not beside it")
        self.add(neighbour)

    def _add_images(self, source: str, folder: Path) -> None:
        neighbour = resolve_id(source, folder)
        if folder.is_dir() and Path(neighbour).is_dir():
            self.add(neighbour)
        elif REPO_ID.fullmatch(source):
            _add_once(self.datasets, source)


def _add_once(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)


def _cached(repo_id: str, file: str) -> dict[str, Any]:
    """A JSON file of a repository on the Hub, if it was downloaded before; else nothing."""
    path = try_to_load_from_cache(repo_id, file)
    return json.loads(read_text(path)) if isinstance(path, str) else {}


def space_card(contents: Contents, served: list[str] | None) -> str:
    """The card of a Space with these contents, whose page serves models of these names; None for those shipped."""
    card = SpaceCard.load(ROOT / "spaces" / CARD)
    if served is not None:
        listed = [f"- `{name}`, in this repository" if name.startswith(f"{HUB}/") else f"- {name}" for name in served]
        card.text = MODELS_SECTION.sub(lambda _: "\n".join(listed) + "\n", card.text)
    card.data.models = card.data.preload_from_hub = contents.models or None
    card.data.datasets = contents.datasets or None
    return stamped(str(card))


def assemble(space: Path, contents: Contents, card: str) -> None:
    """Writes the Space, as a whole or not at all; one that this function wrote before is replaced.

    Raises:
        FileExistsError: If there is something else, or something was added to it.
        PublishError: If there are links out of what goes into it.
        ValueError: If it would be part of itself.
    """
    space = Path(os.path.abspath(space))
    if not _replaceable(space):
        raise FileExistsError(
            f"{space} is not empty, and not as this command leaves it: delete it, or take another folder"
        )
    folders = {PACKAGE: ROOT / PACKAGE, **{f"{HUB}/{name}": folder for name, folder in contents.folders.items()}}
    for folder in folders.values():
        if folder.resolve() in space.resolve().parents:
            raise ValueError(f"{space} lies in {folder}, which goes into the Space: take another folder")
    new, old = (space.with_name(f".{space.name}.{secrets.token_hex(4)}.{end}") for end in ("new", "old"))
    try:
        for name, folder in folders.items():
            for path in files_of(folder):
                (new / name / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / path, new / name / path)
        for name in CODE:
            shutil.copyfile(ROOT / name, new / name)
        write_text(new / CARD, card)
        if space.exists():
            space.rename(old)
        new.rename(space)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _replaceable(space: Path) -> bool:
    """Whether nothing of anybody's is lost with the folder."""
    if not space.exists():
        return True
    names = {path.name for path in space.iterdir()} if space.is_dir() else {""}
    whole = names <= CONTENT and {PACKAGE, CARD} <= names
    return not names or (whole and not edited_by_hand((space / CARD).read_text(encoding="utf-8")))


def make_space(
    space: Path, model: list[str] | None = None, llava: str | None = None, unclip: str | None = None
) -> tuple[Contents, dict[str, str]]:
    """Assembles the page as a Space in a folder, of models that are folders or Hub ids; default what is shipped.

    Returns:
        What it holds, and the variables that the Space needs.

    Raises:
        ValueError: See :class:`Contents` and :func:`assemble`; or a model is given twice.
        OSError: Likewise.
    """
    contents = Contents()
    choices = {"CBSAE_MODELS": model, "CBSAE_LLAVA": llava, "CBSAE_UNCLIP": unclip}
    if not model:  # as app.py does
        *model, shipped_llava, shipped_unclip = (str(ROOT / HUB / name) for name in SHIPPED)
        llava, unclip = llava or shipped_llava, unclip or shipped_unclip
    names = [contents.add_model(source) for source in model]
    if len(set(names)) < len(names):
        raise ValueError("one of the models is given twice")
    values = {"CBSAE_MODELS": ",".join(names)}
    for name, source, index in (("CBSAE_LLAVA", llava, "config.json"), ("CBSAE_UNCLIP", unclip, "model_index.json")):
        if source:
            values[name] = contents.add_generator(source, index)
    needed = {name: value for name, value in values.items() if choices[name]}
    served = ",".join(values.values()).split(",")
    assemble(space, contents, space_card(contents, served if needed else None))
    return contents, needed
