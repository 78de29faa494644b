"""Normalisation of raw pixels, worked by hand."""

import keras
import numpy as np
import pytest
from medzoo.layers import PixelNormalization

MEAN, DEVIATION = [10.0, 20.0, 30.0], [1.0, 2.0, 4.0]


def outputs(layer, *pixel, dtype="float32"):
    return keras.ops.convert_to_numpy(layer(np.array([[[pixel]]], dtype)))[0, 0, 0]


def test_colours_in_order():
    # (100 - 10) / 1, (110 - 20) / 2, (70 - 30) / 4
    np.testing.assert_array_equal(outputs(PixelNormalization(MEAN, DEVIATION), 100, 110, 70), [90, 45, 10])


def test_colours_turned_round():
    # Mean and deviation are in the order of the output: (70 - 10) / 1, (110 - 20) / 2, (100 - 30) / 4
    np.testing.assert_array_equal(outputs(PixelNormalization(MEAN, DEVIATION, "bgr"), 100, 110, 70), [60, 45, 17.5])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_grey_is_repeated(order):
    np.testing.assert_array_equal(outputs(PixelNormalization(MEAN, DEVIATION, order), 50), [40, 15, 5])


def test_whole_numbers():
    np.testing.assert_array_equal(
        outputs(PixelNormalization(MEAN, DEVIATION), 100, 0, 255, dtype="uint8"), [90, -10, 56.25]
    )


def test_unknown_size_and_shape():
    layer = PixelNormalization(MEAN, DEVIATION)
    assert layer(keras.Input((None, None, 1))).shape == (None, None, None, 3)
    assert layer.compute_output_shape((2, 5, 7, 1)) == (2, 5, 7, 3)


def test_saves_and_loads(tmp_path):
    image = keras.Input((2, 2, 3))
    model = keras.Model(image, PixelNormalization(MEAN, DEVIATION, "bgr", name="pixels")(image))
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).uniform(0, 255, (1, 2, 2, 3))
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PixelNormalization(MEAN, DEVIATION, "gbr"), "received order 'gbr', expected 'rgb' or 'bgr'"),
        (
            lambda: PixelNormalization(MEAN, DEVIATION).build((None, 4, 4, 4)),
            r"\(None, 4, 4, 4\), expected one channel",
        ),
        (lambda: PixelNormalization(MEAN[:2], DEVIATION), "received mean"),
        (lambda: PixelNormalization(MEAN, [1, 0, 1]), "received .*deviation"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)
