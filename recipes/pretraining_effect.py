"""Does pretraining help, and does fine-tuning hide it? The pretraining-effect study on any source and any targets.

The study begins networks at random, with ImageNet's weights and with those of a medical source, fine-tunes each with
none, 10 % and 20 % of a target dataset and compares their AUCs on what is left of it (tables 1 to 3), does the same
with hybrid transfer (table 4), and compares layers before and after fine-tuning by CCA (figure 1).

    medzoo run pretraining_effect --data GRID.csv --out RUN
    medzoo run pretraining_effect --data GRID.csv --out RUN --profile quick --method resnet18 --processes 2

`GRID.csv` says what is moved where, a line a dataset:

    role,dataset,data
    source,cbis_ddsm,/data/CBIS-DDSM
    target,inbreast,/data/INbreast
    target,mini_mias,/data/MIAS
    target,rodrigues,/data/us-dataset

A column `name` tells two datasets of one reader (`csv`, `folder`) apart. A line `patches,DATASET,FOLDER` names a
dataset with annotated lesions for the patch-based CNN, where the source has none; subjects whose lesions it was shown
are not among those that it is tested on. A run that was stopped goes on with the cells that are missing; networks,
targets and repeats may be added to a finished one.

Where the paper is silent:
- Optimiser, learning rates, epochs, batch size, image size and augmentation: `Settings`. A network that begins at
  random has a rate of its own.
- It does not say where the networks trained on DDSM began, but sets "randomly initialized", ImageNet and DDSM against
  each other: `source_starts` is `random`; `--set source_starts=random,imagenet` adds networks that went from ImageNet
  to the source.
- It does not say which images AUCs were measured on. Here those that no fraction takes, the same for all fractions, so
  that cells can be compared in pairs. Each repeat draws anew. There is no validation part: the weights after the last
  step count, and every fraction has as many steps, so that more images do not mean more training.
- Batch norm averages its statistics with a momentum of 0.9 in every training. At Keras's 0.99 tens of steps would
  leave a network that began at random with statistics of its start, and the tables would show that and not the
  pretraining.
- "A lighter top" (section 3.4): everything behind block 2 has half of its filters and starts at random
  (`layers.slim_top`).
- The patch-based CNN is that of the all-convolutional recipe, trained by it.
- ImageNet classifiers cannot be scored without fine-tuning, and the patch-based CNN "is not designed to train using
  ImageNet dataset": NA, as is what cannot be had here; the report gives the reason.

Two protocols, one option apart:
`published` (the default): the fraction of a target is drawn image by image, "stratified", so that a woman may be both
trained on and tested.
`sound`: it is drawn by subject.
"""

import copy
import functools
import multiprocessing
import os
import random
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from .. import analysis, datasets, zoo
from .._files import atomic
from .._nearest import require
from ..datasets.policies import FITS
from ..layers import slim_top
from ..training import (
    Stage,
    Trainer,
    affine_augmentation,
    check_settings,
    fit_stages,
    inverse_class_weights,
    parse_settings,
    precision,
    set_momentum,
)
from ..training.mixed_precision import PRECISIONS
from ..training.run import (
    SUBJECT_SOURCES,
    card_data,
    card_metrics,
    command_text,
    interval_columns,
    interval_text,
    machine,
    open_run,
    write_figure,
    write_split,
    write_table,
)
from ..zoo import backbones, builders
from ..zoo.store import file_sha256
from . import all_conv
from .grid import read_grid
from .reporting import (
    difference_text,
    is_present,
    kept_columns,
    leak_limitation,
    predict,
    read_predictions,
    table_limitation,
    table_row,
    verdict,
)

PROTOCOLS = ("published", "sound")
OPTIONS = ("processes",)
PATCH_CNN = "patch-cnn"
# Table 1's networks. Any other backbone may be named.
METHODS = {
    "vgg16": "VGG-16",
    "resnet50": "Resnet-50",
    "inceptionv3": "Inception-v3",
    PATCH_CNN: "patch-based CNN",
}
ROLES = ("source", "target", "patches")

# ---------------------------------------------------------------------------------------------------------------------
# Section 3: settings


@dataclass(frozen=True)
class Settings:
    """Everything about a run that is not its grid or protocol. Change a value with `--set key=value`.

    Attributes:
        size: height and width of the images that all networks but the patch-based CNN take, in pixels.
        fractions: of a target's images to fine-tune with, each part of the next larger one. None is always a column.
        repeats: of every cell, each with another draw of the target's images, other random weights and another order.
        pretrainings: trainings of each network on each source; the repeats take turns.
        source_starts: what a network trained on a source began with: `"random"`, `"imagenet"` or both.
        source_epochs, source_batch_size: of the training on a source, whose best epoch by validation AUC counts.
        steps, batch_size: of each fine-tuning, as many for every fraction; the weights after the last step count.
        learning_rate: of Adam, for networks that begin with pretrained weights, on sources and on targets.
        random_learning_rate: for networks that begin at random.
        hybrid: networks that hybrid transfer is tried with; `none` for none.
        hybrid_until: name of the last group of a hybrid network that keeps its weights.
        hybrid_width: share of the filters that the layers behind it keep.
        similarity: networks whose representations, as a source left them, are compared before and after fine-tuning;
            `none` for none.
        test_share, validation_share: of a source's images, by subject, where it has no official parts.
        patch_backbone, patch_input_size, patch_size: of the patch-based CNN, in pixels; all else as in the profile of
            the same name of the all-convolutional recipe.
        patch_test_share: of the images of the dataset with annotated lesions, by subject, that no patches come from.
        patch_validation_share: of the rest, and of the source's images that the patch-based CNN is not tested on, by
            subject; large enough for every kind of lesion.
        precision: of the computations in training; tests are always in float32.
        seed: of splits, draws and all random numbers.
    """

    size: int = 224
    fractions: tuple[float, ...] = (0.1, 0.2)
    repeats: int = 3
    pretrainings: int = 3
    source_starts: tuple[str, ...] = ("random",)
    source_epochs: int = 50
    source_batch_size: int = 32
    steps: int = 500
    batch_size: int = 8
    learning_rate: float = 1e-4
    random_learning_rate: float = 3e-4
    hybrid: tuple[str, ...] = ("resnet50",)
    hybrid_until: str = "stage2"
    hybrid_width: float = 0.5
    similarity: tuple[str, ...] = ("resnet50",)
    test_share: float = 0.2
    validation_share: float = 0.1
    patch_backbone: str = "resnet50"
    patch_input_size: tuple[int, ...] = (1152, 896)
    patch_size: int = 224
    patch_test_share: float = 0.5
    patch_validation_share: float = 0.25
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        least = dict.fromkeys(("repeats", "pretrainings", "source_epochs", "source_batch_size", "steps"), 1)
        least |= {"batch_size": 1, "size": 32, "patch_input_size": 32, "patch_size": 32, "seed": 0}
        shares = ("fractions", "learning_rate", "random_learning_rate", "hybrid_width")
        check_settings(
            self,
            least,
            shares=(*shares, "test_share", "validation_share", "patch_test_share", "patch_validation_share"),
        )
        if list(self.fractions) != sorted(set(self.fractions)) or self.fractions[-1] >= 1:
            raise ValueError(f"fractions: received {self.fractions}, expected rising numbers below 1")
        for name in self.source_starts:
            require("source_starts", name, ("random", "imagenet"))
        require("hybrid_until", self.hybrid_until, tuple(backbones.RESNET_GROUPS)[:-1])
        require("precision", self.precision, PRECISIONS)


