"""ROC analysis of binary classifiers, every number with its interval.

Conventions: labels are 0 (negative) and 1 (positive), a higher score speaks for class 1, and scores may tie.
The intervals agree with those of R's pROC (Robin and others, BMC Bioinformatics 12:77, 2011), except where pROC
gives an interval of no width: see `auc`.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import mannwhitneyu, norm, rankdata


class Interval(NamedTuple):
    """A value with its confidence interval.

    Attributes:
        value: the estimate.
        low: lower bound.
        high: upper bound.
        n: number of images that it rests on.
    """

    value: float
    low: float
    high: float
    n: int


class MeanAuc(NamedTuple):
    """The mean AUC of several trainings; see `mean_auc`.

    Attributes:
        value: the mean of the AUCs.
        low: lower bound.
        high: upper bound.
        n: number of images that any of the trainings was tested on.
        trainings: number of trainings.
        deviation: sample standard deviation of the AUCs over the trainings; None for one training.
    """

    value: float
    low: float
    high: float
    n: int
    trainings: int
    deviation: float | None


class RocCurve(NamedTuple):
    """Points of a ROC curve, from (0, 0) to (1, 1).

    Attributes:
        false_positive_rate: (points,), 1 - specificity, in [0, 1], ascending.
        true_positive_rate: (points,), sensitivity, in [0, 1], ascending.
        thresholds: (points,), descending; a score of at least the threshold counts as positive. The first is
            infinite (nothing is positive), the others are the distinct scores.
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    thresholds: np.ndarray


class OperatingPoint(NamedTuple):
    """A threshold and what a classifier reaches there; see `operating_point`."""

    threshold: float
    accuracy: Interval
    sensitivity: Interval
    specificity: Interval


class Comparison(NamedTuple):
    """Two AUCs compared: `difference` = AUC(a) - AUC(b), its interval, and the two-sided p-value of "equal"."""

    difference: float
    low: float
    high: float
    p_value: float


def auc(labels, scores, subjects=None, level=0.95, method="delong", resamples=2000, seed=0):
    """Returns the area under the ROC curve with its confidence interval.

    The area is the exact Mann-Whitney statistic: the share of (positive, negative) pairs in the right order, a tie
    counting one half. Its interval is one of:

    - `"delong"`: value ± z · standard error, cut to [0, 1], as pROC does; DeLong and others, Biometrics 44:837,
      1988, by the midranks of Sun and Xu, IEEE Signal Processing Letters 21:1389, 2014;
    - `"bootstrap"`: percentiles over resamples that keep the number of images of each class.

    Where `subjects` repeat, images are not independent and the interval is **always the bootstrap by subject**,
    whatever `method` says: whole subjects are drawn with all their images, subjects of negative images, of positive
    images and of both each as often as there are.

    Both methods collapse to a point where the classes are perfectly separated (or all scores are equal), though a
    small sample may well separate by chance. There, and where a class has a single image, the interval is
    Newcombe's score-type interval, method 5 in Statistics in Medicine 25:559, 2006, with the number of images
    (of subjects, where they repeat) in each class; its bound depends on nothing but these numbers.

    Args:
        labels: (n,) or (n, 1), 0 or 1; both occur.
        scores: (n,) or (n, 1) finite numbers, probabilities or logits, higher for class 1.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        level: confidence level in (0, 1).
        method: `"delong"` or `"bootstrap"`.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap; the same seed gives the same interval.

    Returns:
        `Interval(value, low, high, n)`.

    Raises:
        ValueError: lengths differ, one class only, scores that are not finite or of more than two classes, an
            unknown method, a level outside (0, 1).

    Example:

    ```python
    >>> from medzoo.analysis import auc
    >>> auc([0, 0, 1, 1, 0, 1], [0.1, 0.4, 0.35, 0.8, 0.2, 0.9]).value
    0.8888888888888888
    ```
    """
    labels, scores = _checked(labels, scores)
    groups = _groups(subjects, labels)
    _check_level(level)
    if method not in ("delong", "bootstrap"):
        raise ValueError(f"method: received {method!r}, expected 'delong' or 'bootstrap'")
    value = _area(labels, scores)
    if method == "bootstrap" or _repeat(groups):
        areas = _bootstrap(labels, groups, resamples, seed, lambda weights: _areas(labels, scores, weights))
        low, high = _percentiles(areas, level)
    else:
        low, high = _normal_interval(value, _delong_variance(labels, groups, _placements(labels, scores)), level)
        low, high = max(low, 0.0), min(high, 1.0)
    if not high > low:
        low, high = _newcombe_interval(value, *_class_sizes(labels, groups), level)
    return Interval(value, float(low), float(high), len(labels))


