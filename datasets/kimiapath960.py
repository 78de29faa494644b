"""KimiaPath960: patches of whole-slide images of muscle, epithelial and connective tissue, 48 of each of twenty slides.

Kumar and others, A comparative study of CNN, BoVW and LBP for classification of histopathological images, IEEE
Symposium Series on Computational Intelligence, 2017. 960 colour images of 308 x 168 pixels. A class is what one slide
looks like: slide and class are the same, so that no split can keep slides apart and have all classes on both sides. The
reader therefore names no subjects; what is reached on these images says how well one slide is told from another.
"""

import re
from pathlib import Path

from .images import KINDS, image_files
from .table import image_table

CLASSES = tuple("ABCDEFGHIJKLMNOPQRST")
PATCHES = 48
NAME = re.compile(r"([A-Z])(\d+)")


def read_kimiapath960(path):
    """Reads KimiaPath960, the original TIFF files or a conversion that keeps their names.

    Args:
        path: the folder that holds `A1.tif` to `T48.tif`.

    Returns:
        An image table without known subjects: classes "A" to "T", a slide each.

    Raises:
        FileNotFoundError: if the folder, or the images of a class, are missing.
        ValueError: if a file's name is not of a letter from A to T and a number from 1 to 48.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder, expected A1.tif to T48.tif")
    rows = []
    for file in image_files(path):
        match = NAME.fullmatch(file.stem)
        if not match or match[1] not in CLASSES or not 1 <= int(match[2]) <= PATCHES:
            raise ValueError(f"{file}: its name is none of A1 to T{PATCHES}, of which the letter is the class")
        rows.append({"image": file.absolute(), "label": match[1]})
    missing = sorted(set(CLASSES).difference(row["label"] for row in rows))
    if missing:
        raise FileNotFoundError(
            f"{path}: no image of class {missing[0]!r}, expected {missing[0]}1.tif and so on ({KINDS})"
        )
    return image_table(rows, dataset="kimiapath960", root=path, classes=CLASSES, subjects="none")
