"""Rebuilding, resizing and cutting networks; one test for every surgery that a card may name."""

import keras
import numpy as np
import pytest
from medzoo import layers
from medzoo.layers import add_drs, rebuild, resize_network, split_at
from medzoo.zoo.builders import SURGERIES

SIZE = (8, 6)


def network(size=SIZE):
    """Two residual blocks with every kind of layer that a backbone has."""
    image = keras.Input((*size, 3), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem_conv")(image)
    for block in (1, 2):
        y = keras.layers.Conv2D(4, 3, padding="same", name=f"block{block}_conv")(x)
        y = keras.layers.BatchNormalization(name=f"block{block}_bn")(y)
        x = keras.layers.Add(name=f"block{block}_add")([x, y])
        x = keras.layers.Activation("relu", name=f"block{block}_out")(x)
    model = keras.Model(image, x, name="small")
    random = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(random.uniform(0.1, 0.9, variable.shape))
    return model


# Surgeries that keep stem and output; those that do not are tested with their own.
KEEPING = [name for name in SURGERIES if name not in ("add_top", "morph_stem", "slim_top")]


def pixels(*shape):
    return np.random.default_rng(1).uniform(0, 1, shape).astype("float32")


def predict(model, x):
    return model.predict(x, verbose=0)


@pytest.mark.parametrize("name", KEEPING)
class TestEverySurgery:
    def test_weights_flags_and_outputs_are_kept(self, name):
        before = network()
        before.get_layer("block1_conv").trainable = False
        values = before.get_weights()
        after = getattr(layers, name)(before)
        assert after is not before
        assert after.input_shape == before.input_shape
        for old in before.layers:
            new = after.get_layer(old.name)
            assert new is not old
            assert new.trainable == old.trainable
            for mine, theirs in zip(new.weights, old.weights, strict=True):
                np.testing.assert_array_equal(keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(theirs))
        x = pixels(2, *SIZE, 3)
        np.testing.assert_allclose(predict(after, x), predict(before, x), rtol=1e-5)
        after.set_weights([array + 1 for array in after.get_weights()])
        for mine, theirs in zip(before.get_weights(), values, strict=True):
            np.testing.assert_array_equal(mine, theirs)  # nothing is shared

    def test_result_saves_and_loads(self, name, tmp_path):
        after = getattr(layers, name)(network())
        after.save(tmp_path / "model.keras")
        x = pixels(2, *SIZE, 3)
        again = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(predict(again, x), predict(after, x), rtol=1e-6)

    def test_what_is_no_network_is_refused(self, name):
        with pytest.raises(ValueError, match="functional") as error:
            getattr(layers, name)(object())
        assert "\n" not in str(error.value)


class TestRebuild:
    def test_other_input_size(self):
        before = network()
        after = rebuild(before, input_shape=(16, 16, 3))
        assert after.output_shape == (None, 16, 16, 4)
        x = pixels(1, 16, 16, 3)
        np.testing.assert_allclose(predict(after, x), predict(network((16, 16)), x), rtol=1e-5)

    def test_weights_that_do_not_fit_are_named(self):
        image = keras.Input((4, 4, 1))
        model = keras.Model(image, keras.layers.Dense(2, name="dense")(keras.layers.Flatten()(image)))
        with pytest.raises(ValueError, match=r"layer 'dense': its weights \[\(16, 2\), \(2,\)\] do not fit") as error:
            rebuild(model, input_shape=(5, 5, 1))
        assert "\n" not in str(error.value)

    def test_layer_used_twice_stays_one(self):
        image = keras.Input((3,))
        dense = keras.layers.Dense(3, name="twice")
        model = keras.Model(image, dense(dense(image)))
        again = rebuild(model)
        assert again.count_params() == 3 * 3 + 3
        x = pixels(2, 3)
        np.testing.assert_allclose(predict(again, x), predict(model, x), rtol=1e-6)

    def test_nested_networks_are_rebuilt_too(self):
        inner = network()
        inner.get_layer("stem_conv").trainable = False
        image = keras.Input((*SIZE, 3))
        model = keras.Model(image, keras.layers.GlobalMaxPooling2D()(inner(image)))
        again = rebuild(model)
        assert again.get_layer("small") is not inner
        assert not again.get_layer("small").get_layer("stem_conv").trainable
        x = pixels(2, *SIZE, 3)
        np.testing.assert_allclose(predict(again, x), predict(model, x), rtol=1e-6)


class TestResize:
    def test_twice_the_size_with_trained_scaling(self):
        """A map that is the same everywhere stays so; the network then is the old one, position by position."""
        scaled = add_drs(network((12, 10)))
        for block in (1, 2):
            drs = scaled.get_layer(f"block{block}_add_drs")
            drs.spatial_scale.assign(np.full((12, 10), 1.5))
            drs.channel_bias.assign([0.1, 0.2, 0.3, 0.4])
        larger = resize_network(scaled, (24, 20))
        assert larger.get_layer("block1_add_drs").spatial_scale.shape == (24, 20)
        # In the middle, which the borders do not reach through three convolutions.
        flat = np.full((1, 24, 20, 3), 0.5, "float32")
        middle = predict(larger, flat)[0, 12, 10]
        np.testing.assert_allclose(middle, predict(scaled, flat[:, :12, :10])[0, 6, 5], rtol=1e-5)

    def test_and_back_is_the_same_network(self):
        scaled = add_drs(network())
        scaled.get_layer("block1_add_drs").channel_scale.assign([1.1, 1.2, 1.3, 1.4])
        back = resize_network(resize_network(scaled, (11, 9)), SIZE)
        x = pixels(2, *SIZE, 3)
        np.testing.assert_allclose(predict(back, x), predict(scaled, x), rtol=1e-5)


class TestSplit:
    @pytest.mark.parametrize("name", ["stem_conv", "block1_add", "block1_out"])
    def test_parts_make_the_whole(self, name):
        model = network()
        before, behind = split_at(model, name)
        x = pixels(2, *SIZE, 3)
        np.testing.assert_allclose(predict(behind, predict(before, x)), predict(model, x), rtol=1e-6)
        assert not {layer.name for layer in before.layers} & {layer.name for layer in behind.layers if layer.weights}

    def test_weights_are_shared(self):
        model = network()
        before, behind = split_at(model, "block1_out")
        assert behind.get_layer("block2_conv") is model.get_layer("block2_conv")
        assert before.get_layer("stem_conv") is model.get_layer("stem_conv")
        behind.get_layer("block2_conv").kernel.assign(np.zeros((3, 3, 4, 4)))
        x = pixels(2, *SIZE, 3)
        np.testing.assert_allclose(predict(behind, predict(before, x)), predict(model, x), rtol=1e-6)

    def test_cut_again_and_operate_on_afterwards(self):
        """A cut leaves the network as it was: it can be cut elsewhere, and surgery still works on it."""
        model = network()
        x = pixels(2, *SIZE, 3)
        expected = predict(model, x)
        for name in ("block1_out", "stem_conv", "block1_out"):
            before, behind = split_at(model, name)
            np.testing.assert_allclose(predict(behind, predict(before, x)), expected, rtol=1e-6)
        np.testing.assert_allclose(predict(add_drs(model), x), expected, rtol=1e-6)

    @pytest.mark.parametrize("name", ["block1_conv", "block2_bn"])
    def test_layer_that_others_bypass(self, name):
        with pytest.raises(ValueError, match=rf"{name}: other layers of 'small' bypass it") as error:
            split_at(network(), name)
        assert "\n" not in str(error.value)

    def test_behind_a_nested_network(self):
        inner = network()
        image = keras.Input((*SIZE, 3))
        model = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling2D()(inner(image))))
        before, behind = split_at(model, "small")
        x = pixels(2, *SIZE, 3)
        np.testing.assert_allclose(predict(before, x), predict(inner, x), rtol=1e-6)
        np.testing.assert_allclose(predict(behind, predict(before, x)), predict(model, x), rtol=1e-6)

    def test_unknown_layer(self):
        with pytest.raises(ValueError, match="unknown layer 'block1_outt': did you mean 'block1_out'"):
            split_at(network(), "block1_outt")
