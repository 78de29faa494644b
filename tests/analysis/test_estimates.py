"""Estimates of transferability: against hand-worked numbers, direct maximisation and second libraries."""

import numpy as np
import pytest
from medzoo import analysis
from medzoo.analysis import auc, estimates, h_score, leep, log_maximum_evidence, neighbour_scores, probe_scores
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ESTIMATES = {
    "LogME": log_maximum_evidence,
    "H-score": lambda features, labels: h_score(features, labels, shrinkage=True),
    "neighbours": neighbour_scores,
    "probe": lambda features, labels: probe_scores(features, labels, folds=3),
}


def clusters(n=90, count=12, classes=3, distance=2.0, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    features = random.normal(size=(n, count)) * random.uniform(0.2, 3, count)
    features[:, :classes] += distance * np.eye(classes)[labels]
    return features, labels


def test_transferability_is_the_relative_change_in_percent():
    # ImageNet to ISIC in the study's folds: (0.9463 - 0.9073) / 0.9073 = 4.30 %.
    assert analysis.transferability(0.9463, 0.9073) == pytest.approx(4.298, abs=5e-4)
    assert analysis.transferability([0.6, 0.9], [0.8, 0.9]) == pytest.approx([-25, 0])
    for wrong in ((1.2, 0.5), (0.5, 0.0), (float("nan"), 0.5)):
        with pytest.raises(ValueError, match="expected areas"):
            analysis.transferability(*wrong)


@pytest.mark.parametrize(("n", "count", "noise"), [(40, 8, 0.5), (30, 40, 0.5), (30, 10, 5), (50, 20, 0.1)])
def test_the_evidence_is_what_direct_maximisation_finds(n, count, noise):
    random = np.random.default_rng(count)
    features = random.normal(size=(n, count)) * random.uniform(0.2, 3, count)
    labels = (features[:, 0] + noise * random.normal(size=n) > 0).astype(int)

    def largest(wanted):
        def negative(logarithms):
            weights, precision = np.exp(np.clip(logarithms, -30, 30))
            covariance = np.eye(n) / precision + features @ features.T / weights
            return -multivariate_normal(np.zeros(n), covariance).logpdf(wanted)

        options = {"xatol": 1e-6, "fatol": 1e-8, "maxiter": 2000}
        return max(-minimize(negative, start, method="Nelder-Mead", options=options).fun for start in ((4, 2), (0, 0)))

    expected = np.mean([largest(labels == label) for label in (0, 1)]) / n
    assert log_maximum_evidence(features, labels) == pytest.approx(expected, abs=1e-5)


def test_the_evidence_is_finite_at_both_ends():
    # As many features as images explain any label; constant features know nothing beyond the classes' frequencies.
    random = np.random.default_rng(1)
    assert np.isfinite(log_maximum_evidence(random.normal(size=(20, 20)), np.arange(20) % 2))
    assert np.isfinite(log_maximum_evidence(np.eye(20), np.arange(20) % 2))
    constant = log_maximum_evidence(np.ones((20, 3)), np.arange(20) % 2)
    assert np.isfinite(constant)
    features = np.concatenate([np.ones((20, 1)), (np.arange(20) % 2)[:, None]], axis=1)
    assert log_maximum_evidence(features + 1e-3 * random.normal(size=(20, 2)), np.arange(20) % 2) > constant + 1


def test_leep_by_hand():
    # P(y=0 | z): z0 (0.9 + 0.3) / (0.9 + 0.3 + 0.2) = 6/7, z1 (0.1 + 0.7) / (0.1 + 0.7 + 0.8) = 1/2.
    probabilities, labels = [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]], [0, 0, 1]
    likelihoods = [0.9 * 6 / 7 + 0.1 / 2, 0.3 * 6 / 7 + 0.7 / 2, 0.2 * 1 / 7 + 0.8 / 2]
    assert leep(probabilities, labels) == pytest.approx(np.log(likelihoods).mean())
    # A source that knows the classes by another name is certain; one that says the same of all knows their frequencies.
    assert leep([[0, 1.0], [0, 1], [1, 0]], labels) == 0
    assert leep([[0, 1.0]] * 3, labels) == pytest.approx((2 * np.log(2 / 3) + np.log(1 / 3)) / 3)


