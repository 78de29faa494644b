"""Counts against arithmetic by hand and against the published costs of known networks."""

import runpy
from pathlib import Path

import keras
import pytest
from medzoo import zoo
from medzoo.analysis import multiply_accumulates
from medzoo.layers import DRSLayer, morph_stem


def total(model):
    return int(multiply_accumulates(model)["multiply_accumulates"].sum())


def network(*layers, shape=(8, 6, 4)):
    return keras.Sequential([keras.Input(shape), *layers])


@pytest.mark.parametrize(
    ("layer", "by_hand"),
    [
        # positions of the output × taps × inputs × filters
        (keras.layers.Conv2D(5, 3), 6 * 4 * 9 * 4 * 5),
        (keras.layers.Conv2D(5, 3, padding="same"), 8 * 6 * 9 * 4 * 5),
        (keras.layers.Conv2D(5, (1, 3), strides=2, padding="same"), 4 * 3 * 3 * 4 * 5),
        (keras.layers.Conv2D(6, 3, groups=2), 6 * 4 * 9 * 2 * 6),
        (keras.layers.Conv2D(5, 3, dilation_rate=2), 4 * 2 * 9 * 4 * 5),
        (keras.layers.DepthwiseConv2D(3, depth_multiplier=2), 6 * 4 * 9 * 4 * 2),
        # the depthwise part, which strides, and then 1x1 from 8 channels to 5
        (keras.layers.SeparableConv2D(5, 3, 2, depth_multiplier=2), 3 * 2 * (9 * 8 + 8 * 5)),
        (keras.layers.Dense(7), 8 * 6 * 4 * 7),
    ],
)
def test_one_layer_by_hand(layer, by_hand):
    assert total(network(layer)) == by_hand


def test_layers_that_are_not_counted():
    model = network(
        keras.layers.ZeroPadding2D(1),
        keras.layers.BatchNormalization(),
        keras.layers.PReLU(),
        keras.layers.MaxPooling2D(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax"),
    )
    assert multiply_accumulates(model).to_dict("records") == [
        {"layer": model.layers[-1].name, "multiply_accumulates": 12}
    ]


def test_nested_and_shared_layers_count_at_every_call_and_size():
    any_size = keras.Input((None, None, 4))
    nested = keras.Model(any_size, keras.layers.Conv2D(4, 1, name="inner")(any_size), name="nested")
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    deep = keras.Sequential([nested], name="deep")
    image = keras.Input((8, 8, 4))
    x = shared(nested(image))
    x = shared(deep(keras.layers.AveragePooling2D(2)(x)) + 1)
    model = keras.Model(image, x)
    before = model.get_config()
    assert multiply_accumulates(model).values.tolist() == [
        ["nested/inner", 64 * 16],
        ["shared", 64 * 9 * 16],
        ["deep/nested/inner", 16 * 16],
        ["shared", 16 * 9 * 16],
    ]
    assert (model.get_config(), shared.output.shape) == (before, (None, 8, 8, 4))


def test_a_compiled_model_with_a_loss_of_its_own():
    model = network(keras.layers.Dense(1))
    model.compile(loss=lambda labels, outputs: outputs - labels)
    assert total(model) == 8 * 6 * 4


def test_mobilenetv2_costs_what_is_published():
    model = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(224, 224, 3))
    assert total(model) == pytest.approx(300e6, rel=0.01)  # Sandler and others, 2018, table 4


def test_resnet18_costs_what_torchvision_says():
    resnet18 = zoo.backbone("resnet18", weights=None, input_shape=(224, 224, 3))
    x = keras.layers.Dense(1000)(keras.layers.GlobalAveragePooling2D()(resnet18.output))
    assert total(keras.Model(resnet18.input, x)) == pytest.approx(1.814e9, rel=5e-4)  # "GFLOPS 1.81"


def test_vgg16_costs_what_torchvision_says():
    """With its three dense layers, of which the backbone has none: "GFLOPS 15.47"."""
    convolutions = total(zoo.backbone("vgg16", weights=None, input_shape=(224, 224, 3)))
    dense = 7 * 7 * 512 * 4096 + 4096 * 4096 + 4096 * 1000
    assert convolutions + dense == pytest.approx(15.47e9, rel=5e-4)


def test_the_benchmark_of_whole_images_counts_what_it_claims():
    """660 windows of 7 x 7 cells against one map of 36 x 28: 32 times as much, but for the tiny head."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "all_conv.py"))
    assert len(script["cut"](script["noise"](1152, 896))) == 660
    patch_model, whole = script["build"]("resnet18", 256, 288)
    windows = script["cut"](script["noise"](256, 288))
    assert whole.output_shape[1:3] == (2, 3)
    ratio = len(windows) * total(patch_model) / total(whole)
    assert ratio == pytest.approx(6 * 49 / (8 * 9), rel=1e-3)


def test_drs_layers_cost_nothing_that_is_counted():
    image = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, padding="same", name="before")(image)
    model = keras.Model(image, keras.layers.Conv2D(4, 3, name="behind")(DRSLayer()(x)))
    assert multiply_accumulates(model)["layer"].tolist() == ["before", "behind"]


def test_the_benchmark_of_morphhr_counts_what_it_claims():
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "morphhr.py"))
    counts = {name: script["count"](script["build"](name, "resnet18", 224)) for name in script["NETWORKS"]}
    base = counts["base at S"]
    # In place of a 7x7 from 3 to 64 channels with 112² maps come a 5x5, with maps of twice the side and one more on
    # each border, and a 3x3 from 64 to 64 with 112².
    added = 112**2 * (9 * 64 * 64 - 49 * 3 * 64)
    assert counts["morphed at 2S, stride"] == base + added + 226**2 * 25 * 3 * 64
    assert counts["morphed at 2S, max pooling"] == base + added + 452**2 * 25 * 3 * 64
    ratios = [count / base for count in counts.values()]
    assert ratios == pytest.approx([1, 1.325, 1.731, 4], abs=1e-3)


def test_resnet50_and_its_morphed_form():
    resnet50 = zoo.backbone("resnet50", weights=None, input_shape=(224, 224, 3))
    assert total(resnet50) == pytest.approx(3.8e9, rel=0.02)  # He and others, 2016, table 1
    assert total(morph_stem(resnet50)) / total(resnet50) == pytest.approx(1.1529, abs=5e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network(keras.layers.Conv2D(5, 3), shape=(None, None, 3)), r"'conv2d_\w+' has an output of shape .*None"),
        (network(keras.layers.Conv2DTranspose(5, 3)), "is a Conv2DTranspose, whose operations are not known; expected"),
        (keras.Sequential([keras.layers.Dense(2)]), "received Sequential .* expected a functional"),
        ("resnet18", "received str 'resnet18', expected a functional"),
    ],
)
def test_what_cannot_be_counted_is_refused(model, message):
    with pytest.raises(ValueError, match=message) as caught:
        multiply_accumulates(model)
    assert "\n" not in str(caught.value)
