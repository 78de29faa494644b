"""Where the lesions of an image lie: an outline in fractions of the image, or a mask file of its own.

Both are independent of the size at which an image is read. An image table has them in its column `regions`: a list of
`Region`; `[]` is an image without lesions, None one whose lesions nobody located.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pydicom
from PIL import Image

from .images import DICOM_SUFFIXES, convert_channels, read_image, resize_image

LESIONS = ("malignant mass", "benign mass", "malignant calcification", "benign calcification")
CIRCLE_POINTS = 64
SHIFT = 8  # OpenCV takes points as integers with this many bits of fraction


@dataclass(frozen=True)
class Region:
    """One lesion's place in its image: an outline or a mask, exactly one of the two.

    Attributes:
        label: what it is: one of `LESIONS` in mammograms, in other images the name of its class.
        outline: at least three points (x, y) in fractions of the stored image's width and height, y down; the last
            is joined to the first. Points may lie beyond the border, up to the image's own size; what is there is cut
            off.
        mask: path of an image that is bright where the lesion is, relative to the table's `attrs["root"]` or absolute.
            It shows the whole image, in whatever size.

    Raises:
        ValueError: if there is neither outline nor mask, or both, or the outline is not one in fractions.
    """

    label: str
    outline: tuple | None = None
    mask: str | None = None

    def __post_init__(self):
        if (self.outline is None) == (self.mask is None):
            raise ValueError(f"region {self.label!r}: expected an outline or a mask, exactly one of the two")
        if self.outline is not None:
            points = tuple((float(x), float(y)) for x, y in self.outline)
            if len(points) < 3:
                raise ValueError(f"region {self.label!r}: an outline of {len(points)} points, expected 3 or more")
            for point in points:
                if not all(-1 <= value <= 2 for value in point):
                    raise ValueError(
                        f"region {self.label!r}: point {point} of its outline, expected fractions of the image, "
                        "0 to 1 (down to -1 and up to 2 where it reaches over the border)"
                    )
            object.__setattr__(self, "outline", points)


def circle_outline(x, y, radius, width, height):
    """The outline of a circle, as a polygon of 64 points.

    Args:
        x: the centre's distance from the left border, in pixels.
        y: the centre's distance from the top border, in pixels.
        radius: in pixels.
        width: of the image, in pixels.
        height: of the image, in pixels.

    Returns:
        Tuple of 64 points (x, y) in fractions of the width and the height.
    """
    angles = [2 * math.pi * number / CIRCLE_POINTS for number in range(CIRCLE_POINTS)]
    return tuple(((x + radius * math.cos(a)) / width, (y + radius * math.sin(a)) / height) for a in angles)


def region_mask(region, size, root="."):
    """A region as an array, on its whole image stretched to a size.

    A mask file is bright where it reaches more than half of its own maximum, so that masks of 0 and 1 are read like
    those of 0 and 255, and JPEG's noise is none of the lesion. However small the size, a lesion keeps a pixel.

    Args:
        region: a `Region`.
        size: (height, width) in pixels.
        root: folder that the path of the mask is relative to, `table.attrs["root"]`.

    Returns:
        bool array of shape (height, width), True in the region.

    Raises:
        FileNotFoundError: if there is no such mask file.
        ValueError: if the outline lies outside the image, or the mask is empty or no image.
    """
    height, width = size
    if region.mask is not None:
        file = Path(root) / region.mask
        mask = convert_channels(read_image(file), 1)
        if mask.max() == 0:
            raise ValueError(f"{file}: an empty mask, expected it bright where the {region.label} is")
        covered = resize_image(mask > mask.max() / 2, size)[..., 0]
        return covered >= min(0.5, covered.max())
    # Pixel (0, 0) of OpenCV is the middle of the first pixel, that of an outline is the image's corner.
    points = np.array(region.outline) * (width, height) - 0.5
    points = np.rint(points * 2**SHIFT).astype("int32")
    mask = np.zeros((height, width), "uint8")
    cv2.fillPoly(mask, [points], 1, shift=SHIFT)
    if not mask.any():
        raise ValueError(f"region {region.label!r}: outline around {region.outline[0]}, expected inside its image")
    return mask.astype(bool)


def image_size(path):
    """The size of an image file in pixels, from its header alone.

    Args:
        path: the file.

    Returns:
        (height, width), or None where the file has no header of an image: a damaged one is reported when it is read.
    """
    try:
        if Path(path).suffix.lower() in DICOM_SUFFIXES:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
            size = header.get("Rows"), header.get("Columns")
        else:
            with Image.open(path) as image:
                size = image.height, image.width
    except Exception:  # Pillow and pydicom raise whatever they like on damaged files
        return None
    return size if all(size) else None
