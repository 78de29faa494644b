"""One-against-rest AUC of several classes against scikit-learn, its interval against simulation."""

import numpy as np
import pytest
from medzoo.analysis import auc, compare_weighted, weighted_auc
from sklearn.metrics import roc_auc_score


def draw(n, classes, strength=1.0, seed=0):
    """Labels of unequal frequency, and probabilities that know something of them."""
    random = np.random.default_rng(seed)
    labels = random.choice(classes, n, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    scores = random.normal(size=(n, classes))
    scores[np.arange(n), labels] += strength
    return labels, np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


def reference(labels, probabilities):
    return roc_auc_score(labels, probabilities, multi_class="ovr", average="weighted")


def test_value_is_that_of_scikit_learn():
    labels, probabilities = draw(200, 4)
    found = weighted_auc(labels, probabilities, resamples=50)
    assert found.value == pytest.approx(reference(labels, probabilities))
    assert found.low < found.value < found.high
    assert found.n == 200


def test_folds_are_scored_apart():
    """A fold whose scores are all raised changes nothing, though it would in a pooled AUC."""
    labels, probabilities = draw(300, 3)
    folds = np.arange(300) % 3
    shifted = probabilities + 5 * folds[:, None] * np.array([1, 0, 0])
    expected = np.mean([reference(labels[folds == each], probabilities[folds == each]) for each in range(3)])
    for scores in (probabilities, shifted):
        assert weighted_auc(labels, scores, folds=folds, resamples=10).value == pytest.approx(expected)
    assert weighted_auc(labels, shifted, resamples=10).value != pytest.approx(expected, abs=0.01)


def test_two_classes_are_the_usual_auc():
    labels, probabilities = draw(150, 2)
    expected = auc(labels, probabilities[:, 1], method="bootstrap")
    for scores in (probabilities, probabilities[:, 1], probabilities[:, 1:]):
        found = weighted_auc(labels, scores)
        assert found.value == pytest.approx(expected.value)
        assert found.low == pytest.approx(expected.low, abs=0.01)
        assert found.high == pytest.approx(expected.high, abs=0.01)


def test_the_interval_covers_as_often_as_it_says():
    large = reference(*draw(200_000, 3, 0.7, seed=99))
    covered = 0
    for seed in range(150):
        found = weighted_auc(*draw(120, 3, 0.7, seed), resamples=200)
        covered += found.low <= large <= found.high
    assert 0.89 < covered / 150 <= 0.99


def test_images_of_one_subject_widen_the_interval():
    labels, probabilities = (np.repeat(each, 5, axis=0) for each in draw(60, 3))
    alone = weighted_auc(labels, probabilities)
    together = weighted_auc(labels, probabilities, subjects=np.repeat(np.arange(60), 5))
    assert together.high - together.low > 1.8 * (alone.high - alone.low)


def test_perfect_separation_has_an_interval():
    labels = np.arange(60) % 3
    found = weighted_auc(labels, np.eye(3)[labels])
    assert found.value == found.high == 1
    # Newcombe's of 20 against 40, worked by `auc` on two classes.
    assert found.low == pytest.approx(auc((labels == 0).astype(int), (labels == 0).astype(float)).low)


def test_comparison_is_paired():
    labels, better = draw(200, 3, 2.0)
    worse = 0.5 * better + 0.5 * draw(200, 3, 0.0, seed=1)[1]
    found = compare_weighted(labels, better, worse)
    assert found.difference == pytest.approx(reference(labels, better) - reference(labels, worse))
    assert found.low < found.difference < found.high
    assert found.p_value < 0.01
    assert compare_weighted(labels, better, better) == (0, 0, 0, 1)


def test_what_cannot_be_scored():
    labels, probabilities = draw(30, 3)
    with pytest.raises(ValueError, match="received 29 and 30 images"):
        weighted_auc(labels[1:], probabilities)
    with pytest.raises(ValueError, match="for 2 columns of probabilities, expected class indices from 0 to 1"):
        weighted_auc(labels, probabilities[:, :2])
    with pytest.raises(ValueError, match="received 1 images with values that are not finite"):
        weighted_auc(labels, np.where(np.arange(30)[:, None] == 3, np.nan, probabilities))
    with pytest.raises(ValueError, match="received class 0 only"):
        weighted_auc(np.zeros(30, int), probabilities)
    with pytest.raises(ValueError, match="30 and 29 images"):
        weighted_auc(labels, probabilities, folds=np.zeros(29))
