"""Equation (6) of MorphHR, worked by hand."""

import numpy as np
import pytest
from medzoo.datasets import class_weights
from medzoo.training import inverse_class_weights, inverse_label_weights


def test_classes_by_hand():
    """Counts 4, 2, 1: 1/4 + 1/2 + 1 = 7/4, so 3 / 4 / (7/4) = 3/7, 6/7, 12/7."""
    labels = np.array([0, 1, 0, 2, 0, 1, 0])
    weights = inverse_class_weights(labels, 3)
    assert weights == pytest.approx({0: 3 / 7, 1: 6 / 7, 2: 12 / 7})
    assert inverse_class_weights(labels[:, None].astype("int32"), 3) == weights
    # Each class contributes as much as any other, as in the paper; the other room's weights differ by one factor.
    contributions = [weights[index] * count for index, count in enumerate((4, 2, 1))]
    np.testing.assert_allclose(contributions, 12 / 7)
    ratios = [weights[index] / other for index, other in class_weights(labels, 3).items()]
    np.testing.assert_allclose(ratios, ratios[0])


def test_labels_by_hand():
    """Present in 1 of 4: n_0 = 3, n_1 = 1, 1/3 + 1 = 4/3, so 2 / 3 / (4/3) = 1/2 and 2 / 1 / (4/3) = 3/2."""
    labels = np.array([[1, 1], [0, 1], [0, 0], [0, 0]], "int32")
    weights = inverse_label_weights(labels)
    np.testing.assert_allclose(weights, [[0.5, 1.5], [1, 1]])
    for index in range(2):  # a label alone is a task of two classes
        assert dict(enumerate(weights[index])) == pytest.approx(inverse_class_weights(labels[:, index], 2))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, 2], "received no image of class 1, expected all 3 classes"),
        ([0, 1, 3], r"received \[0, 1, 3\], expected class indices 0 to 2"),
        ([], "received no image of class 0"),
    ],
)
def test_refused_classes(labels, message):
    with pytest.raises(ValueError, match=message):
        inverse_class_weights(labels, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0, 1], [1, 1]], "received label 1 in 2 of 2 images"),
        ([[0, 1], [0, 0]], "received label 0 in 0 of 2 images"),
        ([[0, 2], [1, 1]], r"received shape \(2, 2\), expected \(images, labels\) of 0 and 1"),
        ([0, 1], r"received shape \(2,\)"),
    ],
)
def test_refused_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        inverse_label_weights(labels)