def mean_auc(labels, scores, subjects=None, level=0.95, resamples=2000, seed=0):
    """Returns the mean of the AUCs of several trainings, scored on the same images or on parts of them.

    The interval is that of the bootstrap in `auc`, each resample being the same for all trainings. **It holds the
    spread of the test sample, not that of the trainings**: it says where the mean of these very networks lies on other
    images of the kind. How much another training would differ is told by `deviation`. Where all trainings separate the
    classes perfectly the interval is Newcombe's, as in `auc`.

    Where each training has images of its own to be tested on (those that it did not draw to train on), the others are
    NaN. Each AUC is that of the training's own images. Subjects are drawn from all images that any training was tested
    on, and each training counts its own images of them. A resample in which a training has no image of one class has
    no mean and is left out.

    Args:
        labels: (n,) or (n, 1), 0 or 1; both occur, also among the images of each training.
        scores: (trainings, n) finite numbers, higher for class 1, or NaN where the training was not tested on the
            image; (n,) of one training.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        `MeanAuc(value, low, high, n, trainings, deviation)`.

    Raises:
        ValueError: as `auc`, for a training that was tested on one class only, and where more than half of the
            resamples are left out.
    """
    labels, scores = _checked_trainings(labels, scores, partly=True)
    groups = _groups(subjects, labels)
    _check_level(level)
    labels, groups, scores = _tested(labels, groups, scores)
    areas = _own_areas(labels, scores)
    value = float(np.mean(areas))
    low, high = _percentiles(_with_all_classes(_bootstrap_means(labels, scores, groups, resamples, seed)), level)
    if not high > low:
        low, high = _newcombe_interval(value, *_class_sizes(labels, groups), level)
    deviation = float(np.std(areas, ddof=1)) if len(areas) > 1 else None
    return MeanAuc(value, float(low), float(high), len(labels), len(areas), deviation)


def compare_means(labels, a, b, subjects=None, level=0.95, resamples=2000, seed=0):
    """Compares the mean AUCs of two sets of trainings on the same images: a paired bootstrap.

    Each resample, of whole subjects and by class as in `auc`, is the same for all trainings of both sets. The interval
    holds percentiles of the resampled differences d*. The p-value is that of the shifted bootstrap, two-sided: with
    d* - d for the distribution of the difference when there is none, (1 + number of |d* - d| ≥ |d|) / (1 + resamples)
    (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.4). It cannot be less than
    1 / (1 + resamples). Like `mean_auc` it compares these very networks: **the spread between trainings is not in it**.

    Where no resample differs from another, interval and p-value come about as in `compare_delong`.

    Scores may be NaN as in `mean_auc`, in each set for other images. Pairing then means that the same subjects are
    drawn for both sets, from all that any training of either was tested on, and that each training counts its own
    images of them. The difference is between the AUCs of each on its own images: what the sets share cancels, while
    the chance that gave one of them easier images is in the interval like any other. Resamples in which a training of
    either set lacks a class are left out, of the p-value's denominator too.

    Args:
        labels: (n,) or (n, 1), 0 or 1; both occur, also among the images of each training.
        a: (trainings, n) scores of the first set, or (n,) of one training; NaN where it was not tested on the image.
        b: (trainings, n) scores of the second set, not necessarily as many, for the same images in the same order.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        level: confidence level of the interval, in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        `Comparison(difference, low, high, p_value)`, difference = mean AUC(a) - mean AUC(b).

    Raises:
        ValueError: as `mean_auc`.
    """
    checked, a = _checked_trainings(labels, a, "a", partly=True)
    labels, b = _checked_trainings(labels, b, "b", partly=True)
    groups = _groups(subjects, checked)
    _check_level(level)
    labels, groups, both = _tested(labels, groups, np.concatenate([a, b]))
    a, b = both[: len(a)], both[len(a) :]
    first, second = (float(np.mean(_own_areas(labels, scores))) for scores in (a, b))
    difference = first - second
    drawn = _bootstrap_means(labels, a, groups, resamples, seed)
    drawn = _with_all_classes(drawn - _bootstrap_means(labels, b, groups, resamples, seed))
    if np.ptp(drawn) > 1e-12:
        low, high = _percentiles(drawn, level)
        extreme = np.abs(drawn - difference) >= abs(difference) - 1e-12  # equal but for rounding is as extreme
        return Comparison(difference, float(low), float(high), float((1 + extreme.sum()) / (1 + len(drawn))))
    ranks = [rankdata(scores, axis=1, nan_policy="omit") for scores in (a, b)]
    if np.array_equal(*ranks, equal_nan=True):
        return Comparison(0.0, 0.0, 0.0, 1.0)
    sizes = [_class_sizes(*_tested(labels, groups, scores)[:2]) for scores in (a, b)]
    return _square_and_add(first, second, *sizes, level)


