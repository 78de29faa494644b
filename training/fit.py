"""Fitting a schedule of stages so that a kill at any time costs at most one epoch, and changes nothing else."""

import csv
import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import safetensors
import safetensors.numpy
from sklearn.metrics import roc_auc_score

from .._files import atomic
from .stages import make_optimizer, set_trainable


def fit_stages(model, stages, train, validation, run, augmentation=None, label_weights=None, verbose=1):
    """Trains a model through a schedule, with the best epoch's weights kept, and can be stopped and started again.

    Each stage is compiled anew, so that what it freezes and decays is in force. After every epoch the state (weights
    that move, optimiser, random generators, patience, learning rate) is written to the run folder; called again with
    the same folder, a finished stage is loaded and an interrupted one goes on after its last whole epoch. On a CPU the
    weights are then the same, bit for bit, as without the interruption.

    Args:
        model: functional `keras.Model` from pixels to probabilities: one unit with a sigmoid, a softmax, or, for labels
            that do not exclude each other, several units that end in a sigmoid. Changed in place.
        stages: tuple of `Stage`.
        train: `Batches` of the training part, with class and sample weights in it.
        validation: `Batches` of the validation part, not shuffled, every class in it; of a multi-label task each label
            both present and absent.
        run: folder for `stage-0/`, `stage-1/`, ... each with `history.csv`, `tensorboard/` (where TensorFlow is the
            backend), `state.safetensors` while it lasts and `best.safetensors`.
        augmentation: Keras layer applied to the training images on the training device; None for none. Where it
            crops (`crop_augmentation`) the training images are larger than the network's input, and the validation
            images, which it does not see, are not.
        label_weights: for units with a sigmoid, an array (units, 2) of the weights of absent and present in the
            training loss, such as `inverse_label_weights`; None for 1. `val_loss` is not weighted.
        verbose: as in `keras.Model.fit`: 1 for a progress bar with AUC, 2 for a line an epoch, 0 for silence.

    Returns:
        list of dict, the history: one entry an epoch with `stage, epoch, learning_rate, loss, ..., val_loss,
        val_accuracy, val_auc`. `val_auc` is exact (not a thresholded sum); see `validation_metrics`.

    Raises:
        ValueError: when the validation part lacks a class, when network, labels and weights do not fit each other, when
            a stage trains nothing, or when the folder holds the state of another model or of other stages.
        OSError: when the disk is full; the last state stays usable.

    Example:

    ```python
    stages = (Stage(5, 1e-3, train=("head",)), Stage(20, 1e-4, patience=5))
    history = fit_stages(model, stages, train, validation, "runs/mine")
    ```
    """
    run = Path(run)
    labels = _labels(model, validation)
    history = []
    for index, stage in enumerate(stages):
        history += _fit_stage(
            model, index, stage, train, validation, labels, run / f"stage-{index}", augmentation, label_weights, verbose
        )
    return history


def _labels(model, validation):
    """Labels of the validation part: class indices (n,), or 0 and 1 of a multi-label task (n, labels)."""
    labels = np.concatenate([validation[index][1] for index in range(len(validation))])
    units = model.output_shape[-1]
    multi_label = units > 1 and _ends_in_sigmoid(model)
    if labels.shape[1] != (expected := units if multi_label else 1):
        kind = f"sigmoid of {units} units" if multi_label else "sigmoid" if units == 1 else "softmax"
        raise ValueError(
            f"validation part: received labels of shape {labels.shape} for model {model.name!r}, which ends in a "
            f"{kind}; expected (images, {expected})"
        )
    if multi_label:
        present = labels.sum(axis=0)
        if constant := np.flatnonzero((present == 0) | (present == len(labels))).tolist():
            raise ValueError(
                f"validation part: label {constant[0]} is present in {present[constant[0]]} of {len(labels)} images; "
                "expected each label both present and absent, since the best epoch is chosen on it"
            )
        return labels
    labels, classes = labels[:, 0], max(2, units)
    if set(np.unique(labels)) != set(range(classes)):
        raise ValueError(
            f"validation part: {len(labels)} images of class {', '.join(map(str, np.unique(labels)))}; "
            f"expected all of the {classes} classes, since the best epoch is chosen on it"
        )
    return labels


