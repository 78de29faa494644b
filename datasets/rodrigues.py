"""Breast ultrasound images of lesions, benign or malignant: small bitmaps without any further data.

P. S. Rodrigues, Breast Ultrasound Image, Mendeley Data, version 1, 2017, doi 10.17632/wmy84gzngw.1, CC BY 4.0. 100
benign and 150 malignant images as published, from 93 x 57 to 199 x 161 pixels. The dataset names no patients, so the
reader takes groups of twins as subjects, as that of BUSI does.
"""

from pathlib import Path

from .folder import class_root, read_folder

CLASSES = ("benign", "malignant")


def read_rodrigues(path, twins=True):
    """Reads the dataset as its archive has it: `originals/benign/*.bmp` and `originals/malignant/*.bmp`.

    Args:
        path: the folder that holds `benign/` and `malignant/`, or one at any height above it. Other formats than
            bitmaps are read too.
        twins: whether groups of twins are the subjects. If not, each image is its own subject, and the table says
            so (`attrs["subjects"] == "none"`).

    Returns:
        An image table.

    Raises:
        FileNotFoundError: if the folder, or a class folder, is missing or holds no images.
        ValueError: if several folders below `path` hold class folders, as copies in another format do.
    """
    root = class_root(Path(path).expanduser(), CLASSES, recursive=True)
    table = read_folder(root, twins=twins, classes=CLASSES)
    table.attrs["dataset"] = "rodrigues"
    return table