PROFILES = {
    "paper": Settings(),
    # Less than half the size, an eighth of the epochs and a twelfth of the steps, one training on each source.
    "quick": Settings(
        size=96,
        pretrainings=1,
        source_epochs=6,
        source_batch_size=16,
        steps=40,
        patch_backbone="resnet18",
        patch_input_size=(192, 192),
        patch_size=48,
        precision="mixed_bfloat16",
    ),
}

# Of the moving averages of batch norm, see above.
MOMENTUM = 0.9

# ---------------------------------------------------------------------------------------------------------------------
# The paper's numbers

# Tables 1 to 3: AUC by reader of the target, network and start, for no fine-tuning, 10 % and 20 %.
INBREAST = {
    ("vgg16", "random"): (0.340, 0.763, 0.784),
    ("vgg16", "imagenet"): (None, 0.760, 0.770),
    ("vgg16", "source"): (0.778, 0.835, 0.872),
    ("resnet50", "random"): (0.244, 0.776, 0.802),
    ("resnet50", "imagenet"): (None, 0.790, 0.809),
    ("resnet50", "source"): (0.833, 0.870, 0.882),
    ("inceptionv3", "random"): (0.583, 0.812, 0.816),
    ("inceptionv3", "imagenet"): (None, 0.806, 0.824),
    ("inceptionv3", "source"): (0.794, 0.825, 0.839),
    (PATCH_CNN, "random"): (0.512, 0.605, 0.636),
    (PATCH_CNN, "source"): (0.804, 0.835, 0.871),
}
MIAS = {
    ("vgg16", "random"): (0.513, 0.850, 0.856),
    ("vgg16", "imagenet"): (None, 0.850, 0.846),
    ("vgg16", "source"): (0.863, 0.862, 0.867),
    ("resnet50", "random"): (0.401, 0.852, 0.851),
    ("resnet50", "imagenet"): (None, 0.846, 0.850),
    ("resnet50", "source"): (0.872, 0.881, 0.880),
    ("inceptionv3", "random"): (0.181, 0.861, 0.860),
    ("inceptionv3", "imagenet"): (None, 0.845, 0.853),
    ("inceptionv3", "source"): (0.858, 0.861, 0.866),
    (PATCH_CNN, "random"): (0.473, 0.558, 0.568),
    (PATCH_CNN, "source"): (0.771, 0.776, 0.760),
}
ULTRASOUND = {
    ("vgg16", "random"): (0.671, 0.932, 0.977),
    ("vgg16", "imagenet"): (None, 0.951, 0.957),
    ("vgg16", "source"): (0.405, 0.963, 0.984),
    ("resnet50", "random"): (0.516, 0.844, 0.954),
    ("resnet50", "imagenet"): (None, 0.803, 0.933),
    ("resnet50", "source"): (0.388, 0.904, 0.965),
    ("inceptionv3", "random"): (0.632, 0.672, 0.842),
    ("inceptionv3", "imagenet"): (None, 0.687, 0.817),
    ("inceptionv3", "source"): (0.495, 0.870, 0.978),
    (PATCH_CNN, "random"): (0.526, 0.951, 0.982),
    (PATCH_CNN, "source"): (0.769, 0.954, 0.983),
}
TABLES_1_TO_3 = {"inbreast": INBREAST, "mini_mias": MIAS, "rodrigues": ULTRASOUND}
# Table 4: hybrid transfer with ResNet50, by start, for 10 % and 20 %.
TABLE_4 = {
    "mini_mias": {"random": (0.849, 0.845), "imagenet": (0.853, 0.847), "source": (0.883, 0.892)},
    "inbreast": {"random": (0.785, 0.803), "imagenet": (0.772, 0.817), "source": (0.871, 0.877)},
    "rodrigues": {"random": (0.930, 0.982), "imagenet": (0.911, 0.986), "source": (0.936, 0.970)},
}
# The fractions of the columns of tables 1 to 3.
COLUMNS = (0.0, 0.1, 0.2)

# ---------------------------------------------------------------------------------------------------------------------
# Section 2: the grid


def read_table(entry, protocol):
    """The image table of a line. Raises what its reader does, and ValueError for other than two classes."""
    try:
        return all_conv.read_table(entry.dataset, entry.data, protocol)
    except ValueError as error:
        raise ValueError(f"{entry.role} {entry.name}: {error}") from error


@dataclass(frozen=True)
class Start:
    """What a network begins with.

    Attributes:
        name: in tables: `random`, `imagenet`, the name of a source, or `imagenet+` and that name.
        source: name of the source that it was trained on; None without.
        begin: what the weights before that were: `"random"` or `"imagenet"`.
    """

    name: str
    source: str | None
    begin: str


def list_starts(sources, settings):
    """The rows of a table for one network."""
    starts = [Start("random", None, "random"), Start("imagenet", None, "imagenet")]
    for source in sources:
        for begin in settings.source_starts:
            starts.append(Start(source if begin == "random" else f"{begin}+{source}", source, begin))
    return starts


@dataclass(frozen=True)
class Cell:
    """One cell of tables 1 to 4.

    Attributes:
        target: name of the target dataset.
        network: name of a backbone, or `patch-cnn`.
        start: name of what it begins with.
        fraction: of the target that it is fine-tuned with; 0 for none.
        hybrid: whether only the weights up to a group are kept.
    """

    target: str
    network: str
    start: str
    fraction: float
    hybrid: bool = False

    def folder(self, out, repeat):
        """Where a repeat of this cell is written."""
        name = "none" if not self.fraction else f"{self.fraction:g}" + ("-hybrid" if self.hybrid else "")
        return out / "cells" / self.target / self.network / self.start / name / f"repeat-{repeat}"


def list_cells(context):
    """All cells, network by network and start by start, so that each is loaded once."""
    cells = []
    for network in context.networks:
        for start in context.starts:
            for target in context.targets:
                cells.append(Cell(target, network, start.name, 0.0))
                for hybrid in (False, True) if context.is_hybrid(network) else (False,):
                    cells += [
                        Cell(target, network, start.name, fraction, hybrid) for fraction in context.settings.fractions
                    ]
    return cells


# ---------------------------------------------------------------------------------------------------------------------
# Section 3: the images


def draw(table, settings, protocol, repeat):
    """Divides a target into what each fraction is fine-tuned with and what is tested on.

    Returns:
        float (n,): the smallest fraction that each image belongs to, NaN for the images of the test.

    Raises:
        ValueError: when a fraction, or what it leaves, would be of one class.
    """
    by = "subject" if protocol == "sound" else "image"
    fractions, seed = settings.fractions, settings.seed + repeat
    smallest = np.full(len(table), np.nan)
    drawn = table.drop(columns="split", errors="ignore")
    whole = 1.0
    rows = np.arange(len(table))
    for fraction in reversed(fractions):
        parts = {f"{fraction:g}": fraction / whole, "left": 1 - fraction / whole}
        try:
            part = datasets.split(drawn.iloc[rows].reset_index(drop=True), parts, seed, by)["split"].to_numpy()
        except ValueError as error:
            raise ValueError(f"target {table.attrs['dataset']}, fraction {fraction:g}: {error}") from error
        rows = rows[part != "left"]
        smallest[rows] = fraction
        whole = fraction
    return smallest


