"""Fitting a schedule of stages so that a kill at any time costs at most one epoch, and changes nothing else."""

import csv
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import safetensors
import safetensors.numpy
from sklearn.metrics import roc_auc_score

from .._files import atomic
from .stages import make_optimizer, set_trainable

LOSSES = {1: "binary_crossentropy"}


def fit_stages(model, stages, train, validation, run, augmentation=None, verbose=1):
    """Trains a model through a schedule, with the best epoch's weights kept, and can be stopped and started again.

    Each stage is compiled anew, so that what it freezes and decays is in force. After every epoch the state (weights that
    move, optimiser, random generators, patience, learning rate) is written to the run folder; called again with the same
    folder, a finished stage is loaded and an interrupted one goes on after its last whole epoch. On a CPU the weights are
    then the same, bit for bit, as without the interruption.

    Args:
        model: functional `keras.Model` from pixels to probabilities: one unit with a sigmoid, or a softmax. Changed in
            place.
        stages: tuple of `Stage`.
        train: `Batches` of the training part, with class and sample weights in it.
        validation: `Batches` of the validation part, not shuffled, both classes in it.
        run: folder for `stage-0/`, `stage-1/`, ... each with `history.csv`, `tensorboard/` (where TensorFlow is the
            backend), `state.safetensors` while it lasts and `best.safetensors`.
        augmentation: Keras layer applied to the training images on the training device; None for none.
        verbose: as in `keras.Model.fit`: 1 for a progress bar with AUC, 2 for a line an epoch, 0 for silence.

    Returns:
        list of dict, the history: one entry an epoch with `stage, epoch, learning_rate, loss, ..., val_loss,
        val_accuracy, val_auc`. `val_auc` is exact (not a thresholded sum).

    Raises:
        ValueError: when the validation part has one class only, when a stage trains nothing, or when the folder holds the
            state of other stages.
        OSError: when the disk is full; the last state stays usable.

    Example:

    ```python
    stages = (Stage(5, 1e-3, train=("head",)), Stage(20, 1e-4, patience=5))
    history = fit_stages(model, stages, train, validation, "runs/mine")
    ```
    """
    run = Path(run)
    labels = np.concatenate([np.ravel(validation[index][1]) for index in range(len(validation))])
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"validation part: {len(labels)} images, all of class {labels[0] if len(labels) else None}; "
            "expected at least two classes, since the best epoch is chosen on it"
        )
    history = []
    for index, stage in enumerate(stages):
        history += _fit_stage(
            model, index, stage, train, validation, labels, run / f"stage-{index}", augmentation, verbose
        )
    return history


def _fit_stage(model, index, stage, train, validation, labels, folder, augmentation, verbose):
    if not set_trainable(model, stage.train):
        raise ValueError(f"stage {index}: {stage.train} holds no parameter that can be trained")
    best = {variable.path: variable for variable in _moving_variables(model)}
    description = json.dumps(asdict(stage), sort_keys=True)
    finished = _read(folder / "best.safetensors", description)
    if finished and finished[0]["finished"]:
        _assign(best, finished[1], folder / "best.safetensors")
        return _read_history(folder / "history.csv")

    trainer = model
    if augmentation is not None:
        image = keras.Input(model.input_shape[1:], name="raw_image")
        trainer = keras.Model(image, model(augmentation(image)))
    units = model.output_shape[-1]
    trainer.compile(
        optimizer=make_optimizer(model, stage),
        loss=LOSSES.get(units, "sparse_categorical_crossentropy"),
        metrics=["accuracy", keras.metrics.AUC(name="auc")] if units == 1 else ["accuracy"],
        # TensorFlow's XLA doubles the time of a training step on a CPU.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    trainer.optimizer.build(trainer.trainable_variables)
    progress = _Progress(model, stage, index, train, validation, labels, folder, description, trainer, best)
    progress.restore()
    callbacks = [progress]
    if keras.backend.backend() == "tensorflow" and importlib.util.find_spec("tensorboard"):
        callbacks.append(keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False))
    if not progress.is_over():
        # Batches shuffles by itself, a pure function of seed and epoch; Keras would shuffle again by a hidden generator.
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
    """Validation, best weights, learning-rate decay, early stopping, log and state of one stage, in one place so that all
    of it is resumed together."""

    def __init__(self, network, stage, index, train, validation, labels, folder, description, trainer, best):
        super().__init__()
        self.network, self.stage, self.index = network, stage, index
        self.train, self.validation, self.labels = train, validation, labels
        self.folder, self.description = folder, description
        self.best = best
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
        found = _read(path, self.description)
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
        _, arrays = _read(path, self.description)
        _assign(self.best, arrays, path)
        _write_history(self.folder / "history.csv", self.rows)
        self._write("best.safetensors", self.best, {"finished": True})
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
        metadata = {"stage": self.description, "state": json.dumps(state)}
        with atomic(self.folder / name) as temporary:
            safetensors.numpy.save_file(arrays, temporary, metadata)


def validation_metrics(model, batches, labels):
    """Loss, accuracy and exact AUC of a model on batches in order.

    Args:
        model: from pixels to probabilities, one sigmoid unit or a softmax.
        batches: `Batches`, not shuffled.
        labels: class indices of all images in the order of the batches, int array (n,).

    Returns:
        dict with `val_loss` (mean cross-entropy), `val_accuracy` (threshold 0.5, or the largest probability) and
        `val_auc` (two classes: exact; more: unweighted mean over one class against the rest).
    """
    scores = [keras.ops.convert_to_numpy(model.predict_on_batch(batches[i][0])) for i in range(len(batches))]
    scores = np.concatenate(scores).astype("float64")
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


def _read(path, description):
    """State and arrays of a file, or None where there is none."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:
        raise ValueError(f"{path}: not a whole state file ({error}); remove its folder to train anew") from error
    if metadata["stage"] != description:
        raise ValueError(f"{path}: belongs to the stage {metadata['stage']}, received {description}")
    return json.loads(metadata["state"]), arrays


def _assign(variables, arrays, path):
    if variables.keys() != arrays.keys():
        differing = sorted(variables.keys() ^ arrays.keys())
        raise ValueError(f"{path}: belongs to another model: {len(differing)} variables differ, such as {differing[0]}")
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _write_history(path, rows):
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _read_history(path):
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{**row, "stage": int(row["stage"]), "epoch": int(row["epoch"])} for row in rows]