def test_h_score_is_the_trace_of_two_covariances():
    features, labels = clusters()
    means = np.stack([features[labels == label].mean(axis=0) for label in labels])
    expected = np.trace(np.linalg.solve(np.cov(features.T), np.cov(means.T)))
    assert h_score(features, labels) == pytest.approx(expected)
    # Canonical correlations with the classes, by the eigenvalues of discriminant analysis: λ / (1 + λ).
    ratios = LinearDiscriminantAnalysis(solver="eigen").fit(features, labels).scalings_[:, :2]
    projected, between = features @ ratios, means @ ratios
    assert h_score(features, labels) == pytest.approx((between.var(axis=0) / projected.var(axis=0)).sum())
    # Neither scale nor direction of the features matters.
    turned = features @ np.random.default_rng(0).normal(size=(12, 12)) + 5
    assert h_score(turned, labels) == pytest.approx(expected)


@pytest.mark.parametrize("count", [12, 200])
def test_h_score_shrinks_as_ledoit_and_wolf_do(count):
    features, labels = clusters(count=count)
    covariance, share = ledoit_wolf(features)
    means = np.stack([features[labels == label].mean(axis=0) for label in labels])
    expected = (1 - share) * np.trace(np.linalg.solve(covariance, np.cov(means.T, bias=True)))
    assert h_score(features, labels, shrinkage=True) == pytest.approx(expected)
    assert 0 < share < 1


def test_h_score_of_no_more_images_than_features_is_refused_without_shrinkage():
    with pytest.raises(ValueError, match="received 90 images of 90 features, expected more images"):
        h_score(*clusters(count=90))


def test_a_probe_is_logistic_regression_of_other_parts():
    """With every part's strength known the scores are those of scikit-learn, fitted part by part."""
    features, labels = clusters(distance=3)
    found = probe_scores(features, labels, folds=3)
    parts = estimates.subject_folds(labels, None, 3, 0)
    for part in range(3):
        others = parts != part
        candidates = [
            make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000, tol=1e-6))
            .fit(features[others], labels[others])
            .predict_proba(features[~others])
            for strength in estimates.STRENGTHS
        ]
        assert min(np.abs(found[~others] - each).max() for each in candidates) < 0.01
    assert found.sum(axis=1) == pytest.approx(1)
    assert (found.argmax(axis=1) == labels).mean() > 0.6


def test_more_features_than_images_change_nothing_but_the_way():
    # Features repeated 20 times are the same features with their regularisation divided by 20.
    features, labels = clusters(distance=3)
    features = features / features.std(axis=0)
    many = np.tile(features, 20)
    seen = np.arange(90) < 60
    (few,) = estimates._fits(features, labels, 3, seen, [0.02])
    (all_of_them,) = estimates._fits(many, labels, 3, seen, [0.001])
    assert few == pytest.approx(all_of_them, abs=2e-3)


def test_regularisation_is_chosen_without_the_part_that_is_scored(monkeypatch):
    """Labels of one part turned over: the scores of that part do not change."""
    features, labels = clusters(classes=2, n=60)
    parts = estimates.subject_folds(labels, None, 3, 0)
    turned = np.where(parts == 0, 1 - labels, labels)
    # The parts are drawn by class, and turned labels would draw others.
    monkeypatch.setattr(estimates, "subject_folds", lambda *_: parts)
    before, after = probe_scores(features, labels, folds=3), probe_scores(features, turned, folds=3)
    near_before, near_after = (neighbour_scores(features, each, folds=3) for each in (labels, turned))
    assert np.array_equal(before[parts == 0], after[parts == 0])
    assert not np.array_equal(before[parts == 1], after[parts == 1])
    assert np.array_equal(near_before[parts == 0], near_after[parts == 0])


