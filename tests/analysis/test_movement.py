"""How far features move, by hand."""

import keras
import numpy as np
import pytest
from medzoo.analysis import feature_movement


def network(factor, size):
    """Pixels times a factor, averaged over blocks so that any size gives maps of 2 x 2."""
    image = keras.Input((size, size, 1))
    x = keras.layers.AveragePooling2D(size // 2, name="pool")(image)
    return keras.Model(image, keras.layers.Rescaling(factor, name="scaled")(x))


def test_distance_and_cosine_by_hand():
    """Maps 3 and 4 become 4 and 3: they differ by (1, -1), of length sqrt 2 against 5; their cosine is 24 / 25."""
    old = np.array([[3, 3], [4, 4]], "float32").reshape(1, 2, 2, 1)
    new = np.array([[4, 4], [3, 3]], "float32").repeat(2, 0).repeat(2, 1).reshape(1, 4, 4, 1)
    moved = feature_movement(network(1, 2), [old], network(2, 4), [new], ["pool", "scaled"])
    assert moved["layer"].tolist() == ["pool", "scaled"]
    # Twice the numbers: (8, 6) from (3, 4) is (5, 2) away, in the same direction as before.
    assert moved["distance"].tolist() == pytest.approx([2**0.5 / 5, 29**0.5 / 5])
    assert moved["cosine"].tolist() == pytest.approx([24 / 25, 24 / 25])


def test_batches_count_as_one():
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (6, 4, 4, 1)).astype("float32")
    images[:3] = 0  # what is compared must not be the first image alone
    first, second = network(1, 4), network(0.5, 4)
    whole = feature_movement(first, [images], second, [images], ["scaled"])
    parts = feature_movement(first, [images[:4], images[4:]], second, [images[:4], images[4:]], ["scaled"])
    np.testing.assert_allclose(whole[["distance", "cosine"]], parts[["distance", "cosine"]], rtol=1e-6)
    assert whole["distance"][0] == pytest.approx(0.5)


def test_refuses_what_cannot_be_compared():
    image = np.zeros((1, 4, 4, 1), "float32")
    with pytest.raises(ValueError, match="received 1 batches and 2, expected as many of both"):
        feature_movement(network(1, 4), [image], network(1, 4), [image, image], ["pool"])
    wide = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.AveragePooling2D(1, name="pool")])
    with pytest.raises(ValueError, match=r"layer 'pool': received maps of \(1, 4, 4, 1\), expected \(1, 2, 2, 1\)"):
        feature_movement(network(1, 4), [image], wide, [image], ["pool"])
