"""DRS against the equations of Byra 2021 worked by hand, and the counts of its table 1."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from medzoo.layers import DRSLayer, add_drs, resize_network
from medzoo.zoo.backbones import list_backbones, record


def small_resnet(size=(8, 6), channels=4, add=lambda a, b: keras.layers.Add(name="block_add")([a, b])):
    image = keras.Input((*size, 3))
    x = keras.layers.Conv2D(channels, 3, padding="same", name="stem_conv")(image)
    y = keras.layers.Conv2D(channels, 3, padding="same", name="block_conv")(x)
    y = keras.layers.BatchNormalization(name="block_bn")(y)
    return keras.Model(image, keras.layers.Activation("relu", name="block_out")(add(x, y)), name="small")


def shake(model, seed=0):
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable)
        variable.assign(value + 0.1 * np.abs(generator.normal(size=value.shape)))
    return model


def pixels(*shape):
    return np.random.default_rng(1).uniform(0, 255, shape).astype("float32")


def test_equations_3_and_4_worked_by_hand():
    layer = DRSLayer()
    layer.build((None, 1, 2, 2))
    layer.spatial_scale.assign([[2.0, 3.0]])
    layer.spatial_bias.assign([[10.0, 20.0]])
    layer.channel_scale.assign([0.5, -1.0])
    layer.channel_bias.assign([1.0, 100.0])
    # y' = 2 * [1, 2] + 10 = [12, 14] and 3 * [3, 4] + 20 = [29, 32];
    # z = [0.5 * 12 + 1, 100 - 14] and [0.5 * 29 + 1, 100 - 32]
    result = keras.ops.convert_to_numpy(layer(np.array([[[[1.0, 2.0], [3.0, 4.0]]]])))
    np.testing.assert_array_equal(result, [[[[7.0, 86.0], [15.5, 68.0]]]])


def test_bias_of_the_spatial_part_is_scaled_by_the_channel_part():
    """Equation (4) acts on y' of equation (3): the order of the two parts matters."""
    layer = DRSLayer()
    layer.build((None, 1, 1, 1))
    layer.spatial_bias.assign([[1.0]])
    layer.channel_scale.assign([5.0])
    assert float(keras.ops.convert_to_numpy(layer(np.zeros((1, 1, 1, 1), "float32"))).item()) == 5.0


@pytest.mark.parametrize(
    ("spatial", "channel", "count"), [(True, True, 2 * 35 + 2 * 11), (True, False, 2 * 35), (False, True, 2 * 11)]
)
def test_switches_and_parameter_count(spatial, channel, count):
    layer = DRSLayer(spatial, channel)
    y = pixels(2, 5, 7, 11)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(y)), y)  # the identity at the start
    assert layer.count_params() == count
    again = DRSLayer.from_config(layer.get_config())
    assert (again.spatial, again.channel) == (spatial, channel)


def test_resnet101_has_33_layers_and_the_parameters_of_table_1():
    from medzoo.zoo import backbone
    from medzoo.zoo.builders import attach_head

    scaled = add_drs(backbone("resnet101", weights=None))
    added = [layer for layer in scaled.layers if isinstance(layer, DRSLayer)]
    assert len(added) == 33
    # Bottleneck blocks 3, 4, 23, 3 with outputs 56x56x256, 28x28x512, 14x14x1024, 7x7x2048.
    by_hand = sum(n * 2 * (s * s + c) for n, s, c in [(3, 56, 256), (4, 28, 512), (23, 14, 1024), (3, 7, 2048)])
    assert sum(layer.count_params() for layer in added) == by_hand == 99_422
    head = attach_head(scaled, 2).get_layer("head_logits")
    assert by_hand + head.count_params() == 101_471  # table 1


@pytest.mark.parametrize("name", [name for name in list_backbones() if record(name).blocks])
def test_fresh_layers_change_nothing_on_every_backbone(name):
    from medzoo.zoo import backbone

    plain = backbone(name, weights=None, input_shape=(64, 96, 3))
    scaled = add_drs(plain)
    image = pixels(2, 64, 96, 3)
    before, after = plain.predict(image, verbose=0), scaled.predict(image, verbose=0)
    assert np.abs(before).max() > 0
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())


def test_layer_sits_between_addition_and_activation():
    """Figure 2b: the activation's input is what the DRS layer gives."""
    scaled = add_drs(small_resnet())
    drs, out = scaled.get_layer("block_add_drs"), scaled.get_layer("block_out")
    assert drs.input is scaled.get_layer("block_add").output
    assert out.input is drs.output


def test_weights_and_trainable_flags_are_kept():
    plain = shake(small_resnet())
    plain.get_layer("stem_conv").trainable = False
    scaled = add_drs(plain)
    for layer in plain.layers[1:]:
        copy = scaled.get_layer(layer.name)
        assert copy.trainable == layer.trainable
        for mine, theirs in zip(copy.weights, layer.weights, strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(theirs))
    scaled.get_layer("block_conv").kernel.assign(keras.ops.zeros_like(scaled.get_layer("block_conv").kernel))
    assert np.abs(keras.ops.convert_to_numpy(plain.get_layer("block_conv").kernel)).max() > 0  # not shared


@pytest.mark.parametrize("activation", [keras.layers.ReLU, keras.layers.PReLU, lambda **k: keras.layers.ELU(**k)])
def test_other_activations_and_plain_plus(activation):
    image = keras.Input((8, 8, 4))
    y = keras.layers.Conv2D(4, 3, padding="same")(image)
    model = keras.Model(image, activation(name="out")(image + y))
    scaled = add_drs(shake(model))
    assert sum(isinstance(layer, DRSLayer) for layer in scaled.layers) == 1
    x = pixels(1, 8, 8, 4)
    np.testing.assert_allclose(scaled.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6)


