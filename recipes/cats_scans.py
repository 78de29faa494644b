"""Cats, not CAT scans: which source dataset to pretrain on, and whether the similarity of datasets tells beforehand.

I. van den Brandt, F. Fok, B. Mulders, J. Vanschoren and V. Cheplygina, Cats, not CAT scans: a study of dataset
similarity in transfer learning for 2D medical image classification, arXiv:2107.05940, 2021. A ResNet50 is trained on
each of eight sources (table II; ImageNet's weights are the ninth), fine-tuned on three medical targets by five-fold
cross-validation (figure 3), and the gain over training on the target alone, the transferability of equation (1), is
set against the distance of source and target by experts and by Task2Vec (figure 4).

    medzoo run cats_scans --data GRID.csv --out RUN
    medzoo run cats_scans --data GRID.csv --out RUN --profile quick --protocol sound --method imagenet --method dtd
    medzoo run cats_scans --folds FOLDS.csv --distances DISTANCES.csv

`GRID.csv` has a line a dataset; ImageNet is a source without one:

    role,dataset,data
    source,dtd,/data/dtd
    source,isic2018,/data/ISIC2018
    target,isic2018,/data/ISIC2018
    target,kermany,/data/chest_xray

`--method` names sources; all by default. A run that was stopped goes on with what is missing, sources and targets may
be added to a finished one, and the second protocol may be run into the folder of the first: the report then has the
difference. The third command trains nothing. `FOLDS.csv` has the columns `source,target` and one for each fold's AUC,
a line `source = target` being the network trained on the target alone; `DISTANCES.csv` has `source,target` and one
column of distances. It gives figures 3 and 4 and their correlations.

Two protocols, one option apart:
`published` (the default): folds are drawn image by image, so that a lesion or patient may be on both sides.
`sound`: folds are drawn by subject.

Where the paper is silent, or not right:
- **Figure 4 prints ρ = 0.24 and names Spearman's correlation. From the authors' own numbers 0.238 is Pearson's;
  Spearman's is 0.291.** Three of the 24 pairs are a target with itself, whose transferability is 0 and whose distance
  is the least by definition; without them it is 0.292 and 0.228. Pairs share sources and targets, so that no p-value
  here is one of independent data. The report has all four.
- Folds: "5-fold cross-validation with 80%-10%-10% splits". The images are divided into tenths; fold k is tested on
  tenth 2k, its validation part is tenth 2k + 1. The five tests share no image and cover half of all.
- The validation part chose the settings; no epoch is chosen on it when fine-tuning, the last weights count. On a source
  the best epoch by validation AUC counts (of several classes their unweighted mean).
- AUC(D_T) of equation (1), "only using the target data": the network that begins at random, with the settings of
  fine-tuning. It stands in the paper's figures as the target itself.
- Learning rates "between 1.0e-4 and 1.0e-6 for different target datasets": 1e-5 for all.
- The scheduler "multiplies the learning rate by 0.5 after x amount of epochs": once, and from the best epoch so far;
  the best of the later epochs counts.
- Dropout: 0.5. What comes in from outside an image that is turned or shifted is black.
- Each network begins with pixels normalised as ImageNet's were, whatever the dataset.
- KimiaPath960 "is used as source dataset for PCam-middle only", and PCam-small, which is a part of PCam-middle, is not
  moved to it: no source shares an image with its target.
- Task2Vec takes the dataset's classes and averages the distance of "five random pairs of embeddings" of subsets. The
  report has the spread over all pairs of subsets beside it. ImageNet's own images are not at hand: no distance. The
  labels drawn from the probe make much of that spread; `--set fisher=expected` takes the mean over them.
"""

import functools
import json
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from .. import analysis, datasets, zoo
from .._files import atomic
from .._nearest import require
from ..analysis import task2vec
from ..datasets.policies import FITS
from ..training import (
    Stage,
    Trainer,
    affine_augmentation,
    check_settings,
    fit_stages,
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
    leaked,
    machine,
    open_run,
    write_figure,
    write_split,
    write_table,
)
from ..zoo import backbones, builders
from ..zoo.store import file_sha256
from .grid import read_grid
from .reporting import difference_text, kept_columns, leak_limitation, predict, read_predictions, table_row, verdict

PROTOCOLS = ("published", "sound")
OPTIONS = ("folds", "distances")
ROLES = ("source", "target")
IMAGENET, RANDOM = "imagenet", "random"

# ---------------------------------------------------------------------------------------------------------------------
# Section III: the datasets


@dataclass(frozen=True)
class Described:
    """A row of table I: what the paper says of a dataset, by the name of its reader."""

    name: str
    origin: str
    images: int
    classes: int
    size: str
    channels: int


TABLE_1 = {
    IMAGENET: Described("ImageNet", "non-medical", 1_431_167, 1000, "256 x 256", 3),
    "stl10": Described("STL-10", "non-medical", 13_000, 10, "96 x 96", 3),
    "sti10": Described("Subset Textures ImageNet (STI-10)", "non-medical", 8_060, 10, "112 x 112", 3),
    "dtd": Described("Describable Textures Dataset (DTD)", "non-medical", 5_640, 47, "300 x 300 to 640 x 640", 3),
    "isic2018": Described("ISIC 2018 - Task 3 (training set)", "medical", 10_015, 7, "600 x 450", 3),
    "kermany": Described("Chest X-rays", "medical", 5_863, 2, "72 x 72 to 2916 x 2583", 1),
    "pcam_middle": Described("PatchCamelyon-100,000 (PCam-middle)", "medical", 100_000, 2, "96 x 96", 3),
    "pcam_small": Described("PatchCamelyon-10,000 (PCam-small)", "medical", 10_000, 2, "96 x 96", 3),
    "kimiapath960": Described("KimiaPath960", "medical", 960, 20, "308 x 168", 3),
}
# The whole of PatchCamelyon stands beside the paper's 100,000.
ALIKE = {"pcam": "pcam_middle"}

# ---------------------------------------------------------------------------------------------------------------------
# Appendix A, section A and table III: pretraining. Section B: fine-tuning


@dataclass(frozen=True)
class Pretraining:
    """A row of table III.

    Attributes:
        size: height and width of the images, in pixels.
        batch_size: images a step.
        learning_rate: of Adam.
        halved_after: epochs after which it is halved; None for never.
        epochs: in all.
    """

    size: tuple[int, int]
    batch_size: int
    learning_rate: float
    halved_after: int | None
    epochs: int


TABLE_3 = {
    "stl10": Pretraining((96, 96), 128, 1e-3, 30, 50),
    "sti10": Pretraining((112, 112), 128, 1e-4, 50, 70),
    "dtd": Pretraining((300, 300), 12, 1e-3, None, 60),
    "isic2018": Pretraining((112, 112), 128, 1e-5, None, 70),
    "kermany": Pretraining((112, 112), 128, 1e-6, None, 70),
    "pcam_middle": Pretraining((96, 96), 128, 1e-6, None, 50),
    "pcam_small": Pretraining((96, 96), 128, 1e-6, None, 70),
    "kimiapath960": Pretraining((168, 308), 12, 1e-5, None, 100),
}
# Of datasets that are not the paper's: as ISIC 2018.
OTHER_SOURCE = TABLE_3["isic2018"]


@dataclass(frozen=True)
class FineTuning:
    """Section B of the appendix for one target: `size` in pixels, `learning_rate` of Adam, `epochs`."""

    size: int
    learning_rate: float
    epochs: int


