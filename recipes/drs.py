"""Deep representation scaling for breast mass classification in ultrasound.

M. Byra, Breast mass classification with transfer learning based on scaling of deep representations, Biomedical Signal
Processing and Control 69:102828, 2021. Six ways to move an ImageNet network to 647 images of BUSI, two of which change
no convolution: a linear classifier on frozen features, and scaling layers (`medzoo.layers.DRSLayer`) between the frozen
residual blocks.

    medzoo run drs --data BUSI --out RUN --profile paper
    medzoo run drs --data BUSI --out RUN --profile quick --backbone resnet50 --protocol sound

Two protocols, one option apart:

`published` (the default) splits by image, as the paper does. BUSI shows many lesions more than once, so a model is
tested on lesions that it was trained on; the report says on how many.
`sound` splits by twin group (`medzoo.datasets.twins`) and leaves out the groups whose labels contradict each other.

Where the paper is silent or cannot be had:
- The augmentation is not described. Here: mirroring, rotation by up to 10 degrees, zoom and shift by up to 10 %. The
  two methods whose first blocks are frozen see `variants` augmented copies of each image, whose features are computed
  once; an epoch is one pass over all copies. The other methods draw anew in every epoch.
- Whether batch norm is trained is not said. Here: in blocks that are fine-tuned it is, with batch statistics; in frozen
  blocks it stays as ImageNet left it.
- Its grid has three learning rates, three values of beta_1 and three repeats, the best on validation accuracy taken.
  That is the `paper` profile. `quick` has one setting, fixed before the reported runs; it monitors AUC, as
  accuracy on 57 images moves in steps of 2 %, and fine-tunes blocks more slowly than heads.
- Figure 5a also shows the ImageNet validation set, which cannot be shipped: left out.
"""

import random
from dataclasses import asdict, dataclass, replace
from functools import cache

import keras
import numpy as np
import pandas as pd

from .. import analysis, datasets, zoo
from .._files import atomic, read_json, write_json
from .._nearest import require
from ..layers import split_at
from ..training import (
    Stage,
    affine_augmentation,
    check_settings,
    fit_stages,
    parse_settings,
    precision,
    set_trainable,
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
from ..training.stages import MONITORS
from ..zoo import backbones, builders
from ..zoo.store import file_sha256

# ---------------------------------------------------------------------------------------------------------------------
# Section 3.2: the six techniques of table 2, and what the paper measured (130 test images)


@dataclass(frozen=True)
class Method:
    """One row of table 2.

    Attributes:
        title: the paper's name.
        drs: whether a DRS layer sits in every residual block.
        blocks: the convolutional blocks that are fine-tuned: `"none"`, `"last"` or `"all"`.
        published: AUC, accuracy, sensitivity and specificity in table 2.
    """

    title: str
    drs: bool
    blocks: str
    published: tuple[float, float, float, float]

    def train(self, backbone):
        """What trains, as `Stage.train` has it."""
        if self.blocks == "all":
            return ("*",)
        last = (backbone.last_block,) if self.blocks == "last" else ()
        return (*(("drs",) if self.drs else ()), *last, "head")

    def cut(self, backbone):
        """The layer up to which everything is frozen; None where the first block trains already."""
        if self.drs or self.blocks == "all":
            return None
        return backbone.before_last_block if self.blocks == "last" else "head_pool"


METHODS = {
    "feature-extraction": Method("Feature extraction", False, "none", (0.903, 0.823, 0.904, 0.784)),
    "last-block": Method("Fine-tuning, last block", False, "last", (0.934, 0.884, 0.904, 0.875)),
    "all-blocks": Method("Fine-tuning, all blocks", False, "all", (0.916, 0.884, 0.833, 0.909)),
    "drs": Method("DRS", True, "none", (0.935, 0.869, 0.833, 0.886)),
    "drs-last-block": Method("DRS + fine-tuning, last block", True, "last", (0.955, 0.915, 0.904, 0.920)),
    "drs-all-blocks": Method("DRS + fine-tuning, all blocks", True, "all", (0.954, 0.923, 0.976, 0.897)),
}
PROTOCOLS = ("published", "sound")
OPTIONS = ()

# ---------------------------------------------------------------------------------------------------------------------
# Section 3.4: training


@dataclass(frozen=True)
class Settings:
    """Everything about a run that is not its data, method or protocol. Change a value with `--set key=value`.

    Attributes:
        backbone: name of a backbone with residual blocks.
        image_size: side of the square input, pixels.
        learning_rates, beta_1: the grid; every pair is trained for a head and DRS layers.
        fine_tuning_learning_rates: the learning rates of the methods that fine-tune blocks.
        repeats: trainings for each pair, with other random numbers.
        epochs: at most; patience: epochs without improvement after which training ends.
        decay, decay_epochs: factor on the learning rate after so many epochs without improvement.
        batch_size: images a step.
        monitor: what is compared on the validation part.
        variants: augmented copies of each image for the methods whose first blocks are frozen.
        precision: of the computations in training; tests are always in float32.
        seed: of the split and of all random numbers.
    """

    backbone: str = "resnet101"
    image_size: int = 224
    learning_rates: tuple[float, ...] = (0.001, 0.01, 0.1)
    fine_tuning_learning_rates: tuple[float, ...] = (0.001, 0.01, 0.1)
    beta_1: tuple[float, ...] = (0.85, 0.9, 0.95)
    repeats: int = 3
    epochs: int = 200
    patience: int = 20
    decay: float = 0.9
    decay_epochs: int = 4
    batch_size: int = 24
    monitor: str = "val_accuracy"
    variants: int = 8
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self):
        counts = ("repeats", "epochs", "patience", "decay_epochs", "batch_size", "variants")
        shares = ("decay", "learning_rates", "fine_tuning_learning_rates")
        check_settings(self, {"image_size": 32, **dict.fromkeys(counts, 1), "seed": 0}, shares)
        for beta_1 in self.beta_1:
            if not 0 <= beta_1 < 1:
                raise ValueError(f"beta_1: received {beta_1:g}, expected at least 0 and less than 1")
        require("monitor", self.monitor, MONITORS)
        require("precision", self.precision, PRECISIONS)


