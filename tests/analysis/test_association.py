"""Correlations against definitions, and the published folds of the cats-scans study."""

import math

import numpy as np
import pytest
from medzoo.analysis import correlation


def test_pearson_by_hand():
    """Deviations (-1, 0, 1, 0) and (-2, 1, 2, -1): covariance 4, variances 2 and 10."""
    found = correlation([1, 2, 3, 2], [0, 3, 4, 1])
    assert found.value == pytest.approx(4 / math.sqrt(20))
    half = 1.959964 / math.sqrt(4 - 3)
    assert found.low == pytest.approx(math.tanh(math.atanh(found.value) - half), abs=1e-6)
    assert found.high == pytest.approx(math.tanh(math.atanh(found.value) + half), abs=1e-6)
    assert found.n == 4


def test_spearman_is_pearson_of_the_ranks():
    """1 - 6 Σd² / (n (n² - 1)) without ties; ranks of ties are their mean."""
    assert correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], "spearman").value == pytest.approx(1 - 6 * 4 / 120)
    x, y = [3.0, 3.0, 9.0, 50.0, -1.0], [1.0, 2.0, 2.0, 7.0, 0.0]
    ranks = correlation([2.5, 2.5, 4, 5, 1], [2, 3.5, 3.5, 5, 1])
    assert correlation(x, y, "spearman").value == pytest.approx(ranks.value)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_the_interval_covers_as_often_as_it_says(method):
    """In 600 samples of 30 pairs from a normal distribution of known correlation."""
    random = np.random.default_rng(0)
    true = 0.5 if method == "pearson" else 6 / math.pi * math.asin(0.25)
    covered = 0
    for _ in range(600):
        x, noise = random.normal(size=(2, 30))
        found = correlation(x, 0.5 * x + math.sqrt(0.75) * noise, method)
        covered += found.low <= true <= found.high
    assert 0.92 < covered / 600 < 0.98


def test_extremes():
    assert correlation([1, 2, 3, 4], [2, 4, 6, 8])[:3] == pytest.approx((1, 1, 1))
    assert correlation([1, 2, 3], [1, 3, 2])[1:3] == (-1, 1)
    constant = correlation([1, 1, 1, 1], [1, 2, 3, 4])
    assert math.isnan(constant.value)
    assert constant.n == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1, 2]), r"x, y: received shapes \(2,\) and \(2,\)"),
        (([1, 2, 3], [1, 2]), "expected as many numbers in both"),
        (([1, 2, math.nan], [1, 2, 3]), "not finite"),
        (([1, 2, 3], [1, 2, 3], "kendall"), "kendall"),
        (([1, 2, 3], [1, 2, 3], "pearson", 95), "level: received 95"),
    ],
)
def test_what_cannot_be_correlated(arguments, message):
    with pytest.raises(ValueError, match=message):
        correlation(*arguments)
