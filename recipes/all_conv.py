"""All-convolutional mammography: from a classifier of patches to a classifier of whole images, and to another scanner.

L. Shen, L. R. Margolies, J. H. Rothstein, E. Fluder, R. B. McBride and W. Sieh, End-to-end Training for Whole Image
Breast Cancer Diagnosis using An All Convolutional Design, arXiv:1708.09427 (Deep Learning to Improve Breast Cancer
Detection on Screening Mammography, Scientific Reports 9:12495, 2019). A patch classifier is trained where lesions are
annotated, becomes a classifier of whole images by surgery (`medzoo.layers.to_whole_image`), is trained end to end on
the labels of whole images alone, and moves to another dataset with few images.

    medzoo run all_conv --data CBIS-DDSM --out RUN --method patch-classifier                       # table 1
    medzoo run all_conv --data CBIS-DDSM --out RUN --top resnet-512-512-1024x2-512-512-1024x2      # a row of table 2
    medzoo run all_conv --data CBIS-DDSM --out RUN --backbone vgg16 --top vgg-256x1-128x1          # a row of table 3
    medzoo run all_conv --data CBIS-DDSM --out RUN --transfer-dataset inbreast --transfer-data INBREAST    # table 4
    medzoo run all_conv --dataset rsna --data RSNA --patch-dataset mini_mias --patch-data MINI_MIAS --out RUN

Rows run into one folder are reported together, with the average of their scores (figure 3).

**Known trouble.** On the official test part of CBIS-DDSM (649 images) three of the authors' released models were
measured at AUCs of 0.69, 0.71 and 0.75, not 0.85 (https://github.com/lishen/end2end-all-conv/issues/5). The paper's
split is its own, random by patient. Why the two differ so much is not settled. Both splits are one option apart:

`published` (the default): the paper's split, 85 % and 15 % of the images divided by woman and stratified, of the first
10 % for validation; transfer chooses the epoch on the very images that it reports (there is one "validation" part in
section 3.2).
`sound`: the official split where the dataset has one, training images of women who are in its test part left out;
transfer chooses the epoch on a validation part of its own.
A split that a user's own table brings is kept under both.

Where the paper is silent, or its code did something else:
- "Weight decay" of the second stage was set in the code on layers already built, where Keras 2.0 ignored it; that of
  the first was an L2 penalty. Here it is decoupled and in force in every stage (`medzoo.training.Stage`), which at
  rates of 1e-4 and 1e-5 takes 1e-7 of a kernel a step in either: next to nothing, as in the second stage of the code.
  The penalty of its first stage, on the new layers alone, is not offered.
- Images are stretched to the input and lose their aspect ratio, as in the paper; `--set fit=pad` keeps it.
- The code shifted each of three channels of a grey image by itself, which tints it. Here the image is grey up to the
  network and has one shift.
- Frozen batch norm still used the batch's statistics in Keras 2.0; here it is in inference mode.
- "Top 46 layers" of ResNet50 and "top 11" of VGG16 are translated to names in `UNFROZEN`.
- The mean grey value of the training images is subtracted in the network's first layer (argument `mean` of the
  builder), and is part of the checkpoint.
- Softmax over two units is here a sigmoid of one: the same function and the same loss.
- The text says nothing about how the epoch was chosen; its tables count epochs "when the best validation score has
  been reached": accuracy for patches, AUC for whole images. Some of them lie in a stage before the last; here each
  stage ends with its own best epoch, so that the network is that of the last stage.
- Training went on for up to 200 epochs more where it had not converged, as for VGG16: `--set epochs=30,220`.
- The paper has 2478 mammograms of 1249 women, an earlier state of CBIS-DDSM than today's 3103 of 1566, in which 71
  films are there twice, with masses and with calcifications. It validates on 10 % of the women, here of the images.
"""

