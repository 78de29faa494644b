import shutil
import warnings

import pytest
from medzoo.datasets import image_paths, read_kermany

NAMES = {
    "NORMAL": {
        "IM-0115-0001.jpeg": "IM-0115",
        "IM-0640-0001-0002.jpeg": "IM-0640",
        "NORMAL2-IM-0640-0001.jpeg": "IM-0640",
        "NORMAL2-IM-0793-0001-0001.jpeg": "IM-0793",
    },
    "PNEUMONIA": {
        "person17_virus_48.jpeg": "person17",
        "person17_bacteria_55.jpeg": "person17",
        "person447_virus_921_1.jpeg": "person447",
    },
}


def make(folder):
    for label, names in NAMES.items():
        (folder / label).mkdir(parents=True)
        for name in names:
            (folder / label / name).touch()
    return folder


def refused(path, match, kind=FileNotFoundError):
    with pytest.raises(kind, match=match) as caught:
        read_kermany(path)
    assert "\n" not in str(caught.value)


def test_class_folders_alone(tmp_path):
    table = read_kermany(make(tmp_path))
    assert table.attrs == {
        "dataset": "kermany",
        "root": str(tmp_path),
        "classes": ["NORMAL", "PNEUMONIA"],
        "subjects": "named",
    }
    assert {row.image: row.subject for row in table.itertuples()} == {
        f"{label}/{name}": subject for label, names in NAMES.items() for name, subject in names.items()
    }
    assert table["label"].value_counts().to_dict() == {"NORMAL": 4, "PNEUMONIA": 3}
    assert "split" not in table


def test_names_of_the_third_version(tmp_path):
    names = {
        "NORMAL/NORMAL-1003233-0001.jpeg": "1003233",
        "PNEUMONIA/BACTERIA-1008087-0001.jpeg": "1008087",
        "PNEUMONIA/VIRUS-1008087-0002.jpeg": "1008087",
    }
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    table = read_kermany(tmp_path)
    assert dict(zip(table["image"], table["subject"], strict=True)) == names


def test_the_published_parts(tmp_path):
    for part in ("train", "val", "test"):
        make(tmp_path / part)
    for name in ("IM-0115-0001", "person447_virus_921_1"):
        for part in ("val", "test"):
            next((tmp_path / part).glob(f"*/{name}.jpeg")).unlink()
    with pytest.warns(UserWarning, match="3 of 5 subjects are in more than one of the published parts"):
        table = read_kermany(tmp_path)
    assert table["split"].value_counts().to_dict() == {"train": 7, "validation": 5, "test": 5}
    assert table["image"].str.startswith("val/").equals(table["split"] == "validation")


def test_a_part_of_the_parts_that_share_nobody(tmp_path):
    """The first release has no folder val."""
    for part, label, name in (
        ("train", "NORMAL", "IM-0001-0001"),
        ("train", "PNEUMONIA", "person1_virus_1"),
        ("test", "NORMAL", "IM-0002-0001"),
        ("test", "PNEUMONIA", "person2_bacteria_2"),
    ):
        (tmp_path / part / label).mkdir(parents=True)
        (tmp_path / part / label / f"{name}.jpeg").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read_kermany(tmp_path)
    assert sorted(table["split"]) == ["test", "test", "train", "train"]


def test_the_real_one(shared):
    folder = shared / "data" / "chest_xray"
    if not folder.is_dir():
        pytest.skip(f"real data are not here: {folder}")
    table = read_kermany(folder)
    assert table["label"].value_counts().to_dict() == {"PNEUMONIA": 3767, "NORMAL": 1378}
    subject = dict(zip(table["image"], table["subject"], strict=True))
    assert subject["PNEUMONIA/person447_virus_921_1.jpeg"] == "person447"
    assert subject["NORMAL/NORMAL2-IM-0640-0001.jpeg"] == subject["NORMAL/IM-0640-0001-0001.jpeg"] == "IM-0640"
    assert table["subject"].nunique() == 2482
    assert all(path.is_file() for path in image_paths(table))


def test_what_is_missing(tmp_path):
    refused(tmp_path / "no", "no: no such folder, expected the class folders NORMAL, PNEUMONIA")
    refused(tmp_path, "NORMAL: no such folder, expected the class folders NORMAL, PNEUMONIA")
    make(tmp_path / "train")
    shutil.rmtree(tmp_path / "train" / "PNEUMONIA")
    refused(tmp_path, "PNEUMONIA: no such folder, expected the class folders")
    (tmp_path / "train" / "PNEUMONIA").mkdir()
    refused(tmp_path, "PNEUMONIA: no images in this class folder")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NORMAL/person17_virus_48.jpeg", "does not say whom it shows, expected one such as IM-0115-0001"),
        ("PNEUMONIA/person_virus_48.jpeg", "does not say whom it shows, expected one such as person17_virus_48"),
        ("PNEUMONIA/person17_fungus_48.jpeg", "does not say whom it shows, expected one such as person17_virus_48"),
    ],
)
def test_a_name_that_says_nothing(tmp_path, name, message):
    (make(tmp_path) / name).touch()
    refused(tmp_path, f"{name}: its name {message}", ValueError)
