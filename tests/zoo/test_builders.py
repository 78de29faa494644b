"""Models built from plain data, as cards describe them."""

import json

import keras
import numpy as np
import pytest
from medzoo import zoo
from medzoo.layers import DRSLayer
from medzoo.training import precision
from medzoo.zoo import builders, checkpoints
from medzoo.zoo.backbones import groups
from medzoo.zoo.builders import attach_head, build
from safetensors.numpy import load_file


def body(channels=3):
    image = keras.Input((4, 5, channels), name="image")
    return keras.Model(image, keras.layers.Activation("linear", name="map")(image), name="body")


def described(**changes):
    arguments = {"backbone": "resnet18", "input_shape": [32, 32, 1], "classes": 2, **changes}
    return {"builder": "classifier", "arguments": arguments}


def test_head_of_two_classes_worked_by_hand():
    """Sigmoid of a weighted sum of the means over all positions."""
    model = attach_head(body(), 2)
    assert [layer.name for layer in model.layers[-3:]] == ["head_pool", "head_logits", "head_probabilities"]
    model.get_layer("head_logits").set_weights([np.array([[1.0], [2.0], [-1.0]]), np.array([0.5])])
    image = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype("float32")
    logits = image.mean(axis=(1, 2)) @ [1, 2, -1] + 0.5
    received = model.predict(image, verbose=0)
    assert received.shape == (2, 1)
    np.testing.assert_allclose(received[:, 0], 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_head_of_more_classes_worked_by_hand():
    model = attach_head(body(), 4)
    kernel = np.random.default_rng(1).normal(size=(3, 4))
    model.get_layer("head_logits").set_weights([kernel, np.arange(4.0)])
    image = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype("float32")
    exponentials = np.exp(image.mean(axis=(1, 2)) @ kernel + np.arange(4))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(image, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("labels", [1, 2, 4])
def test_head_of_several_labels_worked_by_hand(labels):
    """A sigmoid for each: they do not exclude each other, not even two."""
    model = attach_head(body(), labels, multi_label=True)
    kernel = np.random.default_rng(1).normal(size=(3, labels))
    model.get_layer("head_logits").set_weights([kernel, np.arange(labels)])
    image = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype("float32")
    logits = image.mean(axis=(1, 2)) @ kernel + np.arange(labels)
    np.testing.assert_allclose(model.predict(image, verbose=0), 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_description_of_several_labels():
    model = build(described(classes=2, multi_label=True))
    assert model.output_shape == (None, 2)
    assert build(described(classes=2, multi_label=False)).output_shape == (None, 1)


def test_probabilities_are_float32_under_half_precision():
    """bfloat16 knows nothing between 0.996 and 1."""
    with precision("mixed_bfloat16"):
        model = attach_head(body(), 2)
    model.get_layer("head_logits").set_weights([np.zeros((3, 1)), np.array([6.5])])
    received = model.predict(np.zeros((1, 4, 5, 3), "float32"), verbose=0)
    assert received.dtype == np.float32
    np.testing.assert_allclose(received, 1 / (1 + np.exp(-6.5)), rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 0, -3, 2.0, "2", True, None])
def test_impossible_classes(classes):
    with pytest.raises(ValueError, match="expected an integer of at least 2") as error:
        attach_head(body(), classes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [0, 2.0, True])
def test_impossible_labels(labels):
    with pytest.raises(ValueError, match="expected an integer of at least 1"):
        attach_head(body(), labels, multi_label=True)


@pytest.mark.parametrize("surgery", builders.SURGERIES)
def test_description_survives_json_and_builds(surgery):
    needed = {"add_top": {"top": "resnet-4-4-8x1"}, "slim_top": {"after": "conv3_block2_out"}}
    operation = {"name": surgery, **needed.get(surgery, {})}
    description = json.loads(json.dumps(described(surgery=[operation], classes=3)))
    model = build(description)
    assert model.name == "resnet18"
    assert model.input_shape == (None, 32, 32, 1)
    assert model.output_shape == (None, 3)
    assert groups(model)["head"] == ["head_pool", "head_logits", "head_probabilities"]
    assert np.isfinite(model.predict(np.full((1, 32, 32, 1), 99.0), verbose=0)).all()
    assert build(description).name == model.name  # the description is left as it was
    assert description["arguments"]["surgery"] == [operation]


def test_arguments_of_a_surgery():
    model = build(described(surgery=[{"name": "add_drs", "spatial": False}]))
    added = [layer for layer in model.layers if isinstance(layer, DRSLayer)]
    assert len(added) == 8
    assert sum(layer.count_params() for layer in added) == 2 * 2 * (64 + 128 + 256 + 512)


def test_morphed_networks_are_described_by_their_final_size(tiny, fields, monkeypatch, tmp_path):
    """A card gives the size of the images that the network takes; the backbone is built for a quarter of it."""
    monkeypatch.setattr(builders, "build_backbone", checkpoints.backbone)  # the stand-in
    rounds = {"name": "morph_stem", "rounds": 2, "downsample": "maxpool"}
    description = described(backbone="tiny", input_shape=[40, 48, 3], surgery=[rounds, {"name": "morph_stem"}])
    with pytest.raises(ValueError, match=r"received an input of 40x42 pixels for 2 rounds, .* such as 40x44") as error:
        build(described(backbone="tiny", input_shape=[40, 42, 3], surgery=[rounds]))
    assert "\n" not in str(error.value)
    model = build(description)
    assert model.input_shape == (None, 40, 48, 3)
    assert model.get_layer("conv1_morph2").output.shape == (None, 3, 4, 16)  # of 5x6 pixels, less the border
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.uniform(0.05, 0.1, variable.shape))
    fields = {**fields, "build": description, "input": {**fields["input"], "shape": [40, 48, 3]}}
    zoo.save_checkpoint(model, tmp_path / "tiny-busi", fields)
    images = random.uniform(0, 255, (2, 40, 48, 3)).astype("float32")
    loaded = zoo.load(tmp_path / "tiny-busi")
    np.testing.assert_allclose(loaded.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-6)


def test_slimmed_networks_are_saved_and_loaded(imagenet, fields, tmp_path):
    """A delta holds the top; what lies before it is the backbone's."""
    operation = {"name": "slim_top", "after": "conv3_block2_out", "width": 0.5}
    description = described(input_shape=[32, 32, 3], surgery=[operation])
    model = build(description, weights="imagenet")
    fields = {**fields, "build": description, "input": {**fields["input"], "shape": [32, 32, 3]}}
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    assert np.abs(build(description, weights="imagenet").predict(images, verbose=0) - expected).max() > 1e-4
    for delta in (False, True):
        zoo.save_checkpoint(model, tmp_path / "slim", fields, delta=delta)
        np.testing.assert_allclose(zoo.load(tmp_path / "slim").predict(images, verbose=0), expected, rtol=1e-6)
    stored = load_file(tmp_path / "slim" / "weights.safetensors")
    tops = ("conv4_", "conv5_", "head_logits/")
    assert {name for name in stored if name.endswith("kernel")} == {
        variable.path
        for variable in model.weights
        if variable.path.startswith(tops) and variable.path.endswith("kernel")
    }
    assert stored["conv5_block2_2_conv/kernel"].shape == (3, 3, 256, 256)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"builder": "clasifier", "arguments": {}}, "unknown builder 'clasifier': did you mean 'classifier'"),
        (described(backbone="resnet-18"), "unknown backbone 'resnet-18': did you mean 'resnet18'"),
        (described(surgery=[{"name": "add_drss"}]), "unknown surgery 'add_drss': did you mean 'add_drs'"),
        # A card may name registered surgery only, whatever else the room of layers holds.
        (described(surgery=[{"name": "resize_network", "size": [64, 64]}]), "unknown surgery 'resize_network'"),
        (described(surgery=[{}]), "unknown surgery None"),
        (described(classes=1), "classes: received 1"),
        (described(input_shape=[32, 32, 2]), r"expected one channel \(grey\) or three"),
    ],
)
def test_refusals(description, message):
    with pytest.raises(ValueError, match=message) as error:
        build(description)
    assert "\n" not in str(error.value)


def test_builder_whose_name_is_taken():
    with pytest.raises(ValueError, match="'classifier' is registered already"):
        builders.register_builder("classifier")(body)
    assert builders.BUILDERS["classifier"] is builders.classifier
