"""Trains, saves and loads a small DRS network as on a machine without TensorFlow; run as a script, with another Keras
backend, by `test_other_backend.py`.

python backend_run.py FOLDER
"""

import random
import sys
from pathlib import Path

import keras
import numpy as np
from medzoo import zoo
from medzoo.datasets import Batches
from medzoo.training import Stage, affine_augmentation, fit_stages
from medzoo.zoo import backbones, builders


class WithoutTensorFlow:
    """Makes TensorFlow impossible to import. Keras does it on any backend where it can, to tell objects apart."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError("No module named 'tensorflow'", name=name)


PIXELS = {"mean": [100.0] * 3, "deviation": [50.0] * 3, "order": "bgr"}
SOURCE = backbones.Source(("none",), "https://example.org/none", "md5:0", "MIT")
ARGUMENTS = {"backbone": "tiny", "input_shape": [24, 20, 1], "classes": 2, "surgery": [{"name": "add_drs"}]}
CARD = {
    "name": "drs-tiny",
    "version": 1,
    "summary": "for tests",
    "modality": "none",
    "task": "classification",
    "recipe": {"name": "none", "command": "none", "paper": "none"},
    "build": {"builder": "classifier", "arguments": ARGUMENTS},
    "input": {"shape": [24, 20, 1], "range": [0, 255], "resize": "none", "crop": 1.0},
    "classes": ["dark", "bright"],
    "data": {
        "dataset": "none",
        "licence": "none",
        "url": None,
        "images": 0,
        "subjects": 0,
        "subject_source": "none",
        "split": {"train": 0, "validation": 0, "test": 0},
        "excluded": "none",
    },
    "metrics": [],
    "licence": "Apache-2.0",
    "limitations": ["for tests"],
}


def build_tiny(pixels):
    x = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv1_conv")(pixels)
    y = keras.layers.Conv2D(4, 3, padding="same", name="conv2_block1_1_conv")(x)
    y = keras.layers.BatchNormalization(name="conv2_block1_1_bn")(y)
    x = keras.layers.Add(name="conv2_block1_add")([x, y])
    x = keras.layers.Activation("relu", name="conv2_block1_out")(x)
    return keras.Model(keras.utils.get_source_inputs(pixels)[0], x)


backbones.register_backbone(
    "tiny", backbones.Backbone(build_tiny, PIXELS, backbones.RESNET_GROUPS, (1, 0, 0, 0), SOURCE)
)


def images():
    return np.random.default_rng(0).uniform(0, 127, (16, 24, 20, 1)) + 128 * (np.arange(16) % 2)[:, None, None, None]


def main(folder):
    random.seed(1)
    model = builders.build(CARD["build"])
    data = Batches(images(), np.arange(16) % 2, 8, shuffle=True, class_weight={0: 0.9, 1: 1.1})
    validation = Batches(images(), np.arange(16) % 2, 8)
    stages = (Stage(6, 0.05, ("drs", "head")), Stage(3, 0.01, weight_decay=0.1))
    history = fit_stages(model, stages, data, validation, folder / "run", affine_augmentation(seed=2), verbose=0)
    assert history[5]["loss"] < history[0]["loss"], history
    zoo.save_checkpoint(model, folder / "drs-tiny", CARD)
    loaded = zoo.load(folder / "drs-tiny")
    scores = loaded.predict(images(), verbose=0)
    np.testing.assert_allclose(scores, model.predict(images(), verbose=0), rtol=1e-6)
    assert np.abs(keras.ops.convert_to_numpy(loaded.get_layer("conv2_block1_add_drs").channel_scale) - 1).max() > 1e-3
    np.save(folder / "scores.npy", scores)
    print("backend", keras.backend.backend())


if __name__ == "__main__":
    sys.meta_path.insert(0, WithoutTensorFlow())
    main(Path(sys.argv[1]))