class Context:
    """What the cells of a grid share: its datasets, starts and networks.

    Attributes:
        tables: image table of each dataset by name, without the files that cannot be decoded.
        split: the same of each source, with the column `split`.
        draws: what `draw` gives, by target and repeat.
    """

    def __init__(self, data, out, profile, protocol, networks, settings, backbone, overrides):
        self.out, self.profile, self.protocol, self.settings = Path(out), profile, protocol, settings
        self.networks = networks
        grid = read_grid(data, ROLES)
        if sum(each.role == "patches" for each in grid) > 1:
            raise ValueError(f"{data}: received several lines 'patches', expected one at most")
        self.entries = {each.name: each for each in grid}
        self.sources = [each.name for each in grid if each.role == "source"]
        self.targets = [each.name for each in grid if each.role == "target"]
        self.patches = next((each.name for each in grid if each.role == "patches"), None)
        self.starts = list_starts(self.sources, settings)
        self.command = command_text("pretraining_effect", profile, protocol, "GRID.csv", backbone, overrides)
        # All lists are read before any image is decoded, so that a wrong name is told at once.
        tables = {name: read_table(entry, protocol) for name, entry in self.entries.items()}
        self.tables = {name: self.readable(name, table) for name, table in tables.items()}
        self.split = {
            name: all_conv.split_table(self.tables[name], settings, protocol, settings.test_share)
            for name in self.sources
        }
        repeats = range(settings.repeats)
        self.draws = {
            (name, repeat): draw(self.tables[name], settings, protocol, repeat)
            for name in self.targets
            for repeat in repeats
        }
        self.cells = list_cells(self)
        self.begun = Starts(self)

    def with_all_networks(self):
        """The same with every network that has a cell in the run's folder: a report is of all of them."""
        there = {folder.name for folder in self.out.glob("cells/*/*")}
        known = list(dict.fromkeys([*METHODS, *backbones.list_backbones()]))
        whole = copy.copy(self)
        whole.networks = tuple(name for name in known if name in {*self.networks, *there})
        whole.cells = list_cells(whole)
        return whole

    def readable(self, name, table):
        """The part of a dataset that can be decoded."""
        mammograms = datasets.source(self.entries[name].dataset).modality == "mammography"
        size = (self.settings.size, self.settings.size)
        return datasets.readable(table, size, channels=1, modality="MG" if mammograms else None)

    def labels(self, name):
        """Class indices of a dataset's images."""
        return datasets.encode_labels(self.tables[name])

    @functools.lru_cache(maxsize=16)  # noqa: B019 - a context lives as long as its process
    def images(self, name, size):
        """The images of a dataset at a size."""
        return datasets.cached_images(self.tables[name], size, channels=1)

    def patch_overrides(self, number):
        """What one training of the patch-based CNN sets in the all-convolutional recipe, as `key=value` strings."""
        chosen = self.settings
        values = {
            "backbone": chosen.patch_backbone,
            "input_size": ",".join(map(str, chosen.patch_input_size)),
            "patch_size": chosen.patch_size,
            "test_share": chosen.test_share,
            "validation_share": chosen.patch_validation_share,
            "transfer_test_share": chosen.patch_test_share,
            "precision": chosen.precision,
            "flips": 1,
            "seed": chosen.seed + number,
        }
        return [f"{key}={value}" for key, value in values.items()]

    def training_of(self, repeat):
        """Number of the training on a source that a repeat begins with."""
        return repeat % self.settings.pretrainings

    def seen(self, target, repeat):
        """Subjects of a target whose annotated lesions a repeat's patch classifier was trained on."""
        # Without a line 'patches' they are the source's, and no source is a target of its own.
        if self.patches is None or not self.entries[target].holds(self.entries[self.patches]):
            return set()
        overrides = self.patch_overrides(self.training_of(repeat))
        chosen = parse_settings(all_conv.PROFILES, self.profile, overrides)
        table = all_conv.split_table(self.tables[target], chosen, self.protocol, chosen.transfer_test_share)
        return set(table.loc[table["split"] != "test", "subject"])

    def tested(self, cell, repeat):
        """Which images of the target a cell is tested on, bool (n,)."""
        tested = np.isnan(self.draws[cell.target, repeat])
        if cell.network == PATCH_CNN:
            tested &= ~self.tables[cell.target]["subject"].isin(self.seen(cell.target, repeat)).to_numpy()
        return tested

    def reason(self, cell):
        """Why a cell does not exist; None where it does."""
        start = next(start for start in self.starts if start.name == cell.start)
        if start.source and self.entries[start.source].holds(self.entries[cell.target]):
            return "the target is the source"
        if cell.network == PATCH_CNN:
            if start.name == "imagenet":
                return "the patch-based CNN is not made for ImageNet"
            if start.begin == "imagenet" and "random" in self.settings.source_starts:
                return "the patch classifier begins with ImageNet's weights in any case"
            if start.source and self.patches is None and "regions" not in self.tables[start.source]:
                return f"{start.source} has no annotated lesions, and the grid no line 'patches'"
            return self.missing_imagenet(self.settings.patch_backbone) if start.source else None
        if start.begin == "imagenet":
            if start.source is None and not cell.fraction:
                return "ImageNet's 1000 classes are not the target's"
            return self.missing_imagenet(cell.network)
        return None

    @functools.cache  # noqa: B019
    def missing_imagenet(self, network):
        """Why there are no ImageNet weights of a backbone; None where there are."""
        try:
            backbones.imagenet_file(network)
        except FileNotFoundError as error:
            if str(error).startswith("MEDZOO_WEIGHTS="):
                raise  # a slip of the user's
            return f"no ImageNet weights of {network} at hand, and none could be downloaded"
        return None

    def check(self):
        """Refuses what would fail after hours: networks that do not take the images, patches that cannot be had, and
        cells that would be tested on one class. (`draw` refuses those fine-tuned with one.)"""
        for name in self.networks:
            least = 1 if name == PATCH_CNN else backbones.record(name).least
            if self.settings.size < least:
                raise ValueError(f"size: received {self.settings.size}, {name} takes {least} pixels at least")
        for name in self.networks:
            if self.is_hybrid(name):
                build = description(name, self.settings)
                slim_top(builders.build(build), **hybrid_surgery(build, self.settings))
        if PATCH_CNN in self.networks:
            self.check_patches()
        for cell in self.cells:
            if self.reason(cell):
                continue
            labels = self.labels(cell.target)
            for repeat in range(self.settings.repeats):
                tested = labels[self.tested(cell, repeat)]
                if len(set(tested)) < 2:
                    raise ValueError(
                        f"target {cell.target}: {len(tested)} images of {len(set(tested))} class are left to test "
                        f"{cell.network} on, expected both; choose smaller fractions or another patch_test_share"
                    )

    def check_patches(self):
        """Refuses what the all-convolutional recipe would: settings, and parts of the annotated dataset without a kind
        of patch."""
        parse_settings(all_conv.PROFILES, self.profile, self.patch_overrides(0))
        if self.patches is None:
            return
        patches = self.entries[self.patches]
        if "regions" not in self.tables[self.patches]:
            raise ValueError(f"patches {self.patches}: has no annotated lesions, expected another dataset")
        for source in (self.entries[name] for name in self.sources):
            if source.dataset == patches.dataset and not source.holds(patches):
                raise ValueError(
                    f"patches {self.patches}: received a dataset of the source's reader {source.dataset!r}, expected "
                    "the source itself or another reader"
                )
        if all(self.is_trained(PATCH_CNN, start) for start in self.starts if start.source):
            return
        for number in range(self.settings.pretrainings):
            chosen = parse_settings(all_conv.PROFILES, self.profile, self.patch_overrides(number))
            table = all_conv.read_table(patches.dataset, patches.data, self.protocol)
            images = all_conv.Images(table, chosen, self.protocol, chosen.transfer_test_share)
            all_conv.Patches(images, chosen, self.out / "none")

    def is_trained(self, network, start):
        """Whether all trainings of a network on a source are finished."""
        numbers = range(self.settings.pretrainings)
        return all(
            (source_folder(self, network, start, number) / "model" / "card.json").is_file() for number in numbers
        )

    def is_hybrid(self, network):
        """Whether hybrid transfer is tried with a network."""
        return network in self.settings.hybrid and network != PATCH_CNN


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.1: the networks