def mean_label_auc(labels, scores, subjects=None, level=0.95, resamples=500, seed=0):
    """Returns the mean of the AUCs of several labels that do not exclude each other, and of several trainings.

    The interval is a bootstrap by subject, the same resample for all labels and trainings; as every label has other
    positive images it is not stratified by class, and a label that a resample lacks is left out of its mean. Like
    `mean_auc` it holds the spread of the test sample, not that of the trainings.

    Args:
        labels: (n, labels) of 0 and 1; each label occurs and is absent.
        scores: (trainings, n, labels) finite numbers, higher where the label is present.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        `MeanAuc(value, low, high, n, trainings, deviation)`.

    Raises:
        ValueError: as `auc`.
    """
    scores = np.asarray(scores)
    if scores.ndim != 3 or scores.shape[1:] != np.shape(labels):
        raise ValueError(
            f"scores: received shape {scores.shape} for labels of {np.shape(labels)}, expected (trainings, *labels)"
        )
    checked = [_checked_trainings(present, scores[..., index]) for index, present in enumerate(np.transpose(labels))]
    groups = _groups(subjects, checked[0][0])
    _check_level(level)

    def mean(weights):
        with np.errstate(invalid="ignore"):  # 0 / 0 where a resample lacks a label, or all of them
            areas = np.array([[_areas(present, row, weights) for row in rows] for present, rows in checked])
            return np.nansum(areas, axis=(0, 1)) / np.isfinite(areas).sum(axis=(0, 1))

    areas = [np.mean([_area(present, rows[index]) for present, rows in checked]) for index in range(len(scores))]
    unstratified = np.zeros(len(groups), dtype=int)
    means = _bootstrap(unstratified, groups, resamples, seed, mean)
    low, high = _percentiles(means[np.isfinite(means)], level)
    deviation = float(np.std(areas, ddof=1)) if len(areas) > 1 else None
    return MeanAuc(float(np.mean(areas)), float(low), float(high), len(groups), len(areas), deviation)


def weighted_auc(labels, probabilities, subjects=None, folds=None, level=0.95, resamples=2000, seed=0):
    """Returns the one-against-rest AUC of several classes, weighted by how frequent they are, with its interval.

    The mean over the classes of the AUC of each against all others, each class weighing as many images as it has:
    "a one-against-all AUC, weighted by class priors" (van den Brandt and others, section IV-A; scikit-learn's
    `roc_auc_score(multi_class="ovr", average="weighted")`). Of two classes it is the AUC.

    In cross-validation the scores of one fold's network cannot be compared with those of another's: with `folds` the
    value is the mean over the folds of each one's AUC on its own images.

    The interval holds percentiles of a bootstrap by subject, not stratified, as each class has other subjects; a class
    that a fold of a resample lacks is left out of its mean. **It holds the spread of the test sample, not that of the
    trainings.** Where all resamples agree (perfect separation, say) it is Newcombe's as in `auc`, with the numbers of
    subjects of the rarest class and of the others.

    Args:
        labels: (n,) or (n, 1) class indices, two classes or more among them.
        probabilities: (n, classes) finite numbers, higher for the class; of two classes also (n,) or (n, 1), higher for
            class 1.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        folds: (n,) number or name of the fold that each image was tested in; None for one. Each holds two classes or
            more.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        `Interval(value, low, high, n)`.

    Raises:
        ValueError: lengths differ, one class only, a class without a column, scores that are not finite.
    """
    labels, scores, folds = _checked_classes(labels, probabilities, folds)
    groups = _groups(subjects, labels)
    _check_level(level)
    value = float(_weighted_areas(labels, scores, folds, np.ones((1, len(labels))))[0])
    drawn = _bootstrap(
        np.zeros(len(labels), int),
        groups,
        resamples,
        seed,
        lambda weights: _weighted_areas(labels, scores, folds, weights),
    )
    low, high = _percentiles(drawn[np.isfinite(drawn)], level)
    if not high - low > 1e-12:
        rarest = min(np.unique(labels), key=lambda each: len(np.unique(groups[labels == each])))
        low, high = _newcombe_interval(value, *_class_sizes((labels == rarest).astype(int), groups), level)
    return Interval(value, float(low), float(high), len(labels))


