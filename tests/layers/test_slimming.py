"""Hybrid transfer: what lies up to a layer stays, what lies behind it is lighter and new."""

import keras
import numpy as np
import pytest
from medzoo import zoo
from medzoo.layers import slim_top, split_at
from medzoo.zoo import builders


def network(classes=None, width=8):
    """A stem, a stage of a residual block, and a stage that begins with a projection; a head if asked for."""
    image = keras.Input((8, 6, 3), name="image")
    x = keras.layers.Conv2D(width, 3, padding="same", name="stem_conv")(image)
    for stage, filters in (("stage1", width), ("stage2", 2 * width)):
        shortcut = x if filters == width else keras.layers.Conv2D(filters, 1, name=f"{stage}_0_conv")(x)
        y = keras.layers.Conv2D(filters, 3, padding="same", name=f"{stage}_conv")(x)
        y = keras.layers.BatchNormalization(name=f"{stage}_bn")(y)
        x = keras.layers.Add(name=f"{stage}_add")([shortcut, y])
        x = keras.layers.Activation("relu", name=f"{stage}_out")(x)
    model = keras.Model(image, x, name="small")
    if classes:
        model = builders.attach_head(model, classes)
    return filled(model)


def filled(model):
    random = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(random.uniform(0.1, 0.9, variable.shape))
    return model


def pixels(*shape):
    return np.random.default_rng(1).uniform(0, 255, shape).astype("float32")


def weights(layer):
    return [keras.ops.convert_to_numpy(variable) for variable in layer.weights]


def outputs(model, name, x):
    return keras.Model(model.inputs[0], model.get_layer(name).output).predict(x, verbose=0)


def test_filters_behind_are_halved_and_all_else_is_kept():
    before = network(classes=3)
    after = slim_top(before, "stage1_out")
    assert after is not before
    assert after.name == before.name
    assert [layer.name for layer in after.layers] == [layer.name for layer in before.layers]
    shapes = {layer.name: [array.shape for array in weights(layer)] for layer in after.layers if layer.weights}
    assert shapes == {
        "stem_conv": [(3, 3, 3, 8), (8,)],
        "stage1_conv": [(3, 3, 8, 8), (8,)],
        "stage1_bn": [(8,)] * 4,
        "stage2_0_conv": [(1, 1, 8, 8), (8,)],
        "stage2_conv": [(3, 3, 8, 8), (8,)],
        "stage2_bn": [(8,)] * 4,
        "head_logits": [(8, 3), (3,)],
    }
    # By hand: (1 + 9) · 8 · 16 + 2 · 16 weights and 4 · 16 of batch norm become half as many, of the head's 16 · 3 too.
    assert before.count_params() - after.count_params() == (1280 + 32 + 64 + 48) // 2
    assert after.output_shape == before.output_shape


def test_weights_before_are_kept_and_behind_at_random():
    before = network(classes=3)
    after = slim_top(before, "stage1_out", width=1)
    x = pixels(2, 8, 6, 3)
    np.testing.assert_array_equal(outputs(after, "stage1_out", x), outputs(before, "stage1_out", x))
    for name in ("stem_conv", "stage1_conv", "stage1_bn"):
        for mine, theirs in zip(weights(after.get_layer(name)), weights(before.get_layer(name)), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    for name in ("stage2_0_conv", "stage2_conv", "head_logits"):
        kernel, bias = weights(after.get_layer(name))
        limit = np.sqrt(6 / (np.prod(kernel.shape[:-2]) * sum(kernel.shape[-2:])))  # Glorot and Bengio, equation (16)
        assert 0.5 * limit < np.abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / 3**0.5, rel=0.25)
        np.testing.assert_array_equal(bias, 0)
    np.testing.assert_array_equal(weights(after.get_layer("stage2_bn")), np.repeat([[1], [0], [0], [1]], 16, axis=1))