def description(network, settings):
    """How a network is built, as cards have it."""
    shape = [settings.size, settings.size, 1]
    return {"builder": "classifier", "arguments": {"backbone": network, "input_shape": shape, "classes": 2}}


def hybrid_surgery(build, settings):
    """Arguments of `slim_top` for hybrid transfer (section 3.4) with a network."""
    after = backbones.groups(builders.build(build))[settings.hybrid_until][-1]
    return {"after": after, "width": settings.hybrid_width}


def pretrain(context, network, start, number, folder, verbose):
    """One network trained on a source, with the best epoch's weights, in float32."""
    chosen, table = context.settings, context.split[start.source]
    build, labels = description(network, chosen), context.labels(start.source)
    images = context.images(start.source, (chosen.size, chosen.size))
    rows = {part: np.flatnonzero(table["split"] == part) for part in all_conv.PARTS}
    random.seed(chosen.seed + number)
    with precision(chosen.precision):
        model = builders.build(build, weights="imagenet" if start.begin == "imagenet" else None)
    set_momentum(model, MOMENTUM)  # averages follow within tens of steps, see above
    rate = chosen.learning_rate if start.begin == "imagenet" else chosen.random_learning_rate
    training = datasets.Batches(
        images,
        labels,
        indices=rows["train"],
        batch_size=chosen.source_batch_size,
        shuffle=True,
        seed=chosen.seed + number,
        class_weight=inverse_class_weights(labels[rows["train"]], 2),
    )
    validation = datasets.Batches(images, labels, indices=rows["validation"], batch_size=chosen.source_batch_size)
    augmentation = affine_augmentation(seed=1000 * (chosen.seed + number))
    stages = (Stage(chosen.source_epochs, rate),)
    fit_stages(model, stages, training, validation, folder, augmentation=augmentation, verbose=verbose)
    return builders.exact_copy(model, build)


def patch_row(context):
    """The row of the all-convolutional recipe that is the patch-based CNN."""
    return all_conv.Row("whole-image", context.settings.patch_backbone, "imagenet", "S10", all_conv.BEST_TOPS["vgg"])


def source_folder(context, network, start, number):
    """Where one training of a network on a source lies."""
    folder = context.out / "sources" / start.source / f"{network}-{start.begin}" / f"training-{number}"
    return folder / patch_row(context).name if network == PATCH_CNN else folder


def train_patch_cnn(context, start, folder, number, verbose):
    """The patch-based CNN on a source, by the all-convolutional recipe in a run of its own."""
    entry, patches = context.entries[start.source], context.entries.get(context.patches)
    patches = None if patches is None or patches.holds(entry) else patches
    all_conv.run(
        entry.data,
        folder.parent,
        dataset=entry.dataset,
        profile=context.profile,
        protocol=context.protocol,
        overrides=context.patch_overrides(number),
        top=(patch_row(context).top,),
        patch_dataset=patches and patches.dataset,
        patch_data=patches and patches.data,
        verbose=verbose,
    )


def finish_source(context, network, start, number, verbose):
    """The folder of a network trained on a source; what is finished is left alone."""
    folder = source_folder(context, network, start, number)
    finished = (folder / "model" / "card.json").is_file()
    if network == PATCH_CNN:
        if not finished:
            train_patch_cnn(context, start, folder, number, verbose)
        return folder
    settings = {key: getattr(context.settings, key) for key in ("source_epochs", "source_batch_size")}
    open_run(folder, {"network": network, "start": asdict(start), "number": number, "settings": settings})
    if not finished:
        print(f"{network}, {start.name}: training {number + 1} on {start.source}", flush=True)
        model = pretrain(context, network, start, number, folder, verbose)
        table = context.split[start.source]
        rows = np.flatnonzero(table["split"] == "test")
        images = context.images(start.source, (context.settings.size, context.settings.size))
        scores = predict(model, datasets.Batches(images, context.labels(start.source), indices=rows))[:, 0]
        predictions = kept_columns(table, rows).assign(score=scores)
        write_table(folder / "predictions.csv", predictions)
        card = source_card(context, network, start, number, predictions)
        zoo.save_checkpoint(model, folder / "model", card)
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.2: fine-tuning


class Starts:
    """The networks that cells begin with, and their trainers; those of one network at a time are kept.

    Args:
        context: of the run.
    """

    def __init__(self, context):
        self.context = context
        self.network, self.trainers, self.begun, self.surgery = None, {}, {}, None

    def begin(self, network, start, repeat, verbose):
        """How a repeat's network is built, and its weights before fine-tuning."""
        chosen = self.context.settings
        if network != self.network:
            self.network, self.trainers, self.begun, self.surgery = network, {}, {}, None
        number = self.context.training_of(repeat)
        key = start.name, number if start.source else repeat
        if key not in self.begun:
            if start.source:
                folder = finish_source(self.context, network, start, number, verbose)
                build = zoo.card(folder / "model").build
                weights = zoo.load(folder / "model").get_weights()
            else:
                build = self.plain(network)
                random.seed(chosen.seed + repeat)
                weights = builders.build(build, weights="imagenet" if start.begin == "imagenet" else None).get_weights()
            self.begun = {key: (build, weights)}
        return self.begun[key]

    def plain(self, network):
        """How a network is built that was trained on no source."""
        if network != PATCH_CNN:
            return description(network, self.context.settings)
        chosen = parse_settings(all_conv.PROFILES, self.context.profile, self.context.patch_overrides(0))
        return all_conv.whole_image_description(chosen, None, all_conv.BEST_TOPS["vgg"])

    def slim(self, build, weights, repeat):
        """The same for hybrid transfer: what lies behind a group is half as wide and starts at random."""
        chosen = self.context.settings
        if self.surgery is None:
            self.surgery = hybrid_surgery(build, chosen)
        model = builders.build(build)
        model.set_weights(weights)
        random.seed(chosen.seed + repeat)
        slim = slim_top(model, **self.surgery)
        surgery = [{"name": "slim_top", **self.surgery}]
        return {**build, "arguments": {**build["arguments"], "surgery": surgery}}, slim.get_weights()

    def trainer(self, build):
        """The `Trainer` of a network."""
        key = repr(build)
        if key not in self.trainers:
            chosen = self.context.settings
            augmentation = affine_augmentation(seed=1000 * chosen.seed)
            self.trainers[key] = Trainer(build, chosen.precision, augmentation, MOMENTUM)
        return self.trainers[key]


