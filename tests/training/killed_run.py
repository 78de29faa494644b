"""A small training in two stages that kills itself at a given point; run as a script by `test_resumption.py`.

python killed_run.py FOLDER [batch | state | part | history | finished]
"""

import contextlib
import json
import os
import random
import signal
import sys
from pathlib import Path

import keras
import numpy as np
from medzoo.analysis import crop_images
from medzoo.datasets import Batches
from medzoo.training import Stage, affine_augmentation, crop_augmentation, fit, fit_stages

STAGES = (
    Stage(4, 0.01, weight_decay=0.1, monitor="val_loss", decay=0.5, decay_epochs=1),
    Stage(3, 0.002, train=("conv2d*", "dense*"), beta_1=0.8, monitor="val_loss"),
)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyBatches(Batches):
    """Dies in the middle of the second epoch it serves."""

    def __getitem__(self, index):
        if self.epoch == 1 and index == 3:
            die()
        return super().__getitem__(index)


def deadly_atomic(point, atomic=fit.atomic):
    """`atomic` that dies while a state file is being written, or right after some file has appeared."""
    states = []

    @contextlib.contextmanager
    def wrapped(path):
        with atomic(path) as temporary:
            yield temporary
            states.append(path.name == "state.safetensors")
            if point == "part" and path.name == "state.safetensors":
                die()
        finished = path.name == "best.safetensors" and (path.parent / "history.csv").is_file()
        if (
            (point == "state" and sum(states) == 1 and states[-1])
            or (point == "history" and path.name == "history.csv")
            or (point == "finished" and finished)
        ):
            die()

    return wrapped


def network():
    """Batch norm, dropout, and layers that Keras names."""
    image = keras.Input((16, 16, 1))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(4, 3)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    x = keras.layers.Dropout(0.3)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(x))


def train(folder, batches=Batches):
    """(weights, history) of the run."""
    generator = np.random.default_rng(0)
    labels = np.arange(34) % 2
    images = generator.uniform(0, 255, (34, 18, 19, 1)) * (0.5 + 0.5 * labels[:, None, None, None])
    random.seed(7)  # where Keras draws its seeds from
    model = network()
    train = batches(images, labels, 5, shuffle=True, seed=3, indices=np.arange(24), class_weight={0: 0.8, 1: 1.2})
    validation = Batches(crop_images(images, (16, 16)), labels, 5, indices=np.arange(24, 34))
    augmentation = keras.Sequential([affine_augmentation(seed=5), crop_augmentation((16, 16), seed=6)])
    history = fit_stages(model, STAGES, train, validation, folder, augmentation, verbose=0)
    return model.get_weights(), history


if __name__ == "__main__":
    folder, point = Path(sys.argv[1]), sys.argv[2]
    # Another process may have made other layers before: Keras goes on counting their names.
    others = [keras.layers.Conv2D(1, 1) for _ in range(3)] + [keras.layers.Dropout(0.1), keras.layers.Dense(1)]
    fit.atomic = deadly_atomic(point)
    weights, history = train(folder, DeadlyBatches if point == "batch" else Batches)
    np.savez(folder / "weights.npz", *weights)
    (folder / "history.json").write_text(json.dumps(history))
