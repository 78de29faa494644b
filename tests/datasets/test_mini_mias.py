from collections import Counter

import numpy as np
import pytest
from medzoo.datasets import Region, circle_outline, image_paths, read, read_image, read_mini_mias, region_mask
from PIL import Image

ROWS = [
    "mdb001 G CIRC B 535 425 197",
    "mdb002 D NORM",
    "mdb005 F CIRC B 477 133 30",
    "mdb005 F CALC M 500 168 26",
    "mdb059 F CIRC B",
    "mdb216 D CALC M *NOTE 3*",
    "mdb226 D ARCH M 287 610 7",
    "mdb226 D CALC B *NOTE 3*",
]
HEADER = ["INFORMATION:", "", "1st column: MIAS database reference number.", "REFNUM BG CLASS SEVERITY X Y RADIUS", ""]


def write(folder, rows=ROWS, suffix=".pgm"):
    folder.mkdir(exist_ok=True)
    (folder / "Info.txt").write_text("\r\n".join(rows) + "\r\n")
    (folder / "all-mias").mkdir(exist_ok=True)
    for name in {row[:6] for row in rows if row.startswith("mdb")}:
        Image.new("L", (4, 4)).save(folder / "all-mias" / f"{name}{suffix}")
    return folder


def refused(folder, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        read_mini_mias(folder)
    assert "\n" not in str(caught.value)


def circle(label, x, y, radius):
    """A circle of the list, whose y runs upward."""
    return Region(label, circle_outline(x, 1024 - y, radius, 1024, 1024))


@pytest.mark.parametrize("notes", [[], HEADER])
def test_a_row_an_image_with_all_its_lesions(tmp_path, notes):
    table = read_mini_mias(write(tmp_path / "mias", [*notes, *ROWS, *notes]))
    rows = {row["image"][-10:-4]: row for row in table.to_dict("records")}
    assert {name: (row["subject"], row["label"], row["laterality"]) for name, row in rows.items()} == {
        "mdb001": ("mdb001-002", "negative", "L"),
        "mdb002": ("mdb001-002", "negative", "R"),
        "mdb005": ("mdb005-006", "malignant", "L"),
        "mdb059": ("mdb059-060", "negative", "L"),
        "mdb216": ("mdb215-216", "malignant", "R"),
        "mdb226": ("mdb225-226", "malignant", "R"),
    }
    assert {name: row["regions"] for name, row in rows.items()} == {
        "mdb001": [circle("benign mass", 535, 425, 197)],
        "mdb002": [],
        "mdb005": [circle("benign mass", 477, 133, 30), circle("malignant calcification", 500, 168, 26)],
        "mdb059": None,
        "mdb216": None,
        "mdb226": None,  # one of its lesions has no place
    }
    assert set(table["view"]) == {"MLO"}
    assert table.attrs["classes"] == ["negative", "malignant"]
    assert (table.attrs["dataset"], table.attrs["subjects"]) == ("mini_mias", "named")
    assert all(path.is_file() for path in image_paths(table))


def test_of_several_formats_the_original_is_taken(tmp_path):
    write(tmp_path, suffix=".jpg")
    assert set(read_mini_mias(tmp_path)["image"].str[-4:]) == {".jpg"}
    write(tmp_path)
    assert set(read_mini_mias(tmp_path)["image"].str[-4:]) == {".pgm"}


def test_missing_and_unlisted_images_are_counted(tmp_path):
    folder = write(tmp_path / "mias")
    (folder / "all-mias" / "mdb005.pgm").rename(folder / "all-mias" / "mdb006.pgm")
    with (
        pytest.warns(UserWarning, match="1 of 6 listed images are not there and left out, the first is mdb005"),
        pytest.warns(UserWarning, match="1 image files are in no list and left out, the first is .*mdb006.pgm"),
    ):
        assert len(read_mini_mias(folder)) == 5


def test_a_missing_list_and_no_image_at_all(tmp_path):
    refused(tmp_path, "Info.txt: no such file, expected the list .* mini-MIAS", FileNotFoundError)
    (tmp_path / "Info.txt").write_text("\n".join(ROWS))
    refused(tmp_path, "none of the 6 listed images is there, expected such as mdb001", FileNotFoundError)


def test_two_files_that_could_be_the_same_image(tmp_path):
    write(tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "mdb001.pgm")
    refused(tmp_path, "mdb001.pgm: .*mdb001.pgm could be the same image, expected one")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("mdb007 G CIRCLE B 535 425 197", "line 9: 'mdb007 G CIRCLE B 535 425 197', expected a class of CALC, CIRC"),
        ("mdb007 G CIRC X 535 425 197", "expected a class of .* and severity B or M"),
        ("mdb007 G CIRC", "expected a class of .* and severity B or M"),
        ("mdb007 X NORM", "'mdb007 X NORM', expected <mdbNNN> <tissue> NORM, or"),
        ("mdb007 G", "'mdb007 G', expected <mdbNNN>"),
        ("mdb7 G NORM", "'mdb7 G NORM', expected <mdbNNN>"),
        ("mdb007 G CIRC B 535 425", "'mdb007 G CIRC B 535 425', expected <mdbNNN>"),
        ("mdb007 G CIRC B 535 425 -3", "'mdb007 G CIRC B 535 425 -3', expected <mdbNNN>"),
        (
            "mdb007 G CIRC B 1035 425 197",
            "'mdb007 G CIRC B 1035 425 197', expected a circle in an image of 1024 x 1024",
        ),
        ("mdb007 G CIRC B 535 425 0", "expected a circle in an image"),
        ("mdb002 D NORM", "line 9: image mdb002 stands above too"),
        ("mdb002 D CIRC B 535 425 197", "image mdb002 stands above too"),
        ("mdb001 G NORM", "image mdb001 stands above too, expected one row of an image that is normal"),
        ("mdb001 G CIRC B 535 425 197", "'mdb001 G CIRC B 535 425 197' stands above too, expected each lesion once"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_in_one_line(tmp_path, row, message):
    refused(write(tmp_path, [*ROWS, row]), message)


def test_a_list_without_rows(tmp_path):
    refused(write(tmp_path, HEADER), "Info.txt: no row of an image, expected such as 'mdb001 G")


def test_the_real_one(shared):
    folder = shared / "data" / "mini_mias"
    table = read("mini_mias", folder)
    assert (len(table), table["subject"].nunique()) == (290, 145)
    names = table["image"].str[:6]
    assert table["image"].str.endswith(".pgm").sum() == 4
    rows = [line.split() for line in (folder / "Info.txt").read_text().splitlines()]
    malignant = {row[0] for row in rows if row[3:4] == ["M"]}
    assert len(malignant) == 47
    assert set(names[table["label"] == "malignant"]) == malignant
    assert names[table["regions"].isna()].tolist() == ["mdb059", "mdb216", "mdb233", "mdb245"]
    # Each row with a place is a lesion.
    lesions = Counter(region.label for regions in table["regions"].dropna() for region in regions)
    kinds = Counter((row[3], row[2] == "CALC") for row in rows if len(row) == 7)
    assert lesions == {
        "malignant mass": kinds["M", False],
        "benign mass": kinds["B", False],
        "malignant calcification": kinds["M", True],
        "benign calcification": kinds["B", True],
    }


def test_the_circles_lie_on_the_lesions_of_the_real_images(shared):
    """Benign circumscribed masses are brighter than their surroundings, with y upward only."""
    table = read("mini_mias", shared / "data" / "mini_mias")
    size, up, down = (256, 256), [], []
    for file, regions, image in zip(image_paths(table), table["regions"], table["image"], strict=True):
        if image[:6] not in ("mdb010", "mdb015", "mdb021", "mdb023", "mdb028", "mdb080", "mdb184", "mdb202"):
            continue
        pixels = read_image(file)[..., 0]
        pixels = pixels.reshape(256, 4, 256, 4).mean((1, 3))
        (region,) = regions
        upright = region_mask(region, size)
        turned = region_mask(Region("mass", tuple((x, 1 - y) for x, y in region.outline)), size)
        wide = Region("mass", tuple(np.array(region.outline) * 2 - np.mean(region.outline, 0)))
        ring = region_mask(wide, size) & ~upright
        up.append(pixels[upright].mean() > pixels[ring].mean())
        down.append(pixels[upright].mean() > pixels[turned].mean())
    assert len(up) == 8
    assert all(up)
    assert sum(down) >= 6
