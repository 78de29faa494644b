import hashlib
import random
import subprocess
import sys

import pytest
from medzoo.datasets import fraction, image_table, k_folds, split, validation_from_training

PAPER = {"train": 452, "validation": 65, "test": 130}  # Byra 2021, section 2.3, of 437 benign and 210 malignant


def table_of(counts, subjects=None):
    """`counts`: class to number of images. `subjects`: class to a function of the image's number."""
    rows = []
    for label, count in counts.items():
        for number in range(count):
            row = {"image": f"{label}/{number:04d}.png", "label": label}
            if subjects:
                row["subject"] = subjects(label, number)
            rows.append(row)
    return image_table(rows, "made-up", "/data", sorted(counts), "named" if subjects else "none")


def counts_of(table, column="split"):
    return table.groupby([column, "label"]).size().unstack(fill_value=0)


@pytest.mark.parametrize("parts", [PAPER, {name: count / 647 for name, count in PAPER.items()}])
@pytest.mark.parametrize("by", ["subject", "image"])
def test_the_papers_split_is_met_exactly(parts, by):
    result = split(table_of({"benign": 437, "malignant": 210}), parts, seed=3, by=by)
    assert result["split"].value_counts().to_dict() == PAPER
    for name, count in PAPER.items():
        malignant = (result["label"][result["split"] == name] == "malignant").sum()
        assert abs(malignant - count * 210 / 647) < 1


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_the_exact_proportions_rounded_and_both_margins_sum_up(seed):
    numbers = random.Random(seed)
    classes = {f"class{index}": numbers.randint(15, 90) for index in range(numbers.randint(2, 9))}
    weights = [numbers.randint(1, 9) for _ in range(numbers.randint(2, 5))]
    parts = {f"part{index}": weight / sum(weights) for index, weight in enumerate(weights)}
    total = sum(classes.values())
    counts = counts_of(split(table_of(classes), parts, seed=seed))
    sizes = counts.sum(axis=1)
    assert sizes.sum() == total
    for name, share in parts.items():
        assert abs(sizes[name] - share * total) < 1
        for label, count in classes.items():
            assert abs(counts.loc[name, label] - count * sizes[name] / total) < 1
    assert counts.sum(axis=0).to_dict() == classes


def test_part_sizes_follow_the_largest_remainder():
    # 10 images in shares of 0.45, 0.35, 0.2: 4.5, 3.5, 2.0. One unit is left; the first of equal remainders has it.
    result = split(table_of({"a": 5, "b": 5}), {"x": 0.45, "y": 0.35, "z": 0.2}, seed=0)
    assert result["split"].value_counts().to_dict() == {"x": 5, "y": 3, "z": 2}


def test_split_does_not_depend_on_row_order():
    table = table_of({"benign": 40, "malignant": 20}, lambda label, number: f"{label}{number // 3}")
    mixed = table.sample(frac=1, random_state=1)
    parts = {"train": 0.6, "test": 0.4}
    first, second = split(table, parts, seed=7), split(mixed, parts, seed=7)
    assert dict(zip(first["image"], first["split"], strict=True)) == dict(
        zip(second["image"], second["split"], strict=True)
    )
    assert list(second["image"]) == list(mixed["image"])  # and leaves the order to the caller


def test_seeds_give_different_splits_and_the_input_stays_as_it_was():
    table = table_of({"benign": 40, "malignant": 20})
    splits = {tuple(split(table, {"train": 0.5, "test": 0.5}, seed=seed)["split"]) for seed in range(5)}
    assert len(splits) == 5
    assert "split" not in table
    assert split(table, {"train": 0.5, "test": 0.5}, seed=0).attrs == table.attrs


def test_the_order_is_that_of_sha256_of_seed_and_name():
    # Four single images of each class in two equal parts: with one place in each part in turn, the first, third, ...
    # of the order go to the first part. The order is worked out here by hand: sha256sum of "5:a/0000.png" and so on.
    result = split(table_of({"a": 4, "b": 4}), {"first": 4, "second": 4}, seed=5)
    parts = dict(zip(result["image"], result["split"], strict=True))
    for label in "ab":
        images = [f"{label}/000{number}.png" for number in range(4)]
        images.sort(key=lambda image: hashlib.sha256(f"5:{image}".encode()).hexdigest())
        assert [parts[image] for image in images] == ["first", "second", "first", "second"]


