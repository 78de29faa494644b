"""ISIC 2018, task 3: dermoscopic images of seven kinds of pigmented skin lesion, several images of some lesions.

Tschandl and others, The HAM10000 dataset, a large collection of multi-source dermatoscopic images of common pigmented
skin lesions, Scientific Data 5:180161, 2018; Codella and others, Skin lesion analysis toward melanoma detection 2018,
arXiv 1902.03368. 10015 training images of 7470 lesions as published, 6705 of them of nevi. Patients are not named, so
the lesion is the subject.
"""

from pathlib import Path

from .._nearest import unknown
from .images import image_files
from .listing import read_list, report_missing, report_unlisted
from .table import image_table

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")  # in the order of the challenge
TRUTH = "ISIC2018_Task3_Training_GroundTruth"
LESIONS = "ISIC2018_Task3_Training_LesionGroupings"
IMAGES = "ISIC2018_Task3_Training_Input"


def read_isic2018(path):
    """Reads the training part of task 3, the original JPEG files or a conversion that keeps their names.

    Listed images without a file, as in a part of the archive, and files that the ground truth does not name are left
    out with a warning that counts them.

    Args:
        path: the folder that holds `ISIC2018_Task3_Training_GroundTruth.csv` and
            `ISIC2018_Task3_Training_LesionGroupings.csv` (each may lie in a folder
            `ISIC2018_Task3_Training_GroundTruth`, as the archive has it) and the images in
            `ISIC2018_Task3_Training_Input/`.

    Returns:
        An image table: classes "MEL", "NV", "BCC", "AKIEC", "BKL", "DF" and "VASC", `subject` the lesion. It has no
        `split`: the labels of the challenge's other parts came out later, if at all.

    Raises:
        FileNotFoundError: if a list, the folder of images or every image is missing.
        ValueError: if a column is missing or a class unknown, a row of the ground truth does not mark one class, an
            image is listed twice, or has no lesion.
    """
    path = Path(path).expanduser()
    truth, lesions, folder = _list(path, TRUTH), _list(path, LESIONS), path / IMAGES
    rows = read_list(truth, ("image", *CLASSES), "task 3 of ISIC 2018")
    for name in rows[0][1]:
        if name not in ("image", *CLASSES):
            raise ValueError(f"{truth}: row 1: {unknown('class', name, CLASSES)}")
    lesion = _lesions(lesions)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected images such as {rows[0][1]['image']}.jpg")
    files = {}
    for file in image_files(folder):  # sorted, so that of several formats .jpg comes before .png
        files.setdefault(file.stem, file)
    listed, missing, kept = {}, [], []
    for number, row in rows:
        where, name = f"{truth}: row {number}", row["image"]
        if name in listed:
            raise ValueError(f"{where}: image {name!r} stands in row {listed[name]} too, expected one row an image")
        listed[name] = number
        label = _label(row, where)
        if name not in lesion:
            raise ValueError(f"{where}: image {name!r} is not in {lesions.name}, expected its lesion there")
        if name not in files:
            missing.append(f"{name}.jpg")
            continue
        kept.append({"image": files[name].absolute(), "subject": lesion[name], "label": label})
    report_missing(missing, len(rows), folder)
    report_unlisted([files[name].name for name in files if name not in listed], folder)
    return image_table(kept, dataset="isic2018", root=path, classes=CLASSES, subjects="named")


def _list(path, name):
    """A list beside the images, or in the folder that the archive of the ground truth unpacks to."""
    packed = path / TRUTH / f"{name}.csv"
    return packed if packed.is_file() else path / f"{name}.csv"


def _lesions(file):
    """Mapping of image to lesion."""
    lesion = {}
    for number, row in read_list(file, ("image", "lesion_id"), "task 3 of ISIC 2018"):
        for column in ("image", "lesion_id"):
            if not row[column]:
                raise ValueError(f"{file}: row {number}, column {column!r}: empty, expected a name")
        if lesion.setdefault(row["image"], row["lesion_id"]) != row["lesion_id"]:
            raise ValueError(f"{file}: row {number}: image {row['image']!r} has another lesion above, expected one")
    return lesion


def _label(row, where):
    """The class that a row marks with 1."""
    values = {}
    for name in CLASSES:
        try:
            values[name] = float(row[name])
        except ValueError:
            raise ValueError(f"{where}, column {name!r}: {row[name]!r}, expected 0 or 1") from None
    marked = [name for name, value in values.items() if value == 1]
    if len(marked) != 1 or any(value not in (0, 1) for value in values.values()):
        shown = ", ".join(row[name] for name in CLASSES)
        raise ValueError(f"{where}: {shown}, expected 1 for one class and 0 for the others")
    return marked[0]
