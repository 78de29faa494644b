"""A network that is compiled once and trained many times."""

import keras
import numpy as np
import pytest
from medzoo.datasets import Batches
from medzoo.training import Trainer, affine_augmentation
from medzoo.zoo import backbones, builders

PIXELS = {"mean": [100.0] * 3, "deviation": [50.0] * 3, "order": "bgr"}
BUILD = {
    "builder": "classifier",
    "arguments": {"backbone": "tiny", "input_shape": [24, 20, 1], "classes": 2, "dropout": 0.5},
}


def build_tiny(pixels):
    x = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv1_conv")(pixels)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    return keras.Model(keras.utils.get_source_inputs(pixels)[0], keras.layers.ReLU(name="conv1_relu")(x))


@pytest.fixture
def build(monkeypatch):
    source = backbones.Source(("none",), "https://example.org/none", "md5:0", "MIT")
    record = backbones.Backbone(build_tiny, PIXELS, {"stem": ("conv1_*",)}, (), source)
    monkeypatch.setitem(backbones.BACKBONES, "tiny", record)
    return BUILD


def fit(trainer, weights, rate=1e-3, seed=0, steps=4):
    images = np.random.default_rng(0).uniform(0, 255, (10, 24, 20, 1)).astype("float32")
    batches = Batches(images, np.arange(10) % 2, batch_size=4, shuffle=True, seed=seed)
    return trainer.fit(weights, batches, rate, steps), trainer.exact.get_weights()


def test_each_training_begins_anew(build):
    """Neither the optimiser's moments nor random states (augmentation, dropout) go from one training into the next."""
    weights, others = (builders.build(build).get_weights() for _ in range(2))

    def make():
        return Trainer(build, augmentation=affine_augmentation(seed=3), momentum=0.9)

    keras.utils.set_random_seed(5)  # seeds of layers that draw their own
    trainer = make()
    history, first = fit(trainer, weights)
    assert [(row["epoch"], row["steps"]) for row in history] == [(0, 3), (1, 4)]
    moved = [np.abs(new - old).max() for new, old in zip(first, weights, strict=True)]
    assert max(moved) > 1e-4
    _, second = fit(trainer, others, rate=1e-2, seed=1)
    assert any(not np.array_equal(one, two) for one, two in zip(first, second, strict=True))
    keras.utils.set_random_seed(5)
    for again in (trainer, make()):
        repeated, found = fit(again, weights)
        assert repeated == history
        for one, two in zip(found, first, strict=True):
            np.testing.assert_array_equal(one, two)


def test_momentum_is_set_where_asked(build):
    def momenta(trainer):
        norms = [each for each in trainer.model.layers if isinstance(each, keras.layers.BatchNormalization)]
        return [each.momentum for each in norms]

    assert momenta(Trainer(build, momentum=0.9)) == [0.9]
    assert momenta(Trainer(build)) == [0.99]


def test_the_network_afterwards_is_exact(build):
    """Trained in half precision, it computes in float32, with the weights that the training ended with."""
    trainer = Trainer(build, precision="mixed_bfloat16")
    fit(trainer, builders.build(build).get_weights())
    assert {layer.compute_dtype for layer in trainer.exact.layers} == {"float32"}
    assert "bfloat16" in {layer.compute_dtype for layer in trainer.model.layers}
    for one, two in zip(trainer.exact.get_weights(), trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