def test_subjects_are_never_on_both_sides():
    """Every subject has its own feature, and all its images its label: known subjects would be told perfectly."""
    random = np.random.default_rng(0)
    subjects = np.repeat(np.arange(40), 4)
    labels = random.permutation(np.arange(40) % 2)[subjects]
    features = 10 * random.normal(size=(40, 30))[subjects] + random.normal(size=(160, 30))
    for scores in (probe_scores, neighbour_scores):
        assert auc(labels, scores(features, labels, folds=3)[:, 1]).value > 0.85
        assert auc(labels, scores(features, labels, subjects, folds=3)[:, 1], subjects, resamples=10).value < 0.7


def test_neighbours_vote_by_their_cosine():
    # Two clusters of directions; within a part of 2/3 of 60 images the 20 nearest are those of the cluster.
    random = np.random.default_rng(0)
    labels = np.array(["a", "b"])[np.arange(60) % 2]
    centres = np.where(labels == "a", 1.0, -1.0)[:, None] * [1, 1, 0]
    scores = neighbour_scores(centres + 0.05 * random.normal(size=(60, 3)), labels, folds=3)
    assert scores.shape == (60, 2)
    assert (scores[labels == "a", 0] > 0.99).all()
    assert (scores[labels == "b", 1] > 0.99).all()


def test_folds_are_those_of_the_datasets_and_scores_come_again():
    features, labels = clusters(n=45)
    for scores in (probe_scores, neighbour_scores):
        once = scores(features, labels, folds=3)
        assert np.array_equal(once, scores(features, labels, folds=3))
        assert not np.array_equal(once, scores(features, labels, folds=3, seed=1))
        with pytest.raises(ValueError, match="class '0' has 3 subjects, expected at least one for each of 5"):
            scores(features[:8], labels[:8])


@pytest.mark.parametrize("name", ESTIMATES)
def test_better_features_score_higher(name):
    values = []
    for distance in (0, 4):
        features, labels = clusters(n=60, distance=distance)
        value = ESTIMATES[name](features, labels)
        values.append((value.argmax(axis=1) == labels).mean() if np.ndim(value) else value)
    assert values[1] > values[0]


@pytest.mark.parametrize("name", [*ESTIMATES, "LEEP"])
def test_what_does_not_fit_is_refused(name):
    estimate = ESTIMATES.get(name, leep)
    values = np.full((6, 2), 0.5)
    values[:3] = [0.25, 0.75]
    with pytest.raises(ValueError, match="one class only"):
        estimate(values, [1] * 6)
    with pytest.raises(ValueError, match="differ in length: received 6 images and 5 labels"):
        estimate(values, [0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match="1 that are missing"):
        estimate(values, np.array([0, 1, 0, 1, 0, np.nan]))
    values[4, 1] = np.nan
    with pytest.raises(ValueError, match="the first in row 4, column 1"):
        estimate(values, [0, 1, 0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"received shape \(6,\)"):
        estimate(values[:, 0], [0, 1, 0, 1, 0, 1])


def test_rows_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match=r"a row 1 from 0\.5 of sum 1\.1, expected shares"):
        leep([[0.5, 0.5], [0.5, 0.6]], [0, 1])


@pytest.mark.parametrize("scores", [probe_scores, neighbour_scores])
def test_features_that_do_not_vary_and_subjects_that_do_not_fit_are_refused(scores):
    with pytest.raises(ValueError, match="2 that do not vary"):
        scores(np.ones((10, 2)), np.arange(10) % 2)
    with pytest.raises(ValueError, match="10 labels, 9 subjects"):
        scores(np.random.default_rng(0).normal(size=(10, 2)), np.arange(10) % 2, np.arange(9))
    with pytest.raises(ValueError, match="folds"):
        scores(np.ones((10, 2)), np.arange(10) % 2, folds=1)
