"""ROC numbers against R: pROC 1.18.0 and auRoc 0.2-1, run on the scores that `rated()` makes."""

import numpy as np
import pytest
from medzoo.analysis import (
    accuracy,
    auc,
    compare_bootstrap_wilcoxon,
    compare_delong,
    compare_means,
    mean_auc,
    mean_label_auc,
    operating_point,
    rates_at,
    roc_curve,
)
from scipy.stats import binom, binomtest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve


def rated():
    """60 images, 21 positive, and three scores with many ties; whole-number arithmetic, the same in R.

    R: i <- 0:59; y <- as.integer((i * 7) %% 20 < 7); a <- (i * 37) %% 61 %/% 4 + 5 * y
       b <- (i * 23) %% 59 %/% 6 + 2 * y; c <- (i * 43) %% 59 %/% 5 + 8 * y
    """
    i = np.arange(60)
    labels = (i * 7 % 20 < 7).astype(int)
    scores = {
        "a": i * 37 % 61 // 4 + 5 * labels,
        "b": i * 23 % 59 // 6 + 2 * labels,
        "c": i * 43 % 59 // 5 + 8 * labels,
    }
    return labels, scores


@pytest.mark.parametrize(
    ("name", "value", "low", "high"),
    [  # R: library(pROC); as.numeric(ci.auc(roc(y, a, direction = "<")))
        ("a", 0.714896214896, 0.578665439707, 0.851126990085),
        ("b", 0.704517704518, 0.568018530847, 0.841016878188),
        ("c", 0.940170940171, 0.886995252597, 0.993346627745),
    ],
)
def test_auc_and_delong_interval_are_those_of_proc(name, value, low, high):
    labels, scores = rated()
    assert auc(labels, scores[name]) == pytest.approx((value, low, high, 60), abs=1e-11)


def test_level_of_the_interval_is_that_of_proc():
    labels, scores = rated()  # R: ci.auc(roc(y, a, direction = "<"), conf.level = 0.9)
    assert auc(labels, scores["a"], level=0.9)[1:3] == pytest.approx((0.600567744353, 0.829224685439), abs=1e-11)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [  # R: set.seed(1); ci.auc(roc(y, a, direction = "<"), method = "bootstrap", boot.n = 100000)
        ("a", 0.571428571429, 0.839438339438),
        ("b", 0.562271062271, 0.830891330891),
        ("c", 0.877289377289, 0.982905982906),
    ],
)
def test_bootstrap_interval_is_that_of_proc(name, low, high):
    labels, scores = rated()
    interval = auc(labels, scores[name], method="bootstrap", resamples=20000)
    assert interval[1:3] == pytest.approx((low, high), abs=0.004)


