"""Logging of training metrics; JSON lines by default, other trackers through Accelerate when asked for."""

import json
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, on_main_process, register_tracker_class

LOG_NAME = "log.jsonl"


class JsonlTracker(GeneralTracker):
    """Appends one JSON object per logged step to ``log.jsonl``; known to Accelerate as "jsonl".

    Args:
        run_name: Not used; Accelerate passes it.
        logging_dir: Folder of ``log.jsonl``.
    """

    name = "jsonl"
    requires_logging_directory = True
    main_process_only = True

    @on_main_process
    def __init__(self, run_name: str, logging_dir: str | Path, **kwargs: Any):
        super().__init__()
        self.path = Path(logging_dir) / LOG_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.path

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Does nothing: the settings of a run are in training.json."""

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Appends a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def drop_lines_after(path: Path, step: int) -> None:
    """Removes what a run logged after its last checkpoint, so that a resumed run does not log it twice."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        # A killed run may have left half a line.
        if line.endswith("\n") and json.loads(line)["step"] <= step:
            kept.append(line)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


register_tracker_class(JsonlTracker)