PROFILES = {
    "paper": Settings(),
    "quick": Settings(
        backbone="resnet18",
        learning_rates=(0.001,),
        fine_tuning_learning_rates=(0.0001,),
        beta_1=(0.9,),
        repeats=1,
        epochs=10,
        monitor="val_auc",
        variants=8,
        precision="mixed_bfloat16",
    ),
}


def description(settings, method, classes=2):
    """How a method's model is built, as cards have it."""
    side = settings.image_size
    return {
        "builder": "classifier",
        "arguments": {
            "backbone": settings.backbone,
            "input_shape": [side, side, 3],
            "classes": classes,
            "surgery": [{"name": "add_drs"}] if method.drs else [],
        },
    }


def stage(settings, method, learning_rate, beta_1):
    """The one stage of every method: Adam with binary cross-entropy, decay and patience of section 3.4."""
    return Stage(
        epochs=settings.epochs,
        learning_rate=learning_rate,
        train=method.train(backbones.record(settings.backbone)),
        beta_1=beta_1,
        monitor=settings.monitor,
        patience=settings.patience,
        decay=settings.decay,
        decay_epochs=settings.decay_epochs,
    )


def grid(settings, method):
    """The cells of the grid search, name to (learning rate, beta_1, repeat)."""
    rates = settings.learning_rates if method.blocks == "none" else settings.fine_tuning_learning_rates
    return {
        f"rate-{rate:g}_beta-{beta_1:g}_repeat-{repeat}": (rate, beta_1, repeat)
        for rate in rates
        for beta_1 in settings.beta_1
        for repeat in range(settings.repeats)
    }


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.1: the images, 452/65/130 of 647


