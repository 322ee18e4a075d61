"""The models in the folder of an answered question, and what their names are worth."""

from pathlib import Path

from cbsae_hub.hub.files import read_json
from cbsae_hub.neurons.pack import INFO

QUESTION = "explain.json"
NONSENSE = "nonsense.json"


def answers_in(folder: str | Path) -> list[str]:
    """Model folders of an answered question, the one with the wanted concepts first; empty if it is none.

    Args:
        folder: What ``cbsae explain`` wrote, or any other folder or Hub id.
    """
    folder = Path(folder)
    if not (folder / QUESTION).is_file():
        return []
    return [str(folder / name) for name in ("cbsae", "sae") if (folder / name / INFO).is_file()]


def nonsense_beside(model: str | Path) -> float | None:
    """Score that 95 % of the names of an untrained SAE stay below, for a model of an answered question.

    Args:
        model: A model's folder or Hub id.

    Returns:
        The score; None if nobody measured it.
    """
    file = Path(model).resolve().parent / NONSENSE
    return read_json(file)["score"] if Path(model).is_dir() and file.is_file() else None
