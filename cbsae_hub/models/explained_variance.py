"""The share of the activations' variance that a reconstruction keeps."""

import math

from torch import Tensor


def explained_variance(total: Tensor, squares: Tensor | float, errors: Tensor | float, tokens: Tensor | float) -> float:
    """``1 - sum |x - x_hat|^2 / sum |x - mean x|^2``, about the mean of all tokens per dimension.

    Not a mean of batches, and not about a scalar. Give float64 sums: the squared distance from the mean is the
    difference of large ones.

    Args:
        total: ``[d_in]``, the sum of x over all tokens.
        squares: The sum of ``|x|^2``.
        errors: The sum of ``|x - x_hat|^2``.
        tokens: Number of tokens.

    Returns:
        The share; NaN without tokens, or if they do not vary.
    """
    variance = float(squares) - float(total.square().sum()) / max(1, int(tokens))
    return 1 - float(errors) / variance if variance > 0 else math.nan
