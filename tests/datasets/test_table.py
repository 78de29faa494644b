import numpy as np
import pandas as pd
import pytest
from medzoo.datasets import Region, check_table, encode_labels, image_paths, image_table

ROWS = [{"image": "b/2.png", "label": "b"}, {"image": "a/1.png", "label": "a"}]


def table_of(rows=ROWS, **changes):
    return image_table(rows, **{"dataset": "d", "root": "/data", "classes": ["a", "b"], "subjects": "none", **changes})


def test_columns_order_and_attributes():
    table = table_of()
    assert list(table.columns) == ["image", "subject", "label"]
    assert table["image"].tolist() == ["a/1.png", "b/2.png"]  # sorted
    assert list(table.index) == [0, 1]
    assert table["subject"].tolist() == ["a/1.png", "b/2.png"]  # each its own
    assert table.attrs == {"dataset": "d", "root": "/data", "classes": ["a", "b"], "subjects": "none"}


def test_paths_are_relative_to_the_root_where_they_lie_inside(tmp_path):
    rows = [{"image": path, "label": "a"} for path in [tmp_path / "x.png", "sub/../y.png", "/else/z.png", "../w.png"]]
    table = table_of(rows, root=tmp_path)
    outside = (tmp_path.parent / "w.png").as_posix()
    assert table["image"].tolist() == sorted(["x.png", "y.png", "/else/z.png", outside])
    assert sorted(map(str, image_paths(table))) == sorted(
        [str(tmp_path / "x.png"), str(tmp_path / "y.png"), "/else/z.png", outside]
    )


def test_a_root_that_begins_alike_is_another_folder(tmp_path):
    table = table_of([{"image": f"{tmp_path}2/x.png", "label": "a"}], root=tmp_path)
    assert table["image"].tolist() == [f"{tmp_path}2/x.png"]


def test_a_relative_root_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert table_of(root="data").attrs["root"] == str(tmp_path / "data")


def test_optional_columns_are_kept():
    rows = [{"image": "x", "label": "a", "subject": "s", "view": "CC", "laterality": "L", "split": "train"}]
    table = table_of(rows, subjects="named")
    assert list(table.columns) == ["image", "subject", "label", "split", "view", "laterality"]


def test_a_data_frame_is_as_good_as_mappings():
    pd.testing.assert_frame_equal(table_of(pd.DataFrame(ROWS)), table_of())


def test_attributes_survive_choosing_rows():
    table = table_of()
    assert table[table["label"] == "a"].attrs == table.attrs


def test_labels_as_class_indices():
    table = table_of()
    assert encode_labels(table).dtype == np.int32
    assert encode_labels(table).tolist() == [0, 1]
    assert encode_labels(table, ["b", "a"]).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"label of image 'b/2.png' is 'b', expected one of a, c"):
        encode_labels(table, ["a", "c"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "it has no rows"),
        ({"rows": [*ROWS, ROWS[0]]}, "image 'b/2.png' stands in two rows"),
        ({"rows": [{"image": "x", "label": "c"}]}, "label of image 'x' is 'c', expected one of a, b"),
        ({"rows": [{"image": "x", "label": 1}]}, "label of row 0 is 1, expected a non-empty string"),
        ({"rows": [{"image": "x", "label": None}]}, "label of row 0 is"),
        ({"rows": [{"image": "x"}]}, "label of row 0 is"),
        ({"rows": [{"label": "a", "subject": "s"}], "subjects": "named"}, "image of row 0 is"),
        ({"subjects": "named"}, "subject of row 0 is"),
        (
            {"rows": [{"image": "x", "label": "a", "colour": 3}]},
            "unknown column 'colour', expected image, subject",
        ),
        ({"subjects": "patients"}, "attrs\\['subjects'\\] is 'patients', expected one of named, twins, none"),
        ({"classes": ["a", "a"]}, "attrs\\['classes'\\] is \\['a', 'a'\\], expected distinct names"),
        ({"classes": []}, "expected distinct names"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        table_of(**changes)
    assert "\n" not in str(caught.value)


def test_a_frame_that_is_no_image_table_is_refused():
    with pytest.raises(ValueError, match="attrs\\['dataset'\\] is missing"):
        check_table(pd.DataFrame(ROWS))
    with pytest.raises(ValueError, match="column 'subject' is missing"):
        check_table(table_of().drop(columns="subject"))


def findings_of(labels, classes=("Mass", "Nodule", "Edema"), **changes):
    rows = [{"image": f"{number}.png", "label": label} for number, label in enumerate(labels)]
    return table_of(rows, classes=list(classes), multi_label=True, **changes)


def test_a_multi_label_table_gives_zeros_and_ones():
    table = findings_of(["Nodule", "No Finding", "Mass|Edema"])
    assert table.attrs["multi_label"] is True
    assert encode_labels(table).dtype == np.int32
    assert encode_labels(table).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert encode_labels(table, ["Edema", "Nodule", "Mass"]).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1][::-1]]
    assert encode_labels(table[:1], ["Nodule"]).tolist() == [[1]]
    assert "multi_label" not in table_of().attrs


def test_regions_are_kept_with_none_and_no_lesions_apart():
    region = Region("benign mass", mask="m.png")
    rows = [{"image": name, "label": "a", "regions": r} for name, r in (("x", []), ("y", None), ("z", [region]))]
    table = table_of(rows)
    assert table["regions"].tolist() == [[], None, [region]]
    assert table[table["image"] != "z"]["regions"].tolist() == [[], None]
    assert table_of(table.iloc[[1]])["regions"].tolist() == [None]


@pytest.mark.parametrize("regions", [["m.png"], "m.png", (), float("nan"), Region("mass", mask="m.png")])
def test_regions_that_are_none_are_refused(regions):
    with pytest.raises(ValueError, match=r"regions of image 'x' is .*, expected a list of Region, or None") as caught:
        table_of([{"image": "x", "label": "a", "regions": regions}])
    assert "\n" not in str(caught.value)


def test_age_site_and_machine_are_kept():
    rows = [
        {"image": "x", "label": "a", "age": 61, "site": "1", "machine": "49"},
        {"image": "y", "label": "b", "age": None, "site": "2", "machine": "48"},
    ]
    table = table_of(rows)
    assert list(table.columns) == ["image", "subject", "label", "age", "site", "machine"]
    assert table["age"].dtype == np.float64
    assert table["age"].isna().tolist() == [False, True]


@pytest.mark.parametrize("age", [-1, "61", True])
def test_an_age_that_is_none_is_refused(age):
    with pytest.raises(ValueError, match=r"age of image 'x' is .*, expected years"):
        table_of([{"image": "x", "label": "a", "age": age}])


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["Mass|Hernia"], ["Mass"], "label of image '0.png' names 'Hernia', expected No Finding or of Mass"),
        (["Edema|Mass"], ["Mass", "Edema"], r"is 'Edema\|Mass', expected 'Mass\|Edema' \(class order\)"),
        (["Mass|Mass"], ["Mass"], r"is 'Mass\|Mass', expected 'Mass'"),
        (["Mass|No Finding"], ["Mass"], "names 'No Finding'"),
        (["Mass"], ["Mass", "a|b"], r"class 'a\|b', expected no '\|'"),
        (["Mass"], ["Mass", "No Finding"], "class 'No Finding', expected"),
    ],
)
def test_findings_that_do_not_fit_are_refused_in_one_line(labels, classes, message):
    with pytest.raises(ValueError, match=message) as caught:
        findings_of(labels, classes)
    assert "\n" not in str(caught.value)
