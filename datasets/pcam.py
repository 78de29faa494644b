"""PatchCamelyon (PCam): patches of lymph node sections, with or without a metastasis of breast cancer in the middle.

Veeling and others, Rotation equivariant CNNs for digital pathology, MICCAI, 2018. 327680 colour patches of 96 x 96
pixels from the whole-slide images of Camelyon16, 262144 for training and 32768 each for validation and testing; half of
each part is labelled as tumour, which says that the central 32 x 32 pixels hold at least one pixel of it.
"""

import hashlib
from pathlib import Path

from .containers import count_hdf5, member_names, read_hdf5
from .images import KINDS, image_files
from .listing import read_list
from .table import image_table

CLASSES = {"0": "normal", "1": "tumour"}
MIDDLE, SMALL = 100_000, 10_000  # images of the two subsets of van den Brandt and others
PARTS = {"train": "train", "valid": "validation", "test": "test"}


def read_pcam(path, images=None):
    """Reads PatchCamelyon from its HDF5 files, or from a conversion to image files.

    Args:
        path: the folder that holds `camelyonpatch_level_2_split_train_x.h5` and `..._y.h5`, of `train`, `valid` and
            `test` or some of these, with or without their `..._meta.csv`; or else `train/`, `valid/` and `test/` (or
            some of these), each with its images in `0/` (normal) and `1/` (tumour).
        images: how many images to take of all parts together, stratified by class: those whose names come first in the
            order of their SHA-256, the same on every machine. All of them when None.

    Returns:
        An image table: classes "normal" and "tumour", and `split` ("train", "validation", "test"). With `..._meta.csv`
        the whole-slide image that a patch comes from is its subject; otherwise subjects are not known. Images of HDF5
        files are in containers (`camelyonpatch_level_2_split_train_x.h5#000123`), see `medzoo.datasets.containers`.

    Raises:
        FileNotFoundError: if the folder, every part, a class folder or the labels of a part are missing, a class folder
            holds no images, or some parts have a `..._meta.csv` and others not.
        ValueError: if an HDF5 file is damaged or holds other than expected, images and labels (or rows of
            `..._meta.csv`) differ in number, a label is neither 0 nor 1, or `images` is more than there are or leaves
            out a class.

    Example:

    ```python
    table = read_pcam("~/data/pcam", images=2000)
    ```
    """
    return _read(path, images, "pcam")


def read_pcam_middle(path):
    """Reads the 100000 images of PatchCamelyon that `read_pcam` takes when asked for that many, as van den Brandt and
    others do (Cats, not CAT scans, 2021, section III-7); theirs were drawn at random and are not published."""
    return _read(path, MIDDLE, "pcam_middle")


def read_pcam_small(path):
    """Reads 10000 images of PatchCamelyon, all of them among those of `read_pcam_middle` (section III-8)."""
    return _read(path, SMALL, "pcam_small")


def _read(path, images, dataset):
    path = Path(path).expanduser()
    parts = {name: part for name, part in PARTS.items() if any(_part_file(path, name, x).is_file() for x in ("x", "y"))}
    rows = _contained(path, parts) if parts else _image_files(path)
    if images is not None:
        rows = _stratified(rows, images, path)
    subjects = "named" if "subject" in rows[0] else "none"
    return image_table(rows, dataset=dataset, root=path, classes=CLASSES.values(), subjects=subjects)


def _part_file(path, name, content, suffix="h5"):
    return path / f"camelyonpatch_level_2_split_{name}_{content}.{suffix}"


def _contained(path, parts):
    """The rows of the HDF5 files."""
    slides = [_part_file(path, name, "meta", "csv") for name in parts]
    there = [file for file in slides if file.is_file()]
    rows = []
    for (name, part), meta in zip(parts.items(), slides, strict=True):
        file, labels = (_part_file(path, name, content) for content in ("x", "y"))
        count = count_hdf5(file)
        codes = read_hdf5(labels, "y")
        if codes.size != count or codes.shape[:1] != (count,):
            raise ValueError(f"{labels}: labels of shape {codes.shape}, expected ({count}, 1, 1, 1) as {file.name}")
        columns = {"image": member_names(file, count), "label": [_label(code, labels) for code in codes.ravel()]}
        if there:
            columns["subject"] = _slides(meta, count)
        rows += [{**dict(zip(columns, row, strict=True)), "split": part} for row in zip(*columns.values(), strict=True)]
    return rows


def _label(code, file):
    if code not in (0, 1):
        raise ValueError(f"{file}: a label is {code}, expected 0 or 1")
    return CLASSES[str(int(code))]


def _slides(file, count):
    """The whole-slide image of each patch; the parts have them all or none, or a slide could be on two sides."""
    slides = [row["wsi"] for _, row in read_list(file, ("wsi",), "PatchCamelyon")]
    if len(slides) != count:
        raise ValueError(f"{file}: {len(slides)} rows, expected {count}, one for each image")
    return slides


def _image_files(path):
    folders = {path / name: part for name, part in PARTS.items() if (path / name).is_dir()}
    if not folders:
        raise FileNotFoundError(
            f"{path}: neither camelyonpatch_level_2_split_*_x.h5 (unpacked) nor one of the folders {', '.join(PARTS)}, "
            "expected the parts of PatchCamelyon"
        )
    rows = []
    for folder, part in folders.items():
        for code, label in CLASSES.items():
            if not (folder / code).is_dir():
                raise FileNotFoundError(f"{folder / code}: no such folder, expected the class folders 0 and 1")
            files = image_files(folder / code)
            if not files:
                raise FileNotFoundError(f"{folder / code}: no images in this class folder, expected {KINDS}")
            rows += [{"image": file.relative_to(path).as_posix(), "label": label, "split": part} for file in files]
    return rows


def _stratified(rows, images, path):
    """So many of the rows, in the classes' proportions; the larger remainder takes what rounding leaves."""
    if isinstance(images, bool) or not isinstance(images, int) or not len(CLASSES) <= images <= len(rows):
        raise ValueError(
            f"{path}: images is {images!r}, expected a whole number from {len(CLASSES)} to the {len(rows)} there are"
        )
    ordered = {label: [] for label in CLASSES.values()}
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["image"].encode()).digest()):
        ordered[row["label"]].append(row)
    shares = {label: divmod(images * len(each), len(rows)) for label, each in ordered.items()}
    counts = {label: share for label, (share, _) in shares.items()}
    for label in sorted(shares, key=lambda label: -shares[label][1])[: images - sum(counts.values())]:
        counts[label] += 1
    lost = [label for label, count in counts.items() if not count]
    if lost:
        raise ValueError(f"{path}: {images} of {len(rows)} images keep none of class {lost[0]!r}, expected more")
    return [row for label, each in ordered.items() for row in each[: counts[label]]]
