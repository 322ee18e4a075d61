"""The neuron table: its columns, described once, and the class that reads, filters and joins its rows.

What a table must have, its rows of which little is known and a section of docs/neuron-table.md derive from
:data:`COLUMNS`.
"""

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cbsae_hub.neurons.search import ConceptIndex, Match

EMPTY: Mapping[str, Any] = {"int": -1, "float": np.nan, "bool": None, "text": None}
"""Value of an unknown cell by the column's type; the plural of a type is a list of it, by default an empty one."""
STEERED = ("steer", "said_")
"""Columns that steering adds begin with one of these."""
SEEDED = "seed_"
"""Columns that other seeds add begin with this."""
SIMULATED = "name_"
"""Columns that names as simulations add begin with this."""


class PackError(OSError):
    """A pack or a neuron table that is missing, damaged, or of another schema version."""


class Column(NamedTuple):
    """A column of the neuron table."""

    name: str  # of a family of columns the pattern, with <...> for any word
    dtype: str  # "int", "float", "bool" or "text", or the plural for a list of those
    meaning: str  # in Markdown
    required: bool = False  # in every table

    def describes(self, name: str) -> bool:
        """True if a column of that name is this one, or one of this family."""
        pattern = self.name.replace("<mode>", "(unit|white)").replace("<family>", ".+")
        return re.fullmatch(pattern, name) is not None

    def empty(self, count: int) -> pd.Series:
        """A column of unknown values."""
        dtype = self.dtype if self.dtype in ("int", "float") else object
        return pd.Series([EMPTY.get(self.dtype, []) for _ in range(count)], dtype=dtype)


# fmt: off
COLUMNS = (
    Column("neuron", "int", "id, the column of `W_enc`", required=True),
    Column("kind", "text", "`sae`, or `cb`: a concept neuron of a CB-SAE", required=True),
    Column("name", "text", "best concept by CLIP-Dissect (soft-WPMI); null if dead", required=True),
    Column("score", "float", "its soft-WPMI, relative to the other neurons of this model and this vocabulary",
           required=True),
    Column("interpretability", "float", "`score` between the smallest, 0, and the largest, 1, of the named neurons; "
           "NaN if dead", required=True),
    Column("null_percentile", "float", "share of 500 neurons with as many random top images whose best score is lower: "
           "what the name is worth", required=True),
    Column("names", "texts", "the five best concepts, best first", required=True),
    Column("scores", "floats", "their scores", required=True),
    Column("name_correlation", "float", "correlation of its activation with an independent judge's similarity to "
           "`name`, on images that it was not named with; here and in the next four NaN if it never fires there, and "
           "only where `python -m training.names` has run"),
    Column("name_ap", "float", "average precision with which that similarity tells the images on which it fires"),
    Column("name_correlation_null", "float", "mean `name_correlation` with names of other neurons"),
    Column("name_ap_null", "float", "mean `name_ap` with names of other neurons"),
    Column("name_percentile", "float", "share of those names whose correlation is lower"),
    Column("monosemanticity", "float", "how alike the images are on which it is active; NaN if undefined "
           "(docs/metrics.md)", required=True),
    Column("nearest_overlap", "float", "largest Jaccard index of its 16 top images with another neuron's; NaN if it "
           "fires on fewer than 16", required=True),
    Column("nearest_neuron", "int", "the neuron with that index; -1 if there is none", required=True),
    Column("top_images", "ints", "rows of up to 16 images on which it is most active, best first"),
    Column("group", "int", "Matryoshka group, 0 the coarsest", required=True),
    Column("redundancy", "float", "largest cosine of its decoder row with another neuron's"),
    Column("spatial_coherence", "float", "mean Moran's I of its maps of patches: 1 if they are smooth, about 0 by "
           "chance; NaN if it is active on 5 patches or more, and on 90 % or fewer, of less than 10 images"),
    Column("seed_cosine", "float", "here and in the next three, only where `python -m training.dictionary` has run: "
           "mean cosine of its decoder row with the rows of SAEs from other seeds that it is matched with"),
    Column("seed_share", "float", "share of those SAEs that have a row with a cosine of 0.7 or more"),
    Column("seed_subspace", "float", "mean length of its direction's part in the span of the five most alike rows of "
           "each of those"),
    Column("seed_moved", "float", "one less the cosine of its decoder row and the row that its training started from"),
    Column("density", "float", "share of probe images on which it fires", required=True),
    Column("token_density", "float", "share of tokens on which it fires", required=True),
    Column("max", "float", "largest activation of a token", required=True),
    Column("p99", "float", "99th percentile of its positive token activations, from a histogram, right to 2.2 %",
           required=True),
    Column("p50", "float", "median of those, likewise", required=True),
    Column("histogram", "ints", "counts of its positive token activations in bins of a quarter of an octave, from the "
           "first bin to the last that is not empty; an empty list if it never fires", required=True),
    Column("histogram_low", "float", "lower edge of the first of those bins, in units of activation; NaN if it never "
           "fires", required=True),
    Column("status", "text", "`dead` (never fires on the probe images), `rare` (below 1e-4 of tokens), `dense` (above "
           "10 %), else `alive`", required=True),
    Column("covered_concepts", "int", "number of concepts on whose images it is active, at least on half of each"),
    Column("common_kind", "text", "the narrowest kind that all of those are of; empty for neurons of one concept or of "
           "more than half of all"),
    Column("common_height", "float", "mean steps from them up to that kind"),
    Column("common_coverage", "float", "share of the kind's concepts that they are"),
    Column("ancestor_depth", "float", "mean depth at which the concepts of its 16 top images meet; the deeper, the "
           "more special"),
    Column("truth", "text", "the label that its activation predicts best, by average precision above chance",
           required=True),
    Column("truth_family", "text", "the kind of that label", required=True),
    Column("truth_ap", "float", "average precision of its activation for that label", required=True),
    Column("truth_auroc", "float", "area under the ROC curve, likewise", required=True),
    Column("truth_agrees", "bool", "whether `name` is `truth`", required=True),
    Column("ap_<family>", "float", "average precision of its best label of each kind: `ap_concept`, `ap_background`, "
           "..."),
    Column("designated", "text", "concept neurons only, here and in the next four: the concept that it was trained "
           "for"),
    Column("designated_first", "bool", "whether that is its `name`"),
    Column("designated_among_five", "bool", "whether that is among its `names`"),
    Column("designated_ap", "float", "average precision of its activation for that label; empty where nothing is known "
           "of the images"),
    Column("designated_score", "float", "score of that concept, as `scores` are; empty where the list of concepts "
           "lacks it"),
    Column("added", "bool", "true for a concept neuron that came after the pack was built: its `scores` are cosines "
           "cubed, and its `null_percentile` is the share of all concepts that the judge finds to fit less than "
           "`designated`"),
    Column("steer_value", "float", "what it was set to when it was steered"),
    Column("steer_push_<mode>", "float", "how far activations were moved, relative to the median length of an "
           "activation over 64 of the scored images"),
    Column("said_<mode>", "text", "first word of LLaVA"),
    Column("steer_text_<mode>", "float", "cosine of that word to `name`"),
    Column("steer_clip_<mode>", "float", "cosine of CLIP's embedding of that word to those of the top images; only "
           "where the scorer was given a `clip`"),
    Column("steer_image_<mode>", "float", "mean cosine of what unCLIP drew to the top images; empty for neurons that "
           "were not drawn"),
    Column("said_<mode>_random", "text", "the same with a random direction of the same length"),
    Column("steer_text_<mode>_random", "float", "the same with a random direction of the same length"),
    Column("steer_image_<mode>_random", "float", "the same with a random direction of the same length"),
    Column("steerability", "float", "how well it steers, 0..1: which of the scores above that is, scores.json says "
           "under `steerability.main`"),
)
# fmt: on
NEURON_COLUMNS = tuple(column.name for column in COLUMNS if column.required)


