"""MorphHR: mammograms and chest X-rays at high resolution on a pretrained network, by function-preserving surgery.

T. Wei, A. I. Aviles-Rivero, S. Wang, Y. Huang, F. J. Gilbert, C.-B. Schönlieb and C. W. Chen, Beyond Fine-tuning:
Classifying High Resolution Mammograms using Function-Preserving Transformations. The stem of an ImageNet network is
morphed (`medzoo.layers.morph_stem`) so that the network takes images of twice the size, and all of it is fine-tuned.

    medzoo run morphhr --data CBIS-DDSM --out RUN
    medzoo run morphhr --dataset chestxray14 --data ChestX-ray14 --out RUN --method MorphHR-ResNet18_S448
    medzoo run morphhr --dataset rsna --data RSNA --out RUN --profile quick --set test_share=0.4

Where the paper is silent, contradicts itself or cannot be had:
- Section III.B puts a max pooling behind the first of the two new convolutions, figure 2 a stride into it: `downsample`
  is the figure's `stride`, for `maxpool` costs a third more by count (`benchmarks/morphhr.py`).
- Its softmax of two units is here a sigmoid of one: the same function and the same loss.
- "Weight decay" in the code of its time was added to the gradient; here it is decoupled (`medzoo.training.Stage`).
- ChestX-ray14 has 14 labels that do not exclude each other: a sigmoid each, and equation (6) for each label and its
  absence. Table III reports the label Mass of such a network.
- The split of CBIS-DDSM is the official one. Of its training part 15 % of the images validate, divided by woman; in
  section IV.A it is 15 % of the women. The same share validates in datasets without an official test part, of which
  `test_share` is kept for the test.
- The best epoch is chosen by the AUC of the validation part, which flatters that column of table I. The paper does not
  say how it chose.

Two protocols, one option apart:
`published` (the default): the official split of CBIS-DDSM as it is, with 31 women on both sides; sensitivity and
specificity (table II) on the validation part, at the point of its ROC curve nearest the corner. The paper's cannot be
those of its test part, whose AUCs of 0.819 and 0.831 are too low for them.
`sound`: their training images are left out; sensitivity and specificity on the test part, at that threshold.
"""

import random
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd

