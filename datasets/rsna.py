"""RSNA 2022: screening mammograms from Australia and the United States, four or more of a woman.

Carr and others, RSNA screening mammography breast cancer detection, Kaggle, 2022. 54706 images of 11913 women as
published, of which 1158 show a breast with cancer. Labels are of the breast: every view of it has the same. Sites and
machines differ in how often they see cancer, so report results within machines beside the overall ones.
"""

from pathlib import Path

from .images import image_files
from .listing import read_list, report_missing, report_unlisted
from .table import image_table

CLASSES = {"0": "negative", "1": "cancer"}
COLUMNS = ("site_id", "patient_id", "image_id", "laterality", "view", "age", "cancer", "machine_id")


def read_rsna(path):
    """Reads the training part of the RSNA 2022 challenge, the original DICOM files or a conversion of them.

    A conversion to smaller PNG or JPEG files keeps the folders and the names. Where an image is there in several
    formats, the DICOM file is taken. Many users convert a part only: listed images without a file, and files that
    the list does not name, are left out with a warning that counts them.

    Args:
        path: the folder that holds `train.csv` and `train_images/<patient_id>/<image_id>.dcm` (or `.png`, `.jpg`,
            `.jpeg`).

    Returns:
        An image table: classes "negative" and "cancer", `subject` the patient, with `view`, `laterality`, `age`, `site`
        and `machine`. It has no `split`: the challenge's test part is not public.

    Raises:
        FileNotFoundError: if `train.csv`, `train_images` or every image is missing.
        ValueError: if a column is missing, `cancer` is neither 0 nor 1, an age is no number or an image is
            listed twice.
    """
    path = Path(path).expanduser()
    file, folder = path / "train.csv", path / "train_images"
    rows = read_list(file, COLUMNS, "the RSNA 2022 challenge")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected <patient_id>/<image_id>.dcm (or .png, .jpg) in it")
    images, listed, missing = {}, {}, []
    for image in image_files(folder, recursive=True):  # sorted, so that of several formats .dcm comes first
        images.setdefault(image.relative_to(folder).with_suffix("").as_posix(), image)
    kept = []
    for number, row in rows:
        name = f"{row['patient_id']}/{row['image_id']}"
        for column in ("patient_id", "image_id"):
            if not row[column]:
                raise ValueError(f"{file}: row {number}, column {column!r}: empty, expected a number")
        if row["cancer"] not in CLASSES:
            raise ValueError(f"{file}: row {number}, column 'cancer': {row['cancer']!r}, expected 0 or 1")
        if name in listed:
            raise ValueError(f"{file}: row {number}: image {name} stands in row {listed[name]} too, expected one row")
        listed[name] = number
        if name not in images:
            missing.append(f"{name}.dcm")
            continue
        kept.append(
            {
                "image": images[name].absolute(),
                "subject": row["patient_id"],
                "label": CLASSES[row["cancer"]],
                "view": row["view"],
                "laterality": row["laterality"],
                "age": _age(row["age"], f"{file}: row {number}"),
                "site": row["site_id"],
                "machine": row["machine_id"],
            }
        )
    report_missing(missing, len(rows), folder)
    report_unlisted([name for name in images if name not in listed], folder)
    return image_table(kept, dataset="rsna", root=path, classes=CLASSES.values(), subjects="named")


def _age(text, where):
    """Years; NaN where the cell is empty, as in a few rows of the original."""
    try:
        return float(text or "nan")
    except ValueError:
        raise ValueError(f"{where}, column 'age': {text!r}, expected a number of years") from None
