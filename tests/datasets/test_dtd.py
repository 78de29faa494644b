import warnings

import pytest
from medzoo.datasets import image_paths, read_dtd
from medzoo.datasets.dtd import CLASSES

PRESENT = ("banded", "polka-dotted", "zigzagged")
PARTS = ("train", "val", "test")


def names_of(label):
    return [f"{label}/{label}_{number:04d}.jpg" for number in range(6)]


@pytest.fixture
def folder(tmp_path):
    """Six images of each of three classes, image i in part (i + fold - 1) % 3; the lists name a fourth class."""
    for label in PRESENT:
        (tmp_path / "images" / label).mkdir(parents=True)
        for name in names_of(label):
            (tmp_path / "images" / name).touch()
    (tmp_path / "labels").mkdir()
    for fold in range(1, 11):
        for number, part in enumerate(PARTS):
            rows = [
                name
                for label in (*PRESENT, "woven")
                for index, name in enumerate(names_of(label))
                if (index + fold - 1) % 3 == number
            ]
            (tmp_path / "labels" / f"{part}{fold}.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


def refused(path, match, kind=ValueError, **options):
    with pytest.raises(kind, match=match) as caught:
        read_dtd(path, **options)
    assert "\n" not in str(caught.value)


def test_the_classes_of_the_paper():
    assert len(set(CLASSES)) == 47
    assert list(CLASSES) == sorted(CLASSES)


@pytest.mark.parametrize(
    ("fold", "part"), [(None, "train"), (1, "train"), (2, "validation"), (3, "test"), (10, "train")]
)
def test_the_official_divisions(folder, fold, part):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a class that is not there is no warning
        table = read_dtd(folder, fold)
    assert table.attrs == {
        "dataset": "dtd",
        "root": str(folder),
        "classes": list(PRESENT),
        "subjects": "none",
    }
    assert table["label"].value_counts().to_dict() == dict.fromkeys(PRESENT, 6)
    assert table["split"].value_counts().to_dict() == {"train": 6, "validation": 6, "test": 6}
    assert set(table["split"][table["image"].str.endswith("_0000.jpg")]) == {part}


def test_without_lists(folder):
    (folder / "labels").rename(folder / "elsewhere")
    assert "split" not in read_dtd(folder)
    refused(folder, "train3.txt: no such file, expected the official list", FileNotFoundError, fold=3)


def test_a_conversion_and_images_that_are_not_there(folder):
    for name in names_of("banded"):
        (folder / "images" / name).rename((folder / "images" / name).with_suffix(".png"))
    (folder / "images" / names_of("zigzagged")[2]).unlink()
    with pytest.warns(
        UserWarning, match="1 of 18 listed images are not there and left out, the first is zigzagged/.*2"
    ):
        table = read_dtd(folder)
    assert table["split"].value_counts().to_dict() == {"train": 6, "validation": 6, "test": 5}


def test_the_real_one(shared):
    folder = shared / "data" / "dtd"
    if not folder.is_dir():
        pytest.skip(f"real data are not here: {folder}")
    table = read_dtd(folder)
    assert table["label"].value_counts().to_dict() == dict.fromkeys(CLASSES[:10], 120)
    assert "split" not in table
    assert all(path.is_file() for path in image_paths(table))


def test_what_is_missing(folder, tmp_path):
    refused(tmp_path / "no", "images: no such folder", FileNotFoundError)
    (folder / "labels" / "val1.txt").unlink()
    refused(folder, "val1.txt: no such file, expected the official list of images", FileNotFoundError)
    assert "split" in read_dtd(folder, fold=2)
    (folder / "images" / "woven").mkdir()
    refused(folder, "woven: no images in this class folder", FileNotFoundError, fold=2)
    (folder / "images" / "striped2").mkdir()
    refused(folder, "unknown class of DTD 'striped2': did you mean 'striped'")


def test_an_empty_folder(tmp_path):
    (tmp_path / "images").mkdir()
    refused(tmp_path, "images: no subfolders", FileNotFoundError)


@pytest.mark.parametrize("part", PARTS)
def test_a_list_that_lost_its_end(folder, part):
    file = folder / "labels" / f"{part}1.txt"
    rows = [line for line in file.read_text().split() if not line.startswith("woven")]
    file.write_text("\n".join(rows[:-1]))
    refused(folder, f"{part}1.txt: 5 images, expected {rows[-1]!r} among them, as it is in neither .*1.txt nor .*1.txt")
    file.write_text("")
    refused(folder, f"{part}1.txt: 0 images, expected ")


def test_an_image_in_two_lists(folder):
    with (folder / "labels" / "val1.txt").open("a") as file:
        file.write("banded/banded_0000.jpg\n")
    refused(folder, "val1.txt: image 'banded/banded_0000.jpg' is in train1.txt too, expected it once")


@pytest.mark.parametrize("fold", [0, 11, 1.5, "1", True])
def test_divisions_that_there_are_not(folder, fold):
    refused(folder, "fold is .*, expected a whole number from 1 to 10", fold=fold)


def test_a_list_in_another_encoding(folder):
    (folder / "labels" / "val1.txt").write_bytes("gestreift/gebändert.jpg".encode("latin-1"))
    refused(folder, "val1.txt: not readable as UTF-8 .*, expected the names of images")
