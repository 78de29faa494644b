"""INbreast: digital mammograms from one hospital in Portugal, with outlines drawn by radiologists.

Moreira and others, INbreast: toward a full-field digital mammographic database, Academic Radiology 19:236-248, 2012.
410 images of 115 cases. There is no pathology of most lesions; labels are the radiologists' assessments (BI-RADS).
"""

import plistlib
import re
import warnings
from pathlib import Path
from xml.parsers.expat import ExpatError

import pandas as pd

from .._nearest import unknown
from .images import DICOM_SUFFIXES
from .listing import find_originals, read_list, report_missing, report_unlisted
from .regions import Region, image_size
from .table import image_table

CLASSES = ("negative", "positive")
COLUMNS = ("Laterality", "View", "File Name", "Bi-Rads")
# BI-RADS 3, probably benign, is neither: None.
ASSESSMENTS = {
    "1": "negative",
    "2": "negative",
    "3": None,
    "4a": "positive",
    "4b": "positive",
    "4c": "positive",
    "5": "positive",
    "6": "positive",
}
LESION_KINDS = {
    "mass": "mass",
    "spiculated region": "mass",
    "espiculated region": "mass",
    "distortion": "mass",
    "asymmetry": "mass",
    "assymetry": "mass",
    "calcification": "calcification",
    "calcifications": "calcification",
    "cluster": "calcification",
}
NAME = re.compile(r"(\d+)_([0-9a-fA-F]+)_MG_[LR]_[A-Z]+_ANON(\.dcm)?")
SIZES = ((4084, 3328), (3328, 2560))  # height and width of the originals, in whose pixels the outlines are


def read_inbreast(path):
    """Reads INbreast, one row an image: negative with BI-RADS 1 and 2, positive with 4 to 6.

    The 23 images with BI-RADS 3 are left out, as in Shen and others, Scientific Reports 9:12495, 2019.

    Patients are named in the files' names alone, `<file id>_<patient>_MG_<side>_<view>_ANON.dcm`, so a conversion to
    another format keeps them. It keeps the whole image and its aspect ratio too, at whatever size, as the outlines are
    in pixels of the original. Where an image is there in several formats, the DICOM file is taken.

    Regions are the areas in `AllXML`. Clusters and calcifications are calcifications, the others (masses, spiculated
    regions, distortions, asymmetries) are masses; they are malignant where the *image* is positive and benign where it
    is negative, as no pathology is given. Marks of one or two points are no areas and are passed over, most of them
    single calcifications: an image without regions may show benign ones.

    Args:
        path: the folder that holds `INbreast.csv` (or `INbreast.xls`, which needs the package xlrd), `AllXML` if
            regions are wanted, and, at any depth, the images.

    Returns:
        An image table: classes "negative" and "positive", `subject` the patient, with `view`, `laterality` and, where
        there is `AllXML`, `regions`. They are None where lesions are to be expected that no area shows, with a warning
        that counts such images: a positive image without an area, an area of an unknown name, an image with BI-RADS 2
        without a file of annotations, a conversion of another aspect ratio.

    Raises:
        FileNotFoundError: if the list or every image is missing; some missing images are left out with a warning that
            counts them.
        ValueError: if a row of the list or a file of annotations does not fit, a region lies outside its image, or two
            files could be the same image.
    """
    path = Path(path).expanduser()
    listed = _read_list(path)
    files = find_originals(path, DICOM_SUFFIXES, key=_file_id)
    annotated = (path / "AllXML").is_dir()
    rows, lost, missing = [], [], []
    wanted = {name: row for name, row in listed.items() if ASSESSMENTS[row["Bi-Rads"]]}
    for name, row in wanted.items():
        if name not in files:
            missing.append(f"{name}_<patient>_MG_{row['Laterality']}_{row['View'][:2]}_ANON.dcm")
            continue
        entry = {
            "image": files[name].absolute(),
            "subject": NAME.fullmatch(files[name].stem)[2],
            "label": ASSESSMENTS[row["Bi-Rads"]],
            "view": row["View"],
            "laterality": row["Laterality"],
        }
        if annotated:
            entry["regions"] = _regions(path / "AllXML" / f"{name}.xml", files[name], row["Bi-Rads"])
            if entry["regions"] is None:
                lost.append(name)
        rows.append(entry)
    report_missing(missing, len(wanted), path)
    report_unlisted([file for name, file in files.items() if name not in listed], path)
    if lost:
        warnings.warn(
            f"{path}: {len(lost)} of {len(rows)} images have lesions that no usable area shows, the first is "
            f"{min(lost)}: their regions are None",
            stacklevel=2,
        )
    return image_table(rows, dataset="inbreast", root=path, classes=CLASSES, subjects="named")


