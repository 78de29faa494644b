import shutil

import h5py
import numpy as np
import pytest
from medzoo.datasets import encode_labels, image_paths, list_datasets, read, read_image, read_pcam
from medzoo.datasets import pcam as module
from PIL import Image

COUNTS = {"train": 24, "valid": 6, "test": 6}
PREFIX = "camelyonpatch_level_2_split"
HEADER = ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"


def write(file, name, values):
    with h5py.File(file, "w") as store:
        store[name] = values


@pytest.fixture
def folder(tmp_path):
    """The published layout with 36 images of 8 x 8; image i of a part is tumour where i % 3 is 0, of slide i // 2."""
    for number, (part, count) in enumerate(COUNTS.items()):
        stem = f"{PREFIX}_{part}"
        pixels = np.random.default_rng(number).integers(0, 256, (count, 8, 8, 3), dtype="uint8")
        write(tmp_path / f"{stem}_x.h5", "x", pixels)
        labels = np.array([index % 3 == 0 for index in range(count)], "uint8")
        write(tmp_path / f"{stem}_y.h5", "y", labels.reshape(count, 1, 1, 1))
        rows = [f"{index},64,128,True,False,camelyon16_{part}_{index // 2:03d}" for index in range(count)]
        (tmp_path / f"{stem}_meta.csv").write_text("\n".join([HEADER, *rows]))
    return tmp_path


@pytest.fixture
def files(tmp_path):
    """The same as image files: 6 tumours and 12 normal ones in each of two parts."""
    for part in ("train", "test"):
        for label, count in (("0", 12), ("1", 6)):
            (tmp_path / "files" / part / label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (4, 4)).save(tmp_path / "files" / part / label / f"patch{number}.png")
    return tmp_path / "files"


def refused(path, match, kind=ValueError, reader=read_pcam, **options):
    with pytest.raises(kind, match=match) as caught:
        reader(path, **options)
    assert "\n" not in str(caught.value)


def test_the_published_files(folder):
    table = read_pcam(folder)
    assert table.attrs == {
        "dataset": "pcam",
        "root": str(folder),
        "classes": ["normal", "tumour"],
        "subjects": "named",
    }
    assert table["split"].value_counts().to_dict() == {"train": 24, "validation": 6, "test": 6}
    assert encode_labels(table[table["split"] == "train"]).tolist() == [1, 0, 0] * 8
    rows = table.set_index("image")
    name = f"{PREFIX}_train_x.h5#000009"
    assert rows.loc[name].to_dict() == {"subject": "camelyon16_train_004", "label": "tumour", "split": "train"}
    expected = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype="uint8")[9]
    np.testing.assert_array_equal(read_image(folder / name), expected)


def test_without_the_slides_nobody_knows_the_subjects(folder):
    for file in folder.glob("*_meta.csv"):
        file.unlink()
    table = read_pcam(folder)
    assert table.attrs["subjects"] == "none"
    assert (table["subject"] == table["image"]).all()


def test_a_part_of_the_parts(folder):
    for file in (*folder.glob("*_train_*"), *folder.glob("*_test_*")):
        file.unlink()
    assert read_pcam(folder)["split"].unique().tolist() == ["validation"]


def test_image_files(files):
    table = read_pcam(files)
    assert table["split"].value_counts().to_dict() == {"train": 18, "test": 18}
    assert table["label"].value_counts().to_dict() == {"normal": 24, "tumour": 12}
    assert table["image"][0] == "test/0/patch0.png"
    assert table.attrs["subjects"] == "none"
    assert all(path.is_file() for path in image_paths(table))


@pytest.mark.parametrize("layout", ["folder", "files"])
def test_subsets_keep_the_proportions_and_lie_in_each_other(layout, request):
    path = request.getfixturevalue(layout)  # a third of the images are tumours in both
    larger, smaller = read_pcam(path, images=18), read_pcam(path, images=6)
    assert larger["label"].value_counts().to_dict() == {"normal": 12, "tumour": 6}
    assert smaller["label"].value_counts().to_dict() == {"normal": 4, "tumour": 2}
    assert set(smaller["image"]) < set(larger["image"]) < set(read_pcam(path)["image"])
    assert read_pcam(path, images=18).equals(larger)
    assert larger["split"].nunique() == read_pcam(path)["split"].nunique()
    assert read_pcam(path, images=7)["label"].value_counts().to_dict() == {"normal": 5, "tumour": 2}


