"""Crops and mirrorings of images for validation and test, whose predictions are averaged."""

from functools import partial

from .._nearest import unknown

# The corners and the centre, each also mirrored (Krizhevsky and others 2012, section 4.1): arguments of `crop_images`.
TEN_CROPS = tuple(
    (place, mirror)
    for mirror in (False, True)
    for place in ("top left", "top right", "bottom left", "bottom right", "centre")
)

# As they are, and mirrored in three ways (Shen and others, section 3.1.4): arguments of `flip_images`.
FOUR_FLIPS = tuple((vertical, horizontal) for vertical in (False, True) for horizontal in (False, True))


def crop_images(images, size, place="centre", mirror=False):
    """Cuts the same window out of every image.

    Args:
        images: array (..., height, width, channels) of any kind.
        size: (height, width) of the window.
        place: `"centre"` (an odd margin is one pixel larger below and on the right, as in
            `training.crop_augmentation`), or a corner, such as `"top left"`.
        mirror: whether the window is mirrored left and right.

    Returns:
        view of shape (..., *size, channels).

    Raises:
        ValueError: the place is unknown or an image smaller than the window.

    Example:

    ```python
    scores = np.mean([model.predict(crop_images(images, (224, 224), *crop)) for crop in TEN_CROPS], axis=0)
    ```
    """
    margins = [images.shape[-3] - size[0], images.shape[-2] - size[1]]
    if min(margins) < 0:
        raise ValueError(f"size: received {tuple(size)} for images of {images.shape[-3:-1]}, expected none larger")
    if (place, mirror) not in TEN_CROPS:
        raise ValueError(unknown("place", place, [place for place, mirror in TEN_CROPS if not mirror]))
    if place == "centre":
        top, left = margins[0] // 2, margins[1] // 2
    else:
        top = margins[0] if place.startswith("bottom") else 0
        left = margins[1] if place.endswith("right") else 0
    window = images[..., top : top + size[0], left : left + size[1], :]
    return window[..., ::-1, :] if mirror else window


def size_before_crop(size, crop):
    """The size to which images are resized before a share of them is cropped.

    Args:
        size: (height, width) of the crop.
        crop: share of height and width that it keeps, in (0, 1].

    Returns:
        (height, width), `size` / `crop` rounded to whole pixels.

    Example:

    ```python
    >>> size_before_crop((1792, 2304), 0.875)
    (2048, 2633)
    ```
    """
    return tuple(round(side / crop) for side in size)


def flip_images(images, vertical=False, horizontal=False):
    """Mirrors every image.

    Args:
        images: array (..., height, width, channels) of any kind.
        vertical: whether top and bottom change places.
        horizontal: whether left and right do.

    Returns:
        view of the same shape.

    Example:

    ```python
    scores = np.mean([model.predict(flip_images(images, *flips)) for flips in FOUR_FLIPS], axis=0)
    ```
    """
    return images[..., :: -1 if vertical else 1, :: -1 if horizontal else 1, :]


class _Views:
    """Stored images of which `view` is read."""

    def __init__(self, images, view):
        self.images = images
        self.view = view

    def __len__(self):
        return len(self.images)

    def read(self, indices):
        """The images at these positions: (len(indices), height, width, channels), of the kind that is stored."""
        return self.view(self.images.read(indices))


class CroppedImages(_Views):
    """One crop of stored images, to be used as the `images` of `datasets.Batches`.

    Args:
        images: `datasets.CachedImages`, larger than `size`: of `size_before_crop`.
        size, place, mirror: as for `crop_images`.

    Example:

    ```python
    images = datasets.cached_images(table, size_before_crop((224, 224), 0.875))
    validation = datasets.Batches(CroppedImages(images, (224, 224)), datasets.encode_labels(table))
    ```
    """

    def __init__(self, images, size, place="centre", mirror=False):
        super().__init__(images, partial(crop_images, size=size, place=place, mirror=mirror))


class FlippedImages(_Views):
    """Stored images mirrored, to be used as the `images` of `datasets.Batches`.

    Args:
        images: `datasets.CachedImages`, or what reads as they do.
        vertical, horizontal: as for `flip_images`.

    Example:

    ```python
    labels = datasets.encode_labels(table)
    batches = [datasets.Batches(FlippedImages(images, *flips), labels) for flips in FOUR_FLIPS]
    scores = np.mean([model.predict(flipped) for flipped in batches], axis=0)
    ```
    """

    def __init__(self, images, vertical=False, horizontal=False):
        super().__init__(images, partial(flip_images, vertical=vertical, horizontal=horizontal))
