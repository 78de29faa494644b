"""What a training may begin with, ImageNet backbones and checkpoints of the zoo, and what each makes of images."""

import contextlib
import hashlib
import json
import math
import os
import re
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from .. import _cache, _progress, zoo
from .._files import atomic, read_json, write_json
from .._nearest import unknown
from ..datasets import cached_images
from ..datasets.folder import PARTS
from ..datasets.images import DECODER_VERSION, DICOM_VERSION
from ..datasets.sources import OWN, SOURCES
from ..zoo import backbones, store
from ..zoo.checkpoints import HEAD
from .costs import multiply_accumulates
from .crops import CroppedImages, size_before_crop
from .predicting import resize_policy

SIZE = (224, 224)  # of images for an ImageNet backbone: what the official weights were trained at
BATCH = 16  # images in a forward pass
BLOCK = 4 * BATCH  # images whose features are written together, and the most that a kill costs
FEATURES_VERSION = 1  # goes up when the same weights give other features of the same images


class Form(NamedTuple):
    """How images are prepared for a candidate.

    Attributes:
        size: (height, width) of the network's input.
        channels: 1 or 3.
        fit: see `medzoo.datasets.policies.FITS`.
        intensity: see `medzoo.datasets.policies.DICOM_POLICIES`.
        crop: share of height and width that the centre crop keeps, in (0, 1].
    """

    size: tuple
    channels: int = 3
    fit: str = "stretch"
    intensity: str = "voi"
    crop: float = 1.0

    @property
    def cached(self):
        """Arguments of `medzoo.datasets.cached_images`."""
        size = size_before_crop(self.size, self.crop)
        return {"size": size, "channels": self.channels, "fit": self.fit, "intensity": self.intensity}


class Candidate(NamedTuple):
    """Something that a training may begin with.

    Attributes:
        name: of the backbone or checkpoint.
        source: what `zoo.backbone` or `zoo.load` takes.
        card: `medzoo.zoo.Card` of a checkpoint, None for a backbone with ImageNet weights.
        form: `Form` of its images.
        key: hexadecimal digits that differ where weights, network or form do.
    """

    name: str
    source: str
    card: zoo.Card | None
    form: Form
    key: str


class Features(NamedTuple):
    """What a candidate makes of images.

    Attributes:
        features: float32 (n, features), the input of its last layer: pooled activations.
        probabilities: float32 (n, classes) of its own head; None without one, or where its labels do not exclude each
            other.
        images_per_second: of forward passes of 16 when they were computed, that of the fastest tenth of them: other
            programs disturb it least.
    """

    features: np.ndarray
    probabilities: np.ndarray | None
    images_per_second: float


class Costs(NamedTuple):
    """What a candidate costs by count.

    Attributes:
        multiply_accumulates: of a forward pass of one image, see `multiply_accumulates`.
        parameters: number of weights.
        activations: numbers that all layers give for one image.
    """

    multiply_accumulates: int
    parameters: int
    activations: int


def list_candidates():
    """What can be begun with on this machine without a download.

    Returns:
        (names, missing): ImageNet backbones whose weights are at hand and all checkpoints whose weights are; and a
        mapping of the others to the reason.
    """
    names, missing = [], {}
    for name in zoo.list_backbones():
        if backbones.imagenet_at_hand(name) is None:
            missing[name] = "no ImageNet weights at hand"
        else:
            names.append(name)
    for name in zoo.list_models():
        below = zoo.card(name).weights["backbone"]
        if below is not None and below["name"] in missing:
            missing[name] = f"no ImageNet weights of {below['name']} at hand, on which it lies"
        else:
            names.append(name)
    return names, missing


def candidate(name):
    """Something to begin with, by name.

    Args:
        name: of a backbone, for its ImageNet weights, which are downloaded if need be; or of a checkpoint, as for
            `medzoo.zoo.load`.

    Returns:
        `Candidate`.

    Raises:
        ValueError: for an unknown name, or a checkpoint whose images come to size in an unknown way.
        FileNotFoundError: for a folder that is not there, and as `zoo.backbone` and `zoo.load`.
    """
    name = str(name)
    if name in zoo.list_backbones():
        form = Form(SIZE)
        return Candidate(name, name, None, form, _key(form, name, _imagenet_sha256(name)))
    _require_checkpoint(name)
    card = zoo.card(name)
    height, width, channels = card.input["shape"]
    form = Form((height, width), channels, resize_policy(card), card.input["dicom"], card.input["crop"])
    below = card.weights["backbone"]
    weights = [card.weights["sha256"], *([_imagenet_sha256(below["name"])] if below else [])]
    return Candidate(card.name, name, card, form, _key(form, card.build, *weights))


def _require_checkpoint(name):
    """Refuses what is neither an archive nor a folder nor a checkpoint's name, in words that name the backbones too."""
    if re.match("https?://", name) or name.endswith(".zip") or Path(name).is_dir():
        return
    if "/" in name or os.sep in name:
        raise FileNotFoundError(f"{name}: no such folder, expected that of a checkpoint")
    known = zoo.list_models()
    if name not in known:
        raise ValueError(unknown("candidate", name, [*zoo.list_backbones(), *known]))


def datasets_seen(card):
    """Datasets that a checkpoint was trained on, now or before.

    Returns:
        list of names as `datasets.list_datasets()` has them; a user's own images have none.
    """
    said = " ".join([card.data["dataset"], card.licence, *card.limitations])
    return [name for name, source in SOURCES.items() if source is not OWN and source.title in said]


def has_seen(card, table):
    """Whether a checkpoint was trained on a table's dataset, on a part of it, or on one of which this is a part.

    Args:
        card: `medzoo.zoo.Card`.
        table: an image table.
    """
    known = known_as(table)
    return known is not None and _whole(known) in map(_whole, datasets_seen(card))


