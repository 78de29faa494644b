"""Augmentation on an image whose every pixel says where it came from."""

import keras
import numpy as np
import pytest
from medzoo.training import affine_augmentation, precision

HEIGHT, WIDTH, COUNT = 40, 32, 64


def coordinates(count=COUNT):
    """Images of (100 + row, 100 + column, 100): 0 marks what lay outside."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype("float32")
    image = np.stack([100 + rows, 100 + columns, np.full_like(rows, 100)], axis=-1)
    return np.repeat(image[None], count, axis=0)


def augmented(layer, images=None):
    return keras.ops.convert_to_numpy(layer(coordinates() if images is None else images, training=True))


def affine_maps(images):
    """For each image the map from output to source position, (2, 2) matrices and (2,) source of the middle, fitted to
    pixels that came from inside."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype("float32")
    place = np.stack([rows - (HEIGHT - 1) / 2, columns - (WIDTH - 1) / 2, np.ones_like(rows)], axis=-1)
    for image in images:
        inside = image[..., 2] > 99.99
        inside[[0, -1]] = inside[:, [0, -1]] = False
        assert inside.mean() > 0.5
        source = image[..., :2][inside] - 100 - [(HEIGHT - 1) / 2, (WIDTH - 1) / 2]
        solution, *_ = np.linalg.lstsq(place[inside], source, rcond=None)
        np.testing.assert_allclose(place[inside] @ solution, source, atol=0.02)  # affine indeed
        yield solution[:2].T, solution[2]


def test_flip_mirrors_left_and_right_half_of_the_time():
    images = augmented(affine_augmentation(rotation=0, zoom=0, shift=0))
    plain = coordinates()
    mirrored = np.array([(image == plain[0][:, ::-1]).all() for image in images])
    untouched = np.array([(image == plain[0]).all() for image in images])
    assert (mirrored ^ untouched).all()
    assert 16 <= mirrored.sum() <= 48  # fails once in 10,000 seeds; the seed is fixed


def test_rotation_by_up_to_ten_degrees_to_either_side():
    images = augmented(affine_augmentation(flip=False, rotation=10, zoom=0, shift=0))
    angles = []
    for matrix, middle in affine_maps(images):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=2e-3)
        np.testing.assert_allclose(middle, 0, atol=0.05)
        angles.append(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))
    assert -10.1 <= min(angles) < -7
    assert 7 < max(angles) <= 10.1


def test_zoom_by_up_to_ten_percent():
    images = augmented(affine_augmentation(flip=False, rotation=0, zoom=0.1, shift=0))
    scales = []
    for matrix, middle in affine_maps(images):
        np.testing.assert_allclose([matrix[0, 1], matrix[1, 0]], 0, atol=2e-3)
        np.testing.assert_allclose(middle, 0, atol=0.05)
        scales.append(np.diag(matrix))
    scales = np.array(scales)
    assert (scales >= 0.899).all()
    assert (scales <= 1.101).all()
    assert (scales.min(axis=0) < 0.93).all()
    assert (scales.max(axis=0) > 1.07).all()


def test_shift_by_up_to_a_tenth_of_height_and_width():
    images = augmented(affine_augmentation(flip=False, rotation=0, zoom=0, shift=0.1))
    shifts = []
    for matrix, middle in affine_maps(images):
        np.testing.assert_allclose(matrix, np.eye(2), atol=2e-3)
        shifts.append(middle)
    shifts = np.array(shifts)
    limits = [0.1 * HEIGHT, 0.1 * WIDTH]
    assert (np.abs(shifts) <= np.array(limits) + 0.01).all()
    assert (shifts.max(axis=0) > 0.7 * np.array(limits)).all()
    assert (shifts.min(axis=0) < -0.7 * np.array(limits)).all()


def test_what_lay_outside_is_black():
    images = augmented(affine_augmentation(flip=False, rotation=0, zoom=0, shift=0.1))
    values = images[..., 2]
    assert values.min() == 0
    assert values.max() == pytest.approx(100, abs=1e-3)


def test_inert_in_inference():
    image = keras.Input((HEIGHT, WIDTH, 3))
    model = keras.Model(image, affine_augmentation()(image))
    np.testing.assert_array_equal(model.predict(coordinates(2), verbose=0), coordinates(2))


def test_a_function_of_its_seed():
    first, again, other = (augmented(affine_augmentation(seed=seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    layer = affine_augmentation(seed=3)
    np.testing.assert_array_equal(augmented(layer), first)
    assert (augmented(layer) != first).any()  # it draws anew


def test_images_of_a_batch_differ():
    images = augmented(affine_augmentation(flip=False), coordinates(2))
    assert (images[0] != images[1]).any()


def test_float32_under_half_precision():
    """bfloat16 has 8 bits: it would round 200.5 to 200 or 201."""
    with precision("mixed_bfloat16"):
        layer = affine_augmentation(rotation=0, zoom=0, shift=0)
        images = np.full((2, 8, 8, 1), 200.5, "float32")
        result = layer(images, training=True)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(result), images)
    image = keras.Input((8, 8, 1))
    np.testing.assert_array_equal(keras.Model(image, layer(image)).predict(images, verbose=0), images)


def test_grey_images():
    assert augmented(affine_augmentation(), coordinates(2)[..., :1]).shape == (2, HEIGHT, WIDTH, 1)


def test_nothing_asked_for():
    with pytest.raises(ValueError, match="received nothing to do"):
        affine_augmentation(False, 0, 0, 0)
