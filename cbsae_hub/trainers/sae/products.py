"""Products with matrices of which only a few entries per row are non-zero, in compressed rows (CSR)."""

import functools
import warnings
from typing import NamedTuple

import torch
from torch import Tensor


class Entries(NamedTuple):
    """Non-zero entries of a matrix ``[rows, columns]``, sorted by row."""

    row_starts: Tensor
    """``[rows + 1]`` int64"""
    columns: Tensor
    """``[entries]`` int64"""
    values: Tensor
    """``[entries]``"""

    @classmethod
    def sorted(cls, rows: Tensor, columns: Tensor, values: Tensor, n_rows: int) -> "Entries":
        """Makes entries of coordinates; ``rows`` must be ascending."""
        counts = torch.bincount(rows, minlength=n_rows)
        return cls(torch.nn.functional.pad(counts.cumsum(0), (1, 0)), columns, values)

    def csr(self, n_columns: int) -> Tensor:
        """The matrix as a sparse tensor of torch."""
        _silence_beta_warning()
        shape = (len(self.row_starts) - 1, n_columns)
        return torch.sparse_csr_tensor(self.row_starts, self.columns, self.values, shape, check_invariants=False)


def product(entries: Entries, matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """``[rows, columns] @ [columns, width]``, reading only the rows of ``matrix`` that are needed.

    The result is written to ``out``, if that is given, which must hold finite numbers.
    """
    if out is None:
        return entries.csr(len(matrix)) @ matrix
    # mm(out=...) would go through a temporary matrix, which takes several times as long.
    return torch.addmm(out, entries.csr(len(matrix)), matrix, beta=0.0, out=out)


def sampled_products(entries: Entries, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows[row] . columns[column]`` for each entry, in the order of ``entries``; its values are not read."""
    pattern = entries._replace(values=torch.zeros_like(entries.values)).csr(len(columns))
    return torch.sparse.sampled_addmm(pattern, rows, columns.T, beta=0.0).values()


@functools.cache
def _silence_beta_warning() -> None:
    # torch says once per process that its CSR tensors are young; nobody who trains can act on that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)