def compare_weighted(labels, a, b, subjects=None, folds=None, level=0.95, resamples=2000, seed=0):
    """Compares two classifiers by `weighted_auc` on the same images: a paired bootstrap.

    Interval and p-value come about as in `compare_means`, from the resamples of `weighted_auc`, the same for both.

    Args:
        labels, subjects, folds, level, resamples, seed: as for `weighted_auc`.
        a: probabilities of the first, as for `weighted_auc`.
        b: those of the second, for the same images in the same order.

    Returns:
        `Comparison(difference, low, high, p_value)`, difference = AUC(a) - AUC(b).

    Raises:
        ValueError: as `weighted_auc`.
    """
    checked, first, numbers = _checked_classes(labels, a, folds)
    _, second, _ = _checked_classes(labels, b, folds)
    groups = _groups(subjects, checked)
    _check_level(level)

    def difference(weights):
        return _weighted_areas(checked, first, numbers, weights) - _weighted_areas(checked, second, numbers, weights)

    value = float(difference(np.ones((1, len(checked))))[0])
    drawn = _bootstrap(np.zeros(len(checked), int), groups, resamples, seed, difference)
    drawn = drawn[np.isfinite(drawn)]
    low, high = _percentiles(drawn, level)
    extreme = np.abs(drawn - value) >= abs(value) - 1e-12  # equal but for rounding is as extreme
    return Comparison(value, float(low), float(high), float((1 + extreme.sum()) / (1 + len(drawn))))


def roc_curve(labels, scores):
    """Returns the ROC curve with a point for every distinct score.

    Args:
        labels: (n,) or (n, 1), 0 or 1; both occur.
        scores: (n,) or (n, 1) finite numbers, higher for class 1.

    Returns:
        `RocCurve(false_positive_rate, true_positive_rate, thresholds)`.

    Raises:
        ValueError: as `auc`.
    """
    labels, scores = _checked(labels, scores)
    thresholds, positives, negatives = _tally(labels, scores, np.ones((1, len(labels))))
    return RocCurve(
        np.append(0.0, np.cumsum(negatives[0, ::-1]) / negatives.sum()),
        np.append(0.0, np.cumsum(positives[0, ::-1]) / positives.sum()),
        np.append(np.inf, thresholds[::-1]),
    )


def operating_point(labels, scores, subjects=None, level=0.95, resamples=2000, seed=0):
    """Returns accuracy, sensitivity and specificity at the ROC point nearest the upper left corner.

    The point of Byra 2021, section 3.3 (there after Fawcett 2006): smallest (1 - sensitivity)² + (1 - specificity)²;
    of equally near points the one of higher sensitivity. As it is chosen on the very labels that it is judged by, its
    values flatter the classifier; fix a threshold on validation images where you can.

    Intervals are bootstrap percentiles, stratified by class and by subject as in `auc`. **Each resample chooses its
    own point**, so that they hold the uncertainty of the whole procedure and not that of one fixed threshold. Where
    all resamples agree (perfect separation), the interval is Wilson's for a proportion, with the number of images
    (of subjects, where they repeat).

    Args:
        labels: (n,) or (n, 1), 0 or 1; both occur.
        scores: (n,) or (n, 1) finite numbers, higher for class 1.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        `OperatingPoint(threshold, accuracy, sensitivity, specificity)`; an image is called positive when its score
        is at least `threshold`, which is one of the scores. Each interval's `n` is the number of images of which it
        is a share: all, positive, negative.

    Raises:
        ValueError: as `auc`.
    """
    labels, scores = _checked(labels, scores)
    groups = _groups(subjects, labels)
    _check_level(level)
    threshold, *values = _nearest_corner(labels, scores, np.ones((1, len(labels))))[0]
    drawn = _bootstrap(labels, groups, resamples, seed, lambda weights: _nearest_corner(labels, scores, weights)[:, 1:])
    positive, negative = _class_sizes(labels, groups)
    sizes = [len(np.unique(groups)), positive, negative]
    images = [len(labels), int(labels.sum()), int((1 - labels).sum())]
    intervals = []
    for value, resampled, size, n in zip(values, drawn.T, sizes, images, strict=True):
        low, high = _percentiles(resampled, level)
        if low == high:
            low, high = _wilson_interval(value, size, level)
        intervals.append(Interval(float(value), float(low), float(high), n))
    return OperatingPoint(float(threshold), *intervals)


def rates_at(labels, scores, threshold, subjects=None, level=0.95, resamples=2000, seed=0):
    """Returns sensitivity and specificity at a threshold that was fixed beforehand, on other images.

    Intervals are bootstrap percentiles, stratified by class and by subject as in `auc`; Wilson's for a proportion where
    all resamples agree.

    Args:
        labels: (n,) or (n, 1), 0 or 1; both occur.
        scores: (n,) or (n, 1) finite numbers, higher for class 1.
        threshold: an image is called positive when its score is at least this.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        (sensitivity, specificity), each an `Interval` whose `n` is the number of images that it is a share of.

    Raises:
        ValueError: as `auc`.
    """
    labels, scores = _checked(labels, scores)
    groups = _groups(subjects, labels)
    _check_level(level)
    right = (scores >= threshold) == labels

    def shares(weights):
        return np.stack([(weights * (right & of)).sum(axis=1) / (weights * of).sum(axis=1) for of in classes], axis=1)

    classes = [labels == 1, labels == 0]
    values = shares(np.ones((1, len(labels))))[0]
    drawn = _bootstrap(labels, groups, resamples, seed, shares)
    intervals = []
    for value, resampled, size, of in zip(values, drawn.T, _class_sizes(labels, groups), classes, strict=True):
        low, high = _percentiles(resampled, level)
        if low == high:
            low, high = _wilson_interval(value, size, level)
        intervals.append(Interval(float(value), float(low), float(high), int(of.sum())))
    return tuple(intervals)


