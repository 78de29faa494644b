import shutil

import numpy as np
import pytest
from medzoo.datasets import encode_labels, image_paths, read, read_image, read_rodrigues
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """The archive's layout with four small images, and what macOS leaves in archives."""
    random = np.random.default_rng(5)
    for name in ("benign/us1.bmp", "benign/us2.bmp", "malignant/us101.bmp", "malignant/us102.BMP"):
        file = tmp_path / "us-dataset" / "originals" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (57, 93), dtype="uint8")).save(file)
        hidden = tmp_path / "us-dataset" / "__MACOSX" / "originals" / name
        hidden.parent.mkdir(parents=True, exist_ok=True)
        hidden.with_name(f"._{hidden.name}").touch()
    (tmp_path / "us-dataset" / "originals" / "benign" / "Thumbs.db").touch()
    return tmp_path / "us-dataset"


def refused(path, match, kind=FileNotFoundError):
    with pytest.raises(kind, match=match) as caught:
        read_rodrigues(path, twins=False)
    assert "\n" not in str(caught.value)


def test_the_archives_layout(folder):
    table = read_rodrigues(folder, twins=False)
    assert table["image"].tolist() == [
        "benign/us1.bmp",
        "benign/us2.bmp",
        "malignant/us101.bmp",
        "malignant/us102.BMP",
    ]
    assert encode_labels(table).tolist() == [0, 0, 1, 1]
    assert (table["subject"] == table["image"]).all()
    assert table.attrs == {
        "dataset": "rodrigues",
        "root": str(folder / "originals"),
        "classes": ["benign", "malignant"],
        "subjects": "none",
    }
    image = read_image(image_paths(table)[0])
    expected = np.random.default_rng(5).integers(0, 256, (57, 93), dtype="uint8")
    np.testing.assert_array_equal(image[..., 0], expected)


@pytest.mark.parametrize("below", [".", "..", "originals"])
def test_any_folder_above_gives_the_same_table(folder, below):
    table = read_rodrigues(folder / below, twins=False)
    assert table["image"].equals(read_rodrigues(folder, twins=False)["image"])
    assert all(path.is_file() for path in image_paths(table))


def test_other_formats(folder):
    for file in sorted(folder.glob("originals/*/*.[bB][mM][pP]")):
        Image.open(file).save(file.with_suffix(".png"))
        file.unlink()
    assert read_rodrigues(folder, twins=False)["image"].str.endswith(".png").sum() == 4


def test_twins_are_the_subjects(busi_folder, tmp_path):
    for label in ("benign", "malignant"):
        (tmp_path / label).mkdir()
        for number in (1, 2, 13):  # 13 shows 1 again
            name = f"{label} ({number})"
            Image.open(busi_folder / label / f"{name}.png").save(tmp_path / label / f"{name}.bmp")
    table = read("rodrigues", tmp_path)
    assert table.attrs["subjects"] == "twins"
    assert table.attrs["dataset"] == "rodrigues"
    subject = dict(zip(table["image"], table["subject"], strict=True))
    for label in ("benign", "malignant"):
        assert subject[f"{label}/{label} (13).bmp"] == subject[f"{label}/{label} (1).bmp"]
    assert table["subject"].nunique() == 4


def test_a_missing_and_an_empty_folder(folder, tmp_path):
    refused(tmp_path / "us", "us: no such folder, expected the class folders benign, malignant")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "the folder is empty, expected the class folders benign, malignant")


def test_a_missing_class_folder(folder):
    shutil.rmtree(folder / "originals" / "malignant")
    refused(folder, "originals: no folder 'malignant', expected the class folders benign, malignant")


def test_a_class_folder_without_images(folder):
    for file in (folder / "originals" / "benign").glob("*.bmp"):
        file.unlink()
    refused(folder, "benign: no images in this class folder, expected PNG, JPEG, BMP")


def test_copies_beside_the_originals(folder):
    """Which of the two nobody said; either can be read on its own."""
    shutil.copytree(folder / "originals", folder / "resized")
    refused(folder, "class folders in .*originals and in .*resized, expected the path of one of the two", ValueError)
    assert len(read_rodrigues(folder / "resized", twins=False)) == 4