FINE_TUNING = {
    "isic2018": FineTuning(112, 1e-5, 50),
    "kermany": FineTuning(112, 1e-5, 50),
    "pcam_middle": FineTuning(96, 1e-5, 20),
}
OTHER_TARGET = FINE_TUNING["isic2018"]


@dataclass(frozen=True)
class Settings:
    """Everything about a run that is not its grid or protocol. Change a value with `--set key=value`.

    Attributes:
        backbone: name of the network; the paper's is `resnet50`.
        dropout: share of the features that the head leaves out in training.
        largest: no image is larger than this on a side, in pixels, whatever table III says.
        pretraining_steps: of the training on each source, in whole epochs; 0 for the epochs of table III.
        steps: of each fine-tuning; 0 for the epochs of section B.
        batch_size: images a step, everywhere; 0 for 128, and table III on sources.
        learning_rate: of Adam, everywhere; 0 for those of table III and section B.
        momentum: of batch norm's moving averages, in [0, 1). 0.9 where steps are few.
        folds: of the cross-validation.
        subsets: of each dataset, for Task2Vec; 0 for no Task2Vec.
        subset_share: of the dataset's images, in each of them.
        pairs: of embeddings whose distance is averaged.
        fisher: how Task2Vec counts Fisher information: `montecarlo` (published), `expected` (the same with less noise)
            or `variational`, see `analysis.task_embedding`.
        precision: of the computations in training; tests are always in float32.
        seed: of splits, draws and all random numbers.
    """

    backbone: str = "resnet50"
    dropout: float = 0.5
    largest: int = 308
    pretraining_steps: int = 0
    steps: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    momentum: float = 0.99
    folds: int = 5
    subsets: int = 100
    subset_share: float = 0.01
    pairs: int = 5
    fisher: str = "montecarlo"
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        least = dict.fromkeys(("pretraining_steps", "steps", "batch_size", "learning_rate", "subsets", "seed"), 0)
        check_settings(self, least | {"largest": 32, "folds": 2, "pairs": 1, "momentum": 0}, ("subset_share",))
        if self.momentum >= 1:
            raise ValueError(f"momentum: received {self.momentum}, expected less than 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: received {self.dropout}, expected a share of at least 0 and below 1")
        require("backbone", self.backbone, backbones.list_backbones())
        require("precision", self.precision, PRECISIONS)
        require("fisher", self.fisher, task2vec.METHODS)


PROFILES = {
    "paper": Settings(),
    # Another network, hundreds of steps instead of thousands, and a rate at which these teach something.
    "quick": Settings(
        backbone="resnet18",
        largest=112,
        pretraining_steps=400,
        steps=64,
        batch_size=24,
        learning_rate=3e-4,
        momentum=0.9,
        subsets=20,
        fisher="expected",
        precision="mixed_bfloat16",
    ),
}
BATCH_SIZE = 128


def pretraining_of(reader, settings):
    """What a network is trained on a source with: table III, or what the settings put in its place."""
    row = TABLE_3.get(ALIKE.get(reader, reader), OTHER_SOURCE)
    return replace(
        row,
        size=tuple(min(side, settings.largest) for side in row.size),
        batch_size=settings.batch_size or row.batch_size,
        learning_rate=settings.learning_rate or row.learning_rate,
    )


def fine_tuning_of(reader, settings):
    """What a network is fine-tuned on a target with."""
    row = FINE_TUNING.get(ALIKE.get(reader, reader), OTHER_TARGET)
    return replace(row, size=min(row.size, settings.largest), learning_rate=settings.learning_rate or row.learning_rate)


# ---------------------------------------------------------------------------------------------------------------------
# The paper's numbers

# Table II: accuracy on training, validation and test part, and AUC on the test part where it is given.
TABLE_2 = {
    "stl10": (0.749, 0.783, 0.712, None),
    "sti10": (0.719, 0.607, 0.614, None),
    "dtd": (0.633, 0.672, 0.638, None),
    "isic2018": (0.568, 0.510, 0.499, 0.848),
    "kermany": (0.810, 0.804, 0.790, 0.912),
    "pcam_middle": (0.801, 0.709, 0.710, 0.834),
    "pcam_small": (0.741, 0.683, 0.689, 0.790),
    "kimiapath960": (0.842, 0.833, 0.854, 0.997),
}
# Figure 3: mean AUC of the five folds by target and source, from the per-fold AUCs that its authors published.
FIGURE_3 = {
    "isic2018": {
        IMAGENET: 0.946,
        "stl10": 0.900,
        "sti10": 0.908,
        "dtd": 0.907,
        RANDOM: 0.880,
        "kermany": 0.912,
        "pcam_middle": 0.928,
        "pcam_small": 0.911,
    },
    "kermany": {
        IMAGENET: 0.987,
        "stl10": 0.967,
        "sti10": 0.957,
        "dtd": 0.982,
        "isic2018": 0.914,
        RANDOM: 0.960,
        "pcam_middle": 0.962,
        "pcam_small": 0.949,
    },
    "pcam_middle": {
        IMAGENET: 0.961,
        "stl10": 0.903,
        "sti10": 0.882,
        "dtd": 0.922,
        "isic2018": 0.846,
        "kermany": 0.812,
        RANDOM: 0.914,
        "kimiapath960": 0.892,
    },
}


def published_auc(target, source):
    """The paper's mean AUC by the readers of target and source; None where it has none."""
    return FIGURE_3.get(ALIKE.get(target, target), {}).get(ALIKE.get(source, source))


# ---------------------------------------------------------------------------------------------------------------------
# Sections III and IV-A: grid, parts and folds


@dataclass(frozen=True)
class Cell:
    """One bar of figure 3: a target, and the source of the weights that networks begin with (`random` for none)."""

    target: str
    source: str

    def folder(self, out, protocol, fold):
        """Where one fold is written."""
        return Path(out) / protocol / "cells" / self.target / self.source / f"fold-{fold}"


