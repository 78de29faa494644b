"""Patches of mammograms around annotated lesions and from the background, on which patch classifiers are trained.

Shen and others, "End-to-end training for whole image breast cancer diagnosis using an all convolutional design", 2017,
section 3.1.1: the patch set S1 has one patch centred on each region and one random background patch of the same
image, S10 ten patches around each region, with an overlap of at least 0.9, and as many background patches.
"""

import hashlib
import warnings
from numbers import Integral

import cv2
import numpy as np
import pandas as pd

from .. import _progress
from .._nearest import unknown
from .regions import region_mask

PATCH_CLASSES = ("background", "malignant mass", "benign mass", "malignant calcification", "benign calcification")
PATCH_SETS = {"S1": 1, "S10": 10}  # patches of each region
OVERLAP = 0.9  # of a patch of S10 with its region, at least
BREAST = 0.5  # of a background patch shows the breast, at least
MASK_SIDE = 256  # pixels of the longer side at which the breast is found
LISTED = 20  # images that a warning names
CHUNK = 32  # images between two lines of progress


class PatchImages:
    """The pixels of sampled patches, in the order of the patches: what `Batches` takes for images.

    Nothing is copied before it is read. Where `images` are `CachedImages`, reading is safe from several threads and
    processes, and pickling passes on the name of their file.

    Args:
        images: `CachedImages`, or an array of shape (n, height, width, channels).
        patches: DataFrame as `sample_patches` gives it, of these images.
        size: side of the patches in pixels, as they were sampled.

    Attributes:
        shape: (patches, size, size, channels).

    Raises:
        ValueError: if a patch is of an image that is not there, or reaches over the edge of its frame.

    Example:

    ```python
    images = cached_images(table, (1152, 896), channels=1)
    patches = sample_patches(table, images)
    labels = encode_labels(patches, PATCH_CLASSES)
    batches = Batches(PatchImages(images, patches, 224), labels, batch_size=32, shuffle=True, balance=True)
    ```
    """

    def __init__(self, images, patches, size):
        count, height, width, channels = images.shape
        self.images = images
        self.size = size
        self.shape = (len(patches), size, size, channels)
        self._places = patches[["row", "top", "left"]].to_numpy("int64")
        fits = (self._places >= 0) & (self._places < [count, height - size + 1, width - size + 1])
        wrong = np.flatnonzero(~fits.all(axis=1))
        if wrong.size:
            row, top, left = self._places[wrong[0]].tolist()
            raise ValueError(
                f"patch {wrong[0]} of {size} pixels is at ({top}, {left}) of image {row}, "
                f"expected a place in {count} frames of {height}x{width}"
            )

    def __len__(self):
        return len(self._places)

    def read(self, indices):
        """Patches by their position in the table of patches.

        Args:
            indices: sequence of n integers.

        Returns:
            array of shape (n, size, size, channels) with values in [0, 255], uint8 where the images are.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise ValueError(f"indices is {indices.dtype} of shape {indices.shape}, expected a list of integers")
        if not indices.size:
            return np.zeros((0, *self.shape[1:]), "uint8")
        size = self.size
        places = self._places[indices.astype("int64")]
        return np.stack([self.images[row][y : y + size, x : x + size] for row, y, x in places])


def sample_patches(table, images, patch_set="S10", size=224, seed=0):
    """Samples patches around the annotated regions of mammograms and from the background (section 3.1.1).

    The overlap of a patch and a region is the area that they share, divided by the smaller of their areas, as in the
    authors' code (`lishen/end2end-all-conv`). It is computed for every place in the frame, and places are drawn
    uniformly, without repetition, from all those that qualify:

    - S1: one patch for each region, centred on the region's centre of mass; at the border, shifted into the frame.
    - S10: ten patches for each region, of the places with an overlap of at least 0.9. Where fewer than ten places
      have that (a thin region that is longer than the patch), those of the largest overlap, with a warning.
    - As many background patches of the same image: no pixel of any region, and at least half of the patch in the
      breast (`breast_mask`). Where an image has too few such places, fewer, with a warning.

    The authors' code differs from their paper: it draws S10 around points of the region's bounding box, with
    repetition, pads the image so that patches reach beyond it, lowers an overlap that it does not find, lets
    background overlap a region by up to 0.35 (and looks at one region at a time), and stretches the contrast of every
    patch to the full range.

    Images whose `regions` are empty or None give no patches. An image with a region that cannot be placed is left
    out, as its lesion might pass for background, and is named in a warning.

    The patches of an image depend on its name, regions and pixels and on `seed` alone, not on the rest of the table.

    Args:
        table: an image table with `regions`.
        images: the table's images in its order: `CachedImages`, or an array of shape (n, height, width, channels)
            with values in [0, 255], whose frames are filled by their images.
        patch_set: "S1" or "S10".
        size: side of the patches in pixels.
        seed: 0 or more.

    Returns:
        DataFrame with a row a patch, in the order of the table: `row` (position in the table), `image`, `subject`,
        `split` (where the table has it), `top` and `left` (pixels, of the corner in the frame), `label` (the region's,
        or "background").

    Raises:
        ValueError: an unknown patch set, a size that the frames do not hold, images that are not the table's, or no
            region in the whole table.

    Example:

    ```python
    table = datasets.read("mini_mias", "~/data/mini_mias")
    patches = sample_patches(table, cached_images(table, (1024, 1024), channels=1), "S10")
    patches["label"].value_counts()
    ```
    """
    if patch_set not in PATCH_SETS:
        raise ValueError(unknown("patch set", patch_set, PATCH_SETS))
    if len(images) != len(table):
        raise ValueError(f"images: received {len(images)}, expected {len(table)}, one for each row of the table")
    height, width = images.shape[1:3]
    if not isinstance(size, Integral) or not 0 < size <= min(height, width):
        raise ValueError(
            f"size is {size!r}, expected 1 to {min(height, width)}: the frames are {height}x{width} pixels"
        )
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed is {seed!r}, expected a whole number, 0 or more")
    regions = list(table["regions"]) if "regions" in table else []
    rows = [row for row, found in enumerate(regions) if isinstance(found, (list, tuple)) and len(found)]
    if not rows:
        raise ValueError(f"table of {table.attrs.get('dataset')!r}: no image has regions, expected at least one")
    windows = getattr(images, "windows", None)
    kept = [name for name in ("image", "subject", "split") if name in table]
    patches, left_out, far, few = [], [], [], []
    for done, row in enumerate(rows, 1):
        facts = {"row": row, **{name: table[name].iloc[row] for name in kept}}
        window = (0, 0, height, width) if windows is None else windows[row]
        try:
            masks = _frame_masks(regions[row], (height, width), window, table.attrs.get("root"))
        except (OSError, ValueError) as error:
            left_out.append(f"{facts['image']}: {error}")
        else:
            random = np.random.default_rng([seed, _number(facts["image"])])
            for region, mask in zip(regions[row], masks, strict=True):
                places, overlap = _lesion_places(mask, patch_set, size, random)
                patches += [{**facts, "top": top, "left": left, "label": region.label} for top, left in places]
                if patch_set == "S10" and overlap < OVERLAP:
                    far.append(f"{facts['image']}: {region.label}, overlap from {overlap:.2f}")
            wanted = PATCH_SETS[patch_set] * len(masks)
            places = _background_places(images[row], window, np.any(masks, axis=0), size, wanted, random)
            patches += [{**facts, "top": top, "left": left, "label": PATCH_CLASSES[0]} for top, left in places]
            if len(places) < wanted:
                few.append(f"{facts['image']}: {len(places)} of {wanted}")
        if done % CHUNK == 0 or done == len(rows):
            _progress.show("sampling patches", done, len(rows))
    _warn(left_out, "image(s) with a region that cannot be placed, left out")
    _warn(far, f"region(s) without {PATCH_SETS[patch_set]} places of overlap {OVERLAP}: the nearest are taken")
    _warn(few, "image(s) with too few background places")
    return pd.DataFrame(patches, columns=["row", *kept, "top", "left", "label"])


def breast_mask(image):
    """Where a mammogram shows the breast: the largest bright area.

    The threshold is Otsu's on the cube root of the intensities, which brings fat at the skin line closer to dense
    tissue than to the black around; what is thin or smaller, such as labels and scratches, is left out. Found so on
    scanned film and on digital images; not for images that are dark on bright.

    Args:
        image: array of shape (height, width, channels) with values in [0, 255].

    Returns:
        bool array of shape (height, width).
    """
    grey = np.asarray(image, "float32").mean(axis=-1)
    height, width = grey.shape
    scale = min(1, MASK_SIDE / max(height, width))
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.GaussianBlur(cv2.resize(grey, shape, interpolation=cv2.INTER_AREA), (5, 5), 0)
    low, high = np.percentile(small, (1, 99))
    roots = np.cbrt(np.clip((small - low) / max(high - low, 1), 0, 1))
    _, bright = cv2.threshold(np.rint(255 * roots).astype("uint8"), 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    bright = cv2.morphologyEx(bright, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    count, areas, facts, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    largest = 1 + np.argmax(facts[1:, cv2.CC_STAT_AREA]) if count > 1 else 1
    return cv2.resize((areas == largest).astype("uint8"), (width, height), interpolation=cv2.INTER_NEAREST) > 0


def _number(name):
    """A number that is the image's own on every machine, for its random generator."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _frame_masks(regions, shape, window, root):
    """The regions as bool masks on the frame, in which the image fills the window."""
    top, left, height, width = (int(value) for value in window)
    masks = np.zeros((len(regions), *shape), bool)
    for mask, region in zip(masks, regions, strict=True):
        mask[top : top + height, left : left + width] = region_mask(region, (height, width), root)
    return masks


