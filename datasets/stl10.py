"""STL-10: small photographs of ten kinds of things, cut out of ImageNet, in a few binary files.

Coates and others, An analysis of single-layer networks in unsupervised feature learning, AISTATS, 2011. 500 training
and 800 test images of 96 x 96 pixels a class, 13000 in all; the 100000 unlabelled ones are not read. Whose images they
are is not told, so each stands for itself.
"""

from pathlib import Path

import numpy as np

from .containers import count_stl, member_names
from .table import image_table

PARTS = ("train", "test")
CLASSES = 10
NAMES = "class_names.txt"


def read_stl10(path):
    """Reads the labelled part of STL-10 from its binary files.

    Args:
        path: the folder that holds `train_X.bin`, `train_y.bin`, `test_X.bin`, `test_y.bin` and `class_names.txt`.

    Returns:
        An image table without known subjects: the ten classes in the order of `class_names.txt`, `split` ("train",
        "test"), and images in containers (`train_X.bin#000123`), see `medzoo.datasets.containers`.

    Raises:
        FileNotFoundError: if one of the files is missing.
        ValueError: if `class_names.txt` does not name ten classes, a file of images has a size that is no multiple of
            an image's, a file of labels has another number of them, or a label is none of 1 to 10.
    """
    path = Path(path).expanduser()
    names = path / NAMES
    if not names.is_file():
        raise FileNotFoundError(f"{names}: no such file, expected the names of the {CLASSES} classes, one a line")
    try:
        classes = names.read_text(encoding="utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise ValueError(f"{names}: not readable as UTF-8 ({error}), expected {CLASSES} names, one a line") from error
    if len(set(classes)) != CLASSES or len(classes) != CLASSES:
        raise ValueError(f"{names}: {len(set(classes))} different names, expected those of the {CLASSES} classes")
    rows = []
    for part in PARTS:
        images, labels = path / f"{part}_X.bin", path / f"{part}_y.bin"
        count = count_stl(images)
        if not labels.is_file():
            raise FileNotFoundError(f"{labels}: no such file, expected the labels of {images.name}")
        codes = np.fromfile(labels, "uint8")
        if len(codes) != count:
            raise ValueError(f"{labels}: {len(codes)} labels, expected {count}, one for each image of {images.name}")
        for number, (name, code) in enumerate(zip(member_names(images, count), codes, strict=True)):
            if not 1 <= code <= CLASSES:
                raise ValueError(f"{labels}: label {number} is {code}, expected 1 to {CLASSES}")
            rows.append({"image": name, "label": classes[code - 1], "split": part})
    return image_table(rows, dataset="stl10", root=path, classes=classes, subjects="none")