def _loss(model, label_weights):
    units = model.output_shape[-1]
    sigmoid = units == 1 or _ends_in_sigmoid(model)
    if label_weights is None:
        return "binary_crossentropy" if sigmoid else "sparse_categorical_crossentropy"
    weights = np.asarray(label_weights, "float32")
    if not sigmoid or weights.shape != (units, 2):
        expected = f"({units}, 2)" if sigmoid else "None for a network that ends in a softmax"
        raise ValueError(f"label_weights: received shape {weights.shape}, expected {expected}")

    def weighted_binary_crossentropy(labels, probabilities):
        labels = keras.ops.cast(labels, probabilities.dtype)
        absent, present = keras.ops.unstack(keras.ops.convert_to_tensor(weights.T, probabilities.dtype))
        losses = keras.ops.binary_crossentropy(labels, probabilities)
        return keras.ops.mean((absent + (present - absent) * labels) * losses, axis=-1)

    return weighted_binary_crossentropy


def _ends_in_sigmoid(model):
    last = model.layers[-1]
    while isinstance(last, keras.Model):
        last = last.layers[-1]
    return getattr(last, "activation", None) is keras.activations.sigmoid


def _metrics(model):
    """What the progress bar shows of the training part; its AUC is a thresholded sum."""
    units = model.output_shape[-1]
    if units > 1 and _ends_in_sigmoid(model):
        # By their names Keras would take several units for classes that exclude each other.
        area = keras.metrics.AUC(name="auc", multi_label=True, num_labels=units)
        return [keras.metrics.BinaryAccuracy(name="accuracy"), area]
    return ["accuracy", keras.metrics.AUC(name="auc")] if units == 1 else ["accuracy"]


def compile_stage(model, stage, train, augmentation=None, label_weights=None):
    """Makes a model ready to train as a stage has it: what trains, optimiser, loss and augmentation.

    Args:
        model, train, augmentation, label_weights: as for `fit_stages`.
        stage: `Stage`.

    Returns:
        The compiled model to call `fit` or `train_on_batch` of: `model` behind the augmentation, on the same weights.

    Raises:
        ValueError: when the stage trains nothing, or label weights do not fit.
    """
    if not set_trainable(model, stage.train):
        raise ValueError(f"stage: {stage.train} holds no parameter that can be trained")
    trainer = model
    if augmentation is not None:
        image = keras.Input(train[0][0].shape[1:], name="raw_image")  # larger than the network's where it is cropped
        trainer = keras.Model(image, model(augmentation(image)))
    trainer.compile(
        optimizer=make_optimizer(model, stage),
        loss=_loss(model, label_weights),
        metrics=_metrics(model),
        auto_scale_loss=False,  # Keras would look at the precision of `trainer`, which has no layers of its own
        # TensorFlow's XLA doubles the time of a training step on a CPU.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    trainer.optimizer.build(trainer.trainable_variables)
    return trainer


def _fit_stage(model, index, stage, train, validation, labels, folder, augmentation, label_weights, verbose):
    if not set_trainable(model, stage.train):
        raise ValueError(f"stage {index}: {stage.train} holds no parameter that can be trained")
    for unfinished in folder.glob(".part-*"):  # left by a kill while a file was being written
        unfinished.unlink()
    best = _by_path(_moving_variables(model))
    random = [] if augmentation is None else augmentation.variables
    finished = _read(folder / "best.safetensors", stage)
    if finished and finished[0]["finished"]:
        _assign(best, finished[1], folder / "best.safetensors")
        for variable, value in zip(random, finished[0].get("random", ()), strict=False):
            variable.assign(np.array(value, variable.dtype))
        (folder / "state.safetensors").unlink(missing_ok=True)
        return _read_history(folder / "history.csv")

    trainer = compile_stage(model, stage, train, augmentation, label_weights)
    progress = _Progress(model, stage, index, train, validation, labels, folder, trainer, best, random)
    progress.restore()
    callbacks = [progress]
    if keras.backend.backend() == "tensorflow":
        callbacks.append(keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False))
    if not progress.is_over():
        # Batches shuffles by itself, a pure function of seed and epoch; Keras would again, by a hidden generator.
        trainer.fit(
            train,
            epochs=stage.epochs,
            initial_epoch=progress.epoch,
            shuffle=False,
            callbacks=callbacks,
            verbose=verbose,
        )
    return progress.finish()