def _covered(mask, size):
    """Pixels of a mask in the patch at every place: int array (height - size + 1, width - size + 1)."""
    sums = cv2.integral(mask.astype("uint8"))
    return sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]


def _lesion_places(mask, patch_set, size, random):
    """Corners of the patches of one region, as a list of (top, left), and the smallest overlap of a patch with it."""
    overlaps = _covered(mask, size) / min(size**2, np.count_nonzero(mask))
    if patch_set == "S1":
        highest = np.array(overlaps.shape) - 1
        centre = np.argwhere(mask).mean(axis=0) + 0.5
        place = np.clip(np.rint(centre - size / 2), 0, highest).astype(int)
        return [tuple(place.tolist())], overlaps[tuple(place)]
    count = PATCH_SETS[patch_set]
    flat = overlaps.ravel()
    chosen = np.flatnonzero(flat >= OVERLAP)
    if len(chosen) < count:  # the largest overlaps, equal ones in a random order
        chosen = np.lexsort((random.random(len(flat)), -flat))[:count]
    else:
        chosen = random.choice(chosen, count, replace=False)
    return _corners(chosen, overlaps.shape), flat[chosen].min()


def _background_places(image, window, lesions, size, count, random):
    """Corners of `count` patches of breast without lesion, fewer where there are not as many."""
    top, left, height, width = (int(value) for value in window)
    breast = np.zeros_like(lesions)
    breast[top : top + height, left : left + width] = breast_mask(image[top : top + height, left : left + width])
    free = (_covered(lesions, size) == 0) & (_covered(breast, size) >= BREAST * size**2)
    places = np.flatnonzero(free)
    return _corners(random.choice(places, min(count, len(places)), replace=False), free.shape)


def _corners(positions, shape):
    return list(zip(*(axis.tolist() for axis in np.unravel_index(positions, shape)), strict=True))


def _warn(images, what):
    """One warning for all images that something is wrong with."""
    if images:
        more = [f"and {len(images) - LISTED} more"] if len(images) > LISTED else []
        warnings.warn("\n  ".join([f"{len(images)} {what}", *images[:LISTED], *more]), stacklevel=3)