class Context:
    """What the cells of a run share.

    Attributes:
        entries: lines of the grid by name.
        sources, targets: their names; ImageNet is the first source.
        chosen: the sources that are asked for. The report is of all that there are cells of.
        tables: image table of each dataset by name; of targets and chosen sources without the files that cannot be
            decoded.
        parts: of each chosen source of the grid the table with the column `split`.
        tenths: of each target the tenth (of two a fold) that each image belongs to.
    """

    def __init__(self, data, out, profile, protocol, methods, settings, backbone, overrides):
        self.out, self.profile, self.protocol, self.settings = Path(out), profile, protocol, settings
        grid = read_grid(data, ROLES)
        self.entries = {each.name: each for each in grid}
        self.sources = [IMAGENET, *[each.name for each in grid if each.role == "source"]]
        for name in methods:
            require("source", name, self.sources)
        self.chosen = [name for name in self.sources if name in (methods or self.sources)]
        self.targets = [each.name for each in grid if each.role == "target"]
        self.command = command_text("cats_scans", profile, protocol, "GRID.csv", backbone, overrides)
        self.command += "".join(f" --method {name}" for name in methods)
        # All lists are read before any image is decoded, so that a wrong name is told at once.
        self.tables = {name: read_table(entry) for name, entry in self.entries.items()}
        for name in {*self.targets, *self.chosen} - {IMAGENET}:
            self.tables[name] = datasets.readable(self.tables[name], self.size(name))
        self.parts = {
            name: divide(self.tables[name], protocol, settings.seed) for name in self.chosen if name != IMAGENET
        }
        self.tenths = {name: draw_tenths(self.tables[name], settings, protocol) for name in self.targets}
        self.cells = [
            Cell(target, source)
            for target in self.targets
            for source in (RANDOM, *self.sources)
            if source in (RANDOM, IMAGENET) or not self.entries[source].holds(self.entries[target])
        ]
        self.trainers = {}

    def size(self, name, role=None):
        """Height and width of the images of a dataset as a source, or as a target, which comes first."""
        entry = self.entries[name]
        if (role or ("target" if name in self.targets else "source")) == "target":
            return (fine_tuning_of(entry.dataset, self.settings).size,) * 2
        return pretraining_of(entry.dataset, self.settings).size

    def labels(self, name):
        """Class indices of a dataset's images."""
        return datasets.encode_labels(self.tables[name])

    def classes(self, name):
        """How many classes a dataset has."""
        return len(self.tables[name].attrs["classes"])

    @functools.lru_cache(maxsize=16)  # noqa: B019 - a context lives as long as its process
    def images(self, name, role):
        """The images of a dataset as a source or as a target, in colour."""
        return datasets.cached_images(self.tables[name], self.size(name, role))

    @functools.cache  # noqa: B019
    def reason(self, cell):
        """Why a cell is not run; None where it is."""
        if cell.source in (RANDOM, IMAGENET):
            return None
        source, target = self.entries[cell.source], self.entries[cell.target]
        if source.dataset == "kimiapath960" and not target.dataset.startswith("pcam"):
            return "the paper moves KimiaPath960 to PCam alone"
        shared = set(self.images(cell.source, "source").sha256) & set(self.images(cell.target, "target").sha256)
        return f"{len(shared)} images are in source and target" if shared else None

    def trainer(self, build):
        """The `Trainer` of a network; that of the last target alone is kept."""
        key = repr(build)
        if key not in self.trainers:
            chosen = self.settings
            random.seed(chosen.seed)  # of dropout, whatever was built before: a resumed run has the same
            self.trainers = {key: Trainer(build, chosen.precision, augmentation(chosen.seed), chosen.momentum)}
        return self.trainers[key]


def read_table(entry):
    """The image table of a line. Raises what its reader does, and ValueError for labels that do not exclude others."""
    table = datasets.read(entry.dataset, entry.data)
    if datasets.is_multi_label(table) or len(table.attrs["classes"]) < 2:
        raise ValueError(f"{entry.role} {entry.name}: {entry.data}: expected two classes or more, one for each image")
    return table


def divide(table, protocol, seed):
    """The table of a source with the column `split`: 80 % train, 10 % validation, 10 % test.

    The sound protocol takes the official parts of PatchCamelyon, which keep slides apart also where no file names them.
    """
    if protocol == "sound" and table.attrs["dataset"] in OFFICIAL and set(table["split"]) == set(PARTS):
        return table
    shares = dict(zip(PARTS, (0.8, 0.1, 0.1), strict=True))
    try:
        return datasets.split(table.drop(columns="split", errors="ignore"), shares, seed, grouping(protocol))
    except ValueError as error:
        raise ValueError(f"source {table.attrs['dataset']}: {error}") from error


PARTS = ("train", "validation", "test")
OFFICIAL = ("pcam", "pcam_middle", "pcam_small")


def draw_tenths(table, settings, protocol):
    """Which of twice as many equal parts as there are folds each image is in, int (n,)."""
    drawn = table.drop(columns="split", errors="ignore")
    try:
        return datasets.k_folds(drawn, 2 * settings.folds, settings.seed, grouping(protocol))["fold"].to_numpy()
    except ValueError as error:
        raise ValueError(f"target {table.attrs['dataset']}, {settings.folds} folds: {error}") from error


def grouping(protocol):
    """What is drawn whole: subjects or images."""
    return "subject" if protocol == "sound" else "image"


