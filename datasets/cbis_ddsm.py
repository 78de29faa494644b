"""CBIS-DDSM: digitised film mammograms from the United States, with lesions of proven pathology.

Lee and others, A curated mammography data set for use in computer-aided detection and diagnosis research, Scientific
Data 4:170177, 2017. 3103 mammograms of 1566 women with 3568 lesions; every mammogram shows at least one.

The official tables are two, one of masses and one of calcifications, each divided into training and test by itself. A
DDSM case has one film of each view, so where both tables name one, they mean the same film: 71 mammograms are in both,
each as two files. 16 of these pairs are benign in one table and malignant in the other, and 29 pairs are training in
one and test in the other. Taken together, 31 women are on both sides of the official split, with 64 training and 50
test images. (So they are in published work that joins the tables: Wei and others, MorphHR, section IV.A, count 1061,
187 and 349 women, 31 more than there are.)
"""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

from .._nearest import unknown
from .images import image_files
from .listing import read_list, report_missing
from .regions import Region, image_size
from .table import image_table

CLASSES = ("benign", "malignant")
PATHOLOGY = {"BENIGN": "benign", "BENIGN_WITHOUT_CALLBACK": "benign", "MALIGNANT": "malignant"}
LATERALITY = {"LEFT": "L", "RIGHT": "R"}
OVERLAPS = ("test", "drop", "official")
KINDS = ("mass", "calcification")
PATHS = ("image file path", "cropped image file path", "ROI mask file path")
COLUMNS = (
    "patient_id",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "pathology",
    *PATHS,
)
NEAR = 1.25  # a mask is as high and wide as its mammogram but for this factor; users of the original report 1.15


class Lesion(NamedTuple):
    """One row of the official tables."""

    split: str
    patient: str
    laterality: str
    view: str
    label: str
    kind: str
    mammogram: str  # the whole image's path in the original download: case / study UID / series UID / file
    name: str  # the folder of its crop and its mask there: case_number
    series: tuple[str, ...]  # the series UIDs of the two


