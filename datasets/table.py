"""The image table: a pandas DataFrame with one row an image, which every reader returns and everything else takes.

Columns: `image` (POSIX path relative to `table.attrs["root"]`, absolute where the file lies outside), `subject`
(whoever must not be on both sides of a split), `label`, and where a dataset has them `split`, `view` (such as `"CC"`),
`laterality` (`"L"` or `"R"`), `regions` (list of `medzoo.datasets.Region`; `[]` is an image without lesions, None one
whose lesions nobody located), `age` (years, NaN where unknown), `site` and `machine` (text).

`table.attrs` holds `dataset` (its name), `root` (absolute path), `classes` (names in the order of the class index;
the last is the positive one of two) and `subjects`: `"named"` by the dataset, `"twins"` for groups of images that
show the same thing (`medzoo.datasets.twins`), or `"none"` where no subject is known and each image stands for itself.

In a multi-label table, where an image may show several findings or none, `attrs` also holds `multi_label`, True: the
classes are the findings, and `label` is those present joined by `"|"` in class order, or `"No Finding"`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from .regions import Region

REQUIRED = ("image", "subject", "label")
OPTIONAL = ("split", "view", "laterality", "regions", "age", "site", "machine")
SUBJECTS = ("named", "twins", "none")
NO_FINDING = "No Finding"
SEPARATOR = "|"  # between the findings of one image


def image_table(rows, dataset, root, classes, subjects, multi_label=False):
    """Makes a checked image table, sorted by `image`.

    Args:
        rows: mappings (or a DataFrame) with `image` (path, absolute or relative to `root`), `label`, `subject` and
            any of the optional columns. `subject` may be left out when `subjects` is `"none"`: each image is then
            its own subject.
        dataset: the dataset's name.
        root: folder that the paths are relative to.
        classes: label names in the order of the class index.
        subjects: `"named"`, `"twins"` or `"none"`.
        multi_label: whether an image may have several of the classes, or none.

    Returns:
        An image table.

    Raises:
        ValueError: if a row, a label or an argument does not fit; see `check_table`.
    """
    root = Path(os.path.abspath(Path(root).expanduser()))
    rows = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else [dict(row) for row in rows]
    for row in rows:
        if "image" in row:
            row["image"] = _relative(row["image"], root)
            if subjects == "none":
                row.setdefault("subject", row["image"])
    present = {name for row in rows for name in row}
    unknown = sorted(present.difference(REQUIRED, OPTIONAL))
    if unknown:
        raise ValueError(f"image table of {dataset!r}: unknown column {unknown[0]!r}, expected {_columns()}")
    columns = [*REQUIRED, *(name for name in OPTIONAL if name in present)]
    table = pd.DataFrame(rows, columns=columns).sort_values("image", kind="stable", ignore_index=True)
    table.attrs = {
        "dataset": dataset,
        "root": str(root),
        "classes": [str(name) for name in classes],
        "subjects": subjects,
        **({"multi_label": True} if multi_label else {}),
    }
    check_table(table)
    return table


def check_table(table):
    """Checks that a DataFrame is an image table.

    Raises:
        ValueError: in one line, naming the attribute, column or image that does not fit.
    """
    for name in ("dataset", "root", "classes", "subjects"):
        if name not in table.attrs:
            raise ValueError(f"image table: attrs[{name!r}] is missing, expected it as image_table() sets it")
    title = f"image table of {table.attrs['dataset']!r}"
    classes, subjects = table.attrs["classes"], table.attrs["subjects"]
    if subjects not in SUBJECTS:
        raise ValueError(f"{title}: attrs['subjects'] is {subjects!r}, expected one of {', '.join(SUBJECTS)}")
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"{title}: attrs['classes'] is {list(classes)!r}, expected distinct names")
    if is_multi_label(table):
        for name in classes:
            if SEPARATOR in name or name == NO_FINDING:
                raise ValueError(f"{title}: class {name!r}, expected no {SEPARATOR!r} in it and not {NO_FINDING!r}")
    for name in REQUIRED:
        if name not in table.columns:
            raise ValueError(f"{title}: column {name!r} is missing, expected {_columns()}")
    if table.empty:
        raise ValueError(f"{title}: it has no rows, expected at least one image")
    for name in REQUIRED:
        wrong = [row for row, value in enumerate(table[name]) if not isinstance(value, str) or not value]
        if wrong:
            value = table[name].iloc[wrong[0]]
            value = repr(value) if isinstance(value, str) else value
            raise ValueError(f"{title}: {name} of row {wrong[0]} is {value}, expected a non-empty string")
    repeated = table["image"][table["image"].duplicated()]
    if len(repeated):
        raise ValueError(f"{title}: image {repeated.iloc[0]!r} stands in two rows, expected one")
    if "age" in table:
        for image, age in zip(table["image"], table["age"], strict=True):
            if isinstance(age, bool) or not isinstance(age, (int, float, np.number)) or age < 0:
                raise ValueError(f"{title}: age of image {image!r} is {age!r}, expected years, 0 or more, or NaN")
    if "regions" in table:
        for image, regions in zip(table["image"], table["regions"], strict=True):
            if regions is not None and not (isinstance(regions, list) and all(isinstance(r, Region) for r in regions)):
                raise ValueError(
                    f"{title}: regions of image {image!r} is {regions!r}, expected a list of Region, or None"
                )
    encoded = encode_labels(table)
    if is_multi_label(table):
        for image, label, present in zip(table["image"], table["label"], encoded, strict=True):
            expected = SEPARATOR.join(name for name, one in zip(classes, present, strict=True) if one) or NO_FINDING
            if label != expected:
                raise ValueError(f"{title}: label of image {image!r} is {label!r}, expected {expected!r} (class order)")


def is_multi_label(table):
    """Whether an image of the table may have several of the classes, or none."""
    return bool(table.attrs.get("multi_label"))


def image_paths(table):
    """The images' paths on this machine, in the table's order (list of `Path`)."""
    root = Path(table.attrs["root"])
    return [root / image for image in table["image"]]


def encode_labels(table, classes=None):
    """Labels as class indices, or those of a multi-label table as zeros and ones.

    Args:
        table: an image table.
        classes: label names in the order of the class index; `table.attrs["classes"]` when None.

    Returns:
        int32 array: of shape (n,), or (n, k) for a multi-label table, 1 where a finding is present.

    Raises:
        ValueError: if an image has a label that is none of the classes.
    """
    classes = list(table.attrs["classes"] if classes is None else classes)
    index = {name: number for number, name in enumerate(classes)}
    if is_multi_label(table):
        encoded = np.zeros((len(table), len(classes)), "int32")
        for row, (image, label) in enumerate(zip(table["image"], table["label"], strict=True)):
            for name in [] if label == NO_FINDING else label.split(SEPARATOR):
                if name not in index:
                    known = ", ".join(classes)
                    raise ValueError(f"label of image {image!r} names {name!r}, expected {NO_FINDING} or of {known}")
                encoded[row, index[name]] = 1
        return encoded
    for image, label in zip(table["image"], table["label"], strict=True):
        if label not in index:
            raise ValueError(f"label of image {image!r} is {label!r}, expected one of {', '.join(classes)}")
    return np.array([index[label] for label in table["label"]], dtype="int32")


def class_order(classes, found, where):
    """The class order that a reader was asked for, or the sorted names found when it was not asked.

    Args:
        classes: names in the wanted order (a tuple or list), or None.
        found: the names that the data hold.
        where: the folder or file, for the error.

    Raises:
        ValueError: if a wanted class is not there, or one is named twice.
    """
    found = sorted(found)
    if classes is None:
        return found
    if isinstance(classes, (str, Mapping)) or not classes:
        raise ValueError(f"classes is {classes!r}, expected a tuple of names such as {tuple(found)!r}")
    classes = [str(name) for name in classes]
    for number, name in enumerate(classes):
        if name not in found:
            raise ValueError(f"{where}: no class {name!r}, expected one of {', '.join(found) or 'nothing'}")
        if name in classes[:number]:
            raise ValueError(f"classes names {name!r} twice, expected distinct names")
    return classes


def _relative(image, root):
    path = os.path.abspath(root / os.fspath(image))
    inside = os.path.commonpath([path, root]) == str(root) if os.path.splitdrive(path)[0] == root.drive else False
    return Path(os.path.relpath(path, root) if inside else path).as_posix()


def _columns():
    return f"{', '.join(REQUIRED)} and optionally {', '.join(OPTIONAL)}"
