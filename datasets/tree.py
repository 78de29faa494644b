"""Any folder of images, at whatever depth they lie, for what needs no classes: looking for twins, predicting."""

from pathlib import Path

from .busi import MASK
from .images import KINDS, image_files
from .table import image_table


def read_tree(path):
    """Reads all images below a folder, masks apart.

    Args:
        path: the folder. The label of an image is the name of the subfolder of `path` in which it lies, at whatever
            depth; `"."` right in `path`. A file `NAME_mask` or `NAME_mask_1` beside an image `NAME` is left out.

    Returns:
        An image table without known subjects.

    Raises:
        FileNotFoundError: the folder is missing, or there is no image in it.

    Example:

    ```python
    twins = find_twins(read_tree("~/data/Dataset_BUSI_with_GT"))
    ```
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder, expected one with images")
    files = image_files(path, recursive=True)
    present = {file.with_suffix("") for file in files}
    rows = []
    for file in files:
        name = MASK.sub("", file.stem)
        if name != file.stem and file.with_name(name) in present:
            continue
        inside = file.relative_to(path).parts
        rows.append({"image": file.absolute(), "label": inside[0] if len(inside) > 1 else "."})
    if not rows:
        raise FileNotFoundError(f"{path}: no images in this folder, expected {KINDS}")
    classes = sorted({row["label"] for row in rows})
    return image_table(rows, dataset=path.absolute().name, root=path, classes=classes, subjects="none")
