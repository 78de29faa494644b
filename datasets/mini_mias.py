"""mini-MIAS: digitised film mammograms from the United Kingdom, with circles around the lesions.

Suckling and others, The mammographic image analysis society digital mammogram database, Excerpta Medica International
Congress Series 1069:375-378, 1994. 322 oblique views of 161 women, reduced to 200 micrometres and set into squares of
1024 x 1024 pixels.
"""

import re
from pathlib import Path

from .listing import find_originals, report_missing, report_unlisted
from .regions import Region, circle_outline
from .table import image_table

CLASSES = ("negative", "malignant")
TISSUES = ("F", "G", "D")
LESION_KINDS = {
    "CALC": "calcification",
    "CIRC": "mass",
    "SPIC": "mass",
    "MISC": "mass",
    "ARCH": "mass",
    "ASYM": "mass",
}
SEVERITY = {"B": "benign", "M": "malignant"}
SIZE = 1024  # width and height of every image, in the pixels of the list
EXPECTED = "<mdbNNN> <tissue> NORM, or <mdbNNN> <tissue> <class> <severity> and x, y, radius or a note"


def read_mini_mias(path):
    """Reads mini-MIAS, one row an image however many lesions it shows.

    An image is malignant if any of its lesions is, and negative otherwise, with benign lesions or without. Lesions are
    the circles of the list; calcifications count as such, everything else (masses of any kind, distortions,
    asymmetries) as a mass. The circles' x and y are counted from the bottom left corner. Where the list gives no place
    (calcifications "widely distributed throughout the image", and mdb059), `regions` of the image is None.

    The list names no women; neighbours, mdb001 and mdb002, are the two breasts of one. Odd numbers are left breasts, as
    the markers on the films show and the file names of the database in full size say (mdb001lm); the list's own note
    says it the other way round.

    A conversion to another format keeps the names and the whole square. Where an image is there in several formats,
    the PGM file of the original is taken.

    Args:
        path: the folder that holds `Info.txt` and, at any depth, `mdb001.pgm` and the others (or `.png`, `.jpg`).

    Returns:
        An image table: classes "negative" and "malignant", `subject` the pair of images, with `view` ("MLO"),
        `laterality` and `regions`.

    Raises:
        FileNotFoundError: if `Info.txt` or every image is missing; some missing images are left out with a warning that
            counts them.
        ValueError: if a row of the list does not fit, a circle's centre is outside the image, or two files could be
            the same image.
    """
    path = Path(path).expanduser()
    images = _read_list(path / "Info.txt")
    files = find_originals(path, (".pgm",), key=lambda file: file.stem)
    rows = []
    for name, lesions in images.items():
        if name not in files:
            continue
        number = int(name[3:])
        first = number if number % 2 else number - 1
        malignant = any(label.startswith("malignant") for label, _ in lesions)
        located = all(outline for _, outline in lesions)
        rows.append(
            {
                "image": files[name].absolute(),
                "subject": f"mdb{first:03d}-{first + 1:03d}",
                "label": "malignant" if malignant else "negative",
                "view": "MLO",
                "laterality": "L" if number % 2 else "R",
                "regions": [Region(label, outline) for label, outline in lesions] if located else None,
            }
        )
    report_missing([name for name in images if name not in files], len(images), path)
    report_unlisted([file for name, file in files.items() if name not in images], path)
    return image_table(rows, dataset="mini_mias", root=path, classes=CLASSES, subjects="named")


def _read_list(file):
    """Of each image its lesions: label, and outline or None where the list gives no place."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, expected the list of images that comes with mini-MIAS")
    images, normal = {}, set()
    for number, line in enumerate(file.read_text(encoding="latin-1").splitlines(), start=1):
        name, *cells = line.split() or [""]
        if not name.lower().startswith("mdb"):
            continue  # the notes above and below the list
        where = f"{file}: line {number}"
        if not re.fullmatch(r"mdb\d{3}", name) or len(cells) < 2 or cells[0] not in TISSUES:
            raise ValueError(f"{where}: {line.strip()!r}, expected {EXPECTED}")
        if name in normal or (name in images and cells[1] == "NORM"):
            raise ValueError(f"{where}: image {name} stands above too, expected one row of an image that is normal")
        lesions = images.setdefault(name, [])
        if cells[1:] == ["NORM"]:
            normal.add(name)
            continue
        lesion = _lesion(cells[1:], where, line)
        if lesion in lesions:
            raise ValueError(f"{where}: {line.strip()!r} stands above too, expected each lesion once")
        lesions.append(lesion)
    if not images:
        raise ValueError(f"{file}: no row of an image, expected such as 'mdb001 G CIRC B 535 425 197'")
    return images


def _lesion(cells, where, line):
    kind, severity, *place = [*cells, ""][: max(len(cells), 2)]
    if kind not in LESION_KINDS or severity not in SEVERITY:
        raise ValueError(
            f"{where}: {line.strip()!r}, expected a class of {', '.join(LESION_KINDS)} or NORM, and severity B or M"
        )
    label = f"{SEVERITY[severity]} {LESION_KINDS[kind]}"
    if not place or place[0].startswith("*"):
        return label, None
    if len(place) != 3 or not all(cell.isdecimal() for cell in place):
        raise ValueError(f"{where}: {line.strip()!r}, expected {EXPECTED}")
    x, y, radius = map(int, place)
    if x > SIZE or y > SIZE or not 0 < radius <= SIZE:
        raise ValueError(f"{where}: {line.strip()!r}, expected a circle in an image of {SIZE} x {SIZE} pixels")
    return label, circle_outline(x, SIZE - y, radius, SIZE, SIZE)