def split_table(table, protocol, seed):
    """The image table with the column `split`: train, validation and test as 452 : 65 : 130, stratified by class.

    Under the sound protocol, groups with contradictory labels are left out first and no group is divided.
    """
    if protocol == "sound":
        labels = table.groupby("subject")["label"].transform("nunique")
        excluded = sorted(table.loc[labels > 1, "image"])
        table = table[labels == 1].reset_index(drop=True)
    else:
        excluded = []
    parts = {"train": 452 / 647, "validation": 65 / 647, "test": 130 / 647}
    return datasets.split(table, parts, seed, by="subject" if protocol == "sound" else "image"), excluded


class Parts:
    """The three parts of the data as batches; features of frozen layers are computed once and kept."""

    def __init__(self, table, settings):
        side = settings.image_size
        self.settings = settings
        self.table = table
        self.labels = datasets.encode_labels(table)
        self.images = datasets.cached_images(table, (side, side), channels=3)
        self.indices = {name: np.flatnonzero(table["split"] == name) for name in ("train", "validation", "test")}
        train_labels = self.labels[self.indices["train"]]
        self.class_weight = datasets.class_weights(train_labels, len(table.attrs["classes"]))
        self.features = cache(self._features)

    def batches(self, part, seed=0):
        """Raw images of a part; the training part is shuffled and weighted by class."""
        train = part == "train"
        return datasets.Batches(
            self.images,
            self.labels,
            indices=self.indices[part],
            batch_size=self.settings.batch_size,
            shuffle=train,
            seed=seed,
            class_weight=self.class_weight if train else None,
        )

    def _features(self, cut):
        """What a frozen network gives at layer `cut`: of augmented copies of the training part, and of the validation
        part as it is. (features, labels) of each."""
        with precision(self.settings.precision):
            method = METHODS["feature-extraction"]
            body, _ = split_at(builders.build(description(self.settings, method), weights="imagenet"), cut)
        body.trainable = False
        parts = {}
        for part, copies in (("train", self.settings.variants), ("validation", 1)):
            images = self.images.read(self.indices[part])
            arrays = []
            for copy in range(copies):
                augment = affine_augmentation(seed=1000 * self.settings.seed + 10 * copy)
                for start in range(0, len(images), self.settings.batch_size):
                    batch = images[start : start + self.settings.batch_size].astype("float32")
                    if part == "train":
                        batch = augment(batch, training=True)
                    # float16 halves the memory; it is as fine as bfloat16, in which the body may compute.
                    arrays.append(keras.ops.convert_to_numpy(body.predict_on_batch(batch)).astype("float16"))
            parts[part] = np.concatenate(arrays), np.tile(self.labels[self.indices[part]], copies)
        return parts

    def feature_batches(self, cut, part, seed=0):
        """Features of a part at layer `cut`, as `batches` gives images."""
        features, labels = self.features(cut)[part]
        train = part == "train"
        return datasets.Batches(
            features,
            labels,
            batch_size=self.settings.batch_size,
            shuffle=train,
            seed=seed,
            class_weight=self.class_weight if train else None,
        )


def train_cell(parts, settings, method, cell, folder, verbose=1):
    """One training: a method with one learning rate, beta_1 and repeat. A finished one is only loaded.

    Returns:
        (model in float32 with the best epoch's weights, history).
    """
    rate, beta_1, repeat = cell
    seed = settings.seed + repeat
    # Keras draws the seeds of its initialisers from here; its own `set_random_seed` imports TensorFlow on any backend.
    random.seed(seed)
    with precision(settings.precision):
        model = builders.build(description(settings, method), weights="imagenet")
    stages = (stage(settings, method, rate, beta_1),)
    cut = method.cut(backbones.record(settings.backbone))
    if cut is None:
        history = fit_stages(
            model,
            stages,
            parts.batches("train", seed),
            parts.batches("validation"),
            folder,
            augmentation=affine_augmentation(seed=1000 * seed),
            verbose=verbose,
        )
    else:
        _, behind = split_at(model, cut)
        train, validation = parts.feature_batches(cut, "train", seed), parts.feature_batches(cut, "validation")
        history = fit_stages(behind, stages, train, validation, folder, verbose=verbose)
    exact = builders.build(description(settings, method), weights=None)
    exact.set_weights(model.get_weights())
    set_trainable(exact, stages[0].train)
    return exact, history


