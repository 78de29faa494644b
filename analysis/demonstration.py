"""A published checkpoint, loaded with one call, on images that anybody has: their own, or drawn phantoms."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
from PIL import Image

from .. import zoo
from .._files import atomic
from ..datasets import image_paths, read_image, read_tree
from .phantoms import KINDS, draw_phantom
from .pictures import prediction_figure
from .predicting import heatmap_overlays, predict_images

CHECKPOINT = "drs-resnet18-busi"
PICTURED = 12  # of a larger folder as many are taken, evenly spread
PHANTOMS = 3  # of each kind
PHANTOM_HEADING = "Drawn phantoms, no real images: what the model says of them is no evidence of its accuracy"


class Demonstration(NamedTuple):
    """What `demonstrate` made.

    Attributes:
        picture: path of the PNG.
        heading: str, what the images are.
        predictions: DataFrame as from `predict_images`.
        found: number of images in the folder, of which `predictions` has at most twelve.
    """

    picture: Path
    heading: str
    predictions: pd.DataFrame
    found: int


def demonstrate(images=None, out="demo"):
    """Loads `drs-resnet18-busi`, scores images, and draws them with their heatmaps in one picture.

    Args:
        images: folder with images at any depth, or None to draw phantoms, which are written below `out`.
        out: folder for `predictions.png`, made if need be.

    Returns:
        `Demonstration`.

    Raises:
        FileNotFoundError, ValueError: the folder holds no image, or a file that is none.
        OSError: the picture cannot be written.

    Example:

    ```python
    demonstrate("~/data/scans").picture
    ```
    """
    out = Path(out)
    if images is None:
        found = _write_phantoms(out / "phantoms")
        heading = PHANTOM_HEADING
    else:
        found = image_paths(read_tree(images))
        heading = f"Images of {images}: for research, not for diagnosis"
    count = min(PICTURED, len(found))
    paths = [found[index * len(found) // count] for index in range(count)]
    model, card = zoo.load(CHECKPOINT), zoo.card(CHECKPOINT)
    predictions = predict_images(model, card, paths)
    pixels = [read_image(path) for path in paths]
    positive = card.classes[-1]
    figure = prediction_figure(
        pixels,
        heatmap_overlays(model, card, pixels),
        [f"{path.name}\n{positive} {value:.2f}" for path, value in zip(paths, predictions[positive], strict=True)],
        heading,
        f"{card.name}, version {card.version}: probability of {positive!r}. Right of each image its class activation "
        f"map: orange speaks for {positive}, blue against it. Trained on {card.data['dataset']}.",
    )
    picture = out / "predictions.png"
    with atomic(picture) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return Demonstration(picture, heading, predictions, len(found))


def _write_phantoms(folder):
    paths = []
    for kind in KINDS:
        for seed in range(PHANTOMS):
            paths.append(folder / f"{kind}-phantom-{seed + 1}.png")
            with atomic(paths[-1]) as temporary:
                Image.fromarray(draw_phantom(kind, seed)[..., 0]).save(temporary, format="PNG")
    return paths
