import numpy as np
import pytest
from medzoo.datasets import encode_labels, image_paths, read_image, read_stl10

NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@pytest.fixture
def folder(tmp_path):
    """20 training and 10 test images; image i has the class i % 10 + 1, counted from 1 as published."""
    (tmp_path / "class_names.txt").write_text("\n".join(NAMES) + "\n")
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 10)):
        random.integers(0, 256, (count, 3, 96, 96), dtype="uint8").tofile(tmp_path / f"{part}_X.bin")
        (np.arange(count) % 10 + 1).astype("uint8").tofile(tmp_path / f"{part}_y.bin")
    (tmp_path / "unlabeled_X.bin").write_bytes(b"not read")
    (tmp_path / "fold_indices.txt").touch()
    return tmp_path


def refused(path, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        read_stl10(path)
    assert "\n" not in str(caught.value)


def test_the_published_files(folder):
    table = read_stl10(folder)
    assert table.attrs == {
        "dataset": "stl10",
        "root": str(folder),
        "classes": list(NAMES),
        "subjects": "none",
    }
    assert table["split"].value_counts().to_dict() == {"train": 20, "test": 10}
    train = table[table["split"] == "train"]
    assert encode_labels(train).tolist() == [*range(10), *range(10)]
    stored = np.fromfile(folder / "train_X.bin", "uint8").reshape(20, 3, 96, 96)
    image = read_image(image_paths(train)[13])
    np.testing.assert_array_equal(np.moveaxis(image, (0, 1, 2), (2, 1, 0)), stored[13])


@pytest.mark.parametrize("name", ["train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt"])
def test_what_is_missing(folder, name):
    (folder / name).unlink()
    refused(folder, f"{name}: no such file", FileNotFoundError)


def test_damaged_files(folder):
    images, labels = folder / "test_X.bin", folder / "test_y.bin"
    content = images.read_bytes()
    images.write_bytes(content[:-1])
    refused(folder, "test_X.bin: 276479 bytes, expected a multiple of 27648, the bytes of an image")
    images.write_bytes(b"")
    refused(folder, "test_X.bin: 0 bytes, expected a multiple of 27648")
    images.write_bytes(content[: 9 * 27648])
    refused(folder, "test_y.bin: 10 labels, expected 9, one for each image of test_X.bin")
    images.write_bytes(content)
    for wrong in (0, 11):
        labels.write_bytes(bytes([1, 2, wrong, *range(4, 11)]))
        refused(folder, f"test_y.bin: label 2 is {wrong}, expected 1 to 10")


def test_class_names_in_another_encoding(folder):
    (folder / "class_names.txt").write_bytes("Käfer".encode("latin-1"))
    refused(folder, "class_names.txt: not readable as UTF-8 .*, expected 10 names, one a line")


@pytest.mark.parametrize("names", [NAMES[:9], (*NAMES[:9], "airplane")])
def test_other_class_names(folder, names):
    (folder / "class_names.txt").write_text("\n".join(names))
    refused(folder, "class_names.txt: 9 different names, expected those of the 10 classes")
