"""Chest X-rays of children from Guangzhou, normal or with pneumonia, several images of many.

Kermany and others, Identifying medical diagnoses and treatable diseases by image-based deep learning, Cell 172:1122,
2018: 5856 JPEG files of children of one to five years, 1583 normal and 4273 with pneumonia by bacteria or virus.

File names say whom an image shows. In the third version of the release they hold the number of the patient
(`BACTERIA-1008087-0001.jpeg`). In the second, which most use (Kaggle, "Chest X-Ray Images (Pneumonia)"),
`person17_virus_48.jpeg` is of person 17, `IM-0115-0001.jpeg` and `NORMAL2-IM-0115-0001.jpeg` are of study 115. Nobody
has documented whether a number that occurs both with `bacteria` and with `virus`, or with and without `NORMAL2`, stands
for one child or two there, so the reader takes it for one: taking two for one lets nothing leak, taking one for two
would.
"""

import re
import warnings
from pathlib import Path

from .images import KINDS, image_files
from .table import image_table

CLASSES = ("NORMAL", "PNEUMONIA")
PARTS = {"train": "train", "val": "validation", "test": "test"}
NAMES = {
    "NORMAL": re.compile(r"(?:NORMAL2-)?(IM-\d+)-.+|NORMAL-(\d+)-\d+"),
    "PNEUMONIA": re.compile(r"(person\d+)_(?:bacteria|virus)_.+|(?:BACTERIA|VIRUS)-(\d+)-\d+"),
}


def read_kermany(path):
    """Reads the chest X-rays of Kermany and others, with or without the published parts.

    The published parts have numbers of children in common; if so, a warning counts them, and `medzoo.datasets.split`
    makes parts that have not.

    Args:
        path: the folder that holds `NORMAL/` and `PNEUMONIA/`, or that holds `train/`, `val/` and `test/` (or some of
            these), each with the two.

    Returns:
        An image table: classes "NORMAL" and "PNEUMONIA", `subject` from the file's name, and where the folder has
        parts, `split` ("train", "validation", "test").

    Raises:
        FileNotFoundError: if the folder or a class folder is missing, or a class folder holds no images.
        ValueError: if a file's name does not say whom it shows.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder, expected the class folders {', '.join(CLASSES)}")
    parts = {path / name: part for name, part in PARTS.items() if (path / name).is_dir()} or {path: None}
    rows = []
    for folder, part in parts.items():
        for label in CLASSES:
            for file in _class_files(folder / label):
                match = NAMES[label].fullmatch(file.stem)
                if not match:
                    example = {"NORMAL": "IM-0115-0001", "PNEUMONIA": "person17_virus_48"}[label]
                    raise ValueError(f"{file}: its name does not say whom it shows, expected one such as {example}")
                row = {"image": file.absolute(), "subject": match[1] or match[2], "label": label}
                rows.append(row if part is None else {**row, "split": part})
    table = image_table(rows, dataset="kermany", root=path, classes=CLASSES, subjects="named")
    if "split" in table:
        shared = int((table.groupby("subject")["split"].nunique() > 1).sum())
        if shared:
            warnings.warn(
                f"{path}: {shared} of {table['subject'].nunique()} subjects are in more than one of the published "
                "parts; datasets.split makes parts that share none",
                stacklevel=2,
            )
    return table


def _class_files(folder):
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected the class folders {', '.join(CLASSES)}")
    files = image_files(folder)
    if not files:
        raise FileNotFoundError(f"{folder}: no images in this class folder, expected {KINDS}")
    return files