import functools
import hashlib
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from .. import analysis, datasets, zoo
from .._files import atomic, read_json
from .._nearest import require
from ..datasets.patches import PATCH_CLASSES, PATCH_SETS
from ..datasets.policies import DICOM_POLICIES, FITS
from ..layers import TOPS, parse_top, patch_heatmap, to_whole_image
from ..layers.whole_image import describe_heatmap
from ..training import (
    Stage,
    check_settings,
    fit_stages,
    mammogram_augmentation,
    parse_settings,
    precision,
)
from ..training.mixed_precision import PRECISIONS
from ..training.run import (
    SUBJECT_SOURCES,
    card_data,
    card_metrics,
    command_text,
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
from .reporting import (
    as_text,
    difference_text,
    kept_columns,
    leak_limitation,
    predict,
    read_predictions,
    shortcut_lines,
    table_limitation,
    table_row,
)

PROTOCOLS = ("published", "sound")
METHODS = {
    "patch-classifier": "the classifier of patches alone (table 1)",
    "whole-image": "patch classifier, converted and trained end to end (tables 2 and 3)",
    "imagenet-start": "the same network without the patch classifier: trunk from ImageNet",
    "fine-tuning": "the backbone with global average pooling, from ImageNet, without top layers",
    "two-step": "a random forest on regional features of the patch classifier's heatmap",
}
OPTIONS = ("dataset", "top", "patch_dataset", "patch_data", "transfer_dataset", "transfer_data")

# ---------------------------------------------------------------------------------------------------------------------
# The paper's numbers

# Table 1: accuracy by backbone, start and patch set.
TABLE_1 = {
    ("resnet50", "random", "S1"): 0.97,
    ("resnet50", "imagenet", "S1"): 0.99,
    ("resnet50", "random", "S10"): 0.63,
    ("resnet50", "imagenet", "S10"): 0.89,
    ("vgg16", "imagenet", "S10"): 0.84,
}
# Tables 2 and 3: AUC and AUC of augmented prediction by backbone, patch set and top.
TABLES_2_AND_3 = {
    ("resnet50", "S1", TOPS[0]): (0.63, None),
    ("resnet50", "S10", TOPS[0]): (0.85, 0.87),
    ("resnet50", "S10", TOPS[1]): (0.85, 0.87),
    ("resnet50", "S10", TOPS[2]): (0.84, 0.85),
    ("resnet50", "S10", TOPS[3]): (0.83, 0.84),
    ("resnet50", "S10", TOPS[4]): (0.84, 0.87),
    ("resnet50", "S10", "vgg-256x1-128x1"): (0.87, 0.88),
    ("resnet50", "S10", "heatmap-resnet-512-512-1024x2-512-512-1024x2"): (0.80, None),
    ("resnet50", "S10", "heatmap-resnet-64-64-256x2-128-128-512x2"): (0.81, None),
    ("resnet50", "S10", "heatmap-pool5-fc64-fc32"): (0.73, None),
    ("resnet50", "S10", "heatmap-pool2-fc512-fc256"): (0.72, None),
    ("resnet50", "S10", "heatmap-pool1-fc2048-fc1024"): (0.65, None),
    ("vgg16", "S10", "vgg-512x3-512x3"): (0.81, 0.82),
    ("vgg16", "S10", "vgg-512x1-512x1"): (0.83, 0.86),
    ("vgg16", "S10", "vgg-256x3-128x3"): (0.83, 0.85),
    ("vgg16", "S10", "vgg-256x1-128x1"): (0.85, 0.86),
    ("vgg16", "S10", "vgg-128x1-64x1"): (0.84, 0.85),
    ("vgg16", "S10", "resnet-512-512-1024x2-512-512-1024x2"): (0.85, 0.88),
    ("vgg16", "S10", "heatmap-pool5-fc64-fc32"): (0.71, None),
    ("vgg16", "S10", "heatmap-pool2-fc512-fc256"): (0.68, None),
    ("vgg16", "S10", "heatmap-pool1-fc2048-fc1024"): (0.69, None),
}
TWO_STEP = {("resnet50", "S10"): 0.73}
# "The four best performing models" and their average, with augmented prediction (figure 3); on INbreast 0.98.
BEST_TOPS = {"resnet": "resnet-512-512-1024x2-512-512-1024x2", "vgg": "vgg-256x1-128x1"}
BEST_FOUR = tuple((backbone, top) for backbone in ("resnet50", "vgg16") for top in BEST_TOPS.values())
ENSEMBLE = {"cbis_ddsm": 0.91, "inbreast": 0.98}
# Table 4: AUC on INbreast by number of women, in the order of `BEST_FOUR`.
TABLE_4 = {
    20: (0.92, 0.88, 0.89, 0.87),
    30: (0.93, 0.94, 0.90, 0.93),
    40: (0.93, 0.95, 0.93, 0.93),
    50: (0.94, 0.95, 0.93, 0.94),
    60: (0.95, 0.95, 0.94, 0.95),
    72: (0.95, 0.95, 0.95, 0.95),
}

# ---------------------------------------------------------------------------------------------------------------------
# Section 3.1: settings


@dataclass(frozen=True)
class Settings:
    """Everything about a run that is not its data or method. Change a value with `--set key=value`.

    Attributes:
        backbone: name of the patch classifier's network.
        start: `"imagenet"` or `"random"` weights of the patch classifier.
        patch_set: `"S1"` or `"S10"`.
        input_size: height and width of whole images, in pixels.
        patch_size: side of the patches, in the same pixels.
        fit: how whole images come to that size, a name from `datasets.policies.FITS`: the paper ignores the aspect
            ratio (`"stretch"`); `"pad"` keeps it.
        intensity: how DICOM values become grey values, a name from `datasets.policies.DICOM_POLICIES`.
        patch_epochs, patch_learning_rates: of the three stages of the patch classifier: the head, the top layers
            (`UNFROZEN`), all. With random weights the last stage alone runs, for all epochs at the first rate.
        patch_batch_size: patches a step.
        epochs, learning_rates, weight_decays: of the two stages of the whole image: the new layers, all.
        batch_size: images a step.
        transfer_subjects: numbers of women to train with on the second dataset, beside none and all.
        transfer_epochs, transfer_learning_rate, transfer_weight_decay: there, all layers train.
        transfer_test_share: of the second dataset's images, divided by woman.
        test_share: of the images, divided by woman, where a split is made.
        validation_share: of the images that are not tested on, divided by woman.
        flips: views of an image whose scores augmented prediction averages: 4, or 1 for no such prediction. May be
            raised in a finished run.
        precision: of the computations in training; tests are always in float32.
        seed: of splits, patches and all random numbers.
    """

    backbone: str = "resnet50"
    start: str = "imagenet"
    patch_set: str = "S10"
    input_size: tuple[int, ...] = (1152, 896)
    patch_size: int = 224
    fit: str = "stretch"
    intensity: str = "voi"
    patch_epochs: tuple[int, ...] = (3, 10, 37)
    patch_learning_rates: tuple[float, ...] = (1e-3, 1e-4, 1e-5)
    patch_batch_size: int = 32
    epochs: tuple[int, ...] = (30, 20)
    learning_rates: tuple[float, ...] = (1e-4, 1e-5)
    weight_decays: tuple[float, ...] = (0.001, 0.01)
    batch_size: int = 2
    transfer_subjects: tuple[int, ...] = (20, 30, 40, 50, 60)
    transfer_epochs: int = 200
    transfer_learning_rate: float = 1e-5
    transfer_weight_decay: float = 0.01
    transfer_test_share: float = 0.3
    test_share: float = 0.15
    validation_share: float = 0.1
    flips: int = 4
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        least = dict.fromkeys(("patch_epochs", "epochs", "transfer_epochs", "patch_batch_size", "batch_size"), 1)
        least |= dict.fromkeys(("weight_decays", "transfer_weight_decay", "seed"), 0)
        least |= {"input_size": 32, "patch_size": 32, "transfer_subjects": 1}
        shares = ("patch_learning_rates", "learning_rates", "transfer_learning_rate")
        check_settings(self, least, shares=(*shares, "transfer_test_share", "test_share", "validation_share"))
        require("start", self.start, ("imagenet", "random"))
        require("patch_set", self.patch_set, PATCH_SETS)
        require("precision", self.precision, PRECISIONS)
        for name, length in (
            ("input_size", 2),
            ("patch_epochs", 3),
            ("patch_learning_rates", 3),
            ("epochs", 2),
            ("learning_rates", 2),
            ("weight_decays", 2),
        ):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name}: received {len(getattr(self, name))} numbers, expected {length}")
        require("fit", self.fit, FITS)
        require("intensity", self.intensity, DICOM_POLICIES)
        require("flips", self.flips, (1, 4))
        if self.patch_size > min(self.input_size):
            raise ValueError(f"patch_size: received {self.patch_size}, expected at most the image's {self.input_size}")


PROFILES = {
    "paper": Settings(),
    # Images and patches of less than half the size, a quarter to a seventh of the epochs, and higher rates instead.
    "quick": Settings(
        backbone="resnet18",
        input_size=(384, 384),
        patch_size=96,
        patch_epochs=(1, 3, 8),
        patch_learning_rates=(1e-3, 3e-4, 1e-4),
        epochs=(1, 6),
        learning_rates=(1e-3, 1e-4),
        batch_size=8,
        transfer_subjects=(20, 50),
        transfer_epochs=6,
        transfer_learning_rate=1e-4,
        flips=1,
        precision="mixed_bfloat16",
    ),
}

# Section 3.1.2: what trains in the second stage of the patch classifier. Counted from the end of Keras 2.0's ResNet50,
# 46 layers are head and pooling, stage 5 (32 layers), the last block of stage 4 (10) and what has no weights before it;
# of VGG16, 11 are head and pooling, blocks 5 and 4, and the pooling before. The other two by analogy.
UNFROZEN = {
    "resnet18": ("stage4", "conv4_block2_*", "head"),
    "resnet50": ("stage4", "conv4_block6_*", "head"),
    "resnet101": ("stage4", "conv4_block23_*", "head"),
    "vgg16": ("stage3", "stage4", "head"),
}


def patch_stages(settings):
    """The three stages of the patch classifier; for random weights one constant rate."""
    epochs, rates = settings.patch_epochs, settings.patch_learning_rates
    if settings.start == "random":
        return (Stage(sum(epochs), rates[0], monitor="val_accuracy"),)
    trained = (("head",), UNFROZEN[settings.backbone], ("*",))
    return tuple(
        Stage(number, rate, train=groups, monitor="val_accuracy")
        for number, rate, groups in zip(epochs, rates, trained, strict=True)
    )


def whole_image_stages(settings, top):
    """The two stages of a whole-image classifier: what is new, then everything."""
    trained = (("top", "head") if top else ("head",), ("*",))
    return tuple(
        Stage(number, rate, train=groups, weight_decay=decay)
        for number, rate, decay, groups in zip(
            settings.epochs, settings.learning_rates, settings.weight_decays, trained, strict=True
        )
    )


def transfer_stages(settings):
    """Section 3.2.2: all layers at one rate."""
    chosen = settings
    return (Stage(chosen.transfer_epochs, chosen.transfer_learning_rate, weight_decay=chosen.transfer_weight_decay),)


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.1.1: images and patches

# Women on both sides of CBIS-DDSM's official split: kept where a split by woman is made anew, else not trained on.
READ = {"cbis_ddsm": {"published": {"overlap": "official"}, "sound": {"overlap": "drop"}}}
EXCLUDED = {("cbis_ddsm", "sound"): "training images of women who are in the official test part too"}


def read_table(dataset, data, protocol):
    """The image table of a dataset. Raises what its reader does, and ValueError for other than two classes."""
    table = datasets.read(dataset, data, **READ.get(dataset, {}).get(protocol, {}))
    if datasets.is_multi_label(table) or len(table.attrs["classes"]) != 2:
        raise ValueError(f"{data}: received the classes {', '.join(table.attrs['classes'])}, expected two")
    return table