class _Progress(keras.callbacks.Callback):
    """Validation, best weights, learning-rate decay, early stopping, log and state of one stage, in one place so that
    all of it is resumed together."""

    def __init__(self, network, stage, index, train, validation, labels, folder, trainer, best, random):
        super().__init__()
        self.network, self.stage, self.index = network, stage, index
        self.train, self.validation, self.labels = train, validation, labels
        self.folder = folder
        self.best, self.random = best, random
        # Numbered, since Keras counts up the names of random generators over the life of a process.
        moving = [*_moving_variables(trainer), *trainer.optimizer.variables]
        self.moving = {f"{number:05d}": variable for number, variable in enumerate(moving)}
        self.optimizer = trainer.optimizer
        self.epoch = 0
        self.best_value = None
        self.since_best = 0
        self.since_decay = 0
        self.rows = []

    def restore(self):
        path = self.folder / "state.safetensors"
        found = _read(path, self.stage)
        if found:
            state, arrays = found
            _assign(self.moving, arrays, path)
            self.epoch, self.best_value = state["epoch"], state["best_value"]
            self.since_best, self.since_decay = state["since_best"], state["since_decay"]
            self.rows = state["rows"]

    def is_over(self):
        patience = self.stage.patience
        return self.epoch >= self.stage.epochs or (patience is not None and self.since_best >= patience)

    def on_epoch_begin(self, epoch, logs=None):
        self.train.epoch = epoch  # the order of the images is a function of it

    def on_epoch_end(self, epoch, logs=None):
        learning_rate = float(self.optimizer.learning_rate)
        values = validation_metrics(self.network, self.validation, self.labels)
        logs.update(values)  # the progress bar and TensorBoard come after this callback and show them
        self.rows.append(
            {"stage": self.index, "epoch": epoch, "learning_rate": learning_rate}
            | {name: float(value) for name, value in logs.items()}
        )
        self.epoch = epoch + 1
        if self._improved(values[self.stage.monitor]):
            self.best_value = values[self.stage.monitor]
            self.since_best = self.since_decay = 0
            self._write("best.safetensors", self.best, {"finished": False, "epoch": epoch})
        else:
            self.since_best += 1
            self.since_decay += 1
        if self.stage.decay_epochs and self.since_decay == self.stage.decay_epochs:
            self.optimizer.learning_rate = learning_rate * self.stage.decay
            self.since_decay = 0
        self._write("state.safetensors", self.moving, self._state())
        if self.is_over():
            self.model.stop_training = True

    def finish(self):
        """Loads the best epoch's weights, writes the log and marks the stage as finished."""
        path = self.folder / "best.safetensors"
        _, arrays = _read(path, self.stage)
        _assign(self.best, arrays, path)
        _write_history(self.folder / "history.csv", self.rows)
        # The augmentation draws on in the next stage from where this one, not its best epoch, left it.
        random = [keras.ops.convert_to_numpy(variable).tolist() for variable in self.random]
        self._write("best.safetensors", self.best, {"finished": True, "random": random})
        (self.folder / "state.safetensors").unlink(missing_ok=True)
        return self.rows

    def _improved(self, value):
        if self.best_value is None:
            return True
        return value < self.best_value if self.stage.monitor == "val_loss" else value > self.best_value

    def _state(self):
        names = ("epoch", "best_value", "since_best", "since_decay", "rows")
        return {name: getattr(self, name) for name in names}

    def _write(self, name, variables, state):
        arrays = {path: np.ascontiguousarray(keras.ops.convert_to_numpy(v)) for path, v in variables.items()}
        metadata = {"stage": _describe(self.stage), "state": json.dumps(state), "order": json.dumps(list(arrays))}
        with atomic(self.folder / name) as temporary:
            # Not `save_file`, whose files nobody else may read.
            temporary.write_bytes(safetensors.numpy.save(arrays, metadata))