def read_cbis_ddsm(path, overlap="test"):
    """Reads the whole mammograms of CBIS-DDSM, one row a file however many lesions it shows.

    A mammogram is malignant if any of its lesions is, in either table; "BENIGN_WITHOUT_CALLBACK" counts as benign.

    The tables give each mammogram a case, such as `Mass-Training_P_00001_LEFT_CC`, and a series UID. A file is that
    mammogram's if a folder above it, or its name without suffix, is the one or the other. So all of these are read, at
    any depth and in any format:

    - what the NBIA Data Retriever delivers, `<case>/<date>/1.000000-full mammogram images-00001/1-1.dcm`;
    - the older download, `<case>/<study UID>/<series UID>/000000.dcm`, and conversions that keep these paths;
    - the JPEG conversion on Kaggle, `jpeg/<series UID>/1-001.jpg`;
    - one file a case, `<case>.png`.

    Each lesion has a crop and a mask, in a folder of its own, such as `<case>_1`, in one of the series that the tables
    name, or as files such as `<case>_1_mask.png`. In the original download the two are often in each other's place, in
    the files and in the tables alike. So the mask is told by its size, which is its mammogram's; crops are passed over.
    A few masks have another size, reported to be up to 15 % off; they are taken as showing the whole mammogram all the
    same, and counted in a warning. A film that is in both tables has the lesions of both. Only headers are read.

    Args:
        path: the folder that holds the images and, in itself or in `csv/`, the four tables
            `mass_case_description_train_set.csv`, `mass_case_description_test_set.csv` and those of `calc`.
        overlap: what to do with the 64 training images of the 31 women who are in the official test part too:
            `"test"` moves them there (2394 and 709 images of 1217 and 349 women), `"drop"` leaves them out, so that the
            test part is the official one (2394 and 645), and `"official"` keeps them in training (2458 and 645), with
            the same women on both sides. In any case a warning counts them.

    Returns:
        An image table: classes "benign" and "malignant", `subject` the patient, with `split` ("train" and "test"),
        `view` and `laterality`. With `regions`, the masks of its lesions labelled with their own pathology, where there
        are masks; None for a mammogram with a lesion that has none, with a warning that counts such lesions.

    Raises:
        FileNotFoundError: if the folder, one of the four tables or every image is missing; some missing images are left
            out with a warning that counts them.
        ValueError: if a table lacks a column or has an unknown pathology or kind of lesion, or two images could be the
            same row's.
    """
    path = Path(path).expanduser()
    if overlap not in OVERLAPS:
        raise ValueError(unknown("overlap", overlap, OVERLAPS))
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder, expected the images and tables of CBIS-DDSM")
    lesions = _read_lesions(path)
    mammograms = {lesion.mammogram: lesion for lesion in lesions}
    malignant = {_film(lesion) for lesion in lesions if lesion.label == "malignant"}
    tested = {lesion.patient for lesion in lesions if lesion.split == "test"}
    files, candidates = _find_images(path, lesions)
    regions = _find_regions(path, lesions, files, candidates)
    rows, overlapping = [], []
    for name, lesion in mammograms.items():
        if name not in files:
            continue
        row = {
            "image": files[name].absolute(),
            "subject": lesion.patient,
            "label": "malignant" if _film(lesion) in malignant else "benign",
            "split": lesion.split,
            "view": lesion.view,
            "laterality": lesion.laterality,
        }
        if regions:
            row["regions"] = regions[name]
        if lesion.split == "train" and lesion.patient in tested:
            overlapping.append(row)
            if overlap == "drop":
                continue
            if overlap == "test":
                row["split"] = "test"
        rows.append(row)
    report_missing([name for name in mammograms if name not in files], len(mammograms), path)
    if overlapping:
        women = len({row["subject"] for row in overlapping})
        done = {"test": "they are moved to test", "drop": "they are left out", "official": "they stay in training"}
        warnings.warn(
            f"{path}: {len(overlapping)} training images are of {women} women who are in the official test part too: "
            f"{done[overlap]} (overlap={overlap!r})",
            stacklevel=2,
        )
    return image_table(rows, dataset="cbis_ddsm", root=path, classes=CLASSES, subjects="named")


def _read_lesions(folder):
    """The lesions of the four official tables."""
    lesions = []
    for kind in ("mass", "calc"):
        for split in ("train", "test"):
            name = f"{kind}_case_description_{split}_set.csv"
            file = folder / "csv" / name if (folder / "csv" / name).is_file() else folder / name
            for number, row in read_list(file, COLUMNS, "CBIS-DDSM, in the folder or its 'csv'"):
                where = f"{file}: row {number}"
                if row["pathology"] not in PATHOLOGY:
                    raise ValueError(f"{where}: {unknown('pathology', row['pathology'], PATHOLOGY)}")
                if row["left or right breast"] not in LATERALITY:
                    side = row["left or right breast"]
                    raise ValueError(f"{where}, column 'left or right breast': {side!r}, expected LEFT or RIGHT")
                if row["abnormality type"] not in KINDS:
                    kind = row["abnormality type"]
                    raise ValueError(f"{where}, column 'abnormality type': {kind!r}, expected {' or '.join(KINDS)}")
                for column in PATHS:
                    if row[column].count("/") != 3 or not row["patient_id"]:
                        raise ValueError(
                            f"{where}: patient {row['patient_id']!r} with {column} {row[column]!r}, "
                            "expected a patient and case/study UID/series UID/file"
                        )
                case, *_ = row["image file path"].split("/")
                lesion = Lesion(
                    split=split,
                    patient=row["patient_id"],
                    laterality=LATERALITY[row["left or right breast"]],
                    view=row["image view"],
                    label=PATHOLOGY[row["pathology"]],
                    kind=row["abnormality type"],
                    mammogram=row["image file path"],
                    name=f"{case}_{row['abnormality id']}",
                    series=tuple(row[column].split("/")[2] for column in PATHS[1:]),
                )
                lesions.append(lesion)
    return lesions


