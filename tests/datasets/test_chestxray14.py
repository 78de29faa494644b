import pytest
from medzoo.datasets import encode_labels, read, read_chestxray14, split, validation_from_training

# The first header with its nameless last column, and the second.
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
ROWS = [
    "00000001_000.png,Cardiomegaly,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
    "00000001_001.png,Emphysema|Cardiomegaly,1,1,058Y,M,PA,2894,2729,0.143,0.143,",
    "00000002_000.png,No Finding,0,2,081Y,M,AP,2500,2048,0.171,0.171,",
    "00000003_000.png,Hernia,0,3,018M,F,PA,2582,2991,0.143,0.143,",
]
NAMES = [row.split(",")[0] for row in ROWS]


def write(folder, rows=ROWS, header=HEADER, train=NAMES[:2], test=NAMES[2:], images=None, table="Data_Entry_2017.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / table).write_text("\n".join([header, *rows]) + "\n")
    (folder / "train_val_list.txt").write_text("\n".join(train))
    (folder / "test_list.txt").write_text("\n".join(test) + "\n")
    for image in [f"images/{name}" for name in NAMES] if images is None else images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()  # the reader reads tables and names only
    return folder


def refused(folder, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        read_chestxray14(folder)
    assert "\n" not in str(caught.value)


def test_a_multi_label_table_of_the_official_split(tmp_path):
    table = read("chestxray14", write(tmp_path))
    assert table["image"].tolist() == [f"images/{name}" for name in NAMES]
    assert table["subject"].tolist() == ["1", "1", "2", "3"]
    assert table["label"].tolist() == ["Cardiomegaly", "Cardiomegaly|Emphysema", "No Finding", "Hernia"]
    assert table["split"].tolist() == ["train", "train", "test", "test"]
    assert table["view"].tolist() == ["PA", "PA", "AP", "PA"]
    assert table["age"].tolist() == [58, 58, 81, 1.5]
    assert (table.attrs["multi_label"], table.attrs["subjects"]) == (True, "named")
    encoded = encode_labels(table)
    assert encoded.shape == (4, 14)
    # Wei and others, MorphHR, table IV: cardiomegaly is the second row, emphysema the sixth, hernia the eighth.
    assert [row.nonzero()[0].tolist() for row in encoded] == [[1], [1, 5], [], [7]]


def test_the_second_release_and_the_twelve_archives(tmp_path):
    images = [f"images_001/images/{NAMES[0]}", *(f"images_012/images/{name}" for name in NAMES[1:])]
    rows = [row.replace("058Y", "58").replace("081Y", "81").replace("018M", "1").rstrip(",") for row in ROWS]
    header = HEADER.rstrip(",").replace("Gender", "Sex")
    table = read_chestxray14(write(tmp_path, rows, header, images=images, table="Data_Entry_2017_v2020.csv"))
    assert sorted(table["image"]) == sorted(images)
    assert table["age"].tolist() == [58, 58, 81, 1]


def test_of_both_releases_the_second_is_read(tmp_path):
    write(tmp_path)
    rows = [ROWS[0].replace("Cardiomegaly", "Edema"), *ROWS[1:]]
    assert read_chestxray14(write(tmp_path, rows, table="Data_Entry_2017_v2020.csv"))["label"].iloc[0] == "Edema"


def test_converted_images_and_those_that_are_missing_or_in_no_list(tmp_path):
    folder = write(tmp_path, images=["images/00000001_000.jpg", "images/00000002_000.jpg", "images/00000009_000.jpg"])
    with (
        pytest.warns(
            UserWarning, match="2 of 4 listed images are not there and left out, the first is 00000001_001.png"
        ),
        pytest.warns(UserWarning, match="1 image files are in no list and left out, the first is images/00000009_000"),
    ):
        table = read_chestxray14(folder)
    assert table["image"].tolist() == ["images/00000001_000.jpg", "images/00000002_000.jpg"]


@pytest.mark.parametrize(
    ("changes", "message", "kind"),
    [
        ({"images": []}, "none of the 4 listed images is there, expected such as 00000001_000.png", FileNotFoundError),
        ({"header": HEADER.replace("Finding Labels", "Labels")}, "no column 'Finding Labels' among Image", ValueError),
        ({"rows": [ROWS[0].replace("egaly", "egalia")]}, "row 2: unknown finding 'Cardiomegalia': did you", ValueError),
        ({"rows": [ROWS[0].replace("Card", "No Finding|Card")]}, "unknown finding 'No Finding'", ValueError),
        ({"rows": [*ROWS, ROWS[0]]}, "row 6: image '00000001_000.png' stands in row 2 too", ValueError),
        ({"rows": [ROWS[0].replace("058Y", "old")]}, "row 2, column 'Patient Age': 'old', expected years", ValueError),
        ({"test": NAMES[3:]}, "row 4: image '00000002_000.png' is in neither train_val_list.txt nor test", ValueError),
        ({"test": NAMES[1:]}, "test_list.txt: image '00000001_001.png' is in train_val_list.txt too", ValueError),
        (
            {"train": NAMES[:1], "test": NAMES[1:]},
            "row 3: patient '1' has images in train_val_list.txt and",
            ValueError,
        ),
        (
            {"images": [f"images_00{number}/images/{NAMES[0]}" for number in (1, 2)]},
            "images_001/images/00000001_000.png has the same name, expected one image of each",
            ValueError,
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, changes, message, kind):
    refused(write(tmp_path, **changes), message, kind)


@pytest.mark.parametrize("name", ["Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt"])
def test_a_missing_table_or_list(tmp_path, name):
    (write(tmp_path) / name).unlink()
    refused(tmp_path, f"{name}: no such file, expected the", FileNotFoundError)


def test_it_can_be_divided(tmp_path):
    findings = ["No Finding", "Mass", "Mass|Nodule", "No Finding", "Edema"]
    rows = [
        f"{patient:08}_{number:03}.png,{findings[(patient + number) % 5]},{number},{patient},60,F,PA,1,1,1,1,"
        for patient in range(40)
        for number in range(2)
    ]
    names = [row.split(",")[0] for row in rows]
    images = [f"images/{name}" for name in names]
    table = read_chestxray14(write(tmp_path, rows, train=names[:60], test=names[60:], images=images))
    parts = validation_from_training(table, 0.2, seed=0)
    assert parts["split"].value_counts().to_dict() == {"train": 48, "test": 20, "validation": 12}
    for result in (parts, split(table, {"train": 0.5, "test": 0.5}, seed=0)):
        assert (result.groupby("subject")["split"].nunique() == 1).all()