def validation_metrics(model, batches, labels):
    """Loss, accuracy and exact AUC of a model on batches in order.

    Args:
        model: from pixels to probabilities, as for `fit_stages`.
        batches: `Batches`, not shuffled.
        labels: class indices of all images in the order of the batches, int array (n,); of a multi-label task 0 and 1,
            int array (n, labels).

    Returns:
        dict with `val_loss` (mean cross-entropy, over labels too), `val_accuracy` (threshold 0.5, or the largest
        probability; of several labels the share of all of them that is right) and `val_auc` (two classes: exact; more:
        unweighted mean over one class against the rest, or over labels). A network that diverged, whose outputs are no
        numbers, gets the worst values there are.
    """
    scores = [keras.ops.convert_to_numpy(model.predict_on_batch(batches[i][0])) for i in range(len(batches))]
    scores = np.concatenate(scores).astype("float64")
    if not np.isfinite(scores).all():
        return {"val_loss": float("inf"), "val_accuracy": 0.0, "val_auc": 0.0}
    if labels.ndim == 2:
        likelihood = np.clip(np.where(labels == 1, scores, 1 - scores), 1e-7, 1)
        return {
            "val_loss": float(-np.log(likelihood).mean()),
            "val_accuracy": float(((scores >= 0.5) == (labels == 1)).mean()),
            "val_auc": float(roc_auc_score(labels, scores, average="macro")),
        }
    if scores.shape[1] == 1:
        scores = np.concatenate([1 - scores, scores], axis=1)
    likelihood = np.clip(scores[np.arange(len(labels)), labels], 1e-7, 1)
    auc = (
        roc_auc_score(labels, scores[:, 1])
        if scores.shape[1] == 2
        else roc_auc_score(labels, scores, multi_class="ovr")
    )
    return {
        "val_loss": float(-np.log(likelihood).mean()),
        "val_accuracy": float((scores.argmax(axis=1) == labels).mean()),
        "val_auc": float(auc),
    }


def _moving_variables(model):
    """The variables of a model that training moves: all but its metrics and the weights of frozen layers."""
    frozen = {id(variable) for variable in model.metrics_variables}
    for layer in model.layers:
        if not layer.trainable:
            frozen |= {id(variable) for variable in layer.weights}
        elif isinstance(layer, keras.Model):
            moving = {id(variable) for variable in _moving_variables(layer)}
            frozen |= {id(variable) for variable in layer.variables} - moving
    return [variable for variable in model.variables if id(variable) not in frozen]


def _by_path(variables):
    """Variables by path, and by number where several share one: nested networks may have layers of the same name."""
    seen = Counter()
    named = {}
    for variable in variables:
        number = seen[variable.path]
        seen[variable.path] += 1
        named[f"{variable.path}#{number}" if number else variable.path] = variable
    return named


def _describe(stage):
    return json.dumps(asdict(stage), sort_keys=True)


def _read(path, stage):
    """State and arrays, in the order written, of a file; None where there is none."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata()
            names = json.loads(metadata["order"]) if "order" in metadata else file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        written, state = json.loads(metadata["stage"]), json.loads(metadata["state"])
    except Exception as error:
        raise ValueError(f"{path}: not a whole state file ({error}); remove its folder to train anew") from error
    expected = json.loads(_describe(stage))
    differing = [key for key in expected if written.get(key) != expected[key]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{path}: belongs to a stage with {key} {written.get(key)!r}, received {expected[key]!r}; "
            "expected the same stages, or another folder"
        )
    return state, arrays


def _assign(variables, arrays, path):
    """Gives variables the arrays of a file, all or, where they do not fit, none."""
    if variables.keys() != arrays.keys() and [*map(_unnumbered, variables)] == [*map(_unnumbered, arrays)]:
        # Keras counts up the automatic names of layers over the life of a process; their order stays.
        arrays = dict(zip(variables, arrays.values(), strict=True))
    differing = sorted(variables.keys() ^ arrays.keys())
    # Scalars are written as arrays of one element: `ascontiguousarray` knows no others.
    shapes = {name: tuple(variable.shape) or (1,) for name, variable in variables.items()}
    differing += [name for name in variables if name in arrays and shapes[name] != arrays[name].shape]
    if differing:
        raise ValueError(f"{path}: belongs to another model: {len(differing)} variables differ, such as {differing[0]}")
    for name, variable in variables.items():
        variable.assign(arrays[name].reshape(variable.shape))


def _unnumbered(path):
    return re.sub(r"_\d+(?=/|#|$)", "", path)


def _write_history(path, rows):
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _read_history(path):
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{**row, "stage": int(row["stage"]), "epoch": int(row["epoch"])} for row in rows]
