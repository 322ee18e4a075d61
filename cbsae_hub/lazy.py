"""Names that are imported on first use, and libraries that the core does without."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def on_first_use(
    package: str, home_of: Mapping[str, str], names: list[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``, from the module of each name, and all ``names``, its ``__all__``."""

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}")
        return getattr(import_module(home_of[name]), name)

    return find, lambda: names


@contextmanager
def needed(package: str, use: str) -> Iterator[None]:
    """Surrounds the import of a library (its name on PyPI) that the core of this package does without.

    Raises:
        ImportError: If it is not installed; says what the ``use`` of it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or package).partition(".")[0]
        raise ImportError(f"{library} is not installed, and {use} needs it: pip install {package}") from error