def accuracy(labels, predicted, subjects=None, level=0.95, resamples=2000, seed=0):
    """Returns the share of images whose predicted class is the right one, with its confidence interval.

    The interval holds percentiles of a bootstrap by subject; Wilson's for a proportion of the subjects where all
    resamples agree.

    Args:
        labels: (n,) class indices or names, of two classes or more.
        predicted: (n,) those predicted.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        level: confidence level in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        `Interval(value, low, high, n)`.

    Raises:
        ValueError: when the lengths differ, or there is no image.
    """
    labels, predicted = np.ravel(labels), np.ravel(predicted)
    if len(labels) != len(predicted) or not len(labels):
        raise ValueError(f"labels, predicted: received {len(labels)} and {len(predicted)}, expected as many")
    groups = _groups(subjects, labels)
    _check_level(level)
    right = labels == predicted
    value, alike = float(right.mean()), np.zeros(len(labels), dtype=int)

    def share(weights):
        return (weights * right).sum(axis=1) / weights.sum(axis=1)

    low, high = _percentiles(_bootstrap(alike, groups, resamples, seed, share), level)
    if low == high:
        low, high = _wilson_interval(value, groups.max() + 1, level)
    return Interval(value, float(low), float(high), len(labels))


def compare_delong(labels, a, b, subjects=None, level=0.95):
    """Compares the AUCs of two classifiers on the same images: the paired test of DeLong.

    DeLong and others, Biometrics 44:837, 1988; z = difference / standard error, as `roc.test` of pROC. Where
    `subjects` repeat, the variance is the one of Obuchowski, Biometrics 53:567, 1997, which sums the same components
    within subjects; with one image per subject it is DeLong's.

    Where the variance is zero without the rankings being the same (both classifiers separate perfectly, say), the
    interval is put together from the two of `auc` (square-and-add, Newcombe, Statistics in Medicine 17:873, 1998) and
    the p-value follows from it; it takes the two as independent and is therefore a wide one.

    Args:
        labels: (n,) or (n, 1), 0 or 1; both occur.
        a: (n,) or (n, 1) scores of the first classifier.
        b: (n,) or (n, 1) scores of the second, for the same images in the same order.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        level: confidence level of the interval, in (0, 1).

    Returns:
        `Comparison(difference, low, high, p_value)`, difference = AUC(a) - AUC(b).

    Raises:
        ValueError: as `auc`.
    """
    checked, a = _checked(labels, a, "a")
    labels, b = _checked(labels, b, "b")
    groups = _groups(subjects, checked)
    _check_level(level)
    first, second = _area(labels, a), _area(labels, b)
    difference = first - second
    placements = _placements(labels, a) - _placements(labels, b)
    variance = _delong_variance(labels, groups, placements)
    if variance > 0:
        low, high = _normal_interval(difference, variance, level)
        return Comparison(difference, float(low), float(high), float(2 * norm.sf(abs(difference) / variance**0.5)))
    if np.array_equal(rankdata(a), rankdata(b)):
        return Comparison(0.0, 0.0, 0.0, 1.0)
    sizes = _class_sizes(labels, groups)
    return _square_and_add(first, second, sizes, sizes, level)


