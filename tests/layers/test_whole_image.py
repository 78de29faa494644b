"""Converting a patch classifier changes nothing: against the classifier slid over the image, crops and counts by hand.

What padding does. Every convolution of the backbones pads its map with zeros at the border of its input. A patch that
is cut out and classified has such a border all around it; the converted network has one only around the whole image and
sees, where the patch had zeros, the neighbours. So the two agree to rounding

- on an input of one patch, and everywhere for a network that does not pad (`TestSlidWithoutPadding`);
- cell by cell, wherever the cell's receptive field lies within the patch (`TestWherePaddingDoesNotReach`).

The receptive fields measured here (`TestReceptiveField`) are 212 pixels for VGG16, 435 for ResNet18 and 483 for
ResNet50. A patch of 224 pixels has 7 x 7 cells: of VGG16's the one in the middle is out of the padding's reach, of the
ResNets' none. Slid over an image, these patch classifiers therefore give other probabilities than their heatmap, as
much as they depend on what lies at a patch's border; `benchmarks/all_conv.py` reports how much.
"""

import functools

import keras
import numpy as np
import pytest
from medzoo.layers import add_top, attach_head, patch_heatmap, to_whole_image
from medzoo.layers.whole_image import TOPS, Top, parse_top
from medzoo.training import Stage, precision, set_trainable
from medzoo.training.fit import compile_stage
from medzoo.zoo import backbones, builders, load, load_weights, save_checkpoint, save_weights, verify
from medzoo.zoo.backbones import groups