def split_table(table, settings, protocol, test_share):
    """The image table with the column `split`: train, validation and test, by subject.

    Where lesions are known the split is stratified by their kind, else by the image's class.

    Raises:
        ValueError: when a part lacks a class, or has another name.
    """
    official = table.attrs["dataset"] == "cbis_ddsm"  # the one whose official split the paper did not take
    if "split" not in table or (official and protocol == "published"):
        drawn = lesion_strata(table.drop(columns="split", errors="ignore"))
        parts = {"train": 1 - test_share, "test": test_share}
        table = table.assign(split=datasets.split(drawn, parts, settings.seed)["split"])
    if "validation" not in set(table["split"]):
        strata = merge_rare_kinds(lesion_strata(table), table["label"])
        drawn = datasets.validation_from_training(strata, settings.validation_share, settings.seed)
        table = table.assign(split=drawn["split"])
    for part in sorted(set(table["split"])):
        require(f"part of {table.attrs['dataset']}", part, PARTS)
    for part in PARTS:
        found = set(table.loc[table["split"] == part, "label"])
        if missing := [name for name in table.attrs["classes"] if name not in found]:
            raise ValueError(
                f"{table.attrs['dataset']}: no image of the part {part!r} is {missing[0]!r}, "
                "expected some of each class"
            )
    return table


PARTS = ("train", "validation", "test")


def lesion_strata(table):
    """The table with the kind of an image's first lesion as its label, to stratify by.

    As it is where no lesions are known, or where a kind has too few subjects to be divided.
    """
    if "regions" not in table:
        return table
    lesions = zip(table["regions"], table["label"], strict=True)
    kinds = [regions[0].label if regions else label for regions, label in lesions]
    drawn = table.assign(label=kinds)
    drawn.attrs = {**table.attrs, "classes": sorted(set(kinds))}
    return table if drawn.groupby("label")["subject"].nunique().min() < 2 else drawn


def merge_rare_kinds(strata, classes):
    """Strata in which a kind of lesion of which the test left one subject for training counts as the commonest of its
    class, so that the others can be divided."""
    left = strata[strata["split"] == "train"]
    subjects = left.groupby("label")["subject"].nunique()
    rare = set(subjects.index[subjects < 2])
    if not rare:
        return strata
    common = left[~left["label"].isin(rare)].groupby(classes)["label"].agg(lambda kinds: kinds.mode()[0])
    # A class of which no other kind is left keeps its own; whoever divides it says that it has too few subjects.
    kinds = strata["label"].where(~strata["label"].isin(rare), classes.map(common).fillna(strata["label"]))
    merged = strata.assign(label=kinds)
    merged.attrs = {**strata.attrs, "classes": sorted(set(kinds))}
    return merged


class Images:
    """The three parts of a dataset as batches of whole images.

    Attributes:
        table: image table with the column `split`, without the files that cannot be decoded.
        left_out: number of those.
    """

    def __init__(self, table, settings, protocol, test_share):
        source = datasets.SOURCES.get(table.attrs["dataset"])  # none for a user's own folder or list
        modality = "MG" if source and source.modality == "mammography" else None
        form = {"channels": 1, "fit": settings.fit, "intensity": settings.intensity}
        kept = datasets.readable(table, settings.input_size, **form, modality=modality)
        self.left_out = len(table) - len(kept)
        self.table, self.settings = split_table(kept, settings, protocol, test_share), settings
        self.labels = datasets.encode_labels(self.table)
        self.stored = datasets.cached_images(self.table, settings.input_size, **form)
        self.indices = {name: np.flatnonzero(self.table["split"] == name) for name in PARTS}

    @property
    def positive(self):
        """Name of the positive class."""
        return self.table.attrs["classes"][-1]

    def training(self, seed, rows=None):
        """Images of the training part, or of `rows` of the table, in a new order each epoch."""
        rows = self.indices["train"] if rows is None else rows
        size = self.settings.batch_size
        return datasets.Batches(self.stored, self.labels, indices=rows, batch_size=size, shuffle=True, seed=seed)

    def batches(self, part, flips=(False, False)):
        """The images of a part in order, flipped vertically and horizontally or not."""
        images = analysis.FlippedImages(self.stored, *flips)
        return datasets.Batches(images, self.labels, indices=self.indices[part], batch_size=self.settings.batch_size)

    def mean_grey(self):
        """Mean grey value of the training images, in [0, 255]."""
        means = [
            self.stored.read(self.indices["train"][i : i + 64]).mean(dtype="float64", axis=(1, 2, 3))
            for i in range(0, len(self.indices["train"]), 64)
        ]
        return round(float(np.concatenate(means).mean()), 2)


class Patches:
    """Sampled patches of the annotated images of a dataset, as batches.

    Args:
        images: `Images` of the dataset.
        settings: of the run.
        file: CSV file in which an earlier run left the sampled patches, if it is there.
    """

    def __init__(self, images, settings, file):
        chosen = settings
        self.images, self.settings = images, settings
        if file.is_file():
            self.table = pd.read_csv(file, dtype={"image": str, "subject": str})
        else:
            arguments = chosen.patch_set, chosen.patch_size, chosen.seed
            self.table = datasets.sample_patches(images.table, images.stored, *arguments)
        self.labels = datasets.encode_labels(self.table, PATCH_CLASSES)
        self.stored = datasets.PatchImages(images.stored, self.table, chosen.patch_size)
        self.indices = {part: np.flatnonzero(self.table["split"] == part) for part in PARTS}
        for part, rows in self.indices.items():
            if missing := [name for name in PATCH_CLASSES if name not in set(self.table["label"].iloc[rows])]:
                raise ValueError(
                    f"{images.table.attrs['dataset']}: no patch of the part {part!r} shows {missing[0]!r}, expected "
                    "some of each class; change the shares of the split, or its seed"
                )

    def training(self, seed):
        """Patches of the training part; weights keep the classes balanced within each batch."""
        return datasets.Batches(
            self.stored,
            self.labels,
            indices=self.indices["train"],
            batch_size=self.settings.patch_batch_size,
            shuffle=True,
            seed=seed,
            balance=True,
        )

    def batches(self, part):
        """The patches of a part in order."""
        size = self.settings.patch_batch_size
        return datasets.Batches(self.stored, self.labels, indices=self.indices[part], batch_size=size)


# ---------------------------------------------------------------------------------------------------------------------
# Sections 2.1 and 2.2: the networks


def patch_description(settings, mean):
    """How the patch classifier is built, as cards have it."""
    arguments = {
        "backbone": settings.backbone,
        "input_shape": [settings.patch_size, settings.patch_size, 1],
        "classes": len(PATCH_CLASSES),
        "mean": mean,
    }
    return {"builder": "classifier", "arguments": arguments}


def whole_image_description(settings, mean, top, cells=None):
    """How a whole-image network is built, as cards have it.

    Args:
        settings, mean: of the run.
        top: name of the top layers; None for the backbone alone.
        cells: what `describe_heatmap` says of the patch classifier; for tops with a heatmap.
    """
    surgery = {"name": "add_top", "top": top} | ({"heatmap": cells} if top and parse_top(top).heatmap else {})
    arguments = {
        "backbone": settings.backbone,
        "input_shape": [*settings.input_size, 1],
        "classes": 2,
        "surgery": [surgery] if top else [],
        "mean": mean,
    }
    return {"builder": "classifier", "arguments": arguments}


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.1.2: training


def fit(model, schedule, train, validation, folder, seed, verbose):
    """One network through its stages, with the paper's augmentation."""
    augmentation = mammogram_augmentation(seed=1000 * seed)
    return fit_stages(model, schedule, train, validation, folder, augmentation=augmentation, verbose=verbose)


def train_patch_classifier(patches, settings, build, folder, verbose=1):
    """Step one: the classifier of patches, in float32 with the best epoch's weights."""
    # Keras draws the seeds of its initialisers from here; its own `set_random_seed` imports TensorFlow on any backend.
    random.seed(settings.seed)
    with precision(settings.precision):
        model = builders.build(build, weights="imagenet" if settings.start == "imagenet" else None)
    seed = settings.seed
    fit(model, patch_stages(settings), patches.training(seed), patches.batches("validation"), folder, seed, verbose)
    return builders.exact_copy(model, build)


