import csv

import pytest
from medzoo.datasets import encode_labels, image_paths, read_isic2018
from PIL import Image

TRUTH = "ISIC2018_Task3_Training_GroundTruth"
LESIONS = "ISIC2018_Task3_Training_LesionGroupings"
IMAGES = "ISIC2018_Task3_Training_Input"
CODES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")  # the order of the challenge's columns
HEADER = f"image,{','.join(CODES)}"


def row_of(number, code):
    return f"ISIC_{number:07d},{','.join(str(float(code == name)) for name in CODES)}"


@pytest.fixture
def folder(tmp_path):
    """An image of each class, and a second of the lesion of the first."""
    (tmp_path / IMAGES).mkdir()
    rows = [row_of(number, CODES[number % 7]) for number in range(8)]
    lesions = [f"ISIC_{number:07d},HAM_{number % 7:07d},histopathology" for number in range(8)]
    (tmp_path / f"{TRUTH}.csv").write_text("\n".join([HEADER, *rows]))
    (tmp_path / f"{LESIONS}.csv").write_text("\n".join(["image,lesion_id,diagnosis_confirm_type", *lesions]))
    for number in range(8):
        Image.new("RGB", (4, 4)).save(tmp_path / IMAGES / f"ISIC_{number:07d}.jpg")
    (tmp_path / IMAGES / "ATTRIBUTION.txt").touch()  # comes with the archive
    return tmp_path


def refused(folder, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        read_isic2018(folder)
    assert "\n" not in str(caught.value)


def change(file, old, new):
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


def test_the_published_layout(folder):
    table = read_isic2018(folder)
    assert table.attrs == {
        "dataset": "isic2018",
        "root": str(folder),
        "classes": list(CODES),
        "subjects": "named",
    }
    assert encode_labels(table).tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert table["subject"].tolist() == [f"HAM_{number % 7:07d}" for number in range(8)]
    assert table["image"][7] == f"{IMAGES}/ISIC_0000007.jpg"
    assert "split" not in table


def test_the_lists_in_the_folder_of_the_archive(folder):
    expected = read_isic2018(folder)
    (folder / TRUTH).mkdir()
    for name in (TRUTH, LESIONS):
        (folder / f"{name}.csv").rename(folder / TRUTH / f"{name}.csv")
    assert read_isic2018(folder).equals(expected)


def test_a_part_of_the_images_and_others(folder):
    for number in (0, 3):
        (folder / IMAGES / f"ISIC_{number:07d}.jpg").unlink()
    Image.new("RGB", (4, 4)).save(folder / IMAGES / "ISIC_0000099.jpg")
    with pytest.warns(UserWarning, match="left out") as caught:
        table = read_isic2018(folder)
    assert [str(warning.message).partition(": ")[2] for warning in caught] == [
        "2 of 8 listed images are not there and left out, the first is ISIC_0000000.jpg",
        "1 image files are in no list and left out, the first is ISIC_0000099.jpg",
    ]
    assert len(table) == 6
    for file in (folder / IMAGES).glob("*.jpg"):
        file.unlink()
    refused(folder, "none of the 8 listed images is there", FileNotFoundError)


def test_the_real_one(shared):
    folder = shared / "data" / "isic2018"
    if not folder.is_dir():
        pytest.skip(f"real data are not here: {folder}")
    table = read_isic2018(folder)
    with (folder / f"{TRUTH}.csv").open(newline="") as file:
        listed = {row["image"]: row for row in csv.DictReader(file)}
    assert len(table) == len(listed) == 8787
    for image, label in zip(table["image"], table["label"], strict=True):
        assert listed[image[-16:-4]][label] == "1.0"
    assert table["subject"].nunique() == 6558
    assert all(path.is_file() for path in image_paths(table))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{TRUTH}.csv", f"{TRUTH}.csv: no such file, expected the list of images that comes with task 3"),
        (f"{LESIONS}.csv", f"{LESIONS}.csv: no such file, expected the list of images that comes with task 3"),
        (IMAGES, f"{IMAGES}: no such folder, expected images such as ISIC_0000000.jpg"),
    ],
)
def test_what_is_missing(folder, name, message):
    (folder / name).rename(folder / "elsewhere")
    refused(folder, message, FileNotFoundError)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("VASC\n", "VASC,UNK\n", "row 2: 8 cells, expected 9"),
        (",VASC\n", "\n", "no column 'VASC'"),
        ("0000001,0.0", "0000001,1.0", "row 3: 1.0, 1.0, 0.0, .*, expected 1 for one class and 0 for the others"),
        ("0000001,0.0,1.0", "0000001,0.0,0.0", "row 3: 0.0, .*, expected 1 for one class"),
        ("0000001,0.0,1.0", "0000001,0.5,1.0", "row 3: 0.5, 1.0, .*, expected 1 for one class"),
        ("0000001,0.0,1.0", "0000001,0.0,yes", "row 3, column 'NV': 'yes', expected 0 or 1"),
        ("0000001,", "0000000,", "row 3: image 'ISIC_0000000' stands in row 2 too"),
        ("0000001,", "0000051,", "row 3: image 'ISIC_0000051' is not in .*LesionGroupings.csv, expected its lesion"),
    ],
)
def test_a_ground_truth_that_does_not_fit(folder, old, new, message):
    change(folder / f"{TRUTH}.csv", old, new)
    refused(folder, f"{TRUTH}.csv: {message}")


def test_a_class_that_the_challenge_does_not_have(folder):
    """ISIC 2019 has an eighth and a ninth, and other files of the same form."""
    file = folder / f"{TRUTH}.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([f"{lines[0]},SCC", *(f"{line},0.0" for line in lines[1:])]))
    refused(folder, f"{TRUTH}.csv: row 1: unknown class 'SCC': did you mean 'BCC'")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HAM_0000002", "", "row 4, column 'lesion_id': empty"),
        ("ISIC_0000002", "ISIC_0000001", "row 4: image 'ISIC_0000001' has another lesion above, expected one"),
        ("lesion_id", "lesion", "no column 'lesion_id'"),
    ],
)
def test_lesions_that_do_not_fit(folder, old, new, message):
    change(folder / f"{LESIONS}.csv", old, new)
    refused(folder, f"{LESIONS}.csv: {message}")