def known_as(table):
    """Which dataset a table is of, as far as names tell: that of its reader, or that of the user's folder or CSV file.

    The whole name, without regard to case, blanks and signs, must be a dataset's or one of its aliases, or begin with
    it; the longest counts. Of a folder `train` or the like the name of the one above it is asked.

    Args:
        table: an image table.

    Returns:
        One of `datasets.list_datasets()`, or None.

    Example:

    ```python
    >>> known_as(datasets.read_folder("~/data/Dataset_BUSI_with_GT"))
    'busi'
    ```
    """
    name, root = table.attrs["dataset"], Path(table.attrs["root"]).absolute()
    if SOURCES.get(name, OWN) is not OWN:
        return name
    folder = root.parent if root.name.lower() in PARTS else root
    found = {}
    for text in (name, folder.name):
        plain = re.sub("[^a-z0-9]", "", text.lower())
        for dataset, source in SOURCES.items():
            aliases = () if source is OWN else (dataset.replace("_", ""), *source.aliases)
            found |= {alias: dataset for alias in aliases if plain.startswith(alias)}
    return found[max(found, key=len)] if found else None


def _whole(name):
    """Name of the dataset of which another is a part; its own where it is none."""
    return SOURCES[name].whole or name


def candidate_features(candidate, table):
    """What a candidate makes of the images of a table, computed once.

    Features stay in the cache, 64 images a file, under the hashes of weights and images: an interrupted computation
    goes on, and the network is not even loaded where all are there.

    Args:
        candidate: `Candidate`.
        table: an image table whose images can all be read.

    Returns:
        (`Features` in the order of the table, `Costs`).

    Raises:
        FileNotFoundError, ValueError: an image or the weights are missing or damaged, or a checkpoint has no layer
            `head_logits`.
        OSError: the cache cannot be written.
    """
    images = cached_images(table, **candidate.form.cached)
    sha256 = images.sha256
    if candidate.form.crop < 1:
        images = CroppedImages(images, candidate.form.size)
    folder = _cache.folder("features", f"{candidate.name}-{candidate.key[:16]}")
    costs = _read_costs(folder / "costs.json")
    network = None
    if costs is None:
        network = _Network(candidate)
        costs = network.costs
        write_json(folder / "costs.json", costs._asdict())
    parts = []
    for start in range(0, len(sha256), BLOCK):
        rows = range(start, min(start + BLOCK, len(sha256)))
        file = folder / f"{hashlib.sha256(' '.join(sha256[row] for row in rows).encode()).hexdigest()[:32]}.npz"
        found = _read_block(file)
        if found is None:
            network = network or _Network(candidate)
            found = network.run(images.read(rows))
            with atomic(file) as temporary:
                np.savez(temporary, **found)
        parts.append(found)
        if network is not None:
            _progress.show(f"features of {candidate.name}", rows.stop, len(sha256))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rate = 1 / float(np.quantile(joined["seconds"], 0.1))
    return Features(joined["features"], joined.get("probabilities"), rate), costs


def _imagenet_sha256(name):
    return store.file_sha256(backbones.imagenet_file(name))


def _key(form, *parts):
    text = json.dumps([FEATURES_VERSION, DECODER_VERSION, DICOM_VERSION, form, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class _Network:
    """A candidate's network from images to pooled features and, where it has them, probabilities."""

    def __init__(self, candidate):
        size, channels = candidate.form.size, candidate.form.channels
        with _float32():
            if candidate.card is None:
                model = zoo.backbone(candidate.source, input_shape=(*size, channels))
                outputs = [keras.layers.GlobalAveragePooling2D()(model.output)]
            else:
                model = zoo.load(candidate.source)
                if HEAD not in [layer.name for layer in model.layers]:
                    raise ValueError(f"{candidate.source}: received a network without {HEAD!r}, expected a classifier")
                outputs = [model.get_layer(HEAD).input]
                outputs += [] if candidate.card.multi_label else [model.output]
            self.model = keras.Model(model.input, outputs)
        self.costs = Costs(
            int(multiply_accumulates(model)["multiply_accumulates"].sum()),
            model.count_params(),
            sum(math.prod(layer.output.shape[1:]) for layer in model.layers[1:]),
        )
        # Compiled here, so that no measured time has that in it.
        self._forward(np.zeros((BATCH, *size, channels), "float32"))

    def run(self, images):
        """Arrays by name: `features`, `probabilities` where there are any, and `seconds` that each image took."""
        batches, seconds = [], []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH].astype("float32")
            whole = np.zeros((BATCH, *batch.shape[1:]), "float32")  # of one shape: for another it compiles anew
            whole[: len(batch)] = batch
            before = time.perf_counter()
            outputs = self._forward(whole)
            seconds += [(time.perf_counter() - before) / BATCH] * len(batch)
            batches.append([output[: len(batch)] for output in outputs])
        features, *probabilities = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        found = {"features": features, "seconds": np.array(seconds)}
        for scores in probabilities:
            found["probabilities"] = np.concatenate([1 - scores, scores], axis=1) if scores.shape[1] == 1 else scores
        return found

    def _forward(self, images):
        outputs = keras.tree.flatten(self.model.predict_on_batch(images))  # of a single one Keras makes no list
        return [keras.ops.convert_to_numpy(output) for output in outputs]


@contextlib.contextmanager
def _float32():
    """Networks built in the block compute in float32, whatever the caller has set: the cache knows one precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _read_costs(file):
    try:
        return Costs(**read_json(file))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _read_block(file):
    """Arrays of a file of the cache by name; None where there is none that can be read."""
    try:
        with np.load(file) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
