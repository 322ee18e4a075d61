"""Tables as the documentation has them."""

import pandas as pd


def markdown_table(frame: pd.DataFrame) -> str:
    """A table in Markdown; the cells are written as they are."""
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