def train_whole_image(images, settings, build, top, patch_model, folder, verbose=1):
    """Step two: top layers on the trunk of the patch classifier, or of ImageNet where `patch_model` is None."""
    random.seed(settings.seed)
    with precision(settings.precision):
        model = builders.build(build, weights=None if patch_model is not None else "imagenet")
    if patch_model is not None:
        model.set_weights(to_whole_image(patch_model, top, (*settings.input_size, 1)).get_weights())
    schedule, seed = whole_image_stages(settings, top), settings.seed
    fit(model, schedule, images.training(seed), images.batches("validation"), folder, seed, verbose)
    return builders.exact_copy(model, build)


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.1.4: scores, augmented prediction, the two-step approach


def score(images, model, flips):
    """Probabilities of the positive class for the validation and the test part, each the mean over some flips.

    Args:
        images: `Images`.
        model: whole-image network.
        flips: arguments of `analysis.flip_images`: one for the image as it is, four for augmented prediction.

    Returns:
        DataFrame with what predictions keep of the table (`recipes.reporting.KEPT`), and `score`.
    """
    tables = []
    for part in ("validation", "test"):
        scores = [predict(model, images.batches(part, flip))[:, 0] for flip in flips]
        tables.append(kept_columns(images.table, images.indices[part]).assign(score=np.mean(scores, axis=0)))
    return pd.concat(tables, ignore_index=True)


def write_scores(images, model, settings, folder):
    """Writes `predictions.csv` and, for four flips, `predictions-augmented.csv`, unless they are there."""
    for name, flips in (
        ("predictions.csv", analysis.FOUR_FLIPS[:1]),
        ("predictions-augmented.csv", analysis.FOUR_FLIPS),
    ):
        if len(flips) <= settings.flips and not (folder / name).is_file():
            write_table(folder / name, score(images, model, flips))


def score_patches(patches, model):
    """Predictions of the test part's patches: their table with a column of probabilities for each class."""
    columns = pd.DataFrame(predict(model, patches.batches("test")), columns=PATCH_CLASSES)
    return pd.concat([patches.table.iloc[patches.indices["test"]].reset_index(drop=True), columns], axis=1)


def heatmaps(images, part, patch_model):
    """The patch classifier's probabilities over the images of a part: (n, u, v, classes)."""
    return predict(patch_heatmap(patch_model, (*images.settings.input_size, 1)), images.batches(part))


def score_two_step(images, patch_model, settings):
    """Scores of the two-step approach, as `score` gives them: of a forest on the features of the heatmap's regions,
    trained on the training part."""
    found = {}
    for part in images.indices:
        found[part], _ = analysis.regional_features(heatmaps(images, part, patch_model))
    forest = analysis.two_step_classifier(settings.seed)
    forest.fit(found["train"], images.labels[images.indices["train"]])
    tables = []
    for part in ("validation", "test"):
        rows = kept_columns(images.table, images.indices[part])
        tables.append(rows.assign(score=forest.predict_proba(found[part])[:, 1]))
    return pd.concat(tables, ignore_index=True)


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.2.2: transfer to a second dataset with a growing number of women


def growing_subsets(table, rows, numbers):
    """Nested subsets of the training subjects: of each number asked for that there is, and of all.

    Subjects with a positive image are spread evenly among the others, so that each subset has its share of them.

    Args:
        table: image table.
        rows: positions of the training images.
        numbers: of subjects.

    Returns:
        mapping of number of subjects to positions of their images.

    Raises:
        ValueError: when a subset is of one class.
    """
    part = table.iloc[rows]
    positive = (part["label"] == table.attrs["classes"][-1]).groupby(part["subject"]).any()
    order = []
    for value in (False, True):
        # The order of the names is as good as random, and no seed can be chosen for its result.
        subjects = sorted(positive.index[positive == value], key=lambda name: hashlib.sha256(name.encode()).digest())
        order += [((index + 0.5) / len(subjects), name) for index, name in enumerate(subjects)]
    order = [name for _, name in sorted(order)]
    sizes = [*sorted(number for number in numbers if number < len(order)), len(order)]
    subsets = {size: rows[part["subject"].isin(order[:size]).to_numpy()] for size in sizes}
    for size, found in subsets.items():
        if table["label"].iloc[found].nunique() < 2:
            raise ValueError(
                f"transfer_subjects: received {size}, whose images are of one class, expected more subjects"
            )
    return subsets


def train_transfer(images, settings, protocol, build, model, rows, folder, verbose=1):
    """A whole-image classifier fine-tuned on some images of the second dataset."""
    random.seed(settings.seed)
    with precision(settings.precision):
        tuned = builders.build(build, weights=None)
    tuned.set_weights(model.get_weights())
    train = images.training(settings.seed, rows)
    validation = images.batches("test" if protocol == "published" else "validation")
    fit(tuned, transfer_stages(settings), train, validation, folder, settings.seed, verbose)
    return builders.exact_copy(tuned, build)


def transfer_rows(images, protocol):
    """Positions of the images that may be trained on in a transfer."""
    parts = ("train", "validation") if protocol == "published" else ("train",)
    return np.sort(np.concatenate([images.indices[part] for part in parts]))


# ---------------------------------------------------------------------------------------------------------------------
# The run


@dataclass(frozen=True)
class Row:
    """One trained network: a row of a table.

    Attributes:
        method: from `METHODS`.
        backbone: its name.
        start: `"imagenet"` or `"random"` weights of the backbone.
        patch_set: of its patch classifier, None without one.
        top: name of its top layers, None without.
    """

    method: str
    backbone: str
    start: str
    patch_set: str | None = None
    top: str | None = None

    @property
    def name(self):
        """Of its folder, and in the report."""
        start = None if self.start == "imagenet" else self.start
        return "-".join(part for part in (self.method, self.patch_set, start, self.backbone, self.top) if part)


def make_rows(methods, settings, tops):
    """The rows that a command asks for; the patch classifier comes before what begins with it.

    Raises:
        ValueError: for options that none of the methods has.
    """
    if tops and not {"whole-image", "imagenet-start"} & set(methods):
        raise ValueError(f"top: received {tops[0]!r}, expected none: {', '.join(methods)} has no top layers")
    if settings.start == "random" and {"imagenet-start", "fine-tuning"} & set(methods):
        raise ValueError(
            "start: received 'random' with a method that begins with ImageNet's weights, expected imagenet"
        )
    tops, rows = tops or (BEST_TOPS["vgg"],), []
    common = {"backbone": settings.backbone, "start": settings.start}
    for method in METHODS:
        if method not in methods:
            continue
        if method in ("patch-classifier", "two-step"):
            rows.append(Row(method, **common, patch_set=settings.patch_set))
        elif method == "fine-tuning":
            rows.append(Row(method, **common))
        else:
            patch_set = settings.patch_set if method == "whole-image" else None
            rows += [Row(method, **common, patch_set=patch_set, top=top) for top in tops]
    return rows