def test_the_subsets_of_the_study(folder, monkeypatch):
    assert {"pcam_middle", "pcam_small"} <= set(list_datasets())
    refused(
        folder, "images is 100000, expected a whole number from 2 to the 36 there are", reader=module.read_pcam_middle
    )
    refused(folder, "images is 10000, expected", reader=module.read_pcam_small)
    monkeypatch.setattr(module, "MIDDLE", 18)
    monkeypatch.setattr(module, "SMALL", 6)
    middle, small = read("pcam_middle", folder), read("pcam_small", folder)
    assert (middle.attrs["dataset"], len(middle)) == ("pcam_middle", 18)
    assert (small.attrs["dataset"], len(small)) == ("pcam_small", 6)


def test_the_real_one(shared):
    folder = shared / "data" / "pcam"
    if not folder.is_dir():
        pytest.skip(f"real data are not here: {folder}")
    table = read_pcam(folder)
    counts = table.groupby("split")["label"].value_counts().to_dict()
    assert counts == {
        (part, label): count
        for part, count in (("train", 1000), ("validation", 250), ("test", 250))
        for label in ("normal", "tumour")
    }
    assert read_image(image_paths(table)[0]).shape == (96, 96, 3)


def test_missing_files(folder, files):
    refused(
        folder / "nowhere", "nowhere: neither .*_x.h5 .* nor one of the folders train, valid, test", FileNotFoundError
    )
    (folder / f"{PREFIX}_valid_y.h5").unlink()
    refused(folder, "valid_y.h5: no such file", FileNotFoundError)
    (folder / f"{PREFIX}_train_x.h5").unlink()
    refused(folder, "train_x.h5: no such file", FileNotFoundError)
    shutil.rmtree(files / "train" / "1")
    refused(files, "1: no such folder, expected the class folders 0 and 1", FileNotFoundError)
    (files / "train" / "1").mkdir()
    refused(files, "1: no images in this class folder", FileNotFoundError)


def test_slides_of_some_parts_only(folder):
    (folder / f"{PREFIX}_test_meta.csv").unlink()
    refused(folder, "test_meta.csv: no such file, expected the list of images", FileNotFoundError)


def test_slides_of_another_number(folder):
    file = folder / f"{PREFIX}_valid_meta.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    refused(folder, "valid_meta.csv: 5 rows, expected 6, one for each image")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((5, 1, 1, 1), "uint8"), r"valid_y.h5: labels of shape \(5, 1, 1, 1\), expected \(6, 1, 1, 1\)"),
        (np.zeros((6, 2, 1, 1), "uint8"), r"valid_y.h5: labels of shape \(6, 2, 1, 1\), expected"),
        (np.zeros((1, 1, 1, 6), "uint8"), r"valid_y.h5: labels of shape \(1, 1, 1, 6\), expected"),
        (np.full((6, 1, 1, 1), 2, "uint8"), "valid_y.h5: a label is 2, expected 0 or 1"),
        (np.full((6, 1, 1, 1), np.nan), "valid_y.h5: a label is nan, expected 0 or 1"),
    ],
)
def test_labels_that_do_not_fit(folder, labels, message):
    write(folder / f"{PREFIX}_valid_y.h5", "y", labels)
    refused(folder, message)


def test_damaged_files(folder):
    labels = folder / f"{PREFIX}_test_y.h5"
    write(labels, "labels", np.zeros(6))
    refused(folder, "test_y.h5: no dataset 'y' among labels")
    labels.write_bytes(labels.read_bytes()[:700])
    refused(folder, "test_y.h5: cannot be read .*truncated.*, expected a whole HDF5 file")
    images = folder / f"{PREFIX}_train_x.h5"  # the first that is read
    images.write_bytes(images.read_bytes()[:-64])
    refused(folder, "train_x.h5: cannot be read .*truncated.*, expected a whole HDF5 file")
    write(images, "x", np.zeros((24, 8, 8), "uint8"))
    refused(folder, r"train_x.h5: dataset 'x' is uint8 of shape \(24, 8, 8\), expected uint8 of shape \(images, ")


@pytest.mark.parametrize("images", [0, 1, 37, 3.5, True, "all"])
def test_subsets_that_there_are_not(folder, images):
    refused(folder, "images is .*, expected a whole number from 2 to the 36 there are", images=images)