def test_seed_decides_and_nothing_is_shared():
    before = network()
    values = before.get_weights()
    networks = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        networks.append(slim_top(before, "stage1_out"))
    first, again, other = (weights(after.get_layer("stage2_conv"))[0] for after in networks)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    networks[0].set_weights([array + 1 for array in networks[0].get_weights()])
    for mine, theirs in zip(before.get_weights(), values, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_trainable_flags_are_kept():
    before = network(classes=2)
    for name in ("stem_conv", "stage2_bn"):
        before.get_layer(name).trainable = False
    after = slim_top(before, "stage1_out")
    assert [layer.name for layer in after.layers if not layer.trainable] == ["stem_conv", "stage2_bn"]


@pytest.mark.parametrize(("width", "filters"), [(1, 16), (0.75, 12), (0.3, 5), (0.01, 1)])
def test_widths_are_rounded_and_one_at_least(width, filters):
    assert slim_top(network(), "stage1_out", width).output_shape == (None, 8, 6, filters)


def test_inside_a_nested_network():
    """The body is nested, the head outside."""
    inner = network()
    image = keras.Input((8, 6, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(inner(image))
    model = filled(keras.Model(image, keras.layers.Dense(2, name="dense")(pooled)))
    slim = slim_top(model, "stage1_out")
    body = slim.get_layer("small")
    assert body is not inner
    x = pixels(2, 8, 6, 3)
    np.testing.assert_array_equal(outputs(body, "stage1_out", x), outputs(inner, "stage1_out", x))
    assert body.output_shape == (None, 8, 6, 8)
    kernel, bias = weights(slim.get_layer("dense"))
    assert kernel.shape == (8, 2)
    assert not bias.any()
    assert slim.predict(x, verbose=0).shape == (2, 2)
    # Cut behind the whole of it, the body stays and the head begins anew.
    slim = slim_top(model, "small")
    np.testing.assert_array_equal(slim.get_layer("small").predict(x, verbose=0), inner.predict(x, verbose=0))
    assert weights(slim.get_layer("dense"))[0].shape == (16, 2)
    assert not weights(slim.get_layer("dense"))[1].any()


def test_depthwise_convolutions_follow_their_input():
    image = keras.Input((8, 6, 3))
    x = keras.layers.Conv2D(8, 3, name="first")(image)
    x = keras.layers.Conv2D(8, 1, name="second")(x)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = keras.layers.SeparableConv2D(10, 3, padding="same", name="separable")(x)
    after = slim_top(keras.Model(image, x), "first")
    assert [array.shape for array in weights(after.get_layer("depthwise"))] == [(3, 3, 4, 2), (8,)]
    assert [array.shape for array in weights(after.get_layer("separable"))] == [(3, 3, 8, 1), (1, 1, 8, 5), (5,)]


@pytest.mark.parametrize(
    ("name", "size", "after", "stage4"),
    [
        ("resnet18", 32, "conv3_block2_out", "conv5_block1_1_conv"),
        ("vgg16", 32, "block2_pool", "block5_conv1"),
        ("inceptionv3", 75, "stage2_mixed2", "stage4_mixed9"),
    ],
)
def test_backbones(name, size, after, stage4):
    before = zoo.backbone(name, weights=None, input_shape=(size, size, 1))
    slim = slim_top(before, after)
    x = pixels(1, size, size, 1)
    np.testing.assert_array_equal(outputs(slim, after, x), outputs(before, after, x))
    assert np.ptp(outputs(slim, after, x)) > 0
    kept = sum(np.size(array) for array in split_at(before, after)[0].get_weights())
    # Of the kernels behind, all but those that stand on `after` lose half of each side.
    assert 0.25 < (slim.count_params() - kept) / (before.count_params() - kept) < 0.3
    assert slim.output_shape == (*before.output_shape[:3], before.output_shape[3] // 2)
    assert slim.get_layer(stage4).output.shape[-1] == before.get_layer(stage4).output.shape[-1] // 2
    assert zoo.backbones.groups(slim) == zoo.backbones.groups(before)


@pytest.mark.parametrize("width", [0, -0.5, 1.01, float("nan"), True, "half", None])
def test_impossible_widths(width):
    refused(network(), r"received width .*, expected a share of the filters above 0 and up to 1", width=width)


def refused(model, message, after="stage1_out", **options):
    with pytest.raises(ValueError, match=message) as error:
        slim_top(model, after, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("stage1_ou", "unknown layer 'stage1_ou': did you mean 'stage1_out'"),
        ("stage1_conv", "stage1_conv: other layers of 'small' bypass it"),
        ("stage2_0_conv", "stage2_0_conv: other layers of 'small' bypass it"),
        ("stem_conv", "behind 'stem_conv' the layer 'stage1_add' would add maps of 8 and 4 channels"),
    ],
)
def test_layers_that_are_no_place_to_cut(after, message):
    refused(network(), message, after)


def test_shortcut_of_full_width_is_no_broadcast():
    """Maps of one channel would be added to any number of them."""
    refused(network(), "'stage1_add' would add maps of 8 and 1 channels", "stem_conv", width=0.01)


def test_addition_written_as_an_operator():
    image = keras.Input((8, 6, 4))
    x = keras.layers.Conv2D(4, 1, name="first")(image)
    model = keras.Model(image, x + keras.layers.Conv2D(4, 1, name="second")(x) + 1.0)
    refused(model, "would add maps of 4 and 2 channels", "first")
    assert slim_top(model, "first", width=1).output_shape == model.output_shape


def test_layer_of_a_nested_network_is_named():
    image = keras.Input((8, 6, 3))
    refused(keras.Model(image, network()(image)), "unknown layer 'stage1_uot': did you mean 'stage1_out'", "stage1_uot")


def test_networks_that_cannot_be_slimmed():
    refused(object(), "functional")
    image = keras.Input((8, 6, 4))
    x = keras.layers.Conv2D(8, 1, name="first")(image)
    grouped = keras.Model(image, keras.layers.Conv2D(8, 1, groups=4, name="grouped")(x))
    refused(grouped, "'grouped' behind 'first' is a convolution in 4 groups", "first")
    assert slim_top(grouped, "first", width=1).get_layer("grouped").groups == 4
    inner = keras.Sequential([keras.Input((8, 6, 8)), keras.layers.Conv2D(8, 1)], name="inner")
    refused(keras.Model(image, inner(x)), "the network 'inner' is nested behind 'first'", "first")
    twice = keras.layers.Conv2D(4, 1, name="twice")
    middle = keras.layers.Activation("relu", name="middle")(twice(image))
    refused(keras.Model(image, twice(middle)), "the layer 'twice' is used before and behind 'middle'", "middle")
