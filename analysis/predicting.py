"""Image files to probabilities and heatmaps, prepared as the checkpoint's card says its training images were."""

import os
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from PIL import Image

from .._files import atomic
from ..datasets.images import fit_window, frame_image, read_image, resize_image
from ..datasets.policies import FITS
from ..datasets.table import NO_FINDING
from .crops import crop_images, size_before_crop
from .heatmaps import evidence_map, overlay

BATCH = 16  # images in memory at a time


def prepare_image(image, card):
    """Brings an image to the size and the channels of a checkpoint's input, as its training images were brought.

    Where the card says that images keep their aspect ratio, black fills the rest on the right and below. Where it says
    that a crop is taken, it is the centre of the resized image.

    Args:
        image: (height, width, 1 or 3), values in [0, 255], as `medzoo.datasets.read_image(path, card.input["dicom"])`
            gives it.
        card: `medzoo.zoo.Card` of the checkpoint.

    Returns:
        float32 of shape `card.input["shape"]`: whole numbers in [0, 255], as training read them from the cache.

    Raises:
        ValueError: the card asks for another way of resizing than those of `medzoo.datasets.policies.FITS`.
    """
    height, width, channels = card.input["shape"]
    frame = size_before_crop((height, width), card.input["crop"])
    return crop_images(frame_image(image, frame, channels, resize_policy(card)), (height, width))


def resize_policy(card):
    """The way of resizing that a card names, perhaps with more said behind it: one of `datasets.policies.FITS`."""
    resize = card.input["resize"]
    if resize.startswith(FITS["pad"]):
        return "pad"
    if not resize.startswith("bilinear") or "pad" in resize:
        raise ValueError(
            f"card of {card.name!r}: received resize {resize!r}, expected one of {'; '.join(FITS.values())}"
        )
    return "stretch"


def predict_images(model, card, paths):
    """Predicts the class of image files.

    Args:
        model: a classifier as `medzoo.zoo.load` gives it, or one fine-tuned from it with the classes of `card`.
        card: its `medzoo.zoo.Card`: input shape, way of resizing and class names.
        paths: image files of any kind that `medzoo.datasets.read_image` reads.

    Returns:
        DataFrame, a row for each path in the given order: `image` (the path as given), the probability of each class
        under the class's name, and `predicted`. Where the classes exclude each other the probabilities sum to 1, and
        `predicted` is the most probable class. Where they do not (`card.multi_label`) it holds those with a probability
        of 0.5 or more, joined by `|`, or `"No Finding"`.

    Raises:
        FileNotFoundError, ValueError: a file is missing or no image (the message names it), there is none, or model
            and card do not fit each other.

    Example:

    ```python
    name = "drs-resnet18-busi"
    table = analysis.predict_images(zoo.load(name), zoo.card(name), ["scan.png", "other.dcm"])
    ```
    """
    paths = _listed(paths)
    classes = list(card.classes)
    units = model.output_shape[-1]
    if units != (1 if len(classes) == 2 and not card.multi_label else len(classes)):
        raise ValueError(f"model {model.name!r}: received {units} outputs for the classes {', '.join(classes)}")
    parts = []
    for start in range(0, len(paths), BATCH):
        images = np.stack(
            [prepare_image(read_image(path, card.input["dicom"]), card) for path in paths[start : start + BATCH]]
        )
        parts.append(keras.ops.convert_to_numpy(model.predict_on_batch(images)))
    probabilities = np.concatenate(parts).astype("float64")
    if units == 1 and not card.multi_label:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
    table = pd.DataFrame({"image": [str(path) for path in paths]})
    for index, name in enumerate(classes):
        table[name] = probabilities[:, index]
    if card.multi_label:
        present = [[name for name, value in zip(classes, row, strict=True) if value >= 0.5] for row in probabilities]
        table["predicted"] = ["|".join(names) or NO_FINDING for names in present]
    else:
        table["predicted"] = [classes[index] for index in probabilities.argmax(axis=1)]
    return table


def heatmap_overlays(model, card, images):
    """Lays maps of the evidence for a class over images at their own size; see `evidence_map` and `overlay`.

    Where the model sees only the centre of the image (`card.input["crop"]`), there is no colour outside it.

    Args:
        model: a classifier whose head is one dense layer, as every one of the zoo.
        card: its `medzoo.zoo.Card`.
        images: list of (height, width, 1 or 3) arrays with values in [0, 255], of any sizes.

    Returns:
        list of uint8 (height, width, 3), RGB. Vermilion speaks for the class, blue against it: for the second of two
        classes that exclude each other, otherwise for the most probable.

    Raises:
        ValueError: the model has another head.
    """
    maps = evidence_map(model, np.stack([prepare_image(image, card) for image in images]))
    return [overlay(image, _place(each, image.shape[:2], card)) for image, each in zip(images, maps, strict=True)]


def _place(heatmap, size, card):
    """A map of the model's input where it lies on an image of that size, 0 around it; what lies on padding is cut."""
    shape = card.input["shape"][:2]
    frame = size_before_crop(shape, card.input["crop"])
    *_, height, width = fit_window(size, frame, resize_policy(card))
    part, window = [], []
    for side, before, framed, length in zip(shape, frame, (height, width), size, strict=True):
        start = (before - side) // 2
        seen = max(0, min(side, framed - start))
        part.append(slice(0, seen))
        # Every pixel of the image of which the crop holds a part.
        window.append(slice(start * length // framed, -(-(start + seen) * length // framed) if seen else 0))
    placed = np.zeros(size, "float32")
    extent = [each.stop - each.start for each in window]
    if min(extent) > 0:
        placed[tuple(window)] = resize_image(heatmap[tuple(part)][..., None], extent)[..., 0]
    return placed


def write_heatmaps(model, card, paths, folder):
    """Writes each image with the evidence for its class laid over it as `NAME_heatmap.png`, at the image's own size.

    Args:
        model, card: as for `heatmap_overlays`.
        paths: image files. Where they lie in several folders, so do the pictures.
        folder: for the pictures, made if need be.

    Returns:
        list of `Path`, in the order of `paths`.

    Raises:
        FileNotFoundError, ValueError: a file is missing or no image, the model has another head, or two images would
            get the same picture.
        OSError: a picture cannot be written.
    """
    paths = _listed(paths)
    full = [Path(os.path.abspath(path)) for path in paths]
    above = os.path.commonpath([path.parent for path in full])
    names = [path.relative_to(above).with_name(f"{path.stem}_heatmap.png") for path in full]
    targets = {}
    for path, name in zip(paths, names, strict=True):
        target = Path(folder) / name
        if target in targets:
            raise ValueError(f"{path}: its heatmap {target} would replace that of {targets[target]}")
        if Path(os.path.abspath(target)) in full:
            raise ValueError(f"{target}: received as an image, expected another folder for the heatmaps")
        targets[target] = path
    written = list(targets)
    for start in range(0, len(paths), BATCH):
        images = [read_image(path, card.input["dicom"]) for path in paths[start : start + BATCH]]
        overlays = heatmap_overlays(model, card, images)
        for target, picture in zip(written[start : start + BATCH], overlays, strict=True):
            with atomic(target) as temporary:
                Image.fromarray(picture).save(temporary, format="PNG")
    return written


def _listed(paths):
    if isinstance(paths, (str, os.PathLike)):
        raise ValueError(f"paths: received the single path {str(paths)!r}, expected a list of image files")
    paths = list(paths)
    if not paths:
        raise ValueError("paths: received no image file, expected at least one")
    return paths
