"""From a folder somebody downloaded to a table of images, from the table to batches.

A new dataset is one file with a reader that returns an image table, and one line in `READERS`.
"""

import importlib

from .._lazy import attach
from .._nearest import unknown

READERS = {
    "busi": ("busi", "read_busi"),
    "cbis_ddsm": ("cbis_ddsm", "read_cbis_ddsm"),
    "chestxray14": ("chestxray14", "read_chestxray14"),
    "csv": ("folder", "read_csv"),
    "dtd": ("dtd", "read_dtd"),
    "folder": ("folder", "read_folder"),
    "inbreast": ("inbreast", "read_inbreast"),
    "isic2018": ("isic2018", "read_isic2018"),
    "kermany": ("kermany", "read_kermany"),
    "kimiapath960": ("kimiapath960", "read_kimiapath960"),
    "mini_mias": ("mini_mias", "read_mini_mias"),
    "pcam": ("pcam", "read_pcam"),
    "pcam_middle": ("pcam", "read_pcam_middle"),
    "pcam_small": ("pcam", "read_pcam_small"),
    "rodrigues": ("rodrigues", "read_rodrigues"),
    "rsna": ("rsna", "read_rsna"),
    "sti10": ("sti10", "read_sti10"),
    "stl10": ("stl10", "read_stl10"),
}

__getattr__, __dir__, _lazy_names = attach(
    __name__,
    modules=[
        "batches",
        "busi",
        "cache",
        "cbis_ddsm",
        "chestxray14",
        "containers",
        "dtd",
        "folder",
        "images",
        "inbreast",
        "isic2018",
        "kermany",
        "kimiapath960",
        "listing",
        "mini_mias",
        "patches",
        "pcam",
        "regions",
        "rodrigues",
        "rsna",
        "sources",
        "splits",
        "sti10",
        "stl10",
        "table",
        "tree",
        "twins",
    ],
    names={
        "batches": ["Batches", "class_weights"],
        "busi": ["read_busi"],
        "cache": ["CachedImages", "cached_images", "readable"],
        "cbis_ddsm": ["read_cbis_ddsm"],
        "chestxray14": ["read_chestxray14"],
        "dtd": ["read_dtd"],
        "folder": ["read_csv", "read_folder"],
        "images": ["read_image", "resize_image"],
        "inbreast": ["read_inbreast"],
        "isic2018": ["read_isic2018"],
        "kermany": ["read_kermany"],
        "kimiapath960": ["read_kimiapath960"],
        "mini_mias": ["read_mini_mias"],
        "patches": ["PATCH_CLASSES", "PatchImages", "breast_mask", "sample_patches"],
        "pcam": ["read_pcam", "read_pcam_middle", "read_pcam_small"],
        "regions": ["LESIONS", "Region", "circle_outline", "region_mask"],
        "rodrigues": ["read_rodrigues"],
        "rsna": ["read_rsna"],
        "sources": ["SOURCES", "Source", "source"],
        "splits": ["fraction", "k_folds", "split", "validation_from_training"],
        "sti10": ["read_sti10"],
        "stl10": ["read_stl10"],
        "table": ["check_table", "encode_labels", "image_paths", "image_table", "is_multi_label"],
        "tree": ["read_tree"],
        "twins": ["find_twins", "twin_subjects"],
    },
)
__all__ = sorted([*_lazy_names, "list_datasets", "read"])


def list_datasets():
    """The names that `read` knows, sorted."""
    return sorted(READERS)


def read(name, path, **options):
    """Reads a dataset that lies on disk into an image table.

    Args:
        name: one of `list_datasets()`.
        path: the folder (or CSV file) where the dataset lies.
        **options: passed to the dataset's reader, for example `classes`.

    Returns:
        An image table, see `medzoo.datasets.table`.

    Raises:
        ValueError: if no dataset has this name; the message gives the nearest one that exists.

    Example:

    ```python
    table = datasets.read("busi", "~/data/Dataset_BUSI_with_GT", classes=("benign", "malignant", "normal"))
    ```
    """
    if name not in READERS:
        raise ValueError(unknown("dataset", name, READERS))
    module, function = READERS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)(path, **options)
