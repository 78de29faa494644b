import shutil

import pytest
from medzoo.datasets import Region, image_paths, read_busi, region_mask
from PIL import Image, ImageDraw


def test_the_original_layout_with_masks(busi_folder):
    table = read_busi(busi_folder, twins=False)
    assert table["label"].value_counts().to_dict() == {"benign": 14, "malignant": 14}
    assert not table["image"].str.contains("_mask").any()
    assert table.attrs["dataset"] == "busi"
    assert table.attrs["classes"] == ["benign", "malignant"]
    assert table.attrs["root"] == str(busi_folder)
    regions = dict(zip(table["image"], table["regions"], strict=True))
    assert regions["benign/benign (1).png"] == [Region("benign", mask="benign/benign (1)_mask.png")]
    assert regions["malignant/malignant (4).png"] == [
        Region("malignant", mask="malignant/malignant (4)_mask.png"),
        Region("malignant", mask="malignant/malignant (4)_mask_1.png"),
    ]


def test_normal_images_have_no_lesions_and_a_lost_mask_is_no_answer(busi_folder, tmp_path):
    shutil.copytree(busi_folder, tmp_path / "busi")
    (tmp_path / "busi" / "benign" / "benign (1)_mask.png").unlink()
    mask = Image.new("L", (100, 50))
    ImageDraw.Draw(mask).rectangle((0, 0, 49, 24), fill=255)  # the top left quarter
    mask.save(tmp_path / "busi" / "benign" / "benign (2)_mask.png")
    table = read_busi(tmp_path / "busi", classes=("benign", "normal"), twins=False)
    regions = dict(zip(table["image"], table["regions"], strict=True))
    assert regions["normal/normal (1).png"] == []  # its mask file is empty
    assert regions["benign/benign (1).png"] is None
    (region,) = regions["benign/benign (2).png"]
    found = region_mask(region, (4, 6), table.attrs["root"])
    assert found.nonzero()[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert found.nonzero()[1].tolist() == [0, 1, 2, 0, 1, 2]


def test_the_folder_above_gives_the_same_table(busi_folder):
    above = read_busi(busi_folder.parent, twins=False)
    assert above.equals(read_busi(busi_folder, twins=False))
    assert above.attrs["root"] == str(busi_folder)


def test_classes_and_their_order(busi_folder):
    table = read_busi(busi_folder, classes=("normal", "benign", "malignant"), twins=False)
    assert len(table) == 42
    assert table.attrs["classes"] == ["normal", "benign", "malignant"]


def test_without_masks_there_are_no_regions(busi_folder, tmp_path):
    shutil.copytree(busi_folder, tmp_path / "busi", ignore=shutil.ignore_patterns("*_mask*"))
    table = read_busi(tmp_path / "busi", twins=False)
    assert "regions" not in table
    assert len(table) == 28


def test_each_image_is_its_own_subject_without_twins(busi_folder):
    table = read_busi(busi_folder, twins=False)
    assert table.attrs["subjects"] == "none"
    assert (table["subject"] == table["image"]).all()


def test_twins_are_the_subjects(busi_folder):
    table = read_busi(busi_folder)
    assert table.attrs["subjects"] == "twins"
    subject = dict(zip(table["image"], table["subject"], strict=True))
    for label in ("benign", "malignant"):
        for number in (1, 2):
            twin = f"{label}/{label} ({number + 12}).png"
            assert subject[twin] == subject[f"{label}/{label} ({number}).png"]
    assert table["subject"].nunique() == 24
    assert table.attrs["classes"] == ["benign", "malignant"]


def test_the_real_one(shared):
    table = read_busi(shared / "data" / "busi", classes=("benign", "malignant", "normal"), twins=False)
    assert table["label"].value_counts().to_dict() == {"benign": 383, "malignant": 183, "normal": 118}
    assert all(path.is_file() for path in image_paths(table))
    assert "regions" not in table


def refused(path, match, kind=FileNotFoundError, **options):
    with pytest.raises(kind, match=match) as caught:
        read_busi(path, twins=False, **options)
    assert "\n" not in str(caught.value)


def test_a_missing_and_an_empty_folder(tmp_path):
    refused(tmp_path / "busi", "busi: no such folder, expected the class folders benign, malignant")
    refused(tmp_path, "the folder is empty, expected the class folders benign, malignant")


def test_a_missing_class_folder(busi_folder, tmp_path):
    shutil.copytree(busi_folder / "benign", tmp_path / "benign")
    refused(tmp_path, "no folder 'malignant', expected the class folders benign, malignant")


def test_a_class_folder_without_images(busi_folder, tmp_path):
    shutil.copytree(busi_folder / "benign", tmp_path / "benign")
    shutil.copytree(
        busi_folder / "malignant", tmp_path / "malignant", ignore=lambda _, names: [n for n in names if "mask" not in n]
    )
    refused(tmp_path, r"malignant: no images, expected files such as 'malignant \(1\).png'")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("benign", "malign"), "unknown class of BUSI 'malign': did you mean 'malignant'?"),
        ("benign", "classes is 'benign', expected a tuple"),
        ((), "expected a tuple of distinct names"),
        (("benign", "benign"), "expected a tuple of distinct names"),
    ],
)
def test_classes_that_are_not_there(busi_folder, classes, message):
    refused(busi_folder, message, ValueError, classes=classes)