def run(
    data,
    out,
    dataset="cbis_ddsm",
    profile="paper",
    protocol="published",
    methods=(),
    backbone=None,
    overrides=(),
    top=(),
    patch_dataset=None,
    patch_data=None,
    transfer_dataset=None,
    transfer_data=None,
    verbose=1,
):
    """Trains and measures rows of tables 1 to 4, and writes a report of all rows in the folder.

    Args:
        data: folder of the dataset of whole images.
        out: folder of the run; one that was interrupted goes on where it was, and other rows are added.
        dataset: name of a reader.
        profile: `"paper"` or `"quick"`.
        protocol: `"published"` or `"sound"`, see above.
        methods: names from `METHODS`; none for the patch classifier and the whole image that begins with it.
        backbone: name of a backbone in place of the profile's.
        overrides: `key=value` strings on `Settings`.
        top: names of top layers (`layers.TOPS`, `layers.parse_top`); none for `vgg-256x1-128x1`.
        patch_dataset, patch_data: reader and folder of the annotated dataset that patches come from; by default the
            dataset of whole images.
        transfer_dataset, transfer_data: reader and folder of the dataset to move the whole-image networks to.
        verbose: 1 for a progress bar, 2 for a line an epoch, 0 for neither.

    Returns:
        DataFrame, the report's table.

    Raises:
        ValueError, FileNotFoundError: for data, names or options that do not fit, before anything trains.
    """
    chosen = parse_settings(PROFILES, profile, overrides)
    if backbone is not None:
        chosen = replace(chosen, backbone=backbone)
    require("backbone", chosen.backbone, UNFROZEN)
    methods = tuple(methods) or ("patch-classifier", "whole-image")
    for name in methods:
        require("method", name, METHODS)
    require("protocol", protocol, PROTOCOLS)
    tops = tuple(top)
    for name in tops:
        parse_top(name)
    rows = make_rows(methods, chosen, tops)
    sources = {dataset: data}
    for kind, reader, folder in (
        ("patch", patch_dataset, patch_data),
        ("transfer", transfer_dataset, transfer_data),
    ):
        if (reader is None) != (folder is None):
            raise ValueError(f"{kind}_dataset {reader!r} with {kind}_data {folder!r}: expected both or neither")
        if reader == dataset:
            raise ValueError(
                f"{kind}_dataset: received {reader!r}, the dataset of whole images, expected another or none"
            )
        if reader is not None and str(sources.setdefault(reader, folder)) != str(folder):
            raise ValueError(f"{kind}_data: received {folder}, expected {sources[reader]} as for patch_data")
    moved = [row for row in rows if transfer_dataset and row.method in NETWORKS]
    if transfer_dataset and not moved:
        raise ValueError(f"transfer_dataset: received {transfer_dataset!r}, but {', '.join(methods)} cannot be moved")
    # All lists are read before any image is decoded, so that a wrong name is told at once.
    tables = {reader: read_table(reader, folder, protocol) for reader, folder in sources.items()}
    # Other datasets are divided alike whatever they are for, so that nobody's patches train what she is tested by.
    shares = {reader: chosen.test_share if reader == dataset else chosen.transfer_test_share for reader in tables}
    images = {reader: Images(table, chosen, protocol, shares[reader]) for reader, table in tables.items()}
    command = command_text("all_conv", profile, protocol, datasets.source(dataset).folder, backbone, overrides, dataset)
    context = Context(images, chosen, dataset, protocol, command, patch_dataset, transfer_dataset, Path(out))
    context.check(rows)  # before anything trains

    shared = ("input_size", "fit", "intensity", "test_share", "validation_share", "seed")
    settings = {key: value for key, value in asdict(chosen).items() if key in shared}
    open_run(out, {"recipe": "all_conv", "dataset": dataset, "protocol": protocol, "settings": settings})
    for reader, each in images.items():
        listed = each.table.drop(columns="regions", errors="ignore").assign(sha256=each.stored.sha256)
        write_split(context.out / split_file(reader, dataset), listed)
    for row in rows:
        finish_row(context, row, verbose)
        if row in moved:
            finish_transfer(context, row, verbose)
    return report(context)


# What can be moved to another dataset.
NETWORKS = ("whole-image", "imagenet-start", "fine-tuning")


def split_file(reader, dataset):
    """Name of the file that says who is in which part of a dataset."""
    return "split.csv" if reader == dataset else f"split-{reader}.csv"


class Context:
    """What a run's rows share.

    Attributes:
        by_name: `Images` of each dataset by its reader's name.
        images: those of the dataset of whole images, whose mean grey value `mean` all networks subtract.
        annotated: name of the dataset that patches come from.
    """

    def __init__(self, by_name, settings, dataset, protocol, command, patch_dataset, transfer_dataset, out):
        self.by_name, self.settings = by_name, settings
        self.dataset, self.protocol, self.command = dataset, protocol, command
        self.patch_dataset, self.transfer_dataset, self.out = patch_dataset, transfer_dataset, out
        self.annotated = patch_dataset or dataset
        self.images = by_name[dataset]
        self.mean = self.images.mean_grey()

    @property
    def patch_file(self):
        """Where the sampled patches lie."""
        return self.out / f"patches-{self.annotated}-{self.settings.patch_set}-{self.settings.patch_size}.csv"

    @functools.cached_property
    def patches(self):
        """Patches of the annotated dataset."""
        return Patches(self.by_name[self.annotated], self.settings, self.patch_file)

    def check(self, rows):
        """Refuses what cannot be sampled or built."""
        if any(row.patch_set for row in rows):
            if "regions" not in self.by_name[self.annotated].table:
                raise ValueError(
                    f"dataset {self.annotated}: has no annotated lesions, expected another in patch_dataset, or the "
                    "methods imagenet-start and fine-tuning"
                )
            _ = self.patches
        for row in rows:
            if row.method == "two-step":
                analysis.regional_features(np.zeros((1, 2, 2, len(PATCH_CLASSES))))  # needs a package of its own
            if not row.top:
                continue
            heatmap = None
            if parse_top(row.top).heatmap:
                if not row.patch_set:
                    raise ValueError(f"top {row.top!r}: its heatmap is a patch classifier's, {row.method} has none")
                heatmap = describe_heatmap(builders.build(patch_description(self.settings, self.mean)))
            builders.build(whole_image_description(self.settings, self.mean, row.top, heatmap))
        if self.transfer_dataset:
            self.subsets()

    def subsets(self):
        """The training images of the second dataset by number of subjects, as `growing_subsets`."""
        images = self.by_name[self.transfer_dataset]
        return growing_subsets(images.table, transfer_rows(images, self.protocol), self.settings.transfer_subjects)

    def seen_patches_of(self, reader):
        """Number of subjects of a dataset whose lesions trained a patch classifier, for rows that begin with one."""
        if reader != self.annotated:
            return 0
        table = self.by_name[reader].table
        return int(table.loc[table["split"] != "test", "subject"].nunique())

    def command_of(self, row, transfer=False):
        """The command that trains a row again."""
        words = f"{self.command} --method {row.method}" + (f" --top {row.top}" if row.top else "")
        for kind, reader in (("patch", self.patch_dataset), ("transfer", self.transfer_dataset)):
            if reader and (row.patch_set if kind == "patch" else transfer):
                words += f" --{kind}-dataset {reader} --{kind}-data {datasets.source(reader).folder}"
        return words


def open_row(context, row):
    """Makes or opens the folder of a row; refuses one that was trained by other settings."""
    settings = asdict(context.settings)
    used = ["precision"]
    if row.patch_set:
        used += [key for key in settings if key.startswith("patch_")]
    if row.method in NETWORKS:
        used += ["epochs", "learning_rates", "weight_decays", "batch_size"]
    kept = {key: settings[key] for key in used}
    configuration = {"row": asdict(row), "patches": context.annotated if row.patch_set else None, "settings": kept}
    return open_run(context.out / row.name, configuration)


def load_patch_classifier(context, row, verbose):
    """The patch classifier that a row begins with, trained if need be."""
    patch_row = replace(row, method="patch-classifier", top=None)
    finish_row(context, patch_row, verbose)
    return zoo.load(context.out / patch_row.name / "model")


def finish_row(context, row, verbose):
    """Trains, scores and saves one row; what is finished is left alone."""
    folder, chosen, images = open_row(context, row), context.settings, context.images
    saved = (folder / "model" / "card.json").is_file()
    if row.method == "two-step":
        if not (folder / "predictions.csv").is_file():
            patch_model = load_patch_classifier(context, row, verbose)
            write_table(folder / "predictions.csv", score_two_step(images, patch_model, chosen))
    elif row.method == "patch-classifier":
        if not saved:
            print(f"{row.name}: training", flush=True)
            write_table(context.patch_file, context.patches.table)
            build = patch_description(chosen, context.mean)
            model = train_patch_classifier(context.patches, chosen, build, folder, verbose)
            write_table(folder / "predictions.csv", score_patches(context.patches, model))
            write_pictures(context, model, folder)
            zoo.save_checkpoint(model, folder / "model", patch_card(context, row, build, folder))
    elif saved:
        write_scores(images, zoo.load(folder / "model"), chosen, folder)
    else:
        patch_model = load_patch_classifier(context, row, verbose) if row.patch_set else None
        print(f"{row.name}: training", flush=True)
        heatmap = describe_heatmap(patch_model) if row.top and parse_top(row.top).heatmap else None
        build = whole_image_description(chosen, context.mean, row.top, heatmap)
        model = train_whole_image(images, chosen, build, row.top, patch_model, folder, verbose)
        write_scores(images, model, chosen, folder)
        zoo.save_checkpoint(model, folder / "model", whole_image_card(context, row, build, folder))