def compare_bootstrap_wilcoxon(labels, a, b, level=0.95, resamples=1000, seed=0):
    """Compares two AUCs as Byra 2021 does; **not a valid test**, here to reproduce the paper's numbers.

    Section 3.3: the AUCs of both classifiers are bootstrapped (here by class, each classifier with its own draws) and
    the two sets of values compared by the Wilcoxon rank-sum test. The test takes the resamples for independent
    observations, but they are as many as one cares to draw: its p-value shrinks with `resamples` and not with the
    number of images, so that any difference, however small, becomes "significant". Use `compare_delong`.

    Args:
        labels: (n,) or (n, 1), 0 or 1; both occur.
        a: (n,) or (n, 1) scores of the first classifier.
        b: (n,) or (n, 1) scores of the second, for the same images in the same order.
        level: confidence level of the interval, in (0, 1).
        resamples: number of bootstrap resamples; the paper does not tell its own.
        seed: seed of the bootstrap.

    Returns:
        `Comparison(difference, low, high, p_value)`: AUC(a) - AUC(b) on the images themselves, percentiles of the
        bootstrapped differences, and the p-value of the rank-sum test.

    Raises:
        ValueError: as `auc`.
    """
    checked, a = _checked(labels, a, "a")
    labels, b = _checked(labels, b, "b")
    groups = _groups(None, checked)
    _check_level(level)
    seed_a, seed_b = np.random.SeedSequence(seed).spawn(2)
    areas_a = _bootstrap(labels, groups, resamples, seed_a, lambda weights: _areas(labels, a, weights))
    areas_b = _bootstrap(labels, groups, resamples, seed_b, lambda weights: _areas(labels, b, weights))
    low, high = _percentiles(areas_a - areas_b, level)
    p_value = mannwhitneyu(areas_a, areas_b, method="asymptotic").pvalue
    return Comparison(_area(labels, a) - _area(labels, b), float(low), float(high), float(p_value))


def _checked(labels, scores, name="scores"):
    """Returns labels as int64 (n,) and scores as float64 (n,), or says in one line what is wrong with them."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    if scores.ndim == 2 and scores.shape[1] > 1:
        raise ValueError(
            f"{name}: received shape {scores.shape}, expected one score per image (n,); "
            "ROC analysis here is for two classes"
        )
    labels, scores = labels.reshape(-1), scores.reshape(-1)
    if len(labels) != len(scores):
        raise ValueError(f"labels and {name} differ in length: received {len(labels)} labels and {len(scores)} scores")
    if len(labels) == 0:
        raise ValueError("labels are empty: an ROC curve needs images of both classes")
    if labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        received = sorted({str(label) for label in labels.tolist()})
        raise ValueError(f"labels: received values {', '.join(received[:5])}, expected 0 and 1")
    labels, scores = labels.astype(np.int64), scores.astype(np.float64)
    if labels.min() == labels.max():
        raise ValueError(f"labels hold one class only ({len(labels)} × {labels[0]}): an ROC curve needs 0 and 1")
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ValueError(
            f"{name}: received {len(bad)} values that are not finite, "
            f"the first at index {bad[0]} ({scores[bad[0]]}); expected finite numbers"
        )
    return labels, scores


def _checked_classes(labels, probabilities, folds):
    """Labels as int64 (n,), a score for each class that occurs, float64 (n, classes), and fold numbers, int64 (n,)."""
    labels, scores = np.ravel(np.asarray(labels)), np.asarray(probabilities, dtype="float64")
    scores = scores.reshape(len(scores), -1)
    if scores.shape[1] == 1:
        scores = np.concatenate([-scores, scores], axis=1)
    if len(labels) != len(scores) or not len(labels):
        raise ValueError(f"labels, probabilities: received {len(labels)} and {len(scores)} images, expected as many")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"labels: received {', '.join(map(str, np.unique(labels)[:8]))} for {scores.shape[1]} columns of "
            f"probabilities, expected class indices from 0 to {scores.shape[1] - 1}"
        )
    if bad := int((~np.isfinite(scores)).any(axis=1).sum()):
        raise ValueError(f"probabilities: received {bad} images with values that are not finite, expected finite ones")
    numbers = np.zeros(len(labels), int) if folds is None else np.unique(np.ravel(folds), return_inverse=True)[1]
    if len(numbers) != len(labels):
        raise ValueError(f"labels, folds: received {len(labels)} and {len(numbers)} images, expected as many")
    for number in np.unique(numbers):
        if len(held := np.unique(labels[numbers == number])) < 2:
            raise ValueError(f"labels: received class {held[0]} only, expected two or more in all images of a fold")
    return labels.astype(np.int64), scores, numbers


def _weighted_areas(labels, scores, folds, weights):
    """Mean over the folds of the AUCs of each class against the rest, weighted by its images: (resamples,)."""
    means = []
    for fold in np.unique(folds):
        mine = folds == fold
        held, drawn = labels[mine], weights[:, mine]
        if scores.shape[1] == 2:  # one against the other is the same twice
            with np.errstate(invalid="ignore"):  # 0 / 0 where a resample lacks a class
                means.append(_areas(held, (scores[mine, 1] - scores[mine, 0]), drawn))
            continue
        total, images = np.zeros(len(weights)), np.zeros(len(weights))
        for each in np.unique(held):
            present = (held == each).astype(int)
            with np.errstate(invalid="ignore"):
                areas = _areas(present, scores[mine, each], drawn)
            count = np.where(np.isfinite(areas), (drawn * present).sum(axis=1), 0)
            total, images = total + np.nan_to_num(areas) * count, images + count
        with np.errstate(invalid="ignore"):
            means.append(total / images)
    means = np.stack(means)
    with np.errstate(invalid="ignore"):
        return np.nansum(means, axis=0) / np.isfinite(means).sum(axis=0)


def _checked_trainings(labels, scores, name="scores", partly=False):
    """Returns labels as int64 (n,) and scores as float64 (trainings, n); see `_checked`.

    `partly`: whether scores may be NaN where a training was not tested on the image.
    """
    scores = np.asarray(scores)
    if scores.ndim == 1:
        scores = scores[None]
    if scores.ndim != 2 or not len(scores):
        raise ValueError(f"{name}: received shape {scores.shape}, expected (trainings, n)")
    rows = []
    for index, row in enumerate(scores):
        tested = row == row if partly else np.full(row.shape, True)  # NaN alone differs from itself
        checked, filled = _checked(labels, np.where(tested, row, 0), f"{name}[{index}]")
        positive, negative = checked[tested].sum(), (1 - checked[tested]).sum()
        if not (positive and negative):
            raise ValueError(
                f"{name}[{index}]: received scores of {positive} positive and {negative} negative images, "
                "expected both classes among the images of each training"
            )
        rows.append(np.where(tested, filled, np.nan))
    return checked, np.stack(rows)


def _tested(labels, groups, scores):
    """Labels, subjects and scores without the images that no training was tested on."""
    tested = ~np.isnan(scores).all(axis=0)
    return labels[tested], np.unique(groups[tested], return_inverse=True)[1], scores[:, tested]


def _check_level(level):
    if not 0 < level < 1:
        raise ValueError(f"level: received {level}, expected a confidence level between 0 and 1, such as 0.95")


def _groups(subjects, labels):
    """Number of each image's subject, (n,) in [0, number of subjects)."""
    if subjects is None:
        return np.arange(len(labels))
    subjects = np.asarray(subjects).reshape(-1)
    if len(subjects) != len(labels):
        raise ValueError(
            f"labels and subjects differ in length: received {len(labels)} labels and {len(subjects)} subjects"
        )
    return np.unique(subjects, return_inverse=True)[1]