def rows_of(tenths, fold):
    """Rows of the training, validation and test part of a fold."""
    test, validation = tenths == 2 * fold, tenths == 2 * fold + 1
    return dict(zip(PARTS, (np.flatnonzero(each) for each in (~test & ~validation, validation, test)), strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Section IV-A: pretraining


def description(size, classes, settings):
    """The modified ResNet50 (global average pooling, dropout, dense), as cards have it."""
    arguments = {"backbone": settings.backbone, "input_shape": [*size, 3], "classes": classes}
    return {"builder": "classifier", "arguments": {**arguments, "dropout": settings.dropout}}


def augmentation(seed):
    """Rotation by 10 degrees, shifts by a tenth, horizontal flip."""
    return affine_augmentation(zoom=0.0, seed=1000 * seed)


def stages_of(row, batches, settings):
    """The schedule of table III, or as many whole epochs as the settings' steps make."""
    if settings.pretraining_steps:
        return (Stage(-(-settings.pretraining_steps // len(batches)), row.learning_rate),)
    if row.halved_after is None:
        return (Stage(row.epochs, row.learning_rate),)
    later = Stage(row.epochs - row.halved_after, row.learning_rate / 2)
    return (Stage(row.halved_after, row.learning_rate), later)


def source_folder(context, source):
    """Where a network trained on a source lies."""
    return context.out / context.protocol / "sources" / source


def pretrain(context, source, folder, verbose):
    """The network trained on a source, with the best epoch's weights, in float32."""
    chosen, table, labels = context.settings, context.parts[source], context.labels(source)
    row, classes = pretraining_of(context.entries[source].dataset, chosen), context.classes(source)
    build, images = description(row.size, classes, chosen), context.images(source, "source")
    rows = {part: np.flatnonzero(table["split"] == part) for part in PARTS}
    random.seed(chosen.seed)
    with precision(chosen.precision):
        model = builders.build(build)
    set_momentum(model, chosen.momentum)
    training = datasets.Batches(
        images,
        labels,
        indices=rows["train"],
        batch_size=row.batch_size,
        shuffle=True,
        seed=chosen.seed,
        class_weight=datasets.class_weights(labels[rows["train"]], classes),
    )
    validation = datasets.Batches(images, labels, indices=rows["validation"], batch_size=row.batch_size)
    stages = stages_of(row, training, chosen)
    fit_stages(model, stages, training, validation, folder, augmentation=augmentation(chosen.seed), verbose=verbose)
    return builders.exact_copy(model, build), build


def finish_source(context, source, verbose):
    """The folder of the network trained on a source; what is finished is left alone."""
    folder = source_folder(context, source)
    if (folder / "model" / "card.json").is_file():
        return folder
    print(f"{source}: training of {context.settings.backbone}", flush=True)
    model, build = pretrain(context, source, folder, verbose)
    table, labels = context.parts[source], context.labels(source)
    scores = predict(model, datasets.Batches(context.images(source, "source"), labels))
    predictions = with_scores(kept_columns(table, np.arange(len(table))), scores, table.attrs["classes"])
    write_table(folder / "predictions.csv", predictions)
    zoo.save_checkpoint(model, folder / "model", source_card(context, source, build, predictions))
    return folder


def with_scores(rows, scores, classes):
    """Rows of predictions with a column `p_CLASS` for each class."""
    scores = np.concatenate([1 - scores, scores], axis=1) if scores.shape[1] == 1 else scores
    if not np.isfinite(scores).all():
        print("the network diverged and is scored as chance", flush=True)
        scores = np.full_like(scores, 1 / len(classes))
    return rows.assign(**{f"p_{name}": scores[:, index] for index, name in enumerate(classes)})


def scores_of(rows, classes):
    """The columns of `with_scores`, (n, classes)."""
    return rows[[f"p_{name}" for name in classes]].to_numpy("float64")


# ---------------------------------------------------------------------------------------------------------------------
# Section IV-A: fine-tuning


def begin(context, cell, fold, verbose):
    """How a fold's network is built, and its weights: all but the prediction layer's are those of the source."""
    size, classes = context.size(cell.target, "target"), context.classes(cell.target)
    build = description(size, classes, context.settings)
    random.seed(context.settings.seed + fold)
    weights = builders.build(build, weights=IMAGENET if cell.source == IMAGENET else None).get_weights()
    if cell.source not in (RANDOM, IMAGENET):
        pretrained = zoo.load(finish_source(context, cell.source, verbose) / "model").get_weights()
        weights = [*pretrained[:-2], *weights[-2:]]  # the head's kernel and bias come last
    return build, weights


def finish_fold(context, cell, fold, verbose):
    """Fine-tunes and tests one fold of a cell; writes `history.csv` and, last, `predictions.csv` of the test part.
    Weights are not kept: a run has dozens."""
    folder, chosen = cell.folder(context.out, context.protocol, fold), context.settings
    table, labels, images = (
        context.tables[cell.target],
        context.labels(cell.target),
        context.images(cell.target, "target"),
    )
    rows, row = rows_of(context.tenths[cell.target], fold), fine_tuning_of(context.entries[cell.target].dataset, chosen)
    build, weights = begin(context, cell, fold, verbose)
    training = datasets.Batches(
        images,
        labels,
        indices=rows["train"],
        batch_size=chosen.batch_size or BATCH_SIZE,
        shuffle=True,
        seed=chosen.seed + fold,
        class_weight=datasets.class_weights(labels[rows["train"]], context.classes(cell.target)),
    )
    trainer = context.trainer(build)
    steps = chosen.steps or row.epochs * len(training)
    write_table(folder / "history.csv", pd.DataFrame(trainer.fit(weights, training, row.learning_rate, steps)))
    scores = predict(trainer.exact, datasets.Batches(images, labels, indices=rows["test"]))
    classes = table.attrs["classes"]
    predictions = with_scores(kept_columns(table.drop(columns="split", errors="ignore"), rows["test"]), scores, classes)
    write_table(folder / "predictions.csv", predictions)
    area = fold_auc(predictions, classes)
    print(f"{cell.target} from {cell.source}, fold {fold + 1} of {chosen.folds}: AUC {area:.3f}", flush=True)


def class_indices(rows, classes):
    """Class indices of rows of predictions."""
    return np.array([classes.index(label) for label in rows["label"]])


def fold_auc(rows, classes):
    """Weighted one-against-rest AUC of rows of predictions, without an interval."""
    return analysis.weighted_auc(class_indices(rows, classes), scores_of(rows, classes), resamples=1).value


# ---------------------------------------------------------------------------------------------------------------------
# Section IV-B: distances of datasets


def embeddings(context, name, role):
    """Task2Vec embeddings of a dataset's subsets, by the backbone with ImageNet's weights; kept in a file."""
    chosen, size = context.settings, context.size(name, role)
    file = context.out / "task2vec" / f"{name}-{size[0]}x{size[1]}.npz"
    facts = {"subsets": chosen.subsets, "share": chosen.subset_share, "seed": chosen.seed, "size": list(size)}
    facts |= {"fisher": chosen.fisher, "classes": context.classes(name), "images": len(context.tables[name])}
    if file.is_file():
        with np.load(file) as stored:
            if json.loads(str(stored["facts"])) == facts:
                layers = tuple(
                    (layer, int(filters)) for layer, filters in zip(stored["names"], stored["filters"], strict=True)
                )
                numbers = zip(stored["fisher"], stored["scale"], stored["n"], strict=True)
                return [analysis.TaskEmbedding(fisher, scale, layers, int(n)) for fisher, scale, n in numbers]
    print(f"{name}: Task2Vec embeddings of {chosen.subsets} subsets", flush=True)
    probe = backbones.backbone(chosen.backbone, IMAGENET, (*size, 3))
    found = analysis.subset_embeddings(
        probe,
        context.images(name, role),
        context.labels(name),
        context.classes(name),
        subsets=chosen.subsets,
        share=chosen.subset_share,
        seed=chosen.seed,
        method=chosen.fisher,
    )
    arrays = {key: np.stack([getattr(each, key) for each in found]) for key in ("fisher", "scale", "n")}
    names, filters = zip(*found[0].layers, strict=True)
    with atomic(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, facts=json.dumps(facts), names=names, filters=filters, **arrays)
    return found


def task_distances(context):
    """Task2Vec distances of all pairs: DataFrame `source, target, distance, mean, deviation, low, high`."""
    rows = []
    for target in context.targets:
        known = {target: embeddings(context, target, "target")}
        for source in [cell.source for cell in reported(context) if cell.target == target]:
            if source in (RANDOM, IMAGENET):
                continue
            known[source] = embeddings(context, source, "source")
        for source, found in known.items():
            distance = analysis.mean_distance(found, known[target], context.settings.pairs, context.settings.seed)
            row = {"source": source, "target": target, "distance": distance.value, "mean": distance.mean}
            rows.append(row | {"deviation": distance.deviation, "low": distance.low, "high": distance.high})
    return pd.DataFrame(rows)


def read_columns(file, what):
    """A CSV file with the columns `source`, `target` and numbers, indexed by the first two.

    Raises:
        FileNotFoundError: no such file.
        ValueError: for other columns, a pair that is there twice, or what is no number.
    """
    file, expected = Path(file).expanduser(), f"expected a CSV file with the columns source, target and {what}"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, {expected}")
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, index_col=False, skip_blank_lines=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{file}: not a CSV file ({error}), {expected}") from error
    table = table.apply(lambda column: column.fillna("").str.strip()).rename(columns=str.strip)
    table = table[(table != "").any(axis=1)]
    numbers = [name for name in table if name not in ("source", "target")]
    if len(table.columns) - len(numbers) < 2 or not numbers or table.empty:
        received = f"the columns {', '.join(table.columns)}" if len(table) else "no line"
        raise ValueError(f"{file}: received {received}, {expected}, separated by commas")
    pairs = table[["source", "target"]]
    if len(twice := pairs[pairs.duplicated()]):
        raise ValueError(f"{file}: received {twice.iloc[0, 0]} to {twice.iloc[0, 1]} twice, expected each pair once")
    for name in numbers:
        values = pd.to_numeric(table[name], errors="coerce")
        if not np.isfinite(values).all():
            row = values.index[~np.isfinite(values)][0]  # the number of its line, but for the head
            raise ValueError(f"{file}: line {row + 2}: received {name} {table[name][row]!r}, expected a number")
        table[name] = values
    return table.set_index(["source", "target"])


def correlations(pairs):
    """Correlations of distance and transferability over all pairs, without those of a target with itself, and within
    each target.

    Args:
        pairs: DataFrame `source, target, transferability, distance`.

    Returns:
        DataFrame `pairs, method, value, low, high, p_value, n`.
    """
    pairs = pairs.dropna(subset=["transferability", "distance"])
    selections = {ALL: pairs, OTHERS: pairs[pairs["source"] != pairs["target"]]}
    selections |= {f"target {target}": rows for target, rows in pairs.groupby("target", sort=False)}
    return pd.DataFrame(
        [
            {"pairs": title, "method": method}
            | analysis.correlation(rows["distance"], rows["transferability"], method)._asdict()
            for title, rows in selections.items()
            if len(rows) > 2
            for method in ("pearson", "spearman")
        ],
        columns=["pairs", "method", "value", "low", "high", "p_value", "n"],
    )


ALL, OTHERS = "all pairs", "without self-pairs"
# The names that the authors' files have.
AUTHORS = {
    "imagenet": IMAGENET,
    "stl10": "stl10",
    "sti10": "sti10",
    "textures": "dtd",
    "isic": "isic2018",
    "chest": "kermany",
    "pcam-middle": "pcam_middle",
    "pcam-small": "pcam_small",
    "kimia": "kimiapath960",
}
# Section V-B: "a weak correlation (ρ = 0.24)" with the experts' distances, "ρ = - 0.11" with those of Task2Vec.
PRINTED = (0.24, -0.11)

# ---------------------------------------------------------------------------------------------------------------------
# Tables I to III, figures 3 and 4


def reported(context):
    """The cells that a report is of: those asked for, and those that were run before."""
    return [
        cell
        for cell in context.cells
        if cell.source in (RANDOM, *context.chosen)
        or any((context.out / protocol / "cells" / cell.target / cell.source).is_dir() for protocol in PROTOCOLS)
    ]


def report(context):
    """Writes `report.md`, `results.csv`, `differences.csv` and the figures for what is finished, of both protocols, and
    returns the table of cells."""
    table, differences = table_of_cells(context), table_of_differences(context)
    write_table(context.out / "results.csv", table)
    write_table(context.out / "differences.csv", differences)
    lines = [*heading(context), *lines_of_table_1(context), *lines_of_table_2(context), *lines_of_table_3(context)]
    lines += [*lines_of_figure_3(context, table), *lines_of_differences(differences)]
    lines += lines_of_protocols(context, table)
    pictures = []
    for protocol, rows in table.dropna(subset="auc").groupby("protocol", sort=False):
        pictures.append(f"figure-3-{protocol}.png")
        write_figure(context.out / pictures[-1], analysis.auc_bars_figure(rows, "95 % interval"))
    if context.settings.subsets:
        distances = task_distances(context)
        write_table(context.out / "distances.csv", distances)
        lines += lines_of_distances(distances)
        for protocol, rows in table.groupby("protocol", sort=False):
            pairs = rows.assign(source=rows["source"].where(rows["source"] != RANDOM, rows["target"]))
            pairs = pairs.merge(distances[["source", "target", "distance"]], "left", on=["source", "target"])
            found = correlations(pairs)
            lines += lines_of_figure_4(found, f"Figure 4, {protocol} protocol: Task2Vec")
            if len(found):
                pictures.append(f"figure-4-{protocol}.png")
                figure = analysis.distance_figure(pairs, "Task2Vec distance")
                write_figure(context.out / pictures[-1], figure)
    lines += ["", f"Figures: {', '.join(f'`{name}`' for name in pictures) or 'none yet'}.", ""]
    with atomic(context.out / "report.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    return table


def finished_folds(context, protocol, cell):
    """Predictions of the test parts of the folds that are finished, with the column `fold`; None without any."""
    found = []
    for fold in range(context.settings.folds):
        file = cell.folder(context.out, protocol, fold) / "predictions.csv"
        if file.is_file():
            found.append(read_predictions(file).assign(fold=fold))
    return pd.concat(found, ignore_index=True) if found else None


def table_of_cells(context):
    """`results.csv`: a row for each cell of the protocols that have been run."""
    rows = []
    for protocol in protocols_of(context):
        for cell in reported(context):
            target, classes = context.entries[cell.target].dataset, context.tables[cell.target].attrs["classes"]
            source = cell.source if cell.source in (RANDOM, IMAGENET) else context.entries[cell.source].dataset
            row = {"protocol": protocol, **asdict(cell), "reason": context.reason(cell)}
            row |= {"paper": published_auc(target, source), "paper_random": published_auc(target, RANDOM)}
            found = finished_folds(context, protocol, cell)
            if found is not None:
                areas = [fold_auc(rows, classes) for _, rows in found.groupby("fold")]
                interval = analysis.weighted_auc(*scored(found, classes), resamples=RESAMPLES)
                row |= {"folds": len(areas), "deviation": np.std(areas, ddof=1) if len(areas) > 1 else np.nan}
                row |= interval_columns("auc", interval._asdict())
            rows.append(row)
    columns = ["protocol", "target", "source", "auc", "auc_low", "auc_high", "auc_n", "folds", "deviation"]
    table = pd.DataFrame(rows, columns=[*columns, "paper", "paper_random", "reason"])
    baseline = table[table["source"] == RANDOM].set_index(["protocol", "target"])["auc"]
    base = table.set_index(["protocol", "target"]).index.map(baseline).to_numpy("float64")
    table["transferability"] = [percent(auc, alone) for auc, alone in zip(table["auc"], base, strict=True)]
    printed = zip(table["paper"], table.pop("paper_random"), strict=True)
    table["paper_transferability"] = [percent(auc, alone) for auc, alone in printed]
    return table


# Of the bootstrap: intervals of some thousand images and seven classes take seconds each.
RESAMPLES = 1000


def percent(auc, baseline):
    """Equation (1); NaN where one of both is missing."""
    return np.nan if pd.isna(auc) or pd.isna(baseline) else analysis.transferability(auc, baseline)


def scored(rows, classes):
    """What `analysis.weighted_auc` takes, of rows of predictions with the column `fold`."""
    return class_indices(rows, classes), scores_of(rows, classes), rows["subject"].to_numpy(), rows["fold"].to_numpy()


def protocols_of(context):
    """The protocols that the run's folder has cells of."""
    return [name for name in PROTOCOLS if (context.out / name / "cells").is_dir()]


def table_of_differences(context):
    """`differences.csv`: AUC of ImageNet less that of each other source, and of each source less that of random
    weights, paired by fold and image."""
    rows = []
    for protocol in protocols_of(context):
        for target in context.targets:
            classes = context.tables[target].attrs["classes"]
            found = {
                cell.source: predictions
                for cell in reported(context)
                if cell.target == target and (predictions := finished_folds(context, protocol, cell)) is not None
            }
            pairs = [(IMAGENET, name) for name in found if name != IMAGENET and IMAGENET in found]
            pairs += [(name, RANDOM) for name in found if name not in (IMAGENET, RANDOM) and RANDOM in found]
            for more, less in pairs:
                first, second = found[more], found[less]
                both = sorted(set(first["fold"]) & set(second["fold"]))
                first, second = (each[each["fold"].isin(both)] for each in (first, second))
                if not both or list(first["image"]) != list(second["image"]):
                    continue
                labels, a, subjects, folds = scored(first, classes)
                b = scores_of(second, classes)
                each = [
                    fold_auc(first[first["fold"] == fold], classes) - fold_auc(second[second["fold"] == fold], classes)
                    for fold in both
                ]
                row = {"protocol": protocol, "target": target, "more": more, "less": less, "folds": len(both)}
                row |= analysis.compare_weighted(labels, a, b, subjects, folds, resamples=RESAMPLES)._asdict()
                rows.append(row | {"least": min(each), "greatest": max(each)})
    columns = ["protocol", "target", "more", "less", "difference", "low", "high", "p_value", "folds"]
    return pd.DataFrame(rows, columns=[*columns, "least", "greatest"])


def heading(context):
    """What the report is of."""
    chosen = context.settings
    sources = dict.fromkeys(cell.source for cell in reported(context) if cell.source != RANDOM)
    lines = [
        f"# Cats, not CAT scans: {', '.join(sources)} to {', '.join(context.targets)}",
        "",
        f"    {context.command}",
        "",
        f"{machine()}. {chosen.backbone}"
        + (f", {chosen.steps} steps of each fine-tuning" if chosen.steps else "")
        + (f", {chosen.pretraining_steps} steps on each source, in whole epochs" if chosen.pretraining_steps else "")
        + f", {chosen.folds} folds: 80 % of the images to train on, 10 % to validate, 10 % to test.",
        "",
    ]
    for name in context.targets:
        table = context.tables[name]
        lines.append(
            f"- Target {name}: {len(table)} images, {table['subject'].nunique()} subjects. Subjects: "
            f"{SUBJECT_SOURCES[table.attrs['subjects']]}"
        )
        for protocol in protocols_of(context):
            inside, tested = leaks(table, draw_tenths(table, chosen, protocol), chosen.folds)
            lines.append(
                f"  Folds by {grouping(protocol)} ({protocol}): {inside} of the {tested} images tested are of subjects "
                "in the training or validation part of their fold."
            )
    return lines


def leaks(table, tenths, folds):
    """How many images of the tests have a subject elsewhere in their fold, and how many are tested."""
    counts = []
    for fold in range(folds):
        parts = np.full(len(table), "none", dtype=object)
        for part, rows in rows_of(tenths, fold).items():
            parts[rows] = part
        counts.append(leaked(table.assign(split=parts)))
    return tuple(map(sum, zip(*counts, strict=True)))


def lines_of_table_1(context):
    """Table I: what is here, beside the paper's."""
    lines = ["", "## Table I: datasets", "", "| dataset | origin | images | classes | paper: images, classes, size |"]
    lines.append("|---|---|---|---|---|")
    for name, table in context.tables.items():
        reader = context.entries[name].dataset
        known = TABLE_1.get(ALIKE.get(reader, reader))
        printed = f"{known.name}: {known.images}, {known.classes}, {known.size}" if known else ""
        classes = len(table.attrs["classes"])
        lines.append(table_row(name, known.origin if known else "", len(table), classes, printed))
    return lines


def lines_of_table_2(context):
    """Table II: accuracy and AUC of the networks trained on the sources."""
    rows = []
    for protocol in PROTOCOLS:
        for name in context.sources:
            file = context.out / protocol / "sources" / name / "predictions.csv"
            if name == IMAGENET or not file.is_file():
                continue
            found, classes = read_predictions(file), context.tables[name].attrs["classes"]
            right = class_indices(found, classes) == scores_of(found, classes).argmax(axis=1)
            shares = [f"{right[(found['split'] == part).to_numpy()].mean():.3f}" for part in PARTS]
            tested = found[found["split"] == "test"]
            labels, scores = class_indices(tested, classes), scores_of(tested, classes)
            area = analysis.weighted_auc(labels, scores, tested["subject"].to_numpy(), resamples=RESAMPLES)
            text = interval_text("auc", interval_columns("auc", area._asdict()))
            reader = context.entries[name].dataset
            printed = TABLE_2.get(ALIKE.get(reader, reader))
            paper = " / ".join("" if each is None else f"{each:.3f}" for each in printed) if printed else ""
            rows.append(table_row(protocol, name, *shares, f"{text}, n = {area.n}", paper))
    if not rows:
        return []
    lines = ["", "## Table II: accuracy on the sources, and weighted one-against-rest AUC with its 95 % interval", ""]
    lines += ["| protocol | source | train | validation | test | test AUC | paper |", "|---|---|---|---|---|---|---|"]
    return lines + rows


def lines_of_table_3(context):
    """Table III, the settings of pretraining, and those of section B, beside the paper's."""
    lines = ["", "## Table III: settings", "", "| dataset | as | here | paper |", "|---|---|---|---|"]
    chosen = context.settings
    for name in [name for name in context.sources if name != IMAGENET]:
        reader = context.entries[name].dataset
        known, row = TABLE_3.get(ALIKE.get(reader, reader)), pretraining_of(reader, chosen)
        duration = f"{chosen.pretraining_steps} steps" if chosen.pretraining_steps else duration_text(row)
        cells = settings_text(row.size, row.batch_size, row.learning_rate, duration)
        paper = known and settings_text(known.size, known.batch_size, known.learning_rate, duration_text(known))
        lines.append(table_row(name, "source", cells, paper or ""))
    for name in context.targets:
        reader = context.entries[name].dataset
        known, row = FINE_TUNING.get(ALIKE.get(reader, reader)), fine_tuning_of(reader, chosen)
        duration = f"{chosen.steps} steps" if chosen.steps else f"{row.epochs} epochs"
        cells = settings_text((row.size,) * 2, chosen.batch_size or BATCH_SIZE, row.learning_rate, duration)
        paper = known and settings_text((known.size,) * 2, BATCH_SIZE, "1e-4 to 1e-6", f"{known.epochs} epochs")
        lines.append(table_row(name, "target", cells, paper or ""))
    return lines


def settings_text(size, batch_size, rate, duration):
    """The settings of a training in words."""
    rate = rate if isinstance(rate, str) else f"{rate:g}"
    return f"{size[0]} x {size[1]} pixels, batches of {batch_size}, learning rate {rate}, {duration}"


def duration_text(row):
    """How long a row of table III trains."""
    halved = "" if row.halved_after is None else f", the rate halved after {row.halved_after}"
    return f"{row.epochs} epochs{halved}"


def lines_of_figure_3(context, table):
    """Figure 3 as tables."""
    lines = []
    for (protocol, target), rows in table.groupby(["protocol", "target"], sort=False):
        lines += [
            "",
            f"## Figure 3: AUC on {target}, {protocol} protocol",
            "",
            "| source | AUC, mean of the folds (95 % interval) | deviation of the folds | n | transferability, % | "
            "paper: AUC | transferability, % |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows.to_dict("records"):
            source = "none: random weights" if row["source"] == RANDOM else row["source"]
            paper = [number_text(row["paper"], ".3f"), number_text(row["paper_transferability"], "+.1f")]
            if pd.isna(row["auc"]):
                cells = [row["reason"] or "", "", "", ""]
            else:
                cells = [interval_text("auc", row), f"{row['deviation']:.3f}", f"{row['auc_n']:.0f}"]
                cells.append(number_text(row["transferability"], "+.1f"))
            lines.append(table_row(source, *cells, *paper))
    if lines:
        lines += [
            "",
            "Weighted one-against-rest AUC of each fold's network on its own test part; bootstrap by subject, which "
            "does not hold the spread between trainings. Transferability: equation (1).",
        ]
    return lines


def number_text(value, form):
    """A number, or nothing where there is none."""
    return "" if pd.isna(value) else format(value, form)


def lines_of_differences(differences):
    """Does ImageNet win, and does a source help at all?"""
    if differences.empty:
        return []
    lines = [
        "",
        "## Does ImageNet win?",
        "",
        "Differences of AUC in points of 0.01, paired by fold and image. A difference is shown (more, less) where the "
        "interval leaves out 0 and every fold has its sign. p is not corrected for the number of differences.",
        "",
        "| protocol | target | difference | points (95 % interval) | in a fold | p | shown |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in differences.to_dict("records"):
        cells = [row["protocol"], row["target"], f"{row['more']} - {row['less']}", difference_text(row)]
        cells += [
            f"{100 * row['least']:+.1f} to {100 * row['greatest']:+.1f}",
            f"{row['p_value']:.2g}",
            verdict(row, row["folds"]),
        ]
        lines.append(table_row(*cells))
    return lines


def lines_of_protocols(context, table):
    """What folds by image flatter, where both protocols were run."""
    whole = table.dropna(subset="auc").set_index(["protocol", "target", "source"])
    rows = []
    for cell in reported(context):
        keys = [(protocol, cell.target, cell.source) for protocol in PROTOCOLS]
        if all(key in whole.index for key in keys):
            image, subject = (whole.loc[key] for key in keys)
            down = np.hypot(image["auc"] - image["auc_low"], subject["auc_high"] - subject["auc"])
            up = np.hypot(image["auc_high"] - image["auc"], subject["auc"] - subject["auc_low"])
            value = image["auc"] - subject["auc"]
            text = difference_text({"difference": value, "low": value - down, "high": value + up})
            rows.append(table_row(*keys[0][1:], f"{image['auc']:.3f}", f"{subject['auc']:.3f}", text))
    if not rows:
        return []
    return [
        "",
        "## Folds by image and by subject",
        "",
        "Points of 0.01 by which the published protocol lies above the sound one. The networks and their tests are "
        "others; intervals are put together from the two (square and add), as if these were independent.",
        "",
        "| target | source | published | sound | difference (95 % interval) |",
        "|---|---|---|---|---|",
        *rows,
    ]


def lines_of_distances(distances):
    """Task2Vec distances with the spread that averaging hides."""
    lines = [
        "",
        "## Task2Vec distances",
        "",
        "As in the paper the mean of a few random pairs of subsets; mean, deviation and 95 % of all pairs of subsets.",
        "",
        "| source | target | distance | mean | deviation | 95 % of pairs |",
        "|---|---|---|---|---|---|",
    ]
    for row in distances.to_dict("records"):
        numbers = [f"{row[name]:.3f}" for name in ("distance", "mean", "deviation")]
        lines.append(table_row(row["source"], row["target"], *numbers, f"{row['low']:.3f} to {row['high']:.3f}"))
    return lines


def lines_of_figure_4(found, title):
    """Correlations of distance and transferability."""
    lines = ["", f"## {title}", ""]
    if found.empty:
        return [*lines, "Fewer than three pairs of a distance and a transferability: no correlation."]
    lines += ["| pairs | coefficient | value (95 % interval) | p | n |", "|---|---|---|---|---|"]
    for row in found.to_dict("records"):
        value = interval_text("r", {"r": row["value"], "r_low": row["low"], "r_high": row["high"]})
        lines.append(table_row(row["pairs"], row["method"].capitalize(), value, f"{row['p_value']:.2g}", row["n"]))
    return [
        *lines,
        "",
        "Pairs of a target with itself have the transferability 0 by definition, and as a rule the least distance. "
        "Pairs share sources and targets: intervals and p-values are those of independent pairs and too narrow.",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Figures 3 and 4 from given AUCs and distances


def compare_published(folds, distances, out):
    """Figures 3 and 4 from files: trains nothing.

    Args:
        folds: CSV file with the columns `source, target` and one for the AUC of each fold; `source = target` is the
            network trained on the target alone.
        distances: CSV file with the columns `source, target` and one of distances.
        out: folder for `report.md`, `pairs.csv`, `correlations.csv`, `figure-3.png` and `figure-4.png`.

    Returns:
        DataFrame, the correlations.

    Raises:
        FileNotFoundError, ValueError: for a file that is not there, or is not as said above.
    """
    areas, known = read_columns(folds, "the AUC of each fold"), read_columns(distances, "one column of distances")
    if len(known.columns) != 1:
        raise ValueError(
            f"{distances}: received the columns {', '.join(known.columns)} beside source and target, expected one "
            "column of distances"
        )
    for name in areas:
        if not name.startswith("fold"):
            raise ValueError(f"{folds}: received the column {name!r}, expected fold_1, fold_2, ... with AUCs")
        outside = areas[(areas[name] <= 0) | (areas[name] > 1)]
        if len(outside):
            source, target = outside.index[0]
            received = f"{name} {outside[name].iloc[0]:g} from {source} to {target}"
            raise ValueError(f"{folds}: received {received}, expected AUCs above 0 and up to 1")
    pairs = areas.mean(axis=1).rename("auc").to_frame().assign(deviation=areas.std(axis=1, ddof=1)).reset_index()
    alone = pairs[pairs["source"] == pairs["target"]].set_index("target")["auc"]
    if missing := [name for name in dict.fromkeys(pairs["target"]) if name not in alone.index]:
        raise ValueError(
            f"{folds}: received no line {missing[0]},{missing[0]}, expected the AUC of training on each target alone"
        )
    baselines = pairs["target"].map(alone)
    pairs["transferability"] = [percent(*each) for each in zip(pairs["auc"], baselines, strict=True)]
    title = known.columns[0]
    pairs["distance"] = pd.MultiIndex.from_frame(pairs[["source", "target"]]).map(known[title])
    if pairs["distance"].notna().sum() < 3:
        raise ValueError(f"{distances}: received fewer than three pairs of {folds}, expected the distance of each pair")
    if pairs["distance"].nunique() == 1:
        raise ValueError(f"{distances}: received the same distance for every pair, expected distances that differ")
    found = correlations(pairs)
    hashes = {name: file_sha256(Path(file).expanduser()) for name, file in (("folds", folds), ("distances", distances))}
    out = open_run(out, {"recipe": "cats_scans"} | hashes)
    write_table(out / "pairs.csv", pairs)
    write_table(out / "correlations.csv", found)
    bars = pairs.assign(auc_low=pairs["auc"] - pairs["deviation"], auc_high=pairs["auc"] + pairs["deviation"])
    write_figure(out / "figure-3.png", analysis.auc_bars_figure(bars.fillna({"auc_low": 0}), "deviation of the folds"))
    write_figure(out / "figure-4.png", analysis.distance_figure(pairs, f"distance: {title}"))
    said = printed_lines(found, pairs)
    print("\n".join(said), flush=True)
    lines = [f"# Cats, not CAT scans: figures 3 and 4 from {Path(folds).name} and {Path(distances).name}", ""]
    lines += ["    medzoo run cats_scans --folds FOLDS.csv --distances DISTANCES.csv", "", *said]
    lines += lines_of_figure_4(found, f"Figure 4: {title} against transferability")
    lines += ["", "## Figure 3: mean AUC of the folds", ""]
    lines += ["| target | source | AUC | deviation | transferability, % | distance |", "|---|---|---|---|---|---|"]
    for row in pairs.sort_values("target", kind="stable").to_dict("records"):
        cells = [f"{row['auc']:.3f}", number_text(row["deviation"], ".3f"), f"{row['transferability']:+.1f}"]
        lines.append(table_row(row["target"], row["source"], *cells, number_text(row["distance"], "g")))
    lines += ["", "Figures: `figure-3.png`, `figure-4.png`.", ""]
    with atomic(out / "report.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    return found


def is_published(pairs):
    """Whether the AUCs are those that the authors published, each with a distance."""
    known = {
        (AUTHORS.get(row["source"]), AUTHORS.get(row["target"])): row["auc"]
        for row in pairs.dropna(subset="distance").to_dict("records")
    }
    expected = {
        (target if source == RANDOM else source, target): auc
        for target, row in FIGURE_3.items()
        for source, auc in row.items()
    }
    return known.keys() == expected.keys() and all(abs(known[pair] - expected[pair]) < 6e-4 for pair in expected)


def printed_lines(found, pairs):
    """The coefficients in words, which pairs they leave out, and what the paper took for what."""
    rows = found.set_index(["pairs", "method"])
    lines = []
    if len(without := pairs[pairs["distance"].isna()]):
        first = without.iloc[0]
        lines.append(
            f"{len(without)} of the {len(pairs)} pairs have no distance and are left out, such as {first['source']} to "
            f"{first['target']}."
        )
    for title in (ALL, OTHERS):
        if (title, "pearson") in rows.index:
            pearson, spearman = rows.loc[(title, "pearson")], rows.loc[(title, "spearman")]
            lines.append(
                f"{title[0].upper()}{title[1:]} ({pearson['n']:.0f}): Pearson {pearson['value']:.3f} (p "
                f"{pearson['p_value']:.2f}), Spearman {spearman['value']:.3f} (p {spearman['p_value']:.2f})."
            )
    if not is_published(pairs):
        return lines
    pearson, spearman = (rows.loc[(ALL, method), "value"] for method in ("pearson", "spearman"))
    told = len(lines)
    for printed in PRINTED:
        if abs(pearson - printed) <= 0.005 < abs(spearman - printed):
            lines.append(
                f"The paper prints {printed} and calls it Spearman's: it is Pearson's; Spearman's is {spearman:.3f}."
            )
        elif abs(spearman - printed) <= 0.005:
            lines.append(f"The paper prints {printed} as Spearman's, which it is; Pearson's is {pearson:.3f}.")
    if len(lines) == told:
        lines.append(
            "The paper prints 0.24 for the experts' distances and -0.11 for Task2Vec's; neither is found here."
        )
    return lines


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
    folds=None,
    distances=None,
    verbose=1,
):
    """Runs what is missing of a study and writes the report of all; from given AUCs and distances, the report alone.

    Args:
        data: the grid's CSV file, see `recipes.grid.read_grid`; None with `folds` and `distances`.
        out: folder of the run; one that was interrupted goes on where it was.
        profile: `"paper"` or `"quick"`.
        protocol: `"published"` or `"sound"`, see above.
        methods: names of sources: `imagenet`, and those of the grid; none for all.
        backbone: in place of the profile's.
        overrides: `key=value` strings on `Settings`.
        folds, distances: CSV files, see `compare_published`.
        verbose: 1 for a progress bar, 2 for a line an epoch, 0 for neither, while networks are trained on sources.

    Returns:
        DataFrame: the table of cells, or with `folds` the correlations.

    Raises:
        ValueError, FileNotFoundError: for files, names or options that do not fit, before anything trains.
    """
    if folds is not None or distances is not None:
        if folds is None or distances is None or data is not None:
            received = ", ".join(
                f"--{name}"
                for name, value in (("data", data), ("folds", folds), ("distances", distances))
                if value is not None
            )
            raise ValueError(f"cats_scans: received {received}, expected --data, or --folds and --distances")
        if methods or overrides or (profile, protocol, backbone) != ("paper", "published", None):
            raise ValueError(
                "cats_scans: received options of a training beside --folds and --distances, which train nothing; "
                "expected no profile, protocol, method, backbone or setting"
            )
        return compare_published(folds, distances, out)
    chosen = parse_settings(PROFILES, profile, overrides)
    if backbone is not None:
        chosen = replace(chosen, backbone=backbone)
    require("protocol", protocol, PROTOCOLS)
    context = Context(data, out, profile, protocol, tuple(methods), chosen, backbone, overrides)
    added = ("subsets", "subset_share", "pairs", "fisher")  # later, to a run that has begun
    settings = {key: value for key, value in asdict(chosen).items() if key not in added}
    open_run(context.out, {"recipe": "cats_scans", "profile": profile, "settings": settings})
    write_table(context.out / "grid.csv", pd.DataFrame([asdict(each) for each in read_grid(data, ROLES)]))
    write_parts(context)
    for source in context.parts:
        finish_source(context, source, verbose)
    for cell, fold in missing(context):
        finish_fold(context, cell, fold, verbose)
    return report(context)


def missing(context):
    """Cells and folds that are still to be run, target by target, so that each network is compiled once."""
    return [
        (cell, fold)
        for cell in context.cells
        if cell.source in (RANDOM, *context.chosen) and context.reason(cell) is None
        for fold in range(context.settings.folds)
        if not (cell.folder(context.out, context.protocol, fold) / "predictions.csv").is_file()
    ]


def write_parts(context):
    """Writes which image of a source is in which part, and which image of a target is in which tenth."""
    folder = context.out / context.protocol
    for name, table in context.parts.items():
        hashes = context.images(name, "source").sha256
        write_split(folder / f"split-{name}.csv", table.drop(columns="regions", errors="ignore").assign(sha256=hashes))
    for name in context.targets:
        table = context.tables[name][["image", "subject", "label"]]
        hashes = context.images(name, "target").sha256
        write_split(folder / f"folds-{name}.csv", table.assign(split=context.tenths[name].astype(str), sha256=hashes))


# ---------------------------------------------------------------------------------------------------------------------
# The card of a network trained on a source


def source_card(context, source, build, predictions):
    """What the card of a network trained on a source says; `zoo.publish` adds name and version."""
    table, entry = context.parts[source], context.entries[source]
    origin, chosen, classes = datasets.source(entry.dataset), context.settings, table.attrs["classes"]
    command = f"{context.command}  # GRID.csv with the line source,{entry.dataset},{origin.folder}"
    tested = predictions[predictions["split"] == "test"]
    area = analysis.weighted_auc(
        class_indices(tested, classes), scores_of(tested, classes), tested["subject"].to_numpy()
    )
    return {
        "name": f"{chosen.backbone}-{entry.dataset.replace('_', '-')}",
        "version": 1,
        "summary": f"{chosen.backbone} on {origin.folder}, to begin other trainings with: {len(classes)} classes",
        "modality": origin.modality,
        "task": "classification",
        "recipe": {"name": "cats_scans", "command": command, "paper": PAPER},
        "build": build,
        "input": {
            "shape": build["arguments"]["input_shape"],
            "range": [0, 255],
            "resize": FITS["stretch"],
            "crop": 1.0,
            "dicom": "voi",
        },
        "classes": classes,
        "data": {
            "dataset": origin.title,
            "licence": origin.licence,
            "url": origin.url,
            **card_data(table),
            "excluded": "nothing",
        },
        "metrics": card_metrics({"auc": area}, "test", context.protocol, command),
        "licence": f"as the training data: {origin.licence}",
        "limitations": [
            "One training; another gives another number within and beyond the interval.",
            "Began with random weights.",
            "The epoch was chosen on the validation part.",
            *origin.limitations,
            *leak_limitation(table),
            "For research, not for diagnosis.",
        ],
    }


PAPER = "van den Brandt and others, Cats, not CAT scans, arXiv:2107.05940, 2021"