def _film(lesion):
    """What makes two files the same film."""
    return lesion.patient, lesion.laterality, lesion.view


def _find_images(folder, lesions):
    """The image file of each mammogram that has one, and the files of each lesion: its crop, its mask or both."""
    whole, parts_of = {}, {}
    for lesion in lesions:
        case, _, series, _ = lesion.mammogram.split("/")
        whole[case] = whole[series] = lesion.mammogram
        for name in (lesion.name, f"{lesion.name}_mask", *lesion.series):
            parts_of[name] = lesion.name
    mammograms, candidates = {}, {}
    for file in image_files(folder, recursive=True):  # sorted, so that of several formats .dcm comes first
        parts = file.relative_to(folder).with_suffix("").parts
        of_lesions = {parts_of[part] for part in parts if part in parts_of}
        for name in of_lesions:
            candidates.setdefault(name, {}).setdefault(file.with_suffix(""), file)
        if not of_lesions:
            for mammogram in {whole[part] for part in parts if part in whole}:
                mammograms.setdefault(mammogram, {}).setdefault(file.with_suffix(""), file)
    found = {}
    for mammogram, files in mammograms.items():
        first, *others = files.values()
        if others:
            raise ValueError(
                f"{first}: {others[0]} could be the same mammogram, {mammogram}, expected one image of each"
            )
        found[mammogram] = first
    return found, {name: list(files.values()) for name, files in candidates.items()}


def _find_regions(folder, lesions, mammograms, candidates):
    """The regions of each mammogram, None where a lesion of it has no mask; empty where there is no mask at all."""
    if not candidates:
        return {}
    films = {}
    for lesion in lesions:
        films.setdefault(_film(lesion), {})[lesion.name] = lesion
    film_of = {lesion.mammogram: _film(lesion) for lesion in lesions}
    sizes = {}
    regions, lost, stretched = {}, set(), set()
    for mammogram, file in mammograms.items():
        masks = []
        for lesion in films[film_of[mammogram]].values():
            mask, factor = _mask(candidates.get(lesion.name, []), file, sizes)
            masks.append(mask and Region(f"{lesion.label} {lesion.kind}", mask=mask.relative_to(folder).as_posix()))
            if mask is None:
                lost.add(lesion.name)
            elif factor > 1:
                stretched.add(str(mask))
        regions[mammogram] = None if None in masks else masks
    if lost:
        warnings.warn(
            f"{folder}: {len(lost)} lesions have no mask of their mammogram's size, the first is {min(lost)}; "
            f"{sum(masks is None for masks in regions.values())} of {len(regions)} mammograms are without regions",
            stacklevel=3,
        )
    if stretched:
        warnings.warn(
            f"{folder}: {len(stretched)} masks differ in size from their mammogram and are stretched over it, the "
            f"first is {min(stretched)}",
            stacklevel=3,
        )
    return regions if any(regions.values()) else {}


def _mask(files, mammogram, sizes):
    """The one of a lesion's files that is its mask, and by which factor its size is off; None where none is.

    `sizes` keeps what the headers said, so that each is read once.
    """
    for file in (mammogram, *files) if files else ():
        if file not in sizes:
            sizes[file] = image_size(file)
    whole = sizes.get(mammogram)
    if whole is None:
        return None, math.inf
    factors = {
        file: max(max(own / other, other / own) for own, other in zip(sizes[file], whole, strict=True))
        for file in files
        if sizes[file]
    }
    best = min(factors.values(), default=math.inf)
    nearest = [file for file, factor in factors.items() if factor == best]
    if best > NEAR or len(nearest) > 1:
        return None, best
    return nearest[0], best
