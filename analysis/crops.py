"""Crops of images for validation and test: the centre, or ten whose predictions are averaged."""

from .._nearest import unknown

# The corners and the centre, each also mirrored (Krizhevsky and others 2012, section 4.1): arguments of `crop_images`.
TEN_CROPS = tuple(
    (place, mirror)
    for mirror in (False, True)
    for place in ("top left", "top right", "bottom left", "bottom right", "centre")
)


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


class CroppedImages:
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
        self.images = images
        self.crop = (size, place, mirror)

    def __len__(self):
        return len(self.images)

    def read(self, indices):
        """The crops of the images at these positions: (len(indices), *size, channels), as `images` has them."""
        return crop_images(self.images.read(indices), *self.crop)