def finish_transfer(context, row, verbose):
    """Moves one whole-image network to the second dataset, with a growing number of its subjects."""
    reader, chosen = context.transfer_dataset, context.settings
    images, before = context.by_name[reader], context.out / row.name / "model"
    model, build = zoo.load(before), zoo.card(before).build
    used = ("transfer_epochs", "transfer_learning_rate", "transfer_weight_decay", "batch_size", "precision")
    settings = {key: getattr(chosen, key) for key in used}
    subsets = context.subsets()
    for number, rows in {0: np.zeros(0, int), **subsets}.items():
        folder = context.out / f"transfer-{reader}" / row.name / f"subjects-{number}"
        facts = {"dataset": reader, "positive": images.positive, "subjects": number, "images": len(rows)}
        facts |= {
            "all": number == max(subsets),
            "patch_subjects": context.seen_patches_of(reader) * bool(row.patch_set),
        }
        open_run(folder, {"row": asdict(row), **facts, "settings": settings})
        if number == 0:
            write_scores(images, model, chosen, folder)
        elif not (folder / "model" / "card.json").is_file():
            print(f"{row.name}: {reader}, {number} subjects, {len(rows)} images", flush=True)
            tuned = train_transfer(images, chosen, context.protocol, build, model, rows, folder, verbose)
            write_scores(images, tuned, chosen, folder)
            zoo.save_checkpoint(tuned, folder / "model", transfer_card(context, row, build, folder, rows))
        else:
            write_scores(images, zoo.load(folder / "model"), chosen, folder)


# ---------------------------------------------------------------------------------------------------------------------
# Cards


def patch_card(context, row, build, folder):
    """What the card of a patch classifier says."""
    source, patches, chosen = datasets.source(context.annotated), context.patches, context.settings
    rows = read_predictions(folder / "predictions.csv")
    height, width = chosen.input_size
    table = patches.images.table
    annotated = table[table["image"].isin(patches.table["image"])]
    fields = common_card(context, row, build, context.annotated, annotated, {"test": patch_metrics(rows)})
    return fields | {
        "name": f"allconv-{row.backbone}-{context.annotated.replace('_', '-')}-patches",
        "summary": f"Patch classifier ({row.patch_set}) on {source.folder}: background, masses and calcifications, "
        "benign or malignant",
        "classes": list(PATCH_CLASSES),
        "limitations": [
            f"Takes windows of {chosen.patch_size} pixels of mammograms of {height} x {width}, not whole images; "
            "`layers.patch_heatmap` slides it over one.",
            f"Trained and measured on {len(patches.table)} patches of {len(annotated)} images; "
            f"{largest_class(rows):.3f} of the test part's are of one class.",
            *fields["limitations"],
        ],
    }


def whole_image_card(context, row, build, folder):
    """What the card of a whole-image network says."""
    source, table = datasets.source(context.dataset), context.images.table
    areas = {part: read_areas(folder, part, context.images.positive) for part in ("validation", "test")}
    seen = [context.annotated] if row.patch_set else []
    fields = common_card(context, row, build, context.dataset, table, areas, seen)
    began = f"a patch classifier ({row.patch_set}) on {context.annotated}" if row.patch_set else "ImageNet's weights"
    return fields | {
        "name": f"allconv-{row.backbone}-{context.dataset.replace('_', '-')}",
        "summary": f"{row.backbone}{f' with {row.top}' if row.top else ''} on {source.folder}, begun from {began}: "
        f"{table.attrs['classes'][1]} against {table.attrs['classes'][0]}",
        "classes": table.attrs["classes"],
    }


def transfer_card(context, row, build, folder, rows):
    """What the card of a network says that was moved to the second dataset and trained on `rows` of it."""
    reader, published = context.transfer_dataset, context.protocol == "published"
    source, images = datasets.source(reader), context.by_name[reader]
    table = images.table.assign(split=images.table["split"].where(images.table["split"] != "train", "left"))
    table.loc[table.index[rows], "split"] = "train"
    table = table[table["split"] != "left"]
    areas = {"test": read_areas(folder, "test", images.positive)}
    seen = [*([context.annotated] if row.patch_set else []), context.dataset]
    fields = common_card(context, row, build, reader, table, areas, seen, transfer=True)
    women = table.loc[table["split"] == "train", "subject"].nunique()
    patches = context.seen_patches_of(reader) if row.patch_set else 0
    return fields | {
        "name": f"allconv-{row.backbone}-{reader.replace('_', '-')}",
        "summary": f"{row.backbone}{f' with {row.top}' if row.top else ''}, from {context.dataset} to {source.folder} "
        f"with {women} women: {table.attrs['classes'][1]} against {table.attrs['classes'][0]}",
        "classes": table.attrs["classes"],
        "limitations": [
            f"Trained on {women} women of the training part.",
            *(["The epoch was chosen on the test images, whose metrics it flatters."] if published else []),
            *([f"The patches that it began with are of {patches} women of the same dataset."] if patches else []),
            *fields["limitations"],
        ],
    }


def common_card(context, row, build, reader, table, metrics, seen=(), transfer=False):
    """The fields that all cards of this recipe have.

    Args:
        context, row: of the run.
        build: how the network is built.
        reader: name of the dataset that it was trained on last.
        table: of its images, with the column `split`.
        metrics: mapping of part to mapping of name to `analysis.Interval`.
        seen: names of the datasets that its weights were trained on before.
        transfer: whether it was moved to a second dataset.
    """
    source, command = datasets.source(reader), context.command_of(row, transfer)
    weights = backbones.imagenet_file(row.backbone) if row.start == "imagenet" else None
    others = [datasets.source(name) for name in dict.fromkeys(seen) if name != reader]
    left_out = context.by_name[reader].left_out
    excluded = [EXCLUDED.get((reader, context.protocol)), f"{left_out} unreadable files" if left_out else None]
    initial = f"Began with the ImageNet weights in {weights.name}, sha256 {file_sha256(weights)}." if weights else None
    return {
        "version": 1,
        "modality": source.modality,
        "task": "classification",
        "recipe": {"name": "all_conv", "command": command, "paper": "Shen and others, arXiv:1708.09427"},
        "build": build,
        "input": {
            "shape": build["arguments"]["input_shape"],
            "range": [0, 255],
            "resize": FITS[context.settings.fit],
            "crop": 1.0,
            "dicom": context.settings.intensity,
        },
        "data": {
            "dataset": source.title,
            "licence": source.licence,
            "url": source.url,
            **card_data(table),
            "excluded": "; ".join(text for text in excluded if text) or "nothing",
        },
        "metrics": [
            metric
            for part, values in metrics.items()
            for metric in card_metrics(values, part, context.protocol, command)
        ],
        "licence": "; ".join(
            [
                f"as the training data: {source.licence}",
                *[f"trained before on {other.title}: {other.licence}" for other in others],
                *([f"backbone weights {backbones.record(row.backbone).imagenet.licence}"] if weights else []),
            ]
        ),
        "limitations": [
            "One training; another gives another number within and beyond the interval.",
            *(
                ["The epoch was chosen on the validation part, whose metrics it flatters."]
                if "validation" in metrics
                else []
            ),
            *[f"Trained before on {other.title}." for other in others],
            *source.limitations,
            *table_limitation(table),
            *leak_limitation(table),
            *([initial] if initial else []),
            "For research, not for diagnosis.",
        ],
    }


# ---------------------------------------------------------------------------------------------------------------------
# Tables 1 to 4, figures 2 and 3


