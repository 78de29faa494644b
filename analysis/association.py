"""Correlation of two lists of numbers, with its interval."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, pearsonr, spearmanr

from .._nearest import require

METHODS = ("pearson", "spearman")


class Correlation(NamedTuple):
    """A correlation coefficient with its interval; see `correlation`.

    Attributes:
        value: the coefficient, in [-1, 1]; NaN where one of the lists is constant.
        low: lower bound.
        high: upper bound.
        p_value: two-sided, of no correlation.
        n: number of pairs.
    """

    value: float
    low: float
    high: float
    p_value: float
    n: int


def correlation(x, y, method="pearson", level=0.95):
    """Returns a correlation coefficient with its interval and p-value.

    Pearson's coefficient measures how near the pairs lie to a line; Spearman's, which is Pearson's of the ranks (ties
    get their mean rank), how near they are to one order. Intervals are those of Fisher's z = artanh r, whose standard
    error is 1 / √(n - 3), for Spearman's √((1 + r² / 2) / (n - 3)) (Bonett and Wright, Psychometrika 65:23, 2000,
    equation 7); p-values are those of Student's t with n - 2 degrees of freedom. All of them take the pairs as
    independent; **pairs that share a source or a target are not**, and their true interval is wider.

    Args:
        x: (n,) finite numbers, n of at least 3.
        y: (n,) finite numbers.
        method: `"pearson"` or `"spearman"`.
        level: confidence level in (0, 1).

    Returns:
        `Correlation(value, low, high, p_value, n)`; of three pairs the interval is [-1, 1], and of a constant list all
        but `n` is NaN.

    Raises:
        ValueError: lengths differ, fewer than three pairs, numbers that are not finite, an unknown method.

    Example:

    ```python
    >>> correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], "spearman").value
    0.8
    ```
    """
    require("method", method, METHODS)
    x, y = np.asarray(x, "float64"), np.asarray(y, "float64")
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3:
        raise ValueError(f"x, y: received shapes {x.shape} and {y.shape}, expected as many numbers in both, 3 or more")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("x, y: received numbers that are not finite, expected finite ones")
    if not 0 < level < 1:
        raise ValueError(f"level: received {level}, expected a confidence level between 0 and 1, such as 0.95")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(*[math.nan] * 4, len(x))
    found = pearsonr(x, y) if method == "pearson" else spearmanr(x, y)
    value = float(np.clip(found.statistic, -1, 1))
    if len(x) == 3 or abs(value) == 1:
        low, high = (-1.0, 1.0) if len(x) == 3 else (value, value)
    else:
        spread = 1 if method == "pearson" else 1 + value**2 / 2
        half = norm.ppf((1 + level) / 2) * math.sqrt(spread / (len(x) - 3))
        low, high = math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
    return Correlation(value, low, high, float(found.pvalue), len(x))