def _repeat(groups):
    return groups.max() + 1 < len(groups)


def _class_sizes(labels, groups):
    """Numbers of subjects with positive and with negative images."""
    return len(np.unique(groups[labels == 1])), len(np.unique(groups[labels == 0]))


def _tally(labels, scores, weights):
    """Distinct scores, ascending, and the weight of positive and of negative images at each, (resamples, distinct)."""
    order = np.argsort(scores, kind="stable")
    distinct, starts = np.unique(scores[order], return_index=True)
    ordered = weights[:, order]
    positives = np.add.reduceat(ordered * labels[order], starts, axis=1)
    return distinct, positives, np.add.reduceat(ordered, starts, axis=1) - positives


def _areas(labels, scores, weights):
    """Mann-Whitney AUC for each row of image weights, (resamples,)."""
    _, positives, negatives = _tally(labels, scores, weights)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    return (positives * below).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1))


def _area(labels, scores):
    return float(_areas(labels, scores, np.ones((1, len(labels))))[0])


def _nearest_corner(labels, scores, weights):
    """Threshold, accuracy, sensitivity, specificity of the point nearest the corner, (resamples, 4)."""
    thresholds, positives, negatives = _tally(labels, scores, weights)
    missed = np.cumsum(positives, axis=1) - positives
    passed = np.cumsum(negatives, axis=1) - negatives
    positive, negative = positives.sum(axis=1), negatives.sum(axis=1)
    # The squared distance times both class sizes squared: whole numbers, so that equally near points compare equal.
    distances = (missed * negative[:, None]) ** 2 + ((negative[:, None] - passed) * positive[:, None]) ** 2
    best = np.argmin(distances, axis=1)  # the first of equals: the lowest threshold, the highest sensitivity
    rows = np.arange(len(weights))
    hits, rejections = positive - missed[rows, best], passed[rows, best]
    return np.stack(
        [
            thresholds[best],
            (hits + rejections) / (positive + negative),
            hits / positive,
            rejections / negative,
        ],
        axis=1,
    )