from .. import analysis, datasets, zoo
from .._files import atomic
from .._nearest import require
from ..layers import morph_stem
from ..training import (
    Stage,
    check_settings,
    compile_stage,
    crop_augmentation,
    fit_stages,
    inverse_class_weights,
    inverse_label_weights,
    parse_settings,
    precision,
    validation_metrics,
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
from .reporting import (
    as_text,
    difference_text,
    is_present,
    kept_columns,
    leak_limitation,
    predict,
    read_predictions,
    shortcut_lines,
    table_limitation,
    table_row,
)

PROTOCOLS = ("published", "sound")
OPTIONS = ("dataset",)

# ---------------------------------------------------------------------------------------------------------------------
# Section IV.A: the images


@dataclass(frozen=True)
class Data:
    """A dataset as this recipe takes it; what holds beyond it is in `datasets.source`.

    Attributes:
        height: of a network's input, as a multiple of its width: 9 / 7 for the mammograms of tables I and II.
        published: the table whose numbers stand beside ours, "CBIS-DDSM" or "ChestX-ray14"; None for neither.
        options: of its reader, by protocol.
        excluded: what they leave out, by protocol.
    """

    height: float = 1.0
    published: str | None = None
    options: dict = field(default_factory=lambda: {"published": {}, "sound": {}})
    excluded: dict = field(default_factory=lambda: dict.fromkeys(PROTOCOLS, "nothing"))


DATASETS = {
    "cbis_ddsm": Data(
        height=9 / 7,
        published="CBIS-DDSM",
        options={"published": {"overlap": "official"}, "sound": {"overlap": "drop"}},
        excluded={
            "published": "nothing",
            "sound": "training images of women who are in the official test part too",
        },
    ),
    "chestxray14": Data(published="ChestX-ray14"),
    "rsna": Data(published="CBIS-DDSM"),
    "csv": Data(),
    "folder": Data(),
}

# ---------------------------------------------------------------------------------------------------------------------
# Table I: the networks


@dataclass(frozen=True)
class Method:
    """One row of tables I and III.

    Attributes:
        side: S of its name: width in pixels of the image that the pretrained network takes.
        rounds: how often its stem is morphed; each round doubles the input.
        cbis_ddsm: AUC in table I: validation with 1 and 10 crops, test with 1 and 10 crops.
        chestxray14: AUC of the label Mass in table III: test with 1 and 10 crops; None where it has no such row.
    """

    side: int
    rounds: int
    cbis_ddsm: tuple[float, float, float, float]
    chestxray14: tuple[float, float] | None = None


METHODS = {
    "ResNet18_S224": Method(224, 0, (0.7815, 0.7976, 0.7257, 0.7533), (0.7974, 0.8155)),
    "MorphHR-ResNet18_S224": Method(224, 1, (0.825, 0.8475, 0.7523, 0.7673), (0.8098, 0.82)),
    "ResNet18_S448": Method(448, 0, (0.8382, 0.8636, 0.7882, 0.7995), (0.8067, 0.8244)),
    "MorphHR-ResNet18_S448": Method(448, 1, (0.8748, 0.8933, 0.7836, 0.8013), (0.8253, 0.8377)),
    "ResNet18_S896": Method(896, 0, (0.9126, 0.9274, 0.7958, 0.8068)),
    "MorphHR-ResNet18_S896": Method(896, 1, (0.9182, 0.9348, 0.7964, 0.8187)),
}
# "An average of the output scores run in four rounds": validation and test, 1 and 10 crops.
ENSEMBLE = {"MorphHR-ResNet18_S896": (0.936, 0.9427, 0.8216, 0.8313)}
# Table II: sensitivity and specificity of that ensemble with 10 crops, on the validation part.
SENSITIVITY_SPECIFICITY = {"MorphHR-ResNet18_S896": (0.9, 0.8624)}
# Table IV: AUC of `MorphHR-ResNet18_S448` with 1 and 10 crops.
TABLE_4 = {
    "Atelectasis": (0.7612, 0.7762),
    "Cardiomegaly": (0.8581, 0.8653),
    "Consolidation": (0.7738, 0.7760),
    "Edema": (0.8477, 0.8544),
    "Effusion": (0.8150, 0.8297),
    "Emphysema": (0.8898, 0.8978),
    "Fibrosis": (0.8059, 0.8136),
    "Hernia": (0.8542, 0.8822),
    "Infiltration": (0.7113, 0.7242),
    "Mass": (0.8253, 0.8377),
    "Nodule": (0.7515, 0.7707),
    "Pleural_Thickening": (0.7844, 0.8000),
    "Pneumonia": (0.6970, 0.7211),
    "Pneumothorax": (0.8652, 0.8701),
    "average": (0.8029, 0.8156),
}

# ---------------------------------------------------------------------------------------------------------------------
# Section IV.B: training


# "1-crop" and "10-crop" testing.
CROPS = {1: analysis.TEN_CROPS[4:5], 10: analysis.TEN_CROPS}


@dataclass(frozen=True)
class Settings:
    """Everything about a run that is not its data, method or protocol. Change a value with `--set key=value`.

    Attributes:
        backbone: name of the network that is morphed.
        downsample: how a morphed stem halves its maps: `"stride"` or `"maxpool"`.
        epochs: of the two stages; all layers train in both.
        learning_rates: of the two stages.
        weight_decay: of both.
        batch_size: images a step.
        crop: side of the network's input as a share of the image that it is cropped from.
        validation_share: of the images that are not tested on, divided by subject.
        test_share: of the images, divided by subject, where the dataset has no test part of its own.
        repeats: trainings a method, with other random numbers; their scores are averaged in the ensemble.
        crops: in the test: 1 for the centre, 10 for corners and centre and their mirrors.
        reduction: divides the size of every network's input; for trials.
        precision: of the computations in training; tests are always in float32.
        seed: of the split and of all random numbers.
    """

    backbone: str = "resnet18"
    downsample: str = "stride"
    epochs: tuple[int, ...] = (30, 20)
    learning_rates: tuple[float, ...] = (1e-4, 1e-5)
    weight_decay: float = 1e-4
    batch_size: int = 32
    crop: float = 0.875
    validation_share: float = 0.15
    test_share: float = 645 / 3103
    repeats: int = 4
    crops: tuple[int, ...] = (1, 10)
    reduction: int = 1
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        least = {"epochs": 1, "weight_decay": 0, "batch_size": 1, "repeats": 1, "reduction": 1, "seed": 0}
        check_settings(self, least, shares=("learning_rates", "crop", "validation_share", "test_share"))
        require("downsample", self.downsample, ("stride", "maxpool"))
        require("precision", self.precision, PRECISIONS)
        if len(self.epochs) != len(self.learning_rates):
            raise ValueError(
                f"epochs: received {len(self.epochs)} stages, expected {len(self.learning_rates)} as in learning_rates"
            )
        if self.crops not in ((1,), (10,), (1, 10)):
            raise ValueError(f"crops: received {self.crops}, expected 1, 10 or 1,10")
        if self.reduction > 7:
            raise ValueError(f"reduction: received {self.reduction}, expected at most 7, for inputs of 32 pixels")


PROFILES = {
    "paper": Settings(),
    # A tenth of the epochs.
    "quick": Settings(epochs=(3, 2), repeats=3, crops=(1,), precision="mixed_bfloat16"),
}


def description(settings, data, method, table):
    """How a method's network is built, as cards have it."""
    # Rounded before it is doubled, so that the plain and the morphed network see the same maps.
    width, height = (round(side / settings.reduction) for side in (method.side, method.side * data.height))
    surgery = {"name": "morph_stem", "rounds": method.rounds, "downsample": settings.downsample}
    return {
        "builder": "classifier",
        "arguments": {
            "backbone": settings.backbone,
            "input_shape": [height * 2**method.rounds, width * 2**method.rounds, 1],
            "classes": len(table.attrs["classes"]),
            "surgery": [surgery] if method.rounds else [],
            **({"multi_label": True} if datasets.is_multi_label(table) else {}),
        },
    }


def stages(settings):
    """The two stages, in both of which every layer trains."""
    return tuple(
        Stage(epochs, rate, weight_decay=settings.weight_decay)
        for epochs, rate in zip(settings.epochs, settings.learning_rates, strict=True)
    )


def split_table(table, settings):
    """The image table with the column `split`: train, validation and test, by subject. What is given stays.

    Raises:
        ValueError: when a part is missing, or lacks images with or without one of the labels.
    """
    if "split" not in table:
        parts = {"train": 1 - settings.test_share, "test": settings.test_share}
        table = datasets.split(table, parts, settings.seed)
    if "validation" not in set(table["split"]):
        table = datasets.validation_from_training(table, settings.validation_share, settings.seed)
    for part in ("train", "validation", "test"):
        for output in outputs(table):
            present = is_present(table.loc[table["split"] == part, "label"], output, table)
            if not 0 < present.sum() < len(present):
                raise ValueError(
                    f"{table.attrs['dataset']}: {present.sum()} of the {len(present)} images of the part {part!r} show "
                    f"{output!r}, expected some and not all"
                )
    return table


class Parts:
    """The three parts of the data as batches, at the input size of one network."""

    def __init__(self, table, settings, shape):
        *size, channels = shape
        self.table, self.settings, self.size = table, settings, tuple(size)
        self.labels = datasets.encode_labels(table)
        self.images = datasets.cached_images(table, analysis.size_before_crop(size, settings.crop), channels=channels)
        self.indices = {name: np.flatnonzero(table["split"] == name) for name in ("train", "validation", "test")}

    def training(self, seed):
        """Images of the training part, before they are cropped at random, weighted by equation (6) for one label."""
        train, table = self.indices["train"], self.table
        weights = None
        if not datasets.is_multi_label(table):
            weights = inverse_class_weights(self.labels[train], len(table.attrs["classes"]))
        return datasets.Batches(
            self.images,
            self.labels,
            indices=train,
            batch_size=self.settings.batch_size,
            shuffle=True,
            seed=seed,
            class_weight=weights,
        )

    def label_weights(self):
        """Equation (6) for each of several labels and its absence; None for one label."""
        several = datasets.is_multi_label(self.table)
        return inverse_label_weights(self.labels[self.indices["train"]]) if several else None

    def batches(self, part, place="centre", mirror=False):
        """The same crop of all images of a part."""
        images = analysis.CroppedImages(self.images, self.size, place, mirror)
        return datasets.Batches(images, self.labels, indices=self.indices[part], batch_size=self.settings.batch_size)


def train(parts, settings, build, seed, folder, verbose=1):
    """One training of one network. A finished one is only loaded.

    Returns:
        the network in float32 with the best epoch's weights.
    """
    # Keras draws the seeds of its initialisers from here; its own `set_random_seed` imports TensorFlow on any backend.
    random.seed(seed)
    with precision(settings.precision):
        model = builders.build(build, weights="imagenet")
    fit_stages(
        model,
        stages(settings),
        parts.training(seed),
        parts.batches("validation"),
        folder,
        augmentation=crop_augmentation(parts.size, seed=1000 * seed),
        label_weights=parts.label_weights(),
        verbose=verbose,
    )
    return builders.exact_copy(model, build)


# ---------------------------------------------------------------------------------------------------------------------
# Section IV.C: 1-crop and 10-crop testing


def score(parts, model, crops):
    """Predictions for the validation and the test part, the mean over crops: `image, subject, label, split` and, where
    the data have them, `site` and `machine`, then a column of probabilities for each name in `outputs`."""
    tables = []
    for part in ("validation", "test"):
        scores = []
        for place, mirror in CROPS[crops]:
            scores.append(predict(model, parts.batches(part, place, mirror)))
        rows = kept_columns(parts.table, parts.indices[part])
        columns = pd.DataFrame(np.mean(scores, axis=0), columns=outputs(parts.table))
        tables.append(pd.concat([rows, columns], axis=1))
    return pd.concat(tables, ignore_index=True)


def outputs(table):
    """What the units of a network stand for: the positive one of two classes, or each of several labels."""
    classes = table.attrs["classes"]
    return classes if datasets.is_multi_label(table) else classes[-1:]


class Scores:
    """Scores of several trainings of one method, by output.

    Attributes:
        table: image table of the run.
        predictions: list of what `score` gives.
    """

    def __init__(self, table, predictions):
        self.table, self.predictions = table, predictions

    def outputs(self):
        """Names of the outputs, and of several `"average"`, which stands for the mean of their AUCs."""
        names = outputs(self.table)
        return [*names, "average"] if len(names) > 1 else names

    def of(self, part, output):
        """(labels (n,), scores (trainings, n), subjects (n,)) of a part for one output."""
        rows = [each[each["split"] == part] for each in self.predictions]
        labels = is_present(rows[0]["label"], output, self.table)
        return labels, np.stack([each[output].to_numpy() for each in rows]), rows[0]["subject"].to_numpy()

    def mean(self, part, output):
        """Mean AUC over the trainings, an `analysis.MeanAuc`."""
        return self._mean(part, output, lambda scores: scores)

    def ensemble(self, part, output):
        """AUC of the scores' average over the trainings, as `mean`."""
        return self._mean(part, output, lambda scores: scores.mean(axis=0, keepdims=True))

    def _mean(self, part, output, gather):
        if output != "average":
            labels, scores, subjects = self.of(part, output)
            return analysis.mean_auc(labels, gather(scores), subjects)
        labels, scores, subjects = zip(*(self.of(part, name) for name in outputs(self.table)), strict=True)
        return analysis.mean_label_auc(np.stack(labels, axis=1), gather(np.stack(scores, axis=2)), subjects[0])


def operating_point(scores, output, protocol):
    """Table II: sensitivity and specificity of the ensemble, each an `analysis.Interval`; see the protocols above."""
    labels, validation, subjects = scores.of("validation", output)
    point = analysis.operating_point(labels, validation.mean(axis=0), subjects)
    if protocol == "published":
        return point.sensitivity, point.specificity
    labels, test, subjects = scores.of("test", output)
    return analysis.rates_at(labels, test.mean(axis=0), point.threshold, subjects)


# ---------------------------------------------------------------------------------------------------------------------
# Section III.B: what doubling the input does to the function, and how fast training brings it back


def movement(context, base, morphed):
    """How far the features of real images move when a pretrained stem is morphed: table of `analysis.feature_movement`.

    Compared on validation images at the centre crop: the network as it was, on images of its own size, and the morphed
    one on the same images at twice the size, both with ImageNet weights.
    """
    pairs = []
    for name in (base, morphed):
        parts = context.parts(name)
        batches = parts.batches("validation")
        network = builders.build(context.build(name), weights="imagenet")
        pairs.append((network, [batches[index][0] for index in range(min(2, len(batches)))]))
    kept = {layer.name for layer in pairs[1][0].layers}
    groups = {**backbones.groups(pairs[0][0]), "head": ["head_pool"]}
    shared = [[name for name in names if name in kept] for names in groups.values()]
    return analysis.feature_movement(*pairs[0], *pairs[1], [names[-1] for names in shared if names])


def recovery(context, base, morphed, folder):
    """How the AUC of a trained network falls when its stem is morphed, and comes back in the first iterations.

    The first training of `base`, morphed and trained on as the first stage has it; measured on the validation part.
    Iteration -1 is the network before it was morphed.

    Returns:
        DataFrame `iteration, auc`.
    """
    chosen = context.settings
    trained = zoo.load(folder / base / "repeat-0" / "model")
    rows = [(-1, validation_auc(trained, context.parts(base)))]
    parts, build = context.parts(morphed), context.build(morphed)
    stem = build["arguments"]["surgery"][0]
    with precision(chosen.precision):
        model = builders.build(build, weights=None)
    model.set_weights(morph_stem(trained, stem["rounds"], stem["downsample"]).get_weights())
    batches, augmentation = parts.training(chosen.seed), crop_augmentation(parts.size, seed=chosen.seed)
    trainer = compile_stage(model, stages(chosen)[0], batches, augmentation, parts.label_weights())
    for iteration in range(RECOVERY[-1] + 1):
        if iteration in RECOVERY:
            rows.append((iteration, validation_auc(builders.exact_copy(model, build), parts)))
        if iteration < RECOVERY[-1]:
            batches.epoch, index = divmod(iteration, len(batches))
            images, *rest = batches[index]
            trainer.train_on_batch(images, *rest)
    return pd.DataFrame(rows, columns=["iteration", "auc"])


RECOVERY = (0, 1, 2, 5, 10, 20, 40)


def examine_surgery(context, methods, out):
    """Writes `movement.csv` and `recovery.csv` for the first of the methods that is there both plain and morphed."""
    pairs = [(base, morphed) for morphed, base in PAIRS if {base, morphed} <= set(methods) and METHODS[morphed].rounds]
    pairs = [(base, morphed) for base, morphed in pairs if METHODS[base].side == METHODS[morphed].side]
    if not pairs:
        return
    if not (out / "movement.csv").is_file():
        write_table(out / "movement.csv", movement(context, *pairs[0]))
        print(pd.read_csv(out / "movement.csv").to_string(index=False), flush=True)
    if not (out / "recovery.csv").is_file():
        write_table(out / "recovery.csv", recovery(context, *pairs[0], out))
        print(pd.read_csv(out / "recovery.csv").to_string(index=False), flush=True)


def validation_auc(model, parts):
    """AUC on the centre crops of the validation part; of several labels the mean."""
    batches = parts.batches("validation")
    labels = parts.labels[parts.indices["validation"]]
    return validation_metrics(model, batches, labels)["val_auc"]


# ---------------------------------------------------------------------------------------------------------------------
# The run


def run(
    data,
    out,
    dataset="cbis_ddsm",
    profile="paper",
    protocol="published",
    methods=(),
    backbone=None,
    overrides=(),
    verbose=1,
):
    """Trains and measures the rows of table I or III on a dataset, and writes a report.

    Args:
        data: the dataset's folder or CSV file.
        out: folder of the run; one that was interrupted goes on where it was.
        dataset: name from `DATASETS`.
        profile: `"paper"` or `"quick"`.
        protocol: `"published"` or `"sound"`, see above.
        methods: names from `METHODS`; none for all six.
        backbone: name of a backbone in place of the profile's.
        overrides: `key=value` strings on `Settings`.
        verbose: 1 for a progress bar, 2 for a line an epoch, 0 for neither.

    Returns:
        DataFrame, the report's table.

    Raises:
        ValueError, FileNotFoundError: for data, names or options that do not fit, before anything trains.
    """
    chosen = parse_settings(PROFILES, profile, overrides)
    if backbone is not None:
        chosen = replace(chosen, backbone=backbone)
    backbones.record(chosen.backbone)
    methods = tuple(methods) or tuple(METHODS)
    for name in methods:
        require("method", name, METHODS)
    require("protocol", protocol, PROTOCOLS)
    require("dataset", dataset, DATASETS)
    table = datasets.read(dataset, data, **(DATASETS[dataset].options[protocol]))
    if not datasets.is_multi_label(table) and len(table.attrs["classes"]) != 2:
        raise ValueError(
            f"{data}: received the classes {', '.join(table.attrs['classes'])}, expected two, or several labels"
        )
    table = split_table(table, chosen)
    command = command_text("morphhr", profile, protocol, datasets.source(dataset).folder, backbone, overrides, dataset)
    context = Context(table, chosen, dataset, protocol, command)
    for name in methods:
        builders.build(context.build(name))  # refuses what cannot be morphed before anything trains

    # Crops and repeats change nothing that was trained before, and may be added later.
    settings = {key: value for key, value in asdict(chosen).items() if key not in ("crops", "repeats")}
    out = open_run(out, {"recipe": "morphhr", "dataset": dataset, "protocol": protocol, "settings": settings})
    first = context.parts(methods[0])
    write_split(out / "split.csv", table.assign(sha256=first.images.sha256))
    for repeat in range(chosen.repeats):
        for name in methods:
            finish_training(context, name, repeat, out / name / f"repeat-{repeat}", verbose)
    examine_surgery(context, methods, out)
    return report(context, out)


@dataclass(frozen=True)
class Context:
    """What a run's methods share."""

    table: pd.DataFrame
    settings: Settings
    dataset: str
    protocol: str
    command: str

    def build(self, name):
        """How the network of a method is built."""
        return description(self.settings, DATASETS[self.dataset], METHODS[name], self.table)

    def parts(self, name):
        """The images at the size of a method's network."""
        return Parts(self.table, self.settings, self.build(name)["arguments"]["input_shape"])


def finish_training(context, name, repeat, folder, verbose):
    """Trains, saves and scores one network; what is finished is left alone."""
    missing = [crops for crops in context.settings.crops if not (folder / predictions_file(crops)).is_file()]
    if not missing and (folder / "model" / "card.json").is_file():
        return
    chosen, parts, build = context.settings, context.parts(name), context.build(name)
    if (folder / "model" / "card.json").is_file():
        model = zoo.load(folder / "model")
    else:
        print(f"{name}: training {repeat + 1} of {chosen.repeats}", flush=True)
        model = train(parts, chosen, build, chosen.seed + repeat, folder, verbose)
    for crops in missing:
        print(f"{name}: {crops}-crop test", flush=True)
        write_table(folder / predictions_file(crops), score(parts, model, crops))
    if not (folder / "model" / "card.json").is_file():
        zoo.save_checkpoint(model, folder / "model", card_fields(context, name, repeat, build, folder))


def predictions_file(crops):
    """Name of the file with what `score` gives."""
    return f"predictions-{crops}-crop.csv"


def read_scores(context, folder, crops):
    """`Scores` of the trainings of one method that are finished, None where there is none."""
    files = [folder / f"repeat-{repeat}" / predictions_file(crops) for repeat in range(context.settings.repeats)]
    found = [read_predictions(file) for file in files if file.is_file()]
    return Scores(context.table, found) if found else None


def card_fields(context, name, repeat, build, folder):
    """What the card of one trained network says; `zoo.publish` adds name and version."""
    chosen, table, source = context.settings, context.table, datasets.source(context.dataset)
    classes = table.attrs["classes"]
    several = datasets.is_multi_label(table)
    task = f"{len(classes)} findings" if several else f"{classes[1]} against {classes[0]}"
    command = f"{context.command} --method {name}"
    weights = backbones.imagenet_file(chosen.backbone)
    metrics = {}
    for crops in chosen.crops:
        scores = Scores(table, [read_predictions(folder / predictions_file(crops))])
        for output in outputs(table):
            for part in ("validation", "test"):
                metrics.setdefault(part, {})[metric_name(crops, output, table)] = scores.ensemble(part, output)
    return {
        "name": f"morphhr-{chosen.backbone}-{context.dataset.replace('_', '-')}",
        "version": 1,
        "summary": f"{title(name, chosen)} on {source.folder}: {task}",
        "modality": source.modality,
        "task": "multi-label classification" if several else "classification",
        "recipe": {
            "name": "morphhr",
            "command": command,
            "paper": "Wei and others, Beyond Fine-tuning (MorphHR)",
        },
        "build": build,
        "input": {
            "shape": build["arguments"]["input_shape"],
            "range": [0, 255],
            "resize": "bilinear with antialiasing, the aspect ratio ignored; centre crop",
            "crop": chosen.crop,
        },
        "classes": table.attrs["classes"],
        "data": {
            "dataset": source.title,
            "licence": source.licence,
            "url": source.url,
            **card_data(table),
            "excluded": DATASETS[context.dataset].excluded[context.protocol],
        },
        "metrics": [
            metric
            for part, values in metrics.items()
            for metric in card_metrics(values, part, context.protocol, command)
        ],
        "licence": f"as the training data: {source.licence}; backbone weights "
        f"{backbones.record(chosen.backbone).imagenet.licence}",
        "limitations": [
            f"Training {repeat + 1} of {chosen.repeats} with other random numbers; another gives another number within "
            "and beyond the interval.",
            "The epoch was chosen on the validation part, whose metrics it flatters.",
            *source.limitations,
            *table_limitation(table),
            f"Began with the ImageNet weights in {weights.name}, sha256 {file_sha256(weights)}.",
            *leak_limitation(table),
            "For research, not for diagnosis.",
        ],
    }


def metric_name(crops, output, table):
    """Name of an AUC on a card and in the report's table."""
    several = datasets.is_multi_label(table)
    return "auc" + (f" {output}" if several else "") + ("" if crops == 1 else f" ({crops} crops)")


def title(name, settings):
    """A row of table I with the backbone that was really used."""
    return name.replace("ResNet18", settings.backbone.replace("resnet", "ResNet"))


# ---------------------------------------------------------------------------------------------------------------------
# Section IV.C: tables I to IV, figures 3 and 4


def report(context, out):
    """Writes `report.md`, `results.csv` and the figures for the trainings finished so far, and returns the table."""
    found = {(name, crops): read_scores(context, out / name, crops) for name in METHODS for crops in CROPS}
    found = {key: scores for key, scores in found.items() if scores is not None}
    rows = []
    for (name, crops), scores in found.items():
        for part in ("validation", "test"):
            for output in scores.outputs():
                mean = scores.mean(part, output)
                row = {"method": name, "crops": crops, "part": part, "output": output}
                row |= {"trainings": mean.trainings, "deviation": mean.deviation}
                row |= {"auc_paper": published(context, name, crops, part, output)}
                row |= {"ensemble_paper": published(context, name, crops, part, output, ensemble=True)}
                row |= interval_columns("auc", mean._asdict())
                row |= interval_columns("ensemble", scores.ensemble(part, output)._asdict())
                rows.append(row)
    results = pd.DataFrame(rows)
    write_table(out / "results.csv", results)
    differences = compare(context, found)
    if len(differences):
        write_table(out / "differences.csv", differences)
    figures(context, found, out)
    with atomic(out / "report.md") as temporary:
        temporary.write_text(report_text(context, found, results, differences, out), encoding="utf-8")
    return results


def published(context, name, crops, part, output, ensemble=False):
    """The paper's AUC in table I, III or IV; None where it has none."""
    data, ten = DATASETS[context.dataset], crops == 10
    if context.settings.backbone != "resnet18" or data.published is None:
        return None
    if data.published == "ChestX-ray14":
        if part == "validation" or ensemble:
            return None
        if name == "MorphHR-ResNet18_S448":
            return TABLE_4[output][ten]
        areas = METHODS[name].chestxray14
        return areas[ten] if output == "Mass" and areas else None
    areas = ENSEMBLE.get(name) if ensemble else METHODS[name].cbis_ddsm
    return areas[2 * (part == "test") + ten] if areas else None


# What the paper compares: a network with its morphed form, and both with the plain network at that resolution.
PAIRS = [
    pair
    for side in (224, 448, 896)
    for pair in (
        (f"MorphHR-ResNet18_S{side}", f"ResNet18_S{side}"),
        (f"ResNet18_S{2 * side}", f"ResNet18_S{side}"),
        (f"MorphHR-ResNet18_S{side}", f"ResNet18_S{2 * side}"),
    )
    if set(pair) <= set(METHODS)
]


def compare(context, found):
    """Differences of the mean test AUC over trainings between networks, paired on the same images."""
    rows = []
    for crops in CROPS:
        for first, second in PAIRS:
            if (first, crops) not in found or (second, crops) not in found:
                continue
            one, other = found[first, crops], found[second, crops]
            for output in outputs(context.table):
                labels, scores, subjects = one.of("test", output)
                difference = analysis.compare_means(labels, scores, other.of("test", output)[1], subjects)
                known = [published(context, name, crops, "test", output) for name in (first, second)]
                paper = None if None in known else known[0] - known[1]
                row = {"first": first, "second": second, "crops": crops, "output": output, "paper": paper}
                rows.append(row | difference._asdict())
    return pd.DataFrame(rows)


def report_text(context, found, results, differences, out):
    """The report in Markdown."""
    data, chosen = context.table, context.settings
    sizes, women = data["split"].value_counts(), data.groupby("split")["subject"].nunique()
    counts = ", ".join(f"{sizes[part]} images of {women[part]} subjects" for part in ("train", "validation", "test"))
    leaking, n = leaked(data)
    source = f"paper, {DATASETS[context.dataset].published}" if DATASETS[context.dataset].published else "paper"
    lines = [
        f"# MorphHR on {data.attrs['dataset']}, {context.protocol} protocol",
        "",
        f"`{context.command}{''.join(f' --method {name}' for name in dict.fromkeys(name for name, _ in found))}`",
        "",
        f"{machine()}. Training, validation and test: {counts}. Subjects: {SUBJECT_SOURCES[data.attrs['subjects']]} "
        f"{leaking} of the {n} test images are of subjects in another part.",
        "",
        "AUC: mean over the trainings, with a 95 % interval from a bootstrap by subject, which does not hold the "
        "spread between trainings; their standard deviation stands beside it. Ensemble: AUC of the mean of their "
        "scores. The best epoch was chosen on the validation part, whose AUC that flatters.",
        "",
        f"| network | crops | label | trainings | validation AUC | test AUC | deviation | {source} | ensemble, test "
        f"| {source} |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = ["method", "crops", "output"]
    for (name, crops, output), rows in results.groupby(keys, sort=False):
        parts = {row["part"]: row for row in rows.to_dict("records")}
        test = parts["test"]
        single, several = ("" if pd.isna(test[key]) else f"{test[key]:.3f}" for key in ("auc_paper", "ensemble_paper"))
        cells = [title(name, chosen), crops, output, test["trainings"], interval_text("auc", parts["validation"])]
        deviation = "" if pd.isna(test["deviation"]) else f"{test['deviation']:.3f}"
        cells += [interval_text("auc", test), deviation, single, interval_text("ensemble", test), several]
        lines.append(table_row(*cells))
    if len(differences):
        lines += [
            "",
            "Differences of the mean test AUCs, in points of 0.01, paired by a bootstrap by subject:",
            "",
            f"| | crops | label | difference (95 % interval) | p | {source} |",
            "|---|---|---|---|---|---|",
        ]
    for row in differences.to_dict("records"):
        names = f"{title(row['first'], chosen)} - {title(row['second'], chosen)}"
        paper = "" if pd.isna(row["paper"]) else f"{100 * row['paper']:+.1f}"
        lines.append(
            table_row(names, row["crops"], row["output"], difference_text(row), f"{row['p_value']:.2g}", paper)
        )
    lines += [
        "",
        "Sensitivity and specificity of the ensemble (table II) at the point of the validation part's ROC curve "
        f"nearest the corner, on the {'validation' if context.protocol == 'published' else 'test'} part:",
        "",
        f"| network | crops | label | sensitivity | specificity | {source}, validation |",
        "|---|---|---|---|---|---|",
    ]
    for (name, crops), scores in found.items():
        for output in outputs(data):
            shares = [as_text(share) for share in operating_point(scores, output, context.protocol)]
            paper = SENSITIVITY_SPECIFICITY.get(name) if source == "paper, CBIS-DDSM" and crops == 10 else None
            known = " and ".join(f"{share:.3f}" for share in paper or ())
            lines.append(table_row(title(name, chosen), crops, output, *shares, known))
    lines += shortcuts(context, found)
    lines += surgery_text(out)
    lines += ["", "Figures: `figure-3-roc.png`, `figure-4-sensitivity-specificity.png`.", ""]
    return "\n".join(lines)


def shortcuts(context, found):
    """What the test AUCs of the ensembles owe to where an image comes from."""
    output, titled = outputs(context.table)[0], {}
    for (name, crops), scores in found.items():
        rows = scores.predictions[0]
        rows = rows[rows["split"] == "test"]
        _, values, _ = scores.of("test", output)
        crop_text = "" if crops == 1 else f" ({crops} crops)"
        titled[title(name, context.settings) + crop_text] = rows.assign(score=values.mean(axis=0))
    return shortcut_lines(context.table, titled)


def surgery_text(out):
    """What `movement` and `recovery` found."""
    lines = []
    if (out / "movement.csv").is_file():
        lines += [
            "",
            "How far the features of the validation part's first two batches move when the ImageNet network's stem is "
            "morphed and the images are doubled (1 is as far as they are long):",
            "",
            "| layer | distance | cosine |",
            "|---|---|---|",
        ]
        moved = pd.read_csv(out / "movement.csv")
        lines += [table_row(row.layer, f"{row.distance:.2f}", f"{row.cosine:.3f}") for row in moved.itertuples()]
    if (out / "recovery.csv").is_file():
        steps = pd.read_csv(out / "recovery.csv")
        before, *after = [f"{row.auc:.3f}" for row in steps.itertuples()]
        listed = ", ".join(f"{auc} ({step})" for step, auc in zip(steps["iteration"][1:], after, strict=True))
        lines += [
            "",
            f"A trained network has a validation AUC of {before}; morphed, after as many iterations as stand in "
            f"brackets: {listed}.",
        ]
    return lines


def figures(context, found, out):
    """Figures 3 and 4 as PNG: test ROC curves of the ensembles, and where the last network stands on the part that
    `operating_point` looks at."""
    output = "Mass" if context.dataset == "chestxray14" else outputs(context.table)[0]
    curves = {}
    for (name, crops), scores in found.items():
        labels, values, subjects = scores.of("test", output)
        text = title(name, context.settings) + (" (10 crops)" if crops == 10 else "")
        curves[text] = labels, values.mean(axis=0), subjects
    write_figure(out / "figure-3-roc.png", analysis.roc_figure(curves))
    part = "validation" if context.protocol == "published" else "test"
    labels, values, subjects = scores.of(part, output)
    points = {"this network": [share.value for share in operating_point(scores, output, context.protocol)]}
    if datasets.source(context.dataset).modality == "mammography":
        points |= RADIOLOGISTS
    figure = analysis.roc_figure({f"{text}, {part} part": (labels, values.mean(axis=0), subjects)}, points=points)
    write_figure(out / "figure-4-sensitivity-specificity.png", figure)


# Sensitivity and specificity of screening in the United States: Lehman and others, Radiology 283:49, 2017.
RADIOLOGISTS = {"radiologists (Lehman 2017)": (0.869, 0.889)}