def test_another_process_with_other_hash_seed_gives_the_same_split():
    code = (
        "from medzoo.datasets import image_table, split\n"
        "rows = [dict(image=f'{n}.png', label='ab'[n % 3 == 0], subject=f's{n // 4}') for n in range(60)]\n"
        "print(list(split(image_table(rows, 'd', '/r', 'ab', 'named'), dict(x=.5, y=.3, z=.2), 1)['split']))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("seed", range(4))
def test_subjects_with_several_images_stay_together_and_counts_come_close(seed):
    numbers = random.Random(seed)
    rows, counts = [], {"benign": 383, "malignant": 183}
    for label, count in counts.items():
        group = 0
        while count:
            size = min(count, numbers.choices([1, 2, 3, 6], [6, 3, 1, 0.3])[0])
            rows += [
                {"image": f"{label}/{count - one}.png", "label": label, "subject": f"{label}{group}"}
                for one in range(size)
            ]
            count, group = count - size, group + 1
    table = image_table(rows, "made-up", "/data", ["benign", "malignant"], "named")
    result = split(table, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=seed)
    assert (result.groupby("subject")["split"].nunique() == 1).all()
    counted = counts_of(result)
    for name, share in {"train": 0.7, "validation": 0.1, "test": 0.2}.items():
        for label, count in counts.items():
            assert abs(counted.loc[name, label] - share * count) < 1.5  # single images even out what groups leave
    # Groups are spread over all parts, not only single images in the small ones.
    sizes = result.groupby("subject").size()
    for name in ("train", "validation", "test"):
        in_part = result[result["split"] == name]["subject"]
        assert 0.3 < (in_part.map(sizes) > 1).mean() < 0.9


def test_a_subject_with_images_of_two_classes_stays_together():
    def subject(label, number):
        return f"s{number}"  # every subject has one image of each class

    result = split(table_of({"a": 30, "b": 30}, subject), {"train": 0.5, "test": 0.5}, seed=0)
    assert (result.groupby("subject")["split"].nunique() == 1).all()
    assert (counts_of(result) == 15).all().all()


def test_by_image_may_part_a_subject():
    table = table_of({"a": 30, "b": 30}, lambda label, number: f"{label}{number // 6}")
    result = split(table, {"train": 0.5, "test": 0.5}, seed=0, by="image")
    assert (result.groupby("subject")["split"].nunique() == 2).any()


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_k_folds(folds):
    table = table_of({"a": 61, "b": 42})
    result = k_folds(table, folds, seed=1)
    counts = counts_of(result, "fold")
    assert list(counts.index) == list(range(folds))
    assert result["fold"].dtype.kind == "i"
    sizes = counts.sum(axis=1)
    assert sizes.max() - sizes.min() <= 1
    for label, count in {"a": 61, "b": 42}.items():
        assert (abs(counts[label] - count * sizes / 103) < 1).all()


def test_k_folds_keep_subjects_together():
    table = table_of({"a": 60, "b": 40}, lambda label, number: f"{label}{number // 3}")
    result = k_folds(table, 5, seed=1)
    assert (result.groupby("subject")["fold"].nunique() == 1).all()


def test_fraction():
    table = table_of({"a": 60, "b": 40}, lambda label, number: f"{label}{number // 2}")
    kept = fraction(table, 0.25, seed=0)
    assert abs(kept["label"].value_counts()["a"] - 15) <= 1
    assert abs(kept["label"].value_counts()["b"] - 10) <= 1
    whole = kept.groupby("subject").size()
    assert (whole == 2).all()  # no subject is cut in two
    assert kept.attrs == table.attrs
    assert set(fraction(table, 0.25, seed=1)["image"]) != set(kept["image"])
    assert fraction(table, 1, seed=0).equals(table)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "parts is empty"),
        ({"train": 0.7, "test": 0.2}, "parts sum to 0.9, expected 1"),
        ({"train": 40, "test": 10}, "parts sum to 50 images, expected the table's 60"),
        ({"train": 1.2, "test": -0.2}, "part 'test' is -0.2"),
        ({"train": 1.0, "test": 0.0}, "part 'test' is 0.0"),
        ({"train": "0.5", "test": 0.5}, "part 'train' is '0.5'"),
        ({"train": 0.99, "test": 0.01}, "part 'test' would hold only images of class 'benign'"),
        ({"train": 0.999, "test": 0.001}, "part 'test' would hold no images"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(parts, message):
    with pytest.raises(ValueError, match=message) as caught:
        split(table_of({"benign": 40, "malignant": 20}), parts, seed=0)
    assert "\n" not in str(caught.value)


def test_a_class_with_too_few_subjects_is_refused():
    table = table_of({"a": 30, "b": 6}, lambda label, number: f"{label}{number // 3}")
    with pytest.raises(ValueError, match=r"class 'b' has 2 subjects, expected at least one for each of 3 parts"):
        split(table, {"x": 0.4, "y": 0.3, "z": 0.3}, seed=0)
    with pytest.raises(ValueError, match="class 'b' has 2 subjects"):
        k_folds(table, 3, seed=0)


@pytest.mark.parametrize("folds", [1, 61, 2.0, True])
def test_folds_out_of_range_are_refused(folds):
    with pytest.raises(ValueError, match="folds is"):
        k_folds(table_of({"a": 40, "b": 20}), folds, seed=0)


@pytest.mark.parametrize("value", [0, -0.1, 1.1, "half"])
def test_fractions_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match="fraction is"):
        fraction(table_of({"a": 40, "b": 20}), value, seed=0)