@cache
def describe_column(name: str) -> Column | None:
    """The column of that name; None for one that the schema does not know, somebody's own perhaps."""
    return next((column for column in COLUMNS if column.describes(name)), None)


def rows_of(columns: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of a neuron table from values by the name of the column, in the schema's order.

    Required columns that are missing are filled up with what stands for nothing.

    Raises:
        ValueError: If the schema does not know a column.
    """
    if unknown := [name for name in columns if describe_column(name) is None]:
        raise ValueError(f"the neuron table has no column {', '.join(unknown)}: describe it in COLUMNS")
    count = len(next(iter(columns.values())))
    values: dict[str, Any] = {}
    for column in COLUMNS:
        own = {name: value for name, value in columns.items() if column.describes(name)}
        values |= own or ({column.name: column.empty(count)} if column.required else {})
    return pd.DataFrame(values)


def require_columns(frame: pd.DataFrame, columns: Sequence[str], mend: str) -> None:
    """Refuses a table that lacks a column.

    Raises:
        ValueError: If it does; ``mend`` says what to do.
        TypeError: If this is no DataFrame.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"expected a DataFrame (of a NeuronTable: its frame), got {type(frame).__name__}")
    if missing := [column for column in columns if column not in frame.columns]:
        raise ValueError(f"the neuron table has no column {' and no column '.join(missing)}: {mend}")


def columns_in_markdown() -> str:
    """The columns as the table in docs/neuron-table.md."""
    lines = [f"| `{name}` | {dtype} | {meaning} |" for name, dtype, meaning, _ in COLUMNS]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *lines]) + "\n"


