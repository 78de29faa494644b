"""Regions of heatmaps as features of a random forest: what stood before networks that are trained end to end.

Section 3.1.4 of Shen and others, "The two-step approach": the patch classifier's heatmap is cut at four probabilities,
connected regions above each cutoff are measured, and a random forest classifies the image by them.
"""

import numpy as np
from sklearn.ensemble import RandomForestClassifier

# Of the whole map, then of its largest region: names of scikit-image's `regionprops`. Areas and lengths in cells.
WHOLE = ("regions", "total area", "highest probability")
LARGEST = ("area", "axis_major_length", "eccentricity", "intensity_mean", "intensity_max")


def regional_features(heatmaps, thresholds=(0.3, 0.5, 0.7, 0.9)):
    """Measures the regions of heatmaps in which the probability of a lesion reaches a cutoff.

    The paper names area, major axis length and mean intensity as examples and does not list the others. Cells that
    touch at a corner are of one region; of equally large regions the brighter one counts as the largest.

    Args:
        heatmaps: array (n, height, width, classes) of probabilities in [0, 1]; class 0 is the background, which is not
            measured.
        thresholds: the cutoffs.

    Returns:
        features: float64 (n, (classes - 1) * cutoffs * 8), 0 where there is no region.
        names: of the columns, such as `"class 1 from 0.3: largest area"`.

    Raises:
        ModuleNotFoundError: without scikit-image, which the extra `two-step` installs.
        ValueError: heatmaps of another shape.

    Example:

    ```python
    features, names = regional_features(patch_heatmap(patch_model, (1152, 896, 1)).predict(images))
    forest = two_step_classifier(seed=0).fit(features, labels)
    ```
    """
    heatmaps = np.asarray(heatmaps)
    if heatmaps.ndim != 4 or heatmaps.shape[-1] < 2:
        raise ValueError(
            f"heatmaps: received the shape {heatmaps.shape}, expected (n, height, width, classes) with the background "
            "and at least one other class"
        )
    lesions = range(1, heatmaps.shape[-1])
    features = [
        _measure(heatmap[..., lesion], threshold)
        for heatmap in heatmaps
        for lesion in lesions
        for threshold in thresholds
    ]
    names = [
        f"class {lesion} from {threshold:g}: {feature}"
        for lesion in lesions
        for threshold in thresholds
        for feature in (*WHOLE, *(f"largest {name}" for name in LARGEST))
    ]
    return np.array(features, dtype=float).reshape(len(heatmaps), len(names)), names


def _measure(heatmap, threshold):
    """The features of one class and cutoff in one map."""
    measure = _scikit_image()
    regions = measure.label(heatmap >= threshold)
    if not regions.any():
        return [0.0] * (len(WHOLE) + len(LARGEST))
    inside = regions > 0
    areas = np.bincount(regions[inside])
    # Before the properties of scikit-image, which take their time, and of which those of one region are asked for.
    largest = np.lexsort((np.bincount(regions[inside], heatmap[inside]), areas))[-1]
    (region,) = measure.regionprops((regions == largest).astype(int), heatmap)
    return [regions.max(), areas.sum(), heatmap[inside].max(), *(getattr(region, name) for name in LARGEST)]


def _scikit_image():
    try:
        from skimage import measure
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "regional_features: received no package skimage, expected the extra: pip install 'medzoo[two-step]'"
        ) from None
    return measure


def two_step_classifier(seed=0):
    """The random forest of section 3.1.4, unfitted: 500 trees, at most 9 deep, that split no fewer than 300 images.

    300 is the printed value, for the paper's 1900 or so training images. A tree sees the images that its bootstrap
    draws, 63 % of those that there are: below about 460 images no tree splits and the forest says the same of every
    image, an AUC of 0.5; up to about 490 some trees do. With few images set `min_samples_split` to about 15 % of them
    (`two_step_classifier().set_params(min_samples_split=...)`) and say so.

    Args:
        seed: of the forest.

    Returns:
        `sklearn.ensemble.RandomForestClassifier`.
    """
    return RandomForestClassifier(n_estimators=500, max_depth=9, min_samples_split=300, random_state=seed)