def test_a_fraction_that_loses_a_class_is_refused():
    with pytest.raises(ValueError, match="keeps none of class 'b'"):
        fraction(table_of({"a": 90, "b": 2}), 0.05, seed=0)


def test_by_must_be_known():
    with pytest.raises(ValueError, match="by is 'patient', expected 'subject' or 'image'"):
        split(table_of({"a": 4, "b": 4}), {"x": 4, "y": 4}, seed=0, by="patient")


def findings_of(numbers, share=0.4, subjects=100):
    """400 chest X-rays of 100 patients, of which about a share shows one or two findings."""
    rows = []
    for number in range(400):
        label = numbers.choice(["a", "b", "a|b"]) if numbers.random() < share else "No Finding"
        rows.append({"image": f"{number}.png", "label": label, "subject": f"s{number % subjects}"})
    return image_table(rows, "made-up", "/data", ["a", "b"], "named", multi_label=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_multi_label_table_is_stratified_by_whether_there_is_a_finding(seed):
    table = findings_of(random.Random(seed))
    found = table["label"] != "No Finding"
    result = split(table, {"train": 0.7, "test": 0.3}, seed)
    assert (result.groupby("subject")["split"].nunique() == 1).all()
    for part, share in {"train": 0.7, "test": 0.3}.items():
        assert abs((found & (result["split"] == part)).sum() - share * found.sum()) <= 2
    folds = k_folds(table, 4, seed)
    assert (abs(folds["fold"][found].value_counts() - found.sum() / 4) <= 2).all()
    kept = fraction(table, 0.25, seed)
    assert abs((kept["label"] != "No Finding").sum() - found.sum() / 4) <= 2
    assert kept.attrs["multi_label"] is True


def test_a_table_in_which_every_image_shows_a_finding_can_be_split():
    result = split(findings_of(random.Random(0), share=1), {"train": 0.75, "test": 0.25}, seed=0)
    assert result["split"].value_counts().to_dict() == {"train": 300, "test": 100}
    with pytest.raises(ValueError, match="part 'test' would hold only images of class 'No Finding'"):
        split(findings_of(random.Random(0), share=0.02, subjects=400), {"train": 0.99, "test": 0.01}, seed=1)


def official():
    """160 images of 40 women, a quarter of them in a test part that came with the data."""
    table = table_of({"benign": 80, "malignant": 80}, lambda label, number: f"{label}{number // 4}")
    numbers = {subject: position for position, subject in enumerate(sorted(set(table["subject"])))}
    table["split"] = ["test" if numbers[subject] % 4 == 0 else "train" for subject in table["subject"]]
    return table


@pytest.mark.parametrize("seed", range(3))
def test_validation_comes_out_of_training_by_subject(seed):
    table = official()
    result = validation_from_training(table, 0.2, seed)
    assert (result["split"] == "test").tolist() == (table["split"] == "test").tolist()
    assert (result.groupby("subject")["split"].nunique() == 1).all()
    assert counts_of(result).to_dict("index") == {
        "test": {"benign": 20, "malignant": 20},
        "train": {"benign": 48, "malignant": 48},
        "validation": {"benign": 12, "malignant": 12},
    }
    assert set(table["split"]) == {"train", "test"}  # the input stays as it was
    assert result.attrs == table.attrs


def test_validation_does_not_depend_on_row_order_or_index():
    mixed = official().sample(frac=1, random_state=3)
    first, second = (validation_from_training(table, 0.2, 1) for table in (official(), mixed))
    assert list(second.index) == list(mixed.index)
    assert first["split"].tolist() == second.sort_index()["split"].tolist()


def test_the_test_part_does_not_change_who_validates():
    table = official()
    training = table[table["split"] == "train"]
    alone = validation_from_training(training, 0.2, 0)
    assert validation_from_training(table, 0.2, 0).loc[training.index, "split"].tolist() == alone["split"].tolist()


@pytest.mark.parametrize(
    ("table", "share", "message"),
    [
        (official().drop(columns="split"), 0.2, "no column 'split', expected a part 'train'"),
        (
            official().replace({"split": {"train": "training"}}),
            0.2,
            "the parts test, training, expected a part",
        ),
        (validation_from_training(official(), 0.2, 0), 0.2, "the parts test, train, validation, expected"),
        (official(), 1, "share is 1, expected a number above 0 and below 1"),
        (official(), "0.2", "share is '0.2'"),
        (official(), 0.001, "part 'validation' would hold no images"),
    ],
)
def test_no_validation_without_training(table, share, message):
    with pytest.raises(ValueError, match=message) as caught:
        validation_from_training(table, share, 0)
    assert "\n" not in str(caught.value)
