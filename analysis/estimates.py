"""How well a network suits a dataset: transferability, and estimates of it from features that are computed once.

- transferability: equation (1) of van den Brandt and others, Cats, not CAT scans (arXiv 2107.05940), section IV-B,
  after Alvarez-Melis and Fusi (NeurIPS 2020), with the AUC for the error
- LogME: You and others, LogME: practical assessment of pre-trained models for transfer learning, ICML 2021
- LEEP: Nguyen and others, LEEP: a new measure to evaluate transferability of learned representations, ICML 2020
- H-score: Bao and others, An information-theoretic approach to transferability in task transfer learning, ICIP 2019;
  with shrinkage: Ibrahim, Ponomareva and Mazumder, Newer is not always better, ECML PKDD 2022 (arXiv 2110.06893)
- neighbours: the weighted vote of Wu and others, CVPR 2018 (arXiv 1805.01978), section 3.4

No network is trained here. LogME, LEEP and the H-score see all images with their labels; the probe and the neighbours
score every image by others, of other subjects.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController

from ..datasets import image_table, k_folds

# A direction with less than this share of the strongest one's power is rounding: the power is a square, see
# `representations`.
RANK_CUT_OFF = 1e-10
# Within these shares of the strongest direction's power the precision of the weights over that of the noise is sought;
# beyond them the evidence is flat.
PRECISIONS = (1e-14, 1e10)
ITERATIONS = 10_000
STRENGTHS = tuple(10.0**power for power in range(-6, 2))  # of the probe's fit to the data: scikit-learn's C
NEIGHBOURS, TEMPERATURE = 20, 0.07


def transferability(auc, baseline):
    """What pretraining on a source changes on a target, in percent of the AUC without it: equation (1).

    Args:
        auc: AUC on the target after pretraining on the source, in [0, 1]; a number or an array.
        baseline: AUC on the target without transfer, in (0, 1]; a number or an array.

    Returns:
        float, or float64 array of the shape that the two broadcast to.

    Raises:
        ValueError: an AUC that is none.

    Example:

    ```python
    >>> transferability(0.99, 0.9)
    9.999999999999998
    ```
    """
    auc, baseline = np.asarray(auc, float), np.asarray(baseline, float)
    if not ((auc >= 0) & (auc <= 1)).all():
        raise ValueError(f"auc: received {auc.tolist()}, expected areas from 0 to 1")
    if not ((baseline > 0) & (baseline <= 1)).all():
        raise ValueError(f"baseline: received {baseline.tolist()}, expected areas above 0 and up to 1")
    return (auc - baseline) / baseline * 100


def log_maximum_evidence(features, labels):
    """LogME: the evidence for a Bayesian linear model of the labels, per image, maximised over its two precisions.

    For each class the labels (1 for the class, 0 for the others) are those of a linear model y = features · w + noise,
    w normal of precision α and the noise of precision β. The evidence p(y | features, α, β), w integrated out, is at
    its largest where the fixed point of You and others (algorithm 1) rests. Returned is the mean over classes of its
    logarithm over n.

    Args:
        features: (n, features) finite numbers; n may be less than the number of features. Not centred: pooled
            activations as they are.
        labels: (n,) class numbers or names, of two classes at least.

    Returns:
        float, natural logarithm, higher is better. It compares networks on the same images and labels only.

    Raises:
        ValueError: lengths differ, features that are not finite or all 0, one class only.
    """
    features, labels, classes = _checked(features, labels)
    n = len(features)
    directions, powers = _directions(features)
    wanted = np.eye(classes)[labels]
    explained = (directions.T @ wanted) ** 2
    # What no direction explains: the squares of 0 and 1 are what they are.
    rest = np.maximum(wanted.sum(axis=0) - explained.sum(axis=0), 0)
    rest[rest < np.finfo(float).eps * n] = 0
    powers = powers[:, None]
    limits = [share * powers.max() for share in PRECISIONS]
    ratio = np.full(classes, powers.mean())  # α / β
    for _ in range(ITERATIONS):
        held = ratio / (ratio + powers)
        determined = (1 - held).sum(axis=0)  # γ, the number of weights that the data determine
        error = (explained * held**2).sum(axis=0) + rest
        size = (explained * powers / (ratio + powers) ** 2).sum(axis=0)
        undetermined = held.sum(axis=0) + n - len(powers)
        # A class that the features do not tell at all has no size: its weights are 0 for certain.
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.clip(np.nan_to_num(determined * error / (size * undetermined), nan=limits[1]), *limits)
        moved = np.abs(np.log(found / ratio)).max()
        ratio = found
        if moved < 1e-9:
            break
    # With β at its best for the ratio: β = n / misfit.
    misfit = (explained * ratio / (ratio + powers)).sum(axis=0) + rest
    evidence = n * np.log(n / misfit) - n - n * np.log(2 * np.pi) - np.log1p(powers / ratio).sum(axis=0)
    return float(evidence.mean() / (2 * n))


def leep(probabilities, labels):
    """LEEP: the mean log likelihood of the labels under a classifier put together from the source's own classes.

    The network's probabilities of its source classes z, whatever these are, give the joint distribution of z and the
    label y over the images, this gives P(y | z), and an image's label has the probability Σ_z P(y | z) p(z | image).

    Args:
        probabilities: (n, source classes) of the network's own head, each row of sum 1. A single sigmoid p is the two
            columns 1 - p and p.
        labels: (n,) class numbers or names, of two classes at least.

    Returns:
        float, natural logarithm, at most 0, higher is better.

    Raises:
        ValueError: lengths differ, rows that are no probabilities, one class only.
    """
    probabilities, labels, classes = _checked(probabilities, labels, "probabilities")
    wrong = np.flatnonzero((probabilities < 0).any(axis=1) | (np.abs(probabilities.sum(axis=1) - 1) > 1e-3))
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"probabilities: received a row {row} from {probabilities[row].min():g} of sum "
            f"{probabilities[row].sum():g}, expected shares of sum 1"
        )
    joint = np.eye(classes)[labels].T @ probabilities
    # A source class that no image has any part in says nothing of the labels.
    total = joint.sum(axis=0)
    conditional = joint / np.where(total > 0, total, 1)
    return float(np.log((probabilities * conditional[labels]).sum(axis=1)).mean())


def h_score(features, labels, shrinkage=False):
    """H-score: how far the classes' mean features lie apart, in units of the features' covariance.

    The trace of cov(features)⁻¹ cov(class mean of the features), equation (3) of Bao and others; from 0 (the classes
    have the same mean) to the number of classes - 1. With no more images than features it is the latter of any
    features whatever, so that it is refused there. With `shrinkage` the covariance is drawn towards a multiple of the
    identity as far as Ledoit and Wolf (2004) estimate, and the classes' with it, as by Ibrahim and others: this one
    also ranks networks on few images.

    Args:
        features: (n, features) finite numbers.
        labels: (n,) class numbers or names, of two classes at least.
        shrinkage: whether to shrink the covariance.

    Returns:
        float, at least 0, higher is better.

    Raises:
        ValueError: lengths differ, features that are not finite or that do not vary, one class only, or without
            shrinkage no more images than features.
    """
    features, labels, classes = _checked(features, labels)
    n, count = features.shape
    if n <= count and not shrinkage:
        raise ValueError(
            f"features: received {n} images of {count} features, expected more images than features, or shrinkage=True"
        )
    features = features - features.mean(axis=0)
    directions, powers = _directions(features)
    members = np.eye(classes)[labels]
    # Of each direction the share of its power that lies between the classes' means.
    between = ((members.T @ directions) ** 2 / members.sum(axis=0)[:, None]).sum(axis=0)
    if not shrinkage:
        return float(between.sum())
    share = _ledoit_wolf(features, powers)
    variances = powers / n
    shrunk = (1 - share) * variances + share * variances.sum() / count
    return float(((1 - share) * variances * between / shrunk).sum())


def neighbour_scores(features, labels, subjects=None, folds=5, seed=0):
    """Probabilities of the classes by the 20 nearest neighbours, for each image among those of other subjects.

    Near are features of a high cosine, each of mean 0 and deviation 1 in the part that is voted with; a neighbour's
    vote weighs exp(cosine / 0.07).

    Args:
        features: (n, features) finite numbers.
        labels: (n,) class numbers or names, of two classes at least.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        folds: number of parts; an image of one is voted on by the images of the others.
        seed: of the parts, which are those of `medzoo.datasets.k_folds`: by subject, stratified by class.

    Returns:
        float64 (n, classes), each row of sum 1, classes in sorted order.

    Raises:
        ValueError: lengths differ, features that are not finite, one class only, a class of fewer subjects than parts.
    """
    features, encoded, classes = _checked(features, labels)
    parts = subject_folds(encoded, subjects, folds, seed)
    scores = np.zeros((len(features), classes))
    for part in range(folds):
        scored, others = parts == part, parts != part
        scaled = _standardised(features, others)
        scaled /= np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), np.finfo(float).tiny)
        cosines = scaled[scored] @ scaled[others].T
        # Stable, so that of equally near images the first ones count.
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
        weights = np.exp((np.take_along_axis(cosines, nearest, axis=1) - 1) / TEMPERATURE)
        votes = (weights[..., None] * np.eye(classes)[encoded[others][nearest]]).sum(axis=1)
        scores[scored] = votes / votes.sum(axis=1, keepdims=True)
    return scores


def probe_scores(features, labels, subjects=None, folds=5, seed=0):
    """Probabilities of the classes by a linear probe, for each image by one that has seen other subjects only.

    Logistic regression (multinomial, L2) on features of mean 0 and deviation 1 in the part that it is fitted to. How
    strong its regularisation is (C of 1e-6 to 10) is chosen in the parts that it is fitted to: each of them is scored
    by a probe fitted to the others of them, and the strength of the least mean log loss is taken.

    Args:
        features: (n, features) finite numbers.
        labels: (n,) class numbers or names, of two classes at least.
        subjects: (n,) names of the subject of each image, or None when every image is its own.
        folds: number of parts, 3 or more.
        seed: of the parts, which are those of `medzoo.datasets.k_folds`: by subject, stratified by class.

    Returns:
        float64 (n, classes), each row of sum 1, classes in sorted order.

    Raises:
        ValueError: lengths differ, features that are not finite, one class only, a class of fewer subjects than parts,
            fewer parts than 3.

    Example:

    ```python
    scores = probe_scores(features, labels, table["subject"])
    auc(labels, scores[:, 1], table["subject"])
    ```
    """
    features, encoded, classes = _checked(features, labels)
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 3:
        raise ValueError(f"folds: received {folds!r}, expected a whole number from 3: one scores, two choose")
    parts = subject_folds(encoded, subjects, folds, seed)
    losses = np.zeros((folds, len(STRENGTHS)))
    # The probe that has seen neither of two parts chooses for the one by its loss on the other.
    for first, second in combinations(range(folds), 2):
        seen = (parts != first) & (parts != second)
        for index, scores in enumerate(_fits(features, encoded, classes, seen, STRENGTHS)):
            likelihood = np.maximum(scores[np.arange(len(scores)), encoded], np.finfo(float).tiny)
            losses[first, index] -= np.log(likelihood[parts == second]).sum()
            losses[second, index] -= np.log(likelihood[parts == first]).sum()
    result = np.zeros((len(features), classes))
    for part in range(folds):
        strength = STRENGTHS[losses[part].argmin()]
        (scores,) = _fits(features, encoded, classes, parts != part, [strength])
        result[parts == part] = scores[parts == part]
    return result


def _fits(features, labels, classes, seen, strengths):
    """Probabilities (n, classes) of all images by the probe fitted to those seen, for each strength in turn."""
    scaled = _standardised(features, seen)
    if len(scaled) < scaled.shape[1]:
        # The weights are a combination of the images seen, so that coordinates in their span lose nothing.
        products = scaled @ scaled[seen].T
        powers, vectors = np.linalg.eigh(products[seen])
        kept = powers > RANK_CUT_OFF * powers[-1]
        scaled = products @ (vectors[:, kept] / np.sqrt(powers[kept]))
    probe, threads = LogisticRegression(max_iter=1000, warm_start=True), ThreadpoolController()
    for strength in strengths:
        # Thousands of small products: threads would wait for each other, twice as long and more on a busy machine.
        with threads.limit(limits=1):
            probe.set_params(C=strength).fit(scaled[seen], labels[seen])
        scores = np.zeros((len(features), classes))
        scores[:, probe.classes_] = probe.predict_proba(scaled)
        yield scores


def _standardised(features, seen):
    """Features of mean 0 and deviation 1 among the images seen; those that do not vary there are left out."""
    mean, deviation = features[seen].mean(axis=0), features[seen].std(axis=0)
    varying = deviation > 1e-6 * np.abs(features[seen]).max(axis=0)
    if not varying.any():
        raise ValueError(f"features: received {features.shape[1]} that do not vary, expected some that do")
    return (features[:, varying] - mean[varying]) / deviation[varying]


def _directions(features):
    """Directions (n, k) in which the images differ, orthonormal, and their powers (k,): F Fᵀ = U diag(powers) Uᵀ."""
    if len(features) <= features.shape[1]:
        powers, directions = np.linalg.eigh(features @ features.T)
        kept = powers > RANK_CUT_OFF * powers[-1]
        directions = directions[:, kept]
    else:
        powers, axes = np.linalg.eigh(features.T @ features)
        kept = powers > RANK_CUT_OFF * powers[-1]
        directions = features @ (axes[:, kept] / np.sqrt(powers[kept]))
    if not powers[-1] > 0:
        raise ValueError(f"features: received {features.shape[1]} that do not vary, expected some that do")
    return directions, powers[kept]


def _ledoit_wolf(features, powers):
    """How far to shrink the covariance of centred features, in [0, 1]: lemma 3.1 to 3.4 of Ledoit and Wolf (2004)."""
    n, count = features.shape
    variances = powers / n
    distance = (variances**2).sum() - variances.sum() ** 2 / count
    error = (((features**2).sum(axis=1) ** 2).sum() / n - (variances**2).sum()) / n
    return float(np.clip(error / distance, 0, 1)) if distance > 0 else 1.0


def subject_folds(encoded, subjects, folds, seed):
    """The part in which the probe and the neighbours score each image, those of `medzoo.datasets.k_folds`.

    Args:
        encoded: (n,) class numbers from 0, each of which occurs.
        subjects, folds, seed: as for `probe_scores`.

    Returns:
        (n,) integers in [0, folds).

    Raises:
        ValueError: lengths differ, a class of fewer subjects than parts.
    """
    names = np.arange(len(encoded)) if subjects is None else np.ravel(np.asarray(subjects))
    if len(names) != len(encoded):
        raise ValueError(f"labels and subjects differ in length: received {len(encoded)} labels, {len(names)} subjects")
    rows = [
        {"image": f"{index:09d}", "subject": f"{name}", "label": f"{label}"}
        for index, (name, label) in enumerate(zip(names, encoded, strict=True))
    ]
    table = image_table(rows, "features", ".", sorted({row["label"] for row in rows}), "named")
    return k_folds(table, folds, seed)["fold"].to_numpy()


def _checked(values, labels, name="features"):
    """Values as float64 (n, k), labels as class numbers (n,) and the number of classes, or what is wrong with them."""
    values, labels = np.asarray(values), np.asarray(labels)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{name}: received shape {values.shape}, expected one row an image")
    labels = labels.reshape(-1)
    if len(labels) != len(values):
        raise ValueError(f"{name} and labels differ in length: received {len(values)} images and {len(labels)} labels")
    values = values.astype("float64")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{name}: received {len(bad)} values that are not finite, the first in row {row}, column {column}; "
            "expected finite numbers"
        )
    if pd.isna(labels).any():
        raise ValueError(f"labels: received {pd.isna(labels).sum()} that are missing, expected a class for each image")
    classes, encoded = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels: received one class only ({classes[0]}), expected two or more")
    return values, encoded, len(classes)
