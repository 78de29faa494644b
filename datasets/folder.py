"""Anybody's own images: a folder of class subfolders, or a CSV file."""

import csv
import os
from pathlib import Path

from .images import KINDS, image_files
from .table import class_order, image_table

# What the folders of a split are called.
PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def read_folder(path, twins=False, classes=None):
    """Reads a folder that holds one subfolder of images for each class.

    The folders name no subjects, so each image is its own, and the table says so; `twins=True` looks for images
    that show the same thing and takes these groups as subjects.

    Args:
        path: the folder. Images may lie at any depth below their class's folder.
        twins: whether groups of twins are the subjects.
        classes: which subfolders, in the order of the class index (the last of two is the positive class); all of
            them, sorted, when None.

    Returns:
        An image table.

    Raises:
        FileNotFoundError: if the folder is missing or empty, or a class folder holds no images.
        ValueError: if `classes` names a folder that is not there, or all subfolders are called like parts of a split.
    """
    path = Path(path).expanduser()
    expected = "expected a subfolder of images for each class"
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder, {expected}")
    found = [folder.name for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    if not found:
        held = "it holds files but no subfolders" if any(path.iterdir()) else "the folder is empty"
        raise FileNotFoundError(f"{path}: {held}, {expected}")
    if classes is None and PARTS.issuperset(name.lower() for name in found):
        raise ValueError(
            f"{path}: received the parts of a split, {', '.join(sorted(found))}, {expected}: take the dataset's own "
            "reader (such as --dataset kermany), or a CSV file with the columns image,label,split"
        )
    if classes is None and len(found) == 1:
        raise ValueError(f"{path}: only one subfolder, {found[0]!r}, expected one for each of two or more classes")
    classes = class_order(classes, found, path)
    rows = []
    for label in classes:
        images = image_files(path / label, recursive=True)
        if not images:
            raise FileNotFoundError(f"{path / label}: no images in this class folder, expected {KINDS}")
        rows += [{"image": file.absolute(), "label": label} for file in images]
    table = image_table(rows, dataset=path.absolute().name, root=path, classes=classes, subjects="none")
    return _with_twins(table) if twins else table


def class_root(path, classes, recursive=False):
    """The folder that holds a dataset's class folders.

    Args:
        path: that folder, or the one above it.
        classes: names of the class folders.
        recursive: whether it may lie at any depth below `path`.

    Raises:
        FileNotFoundError: if the folder is missing or empty, or lacks a class folder.
        ValueError: if several folders below `path`, and not `path` itself, hold them all.
    """
    expected = f"expected the class folders {', '.join(classes)}"
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder, {expected}")
    if not any(path.iterdir()):
        raise FileNotFoundError(f"{path}: the folder is empty, {expected}")
    below = [folder for folder in (path.rglob("*") if recursive else path.iterdir()) if folder.is_dir()]
    # macOS packs a second tree of hidden files beside the first.
    below = [f for f in below if not any(part.startswith((".", "__MACOSX")) for part in f.relative_to(path).parts)]
    candidates = [path, *sorted(below)]
    found = {folder: sum((folder / name).is_dir() for name in classes) for folder in candidates}
    best = max(candidates, key=found.get)
    missing = [name for name in classes if not (best / name).is_dir()]
    if missing:
        raise FileNotFoundError(f"{best}: no folder {missing[0]!r}, {expected}")
    others = [folder for folder in candidates if found[folder] == len(classes) and folder != best]
    if others and best != path:
        raise ValueError(f"{path}: class folders in {best} and in {others[0]}, expected the path of one of the two")
    return best


def read_csv(path, twins=False, classes=None):
    """Reads a CSV file with the columns `image,label[,subject,split]`, one row an image; other columns are ignored.

    Args:
        path: the CSV file (UTF-8, commas). Paths in its `image` column are relative to the file's folder.
        twins: whether groups of twins are the subjects, for a file without the column `subject`. Without either,
            each image is its own subject, and the table says so.
        classes: which labels, in the order of the class index (the last of two is the positive class); rows with
            other labels are left out. All of them, sorted as text, when None.

    Returns:
        An image table. Labels, subjects and splits are text, also where they look like numbers.

    Raises:
        FileNotFoundError: if the file, or an image that it names, does not exist.
        ValueError: if a column, row or cell does not fit; the message names file, row (the header is row 1) and column.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file, expected a CSV file with the columns image,label[,subject,split]"
        )
    rows, subjects = _read_rows(path)
    if twins and subjects == "named":
        raise ValueError(f"{path}: it has a column 'subject', expected none with twins=True")
    classes = class_order(classes, {row["label"] for row in rows}, path)
    rows = [row for row in rows if row["label"] in classes]
    table = image_table(rows, dataset=path.stem, root=path.parent, classes=classes, subjects=subjects)
    table = _with_twins(table) if twins else table
    if "split" in table:
        _check_given_split(table, path)
    return table


def _read_rows(path):
    rows, seen = [], {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            for column in ("image", "label"):
                if column not in header:
                    raise ValueError(
                        f"{path}: row 1: no column {column!r} among {', '.join(header) or 'nothing'}, "
                        "expected image,label[,subject,split]"
                    )
            for column in ("image", "label", "subject", "split"):
                if header.count(column) > 1:
                    raise ValueError(f"{path}: row 1: column {column!r} stands there twice, expected once")
            columns = [column for column in ("image", "label", "subject", "split") if column in header]
            for number, cells in enumerate(reader, start=2):
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path}: row {number}: {len(cells)} cells, expected {len(header)} as in the header"
                    )
                row = {column: cells[header.index(column)].strip() for column in columns}
                for column, value in row.items():
                    if not value:
                        raise ValueError(f"{path}: row {number}, column {column!r}: empty, expected a value")
                file_path, where = (
                    Path(os.path.abspath(path.parent / row["image"])),
                    f"{path}: row {number}, column 'image'",
                )
                if not file_path.is_file():
                    raise FileNotFoundError(
                        f"{where}: no such file {row['image']!r}, expected a path relative to the CSV file's folder"
                    )
                if file_path in seen:
                    raise ValueError(
                        f"{where}: {row['image']!r} stands in row {seen[file_path]} too, expected one row an image"
                    )
                seen[file_path] = number
                rows.append({**row, "image": file_path})
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: row {len(rows) + 2}: not readable as CSV in UTF-8 ({error})") from error
    if not rows:
        raise ValueError(f"{path}: no rows below the header, expected one an image")
    return rows, "named" if "subject" in header else "none"


def _check_given_split(table, path):
    """A split that came with the data must keep subjects (or twins) together, as ours do."""
    sides = table.groupby("subject", sort=True)["split"].unique()
    for subject, parts in sides.items():
        if len(parts) > 1:
            kind = "twin group" if table.attrs["subjects"] == "twins" else "subject"
            raise ValueError(
                f"{path}: column 'split': {kind} {subject!r} is in {' and '.join(sorted(parts))}, expected in one only"
            )


def _with_twins(table):
    from .twins import twin_subjects

    return twin_subjects(table)
