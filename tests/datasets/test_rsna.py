import pytest
from medzoo.datasets import read, read_rsna, split
from PIL import Image

HEADER = (
    "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,machine_id,"
    "difficult_negative_case"
)
ROWS = [
    "2,105,1001,L,MLO,57.0,0,0,0,,0,,29,False",
    "2,105,1002,R,CC,57.0,0,0,0,,0,,29,False",
    "1,9,1003,L,CC,61.0,1,1,1,0.0,0,B,49,False",
    "1,9,1004,L,MLO,,1,1,1,0.0,0,B,49,False",
]


def write(folder, rows=ROWS, header=HEADER, images=("105/1001.png", "105/1002.jpg", "9/1003.png", "9/1004.jpeg")):
    (folder / "train_images").mkdir(parents=True)
    (folder / "train.csv").write_text("\n".join([header, *rows]) + "\n")
    for image in images:
        (folder / "train_images" / image).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(folder / "train_images" / image)
    return folder


def refused(folder, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        read_rsna(folder)
    assert "\n" not in str(caught.value)


def test_a_row_an_image_with_all_that_the_list_tells(tmp_path):
    table = read_rsna(write(tmp_path / "rsna"))
    assert table["image"].tolist() == [
        f"train_images/{name}" for name in ("105/1001.png", "105/1002.jpg", "9/1003.png", "9/1004.jpeg")
    ]
    assert table["subject"].tolist() == ["105", "105", "9", "9"]
    assert table["label"].tolist() == ["negative", "negative", "cancer", "cancer"]
    assert table["view"].tolist() == ["MLO", "CC", "CC", "MLO"]
    assert table["laterality"].tolist() == ["L", "R", "L", "L"]
    assert table["age"].tolist()[:3] == [57.0, 57.0, 61.0]
    assert table["age"].isna().tolist() == [False, False, False, True]
    assert table["site"].tolist() == ["2", "2", "1", "1"]
    assert table["machine"].tolist() == ["29", "29", "49", "49"]
    assert table.attrs["classes"] == ["negative", "cancer"]
    assert (table.attrs["dataset"], table.attrs["subjects"]) == ("rsna", "named")


def test_images_without_a_row_and_rows_without_an_image_are_counted(tmp_path):
    folder = write(tmp_path / "rsna", images=("105/1001.png", "9/1003.png", "9/77.png", "8/1004.png"))
    with (
        pytest.warns(UserWarning, match="2 of 4 listed images are not there and left out, the first is 105/1002.dcm"),
        pytest.warns(UserWarning, match="2 image files are in no list and left out, the first is 8/1004"),
    ):
        table = read_rsna(folder)
    assert table["image"].tolist() == ["train_images/105/1001.png", "train_images/9/1003.png"]


def test_of_several_formats_the_original_is_taken(tmp_path):
    folder = write(tmp_path / "rsna")
    (folder / "train_images" / "9" / "1003.dcm").touch()
    assert "train_images/9/1003.dcm" in set(read_rsna(folder)["image"])
    assert len(read_rsna(folder)) == 4


def test_without_any_image_it_is_an_error(tmp_path):
    refused(write(tmp_path / "rsna", images=()), "none of the 4 listed images is there", FileNotFoundError)


def test_a_missing_list_and_a_missing_folder(tmp_path):
    refused(tmp_path, r"train.csv: no such file, expected the list .* RSNA 2022", FileNotFoundError)
    (tmp_path / "train.csv").write_text("\n".join([HEADER, *ROWS]))
    refused(tmp_path, "train_images: no such folder, expected <patient_id>/<image_id>.dcm", FileNotFoundError)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"header": HEADER.replace("cancer", "label")}, "no column 'cancer' among site_id, patient_id"),
        ({"rows": []}, "no rows below the header"),
        ({"rows": [ROWS[0].replace("57.0,0", "57.0,2")]}, "row 2, column 'cancer': '2', expected 0 or 1"),
        ({"rows": [*ROWS, ROWS[2]]}, "row 6: image 9/1003 stands in row 4 too"),
        ({"rows": [ROWS[0].replace("57.0", "old")]}, "row 2, column 'age': 'old', expected a number of years"),
        ({"rows": [ROWS[0].replace("57.0", "-3"), *ROWS[1:]]}, "age of image .* is -3.0, expected years"),
        ({"rows": ["2,105,1001"]}, "row 2: 3 cells, expected 14"),
        ({"rows": [ROWS[0].replace("105", "")]}, "row 2, column 'patient_id': empty"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_in_one_line(tmp_path, changes, message):
    refused(write(tmp_path / "rsna", **changes), message)


def test_the_real_one(shared):
    table = read("rsna", shared / "data" / "rsna")
    assert len(table) == 2880
    assert table["label"].value_counts().to_dict() == {"negative": 1888, "cancer": 992}
    assert table["subject"].nunique() == 820
    assert table["view"].value_counts().to_dict() == {"MLO": 1483, "CC": 1394, "AT": 3}
    assert table["machine"].nunique() == 9
    # Labels are of the breast.
    assert (table.groupby(["subject", "laterality"])["label"].nunique() == 1).all()
    parts = split(table, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=0)
    assert (parts.groupby("subject")["split"].nunique() == 1).all()