def finish_cell(context, cell, repeat, verbose):
    """Fine-tunes and tests one repeat of a cell, and writes `predictions.csv` (last), `history.csv` and, where asked,
    `similarity.csv`. Weights are not kept: a grid has hundreds."""
    folder, chosen, starts = cell.folder(context.out, repeat), context.settings, context.begun
    start = next(start for start in context.starts if start.name == cell.start)
    build, weights = starts.begin(cell.network, start, repeat, verbose)
    if cell.hybrid:
        build, weights = starts.slim(build, weights, repeat)
    trainer, table, labels = starts.trainer(build), context.tables[cell.target], context.labels(cell.target)
    images = context.images(cell.target, tuple(build["arguments"]["input_shape"][:2]))
    rows = np.flatnonzero(context.draws[cell.target, repeat] <= cell.fraction)
    if cell.fraction:
        training = datasets.Batches(
            images,
            labels,
            indices=rows,
            batch_size=chosen.batch_size,
            shuffle=True,
            seed=chosen.seed + repeat,
            class_weight=inverse_class_weights(labels[rows], 2),
        )
        rate = chosen.random_learning_rate if start.name == "random" else chosen.learning_rate
        write_table(folder / "history.csv", pd.DataFrame(trainer.fit(weights, training, rate, chosen.steps)))
    else:
        trainer.exact.set_weights(weights)
    tested = np.flatnonzero(context.tested(cell, repeat))
    batches = datasets.Batches(images, labels, indices=tested)
    if compares_layers(context, cell):
        before = builders.build(build)
        before.set_weights(weights)
        write_table(folder / "similarity.csv", similarity(before, trainer.exact, batches))
    scores = predict(trainer.exact, batches)[:, 0]
    if not np.isfinite(scores).all():
        print(f"{folder}: the network diverged and is scored as chance", flush=True)
        scores = np.full_like(scores, 0.5)
    write_table(folder / "predictions.csv", kept_columns(table, tested).assign(score=scores))
    area = analysis.auc(labels[tested], scores)
    words = f"{cell.network}, {cell.start}, {cell.target}, {len(rows)} images{', hybrid' * cell.hybrid}"
    print(f"{words}, repeat {repeat + 1} of {chosen.repeats}: AUC {area.value:.3f} on {len(tested)}", flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.3: the representations


def compares_layers(context, cell):
    """Whether a cell is in figure 1."""
    chosen = context.settings
    medical = cell.start in {start.name for start in context.starts if start.source}
    return medical and cell.fraction == chosen.fractions[-1] and cell.network in chosen.similarity and not cell.hybrid


def similarity(before, after, batches):
    """Similarity of the last layer of each group before and after fine-tuning on the images of the test: figure 1.

    CCA finds correlations in anything that has few data for its neurons: of two unrelated layers of p neurons and n
    data the squared coefficients have the mean p / (n - 1), and neighbouring positions are not independent data.

    Returns:
        DataFrame `group, layer, neurons, n, chance, cca, svcca, pwcca, cka`; `chance` is the square root of that mean.
    """
    groups = {name: layers[-1] for name, layers in backbones.groups(before).items() if name != "head"}
    found = analysis.layer_similarity(before, after, batches, list(groups.values()))
    rows = []
    for group, layer in groups.items():
        neurons, each = before.get_layer(layer).output.shape[-1], found[layer]
        row = {"group": group, "layer": layer, "neurons": neurons, "n": each.n}
        row |= {"chance": min(1.0, (neurons / (each.n - 1)) ** 0.5)}
        rows.append(row | {name: getattr(each, name) for name in MEASURES})
    return pd.DataFrame(rows)


MEASURES = ("cca", "svcca", "pwcca", "cka")


# ---------------------------------------------------------------------------------------------------------------------
# Tables 1 to 4, figure 1, and the paper's conclusions


def published(context, cell):
    """The paper's AUC of a cell; None where it has none. Another ultrasound dataset stands beside its own."""
    reader = context.entries[cell.target].dataset
    reader = "rodrigues" if reader == "busi" else reader
    start = "source" if cell.start in context.sources else cell.start
    if cell.fraction not in COLUMNS or reader not in TABLES_1_TO_3:
        return None
    if cell.hybrid:
        known = TABLE_4[reader].get(start) if cell.network == "resnet50" else None
        return known[COLUMNS.index(cell.fraction) - 1] if known else None
    known = TABLES_1_TO_3[reader].get((cell.network, start))
    return known[COLUMNS.index(cell.fraction)] if known else None


class Results:
    """Predictions of the cells that are finished.

    Attributes:
        scores: of each cell and finished repeat, float (n,) for its target's n images, NaN where not tested.
    """

    def __init__(self, context):
        self.context = context
        self.positive, self.subjects, self.scores = {}, {}, {}
        for name in context.targets:
            table = context.tables[name]
            self.positive[name] = is_present(table["label"], table.attrs["classes"][-1], table)
            self.subjects[name] = table["subject"].to_numpy()
        for cell in context.cells:
            table, found = context.tables[cell.target], {}
            for repeat in range(context.settings.repeats):
                file = cell.folder(context.out, repeat) / "predictions.csv"
                if file.is_file():
                    scores = read_predictions(file).set_index("image")["score"].astype(float)
                    found[repeat] = scores.reindex(table["image"]).to_numpy()
            if found:
                self.scores[cell] = found

    def mean(self, cell):
        """Mean AUC over the repeats of a cell, an `analysis.MeanAuc`."""
        scores = np.stack(list(self.scores[cell].values()))
        return analysis.mean_auc(self.positive[cell.target], scores, self.subjects[cell.target])

    def contrast(self, more, less):
        """Mean AUC of some cells less that of as many others of the same target, paired by repeat and image.

        Args:
            more, less: lists of cells in which each stands opposite its counterpart.

        Returns:
            (`analysis.Comparison`, list of the difference in each repeat), over the repeats that all of the cells
            have finished; None where there is none.
        """
        finished = [set(self.scores.get(cell, ())) for cell in (*more, *less)]
        repeats = sorted(set.intersection(*finished)) if finished else []
        if not repeats:
            return None
        target = more[0].target
        each = [self._area(more, repeat) - self._area(less, repeat) for repeat in repeats]
        ours, theirs = (
            np.stack([self.scores[cell][repeat] for cell in cells for repeat in repeats]) for cells in (more, less)
        )
        return analysis.compare_means(self.positive[target], ours, theirs, self.subjects[target]), each

    def _area(self, cells, repeat):
        """Mean AUC of some cells in a repeat."""
        areas = []
        for cell in cells:
            scores = self.scores[cell][repeat]
            tested = np.isfinite(scores)
            areas.append(roc_auc_score(self.positive[cell.target][tested], scores[tested]))
        return float(np.mean(areas))


def table_of_cells(context, results):
    """`results.csv`: a row a cell, with the paper's AUC, or the reason why it does not exist."""
    rows = []
    for cell in context.cells:
        row = asdict(cell) | {"reason": context.reason(cell), "paper": published(context, cell)}
        if cell in results.scores:
            found, scores = results.mean(cell), results.scores[cell]
            images = [int((context.draws[cell.target, repeat] <= cell.fraction).sum()) for repeat in scores]
            tested = [int(np.isfinite(each).sum()) for each in scores.values()]
            row |= {"images": range_text(images), "tested": range_text(tested)}
            row |= {"repeats": found.trainings, "deviation": found.deviation} | interval_columns("auc", found._asdict())
        rows.append(row)
    columns = [*Cell.__annotations__, "images", "tested", "repeats", "auc", "auc_low", "auc_high", "auc_n", "deviation"]
    return pd.DataFrame(rows, columns=[*columns, "paper", "reason"])


def range_text(numbers):
    """The numbers of the repeats: one where they agree, else the least and the greatest.

    >>> range_text([28, 29, 28])
    '28 to 29'
    """
    least, greatest = min(numbers), max(numbers)
    return str(least) if least == greatest else f"{least} to {greatest}"


def claims(context, results):
    """`conclusions.csv`: what the paper concludes, each as a difference of mean AUCs with an interval, a p and the
    difference in each repeat.

    For each network, and for all whose sources began alike (not the patch-based CNN, which was shown lesions): what a
    start adds to random weights, and to ImageNet, at each fraction; how much less it adds to random weights after
    fine-tuning than without (masking); the same in hybrid transfer; and what hybrid transfer adds.
    """
    rows, fractions = [], (0.0, *context.settings.fractions)
    groups = {name: [name] for name in context.networks}
    alike = [name for name in context.networks if name != PATCH_CNN]
    if len(alike) > 1:
        groups = {ALL: alike} | groups

    for target in context.targets:
        for title, networks in groups.items():

            def add(claim, fraction, *corners, networks=networks, target=target, title=title):
                """Corners are (start, fraction, hybrid), in turn to be added and to be taken away."""
                more, less, kept = [], [], 0
                for network in networks:
                    cells = [Cell(target, network, *corner) for corner in corners]
                    if all(cell in results.scores for cell in cells):
                        more, less, kept = more + cells[::2], less + cells[1::2], kept + 1
                found = results.contrast(more, less)
                if found is None:
                    return
                factor = len(corners) // 2  # a mean over as many cells, of which the sum is asked for
                difference, each = found
                row = {"claim": claim, "target": target, "networks": title, "number": kept, "fraction": fraction}
                numbers = difference.difference, difference.low, difference.high
                row |= dict(zip(("difference", "low", "high"), (factor * number for number in numbers), strict=True))
                row |= {"p_value": difference.p_value, "repeats": len(each)}
                rows.append(row | {"least": factor * min(each), "greatest": factor * max(each)})

            for start in [each.name for each in context.starts[1:]]:
                for hybrid in (False, True):
                    suffix = ", hybrid" if hybrid else ""
                    for other in ("random", "imagenet") if start != "imagenet" else ("random",):
                        for fraction in fractions[hybrid:]:
                            pair = (start, fraction, hybrid), (other, fraction, hybrid)
                            add(f"{start} - {other}{suffix}", fraction, *pair)
                    without, last = ((start, 0.0), ("random", 0.0)), fractions[-1]
                    tuned = ("random", last, hybrid), (start, last, hybrid)
                    add(f"masking of {start} - random{suffix}", last, *without, *tuned)
            for start in [each.name for each in context.starts]:
                for fraction in fractions[1:]:
                    add(f"hybrid - all weights, {start}", fraction, (start, fraction, True), (start, fraction))
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS)