CLASSES = 5
BACKBONES = ("resnet18", "resnet50", "vgg16")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def call(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def shake(model):
    """Batch norm and biases as training leaves them, not as they begin."""
    random = np.random.default_rng(5)
    for variable in model.weights:
        if len(variable.shape) == 1:
            low, high = (0.5, 1.5) if variable.name in ("gamma", "moving_variance") else (-0.2, 0.2)
            variable.assign(random.uniform(low, high, variable.shape))
    return model


@functools.cache
def backbone(name, height=None, width=None):
    """A backbone with random weights, of the given size or of any."""
    keras.utils.set_random_seed(3)
    return shake(backbones.backbone(name, weights=None, input_shape=(height, width, 3)))


def patch_classifier(trunk, classes=CLASSES):
    """With logits far enough apart to tell classes, in a head of its own."""
    model = attach_head(trunk, classes)
    dense, features = model.get_layer("head_logits"), model.get_layer("head_pool").output
    scale = call(keras.Model(model.inputs[0], features), noise(2, *model.input_shape[1:])).std()
    random = np.random.default_rng(6)
    dense.set_weights([random.normal(0, 1 / scale / 10, dense.kernel.shape), random.normal(0, 0.3, dense.bias.shape)])
    return model


def small_trunk(height=64, width=64, channels=16):
    """A convolution of stride 32 with batch norm: the maps of a backbone at no cost."""
    image = keras.Input((height, width, 3), name="image")
    x = keras.layers.Rescaling(1 / 255, name="pixels")(image)
    x = keras.layers.Conv2D(channels, 32, 32, name="conv1_conv")(x)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    return shake(keras.Model(image, keras.layers.ReLU(name="conv1_relu")(x), name="small"))


# ---------------------------------------------------------------------------------------------------------------------
# Section 2.1: converting changes nothing


@pytest.mark.parametrize("name", BACKBONES)
def test_on_one_patch_it_is_the_patch_classifier(name):
    patch = (64, 96, 3)
    classifier = patch_classifier(backbone(name, *patch[:2]))
    images = noise(2, *patch)
    probabilities = call(classifier, images)
    assert probabilities.std(axis=1).min() > 0.02
    heatmap = call(patch_heatmap(classifier, patch), images)
    assert heatmap.shape == (2, 1, 1, CLASSES)
    np.testing.assert_allclose(heatmap[:, 0, 0], probabilities, atol=1e-5)
    # The trunk of the whole-image network is what lies before its top layers.
    whole = to_whole_image(classifier, "vgg-4x1", patch)
    features = call(keras.Model(whole.inputs[0], whole.get_layer("top_block1_1_conv").input), images)
    expected = call(keras.Model(classifier.inputs[0], classifier.get_layer("head_pool").input), images)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


class TestSlidWithoutPadding:
    """Of a network that does not pad, every window at its stride."""

    def test_the_heatmap_is_the_classifier_slid_over_the_image(self):
        classifier = patch_classifier(self.unpadded(37, 41))
        image = noise(1, 93, 110, 3, seed=1)
        heatmap = call(patch_heatmap(classifier, image.shape[1:]), image)[0]
        assert heatmap.shape == ((93 - 37) // 4 + 1, (110 - 41) // 4 + 1, CLASSES)
        rows, columns = heatmap.shape[:2]
        windows = np.stack(
            [image[0, 4 * i : 4 * i + 37, 4 * j : 4 * j + 41] for i in range(rows) for j in range(columns)]
        )
        slid = call(classifier, windows).reshape(heatmap.shape)
        assert slid.std(axis=(0, 1)).min() > 1e-3  # another window, another answer
        np.testing.assert_allclose(heatmap, slid, atol=1e-4)

    def test_the_heatmap_within_a_whole_image_network_is_its_relu_of_logits(self):
        """Equation (2)."""
        classifier = patch_classifier(self.unpadded(37, 41))
        image = noise(1, 93, 110, 3, seed=1)
        classifier.get_layer("head_logits").bias.assign([-2, -1, 0, 1, 2])
        whole = to_whole_image(classifier, "heatmap-pool5-fc64-fc32", image.shape[1:])
        received = call(keras.Model(whole.inputs[0], whole.get_layer("heatmap_relu").output), image)[0, 3, 7]
        logits = keras.Model(classifier.inputs[0], classifier.get_layer("head_logits").output)
        expected = call(logits, image[:, 12 : 12 + 37, 28 : 28 + 41])[0]
        assert expected.min() < 0 < expected.max()
        np.testing.assert_allclose(received, np.maximum(expected, 0), atol=1e-4)

    @staticmethod
    def unpadded(height, width):
        """Convolutions 7x7 at stride 2 and 3x3, max pooling 2x2, another 3x3: receptive field 19, stride 4."""
        keras.utils.set_random_seed(2)
        image = keras.Input((height, width, 3), name="image")
        x = keras.layers.Rescaling(1 / 127.5, -1, name="pixels")(image)
        x = keras.layers.Conv2D(8, 7, 2, activation="relu", name="conv1_conv")(x)
        x = keras.layers.Conv2D(8, 3, activation="relu", name="conv2_conv")(x)
        x = keras.layers.BatchNormalization(name="conv2_bn")(x)
        x = keras.layers.MaxPooling2D(2, name="conv2_pool")(x)
        x = keras.layers.Conv2D(12, 3, activation="relu", name="conv3_conv")(x)
        return shake(keras.Model(image, x, name="unpadded"))


# First row that a cell of row 0 sees, the last, and how many.
SEES = {"vgg16": (-90, 121, 212), "resnet18": (-217, 217, 435), "resnet50": (-241, 241, 483)}
WIDTH = 32  # of images of which only rows are changed or cut


class TestReceptiveField:
    """Measured: other pixels in rows that a cell does not see leave it as it is, bit for bit; in one more they do not.

    With the 3x3 convolution the paper's equation 224 + (3 - 1) x 32 = 288 holds for what is added, not for the 224,
    which is the patch's size: a cell of VGG16 sees less, one of a ResNet more.
    """

    @pytest.mark.parametrize("name", BACKBONES)
    def test_of_a_cell_and_of_a_convolution_on_top(self, name):
        first, last, size = SEES[name]
        assert last - first + 1 == size
        keras.config.set_dtype_policy("float64")  # the outermost rows count for little
        try:
            trunk = backbones.backbone(name, weights=None, input_shape=(576, WIDTH, 3))
            top = keras.layers.Conv2D(4, 3, padding="same", name="top_conv")(trunk.outputs[0])
            model = keras.Model(trunk.inputs[0], [trunk.outputs[0], top])
        finally:
            keras.config.set_dtype_policy("float32")
        row = 9
        first, last = 32 * row + first, 32 * row + last
        # (3 - 1) x 32 more, half of it on each border.
        limits = [(first, last), (first - 32, last + 32)]
        image, other = noise(1, 576, WIDTH, 3, seed=1), noise(1, 576, WIDTH, 3, seed=2)
        rows = np.arange(576)[:, None, None]
        changed = [(rows < low, rows <= low, rows > high, rows >= high) for low, high in limits]
        images = [image, *(np.where(where, other, image) for four in changed for where in four)]
        trunk_cell, top_cell = (
            keras.ops.convert_to_numpy(output)[:, row] for output in model(np.concatenate(images), training=False)
        )
        assert trunk_cell.dtype == top_cell.dtype == np.float64
        for cell, numbers in ((trunk_cell, range(1, 5)), (top_cell, range(5, 9))):
            moved = [bool((cell[number] != cell[0]).any()) for number in numbers]
            assert moved == [False, True, False, True]


class TestWherePaddingDoesNotReach:
    @pytest.mark.parametrize("name", BACKBONES)
    def test_a_cell_of_a_crop_is_the_cell_of_the_whole(self, name):
        """Of a crop aligned to the stride, the cells whose receptive field it holds."""
        first, last, _ = SEES[name]
        height, top, bottom = 1024, 128, 896
        image = noise(1, height, WIDTH, 3, seed=2)
        whole = call(backbone(name), image)[0, top // 32 : bottom // 32]
        crop = call(backbone(name), image[:, top:bottom])[0]
        difference = np.abs(crop - whole).max(axis=(1, 2)) / np.abs(whole).max()
        cells = np.arange(len(crop))
        within = (32 * cells + first >= 0) & (32 * cells + last < bottom - top)
        assert within.sum() >= 8
        assert difference[within].max() < 1e-5
        assert difference[~within].max() > 1e-2

    def test_a_cell_of_the_heatmap_likewise(self):
        """A patch of 64 pixels is two cells high."""
        first, last, _ = SEES["vgg16"]
        classifier = patch_classifier(backbone("vgg16", 64, WIDTH))
        image = noise(1, 640, WIDTH, 3, seed=2)
        whole = call(patch_heatmap(classifier, (640, WIDTH, 3)), image)[0, 4:16]
        crop = call(patch_heatmap(classifier, (416, WIDTH, 3)), image[:, 128 : 128 + 416])[0]
        cells = np.arange(len(crop))
        within = (32 * cells + first >= 0) & (32 * (cells + 1) + last < 416)
        assert within.sum() == 6
        difference = np.abs(crop - whole).max(axis=(1, 2))
        assert difference[within].max() < 1e-4
        assert difference[~within].max() > 1e-3

    @pytest.mark.parametrize(("name", "free"), [("vgg16", 1), ("resnet18", 0)])
    def test_cells_of_a_slid_patch_that_padding_leaves_alone(self, name, free):
        """Of 7 x 7 in a patch of 224 pixels, at two places in an image of 256."""
        first, last, _ = SEES[name]
        cells = np.arange(7)
        alone = (32 * cells + first >= 0) & (32 * cells + last < 224)
        alone = alone[:, None] & alone[None]
        assert alone.sum() == free
        image = noise(1, 256, 256, 3, seed=4)
        whole = call(backbone(name), image)[0]
        slid = call(backbone(name), np.concatenate([image[:, :224, :224], image[:, 32:, 32:]]))
        expected = np.stack([whole[:7, :7], whole[1:, 1:]])
        # Of a patch in a corner of the image two sides are padded in the image too.
        difference = np.abs(slid - expected).max(axis=(0, 3)) / np.abs(whole).max()
        assert (difference > 1e-4).sum() >= 48
        if free:
            assert difference[alone].max() < 1e-5


# ---------------------------------------------------------------------------------------------------------------------
# Section 2.2: the rows of tables 2 and 3


def published_rows():
    """The names that the rows of tables 2 and 3 come to, written as the tables have them."""
    table_2 = [
        ("[512-512-2048] x 1", "[512-512-2048] x 1"),
        ("[512-512-1024] x 2", "[512-512-1024] x 2"),
        ("[256-256-256] x 1", "[128-128-128] x 1"),
        ("[256-256-256] x 3", "[128-128-128] x 3"),
        ("[256-256-512] x 3", "[128-128-256] x 3"),
        ("256 x 1", "128 x 1"),
    ]
    inserted = [("[512-512-1024] x 2", "[512-512-1024] x 2"), ("[64-64-256] x 2", "[128-128-512] x 2")]
    table_3 = [
        ("512 x 3", "512 x 3"),
        ("512 x 1", "512 x 1"),
        ("256 x 3", "128 x 3"),
        ("256 x 1", "128 x 1"),
        ("128 x 1", "64 x 1"),
        ("[512-512-1024] x 2", "[512-512-1024] x 2"),
    ]
    connected = [("5x5", 64, 32), ("2x2", 512, 256), ("1x1", 2048, 1024)]

    def name(blocks):
        kind = "resnet" if "[" in blocks[0] else "vgg"
        return "-".join([kind, *(block.translate(str.maketrans("", "", "[] ")) for block in blocks)])

    rows = [name(row) for row in (*table_2, *table_3)] + [f"heatmap-{name(row)}" for row in inserted]
    return rows + [f"heatmap-pool{pool[0]}-fc{first}-fc{second}" for pool, first, second in connected]


def test_every_row_of_tables_2_and_3_has_a_name():
    assert sorted(TOPS) == sorted(set(published_rows()))


def test_what_names_say():
    assert parse_top("vgg-256x1-128x3") == Top(False, "vgg", (((256,), 1), ((128,), 3)))
    assert parse_top("heatmap-resnet-64-64-256x2-128-128-512x2") == Top(
        True, "resnet", (((64, 64, 256), 2), ((128, 128, 512), 2))
    )
    assert parse_top("heatmap-pool5-fc64-fc32") == Top(True, "fc", pool=5, units=(64, 32))
    assert parse_top("vgg-16x1") == Top(False, "vgg", (((16,), 1),))


@pytest.mark.parametrize(
    "name",
    ["vgg", "vgg-256", "vgg-0x1", "vgg-256x0", "resnet-512-512x1", "pool5-fc64", "heatmap-pool5", "VGG-256x1", ""],
)
def test_names_that_say_nothing(name):
    with pytest.raises(ValueError, match=f"top: received '{name}', expected a name such as vgg-256x1-128x1") as error:
        add_top(small_trunk(), name)
    assert "\n" not in str(error.value)


# Of the last map of an image of 1152 x 896 pixels, 36 x 28 cells; of 7 x 7 cells a patch, a heatmap of 30 x 22.
SHAPES = {
    "resnet-512-512-2048x1-512-512-2048x1": (9, 7, 2048),
    "resnet-512-512-1024x2-512-512-1024x2": (9, 7, 1024),
    "resnet-256-256-256x1-128-128-128x1": (9, 7, 128),
    "resnet-256-256-256x3-128-128-128x3": (9, 7, 128),
    "resnet-256-256-512x3-128-128-256x3": (9, 7, 256),
    "vgg-512x3-512x3": (9, 7, 512),
    "vgg-512x1-512x1": (9, 7, 512),
    "vgg-256x3-128x3": (9, 7, 128),
    "vgg-256x1-128x1": (9, 7, 128),
    "vgg-128x1-64x1": (9, 7, 64),
    "heatmap-resnet-512-512-1024x2-512-512-1024x2": (8, 6, 1024),
    "heatmap-resnet-64-64-256x2-128-128-512x2": (8, 6, 512),
    # The last layer and, past the layers, the pooled heatmap: 6 x 4, 15 x 11 and 30 x 22 cells of five classes.
    "heatmap-pool5-fc64-fc32": (32 + 6 * 4 * 5,),
    "heatmap-pool2-fc512-fc256": (256 + 15 * 11 * 5,),
    "heatmap-pool1-fc2048-fc1024": (1024 + 30 * 22 * 5,),
}


@pytest.mark.parametrize("top", TOPS)
def test_shapes_at_the_size_of_the_paper(top):
    trunk = small_trunk(1152, 896)
    heatmap = {"classes": CLASSES, "cells": [7, 7]} if top.startswith("heatmap") else None
    model = add_top(trunk, top, heatmap)
    assert model.output_shape == (None, *SHAPES[top])
    kept = {layer.name for layer in trunk.layers}
    added = [layer for layer in model.layers if layer.name not in kept]
    assert all(layer.name.startswith(("top_", "heatmap_")) for layer in added)
    named = groups(attach_head(model, 2))
    assert named["top"] == [layer.name for layer in added if layer.name.startswith("top_")]
    assert named.get("heatmap", []) == [layer.name for layer in added if layer.name.startswith("heatmap_")]
    assert len(named["head"]) == (3 if len(SHAPES[top]) == 3 else 2)
    # Batch norm behind every convolution of the top layers, none in the fully connected ones.
    kinds = [type(layer).__name__ for layer in added if layer.name.startswith("top_")]
    assert kinds.count("Conv2D") == kinds.count("BatchNormalization")


@pytest.mark.parametrize("top", TOPS)
def test_they_classify_and_every_layer_matters(top):
    """Every new variable that trains has a gradient, shortcuts and pooling included."""
    if "2048" in top or "1024" in top or "512" in top:
        top = top.replace("2048", "16").replace("1024", "12").replace("512", "8")
    classifier = patch_classifier(small_trunk(64, 64))
    model = to_whole_image(classifier, top, (256, 224, 3))
    assert model.output_shape == (None, 1)
    before = [np.array(variable) for variable in model.trainable_variables]
    model.compile(keras.optimizers.SGD(1.0), "binary_crossentropy", jit_compile=False)
    model.train_on_batch(noise(8, 256, 224, 3), np.array([0, 1] * 4)[:, None])
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert np.abs(np.array(variable) - old).max() > 0, variable.path


def parameters(model, prefix):
    return sum(layer.count_params() for layer in model.layers if layer.name.startswith(prefix))


def trunk_of(channels):
    image = keras.Input((64, 64, channels))
    return keras.Model(image, keras.layers.ReLU()(image))


def test_parameters_of_the_best_vgg_top_by_hand():
    """On VGG16. Kernels without bias, four numbers a channel for batch norm."""
    by_hand = 9 * 512 * 256 + 4 * 256 + 9 * 256 * 128 + 4 * 128
    assert parameters(add_top(trunk_of(512), "vgg-256x1-128x1"), "top_") == by_hand == 1_476_096


def test_parameters_of_the_best_resnet_top_by_hand():
    """On ResNet50. Each unit 1x1, 3x3, 1x1; a 1x1 shortcut where the depth or the size of the map changes."""

    def unit(inputs, shortcut):
        kernels = inputs * 512 + 9 * 512 * 512 + 512 * 1024
        return kernels + 4 * (512 + 512 + 1024) + (inputs * 1024 + 4 * 1024 if shortcut else 0)

    by_hand = unit(2048, True) + unit(1024, False) + unit(1024, True) + unit(1024, False)
    model = add_top(trunk_of(2048), "resnet-512-512-1024x2-512-512-1024x2")
    assert parameters(model, "top_") == by_hand == 17_342_464


def test_a_heatmap_of_the_patch_classifier_is_kept_within_the_network():
    classifier = patch_classifier(small_trunk(64, 64))
    model = to_whole_image(classifier, "heatmap-pool2-fc4-fc4", (256, 224, 3), classes=3)
    kernel, bias = classifier.get_layer("head_logits").get_weights()
    received = model.get_layer("heatmap_logits").get_weights()
    np.testing.assert_array_equal(received[0][0, 0], kernel)
    np.testing.assert_array_equal(received[1], bias)
    assert model.output_shape == (None, 3)


def test_the_patch_classifier_is_left_alone():
    classifier = patch_classifier(small_trunk(64, 64))
    before = classifier.get_weights()
    model = to_whole_image(classifier, "vgg-4x1", (256, 224, 3))
    assert not {id(layer) for layer in model.layers} & {id(layer) for layer in classifier.layers}
    for variable in model.weights:
        variable.assign(keras.ops.zeros_like(variable))
    for mine, old in zip(classifier.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, old)


def test_bad_input_gets_one_line():
    classifier = patch_classifier(small_trunk(64, 64))
    flat = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Flatten(), keras.layers.Dense(1)], name="flat")
    image = keras.Input((64, 64, 3))
    vector = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image), name="vector")
    described = {"classes": CLASSES, "cells": [2, 2]}
    cases = [
        (lambda: to_whole_image(flat, "vgg-4x1", (128, 128, 3)), "model 'flat': expected the layers 'head_pool'"),
        (lambda: patch_heatmap(flat, (128, 128, 3)), "model 'flat': expected the layers 'head_pool'"),
        (lambda: patch_heatmap(classifier, (32, 128, 3)), "input: its last feature map has 1 x 4 cells, expected at "),
        (lambda: to_whole_image(classifier, "heatmap-pool5-fc4", (128, 128, 3)), "its heatmap has 3 x 3 cells"),
        (lambda: add_top(small_trunk(), "vgg-4x1", described), "heatmap: received .* expected None"),
        (lambda: add_top(small_trunk(), "heatmap-vgg-4x1"), "heatmap: received None .* expected classes and cells"),
        (lambda: add_top(vector, "vgg-4x1"), r"model 'vector': ends in shape \(None, 3\), expected a feature map"),
    ]
    for action, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            action()
        assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# Saved, in half precision, frozen and decayed


