import keras
import numpy as np
import pytest
from medzoo.analysis import class_activation_map, class_overlays, evidence_map, occlusion_map, overlay
from medzoo.layers import add_top, attach_head


def network(units, dropout=False, size=(24, 32, 3)):
    """A network whose last feature map is 3 by 4 pixels, an eighth of the input."""
    keras.utils.set_random_seed(4)
    images = keras.Input(size)
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(6, 5, strides=4, padding="same", activation="relu")(x)
    x = keras.layers.Conv2D(7, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    if dropout:
        x = keras.layers.Dropout(0.5)(x)
    logits = keras.layers.Dense(units, name="head_logits", bias_initializer="normal")(x)
    activation = "sigmoid" if units == 1 else "softmax"
    return keras.Model(images, keras.layers.Activation(activation, name="head_probabilities")(logits))


def logits_and_bias(model, images):
    dense = model.get_layer("head_logits")
    return keras.Model(model.inputs, dense.output).predict(images, verbose=0), dense.get_weights()[1]


@pytest.fixture
def images():
    return np.random.default_rng(2).uniform(0, 255, (5, 24, 32, 3)).astype("float32")


@pytest.mark.parametrize("dropout", [False, True])
def test_mean_of_the_map_and_bias_are_the_logit(images, dropout):
    """Zhou 2016, equation (1): the class score is the sum of its map over all positions."""
    model = network(3, dropout)
    logits, bias = logits_and_bias(model, images)
    for index in range(3):
        maps = class_activation_map(model, images, index)
        assert maps.shape == (5, 24, 32)
        assert maps.dtype == np.float32
        np.testing.assert_allclose(maps.mean(axis=(1, 2)) + bias[index], logits[:, index], rtol=1e-5, atol=1e-6)
    best = class_activation_map(model, images)
    predicted = logits.argmax(axis=1)
    np.testing.assert_allclose(best.mean(axis=(1, 2)) + bias[predicted], logits.max(axis=1), rtol=1e-5, atol=1e-6)


def test_one_unit_explains_class_1_and_its_opposite(images):
    model = network(1)
    logits, bias = logits_and_bias(model, images)
    maps = class_activation_map(model, images)
    np.testing.assert_allclose(maps.mean(axis=(1, 2)) + bias[0], logits[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(class_activation_map(model, images, 1), maps)
    np.testing.assert_array_equal(class_activation_map(model, images, 0), -maps)


def test_the_map_is_the_weighted_feature_map_enlarged(images):
    """At integer factors, the mean of each block of 8 by 8 pixels of a linear ramp is the ramp itself."""
    model = network(2)
    features = keras.Model(model.inputs, model.get_layer("head_pool").input).predict(images, verbose=0)
    small = features @ model.get_layer("head_logits").get_weights()[0][:, 1]
    large = class_activation_map(model, images, 1)
    # Bilinear interpolation between pixel centres 8 apart: the first centre lies between pixels 3 and 4.
    np.testing.assert_allclose(large[:, :4, :4], np.broadcast_to(small[:, :1, :1], (5, 4, 4)), rtol=1e-4, atol=1e-6)
    between = small[:, 0, 0] + (small[:, 0, 1] - small[:, 0, 0]) * 0.5 / 8
    np.testing.assert_allclose(large[:, 0, 4], between, rtol=1e-4, atol=1e-6)


def test_the_map_finds_where_the_evidence_lies():
    model = network(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):  # every filter sums what it sees
            layer.set_weights([np.ones_like(layer.get_weights()[0]), np.zeros_like(layer.get_weights()[1])])
    dense = model.get_layer("head_logits")
    dense.set_weights([np.ones_like(dense.get_weights()[0]), np.zeros(1)])
    image = np.zeros((1, 24, 32, 3), "float32")
    image[0, 16:, :8] = 255
    row, column = np.unravel_index(class_activation_map(model, image)[0].argmax(), (24, 32))
    assert row >= 12  # the lower left quarter
    assert column < 16


def linear_top(units):
    """Features are the image's pixels, the top layer a 1x1 convolution, the logit therefore a sum over the pixels."""
    keras.utils.set_random_seed(4)
    image = keras.Input((4, 5, 3), name="image")
    features = keras.layers.Rescaling(0.1, name="features")(image)
    x = keras.layers.Conv2D(6, 1, use_bias=False, name="top_conv")(features)
    x = keras.layers.GlobalAveragePooling2D(name="head_pool")(x)
    return keras.Model(
        image, keras.layers.Dense(units, name="head_logits", bias_initializer="normal")(x), name="linear"
    )


def lost_by_hand(model, image, unit):
    """Of each cell: the mean over all cells of weight times what the hidden 3x3 are above the image's mean."""
    weight = model.get_layer("top_conv").get_weights()[0][0, 0] @ model.get_layer("head_logits").get_weights()[0]
    above = (image / 10 - (image / 10).mean(axis=(0, 1))) @ weight[:, unit]
    padded = np.pad(above, 1)
    return np.array([[padded[i : i + 3, j : j + 3].sum() / 20 for j in range(5)] for i in range(4)])


class TestOcclusion:
    @pytest.fixture
    def pixels(self):
        return np.random.default_rng(3).uniform(0, 255, (3, 4, 5, 3)).astype("float32")

    def test_what_a_linear_network_loses_by_hand(self, pixels):
        model = linear_top(3)
        for index in range(3):
            maps = occlusion_map(model, pixels, index)
            assert maps.shape == (3, 4, 5)
            assert maps.dtype == np.float32
            for received, image in zip(maps, pixels, strict=True):
                expected = lost_by_hand(model, image, index)
                np.testing.assert_allclose(received, expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-4)
        best = model.predict(pixels, verbose=0).argmax(axis=1)
        expected = [lost_by_hand(model, image, index) for image, index in zip(pixels, best, strict=True)]
        np.testing.assert_allclose(occlusion_map(model, pixels), expected, rtol=1e-3, atol=1e-4)

    def test_one_unit_explains_class_1_and_its_opposite(self, pixels):
        model = linear_top(1)
        maps = occlusion_map(model, pixels)
        np.testing.assert_allclose(maps[0], lost_by_hand(model, pixels[0], 0), rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(occlusion_map(model, pixels, 1), maps)
        np.testing.assert_array_equal(occlusion_map(model, pixels, 0), -maps)

    @pytest.mark.parametrize(
        ("top", "heatmap"),
        [
            ("resnet-4-4-8x1", None),
            ("vgg-6x1", None),
            ("heatmap-pool2-fc8", {"classes": 3, "cells": [2, 2]}),
            ("heatmap-resnet-4-4-8x1", {"classes": 3, "cells": [2, 2]}),
        ],
    )
    def test_every_place_counts_with_every_kind_of_top(self, top, heatmap):
        """Also with a ResNet top, which reads every fourth cell only."""
        keras.utils.set_random_seed(4)
        image = keras.Input((32, 48, 3), name="image")
        trunk = keras.Model(image, keras.layers.Conv2D(8, 4, 4, activation="relu", name="conv1_conv")(image))
        model = attach_head(add_top(trunk, top, heatmap), 2)
        if heatmap:  # its ReLU must not hide everything
            model.get_layer("heatmap_logits").bias.assign([500.0] * 3)
        images = np.random.default_rng(1).uniform(0, 255, (2, 32, 48, 3)).astype("float32")
        maps = occlusion_map(model, images)
        assert maps.shape == (2, 32, 48)
        centres = maps[:, 1::4, 1::4]
        assert (np.abs(centres) > 1e-6 * np.abs(maps).max()).mean() > 0.95
        # Hiding what is alike everywhere changes nothing.
        assert np.abs(occlusion_map(model, np.full((1, 32, 48, 3), 77.0))).max() < 1e-5 * np.abs(maps).max()
        np.testing.assert_array_equal(evidence_map(model, images), maps)

    def test_evidence_is_a_class_activation_map_without_top_layers(self, images):
        model = network(3)
        np.testing.assert_array_equal(evidence_map(model, images, 2), class_activation_map(model, images, 2))


def test_class_overlays_lie_over_the_middle_of_their_patches():
    """Two by three patches of 8 pixels at steps of 4, in an image of 12 x 16: a border of two pixels is no middle."""
    image = np.full((12, 16, 1), 100.0)
    heatmap = np.zeros((2, 3, 3))
    heatmap[0, 2, 1], heatmap[1, 0, 2] = 1.0, 0.5
    first, second = class_overlays(image, heatmap, stride=4)
    full, half = [168, 96, 40], [134, 98, 70]  # 60 % and 30 % of vermilion (213, 94, 0)
    assert (first[2:6, 10:14] == full).all()
    assert (second[6:10, 2:6] == half).all()
    for picture in (first, second):
        assert picture.shape == (12, 16, 3)
        assert (picture != 100).any(axis=-1).sum() == 16


def test_class_overlays_of_the_size_of_the_paper():
    """Patches of 224 at steps of 32 over 1152 x 896: their middles begin (224 - 32) / 2 = 96 pixels from the border."""
    heatmap = np.zeros((30, 22, 2))
    heatmap[..., 1] = 1
    picture = class_overlays(np.zeros((1152, 896, 1)), heatmap)[0]
    rows, columns = np.flatnonzero(picture.any(axis=(1, 2))), np.flatnonzero(picture.any(axis=(0, 2)))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (96, 1152 - 97, 96, 896 - 97)


def test_overlay_shows_sign_and_strength():
    image = np.full((1, 3, 1), 100.0)
    coloured = overlay(image, np.array([[-2.0, 0.0, 2.0]]))
    assert coloured.dtype == np.uint8
    assert coloured.shape == (1, 3, 3)
    against, nothing, evidence = coloured[0].astype(int)
    assert nothing.tolist() == [100, 100, 100]
    # 60 % of vermilion (213, 94, 0) or of blue (0, 114, 178), and 40 of the grey 100.
    assert evidence.tolist() == [168, 96, 40]
    assert against.tolist() == [40, 108, 147]
    half = overlay(image, np.array([[-1.0, 1.0, 2.0]]))[0].astype(int)  # 30 % of the colour, 70 of the grey
    assert half[:2].tolist() == [[70, 104, 123], [134, 98, 70]]


def test_overlay_of_an_empty_map_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3))
    np.testing.assert_array_equal(overlay(image, np.zeros((4, 5))), image)


def test_bad_input_gets_one_line(images):
    model = network(1)
    flat = keras.Sequential([keras.Input((24, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(1)], name="flat")
    image = keras.Input((24, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="head_pool")(image)
    hidden = keras.layers.Dense(4, activation="relu")(pooled)
    deep = keras.Model(image, keras.layers.Dense(1, name="head_logits")(hidden), name="deep")
    linear, pixels = linear_top(1), np.zeros((1, 4, 5, 3))
    cases = [
        (lambda: occlusion_map(model, images), "expected top layers .* and the layer 'head_logits'"),
        (lambda: occlusion_map(linear, pixels[0]), r"images: received shape \(4, 5, 3\)"),
        (lambda: occlusion_map(linear, pixels, 2), "class_index: received 2, expected 0 to 1"),
        (lambda: class_overlays(np.zeros((64, 64, 1)), np.zeros((3, 2, 5))), r"heatmap: received shape \(3, 2, 5\)"),
        (lambda: class_overlays(np.zeros((64, 64, 1)), np.zeros((2, 2))), r"heatmap: received shape \(2, 2\)"),
        (lambda: class_activation_map(flat, images), "model 'flat': expected the layers 'head_pool'"),
        (lambda: class_activation_map(deep, images), "'head_logits' does not follow 'head_pool'"),
        (lambda: class_activation_map(model, images[0]), r"images: received shape \(24, 32, 3\)"),
        (lambda: class_activation_map(model, images[:, :8]), r"images: received shape \(5, 8, 32, 3\)"),
        (lambda: class_activation_map(model, images, 2), "class_index: received 2, expected 0 to 1"),
        (lambda: class_activation_map(network(3), images, -1), "class_index: received -1, expected 0 to 2"),
        (lambda: overlay(np.zeros((4, 5, 3)), np.zeros((5, 4))), r"heatmap: received shape \(5, 4\)"),
        (lambda: overlay(np.zeros((4, 5)), np.zeros((4, 5))), r"image: received shape \(4, 5\)"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