def test_ratings_of_hanley_and_mcneil():
    """Hanley and McNeil, Radiology 143:29, 1982, table I: 109 CT images rated 1 to 5, area 0.893."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    scores = np.concatenate([np.repeat(range(1, 6), normal), np.repeat(range(1, 6), abnormal)])
    labels = np.repeat([0, 1], [58, 51])
    interval = auc(labels, scores)
    assert round(interval.value, 3) == 0.893
    # R: ci.auc(roc(labels, scores, direction = "<"))
    assert interval[1:] == pytest.approx((0.832952327658, 0.953389795398, 109), abs=1e-11)


@pytest.mark.parametrize(
    ("first", "second", "z_p_low_high"),
    [  # R: t <- roc.test(roc(y, a), roc(y, b), method = "delong", paired = TRUE); c(t$p.value, t$conf.int)
        ("a", "b", (0.9295371478211, -0.2196582634543, 0.2404152842114)),
        ("c", "a", (0.00265134511894, 0.07836783825031, 0.37218161229914)),
        ("c", "b", (0.000231616436619, 0.110205063045949, 0.361101408260523)),
    ],
)
def test_paired_delong_test_is_that_of_proc(first, second, z_p_low_high):
    labels, scores = rated()
    result = compare_delong(labels, scores[first], scores[second])
    assert (result.p_value, result.low, result.high) == pytest.approx(z_p_low_high, abs=1e-11)
    assert result.difference == pytest.approx(
        roc_auc_score(labels, scores[first]) - roc_auc_score(labels, scores[second]), abs=1e-12
    )
    turned = compare_delong(labels, scores[second], scores[first])
    assert turned == pytest.approx((-result.difference, -result.high, -result.low, result.p_value))


@pytest.mark.parametrize(
    ("positive", "negative", "level", "low"),
    [  # R: auRoc::auc.nonpara.mw(x, y, conf.level, method = "newcombe"), x and y perfectly separated
        (2, 3, 0.95, 0.438912389096),
        (20, 40, 0.95, 0.924677995106),
        (20, 40, 0.9, 0.946947545564),
        (43, 87, 0.95, 0.965725380795),
    ],
)
@pytest.mark.parametrize("method", ["delong", "bootstrap"])
def test_perfect_separation_has_newcombes_interval(method, positive, negative, level, low):
    labels = np.repeat([0, 1], [negative, positive])
    scores = np.arange(len(labels))
    interval = auc(labels, scores, level=level, method=method, resamples=50)
    assert interval == pytest.approx((1, low, 1, len(labels)), abs=1e-9)
    assert auc(labels, -scores, level=level, method=method, resamples=50)[:3] == pytest.approx(
        (0, 0, 1 - low), abs=1e-9
    )


@pytest.mark.parametrize("method", ["delong", "bootstrap"])
def test_equal_scores_do_not_pretend_to_certainty(method):
    labels = np.repeat([0, 1], [40, 20])  # auRoc: auc.nonpara.mw(rep(1, 20), rep(1, 40), method = "newcombe")
    assert auc(labels, np.ones(60), method=method, resamples=50)[:3] == pytest.approx(
        (0.5, 0.352150708346, 0.647849291654), abs=1e-9
    )


def test_one_positive_image_has_newcombes_interval():
    # DeLong's variance needs two. R, the polynomial of auRoc's getAUCCImwu: roots 0.100160749110, 0.899839250890
    assert auc([0, 0, 1, 0, 0], [1, 2, 3, 4, 5])[:3] == pytest.approx((0.5, 0.100160749110, 0.899839250890), abs=1e-9)


def test_images_copied_within_subjects_add_no_certainty():
    """Ten copies of each image under one subject carry the information of the single images."""
    labels, scores = rated()
    copies = np.repeat(np.arange(60), 10)
    single = auc(labels, scores["b"], method="bootstrap", resamples=500, seed=3)
    for method in ("delong", "bootstrap"):
        copied = auc(labels[copies], scores["b"][copies], subjects=copies, method=method, resamples=500, seed=3)
        assert copied == pytest.approx((*single[:3], 600))
    ignorant = auc(labels[copies], scores["b"][copies])
    assert ignorant.high - ignorant.low < 0.4 * (single.high - single.low)


def test_copied_images_leave_the_comparison_by_subject_as_it_was():
    labels, scores = rated()
    copies = np.repeat(np.arange(60), 3)
    single = compare_delong(labels, scores["c"], scores["a"])
    copied = compare_delong(labels[copies], scores["c"][copies], scores["a"][copies], subjects=copies)
    assert copied == pytest.approx(single, abs=1e-12)


def subjects_of_both_classes():
    """17 subjects of 60 images: 8 with benign images only, 3 with malignant ones only, 6 with both."""
    labels, scores = rated()
    subjects = np.arange(60) * 7 % 20
    subjects = np.where(np.arange(60) % 4 == 0, subjects + 100, subjects)
    subjects[:12] = np.repeat([200, 201, 202, 203], 3)
    return labels, scores, subjects


def drawn_by_hand(labels, subjects, resamples, seed):
    """Indices of images of whole subjects, drawn one by one, within subjects of the same classes."""
    random = np.random.default_rng(seed)
    members = {subject: np.flatnonzero(subjects == subject) for subject in np.unique(subjects)}
    strata = {}
    for subject, images in members.items():
        strata.setdefault(tuple(sorted(set(labels[images]))), []).append(subject)
    assert len(strata) == 3
    for _ in range(resamples):
        yield np.concatenate(
            [members[drawn] for stratum in strata.values() for drawn in random.choice(stratum, len(stratum))]
        )


def test_bootstrap_draws_whole_subjects_by_class():
    labels, scores, subjects = subjects_of_both_classes()
    areas = [
        roc_auc_score(labels[images], scores["b"][images]) for images in drawn_by_hand(labels, subjects, 3000, seed=11)
    ]
    interval = auc(labels, scores["b"], subjects=[f"patient {subject}" for subject in subjects], resamples=3000)
    assert interval[1:3] == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=0.015)


def test_comparison_by_subject_has_the_spread_of_the_bootstrap():
    labels, scores, subjects = subjects_of_both_classes()
    differences = [
        roc_auc_score(labels[images], scores["c"][images]) - roc_auc_score(labels[images], scores["b"][images])
        for images in drawn_by_hand(labels, subjects, 3000, seed=12)
    ]
    result = compare_delong(labels, scores["c"], scores["b"], subjects=subjects)
    # Obuchowski's variance holds numbers of subjects for given, not those of each stratum: alike, not equal.
    assert (result.high - result.low) / (2 * 1.96) == pytest.approx(np.std(differences), rel=0.25)


def test_the_seed_decides():
    labels, scores = rated()
    first, again, other = (auc(labels, scores["a"], method="bootstrap", resamples=200, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_roc_curve_is_that_of_sklearn():
    labels, scores = rated()
    curve = roc_curve(labels, scores["a"])
    expected = sklearn_roc_curve(labels, scores["a"], drop_intermediate=False)
    for ours, theirs in zip(curve, expected, strict=True):
        np.testing.assert_allclose(ours, theirs)


@pytest.mark.parametrize(
    ("name", "threshold", "values"),
    [  # R: coords(roc(y, b, direction = "<"), "best", best.method = "closest.topleft")
        ("a", (8.5, 9), (0.6, 0.666666666667, 0.564102564103)),
        ("b", (5.5, 6), (0.633333333333, 0.619047619048, 0.641025641026)),
        ("c", (8.5, 9), (0.816666666667, 0.952380952381, 0.74358974359)),
    ],
)
def test_operating_point_is_that_of_proc(name, threshold, values):
    labels, scores = rated()
    point = operating_point(labels, scores[name], resamples=20)
    # pROC cuts halfway between two scores, we at the upper one of the two.
    between, at = threshold
    assert point.threshold == at
    assert not np.any((scores[name] > between) & (scores[name] < at))
    assert [interval.value for interval in point[1:]] == pytest.approx(values, abs=1e-11)
    assert [interval.n for interval in point[1:]] == [60, 21, 39]


@pytest.mark.parametrize(
    ("name", "intervals"),
    [  # R: ci.coords(roc(y, b), "best", best.method = "closest.topleft", best.policy = "random", boot.n = 20000,
        #            ret = c("accuracy", "sensitivity", "specificity")): it chooses the point anew in each resample
        ("b", [(0.533333333, 0.783333333), (0.428571429, 0.857142857), (0.435897436, 0.871794872)]),
        ("c", [(0.766666667, 0.95), (0.714285714, 1), (0.666666667, 1)]),
    ],
)
def test_operating_point_intervals_are_those_of_proc(name, intervals):
    labels, scores = rated()
    point = operating_point(labels, scores[name], resamples=10000)
    for interval, expected, image in zip(point[1:], intervals, (1 / 60, 1 / 21, 1 / 39), strict=True):
        assert interval[1:3] == pytest.approx(expected, abs=1.01 * image)


def test_operating_point_prefers_sensitivity_among_equals():
    # Both (sensitivity 1, specificity 0.5) and (0.5, 1) lie half a unit away.
    point = operating_point([0, 1, 0, 1], [1, 2, 3, 4], resamples=20)
    assert (point.sensitivity.value, point.specificity.value, point.threshold) == (1.0, 0.5, 2.0)


def test_operating_point_of_perfect_separation_has_wilsons_interval():
    labels = np.repeat([0, 1], [40, 10])
    point = operating_point(labels, np.arange(50), resamples=50)
    # Wilson's bound for 10 of 10 is n / (n + z²) = 10 / (10 + 3.8415), for 40 of 40 it is 40 / 43.8415.
    assert point.sensitivity == pytest.approx((1, 0.722467, 1, 10), abs=1e-6)
    assert point.specificity == pytest.approx((1, 0.912378, 1, 40), abs=1e-6)
    assert point.accuracy == pytest.approx((1, 0.928652, 1, 50), abs=1e-6)
    by_subject = operating_point(labels, np.arange(50), subjects=np.arange(50) // 2, resamples=50)
    assert by_subject.sensitivity == pytest.approx((1, 5 / (5 + 3.841459), 1, 10), abs=1e-6)


def test_equal_rankings_do_not_differ():
    labels, scores = rated()
    assert compare_delong(labels, scores["a"], np.exp(0.1 * scores["a"])) == (0.0, 0.0, 0.0, 1.0)


def test_two_perfect_classifiers_may_still_differ():
    labels = np.repeat([0, 1], [40, 20])
    result = compare_delong(labels, np.arange(60), np.roll(np.arange(40), 1).tolist() + list(range(40, 60)))
    width = 1 - 0.924677995106  # the interval of each, as above
    assert result == pytest.approx((0, -width, width, 1), abs=1e-9)


def test_perfect_against_useless_scores():
    labels = np.repeat([0, 1], [40, 20])
    result = compare_delong(labels, np.arange(60), np.ones(60))
    # Square and add: down to 0.5 - sqrt((1 - 0.92468)² + (0.64785 - 0.5)²), up to 0.5 + (0.5 - 0.35215).
    assert result[:3] == pytest.approx((0.5, 0.334074, 0.647849), abs=1e-5)
    assert result.p_value == pytest.approx(3.2e-9, rel=0.1)  # z = 1.95996 * 0.5 / 0.165926 = 5.906
    assert compare_delong(labels, np.ones(60), np.arange(60)).p_value == pytest.approx(result.p_value)


def test_the_papers_comparison_calls_chance_significant_when_resamples_are_many():
    labels, scores = rated()
    assert compare_delong(labels, scores["a"], scores["b"]).p_value > 0.9
    results = [compare_bootstrap_wilcoxon(labels, scores["a"], scores["b"], resamples=n) for n in (30, 1000, 20000)]
    p_values = [result.p_value for result in results]
    assert p_values[0] > 0.05 > p_values[1] > 1e-10 > p_values[2]
    assert len({result.difference for result in results}) == 1
    assert results[2].low < 0 < results[2].high


@pytest.mark.parametrize(
    ("labels", "scores", "options", "message"),
    [
        ([0, 1, 1], [0.1, 0.2], {}, "differ in length: received 3 labels and 2 scores"),
        ([1, 1, 1], [0.1, 0.2, 0.3], {}, r"one class only \(3 × 1\)"),
        ([], [], {}, "labels are empty"),
        ([0, 1, 2], [0.1, 0.2, 0.3], {}, "received values 0, 1, 2, expected 0 and 1"),
        (["benign", "malignant"], [0.1, 0.2], {}, "received values benign, malignant, expected 0 and 1"),
        (
            [0, 1, 1],
            [0.1, float("nan"), float("inf")],
            {},
            r"2 values that are not finite, the first at index 1 \(nan\)",
        ),
        ([0, 1], [[0.1, 0.9], [0.2, 0.8]], {}, r"received shape \(2, 2\), expected one score per image"),
        ([0, 1], [0.1, 0.9], {"subjects": ["x"]}, "2 labels and 1 subjects"),
        ([0, 1], [0.1, 0.9], {"level": 95}, "level: received 95"),
        ([0, 1], [0.1, 0.9], {"method": "logit"}, "method: received 'logit', expected 'delong' or 'bootstrap'"),
        ([0, 1], [0.1, 0.9], {"method": "bootstrap", "resamples": 0}, "resamples: received 0"),
    ],
)
def test_bad_input_gets_one_line(labels, scores, options, message):
    with pytest.raises(ValueError, match=message) as error:
        auc(labels, scores, **options)
    assert "\n" not in str(error.value)


def test_comparisons_name_the_scores_at_fault():
    with pytest.raises(ValueError, match="b: received 1 values that are not finite"):
        compare_delong([0, 1], [0.1, 0.2], [0.1, np.nan])
    with pytest.raises(ValueError, match="labels and a differ in length"):
        compare_bootstrap_wilcoxon([0, 1], [0.1], [0.1, 0.2])


def test_columns_of_one_are_taken_as_models_give_them():
    labels, scores = rated()
    assert auc(labels[:, None].astype("int32"), scores["a"][:, None].astype("float32")) == auc(labels, scores["a"])


class TestTrainings:
    """Several trainings on the same images."""

    def scores(self):
        labels, scores = rated()
        return labels, np.stack([scores["a"], scores["b"], scores["c"]])

    def test_mean_and_deviation_are_those_of_the_exact_areas(self):
        labels, scores = self.scores()
        areas = [roc_auc_score(labels, row) for row in scores]
        result = mean_auc(labels, scores, resamples=100)
        assert (result.value, result.deviation) == pytest.approx((sum(areas) / 3, np.std(areas, ddof=1)), abs=1e-12)
        assert (result.n, result.trainings) == (60, 3)
        assert result.low < result.value < result.high

    @pytest.mark.parametrize("copies", [1, 3])
    def test_equal_trainings_have_the_bootstrap_interval_of_proc(self, copies):
        labels, scores = rated()
        result = mean_auc(labels, [scores["a"]] * copies, resamples=20000)
        # R: set.seed(1); ci.auc(roc(y, a, direction = "<"), method = "bootstrap", boot.n = 100000)
        assert result[1:3] == pytest.approx((0.571428571429, 0.839438339438), abs=0.01)
        assert result.deviation == (None if copies == 1 else 0)
        assert mean_auc(labels, scores["a"], resamples=20000)[:3] == result[:3]

    def test_resamples_are_the_same_for_all_trainings_and_of_whole_subjects(self):
        labels, scores, subjects = subjects_of_both_classes()
        rows = [scores["b"], scores["c"]]
        means = [
            np.mean([roc_auc_score(labels[images], row[images]) for row in rows])
            for images in drawn_by_hand(labels, subjects, 2000, seed=11)
        ]
        interval = mean_auc(labels, rows, subjects=subjects)
        assert interval[1:3] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.015)

    def test_variance_of_random_trainings_is_that_of_mann_and_whitney(self):
        """(m + n + 1) / (12 m n) for scores that say nothing; a quarter for the mean of four that say it apart."""
        random = np.random.default_rng(4)
        labels = np.repeat([0, 1], [250, 150])
        scores = random.normal(size=(4, 400))
        result = mean_auc(labels, scores)
        expected = 2 * 1.96 * np.sqrt(401 / (12 * 250 * 150) / 4)
        assert result.high - result.low == pytest.approx(expected, rel=0.15)
        assert result.deviation == pytest.approx(np.sqrt(401 / (12 * 250 * 150)), rel=0.7)  # of four draws

    def test_perfect_trainings_have_newcombes_interval(self):
        labels = np.repeat([0, 1], [40, 20])
        result = mean_auc(labels, [np.arange(60), labels], resamples=50)
        # R: auRoc::auc.nonpara.mw(x, y, conf.level, method = "newcombe")
        assert result == pytest.approx((1, 0.924677995106, 1, 60, 2, 0), abs=1e-9)

    @pytest.mark.parametrize(
        ("first", "second", "p_value", "low", "high"),
        [  # R: set.seed(1); roc.test(roc(y, a), roc(y, b), method = "delong", paired = TRUE), as above
            ("a", "b", 0.9295371478211, -0.2196582634543, 0.2404152842114),
            ("c", "a", 0.00265134511894, 0.07836783825031, 0.37218161229914),
            ("c", "b", 0.000231616436619, 0.110205063045949, 0.361101408260523),
        ],
    )
    def test_comparison_of_single_trainings_is_near_that_of_proc(self, first, second, p_value, low, high):
        labels, scores = rated()
        result = compare_means(labels, scores[first], scores[second], resamples=5000)
        assert result.difference == pytest.approx(
            roc_auc_score(labels, scores[first]) - roc_auc_score(labels, scores[second]), abs=1e-12
        )
        assert (result.low, result.high) == pytest.approx((low, high), abs=0.02)
        assert result.p_value == pytest.approx(p_value, abs=0.01)
        assert result.p_value >= 1 / 5001
        turned = compare_means(labels, scores[second], scores[first], resamples=5000)
        assert turned == pytest.approx((-result.difference, -result.high, -result.low, result.p_value))

    def test_comparison_is_paired_by_subject(self):
        labels, scores, subjects = subjects_of_both_classes()
        a, b = [scores["c"], scores["a"]], [scores["b"]]
        differences = [
            np.mean([roc_auc_score(labels[images], row[images]) for row in a])
            - roc_auc_score(labels[images], scores["b"][images])
            for images in drawn_by_hand(labels, subjects, 2000, seed=12)
        ]
        result = compare_means(labels, a, b, subjects=subjects)
        assert result[1:3] == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.02)
        by_hand = np.mean(np.abs(np.array(differences) - result.difference) >= result.difference)
        assert result.p_value == pytest.approx(by_hand, abs=0.03)

    def test_chance_is_significant_as_often_as_the_level_says(self):
        """Two arms of two trainings that differ by noise alone: 5 % of 200 comparisons, within four deviations."""
        random = np.random.default_rng(6)
        labels = np.repeat([0, 1], [60, 40])
        below = 0
        for seed in range(200):
            signal = labels + random.normal(size=100)
            a, b = (signal + 0.7 * random.normal(size=(2, 2, 100))).reshape(2, 2, 100)
            below += compare_means(labels, a, b, resamples=200, seed=seed).p_value < 0.05
        assert 1 <= below <= 22

    def test_equal_rankings_do_not_differ(self):
        labels, scores = self.scores()
        assert compare_means(labels, scores, np.exp(0.1 * scores), resamples=50) == (0.0, 0.0, 0.0, 1.0)

    def test_perfect_against_useless_trainings(self):
        labels = np.repeat([0, 1], [40, 20])
        result = compare_means(labels, [np.arange(60)] * 2, np.ones((3, 60)), resamples=50)
        assert result == pytest.approx(compare_delong(labels, np.arange(60), np.ones(60)))

    def test_the_seed_decides(self):
        labels, scores = self.scores()
        first, again, other = (mean_auc(labels, scores, resamples=200, seed=seed) for seed in (1, 1, 2))
        assert first == again
        assert first != other

    @pytest.mark.parametrize(
        ("scores", "message"),
        [
            ([[0.1, 0.2], [0.1, np.inf]], r"scores\[1\]: received 1 values that are not finite"),
            ([[0.1, 0.2, 0.3]], r"labels and scores\[0\] differ in length: received 2 labels and 3 scores"),
            ([[[0.1, 0.2]]], r"scores: received shape \(1, 1, 2\), expected \(trainings, n\)"),
            (np.empty((0, 2)), r"scores: received shape \(0, 2\)"),
        ],
    )
    def test_bad_input_gets_one_line(self, scores, message):
        with pytest.raises(ValueError, match=message) as error:
            mean_auc([0, 1], scores)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=message.replace("scores", "b").replace("2 labels and 3 b", "2 labels")):
            compare_means([0, 1], [[0.1, 0.2]], scores)


class TestPartlyTested:
    """Trainings that were each tested on images of their own, the others NaN."""

    def scores(self):
        """Three trainings: all images but every fifth, all but the first third, and all of them."""
        labels, scores, subjects = subjects_of_both_classes()
        a, b, c = (np.array(scores[name], dtype=float) for name in "abc")
        a[::5] = np.nan
        b[:20] = np.nan
        return labels, np.stack([a, b, c]), subjects

    def area(self, labels, row, images):
        """Share of pairs in the right order, over the drawn images that the training was tested on."""
        own = images[~np.isnan(row[images])]
        positive, negative = row[own[labels[own] == 1]], row[own[labels[own] == 0]]
        pairs = np.sign(positive[:, None] - negative)
        return (1 + pairs.mean()) / 2

    def test_each_area_is_that_of_its_own_images(self):
        labels, scores, _ = self.scores()
        areas = [roc_auc_score(labels[~np.isnan(row)], row[~np.isnan(row)]) for row in scores]
        result = mean_auc(labels, scores, resamples=100)
        assert (result.value, result.deviation) == pytest.approx((np.mean(areas), np.std(areas, ddof=1)), abs=1e-12)
        assert (result.n, result.trainings) == (60, 3)
        assert mean_auc(labels, scores[:2], resamples=100).n == 56  # of the first twenty, every fifth is in neither

    def test_resamples_are_of_whole_subjects_and_the_same_for_all(self):
        labels, scores, subjects = self.scores()
        means = [
            np.mean([self.area(labels, row, images) for row in scores])
            for images in drawn_by_hand(labels, subjects, 3000, seed=11)
        ]
        interval = mean_auc(labels, scores, subjects=subjects, resamples=3000)
        assert interval[1:3] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)

    def test_images_that_nobody_was_tested_on_are_as_if_they_were_not_there(self):
        labels, scores, subjects = self.scores()
        for by_subject in (None, subjects):
            kept = np.arange(60) >= 25
            hidden = np.where(kept, scores[2], np.nan)
            rest = None if by_subject is None else by_subject[kept]
            expected = mean_auc(labels[kept], [scores[2][kept]] * 2, rest, resamples=300)
            assert mean_auc(labels, [hidden] * 2, by_subject, resamples=300) == expected
            other = np.where(kept, scores[0], np.nan)
            other[np.isnan(other)] = np.where(kept, 0, np.nan)[np.isnan(other)]
            expected = compare_means(labels[kept], scores[2][kept], other[kept], rest, resamples=300)
            assert compare_means(labels, hidden, other, by_subject, resamples=300) == expected

    def test_comparison_counts_each_trainings_own_images_of_the_same_subjects(self):
        labels, scores, subjects = self.scores()
        a, b = scores[[2, 0]], scores[1:2]
        drawn = [np.arange(60), *drawn_by_hand(labels, subjects, 3000, seed=12)]
        difference, *differences = (
            np.mean([self.area(labels, row, images) for row in a]) - self.area(labels, b[0], images) for images in drawn
        )
        result = compare_means(labels, a, b, subjects=subjects, resamples=3000)
        assert result.difference == pytest.approx(difference, abs=1e-12)
        assert result[1:3] == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.02)
        by_hand = np.mean(np.abs(np.array(differences) - difference) >= abs(difference))
        assert result.p_value == pytest.approx(by_hand, abs=0.03)

    def test_resamples_without_a_class_are_left_out(self):
        """Two positive images, the second training tested on one: a quarter of the resamples lack it."""
        labels = np.array([1, 1, 0, 0, 0, 0])
        scores = np.array([[3, 1, 0, 2, 4, 0], [5, np.nan, 1, 2, 3, 6]])
        random = np.random.default_rng(3)
        means = []
        for _ in range(6000):
            images = np.concatenate([random.integers(2, size=2), 2 + random.integers(4, size=4)])
            if 0 in images:
                means.append(np.mean([self.area(labels, row, images) for row in scores]))
        assert len(means) / 6000 == pytest.approx(0.75, abs=0.02)
        result = mean_auc(labels, scores, resamples=6000, level=0.5)
        assert result[1:3] == pytest.approx(np.quantile(means, [0.25, 0.75]), abs=0.03)

    def test_the_p_values_denominator_holds_the_resamples_that_were_kept(self):
        """Nearly perfect against nearly reversed scores: no resample reaches twice the difference."""
        labels = np.repeat([1, 0], [2, 40])
        scores = np.concatenate([[38.5, 38.5], np.arange(40)])
        partly = scores.copy()
        partly[1] = np.nan  # a quarter of the resamples draw the other positive image twice
        for row, kept in ((scores, 800), (partly, 600)):
            assert 1 / compare_means(labels, row, -scores, resamples=800).p_value - 1 == pytest.approx(kept, abs=50)

    def test_too_few_resamples_with_all_classes_are_refused(self):
        """Each training tested on another one of four positive images: 4! / 4**4 of the resamples hold them all."""
        labels = np.repeat([1, 0], [4, 6])
        scores = np.tile(np.arange(10.0), (4, 1))
        scores[:, :4][~np.eye(4, dtype=bool)] = np.nan
        for compute in (
            lambda: mean_auc(labels, scores, resamples=500),
            lambda: compare_means(labels, scores[:2], scores[2:], resamples=500),
        ):
            with pytest.raises(ValueError, match=r"one lacks a class in 4\d\d of 500 resamples") as error:
                compute()
            assert "\n" not in str(error.value)

    def test_perfect_trainings_have_newcombes_interval(self):
        """Its class sizes are those of the images that any training was tested on."""
        labels = np.repeat([0, 1, 0], [40, 20, 5])
        scores = np.where(np.arange(65) < 60, labels, np.nan) * np.ones((2, 1))
        scores[0, 30:40] = scores[1, 40:45] = np.nan
        # R: auRoc::auc.nonpara.mw(x, y, conf.level, method = "newcombe"), as above
        assert mean_auc(labels, scores, resamples=50) == pytest.approx((1, 0.924677995106, 1, 60, 2, 0), abs=1e-9)

    def test_equal_rankings_of_the_same_images_do_not_differ(self):
        labels, scores, _ = self.scores()
        assert compare_means(labels, scores, np.exp(0.1 * scores), resamples=50) == (0.0, 0.0, 0.0, 1.0)
        # Perfect on other images: the same value, but not the same images.
        perfect = np.where(np.arange(60) % 4 == 0, np.nan, labels)
        other = compare_means(labels, perfect, labels, resamples=50)
        sizes = [((labels == 1) & kept).sum() for kept in (np.arange(60) % 4 > 0, True)]
        assert sizes == [15, 21]
        low, full = (mean_auc(labels, row, resamples=50).low for row in (perfect, labels))
        assert other == pytest.approx((0, low - 1, 1 - full, 1), abs=1e-9)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ([0.1, np.nan, 0.3], r"\[1\]: received scores of 0 positive and 2 negative images, expected both classes"),
            ([np.nan] * 3, r"\[1\]: received scores of 0 positive and 0 negative images"),
            ([0.1, np.nan, np.inf], r"\[1\]: received 1 values that are not finite, the first at index 2 \(inf\)"),
        ],
    )
    def test_bad_input_gets_one_line(self, row, message):
        scores = [[0.1, 0.2, 0.3], row]
        with pytest.raises(ValueError, match="^scores" + message) as error:
            mean_auc([0, 1, 0], scores)
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match="^b" + message):
            compare_means([0, 1, 0], [0.1, 0.2, 0.3], scores)

    def test_the_mean_over_labels_takes_no_gaps(self):
        with pytest.raises(ValueError, match="1 values that are not finite"):
            mean_label_auc(np.eye(3, dtype=int), np.where(np.eye(3) == 1, [1, np.nan, 1], 0)[None])


def test_rates_at_by_hand():
    """At 0.5: three of four positives, two of five negatives below."""
    labels = [1, 1, 1, 1, 0, 0, 0, 0, 0]
    scores = [0.9, 0.5, 0.7, 0.49, 0.5, 0.6, 0.9, 0.1, 0.4]
    sensitivity, specificity = rates_at(labels, scores, 0.5)
    assert (sensitivity.value, sensitivity.n) == (0.75, 4)
    assert (specificity.value, specificity.n) == (0.4, 5)
    # 4 draws of which each hits with 3/4: the bootstrap's percentiles are those of the binomial distribution.
    assert (sensitivity.low, sensitivity.high) == tuple(binom.ppf([0.025, 0.975], 4, 0.75) / 4)
    assert (specificity.low, specificity.high) == tuple(binom.ppf([0.025, 0.975], 5, 0.4) / 5)


def test_rates_at_by_subject():
    """Two women with five images each, one found in all of them: whole women are drawn, so the rate is 0, 1/2 or 1."""
    labels = [1] * 10 + [0, 0]
    scores = [1] * 5 + [0] * 5 + [0, 0]
    sensitivity, specificity = rates_at(labels, scores, 0.5, ["a"] * 5 + ["b"] * 5 + ["c", "d"])
    assert (sensitivity.value, sensitivity.low, sensitivity.high) == (0.5, 0, 1)
    # All resamples agree: Wilson's interval for 2 of 2.
    expected = binomtest(2, 2).proportion_ci(method="wilson")
    assert (specificity.low, specificity.high) == pytest.approx((expected.low, expected.high))


def test_mean_label_auc():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, (60, 3))
    scores = labels * 0.4 + random.uniform(size=(2, 60, 3))
    received = mean_label_auc(labels, scores)
    areas = [roc_auc_score(labels, each, average="macro") for each in scores]
    assert received.value == pytest.approx(np.mean(areas))
    assert received.deviation == pytest.approx(np.std(areas, ddof=1))
    assert (received.n, received.trainings) == (60, 2)
    # The same resampling, written out with scikit-learn.
    drawn = np.random.default_rng(1)
    means = []
    for _ in range(400):
        rows = drawn.integers(60, size=60)
        means.append(np.mean([roc_auc_score(labels[rows], each[rows], average="macro") for each in scores]))
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([received.low, received.high], expected, atol=0.015)


def test_mean_label_auc_leaves_out_a_label_that_a_resample_lacks():
    """The second label is in one image alone, so that a third of the resamples lack it."""
    labels = np.array([[1, 0], [0, 1], [1, 0], [0, 0], [1, 0], [0, 0]])
    received = mean_label_auc(labels, labels[None] + 0.0)
    assert received[:3] == (1, 1, 1)


@pytest.mark.parametrize("shape", [(60, 3), (2, 60, 2), (2, 59, 3)])
def test_mean_label_auc_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"scores: received shape .* for labels of \(60, 3\)"):
        mean_label_auc(np.eye(3, dtype=int)[np.arange(60) % 3], np.zeros(shape))


def test_accuracy_by_hand_and_by_subject():
    labels, predicted = [0, 1, 2, 2, 0, 1], [0, 1, 2, 0, 0, 1]
    found = accuracy(labels, predicted)
    assert found.value == pytest.approx(5 / 6)
    assert found.n == 6
    # With all images of one subject there is nothing to draw again: Wilson's interval of one, which is wide.
    one = accuracy(labels, predicted, ["a"] * 6)
    assert one.high - one.low > found.high - found.low
    # Of two subjects, right throughout and wrong throughout, a resample is 0, 1/2 or 1.
    two = accuracy([0, 0, 1, 1], [0, 0, 0, 0], ["a", "a", "b", "b"])
    assert (two.low, two.value, two.high) == (0, 0.5, 1)
    with pytest.raises(ValueError, match="received 2 and 1"):
        accuracy([0, 1], [0])
