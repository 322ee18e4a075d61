"""The models in the folder of an answered question."""

from pathlib import Path

from cbsae_hub.neurons.pack import INFO

QUESTION = "explain.json"


def answers_in(folder: str | Path) -> list[str]:
    """Model folders of an answered question, the one with the wanted concepts first; empty if it is none.

    Args:
        folder: What ``cbsae explain`` wrote, or any other folder or Hub id.
    """
    folder = Path(folder)
    if not (folder / QUESTION).is_file():
        return []
    return [str(folder / name) for name in ("cbsae", "sae") if (folder / name / INFO).is_file()]