def patch_metrics(rows):
    """What a patch classifier reaches on its test part's patches.

    Returns:
        mapping of name to `analysis.Interval`: `accuracy` over the five classes, which is to be held against the share
        of the largest (`largest_class`); and what it hides: `auc lesion`, any lesion against background, and
        `auc malignant`, malignant against benign lesions.
    """
    probabilities = rows[list(PATCH_CLASSES)].astype(float)
    labels = datasets.encode_labels(rows, PATCH_CLASSES)
    subjects, lesion = rows["subject"].to_numpy(), labels != 0
    malignant = probabilities.filter(like="malignant").sum(axis=1).to_numpy()
    among = rows["label"].str.startswith("malignant").to_numpy()[lesion].astype(int)
    return {
        "accuracy": analysis.accuracy(labels, probabilities.to_numpy().argmax(axis=1), subjects),
        "auc lesion": analysis.auc(lesion.astype(int), 1 - probabilities["background"].to_numpy(), subjects),
        "auc malignant": analysis.auc(among, malignant[lesion], subjects[lesion]),
    }


def largest_class(rows):
    """Share of the most frequent class of patches, a float."""
    return float(rows["label"].value_counts(normalize=True).iloc[0])


def read_scores(folder, name, part):
    """Predictions of a part with `positive` (0 or 1), or None where there is no such file."""
    if not (folder / name).is_file():
        return None
    rows = read_predictions(folder / name)
    rows = rows[rows["split"] == part]
    return rows.assign(score=rows["score"].astype(float))


def area(rows, positive):
    """AUC of predictions with an interval by subject, an `analysis.Interval`."""
    labels = (rows["label"] == positive).astype(int).to_numpy()
    return analysis.auc(labels, rows["score"].to_numpy(), rows["subject"].to_numpy())


FILES = {"auc": "predictions.csv", "auc (4 flips)": "predictions-augmented.csv"}


def read_areas(folder, part, positive):
    """AUCs of a row by name of the metric."""
    found = {name: read_scores(folder, file, part) for name, file in FILES.items()}
    return {name: area(rows, positive) for name, rows in found.items() if rows is not None}


def finished_rows(out):
    """`Row` to its folder, of all rows in a run's folder that have predictions."""
    files = sorted(out.glob("*/predictions.csv"))
    return {Row(**read_json(file.with_name("configuration.json"))["row"]): file.parent for file in files}