def _file_id(file):
    """The image that a file name tells; of another file, the file itself."""
    match = NAME.fullmatch(file.stem)
    return match[1] if match else str(file)


def _read_list(folder):
    """The rows of the list by the image's file id, the assessments in small letters."""
    file = folder / "INbreast.csv"
    if not file.is_file() and (folder / "INbreast.xls").is_file():
        file = folder / "INbreast.xls"
        rows = _read_sheet(file)
    else:
        rows = read_list(file, COLUMNS, "INbreast", delimiters=";,")
    listed = {}
    for number, row in rows:
        where, name = f"{file}: row {number}", row["File Name"]
        if not name.isdecimal() or name in listed:
            raise ValueError(f"{where}, column 'File Name': {name!r}, expected a number that no other row has")
        if row["Laterality"] not in ("L", "R"):
            raise ValueError(f"{where}, column 'Laterality': {row['Laterality']!r}, expected L or R")
        row["Bi-Rads"] = row["Bi-Rads"].lower()
        if row["Bi-Rads"] not in ASSESSMENTS:
            raise ValueError(f"{where}: {unknown('assessment (Bi-Rads)', row['Bi-Rads'], ASSESSMENTS)}")
        listed[name] = row
    return listed


def _read_sheet(file):
    """What `read_list` gives, of the spreadsheet; rows without a file name below the list are notes."""
    try:
        sheet = pd.read_excel(file, dtype=str, engine="xlrd").fillna("")
    except ImportError:
        raise ValueError(f"{file}: reading it needs the package xlrd; or save the sheet as INbreast.csv") from None
    except Exception as error:  # xlrd raises whatever it likes on damaged files
        raise ValueError(f"{file}: not readable ({error}), expected the spreadsheet of INbreast") from error
    sheet.columns = [str(name).strip() for name in sheet.columns]
    missing = [name for name in COLUMNS if name not in sheet]
    if missing:
        raise ValueError(f"{file}: no column {missing[0]!r} among {', '.join(sheet)}, expected the columns of INbreast")
    rows = [{name: row[name].strip() for name in COLUMNS} for row in sheet.to_dict("records")]
    return [(number, row) for number, row in enumerate(rows, start=2) if row["File Name"]]


def _regions(annotations, image, assessment):
    """The regions of an image; None where there may be lesions that nobody located."""
    positive = ASSESSMENTS[assessment] == "positive"
    if not annotations.is_file():
        return [] if assessment == "1" else None
    areas = _areas(annotations)
    if not areas:
        return None if positive else []
    size = image_size(image)
    original = size and next((one for one in SIZES if abs(size[0] * one[1] / (size[1] * one[0]) - 1) < 0.005), None)
    if not original or not all(name.lower() in LESION_KINDS for name, _ in areas):
        return None
    height, width = original
    regions = []
    for name, points in areas:
        x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(
                f"{annotations}: {name!r} around ({x:.0f}, {y:.0f}), expected in an image of {width} x {height} pixels"
            )
        label = f"{'malignant' if positive else 'benign'} {LESION_KINDS[name.lower()]}"
        try:
            regions.append(Region(label, [(x / width, y / height) for x, y in points]))
        except ValueError as error:
            raise ValueError(f"{annotations}: {error}") from error
    return regions


def _areas(file):
    """Name and points (x, y) of every mark with three points or more."""
    areas = []
    try:
        with file.open("rb") as stream:
            images = plistlib.load(stream)["Images"]
        for mark in (mark for image in images for mark in image["ROIs"]):
            points = [tuple(float(value) for value in point.strip("() ").split(",")) for point in mark["Point_px"]]
            if len(points) > 2:
                areas.append((mark.get("Name", "").strip(), [(x, y) for x, y in points]))
    except (ExpatError, plistlib.InvalidFileException, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: not readable ({type(error).__name__} {error}), expected outlines as OsiriX exports them"
        ) from error
    return areas