# ---------------------------------------------------------------------------------------------------------------------
# Section 3.3: the best model on the validation part, scored once on the test part


def choose_cell(parts, settings, method, folder, verbose=1):
    """Trains every cell of the grid. Returns (name, model) of the best on the validation part, the first of equals."""
    best = None
    for number, (name, cell) in enumerate(cells := grid(settings, method).items(), start=1):
        print(f"{method.title}: {name} ({number} of {len(cells)})", flush=True)
        model, history = train_cell(parts, settings, method, cell, folder / name, verbose)
        values = [row[settings.monitor] for row in history]
        value = -min(values) if settings.monitor == "val_loss" else max(values)
        if best is None or value > best[0]:
            best = (value, name, model)
    return best[1:]


def score(parts, model):
    """Predictions for the validation and the test part: a table `image, subject, label, split, score`."""
    tables = []
    for part in ("validation", "test"):
        batches = parts.batches(part)
        scores = [np.ravel(model.predict_on_batch(batches[index][0])) for index in range(len(batches))]
        rows = parts.table.iloc[parts.indices[part]][["image", "subject", "label", "split"]]
        tables.append(rows.assign(score=np.concatenate(scores)))
    return pd.concat(tables, ignore_index=True)


def measure(predictions, classes):
    """AUC, accuracy, sensitivity and specificity on the test part, each an `analysis.Interval`; see `subjects_of`."""
    labels, scores, subjects = test_scores(predictions, classes)
    point = analysis.operating_point(labels, scores, subjects)
    return {
        "auc": analysis.auc(labels, scores, subjects),
        "accuracy": point.accuracy,
        "sensitivity": point.sensitivity,
        "specificity": point.specificity,
    }


def test_scores(predictions, classes):
    """(labels, scores, subjects) of the test part."""
    test = predictions[predictions["split"] == "test"]
    labels = (test["label"] == classes[-1]).to_numpy(dtype=int)
    return labels, test["score"].to_numpy(), test["subject"].to_numpy()


# ---------------------------------------------------------------------------------------------------------------------
# The run


def run(data, out, profile="paper", protocol="published", methods=(), backbone=None, overrides=(), verbose=1):
    """Trains and measures the methods of table 2 on a folder of BUSI, and writes a report.

    Args:
        data: folder of BUSI: `benign/`, `malignant/` (`normal/` is not used).
        out: folder of the run; one that was interrupted goes on where it was.
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
    if not backbones.record(chosen.backbone).blocks:
        raise ValueError(f"backbone: received {chosen.backbone!r}, expected a network of residual blocks")
    methods = tuple(methods) or tuple(METHODS)
    for name in methods:
        require("method", name, METHODS)
    require("protocol", protocol, PROTOCOLS)
    table = datasets.read("busi", data)
    table, excluded = split_table(table, protocol, chosen.seed)
    parts = Parts(table, chosen)

    shared = {"recipe": "drs", "profile": profile, "protocol": protocol, "settings": asdict(chosen)}
    out = open_run(out, shared)
    write_split(out / "split.csv", table.assign(sha256=parts.images.sha256))
    write_json(out / "excluded.json", excluded)
    command = command_text("drs", profile, protocol, datasets.source("busi").folder, backbone, overrides)
    context = Context(parts, chosen, protocol, excluded, command)

    for name in methods:
        finish_method(context, name, out / name, verbose)
    return report(context, out)


@dataclass(frozen=True)
class Context:
    """What a run's methods share."""

    parts: Parts
    settings: Settings
    protocol: str
    excluded: list
    command: str


