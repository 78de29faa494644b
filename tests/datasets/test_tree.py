import numpy as np
import pytest
from medzoo.datasets import image_paths, read_tree
from PIL import Image


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), "uint8")).save(path)


def test_images_at_any_depth_are_labelled_by_the_folder_below_the_root(tmp_path):
    for name in ("top.png", "benign/a.png", "benign/deep/b.jpg", "malignant/a.png"):
        draw(tmp_path / name)
    (tmp_path / "benign" / "notes.txt").write_text("no image")
    table = read_tree(tmp_path)
    assert dict(zip(table["image"], table["label"], strict=True)) == {
        "top.png": ".",
        "benign/a.png": "benign",
        "benign/deep/b.jpg": "benign",
        "malignant/a.png": "malignant",
    }
    assert table.attrs["subjects"] == "none"
    assert all(path.is_file() for path in image_paths(table))


def test_a_mask_is_left_out_only_beside_its_image(tmp_path):
    for name in ("benign (1).png", "benign (1)_mask.png", "benign (1)_mask_1.png", "face_mask.png"):
        draw(tmp_path / name)
    assert list(read_tree(tmp_path)["image"]) == ["benign (1).png", "face_mask.png"]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_images_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=name) as error:
        read_tree(tmp_path / name)
    assert "\n" not in str(error.value)


def test_the_real_busi(shared):
    table = read_tree(shared / "data" / "busi")
    assert table["label"].value_counts().to_dict() == {"benign": 383, "malignant": 183, "normal": 118}