def _bootstrap(labels, groups, resamples, seed, statistic):
    """Stacks `statistic(weights)` over resamples of whole subjects, drawn by stratum (negative, positive, both).

    `weights` (rows, n) tells how often each image is in each resample.
    """
    if resamples < 1:
        raise ValueError(f"resamples: received {resamples}, expected a positive number")
    random = np.random.default_rng(seed)
    size = groups.max() + 1
    kind = np.zeros(size, dtype=int)
    np.bitwise_or.at(kind, groups, labels + 1)
    strata = [np.flatnonzero(kind == value) for value in np.unique(kind)]
    rows_at_once = max(1, 2**21 // len(labels))  # keeps a block of weights at some 16 MB
    parts = []
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        weights = np.zeros((rows, size))
        for members in strata:
            drawn = random.integers(len(members), size=(rows, len(members)))
            flat = (drawn + np.arange(rows)[:, None] * len(members)).reshape(-1)
            counts = np.bincount(flat, minlength=rows * len(members))
            weights[:, members] = counts.reshape(rows, len(members))
        parts.append(statistic(weights[:, groups]))
    return np.concatenate(parts)


def _own_areas(labels, scores, weights=None):
    """AUC of each training over its own images for each row of image weights: (trainings, resamples).

    NaN where a training has no image of one class.
    """
    weights = np.ones((1, len(labels))) if weights is None else weights
    own = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):  # 0 / 0
        return np.array(
            [_areas(labels[mine], row[mine], weights[:, mine]) for row, mine in zip(scores, own, strict=True)]
        )


def _bootstrap_means(labels, scores, groups, resamples, seed):
    """Mean AUC over the trainings in each resample, (resamples,); NaN where one of them lacks a class."""
    return _bootstrap(
        labels, groups, resamples, seed, lambda weights: np.mean(_own_areas(labels, scores, weights), axis=0)
    )


def _with_all_classes(drawn):
    """The resamples in which every training has images of both classes."""
    complete = drawn[np.isfinite(drawn)]
    if 2 * len(complete) < len(drawn):
        raise ValueError(
            f"scores: received trainings of which one lacks a class in {len(drawn) - len(complete)} of {len(drawn)} "
            "resamples, expected each to be tested on more subjects of both classes"
        )
    return complete


def _percentiles(values, level):
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2])


def _placements(labels, scores):
    """Each image's share of images of the other class on its right side, (n,): DeLong's components, by midranks."""
    positive = labels == 1
    ranks = rankdata(scores)
    placements = np.empty(len(scores))
    placements[positive] = (ranks[positive] - rankdata(scores[positive])) / (~positive).sum()
    placements[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / positive.sum()
    return placements


def _delong_variance(labels, groups, placements):
    """Variance of a mean placement (or of a difference of two): DeLong 1988, summed by subject as Obuchowski 1997.

    NaN where a class has a single subject: its spread is unknown.
    """
    positive = labels == 1
    size = groups.max() + 1
    share, totals, counts = [], [], []
    for members in (positive, ~positive):
        centred = placements[members] - placements[members].mean()
        sums = np.bincount(groups[members], weights=centred, minlength=size)
        share.append(members.sum())
        totals.append(sums)
        counts.append(len(np.unique(groups[members])))
    if min(counts) < 2:
        return float("nan")
    variance = sum(
        count / (count - 1) * (sums**2).sum() / images**2
        for count, sums, images in zip(counts, totals, share, strict=True)
    )
    covariance = size / (size - 1) * (totals[0] * totals[1]).sum() / (share[0] * share[1])
    return float(variance + 2 * covariance)


def _normal_interval(value, variance, level):
    half = norm.ppf((1 + level) / 2) * variance**0.5
    return value - half, value + half


def _newcombe_interval(value, positive, negative, level):
    """Bounds t with |value - t| = z · sqrt(V(t)), V the variance of Hanley and McNeil with equal class sizes."""
    z = norm.ppf((1 + level) / 2)
    extra = (positive + negative) / 2 - 1

    def excess(bound):
        spread = 1 + extra * ((1 - bound) / (2 - bound) + bound / (1 + bound))
        return (value - bound) ** 2 - z**2 * bound * (1 - bound) * spread / (positive * negative)

    low = 0.0 if value == 0 else brentq(excess, 0.0, value if value < 1 else 1 - 1e-12)
    high = 1.0 if value == 1 else brentq(excess, value if value > 0 else 1e-12, 1.0)
    return low, high


def _square_and_add(first, second, first_sizes, second_sizes, level):
    """Comparison of two areas by their own intervals: Newcombe, Statistics in Medicine 17:873, 1998."""
    difference = first - second
    first_low, first_high = _newcombe_interval(first, *first_sizes, level)
    second_low, second_high = _newcombe_interval(second, *second_sizes, level)
    down = np.hypot(first - first_low, second_high - second)
    up = np.hypot(first_high - first, second - second_low)
    towards_zero = down if difference > 0 else up
    z = norm.ppf((1 + level) / 2) * abs(difference) / towards_zero
    return Comparison(difference, float(difference - down), float(difference + up), float(2 * norm.sf(z)))


def _wilson_interval(share, n, level):
    z = norm.ppf((1 + level) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    # The exact bound at the ends of the scale, where rounding leaves 1e-17.
    return (0.0 if share == 0 else centre - half), (1.0 if share == 1 else centre + half)
