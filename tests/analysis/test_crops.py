"""Crops of an image whose every pixel says where it came from."""

import numpy as np
import pytest
from medzoo.analysis import (
    FOUR_FLIPS,
    TEN_CROPS,
    CroppedImages,
    FlippedImages,
    crop_images,
    flip_images,
    size_before_crop,
)
from medzoo.datasets import Batches

# Pixels are 10 * row + column of six rows and nine columns.
IMAGE = (10 * np.arange(6)[:, None] + np.arange(9)[None])[..., None].astype("uint8")


@pytest.mark.parametrize(
    ("place", "first_row"),
    [
        ("top left", [0, 1, 2, 3]),
        ("top right", [5, 6, 7, 8]),
        ("bottom left", [30, 31, 32, 33]),
        ("bottom right", [35, 36, 37, 38]),
        ("centre", [12, 13, 14, 15]),  # margins of 3 and 5: 1 and 2 above and to the left
    ],
)
def test_places(place, first_row):
    window = crop_images(IMAGE[None], (3, 4), place)
    assert (window.shape, window.dtype) == ((1, 3, 4, 1), np.uint8)
    np.testing.assert_array_equal(window[0, 0, :, 0], first_row)
    np.testing.assert_array_equal(window[0, 2, :, 0], np.array(first_row) + 20)
    mirrored = crop_images(IMAGE[None], (3, 4), place, mirror=True)
    np.testing.assert_array_equal(mirrored[0, 0, :, 0], first_row[::-1])


def test_ten_crops_are_four_corners_and_the_centre_and_their_mirrors():
    firsts = [crop_images(IMAGE, (3, 4), *crop)[0, 0, 0].item() for crop in TEN_CROPS]
    assert sorted(firsts) == sorted([0, 5, 30, 35, 12, 3, 8, 33, 38, 15])


def test_sizes_of_the_paper():
    """Section IV.B of MorphHR: 2048 x 2633 for 1792 x 2304."""
    assert size_before_crop((1792, 2304), 0.875) == (2048, 2633)
    assert size_before_crop((224, 224), 1.0) == (224, 224)


class Stored:
    """Two images, as `datasets.CachedImages` has them."""

    def __len__(self):
        return 2

    def read(self, indices):
        return np.stack([IMAGE, IMAGE + 100])[indices]


def test_batches_of_crops():
    images = CroppedImages(Stored(), (6, 3), "top right", mirror=True)
    batch, labels = Batches(images, [0, 1], indices=[1, 0])[0]
    np.testing.assert_array_equal(batch[:, 0, :, 0], [[108, 107, 106], [8, 7, 6]])
    np.testing.assert_array_equal(labels, [[1], [0]])
    (centre,), _ = Batches(CroppedImages(Stored(), (6, 3)), [0, 1], indices=[0])[0]
    np.testing.assert_array_equal(centre[0, :, 0], [3, 4, 5])


def test_four_flips():
    """The corner that comes first, and the pixel to its right, tell which way an image is turned."""
    flipped = {flips: flip_images(IMAGE[None], *flips) for flips in FOUR_FLIPS}
    assert {image.shape for image in flipped.values()} == {(1, 6, 9, 1)}
    starts = {flips: image[0, 0, :2, 0].tolist() for flips, image in flipped.items()}
    assert starts == {
        (False, False): [0, 1],
        (False, True): [8, 7],
        (True, False): [50, 51],
        (True, True): [58, 57],
    }


def test_batches_of_flipped_images():
    images = FlippedImages(Stored(), vertical=True, horizontal=False)
    assert len(images) == 2
    batch, _ = Batches(images, [0, 1], indices=[1, 0])[0]
    np.testing.assert_array_equal(batch[:, 0, :3, 0], [[150, 151, 152], [50, 51, 52]])


def test_refusals():
    with pytest.raises(ValueError, match=r"size: received \(7, 3\) for images of \(6, 9\), expected none larger"):
        crop_images(IMAGE, (7, 3))
    with pytest.raises(ValueError, match="unknown place 'top rigt': did you mean 'top right'"):
        crop_images(IMAGE, (3, 3), "top rigt")