@pytest.mark.parametrize("top", ["vgg-8x2-4x1", "heatmap-resnet-4-4-8x2", "heatmap-pool2-fc8-fc4"])
def test_saved_by_keras_and_as_weights(top, tmp_path):
    model = shake(to_whole_image(patch_classifier(small_trunk(64, 64)), top, (256, 224, 3)))
    images = noise(2, 256, 224, 3)
    expected = call(model, images)
    model.save(tmp_path / "whole.keras")
    np.testing.assert_allclose(call(keras.models.load_model(tmp_path / "whole.keras"), images), expected, atol=1e-6)
    save_weights(model, tmp_path / "whole.safetensors")
    other = to_whole_image(patch_classifier(small_trunk(64, 64)), top, (256, 224, 3))
    assert np.abs(call(other, images) - expected).max() > 1e-4
    load_weights(other, tmp_path / "whole.safetensors")
    np.testing.assert_allclose(call(other, images), expected, atol=1e-6)


class TestFromACard:
    """Built as the recipe and a checkpoint's card have it, on a registered backbone."""

    SHAPE = (256, 224, 3)

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        def build(tensor):
            trunk = small_trunk(*self.SHAPE[:2])
            outputs = tensor
            for layer in trunk.layers[2:]:
                outputs = type(layer).from_config(layer.get_config())(outputs)
            return keras.Model(keras.utils.get_source_inputs(tensor)[0], outputs)

        source = backbones.Source(("none",), "https://example.org/none", "md5:0", "MIT")
        pixels = {"mean": [128] * 3, "deviation": [60] * 3}
        record = backbones.Backbone(build, pixels, backbones.RESNET_GROUPS, (), source)
        monkeypatch.setitem(backbones.BACKBONES, "small", record)

    def description(self, top, heatmap=None):
        surgery = {"name": "add_top", "top": top, **({"heatmap": heatmap} if heatmap else {})}
        arguments = {"backbone": "small", "input_shape": list(self.SHAPE), "classes": 2, "surgery": [surgery]}
        return {"builder": "classifier", "arguments": arguments}

    @pytest.mark.parametrize(
        ("top", "heatmap"),
        [("vgg-8x1-4x1", None), ("heatmap-resnet-4-4-8x2", {"classes": CLASSES, "cells": [2, 2]})],
    )
    def test_checkpoint(self, top, heatmap, tmp_path):
        model = shake(builders.build(self.description(top, heatmap)))
        fields = {
            "name": "whole",
            "version": 1,
            "summary": "a network for tests",
            "modality": "mammography",
            "task": "classification",
            "recipe": {"name": "all_conv", "command": "medzoo run all_conv", "paper": "Shen 2018"},
            "build": self.description(top, heatmap),
            "input": {"shape": list(self.SHAPE), "range": [0, 255], "resize": "bilinear", "crop": 1.0},
            "classes": ["negative", "positive"],
            "data": {
                "dataset": "rsna",
                "licence": "none",
                "url": None,
                "images": 2,
                "subjects": 2,
                "subject_source": "file",
                "split": {"train": 1, "validation": 0, "test": 1},
                "excluded": None,
            },
            "metrics": [],
            "licence": "Apache-2.0",
            "limitations": ["made up"],
        }
        save_checkpoint(model, tmp_path / "whole", fields)
        assert verify(str(tmp_path / "whole")).difference < 1e-6
        images = noise(2, *self.SHAPE)
        np.testing.assert_allclose(call(load(str(tmp_path / "whole")), images), call(model, images), atol=1e-6)

    def test_half_precision(self):
        description = self.description("vgg-8x1-4x1")
        with precision("mixed_bfloat16"):
            half = shake(builders.build(description))
        assert half.get_layer("top_block1_1_conv").compute_dtype == "bfloat16"
        assert half.outputs[0].dtype == "float32"
        whole = builders.build(description)
        whole.set_weights(half.get_weights())
        images = noise(4, *self.SHAPE)
        assert call(whole, images).std() > 1e-3
        np.testing.assert_allclose(call(half, images), call(whole, images), atol=0.02)

    def test_a_frozen_trunk_stays_as_it_is(self):
        """The first stage of section 3.1.2: its weights and what its batch norm has seen; that of the top moves."""
        model = builders.build(self.description("vgg-8x1-4x1"))
        before = {variable.path: np.array(variable) for variable in model.weights}
        images = noise(4, *self.SHAPE)
        trunk = keras.Model(model.inputs[0], model.get_layer("top_block1_1_conv").input)
        trainer = compile_stage(model, Stage(1, 1e-2, train=("top", "head"), weight_decay=1e-3), None)
        trainer.train_on_batch(images, np.array([[0], [1], [0], [1]]))
        moved = {path for path, old in before.items() if (np.array(self.variable(model, path)) != old).any()}
        # A dense layer behind batch norm: nothing here is at rest.
        assert moved == {path for path in before if path.startswith(("top_", "head_"))}
        inference = keras.ops.convert_to_numpy(trunk(images, training=False))
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(trunk(images, training=True)), inference)

    def test_weight_decay_is_in_force_in_each_stage(self):
        """Without gradients every kernel that trains shrinks by learning rate x decay, and nothing else moves."""
        model = builders.build(self.description("heatmap-vgg-8x1", {"classes": CLASSES, "cells": [2, 2]}))
        added = ("heatmap_", "top_", "head_")
        stages = [
            (Stage(1, 0.1, train=("top", "heatmap", "head"), weight_decay=0.01), added),
            (Stage(1, 0.01, train=("*",), weight_decay=0.05), ("conv1_", *added)),
        ]
        images, labels = noise(2, *self.SHAPE), np.array([[0], [1]])
        for stage, trains in stages:
            before = {variable.path: np.array(variable) for variable in model.weights}
            trainer = compile_stage(model, stage, None)
            trainer.train_on_batch(images, labels, sample_weight=np.zeros(2))
            kernels = 0
            for path, old in before.items():
                received = np.array(self.variable(model, path))
                if path.endswith("kernel") and path.startswith(trains):
                    factor = np.float32(1 - stage.learning_rate * stage.weight_decay)
                    np.testing.assert_allclose(received, old * factor, rtol=1e-6)
                    assert np.abs(received - old).max() > 0
                    kernels += 1
                elif "moving_" not in path:
                    np.testing.assert_array_equal(received, old, err_msg=path)
            assert kernels == (3 if stage is stages[0][0] else 4)

    def test_the_heatmap_is_frozen_by_its_group(self):
        model = builders.build(self.description("heatmap-vgg-8x1", {"classes": CLASSES, "cells": [2, 2]}))
        # Kernel 3x3 from five classes to eight, its batch norm; the dense layer of eight and a bias.
        assert set_trainable(model, ("top", "head")) == 9 * 5 * 8 + 2 * 8 + 8 + 1
        assert set_trainable(model, ("heatmap",)) == 16 * 5 + 5

    @staticmethod
    def variable(model, path):
        return next(variable for variable in model.weights if variable.path == path)


def test_add_top_shares_nothing_with_the_network_and_keeps_its_weights():
    before = small_trunk(128, 128)
    before.get_layer("conv1_conv").trainable = False
    values = before.get_weights()
    after = add_top(before, "vgg-4x1")
    for old in before.layers:
        new = after.get_layer(old.name)
        assert new is not old
        assert new.trainable == old.trainable
        for mine, theirs in zip(new.get_weights(), old.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    after.set_weights([array + 1 for array in after.get_weights()])
    for mine, theirs in zip(before.get_weights(), values, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ValueError, match="functional"):
        add_top(object(), "vgg-4x1")