def finish_method(context, name, folder, verbose):
    """Trains, scores and saves one method; one that is finished is left alone."""
    if (folder / "metrics.json").is_file():
        return
    method, parts = METHODS[name], context.parts
    cell, model = choose_cell(parts, context.settings, method, folder, verbose)
    predictions = score(parts, model)
    metrics = measure(predictions, parts.table.attrs["classes"])
    write_table(folder / "predictions.csv", predictions)
    zoo.save_checkpoint(model, folder / "model", card_fields(context, name, cell, metrics))
    if keras.backend.backend() == "tensorflow":  # elsewhere `publish` writes it
        zoo.export(model, "saved_model", folder / "model")
    trainable = sum(int(keras.ops.size(variable)) for variable in model.trainable_variables)
    result = {key: interval._asdict() for key, interval in metrics.items()}
    write_json(folder / "metrics.json", {"cell": cell, "trainable_parameters": trainable, **result})


def card_fields(context, name, cell, metrics):
    """What the card of a method's model says; `zoo.publish` adds name and version."""
    method, chosen, table = METHODS[name], context.settings, context.parts.table
    source = datasets.source("busi")
    rate, beta_1, _ = grid(chosen, method)[cell]
    weights = backbones.imagenet_file(chosen.backbone)
    return {
        "name": f"{name}-{chosen.backbone}-busi",
        "version": 1,
        "summary": f"{method.title} on {chosen.backbone}: breast masses in ultrasound, benign against malignant",
        "modality": source.modality,
        "task": "classification",
        "recipe": {
            "name": "drs",
            "command": f"{context.command} --method {name}",
            "paper": "Byra 2021, Biomedical Signal Processing and Control 69:102828",
        },
        "build": description(chosen, method),
        "input": {
            "shape": [chosen.image_size, chosen.image_size, 3],
            "range": [0, 255],
            "resize": "bilinear with antialiasing to the shape, the aspect ratio ignored; grey repeated to three "
            "channels",
            "crop": 1.0,
        },
        "classes": table.attrs["classes"],
        "data": {
            "dataset": source.title,
            "licence": source.licence,
            "url": source.url,
            **card_data(table),
            "excluded": f"{len(context.excluded)} images of twin groups with contradictory labels",
        },
        "metrics": card_metrics(metrics, "test", context.protocol, f"{context.command} --method {name}"),
        "licence": f"Apache-2.0; backbone weights {backbones.record(chosen.backbone).imagenet.licence}",
        "limitations": [
            *source.limitations,
            f"One setting (learning rate {rate:g}, beta_1 {beta_1:g}) of profile and seed as in the command; another "
            "seed gives another number within and beyond the interval.",
            "Accuracy, sensitivity and specificity are those of the point nearest the corner of the test ROC curve, as "
            "in the paper: chosen on the test part, they flatter.",
            f"Began with the ImageNet weights in {weights.name}, sha256 {file_sha256(weights)}.",
            *leak_limitation(context),
            "For research, not for diagnosis.",
        ],
    }


def leak_limitation(context):
    """What a card must say of a split by image."""
    twins, n = leaked(context.parts.table)
    text = f"Split by image: {twins} of the {n} test images have a twin among the training or validation images, which "
    return [text + "flatters every metric."] if context.protocol == "published" else []


# ---------------------------------------------------------------------------------------------------------------------
# Section 4: tables 1 and 2, figures 4 to 7


def report(context, out):
    """Writes `report.md`, `results.csv` and figures 4 to 7 for the methods finished so far, and returns the table."""
    parts, classes = context.parts, context.parts.table.attrs["classes"]
    finished = {name: METHODS[name] for name in METHODS if (out / name / "metrics.json").is_file()}
    predictions = {name: pd.read_csv(out / name / "predictions.csv", dtype={"subject": str}) for name in finished}
    reference = predictions.get("feature-extraction")
    rows = []
    for name, method in finished.items():
        saved = read_json(out / name / "metrics.json")
        row = {"method": method.title, "trainable_parameters": saved["trainable_parameters"], "cell": saved["cell"]}
        for key, published in zip(("auc", "accuracy", "sensitivity", "specificity"), method.published, strict=True):
            row |= {f"{key}_paper": published, **interval_columns(key, saved[key])}
        if reference is not None and name != "feature-extraction":
            labels, scores, subjects = test_scores(predictions[name], classes)
            others = test_scores(reference, classes)[1]
            row["p_delong"] = analysis.compare_delong(labels, scores, others, subjects).p_value
            row["p_wilcoxon_as_published"] = analysis.compare_bootstrap_wilcoxon(labels, scores, others).p_value
        rows.append(row)
    table = pd.DataFrame(rows)
    write_table(out / "results.csv", table)
    figures(parts, context.settings, finished, predictions, out)
    with atomic(out / "report.md") as temporary:
        temporary.write_text(report_text(context, finished, table), encoding="utf-8")
    return table


