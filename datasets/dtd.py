"""DTD, the describable textures dataset: photographs of 47 kinds of texture, each named by an adjective.

Cimpoi and others, Describing textures in the wild, CVPR, 2014. 120 images of each class, 5640 in all, and ten official
divisions of them into three parts of 40 images a class. The images came from the web; whose they are is not told, so
each stands for itself.
"""

from pathlib import Path

from .._nearest import unknown
from .images import KINDS, image_files
from .listing import report_missing
from .table import image_table

CLASSES = (
    *("banded", "blotchy", "braided", "bubbly", "bumpy", "chequered", "cobwebbed", "cracked", "crosshatched"),
    *("crystalline", "dotted", "fibrous", "flecked", "freckled", "frilly", "gauzy", "grid", "grooved", "honeycombed"),
    *("interlaced", "knitted", "lacelike", "lined", "marbled", "matted", "meshed", "paisley", "perforated", "pitted"),
    *("pleated", "polka-dotted", "porous", "potholed", "scaly", "smeared", "spiralled", "sprinkled", "stained"),
    *("stratified", "striped", "studded", "swirly", "veined", "waffled", "woven", "wrinkled", "zigzagged"),
)
PARTS = {"train": "train", "val": "validation", "test": "test"}
FOLDS = 10


def read_dtd(path, fold=None):
    """Reads DTD, all of its classes or some.

    Args:
        path: the folder that holds `images/<class>/*.jpg` and, as published, `labels/` with the official lists
            `train1.txt`, `val1.txt` and `test1.txt` to `train10.txt`, `val10.txt` and `test10.txt`.
        fold: which of the ten official divisions becomes the column `split`, 1 to 10; the first when None.

    Returns:
        An image table without known subjects: the classes that are there, in alphabetical order, and `split` ("train",
        "validation", "test"); without `split` where there is no folder `labels` and no fold was asked for. Listed
        images that are not there, of classes that are, are left out with a warning that counts them.

    Raises:
        FileNotFoundError: if the folder of images or an official list is missing, or a class folder holds no images.
        ValueError: if a folder is none of the 47 classes, `fold` is no official one, or an image is in none of the
            fold's three lists, or in two.
    """
    path = Path(path).expanduser()
    folder = path / "images"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder, expected a subfolder of images for each texture")
    if fold is not None and (isinstance(fold, bool) or fold not in range(1, FOLDS + 1)):
        raise ValueError(f"fold is {fold!r}, expected a whole number from 1 to {FOLDS}, or None")
    classes = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    if not classes:
        raise FileNotFoundError(f"{folder}: no subfolders, expected one of images for each texture")
    rows = []
    for label in classes:
        if label not in CLASSES:
            raise ValueError(f"{folder / label}: {unknown('class of DTD', label, CLASSES)}")
        files = image_files(folder / label)
        if not files:
            raise FileNotFoundError(f"{folder / label}: no images in this class folder, expected {KINDS}")
        rows += [{"image": file.absolute(), "label": label} for file in files]
    if fold is not None or (path / "labels").is_dir():
        _add_split(rows, path / "labels", fold or 1, classes)
    return image_table(rows, dataset="dtd", root=path, classes=classes, subjects="none")


def _add_split(rows, folder, fold, classes):
    lists = {part: folder / f"{name}{fold}.txt" for name, part in PARTS.items()}
    held, where = {}, {}
    for part, file in lists.items():
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file, expected the official list of images, one a line")
        try:
            held[part] = file.read_text(encoding="utf-8-sig").split()
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not readable as UTF-8 ({error}), expected the names of images") from error
        for name in held[part]:
            if name in where:
                raise ValueError(f"{file}: image {name!r} is in {lists[where[name]].name} too, expected it once")
            where[name] = part
    present = {f"{row['label']}/{row['image'].stem}" for row in rows}
    for row in rows:
        name = f"{row['label']}/{row['image'].stem}.jpg"
        if name not in where:
            # The official lists are equally long, so that the shortest is one that lost its end.
            shortest, *others = sorted(lists, key=lambda part: len(held[part]))
            raise ValueError(
                f"{lists[shortest]}: {len(held[shortest])} images, expected {name!r} among them, as it is in neither "
                f"{' nor '.join(lists[part].name for part in others)}"
            )
        row["split"] = where[name]
    listed = [name for name in where if name.split("/")[0] in classes]
    missing = [name for name in listed if name.removesuffix(".jpg") not in present]
    report_missing(missing, len(listed), folder.parent / "images")