def report(context):
    """Writes `report.md`, `results.csv` and the figures for the rows finished so far, and returns the table."""
    rows, positive = finished_rows(context.out), context.images.positive
    patch_rows = {row: folder for row, folder in rows.items() if row.method == "patch-classifier"}
    networks = {row: folder for row, folder in rows.items() if row.method != "patch-classifier"}
    averaged = average_of(networks)
    results = [result for row, folder in patch_rows.items() for result in patch_results(row, folder)]
    for row, folder in networks.items():
        source = read_json(folder / "configuration.json")["patches"]
        paper = context.dataset == "cbis_ddsm" and source in (None, "cbis_ddsm")
        known = dict(zip(FILES, published(row), strict=True)) if paper else {}
        for name, found in read_areas(folder, "test", positive).items():
            results.append(result_of(row, context.dataset, name, found, known.get(name)))
    if averaged:
        name, scores = averaged_scores(averaged, "test")
        paper = context.dataset == "cbis_ddsm" and set(averaged) == FOUR_ROWS
        known = ENSEMBLE["cbis_ddsm"] if paper else None
        results.append(result_of(average_row(averaged), context.dataset, name, area(scores, positive), known))
    transferred = read_transfers(context.out)
    results = pd.concat([pd.DataFrame(results), transferred], ignore_index=True)
    write_table(context.out / "results.csv", results)

    lines = heading(context, rows)
    one = results[results["method"] == "patch-classifier"]
    lines += table_lines("Table 1: patch classifiers on the patches of the test part", one)
    for row, folder in patch_rows.items():
        share = largest_class(read_predictions(folder / "predictions.csv"))
        lines += ["", f"{row.name}: {share:.3f} of these patches are of one class, an accuracy without looking."]
    whole = results[(results["method"] != "patch-classifier") & results["subjects"].isna()]
    lines += table_lines("Tables 2 and 3: AUC of whole-image classifiers on the test part", whole)
    lines += difference_lines(networks, positive)
    lines += operating_lines(averaged, positive)
    lines += table_lines("Table 4: AUC after transfer, by number of women trained with", transferred)
    lines += transfer_notes(context, transferred)
    titled = {row.name: read_scores(folder, "predictions.csv", "test") for row, folder in networks.items()}
    lines += shortcut_lines(context.images.table, titled)
    figures(networks, averaged, transferred, context.out, positive)
    pictures = sorted(file.relative_to(context.out).as_posix() for file in context.out.rglob("*.png"))
    lines += ["", f"Figures: {', '.join(f'`{name}`' for name in pictures)}.", ""]
    with atomic(context.out / "report.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    return results


def result_of(row, data, metric, found, paper):
    """A row of `results.csv`: `found` is an `analysis.Interval`."""
    return asdict(row) | {"data": data, "metric": metric, "paper": paper} | found._asdict()


def patch_results(row, folder):
    """Rows of `results.csv` for a patch classifier."""
    data = read_json(folder / "configuration.json")["patches"]
    known = TABLE_1.get((row.backbone, row.start, row.patch_set)) if data == "cbis_ddsm" else None
    found = patch_metrics(read_predictions(folder / "predictions.csv"))
    return [result_of(row, data, name, each, known if name == "accuracy" else None) for name, each in found.items()]


def published(row):
    """The paper's AUC and AUC of augmented prediction; None where it has none."""
    if row.method == "two-step":
        return TWO_STEP.get((row.backbone, row.patch_set)), None
    found = row.method == "whole-image" and row.start == "imagenet"
    return TABLES_2_AND_3.get((row.backbone, row.patch_set, row.top), (None, None)) if found else (None, None)


FOUR_ROWS = {Row("whole-image", backbone, "imagenet", "S10", top) for backbone, top in BEST_FOUR}


def average_of(networks):
    """The networks whose scores are averaged: those of the paper's four that are there, else all that begin with
    patches; none where it is a single one."""
    found = {row: folder for row, folder in networks.items() if row in FOUR_ROWS}
    if len(found) < 2:
        found = {row: folder for row, folder in networks.items() if row.method == "whole-image"}
    return found if len(found) > 1 else {}


def average_row(networks):
    """What stands for an average in a table."""
    return Row(f"average of {len(networks)}", None, None)


def averaged_scores(networks, part):
    """Mean of the networks' scores, with augmented prediction where all have it, and the name of that metric."""
    name = next(name for name, file in reversed(FILES.items()) if all((f / file).is_file() for f in networks.values()))
    rows = [read_scores(folder, FILES[name], part) for folder in networks.values()]
    return name, rows[0].assign(score=np.mean([each["score"] for each in rows], axis=0))


# What a result says of a transfer: numbers of women and images trained with, and of women whose patches were before.
KEPT_FACTS = ("subjects", "images", "patch_subjects")


def read_transfers(out):
    """Results of the transfers to other datasets and of their averages, with the paper's beside them."""
    results, groups = [], {}
    for folder in sorted(out.glob("transfer-*/*/subjects-*"), key=lambda path: int(path.name.split("-")[-1])):
        if not (folder / "predictions.csv").is_file():
            continue
        facts = read_json(folder / "configuration.json")
        row, kept = Row(**facts["row"]), {key: facts[key] for key in KEPT_FACTS}
        women = 72 if facts["all"] else facts["subjects"]
        known = dict(zip(BEST_FOUR, TABLE_4[women], strict=True)) if women in TABLE_4 else {}
        paper = known.get((row.backbone, row.top)) if facts["dataset"] == "inbreast" and row in FOUR_ROWS else None
        for name, found in read_areas(folder, "test", facts["positive"]).items():
            results.append(result_of(row, facts["dataset"], name, found, paper if name == "auc" else None) | kept)
        groups.setdefault((facts["dataset"], facts["subjects"]), {})[row] = folder, facts
    for (reader, _), members in groups.items():
        if averaged := average_of({row: folder for row, (folder, _) in members.items()}):
            name, scores = averaged_scores(averaged, "test")
            _, facts = next(iter(members.values()))
            known = ENSEMBLE.get(reader) if facts["all"] and set(averaged) == FOUR_ROWS else None
            found = result_of(average_row(averaged), reader, name, area(scores, facts["positive"]), known)
            results.append(found | {key: facts[key] for key in KEPT_FACTS})
    columns = [*Row.__annotations__, "data", "metric", "paper", "value", "low", "high", "n", *KEPT_FACTS]
    return pd.DataFrame(results, columns=columns)


def heading(context, rows):
    """What the report is of."""
    lines = [
        f"# All-convolutional classifiers on {datasets.source(context.dataset).folder}, {context.protocol} protocol",
        "",
        *[f"    {context.command_of(row, transfer=row.method in NETWORKS)}" for row in rows],
        "",
        f"{machine()}. Annotated lesions: {context.annotated}.",
        "",
    ]
    for reader, images in context.by_name.items():
        table = images.table
        sizes, women = table["split"].value_counts(), table.groupby("split")["subject"].nunique()
        counts = ", ".join(f"{sizes[part]} images of {women[part]} women" for part in PARTS)
        leaking, n = leaked(table)
        left_out = f" {images.left_out} files could not be read and are left out." if images.left_out else ""
        lines.append(
            f"- {reader}: training, validation and test: {counts}. Subjects: "
            f"{SUBJECT_SOURCES[table.attrs['subjects']]} {leaking} of the {n} test images are of subjects in another "
            f"part.{left_out}"
        )
    lines += [
        "",
        "Intervals are 95 %, of a bootstrap by woman or DeLong's; they do not hold the spread between trainings, of "
        "which each row is one. Differences are paired on the same images, their p not corrected for their number.",
    ]
    if context.dataset == "cbis_ddsm":
        lines += [
            "",
            "On the official test part the models that the authors released were measured at 0.69 to 0.75; the paper's "
            "numbers are of a random split of its own (`--protocol published`).",
        ]
    return lines


def row_of(record):
    """The `Row` that a result belongs to."""
    return Row(**{key: None if pd.isna(record[key]) else record[key] for key in Row.__annotations__})


def table_lines(title, results):
    """A table of the report."""
    if results.empty:
        return []
    growing = bool(results["subjects"].notna().any())
    lines = ["", f"## {title}", "", f"| network | {'women | images | ' if growing else ''}metric | value | n | paper |"]
    lines.append("|---|---|---|---|---|" + "---|---|" * growing)
    for record in results.to_dict("records"):
        size = [int(record["subjects"]), int(record["images"])] if growing else []
        paper = "" if pd.isna(record["paper"]) else f"{record['paper']:.2f}"
        value = interval_text("auc", {"auc": record["value"], "auc_low": record["low"], "auc_high": record["high"]})
        lines.append(table_row(row_of(record).name, *size, record["metric"], value, int(record["n"]), paper))
    return lines


def difference_lines(networks, positive):
    """What each method is worth against the others of the same backbone: paired differences of the AUC."""
    lines, order = [], list(METHODS)
    listed = sorted(networks, key=lambda row: order.index(row.method))
    scores = {row: read_scores(folder, "predictions.csv", "test") for row, folder in networks.items()}
    for index, first in enumerate(listed):
        for second in listed[index + 1 :]:
            if first.method == second.method or first.backbone != second.backbone:
                continue
            one, other = scores[first], scores[second]
            labels = (one["label"] == positive).astype(int).to_numpy()
            arguments = labels, one["score"].to_numpy(), other["score"].to_numpy(), one["subject"].to_numpy()
            found = analysis.compare_means(*arguments)
            names = f"{first.name} - {second.name}"
            lines.append(table_row(names, difference_text(found._asdict()), f"{found.p_value:.2g}"))
    if not lines:
        return []
    title = "Differences of the AUCs, in points of 0.01:"
    return ["", title, "", "| | difference (95 % interval) | p |", "|---|---|---|", *lines]


def operating_lines(averaged, positive):
    """Section 3.1.4: sensitivity and specificity of the average, at a threshold of the validation part."""
    if not averaged:
        return []
    parts = {part: averaged_scores(averaged, part)[1] for part in ("validation", "test")}
    labels = {part: (rows["label"] == positive).astype(int).to_numpy() for part, rows in parts.items()}
    point = analysis.operating_point(labels["validation"], parts["validation"]["score"].to_numpy())
    test = parts["test"]
    arguments = labels["test"], test["score"].to_numpy(), point.threshold, test["subject"].to_numpy()
    sensitivity, specificity = analysis.rates_at(*arguments)
    return [
        "",
        f"The average of {len(averaged)} networks, at the threshold of the validation part's ROC point nearest the "
        f"corner: sensitivity {as_text(sensitivity)}, specificity {as_text(specificity)} (the paper's four: "
        "0.861 and 0.801, it does not say at which point).",
    ]


def transfer_notes(context, transferred):
    """What has to be said beside table 4."""
    notes = []
    if len(transferred) and context.protocol == "published":
        notes += ["", "The epoch was chosen on the images that are reported, as in the paper: it flatters."]
    for (reader, women), rows in transferred.groupby(["data", "patch_subjects"]):
        if women:
            notes += [
                "",
                f"Before they were moved, {', '.join(sorted({row_of(row).name for row in rows.to_dict('records')}))} "
                f"had seen annotated lesions of up to {women} women of {reader}, none of its test part: the numbers of "
                "women count image labels alone.",
            ]
    return notes


def write_pictures(context, model, folder):
    """Pictures for the eye: patches over their mammograms, and the heatmap of every class over mammograms of the
    annotated dataset's test part."""
    patches = context.patches
    images = patches.images
    figure = analysis.patch_figure(images.table, images.stored, patches.table, context.settings.patch_size)
    write_figure(folder / "patches.png", figure)
    test = patches.table[patches.table["split"] == "test"]
    shown = list(dict.fromkeys(test.groupby("label")["row"].min()))
    network = patch_heatmap(model, (*context.settings.input_size, 1))
    pixels = images.stored.read(shown)
    found = network.predict_on_batch(pixels.astype("float32"))
    for number, (row, image, heatmap) in enumerate(zip(shown, pixels, found, strict=True), start=1):
        name = images.table["image"].iloc[row]
        regions = images.table["regions"].iloc[row]
        title = f"{name}: {', '.join(region.label for region in regions)}"
        figure = analysis.patch_heatmap_figure(image, heatmap, PATCH_CLASSES, title)
        write_figure(folder / f"heatmap-{number}.png", figure)


def figures(networks, averaged, transferred, out, positive):
    """Figure 2, loss curves; figure 3, ROC curves on the test part; table 4 as curves."""
    histories = {
        row.name: pd.concat([pd.read_csv(file) for file in sorted(folder.glob("stage-*/history.csv"))]).to_dict(
            "records"
        )
        for row, folder in networks.items()
        if row.method != "two-step"
    }
    if histories:
        write_figure(out / "figure-2-loss.png", analysis.history_figure(histories))
    titled = {row.name: read_scores(folder, "predictions.csv", "test") for row, folder in networks.items()}
    if averaged:
        titled[average_row(averaged).name] = averaged_scores(averaged, "test")[1]
    curves = {
        title: (
            (rows["label"] == positive).astype(int).to_numpy(),
            rows["score"].to_numpy(),
            rows["subject"].to_numpy(),
        )
        for title, rows in titled.items()
    }
    if curves:
        write_figure(out / "figure-3-roc.png", analysis.roc_figure(curves))
    for reader, rows in transferred[transferred["metric"] == "auc"].groupby("data"):
        names = [row_of(record).name for record in rows.to_dict("records")]
        write_figure(out / f"table-4-{reader}.png", analysis.growth_figure(rows.assign(network=names)))
