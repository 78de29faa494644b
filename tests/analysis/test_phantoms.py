"""Phantoms have the signs that radiologists know the two kinds of masses by, measured on the pixels."""

import numpy as np
import pytest
from medzoo.analysis import draw_phantom
from medzoo.analysis.phantoms import KINDS
from scipy import ndimage

SEEDS = range(4)


def mass_of(image):
    """Mask of the darkest connected piece in the middle depth, found without knowing how it was drawn."""
    smooth = ndimage.gaussian_filter(image[..., 0].astype(float), 4)
    middle = np.zeros_like(smooth, bool)
    middle[int(0.25 * len(smooth)) : int(0.68 * len(smooth))] = True
    pieces, _ = ndimage.label((smooth < 80) & middle)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces == sizes.argmax()


def extent(mask):
    rows, columns = np.nonzero(mask)
    return np.ptp(rows) + 1, np.ptp(columns) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_phantom_is_a_function_of_its_seed(kind):
    first, again, other = draw_phantom(kind, 1), draw_phantom(kind, 1), draw_phantom(kind, 2)
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8
    assert first.shape == (320, 400, 1)
    assert np.abs(first.astype(int) - other).mean() > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_a_benign_like_mass_is_wider_than_tall_and_a_malignant_like_one_is_not(seed):
    height, width = extent(mass_of(draw_phantom("benign-like", seed)))
    assert width > 1.2 * height
    height, width = extent(mass_of(draw_phantom("malignant-like", seed)))
    assert height > width


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_bright_behind_a_benign_like_mass_and_dark_behind_a_malignant_like_one(seed):
    below = slice(int(0.8 * 320), 320)
    contrast = {}
    for kind in KINDS:
        image = draw_phantom(kind, seed)
        centre = int(np.nonzero(mass_of(image))[1].mean())
        behind = image[below, centre - 20 : centre + 20].mean()
        contrast[kind] = behind - np.concatenate([image[below, :60], image[below, -60:]]).mean()
    assert contrast["benign-like"] > 10
    assert contrast["malignant-like"] < -20


def test_speckle_is_fully_developed():
    # Rayleigh's envelope has a mean of 1.91 standard deviations; log compression at 50 dB over 255 levels is undone.
    image = draw_phantom("benign-like", 0)
    inside = image[ndimage.binary_erosion(mass_of(image), iterations=12)].astype(float)
    envelope = 10 ** ((inside * 50 / 255 - 50) / 20)
    assert len(inside) > 1000
    assert envelope.mean() / envelope.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.08)


def test_an_unknown_kind_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'benign-like'"):
        draw_phantom("benign", 0)