class NeuronTable:
    """One row per neuron, see docs/neuron-table.md.

    Attributes:
        frame: The rows as a pandas DataFrame.

    Raises:
        PackError: If a column is missing.
    """

    def __init__(self, frame: pd.DataFrame):
        if missing := [column for column in NEURON_COLUMNS if column not in frame.columns]:
            raise PackError(f"the neuron table lacks the columns {', '.join(missing)}")
        kinds = {column: described.dtype for column in frame if (described := describe_column(column))}
        objects = {column: frame[column].astype(object) for column, kind in kinds.items() if kind in ("text", "bool")}
        nothing = {column: values.where(values.notna(), None) for column, values in objects.items()}
        self.frame = frame.assign(**nothing).reset_index(drop=True)
        self._rows = {row.neuron: row for row in self.frame.itertuples(index=False, name="Neuron")}
        self._index: ConceptIndex | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.frame,)  # the class of the rows is made at run time: it cannot be pickled

    @classmethod
    def read(cls, path: str | Path) -> "NeuronTable":
        """Reads ``neurons.parquet``, or that of a folder.

        Raises:
            PackError: If there is none, or it is damaged.
        """
        file = Path(path) / "neurons.parquet" if Path(path).is_dir() else Path(path)
        try:
            return cls(pd.read_parquet(file))
        except FileNotFoundError as error:
            raise PackError(f"there is no neuron table at {path}: `cbsae score` makes one") from error
        except (OSError, ValueError) as error:
            raise PackError(f"{file} is damaged: {error}") from error

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows.values())

    def __getitem__(self, neuron: int) -> Any:
        """The row of a neuron as a named tuple.

        Args:
            neuron: Its number, of any type of whole numbers: also what iterating a tensor gives.

        Raises:
            IndexError: If there is no such neuron.
        """
        if hasattr(neuron, "__index__"):
            neuron = operator.index(neuron)
        if neuron not in self._rows:
            ids = self.frame["neuron"]
            span = f"{len(ids)} neurons, {ids.min()} to {ids.max()}" if len(ids) else "no neurons"
            raise IndexError(f"there is no neuron {neuron}: the table has {span}")
        return self._rows[neuron]

    def to_pandas(self) -> pd.DataFrame:
        """A copy of the rows as a DataFrame."""
        return self.frame.copy()

    def filter(self, **conditions: Any) -> "NeuronTable":
        """The neurons that meet all conditions.

        Args:
            **conditions: Column to its value, a list or set of values, or a pair ``(low, high)`` of bounds, both
                included, None being open. NaN lies within no bounds.

        Raises:
            ValueError: If there is no such column.
        """
        meets = pd.Series(True, index=self.frame.index)
        for column, condition in conditions.items():
            values = self._column(column)
            if isinstance(condition, tuple):
                low, high = condition
                meets &= values.notna()
                meets &= values >= low if low is not None else True
                meets &= values <= high if high is not None else True
            elif isinstance(condition, (list, set, frozenset)):
                meets &= values.isin(list(condition))
            else:
                meets &= values.isna() if condition is None else values == condition
        return NeuronTable(self.frame[meets])

    def sort(self, column: str, ascending: bool = False) -> "NeuronTable":
        """The neurons by a column, largest first by default; undefined ones last, ties by neuron.

        Raises:
            ValueError: If there is no such column.
        """
        self._column(column)
        return NeuronTable(self.frame.sort_values("neuron").sort_values(column, ascending=ascending, kind="stable"))

    def join(self, other: "NeuronTable", on: str = "neuron", suffixes: tuple[str, str] = ("_a", "_b")) -> pd.DataFrame:
        """Rows of two tables side by side.

        Args:
            other: Table of another model, or of the same on other images.
            on: "neuron", for models that share neurons; or "name", every pair of neurons with the same name.
            suffixes: Endings of the columns of either table.

        Raises:
            ValueError: If ``on`` is another column.
        """
        if on not in ("neuron", "name"):
            raise ValueError(f"tables are joined on neuron or name, not on {on!r}")
        tables = (table.frame[table.frame[on].notna()] for table in (self, other))
        return pd.merge(*tables, on=on, suffixes=suffixes, validate="one_to_one" if on == "neuron" else None)

    def _column(self, column: str) -> pd.Series:
        if column not in self.frame.columns:
            raise ValueError(f"there is no column {column!r}; there are {', '.join(self.frame.columns)}")
        return self.frame[column]

    def find(self, query: str, limit: int = 20) -> list[Match]:
        """Neurons that stand for a concept, best first: see :class:`cbsae_hub.neurons.search.ConceptIndex`."""
        return self.index.find(query)[:limit]

    @property
    def index(self) -> ConceptIndex:
        """The index of names, made at the first use."""
        if self._index is None:
            self._index = ConceptIndex(list(self._rows.values()))
        return self._index
