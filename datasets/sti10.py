"""STI-10, "subset textures ImageNet": photographs from ImageNet of ten things that look like a texture.

Irma van den Brandt and others, Cats, not CAT scans, arXiv 2107.05940, 2021, section III-3: brick, stone wall, flower,
honeycomb, egg, rock, fabric, cloud, chain and ocean, 8060 images. The authors publish the synsets and not the images:
they took what the addresses of 2020 still led to. Only three of the ten synsets (stone wall, honeycomb and chain) are
among the 1000 classes of ILSVRC on which "ImageNet" weights are trained; the other seven are in the whole of ImageNet
alone (21841 synsets), so that these data are not, as the paper has it, a part of what such weights have seen.
"""

from pathlib import Path

from .._nearest import unknown
from .images import KINDS, image_files
from .table import image_table

SYNSETS = {
    "brick": "n02897820",
    "stone wall": "n04326547",  # in ILSVRC
    "flower": "n11669921",
    "honeycomb": "n03530642",  # in ILSVRC
    "egg": "n07840804",
    "rock": "n09416076",
    "fabric": "n03309808",
    "cloud": "n09247410",
    "chain": "n02999410",  # in ILSVRC
    "ocean": "n09376198",
}


def read_sti10(path):
    """Reads the ten synset folders of STI-10.

    Args:
        path: the folder that holds `n02897820/*.JPEG` (brick), `n04326547/` (stone wall), `n11669921/` (flower),
            `n03530642/` (honeycomb), `n07840804/` (egg), `n09416076/` (rock), `n03309808/` (fabric), `n09247410/`
            (cloud), `n02999410/` (chain) and `n09376198/` (ocean), and no other folder.

    Returns:
        An image table without known subjects: the ten classes in this order.

    Raises:
        FileNotFoundError: if the folder or one of the ten is missing, or holds no images.
        ValueError: if a folder is none of the ten synsets.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder, expected the synset folders {', '.join(SYNSETS.values())}")
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in SYNSETS.values():
            raise ValueError(f"{folder}: {unknown('synset of STI-10', folder.name, SYNSETS.values())}")
    rows = []
    for label, synset in SYNSETS.items():
        folder = path / synset
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder, expected the images of {label!r}")
        files = image_files(folder)
        if not files:
            raise FileNotFoundError(f"{folder}: no images of {label!r}, expected {KINDS}")
        rows += [{"image": file.absolute(), "label": label} for file in files]
    return image_table(rows, dataset="sti10", root=path, classes=SYNSETS, subjects="none")