ALL = "all networks"
CLAIM_COLUMNS = ["claim", "target", "networks", "number", "fraction", "difference", "low", "high", "p_value"]
CLAIM_COLUMNS += ["repeats", "least", "greatest"]


def report(context):
    """Writes `report.md`, `results.csv`, `conclusions.csv`, `similarity.csv` and the figures for the cells finished so
    far, and returns the table of cells."""
    context = context.with_all_networks()
    results = Results(context)
    table, concluded = table_of_cells(context, results), claims(context, results)
    write_table(context.out / "results.csv", table)
    write_table(context.out / "conclusions.csv", concluded)
    similarities = read_similarities(context)
    pictures = figures(context, table, similarities)
    lines = heading(context)
    for number, target in enumerate(context.targets, start=1):
        lines += table_lines(context, target, table[(table["target"] == target) & ~table["hybrid"]], number)
    lines += hybrid_lines(context, table)
    lines += conclusion_lines(context, concluded)
    lines += similarity_lines(context, similarities)
    reasons = table.dropna(subset="reason").drop_duplicates(["network", "start", "reason"])
    if len(reasons):
        lines += ["", "NA:", "", *[f"- {row.network}, {row.start}: {row.reason}." for row in reasons.itertuples()]]
    lines += ["", f"Figures: {', '.join(f'`{name}`' for name in pictures)}.", ""]
    with atomic(context.out / "report.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    return table


def heading(context):
    """What the report is of."""
    chosen = context.settings
    lines = [
        f"# Pretraining effect: {', '.join(context.sources)} to {', '.join(context.targets)}, {context.protocol} "
        "protocol",
        "",
        f"    {context.command}{''.join(f' --method {name}' for name in context.networks)}",
        "",
        f"{machine()}. Images of {chosen.size} x {chosen.size} pixels ({PATCH_CNN}: "
        f"{' x '.join(map(str, chosen.patch_input_size))}).",
        "",
    ]
    for name in context.sources:
        sizes, classes = context.split[name]["split"].value_counts(), context.tables[name].attrs["classes"]
        counts = ", ".join(f"{sizes[part]} {part}" for part in all_conv.PARTS)
        lines.append(
            f"- Source {name}, {classes[1]} against {classes[0]}: {counts} images; trainings of each network: "
            f"{chosen.pretrainings}."
        )
    for name in context.targets:
        table, classes = context.tables[name], context.tables[name].attrs["classes"]
        tested = np.isnan(context.draws[name, 0])
        known = set(table["subject"][~tested])
        lines.append(
            f"- Target {name}, {classes[1]} against {classes[0]}: {len(table)} images, "
            f"{(table['label'] == classes[1]).sum()} {classes[1]}. Subjects: "
            f"{SUBJECT_SOURCES[table.attrs['subjects']]} "
            f"Drawn by {'subject' if context.protocol == 'sound' else 'image'}: in the first repeat "
            f"{int(table['subject'][tested].isin(known).sum())} of the {int(tested.sum())} images to test on are of "
            "subjects in the part to fine-tune with."
        )
        if PATCH_CNN in context.networks and (seen := context.seen(name, 0)):
            lines.append(
                f"  {PATCH_CNN} was shown the lesions of {len(seen)} of its subjects and is tested on the others alone."
            )
    if PATCH_CNN in context.networks:
        lines.append(f"- {PATCH_CNN} went from ImageNet to lesions of {context.patches or 'the source'} to the source.")
    lines += [
        "",
        "AUC: mean over the repeats, with a 95 % interval from a bootstrap by subject, which does not hold the spread "
        "between repeats; their standard deviation stands in results.csv.",
    ]
    if set(context.sources) != {"cbis_ddsm"}:
        lines += ["", f"The paper's source is DDSM; here it is {', '.join(context.sources)}."]
    return lines


def cell_text(row):
    """An AUC with its interval, NA, or nothing where it was not run yet."""
    if row["reason"] is not None and not pd.isna(row["reason"]):
        return "NA"
    return "" if pd.isna(row["auc"]) else interval_text("auc", row)


def paper_text(values):
    """The paper's AUCs of a row."""
    known = ["NA" if pd.isna(value) else f"{value:.3f}" for value in values]
    return "" if set(known) == {"NA"} else " / ".join(known)


def fraction_text(fraction):
    """A column's title."""
    return f"FT {fraction:g}" if fraction else "no FT"


def table_lines(context, target, rows, number):
    """One of tables 1 to 3."""
    fractions = (0.0, *context.settings.fractions)
    titles = [fraction_text(fraction) for fraction in fractions]
    for place, fraction in enumerate(fractions):
        if images := rows.loc[rows["fraction"] == fraction, "images"].dropna().tolist():
            titles[place] += f", {images[0]} images"
    other = ", its ultrasound dataset" if context.entries[target].dataset == "busi" else ""
    lines = ["", f"## Table {number}: AUC on {target}", ""]
    lines.append(f"| network | start | {' | '.join(titles)} | tested on | paper{other} |")
    lines.append("|---|---|---|---|" + "---|" * len(fractions))
    for (network, start), group in rows.groupby(["network", "start"], sort=False):
        cells = [cell_text(row) for row in group.to_dict("records")]
        tested = group["tested"].dropna().tolist()[:1]
        lines.append(table_row(network, start, *cells, *(tested or [""]), paper_text(group["paper"])))
    return lines


def hybrid_lines(context, table):
    """Table 4."""
    if not table["hybrid"].any():
        return []
    fractions = context.settings.fractions
    titles = " | ".join(fraction_text(fraction) for fraction in fractions)
    lines = ["", "## Table 4: all weights VS hybrid transfer", ""]
    lines += [f"| target | network | start | {titles} | paper, hybrid |", "|---|---|---|---|" + "---|" * len(fractions)]
    for (target, network, start), group in table[table["hybrid"]].groupby(["target", "network", "start"], sort=False):
        keys = {"target": target, "network": network, "start": start, "hybrid": False}
        cells = []
        for row in group.to_dict("records"):
            same = table[(table[list(keys)] == pd.Series(keys)).all(axis=1) & (table["fraction"] == row["fraction"])]
            cells.append(f"{cell_text(same.to_dict('records')[0])} VS {cell_text(row)}")
        lines.append(table_row(target, network, start, *cells, paper_text(group["paper"])))
    return lines


def conclusion_lines(context, concluded):
    """What the paper concludes, and what is seen here."""
    if concluded.empty:
        return []
    lines = [
        "",
        "## Conclusions",
        "",
        "Differences of mean AUCs in points of 0.01, paired by a bootstrap by subject. The bootstrap does not hold the "
        "spread between repeats, so the least and the greatest difference in a repeat stand beside it; a difference "
        "is shown (more, less) where the interval leaves out 0 and every repeat has its sign. p is not corrected for "
        "the number of differences. Masking: what a start adds without fine-tuning, less what it adds after the "
        f"largest fraction. {ALL.capitalize()} are those whose sources began alike, without {PATCH_CNN}; "
        "`conclusions.csv` has them network by network."
        + " All repeats of a start share one training on its source."
        * (context.settings.pretrainings == 1),
        "",
        "| target | networks | claim | fine-tuned with | difference (95 % interval) | in a repeat | p | shown |",
        "|---|---|---|---|---|---|---|---|",
    ]
    titles = [ALL, PATCH_CNN] if ALL in set(concluded["networks"]) else list(context.networks)
    alone = concluded["claim"].str.contains("hybrid") & (concluded["networks"] != ALL)
    for row in concluded[concluded["networks"].isin(titles) | alone].to_dict("records"):
        if row["networks"] == ALL and "hybrid" in row["claim"]:
            continue  # of the few networks that it is tried with, one by one
        networks = f"{row['number']} together" if row["networks"] == ALL else row["networks"]
        cells = [row["target"], networks, row["claim"], fraction_text(row["fraction"]), difference_text(row)]
        cells += [
            f"{100 * row['least']:+.1f} to {100 * row['greatest']:+.1f}",
            f"{row['p_value']:.2g}",
            verdict(row, row["repeats"]),
        ]
        lines.append(table_row(*cells))
    return lines


def read_similarities(context):
    """`similarity.csv` of all cells, with target, network, start and repeat, also written into the run's folder."""
    tables = []
    for cell in context.cells:
        for repeat in range(context.settings.repeats):
            file = cell.folder(context.out, repeat) / "similarity.csv"
            if file.is_file():
                facts = {"target": cell.target, "network": cell.network, "start": cell.start, "repeat": repeat}
                tables.append(pd.read_csv(file).assign(**facts))
    if not tables:
        return None
    found = pd.concat(tables, ignore_index=True)
    write_table(context.out / "similarity.csv", found)
    return found


def similarity_lines(context, similarities):
    """Figure 1 as a table."""
    if similarities is None:
        return []
    groups = list(dict.fromkeys(similarities["group"]))
    last = fraction_text(context.settings.fractions[-1])
    lines = [
        "",
        f"## Figure 1: similarity of each group's last layer before and after {last}, on the images of the test",
        "",
        "Mean CCA coefficient, in brackets what unrelated layers of as many neurons would have at least; SVCCA that "
        "keeps 0.99 of the variance; linear CKA. Means over the repeats. **Where the bracket is not far below it, CCA "
        "tells nothing**, and SVCCA little; CKA is the least bound to the number of data.",
        "",
        f"| target | network | start | measure | {' | '.join(groups)} |",
        "|---|---|---|---|" + "---|" * len(groups),
    ]
    for keys, rows in similarities.groupby(["target", "network", "start"], sort=False):
        means = rows.groupby("group")[["chance", *MEASURES]].mean()
        cells = [f"{means.cca[name]:.2f} ({means.chance[name]:.2f})" for name in groups]
        lines.append(table_row(*keys, "CCA", *cells))
        for title, measure in (("SVCCA", "svcca"), ("CKA", "cka")):
            lines.append(table_row(*keys, title, *[f"{means[measure][name]:.2f}" for name in groups]))
    return lines


def figures(context, table, similarities):
    """Figure 1 for each network, and the AUCs of each target over the fractions; returns the names of the files."""
    names = []
    for target in context.targets:
        rows = table[(table["target"] == target) & ~table["hybrid"]].dropna(subset="auc")
        if len(rows):
            names.append(f"auc-{target}.png")
            write_figure(context.out / names[-1], analysis.fine_tuning_figure(rows))
    if similarities is not None:
        for (network, start), rows in similarities.groupby(["network", "start"], sort=False):
            for measure in ("cca", "cka"):
                lines = {
                    target: [
                        dict(zip(each["group"], each[measure], strict=True)) for _, each in found.groupby("repeat")
                    ]
                    for target, found in rows.groupby("target", sort=False)
                }
                names.append(f"figure-1-{measure}-{network}-{start}.png")
                figure = analysis.similarity_figure(lines)
                figure.axes[0].set_ylabel(f"{measure.upper()} before and after fine-tuning")
                write_figure(context.out / names[-1], figure)
    return names


# ---------------------------------------------------------------------------------------------------------------------
# The run


def run(
    data,
    out,
    profile="paper",
    protocol="published",
    methods=(),
    backbone=None,
    overrides=(),
    processes=1,
    verbose=1,
):
    """Runs the cells of a grid that are missing, and writes the report of all.

    Args:
        data: the grid's CSV file, see `recipes.grid.read_grid`.
        out: folder of the run; one that was interrupted goes on where it was.
        profile: `"paper"` or `"quick"`.
        protocol: `"published"` or `"sound"`, see above.
        methods: names of networks: any backbone, or `patch-cnn`; none for the four of the paper.
        backbone: of the patch-based CNN, in place of the profile's.
        overrides: `key=value` strings on `Settings`.
        processes: how many work at once, each on its share of the cores; one network and start is one piece of work.
        verbose: 1 for a progress bar, 2 for a line an epoch, 0 for neither, while networks are trained on sources.

    Returns:
        DataFrame, the report's table.

    Raises:
        ValueError, FileNotFoundError: for a grid, names or options that do not fit, before anything trains.
    """
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise ValueError(f"processes: received {processes!r}, expected a whole number of at least 1")
    arguments = (str(data), str(out), profile, protocol, tuple(methods), backbone, tuple(overrides))
    context = make_context(*arguments)
    context.check()
    added = ("repeats", "hybrid", "similarity", "source_starts")  # later, to a run that has begun
    settings = {key: value for key, value in asdict(context.settings).items() if key not in added}
    configuration = {"recipe": "pretraining_effect", "profile": profile, "protocol": protocol, "settings": settings}
    patches = context.entries[context.patches].dataset if context.patches else None
    check_overlap(context)
    open_run(context.out, configuration | {"patches": patches})
    write_splits(context)
    for cell in context.cells:
        if reason := context.reason(cell):
            print(
                f"{cell.network}, {cell.start}: {cell.target}, {fraction_text(cell.fraction)}: NA, {reason}", flush=True
            )
    chains = [
        (network, start.name)
        for network in context.networks
        for start in context.starts
        if missing(context, network, start.name)
    ]
    if processes == 1:
        for network, start in chains:
            run_chain(context, network, start, verbose)
    else:
        run_in_processes(arguments, chains, processes)
    return report(context)


def make_context(data, out, profile, protocol, methods, backbone, overrides):
    """The `Context` of a run's arguments."""
    chosen = parse_settings(PROFILES, profile, overrides)
    if backbone is not None:
        chosen = replace(chosen, patch_backbone=backbone)
    require("protocol", protocol, PROTOCOLS)
    methods = tuple(dict.fromkeys(methods)) or tuple(METHODS)
    known = [*backbones.list_backbones(), PATCH_CNN]
    for name in methods:
        require("network", name, known)
    for key in ("hybrid", "similarity"):
        for name in getattr(chosen, key):
            require(key, name, [*backbones.list_backbones(), "none"])
    if PATCH_CNN in methods:
        require("patch_backbone", chosen.patch_backbone, all_conv.UNFROZEN)
    return Context(data, out, profile, protocol, methods, chosen, backbone, overrides)


def check_overlap(context):
    """Refuses a target that holds images of a source under another name."""
    size = (context.settings.size, context.settings.size)
    for source in context.sources:
        known = set(context.images(source, size).sha256)
        for target in context.targets:
            shared = known & set(context.images(target, size).sha256)
            if shared and not context.entries[source].holds(context.entries[target]):
                raise ValueError(
                    f"target {target}: {len(shared)} of its images are in the source {source}, expected none"
                )


def write_splits(context):
    """Writes which image of a source is in which part, and which image of a target each repeat is fine-tuned with."""
    size = (context.settings.size, context.settings.size)
    for name in context.sources:
        table = context.split[name].drop(columns="regions", errors="ignore")
        write_split(context.out / f"split-{name}.csv", table.assign(sha256=context.images(name, size).sha256))
    for name in context.targets:
        table = context.tables[name][["image", "subject", "label"]].assign(sha256=context.images(name, size).sha256)
        for repeat in range(context.settings.repeats):
            parts = [f"{share:g}" if share > 0 else "test" for share in context.draws[name, repeat]]
            write_split(context.out / f"draw-{name}-{repeat}.csv", table.assign(split=parts))


def missing(context, network, start):
    """Cells and repeats of a network and start that are still to be run."""
    return [
        (cell, repeat)
        for repeat in range(context.settings.repeats)
        for cell in context.cells
        if (cell.network, cell.start) == (network, start)
        and context.reason(cell) is None
        and not all((cell.folder(context.out, repeat) / file).is_file() for file in files_of(context, cell))
    ]


def files_of(context, cell):
    """What a finished repeat of a cell has written."""
    return ["predictions.csv"] + ["similarity.csv"] * compares_layers(context, cell)


def run_chain(context, network, start, verbose):
    """Runs what is missing of one network and start, repeat by repeat."""
    left = missing(context, network, start)
    for number, (cell, repeat) in enumerate(left, start=1):
        finish_cell(context, cell, repeat, verbose)
        print(f"{network}, {start}: {number} of {len(left)} cells finished", flush=True)


def run_in_processes(arguments, chains, processes):
    """Runs chains in processes of their own, each on its share of the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    shares = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), threads)
    before = {name: os.environ.get(name) for name in shares}
    os.environ.update(shares)  # read when a process imports its backend
    try:
        with ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent
        ) as pool:
            work = [pool.submit(run_chain_apart, arguments, network, start) for network, start in chains]
            try:
                for each in as_completed(work):
                    each.result()
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    f"processes: one of {processes} was killed, as where memory is short; the same command goes on "
                    "where it was"
                ) from error
            except BaseException:
                for each in work:  # those that have begun come to their end; what they finish is kept
                    each.cancel()
                raise
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def end_with_parent():
    """Ends this process with the one that started it, so that a run that was killed leaves nobody writing."""
    parent = multiprocessing.parent_process()

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


_make_context_once = functools.lru_cache(maxsize=1)(make_context)


def run_chain_apart(arguments, network, start):
    """`run_chain` in a process that shares nothing with the run's."""
    run_chain(_make_context_once(*arguments), network, start, verbose=0)


# ---------------------------------------------------------------------------------------------------------------------
# The card of a network trained on a source


def source_card(context, network, start, number, predictions):
    """What the card of a network trained on a source says; `zoo.publish` adds name and version."""
    table, entry = context.split[start.source], context.entries[start.source]
    source, chosen, build = datasets.source(entry.dataset), context.settings, description(network, context.settings)
    command = f"{context.command} --method {network}"
    labels = is_present(predictions["label"], table.attrs["classes"][-1], table)
    area = analysis.auc(labels, predictions["score"].to_numpy(), predictions["subject"].to_numpy())
    weights = backbones.imagenet_file(network) if start.begin == "imagenet" else None
    initial = f"the ImageNet weights in {weights.name}, sha256 {file_sha256(weights)}" if weights else "random weights"
    return {
        "name": f"{network}-{entry.dataset.replace('_', '-')}",
        "version": 1,
        "summary": f"{network} on {source.folder}, to begin other trainings with: "
        f"{table.attrs['classes'][1]} against {table.attrs['classes'][0]}",
        "modality": source.modality,
        "task": "classification",
        "recipe": {
            "name": "pretraining_effect",
            "command": command,
            "paper": "the pretraining-effect study: DDSM for INbreast, MIAS and breast ultrasound",
        },
        "build": build,
        "input": {
            "shape": build["arguments"]["input_shape"],
            "range": [0, 255],
            "resize": FITS["stretch"],
            "crop": 1.0,
            "dicom": "voi",
        },
        "classes": table.attrs["classes"],
        "data": {
            "dataset": source.title,
            "licence": source.licence,
            "url": source.url,
            **card_data(table),
            "excluded": all_conv.EXCLUDED.get((entry.dataset, context.protocol), "nothing"),
        },
        "metrics": card_metrics({"auc": area}, "test", context.protocol, command),
        "licence": f"as the training data: {source.licence}"
        + (f"; backbone weights {backbones.record(network).imagenet.licence}" if weights else ""),
        "limitations": [
            f"Training {number + 1} of {chosen.pretrainings}; another gives another number within and beyond the "
            "interval.",
            f"Began with {initial}.",
            "The epoch was chosen on the validation part.",
            *source.limitations,
            *table_limitation(table),
            *leak_limitation(table),
            "For research, not for diagnosis.",
        ],
    }
