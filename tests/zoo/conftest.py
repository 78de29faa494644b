"""A network small enough to save and load in every test, with a stand-in for a backbone with ImageNet weights."""

import numpy as np
import pytest

SHAPE = (12, 10, 3)


def tiny_backbone(name, weights, input_shape, mean=None):
    """A convolution with batch norm. With "imagenet" its weights are the same at every call."""
    import keras

    image = keras.Input(input_shape, name="image")
    x = keras.layers.Rescaling(1 / 255, name="pixels")(image)
    x = keras.layers.Conv2D(16, 3, name="conv1")(x)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    model = keras.Model(image, keras.layers.ReLU(name="relu1")(x), name=name)
    if weights == "imagenet":
        random = np.random.default_rng(7)
        for variable in model.weights:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.fixture
def tiny(monkeypatch):
    """Registers the builder `tiny`, returns what a card says of it."""
    from medzoo.zoo import builders, checkpoints

    def build_tiny(backbone, input_shape, classes, weights=None):
        return builders.attach_head(tiny_backbone(backbone, weights, tuple(input_shape)), classes)

    monkeypatch.setitem(builders.BUILDERS, "tiny", build_tiny)
    monkeypatch.setattr(checkpoints, "backbone", tiny_backbone)
    arguments = {"backbone": "tiny", "input_shape": list(SHAPE), "classes": 2}
    return {"builder": "tiny", "arguments": arguments}


@pytest.fixture
def tiny_model(tiny):
    """A tiny network whose head has weights of its own, and large enough logits to tell networks apart."""
    from medzoo.zoo.builders import build

    model = build(tiny, weights="imagenet")
    random = np.random.default_rng(3)
    for variable in model.get_layer("head_logits").weights:
        variable.assign(random.normal(0, 0.3, variable.shape))
    return model


@pytest.fixture
def draft():
    """The fields of a card that a run writes, for the builder `tiny`."""
    arguments = {"backbone": "tiny", "input_shape": list(SHAPE), "classes": 2}
    return {
        "summary": "a network for tests",
        "modality": "ultrasound",
        "task": "classification",
        "recipe": {"name": "drs", "command": "medzoo run drs", "paper": "Byra 2021"},
        "build": {"builder": "tiny", "arguments": arguments},
        "input": {"shape": list(SHAPE), "range": [0, 255], "resize": "bilinear", "crop": 1.0, "dicom": "voi"},
        "classes": ["benign", "malignant"],
        "data": {
            "dataset": "busi",
            "licence": "CC0-1.0",
            "url": None,
            "images": 30,
            "subjects": 20,
            "subject_source": "twins",
            "split": {"train": 20, "validation": 4, "test": 6},
            "excluded": "contradictory twin groups",
        },
        "metrics": [
            {
                "name": "auc",
                "part": "test",
                "protocol": "sound",
                "value": 0.9,
                "low": 0.8,
                "high": 0.95,
                "n": 6,
                "command": "medzoo run drs",
                "machine": "2 cores",
            }
        ],
        "licence": "Apache-2.0",
        "limitations": ["made up"],
        "created": "2026-01-31",
    }


@pytest.fixture
def fields(draft):
    """The draft with a name and a version: what `save_checkpoint` takes."""
    return {**draft, "name": "tiny-busi", "version": 1}


@pytest.fixture
def checkpoint(tiny_model, fields, tmp_path):
    """Folder of a whole float32 checkpoint of the tiny network."""
    from medzoo import zoo

    zoo.save_checkpoint(tiny_model, tmp_path / "tiny-busi", fields)
    return tmp_path / "tiny-busi"