def report_text(context, finished, table):
    """The report in Markdown."""
    data, chosen = context.parts.table, context.settings
    sizes = data["split"].value_counts()
    twins, n = leaked(data)
    lines = [
        f"# DRS on {data.attrs['dataset']}, {context.protocol} protocol",
        "",
        f"`{context.command}`",
        "",
        f"{chosen.backbone} at {chosen.image_size} pixels, {machine()}. {sizes['train']} images train, "
        f"{sizes['validation']} validate, {n} test; {len(context.excluded)} left out. Subjects: "
        f"{SUBJECT_SOURCES[data.attrs['subjects']]} {twins} of the {n} test images have a twin in the training or "
        "validation part.",
        "",
        "Intervals hold 95 %: DeLong, or a bootstrap by subject where subjects repeat; they do not hold the spread "
        "between trainings. p: paired DeLong against feature extraction; in brackets the paper's rank-sum test on "
        "bootstrapped AUCs, whose p-value shrinks with the number of resamples. Accuracy, sensitivity and specificity "
        "at the point of the test ROC curve nearest the upper left corner, as in the paper: chosen on the test part "
        "itself.",
        "",
        "| method | parameters trained | AUC (95 % interval) | paper | p | accuracy | sensitivity | specificity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, row in zip(finished.values(), table.to_dict("records"), strict=True):
        p_value = row.get("p_delong")
        compared = f"{p_value:.2g} ({row['p_wilcoxon_as_published']:.1g})" if pd.notna(p_value) else ""
        shares = [interval_text(key, row) for key in ("auc", *SHARES)]
        cells = [method.title, f"{row['trainable_parameters']:,}", shares[0], f"{row['auc_paper']:.3f}", compared]
        lines.append(f"| {' | '.join([*cells, *shares[1:]])} |")
    lines += [
        "",
        "The paper: 130 test images, split by image, ResNet101, best of 27 trainings on validation accuracy.",
        "",
        "Figures: `figure-4-roc.png`, and where DRS methods ran `figure-5-activation-rates.png`, "
        "`figure-6-activation-rate-changes.png`, `figure-7-scaling-deviations.png`.",
        "",
    ]
    return "\n".join(lines)


SHARES = ("accuracy", "sensitivity", "specificity")


def figures(parts, settings, finished, predictions, out):
    """Figures 4 to 7 as PNG."""
    classes = parts.table.attrs["classes"]
    curves = {method.title: test_scores(predictions[name], classes) for name, method in finished.items()}
    write_figure(out / "figure-4-roc.png", analysis.roc_figure(curves))
    scaled = {name: method for name, method in finished.items() if method.drs}
    if not scaled:
        return
    models = {name: zoo.load(out / name / "model") for name in scaled}
    frozen = builders.build(description(settings, METHODS["feature-extraction"]), weights="imagenet")
    images = parts.batches("test")
    titles = {name: method.title for name, method in scaled.items()}
    rates = {"Feature extraction": analysis.activation_rate(frozen, images)}
    rates |= {titles[name]: analysis.activation_rate(model, images) for name, model in models.items()}
    write_figure(out / "figure-5-activation-rates.png", analysis.activation_rate_figure(rates))
    changes = {titles[name]: analysis.activation_rate_change(model, frozen, images) for name, model in models.items()}
    write_figure(out / "figure-6-activation-rate-changes.png", analysis.activation_rate_change_figure(changes))
    deviations = {titles[name]: analysis.drs_deviations(model) for name, model in models.items()}
    write_figure(out / "figure-7-scaling-deviations.png", analysis.scaling_deviation_figure(deviations))
