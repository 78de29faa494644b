"""Regions of maps drawn by hand."""

import sys

import numpy as np
import pytest
from medzoo.analysis import regional_features, two_step_classifier

FEATURES = 8


def heatmap(*lesions):
    """(1, height, width, classes): maps of lesions, and of the background what is left."""
    maps = np.array(lesions, dtype="float32")
    return np.stack([1 - maps.sum(axis=0), *maps], axis=-1)[None]


def of(features, names, prefix):
    """The features of one class and cutoff, by name."""
    return {
        name.removeprefix(f"{prefix}: "): value
        for name, value in zip(names, features, strict=True)
        if name.startswith(f"{prefix}: ")
    }


def test_regions_by_hand():
    """A block of 2 x 3 cells, and two that touch at a corner; the cutoff of 0.5 takes a column and those two."""
    drawn = [
        [0.6, 0.8, 0.4, 0.0, 0.0],
        [0.6, 0.8, 0.4, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.3, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.4],
    ]
    (features,), names = regional_features(heatmap(drawn), thresholds=(0.2, 0.5))
    assert len(names) == len(set(names)) == len(features) == 2 * FEATURES
    assert of(features, names, "class 1 from 0.2") == pytest.approx(
        {
            "regions": 2,
            "total area": 8,
            "highest probability": 0.8,
            "largest area": 6,
            # n points in a row have the variance (n^2 - 1) / 12, and the ellipse of a variance an axis of four
            # standard deviations: 8 / 12 along the block, 3 / 12 across it.
            "largest axis_major_length": 4 * np.sqrt(8 / 12),
            "largest eccentricity": np.sqrt(1 - 3 / 8),
            "largest intensity_mean": 0.6,
            "largest intensity_max": 0.8,
        }
    )
    assert of(features, names, "class 1 from 0.5") == pytest.approx(
        {
            "regions": 1,
            "total area": 4,
            "highest probability": 0.8,
            "largest area": 4,
            "largest axis_major_length": 4 * np.sqrt(3 / 12),
            "largest eccentricity": 0,
            "largest intensity_mean": 0.7,
            "largest intensity_max": 0.8,
        }
    )


def test_classes_and_images_stand_apart_and_the_background_is_left_out():
    first, second = np.zeros((3, 3)), np.zeros((3, 3))
    first[0, 0], second[1:, 1:] = 0.9, 0.6
    maps = np.concatenate([heatmap(first, second), heatmap(second, np.zeros((3, 3)))])
    features, names = regional_features(maps, thresholds=(0.5,))
    assert features.shape == (2, 2 * FEATURES)
    area = [names.index(f"class {lesion} from 0.5: total area") for lesion in (1, 2)]
    np.testing.assert_array_equal(features[:, area], [[1, 4], [4, 0]])
    np.testing.assert_array_equal(features[1, FEATURES:], 0)


def test_the_larger_region_counts_and_of_equal_ones_the_brighter():
    drawn = np.zeros((5, 5))
    drawn[0, 0], drawn[2, :2], drawn[4, 3:] = 0.95, 0.5, 0.7
    features, names = regional_features(heatmap(drawn), thresholds=(0.3,))
    found = of(features[0], names, "class 1 from 0.3")
    assert (found["regions"], found["total area"], found["largest area"]) == (3, 5, 2)
    assert found["highest probability"] == pytest.approx(0.95)
    assert found["largest intensity_max"] == pytest.approx(0.7)


def test_cutoffs_of_the_paper():
    features, names = regional_features(heatmap(np.full((2, 2), 0.6), *np.zeros((3, 2, 2))))
    assert features.shape == (1, 4 * 4 * FEATURES)
    areas = [of(features[0], names, f"class 1 from {cutoff}")["total area"] for cutoff in (0.3, 0.5, 0.7, 0.9)]
    assert areas == [4, 4, 0, 0]


@pytest.mark.parametrize("shape", [(3, 3, 5), (2, 3, 3, 1)])
def test_other_shapes(shape):
    with pytest.raises(
        ValueError, match=r"heatmaps: received the shape \(.+\), expected \(n, height, width, classes\)"
    ):
        regional_features(np.zeros(shape))


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ModuleNotFoundError, match=r"expected the extra: pip install 'medzoo\[two-step\]'"):
        regional_features(np.zeros((1, 2, 2, 2)))


def test_forest_of_the_paper():
    forest = two_step_classifier(seed=3)
    assert (forest.n_estimators, forest.max_depth, forest.min_samples_split) == (500, 9, 300)
    assert forest.random_state == 3


@pytest.mark.parametrize(("images", "splits"), [(440, False), (520, True)])
def test_too_few_images_leave_the_forest_without_a_split(images, splits):
    """As its docstring has it; what is to be learned is plain."""
    labels = np.arange(images) % 2
    forest = two_step_classifier().set_params(n_estimators=20).fit(labels[:, None] + 0.0, labels)
    assert {bool(tree.get_depth()) for tree in forest.estimators_} == {splits}
