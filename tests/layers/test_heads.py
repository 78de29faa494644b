"""The head against pooling and a dense layer in NumPy, on maps and on vectors."""

import keras
import numpy as np
import pytest
from medzoo.layers.heads import attach_head


def body(*shape):
    image = keras.Input(shape, name="image")
    return keras.Model(image, keras.layers.Rescaling(0.5, name="features")(image), name="body")


def by_hand(features, model, activation):
    kernel, bias = model.get_layer("head_logits").get_weights()
    logits = features @ kernel + bias
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("classes", "multi_label", "units", "activation"),
    [
        (2, False, 1, "sigmoid"),
        (5, False, 5, "softmax"),
        (1, True, 1, "sigmoid"),
        (2, True, 2, "sigmoid"),
        (3, True, 3, "sigmoid"),
    ],
)
@pytest.mark.parametrize("shape", [(3, 4, 6), (6,)])
def test_probabilities_by_hand(shape, classes, multi_label, units, activation):
    model = attach_head(body(*shape), classes, multi_label)
    dense = model.get_layer("head_logits")
    dense.bias.assign(np.linspace(-1, 1, units))
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")
    features = x.reshape(4, -1, shape[-1]).mean(axis=1) / 2
    received = model.predict(x, verbose=0)
    assert received.shape == (4, units)
    np.testing.assert_allclose(received, by_hand(features, model, activation), rtol=1e-5)


def test_names_and_layers():
    names = [layer.name for layer in attach_head(body(3, 4, 6), 2).layers]
    assert names[-3:] == ["head_pool", "head_logits", "head_probabilities"]
    # A vector of features needs no pooling.
    assert [layer.name for layer in attach_head(body(6), 2).layers][-2:] == ["head_logits", "head_probabilities"]
    network = body(3, 4, 6)
    model = attach_head(network, 2)
    assert model.get_layer("features") is network.get_layer("features")
    assert model.name == "body"


def test_probabilities_are_float32_in_half_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = attach_head(body(3, 4, 6), 2)
    finally:
        keras.config.set_dtype_policy(before)
    assert model.get_layer("head_logits").compute_dtype == "bfloat16"
    assert model.outputs[0].dtype == "float32"


@pytest.mark.parametrize(
    ("classes", "multi_label", "least"),
    [(1, False, 2), (0, True, 1), (2.0, False, 2), (True, True, 1), (None, False, 2)],
)
def test_impossible_classes(classes, multi_label, least):
    with pytest.raises(ValueError, match=f"classes: received {classes!r}, expected an integer of at least {least}"):
        attach_head(body(3, 4, 6), classes, multi_label)
