"""BUSI: breast ultrasound images of women in Cairo, benign, malignant or without a lesion ("normal").

Al-Dhabyani and others, Dataset of breast ultrasound images, Data in Brief 28:104863, 2020. 437 benign, 210 malignant
and 133 normal images as published. The dataset names no patients, and close to half of its images have a twin, the
same lesion pictured again (Pawłowska and others, Data in Brief 48:109247, 2023), so the reader takes groups of twins
as subjects.
"""

import re
from pathlib import Path

from .._nearest import unknown
from .folder import class_root
from .images import image_files
from .regions import Region
from .table import image_table

CLASSES = ("benign", "malignant", "normal")
MASK = re.compile(r"_mask(_\d+)?$")


def read_busi(path, classes=("benign", "malignant"), twins=True):
    """Reads BUSI in its original layout, with or without the mask files beside the images.

    Args:
        path: the folder that holds `benign/`, `malignant/` and `normal/`, or the folder above it.
        classes: which classes, in the order of the class index.
        twins: whether groups of twins are the subjects. If not, each image is its own subject, and the table says
            so (`attrs["subjects"] == "none"`).

    Returns:
        An image table; where the folder holds masks, `regions` lists those of each image, labelled with its class.
        Images of the class "normal" have none: their mask files are empty.

    Raises:
        FileNotFoundError: if the folder, or a class folder, is missing or holds no images.
        ValueError: if `classes` names a class that BUSI does not have, or two folders in `path` hold them.
    """
    if isinstance(classes, str) or not classes or len(set(classes)) != len(tuple(classes)):
        raise ValueError(f"classes is {classes!r}, expected a tuple of distinct names of {', '.join(CLASSES)}")
    for name in classes:
        if name not in CLASSES:
            raise ValueError(unknown("class of BUSI", name, CLASSES))
    root = class_root(Path(path).expanduser(), classes)
    rows = []
    for label in classes:
        files = image_files(root / label)
        regions = {}
        for file in files:
            if MASK.search(file.stem):
                region = Region(label, mask=file.relative_to(root).as_posix())
                regions.setdefault(MASK.sub("", file.stem), []).append(region)
        images = [file for file in files if not MASK.search(file.stem)]
        if not images:
            raise FileNotFoundError(f"{root / label}: no images, expected files such as '{label} (1).png'")
        for file in images:
            located = [] if label == "normal" else regions.get(file.stem)
            rows.append({"image": file, "label": label, "regions": located})
    if not any(row["regions"] for row in rows):
        for row in rows:
            del row["regions"]
    table = image_table(rows, dataset="busi", root=root, classes=classes, subjects="none")
    if not twins:
        return table
    from .twins import twin_subjects

    return twin_subjects(table)
