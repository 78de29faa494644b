"""What a model scores without seeing the disease: against pairs counted by hand, and on a real table."""

import itertools

import numpy as np
import pytest
from medzoo import datasets
from medzoo.analysis import auc, auc_within, table_scores

CLASSES = ("benign", "malignant")


def by_hand(labels, scores, strata):
    """Every pair, one by one."""
    right, pairs = 0.0, 0
    for first, second in itertools.permutations(range(len(labels)), 2):
        if labels[first] == 1 and labels[second] == 0 and strata[first] == strata[second]:
            right += (scores[first] > scores[second]) + 0.5 * (scores[first] == scores[second])
            pairs += 1
    return right / pairs


def test_a_score_that_knows_only_the_machine_gains_nothing_within_machines():
    machine = np.repeat([0, 1], 100)
    labels = np.concatenate([np.arange(100) < 10, np.arange(100) < 90]).astype(int)
    # 90 × 90 pairs in the right order, 2 × 90 × 10 ties, 10 × 10 in the wrong one, of 100 × 100.
    assert auc(labels, machine).value == pytest.approx(0.9)
    value, low, high, n = auc_within(labels, machine, machine)
    assert (value, n) == (0.5, 200)
    assert low < 0.5 < high


def test_strata_count_by_their_pairs_and_ties_by_half():
    labels = [1, 0, 0, 1, 1, 0]
    scores = [2, 1, 2, 5, 3, 3]
    strata = ["a", "a", "a", "b", "b", "b"]
    # a: 2 > 1 and 2 = 2, 1.5 of 2 pairs; b: 5 > 3 and 3 = 3, 1.5 of 2.
    assert auc_within(labels, scores, strata).value == 0.75
    # A third pair in b: 2.5 of 3; together 4 of 5.
    assert auc_within([*labels, 1], [*scores, 9], [*strata, "b"]).value == pytest.approx(4 / 5)


def test_many_strata_agree_with_every_pair_counted():
    random = np.random.default_rng(0)
    labels, strata = random.integers(2, size=80), random.integers(5, size=80)
    scores = random.integers(6, size=80) + labels
    assert auc_within(labels, scores, strata).value == pytest.approx(by_hand(labels, scores, strata))


def test_one_stratum_is_the_bootstrap_of_auc():
    random = np.random.default_rng(1)
    labels, subjects = random.integers(2, size=60), np.repeat(np.arange(20), 3)
    scores = labels + random.normal(size=60)
    assert auc_within(labels, scores, ["only"] * 60, subjects) == pytest.approx(auc(labels, scores, subjects))


def test_strata_without_both_classes_and_images_without_a_stratum_drop_out():
    labels = [1, 0, 0, 1, 0, 0, 1, 0, 1]
    scores = [3, 1, 4, 9, 2, 2, 7, 0, 0]
    strata = ["a", "a", "a", "a", "no positive", "no positive", "no negative", None, float("nan")]
    interval = auc_within(labels, scores, strata)
    assert (interval.value, interval.n) == (3 / 4, 4)
    assert interval == auc_within(labels[:4], scores[:4], strata[:4])


def test_interval_widens_where_images_of_a_subject_are_alike():
    random = np.random.default_rng(2)
    of_subject = np.repeat(np.arange(40), 4)
    labels, strata = of_subject % 2, of_subject // 20
    scores = (labels + random.normal(scale=1.5, size=40)[of_subject] + 10 * strata).astype(float)
    alone, together = auc_within(labels, scores, strata), auc_within(labels, scores, strata, of_subject)
    assert alone.value == together.value
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_perfect_separation_by_chance_has_an_interval_of_the_largest_stratum():
    labels, scores = [0, 0, 1, 1, 1, 0, 1], [1, 2, 3, 4, 5, 1, 2]
    strata = [0, 0, 0, 0, 0, 1, 1]
    assert auc_within(labels, scores, strata) == (1.0, auc(labels[:5], scores[:5]).low, 1.0, 7)


def test_one_pair_a_stratum():
    # Each stratum is in the right order or not: a resample may hold no pair of one of them, but never of none.
    interval = auc_within([1, 0, 1, 0, 1, 0], [2, 1, 2, 1, 1, 2], ["a", "a", "b", "b", "c", "c"])
    assert interval.value == pytest.approx(2 / 3)
    assert 0 <= interval.low < interval.value < interval.high <= 1


@pytest.mark.parametrize(
    ("strata", "message"),
    [
        (["a", "a", "b", "b"], "strata: received 2, none with images of both classes"),
        ([None] * 4, "none with images of both classes"),
        (["a", "a"], "differ in length: received 4 labels and 2 strata"),
    ],
)
def test_strata_that_do_not_fit_are_refused(strata, message):
    with pytest.raises(ValueError, match=message):
        auc_within([1, 1, 0, 0], [1, 2, 3, 4], strata)


