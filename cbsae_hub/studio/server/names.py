"""Names of models: on the page, in links and in code. Where a folder lies is nobody's business."""

import re
from collections.abc import Sequence
from pathlib import Path

ELSEWHERE = "path/to/"
_OF_LINKS = re.compile("[~=;]")  # what separates the parts of a link


def public_id(model: str | Path, parts: int = 1) -> str:
    """Returns a model's name: its Hub id, or the last ``parts`` of its folder's path."""
    if not Path(model).is_dir():
        return str(model)
    _, *path = Path(model).resolve().parts
    return _OF_LINKS.sub("-", "/".join(path[-parts:]))


def as_typed(model: str, name: str | None = None) -> str:
    """Returns a model as one would type it where the page was started: a Hub id, or a folder, seen from there.

    Of a folder that lies elsewhere, the place is for the reader to fill in.

    Args:
        model: Folder or Hub id.
        name: What the page calls it, see :func:`distinct_names`.
    """
    if not Path(model).is_dir():
        return model
    if not Path(model).is_absolute():
        return Path(model).as_posix()
    folder, start = Path(model).resolve(), Path.cwd()
    return folder.relative_to(start).as_posix() if folder.is_relative_to(start) else ELSEWHERE + (name or folder.name)


def distinct_names(models: Sequence[str | Path]) -> list[str]:
    """Returns a name for each of some models: if two folders have the same, all begin one folder higher.

    Raises:
        ValueError: If a model was given twice, or nothing tells two of them apart.
    """
    places = [str(Path(model).resolve() if Path(model).is_dir() else model) for model in models]
    for model, place in zip(models, places):
        if places.count(place) > 1:
            raise ValueError(f"{model} was given twice")
    for parts in range(1, max(len(Path(place).parts) for place in places) + 1):
        names = [public_id(model, parts) for model in models]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"two of the models would have the same name: {', '.join(map(str, models))}; rename a folder")