def test_activation_written_as_an_operation():
    image = keras.Input((8, 8, 4))
    model = keras.Model(image, keras.ops.relu(image + keras.layers.Conv2D(4, 3, padding="same")(image)))
    assert sum(isinstance(layer, DRSLayer) for layer in add_drs(model).layers) == 1


def test_a_network_nested_in_a_model_is_searched():
    image = keras.Input((8, 6, 3))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(shake(small_resnet())(image)))
    scaled = add_drs(model)
    assert isinstance(scaled.get_layer("small").get_layer("block_add_drs"), DRSLayer)
    x = pixels(2, 8, 6, 3)
    np.testing.assert_allclose(scaled.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5)


def test_trained_network_saves_loads_and_clones(tmp_path):
    scaled = shake(add_drs(small_resnet()), seed=3)
    x = pixels(2, 8, 6, 3)
    expected = scaled.predict(x, verbose=0)
    scaled.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, rtol=1e-6)
    clone = keras.models.clone_model(scaled)
    clone.set_weights(scaled.get_weights())
    np.testing.assert_allclose(clone.predict(x, verbose=0), expected, rtol=1e-6)


def test_a_fresh_process_loads_a_saved_network_after_importing_the_room(tmp_path):
    add_drs(small_resnet()).save(tmp_path / "model.keras")
    code = f"import keras, medzoo.layers; print(keras.models.load_model({str(tmp_path / 'model.keras')!r}).name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "small"


def test_gradients_reach_all_four_weights():
    scaled = add_drs(small_resnet())
    for layer in scaled.layers:
        layer.trainable = isinstance(layer, DRSLayer)
    before = [keras.ops.convert_to_numpy(variable).copy() for variable in scaled.trainable_variables]
    scaled.compile(keras.optimizers.SGD(0.1), "mse")
    scaled.fit(pixels(2, 8, 6, 3) / 255, np.ones((2, 8, 6, 4), "float32"), verbose=0)
    assert len(before) == 4
    for old, variable in zip(before, scaled.trainable_variables, strict=True):
        assert np.abs(keras.ops.convert_to_numpy(variable) - old).max() > 0, variable.path


def test_resizing_resamples_the_spatial_maps():
    scaled = add_drs(small_resnet(size=(4, 4)))
    drs = scaled.get_layer("block_add_drs")
    ramp = np.tile(np.array([1.0, 2.0, 3.0, 4.0], "float32"), (4, 1))
    drs.spatial_scale.assign(ramp)
    drs.channel_bias.assign([5.0, 6.0, 7.0, 8.0])
    larger = resize_network(scaled, (8, 8))
    assert larger.input_shape == (None, 8, 8, 3)
    resampled = keras.ops.convert_to_numpy(larger.get_layer("block_add_drs").spatial_scale)
    # Bilinear with pixel centres at halves: 1, 1.25, 1.75, ... along the ramp, constant across it.
    np.testing.assert_allclose(resampled[0], [1, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4], atol=1e-5)
    np.testing.assert_allclose(resampled, np.tile(resampled[0], (8, 1)), atol=1e-5)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(larger.get_layer("block_add_drs").channel_bias), [5.0, 6.0, 7.0, 8.0]
    )
    same = resize_network(scaled, (4, 4))
    x = pixels(1, 4, 4, 3)
    np.testing.assert_allclose(same.predict(x, verbose=0), scaled.predict(x, verbose=0), rtol=1e-6)


def test_half_precision_network_keeps_scales_fine():
    """bfloat16 rounds 1.003 to 1; the layer must not."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        scaled = add_drs(small_resnet())
    finally:
        keras.config.set_dtype_policy("float32")
    drs = scaled.get_layer("block_add_drs")
    drs.channel_scale.assign([1.003] * 4)
    y = keras.ops.convert_to_numpy(drs(np.full((1, 8, 6, 4), 1000.0, "float32")))
    np.testing.assert_allclose(y, 1003.0, rtol=1e-5)


class TestRefusals:
    def test_unknown_spatial_size(self):
        with pytest.raises(ValueError, match=r"unknown size.*input_shape") as error:
            add_drs(small_resnet(size=(None, None)))
        assert "\n" not in str(error.value)

    def test_unknown_size_is_fine_without_the_spatial_part(self):
        assert add_drs(small_resnet(size=(None, None)), spatial=False).get_layer("block_add_drs").count_params() == 8

    def test_neither_part(self):
        with pytest.raises(ValueError, match="at least one"):
            DRSLayer(spatial=False, channel=False)

    def test_network_without_residual_blocks(self):
        image = keras.Input((8, 8, 3))
        with pytest.raises(ValueError, match=r"'plain'.*residual blocks"):
            add_drs(keras.Model(image, keras.layers.Conv2D(2, 3, activation="relu")(image), name="plain"))

    def test_network_with_drs_already(self):
        with pytest.raises(ValueError, match="already"):
            add_drs(add_drs(small_resnet()))

    def test_no_functional_model(self):
        with pytest.raises(ValueError, match="functional"):
            add_drs("resnet50")

    @pytest.mark.parametrize("size", [(8,), (8, 0), (8.5, 8)])
    def test_size_that_is_none(self, size):
        with pytest.raises(ValueError, match="height, width"):
            resize_network(small_resnet(), size)

    def test_flat_input(self):
        with pytest.raises(ValueError, match="batch, height, width, channels"):
            DRSLayer().build((None, 10))
