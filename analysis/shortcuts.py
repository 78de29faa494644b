"""What a model can score without seeing the disease: by telling machines apart, or from the table without images.

Sites and machines differ in how often they see a disease, and so do ages. A network that has learnt to tell the
machines apart ranks images of the one above those of the other and is paid for it in its AUC. So report the AUC within
machines beside the overall one, and what the table alone reaches.
"""

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from .._nearest import unknown
from ..datasets import encode_labels, is_multi_label
from .roc import (
    Interval,
    _bootstrap,
    _check_level,
    _checked,
    _class_sizes,
    _groups,
    _newcombe_interval,
    _percentiles,
    _tally,
)

TABLE_COLUMNS = ("site", "machine", "age", "view", "laterality")


def auc_within(labels, scores, strata, subjects=None, level=0.95, resamples=2000, seed=0):
    """Returns the area under the ROC curve within strata, with its confidence interval.

    The share of pairs in the right order, a tie counting one half, of all pairs of a positive and a negative image **of
    the same stratum** (machine, site): the mean of the strata's AUCs, each weighted by its number of pairs. What is
    the same for all images of a stratum cannot change it, so that differences between strata gain nothing.

    The interval is the bootstrap by subject of `auc`, over the images of the strata that count; where all resamples
    agree (perfect separation, say), it is Newcombe's as there, with the subjects of the one stratum of most pairs,
    which is rather too wide.

    Args:
        labels: (n,) or (n, 1), 0 or 1; both occur.
        scores: (n,) or (n, 1) finite numbers, higher for class 1.
        strata: (n,) names or numbers of the stratum of each image. Images without one (None, NaN) drop out, as do
            strata that lack a class.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        `Interval(value, low, high, n)`, `n` the number of images in the strata that count.

    Raises:
        ValueError: as `auc`, or when no stratum has both classes.

    Example:

    A score that knows nothing but the machine:

    ```python
    >>> labels, machine = [1, 1, 1, 0, 0, 0, 0, 1], [1, 1, 1, 1, 0, 0, 0, 0]
    >>> auc(labels, machine).value, auc_within(labels, machine, machine).value
    (0.75, 0.5)
    ```
    """
    labels, scores = _checked(labels, scores)
    groups = _groups(subjects, labels)
    _check_level(level)
    strata, _ = pd.factorize(pd.Series(np.ravel(strata), dtype=object))
    if len(strata) != len(labels):
        raise ValueError(f"labels and strata differ in length: received {len(labels)} labels and {len(strata)} strata")
    positive, negative = (set(strata[labels == label]) for label in (1, 0))
    counting = sorted((positive & negative) - {-1})
    if not counting:
        raise ValueError(
            f"strata: received {len(positive | negative)}, none with images of both classes; expected one at least"
        )
    kept = np.isin(strata, counting)
    labels, scores, strata = labels[kept], scores[kept], strata[kept]
    groups = np.unique(groups[kept], return_inverse=True)[1]
    members = [np.flatnonzero(strata == stratum) for stratum in counting]

    def areas(weights):
        counts = [_pairs(labels[rows], scores[rows], weights[:, rows]) for rows in members]
        ordered, pairs = np.sum(counts, axis=0)
        # A resample of few images may hold no pair at all and says nothing then.
        return ordered[pairs > 0] / pairs[pairs > 0]

    value = float(areas(np.ones((1, len(labels))))[0])
    low, high = _percentiles(_bootstrap(labels, groups, resamples, seed, areas), level)
    if not high > low:
        largest = max(members, key=lambda rows: labels[rows].sum() * (1 - labels[rows]).sum())
        low, high = _newcombe_interval(value, *_class_sizes(labels[largest], groups[largest]), level)
    return Interval(value, float(low), float(high), len(labels))


def _pairs(labels, scores, weights):
    """Pairs in the right order, a tie counting one half, and all pairs, (2, resamples)."""
    _, positives, negatives = _tally(labels, scores, weights)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    return np.stack([(positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1)])


def table_scores(table, columns=None, seed=0):
    """Scores the test part from what the table says beside the image: no pixel is read.

    A random forest (500 trees) is trained on the training part; its leaves hold at least 50 images, since those of one
    subject look alike in the table and would be learnt by heart. A model of images that does no better than this may
    have learnt of whom, where and with what the image was taken.

    Args:
        table: image table of two classes with the column `split`, which holds "train" and "test".
        columns: which of `site`, `machine`, `age`, `view` and `laterality` to use; None for those that the table has.
            Unknown ages and names are taken as they are, as a value of their own.
        seed: of the forest; the same seed gives the same scores.

    Returns:
        float64 (n,), the probability of the positive class (the last of `table.attrs["classes"]`) of each image of the
        test part, in the order of the table.

    Raises:
        ValueError: if the table has more classes than two or several labels an image, no training or test part, a
            training part of one class, or none of the columns.

    Example:

    ```python
    table = datasets.split(datasets.read("rsna", "~/data/RSNA"), {"train": 0.8, "test": 0.2}, seed=0)
    test = table[table["split"] == "test"]
    auc(datasets.encode_labels(test), table_scores(table), test["subject"])
    ```
    """
    title = f"image table of {table.attrs['dataset']!r}"
    if is_multi_label(table) or len(table.attrs["classes"]) != 2:
        raise ValueError(f"{title}: has {len(table.attrs['classes'])} classes or labels, expected two classes")
    columns = _columns(table, columns, title)
    parts = table["split"] if "split" in table else pd.Series("", index=table.index)
    train, test = (parts == "train").to_numpy(), (parts == "test").to_numpy()
    if not (train.any() and test.any()):
        raise ValueError(
            f"{title}: received {train.sum()} training and {test.sum()} test images, expected some of both"
        )
    labels = encode_labels(table)
    if len(np.unique(labels[train])) < 2:
        raise ValueError(f"{title}: the training part holds one class only, expected both")
    numbers = [name for name in columns if name == "age"]
    names = [name for name in columns if name != "age"]
    # None, NaN and "" all say that it is not known.
    known = table[columns].assign(**{name: table[name].fillna("").astype(str) for name in names})
    forest = make_pipeline(
        make_column_transformer((OneHotEncoder(handle_unknown="ignore"), names), ("passthrough", numbers)),
        RandomForestClassifier(500, min_samples_leaf=50, random_state=seed),
    )
    return forest.fit(known[train], labels[train]).predict_proba(known[test])[:, 1]


def _columns(table, columns, title):
    if columns is None:
        found = [name for name in TABLE_COLUMNS if name in table]
        if not found:
            raise ValueError(f"{title}: has none of the columns {', '.join(TABLE_COLUMNS)}, expected one at least")
        return found
    columns = list(columns)
    if not columns:
        raise ValueError(f"columns is empty, expected some of {', '.join(TABLE_COLUMNS)}")
    for name in columns:
        if name not in TABLE_COLUMNS:
            raise ValueError(unknown("column", name, TABLE_COLUMNS))
        if name not in table:
            raise ValueError(f"{title}: has no column {name!r}")
    return columns