def image_table(n=400, **columns):
    """Images of which every other is malignant, the first three quarters for training."""
    rows = [
        {
            "image": f"{number:04d}.png",
            "subject": str(number),
            "label": CLASSES[number % 2],
            "split": "train" if number < 0.75 * n else "test",
            **{name: values[number] for name, values in columns.items()},
        }
        for number in range(n)
    ]
    return datasets.image_table(rows, "made up", ".", CLASSES, "named")


def test_scores_are_the_share_of_malignant_images_in_what_the_table_tells():
    # Machine "new" has 3 malignant images of 4, "old" 1 of 4; the view tells nothing.
    machine = ["new" if number % 8 in (0, 1, 3, 5) else "old" for number in range(400)]
    table = image_table(machine=machine, view=["CC"] * 400)
    scores = table_scores(table)
    expected = np.where(table["machine"][table["split"] == "test"] == "new", 0.75, 0.25)
    assert scores == pytest.approx(expected, abs=0.02)
    assert np.array_equal(scores, table_scores(table))


def test_ages_and_names_that_are_not_known_are_values_of_their_own():
    # Ages are unknown where an image is malignant, or benign and divisible by 8.
    age = [float("nan") if number % 2 or number % 8 == 0 else 40.0 + number % 20 for number in range(400)]
    site = [None if number % 2 or number % 8 == 0 else "1" for number in range(400)]
    for table in (image_table(age=age), image_table(site=site)):
        scores = table_scores(table)
        unknown = table[table.columns[-1]][table["split"] == "test"].isna()
        assert scores == pytest.approx(np.where(unknown, 0.8, 0.0), abs=0.03)


def test_a_machine_that_training_has_not_seen():
    machine = ["a" if number % 2 else "b" for number in range(300)] + ["c"] * 100
    assert np.isfinite(table_scores(image_table(machine=machine))).all()


def test_only_the_training_part_is_learnt_from_and_only_the_columns_asked_for():
    machine = [CLASSES[number % 2] for number in range(400)]  # gives the label away
    table = image_table(machine=machine, view=["CC"] * 400)
    table.loc[table.index[:10], "split"] = "validation"
    scores = table_scores(table)
    flipped = table.copy()
    other = table["split"] != "train"
    flipped.loc[other, "label"] = np.where(table.loc[other, "label"] == "benign", "malignant", "benign")
    assert np.array_equal(scores, table_scores(flipped))
    labels = datasets.encode_labels(table[table["split"] == "test"])
    assert auc(labels, scores).value == 1
    assert auc(labels, table_scores(table, ["view"])).value == 0.5


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        ({}, None, "has none of the columns site, machine, age, view, laterality"),
        ({"view": ["CC"] * 8}, ("age",), "has no column 'age'"),
        ({"view": ["CC"] * 8}, ("machin",), "unknown column 'machin': did you mean 'machine'"),
        ({"view": ["CC"] * 8}, (), "columns is empty"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns, asked, message):
    with pytest.raises(ValueError, match=message):
        table_scores(image_table(8, **columns), asked)


def test_tables_that_do_not_fit_are_refused():
    table = image_table(8, view=["CC"] * 8)
    with pytest.raises(ValueError, match="received 0 training and 0 test images"):
        table_scores(table.drop(columns="split"))
    single = table[(table["split"] == "test") | (table["label"] == "benign")]
    with pytest.raises(ValueError, match="the training part holds one class only"):
        table_scores(single)
    table.attrs["classes"] = ["benign", "malignant", "normal"]
    with pytest.raises(ValueError, match="has 3 classes or labels, expected two"):
        table_scores(table)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*left out")
def test_rsna_is_half_told_by_site_machine_and_age(shared):
    """Over all 3383 images of this selection a random forest reaches 0.56 by site and machine, 0.61 by age and 0.63 by
    all three, by patient-wise cross-validation; here are 2880 of them."""
    table = datasets.read("rsna", shared / "data" / "rsna")
    folds = datasets.k_folds(table, 5, seed=0)["fold"]
    labels = datasets.encode_labels(table)
    for columns, published in {("site", "machine"): 0.56, ("age",): 0.61, ("site", "machine", "age"): 0.63}.items():
        scores = np.empty(len(table))
        for fold in range(5):
            parts = table.assign(split=np.where(folds == fold, "test", "train"))
            scores[folds == fold] = table_scores(parts, columns)
        interval = auc(labels, scores, table["subject"])
        assert interval.n == 2880
        assert 0.5 < interval.low < published < interval.high
