"""NIH ChestX-ray14: frontal chest X-rays from the United States, each with any of 14 findings or none.

Wang and others, ChestX-ray8: hospital-scale chest X-ray database and benchmarks on weakly-supervised classification and
localization of common thorax diseases, CVPR, 2017. 112120 images of 30805 patients; the findings were read out of the
radiologists' reports by a program. The official lists divide the patients into 86524 images for training and validation
and 25596 for testing.
"""

import re
from pathlib import Path

from .._nearest import unknown
from .images import image_files
from .listing import read_list, report_missing, report_unlisted
from .table import NO_FINDING, SEPARATOR, image_table

FINDINGS = (  # in the order of Wei and others, MorphHR, table IV
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
AGE = re.compile(r"(\d+)([YMD]?)")
YEARS = {"": 1, "Y": 1, "M": 12, "D": 365.25}


def read_chestxray14(path):
    """Reads ChestX-ray14, the original PNG files or a conversion that keeps their folders and names.

    Listed images that are not there, as in a part of the twelve archives, and files that the table does not name, are
    left out with a warning that counts them.

    Args:
        path: the folder that holds `Data_Entry_2017.csv` (or `Data_Entry_2017_v2020.csv`, read if both are there), the
            official lists `train_val_list.txt` and `test_list.txt`, and the images in `images/` or in
            `images_001/images/` to `images_012/images/`.

    Returns:
        A multi-label image table of the 14 findings, `subject` the patient, with `split` ("train" and "test" of the
        official lists), `view` ("PA" or "AP") and `age` as listed (a few are beyond any life).

    Raises:
        FileNotFoundError: if the table, a list or every image is missing.
        ValueError: if a column is missing, a finding unknown or an image listed twice, if an image is in neither or in
            both of the official lists, or if a patient is on both sides.
    """
    path = Path(path).expanduser()
    file = next((path / name for name in reversed(TABLES) if (path / name).is_file()), path / TABLES[0])
    rows = read_list(file, COLUMNS, "ChestX-ray14")
    split = _read_official_lists(path)
    files, listed, sides, missing, kept = _find_images(path), {}, {}, [], []
    for number, row in rows:
        where, name, patient = f"{file}: row {number}", row["Image Index"], row["Patient ID"]
        if name in listed:
            raise ValueError(f"{where}: image {name!r} stands in row {listed[name]} too, expected one row an image")
        listed[name] = number
        if name not in split:
            raise ValueError(f"{where}: image {name!r} is in neither {' nor '.join(LISTS.values())}, expected in one")
        if sides.setdefault(patient, split[name]) != split[name]:
            raise ValueError(
                f"{where}: patient {patient!r} has images in {' and '.join(LISTS.values())}, expected in one"
            )
        findings = _findings(row["Finding Labels"], where)
        if Path(name).stem not in files:
            missing.append(name)
            continue
        kept.append(
            {
                "image": files[Path(name).stem].absolute(),
                "subject": patient,
                "label": findings,
                "split": split[name],
                "view": row["View Position"],
                "age": _age(row["Patient Age"], where),
            }
        )
    report_missing(missing, len(rows), path)
    known = {Path(name).stem for name in listed}
    report_unlisted([str(files[name].relative_to(path)) for name in files if name not in known], path)
    return image_table(kept, dataset="chestxray14", root=path, classes=FINDINGS, subjects="named", multi_label=True)


def _read_official_lists(folder):
    """Mapping of image name to "train" or "test"."""
    split = {}
    for part, name in LISTS.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file, expected the official list of images, one a line")
        for image in (folder / name).read_text(encoding="utf-8-sig").split():
            if split.setdefault(image, part) != part:
                raise ValueError(f"{folder / name}: image {image!r} is in {LISTS['train']} too, expected in one list")
    return split


def _find_images(folder):
    """Mapping of an image's name without suffix to its file."""
    files = {}
    for images in [folder / "images", *sorted(folder.glob("images_*/images"))]:
        for file in image_files(images) if images.is_dir() else []:  # sorted: of several formats the first is taken
            if files.setdefault(file.stem, file).parent != images:
                raise ValueError(f"{file}: {files[file.stem]} has the same name, expected one image of each")
    return files


def _findings(text, where):
    """The findings of a row in the order of the classes."""
    present = [] if text == NO_FINDING else text.split(SEPARATOR)
    for name in present:
        if name not in FINDINGS:
            raise ValueError(f"{where}: {unknown('finding', name, FINDINGS)}")
    return SEPARATOR.join(name for name in FINDINGS if name in present) or NO_FINDING


def _age(text, where):
    """Years, of "58" or "058Y" (and of the months and days of infants in the first release)."""
    match = AGE.fullmatch(text)
    if text and not match:
        raise ValueError(f"{where}, column 'Patient Age': {text!r}, expected years such as 58 or 058Y")
    return int(match[1]) / YEARS[match[2]] if match else float("nan")
