"""Results of a study that stay in a file as they come."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cbsae_hub.hub.files import plain, read_json, require_same_settings, write_json


class ResultFile:
    """Results by name, in a JSON file: started again, a study computes nothing twice.

    Args:
        file: The file; made with the first result, its folder too.
        settings: The settings on which the results depend.

    Raises:
        ValueError: If the file has results of other settings.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]):
        self.file, self.settings = file, plain(settings)
        self.results: dict[str, Any] = {}
        if file.is_file():
            content = read_json(file)
            require_same_settings(content["settings"], self.settings, file)
            self.results = content["results"]

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result, computed and kept if it is not there."""
        if name not in self.results:
            self.results[name] = plain(compute())
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, {"settings": self.settings, "results": self.results})
        return self.results[name]
