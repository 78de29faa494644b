import random

import keras
import numpy as np
import pytest
from medzoo.datasets import Batches, cached_images, class_weights, encode_labels, read_folder
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

IMAGES = np.arange(10, dtype="uint8")[:, None, None, None] * np.ones((1, 4, 5, 3), "uint8")  # image i is grey i
LABELS = np.array([0, 1, 0, 0, 1, 0, 0, 1, 0, 0])


def given(batches):
    """The positions of the images that an epoch gives, in order."""
    return [int(grey) for index in range(len(batches)) for grey in batches[index][0][:, 0, 0, 0]]


def test_shapes_and_types_of_a_batch():
    x, y = Batches(IMAGES, LABELS, batch_size=4)[1]
    assert (x.shape, x.dtype) == ((4, 4, 5, 3), np.float32)
    assert (y.shape, y.dtype) == ((4, 1), np.int32)
    assert x[:, 0, 0, 0].tolist() == [4, 5, 6, 7]
    assert y[:, 0].tolist() == [1, 0, 0, 1]


def test_the_last_batch_is_smaller_and_there_is_none_behind_it():
    batches = Batches(IMAGES, LABELS, batch_size=4)
    assert [len(batches[index][1]) for index in range(len(batches))] == [4, 4, 2]
    with pytest.raises(IndexError):
        batches[3]


def test_the_default_batch_size_is_the_papers():
    assert Batches(IMAGES, LABELS).batch_size == 24


def test_indices_choose_images_labels_and_weights():
    batches = Batches(IMAGES, LABELS, indices=[7, 2], sample_weight=np.arange(10))
    x, y, weights = batches[0]
    assert x[:, 0, 0, 0].tolist() == [7, 2]
    assert y[:, 0].tolist() == [1, 0]
    assert weights.tolist() == [7, 2]


def test_weights_are_the_product_of_class_and_sample_weight():
    weights = Batches(IMAGES, LABELS, class_weight={0: 0.5, 1: 3}, sample_weight=np.arange(10))[0][2]
    assert weights.dtype == np.float32
    assert weights.tolist() == [0, 3, 1, 1.5, 12, 2.5, 3, 21, 4, 4.5]
    assert Batches(IMAGES, LABELS, class_weight={0: 0.5, 1: 3})[0][2].tolist() == [
        3 if label else 0.5 for label in LABELS
    ]


def test_every_epoch_gives_every_image_once_in_an_order_of_its_own():
    batches = Batches(IMAGES, LABELS, batch_size=3, shuffle=True, seed=1)
    epochs = []
    for _ in range(4):
        epochs.append(given(batches))
        batches.on_epoch_end()
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_order_depends_on_seed_and_epoch_alone():
    first, second = (Batches(IMAGES, LABELS, batch_size=3, shuffle=True, seed=1) for _ in range(2))
    for _ in range(3):
        first.on_epoch_end()
    second.epoch = 3
    np.random.seed(5)  # noqa: NPY002 - nobody's random state may matter
    random.seed(5)
    assert given(first) == given(second) == given(second)
    assert given(Batches(IMAGES, LABELS, batch_size=3, shuffle=True, seed=2)) != given(first)


def test_without_shuffle_the_order_stays():
    batches = Batches(IMAGES, LABELS, batch_size=3)
    batches.on_epoch_end()
    assert given(batches) == list(range(10))


def test_labels_and_images_stay_together_when_shuffled():
    batches = Batches(IMAGES, LABELS, batch_size=3, shuffle=True, seed=4, sample_weight=np.arange(10))
    for index in range(len(batches)):
        x, y, weights = batches[index]
        assert LABELS[x[:, 0, 0, 0].astype(int)].tolist() == y[:, 0].tolist()
        assert weights.tolist() == x[:, 0, 0, 0].tolist()


def test_batches_of_cached_images(tmp_path):
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (6, 6), 50 * (label == "b") + number).save(tmp_path / "data" / label / f"{number}.png")
    table = read_folder(tmp_path / "data")
    batches = Batches(cached_images(table, (6, 6), 1, tmp_path), encode_labels(table), indices=[9, 0, 6])
    x, y = batches[0]
    assert x[:, 0, 0, 0].tolist() == [54, 0, 51]
    assert x.dtype == np.float32
    assert y[:, 0].tolist() == [1, 0, 1]


def test_fit_sees_the_orders_of_seed_and_epoch():
    """What Keras feeds to the model, epoch by epoch, when a callback sets the epoch: that of a resumed run, too."""
    seen = []

    class Order(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            batches.epoch = epoch
            seen.append([])

    class Watching(Batches):
        def __getitem__(self, index):
            batch = super().__getitem__(index)
            if seen:
                seen[-1].append(batch[0][:, 0, 0, 0].astype(int).tolist())
            return batch

    batches = Watching(IMAGES, LABELS, batch_size=4, shuffle=True, seed=3, class_weight={0: 1.0, 1: 2.0})
    model = keras.Sequential(
        [keras.Input((4, 5, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(loss="binary_crossentropy", weighted_metrics=["accuracy"])
    model.fit(batches, initial_epoch=5, epochs=8, shuffle=False, verbose=0, callbacks=[Order()])
    expected = Batches(IMAGES, LABELS, batch_size=4, shuffle=True, seed=3)
    for epoch, order in zip(range(5, 8), seen, strict=True):
        expected.epoch = epoch
        assert order[-3:] == [expected[index][0][:, 0, 0, 0].astype(int).tolist() for index in range(3)]


def test_classes_of_a_batch_weigh_alike():
    labels = np.array([0, 0, 0, 2, 1, 2, 1, 1, 4, 4])
    weights = [
        weights.tolist() for _, _, weights in (Batches(IMAGES, labels, batch_size=4, balance=True)[i] for i in range(3))
    ]
    # Worked by hand, n / (k * n_c): three of class 0 and one of 2; three of 1 and one of 2; two of 4.
    assert weights == [pytest.approx([2 / 3, 2 / 3, 2 / 3, 2]), pytest.approx([2 / 3, 2, 2 / 3, 2 / 3]), [1, 1]]
    order = [3, 0, 8, 1, 2]  # three classes: 1 of class 2, 3 of class 0, 1 of class 4
    balanced = Batches(IMAGES, labels, batch_size=5, indices=order, balance=True)[0][2]
    assert balanced.dtype == np.float32
    assert balanced.tolist() == pytest.approx([5 / 3, 5 / 9, 5 / 3, 5 / 9, 5 / 9])


def test_balance_multiplies_the_other_weights():
    weights = Batches(
        IMAGES, LABELS, batch_size=4, class_weight={0: 1.0, 1: 3.0}, sample_weight=np.arange(10), balance=True
    )[0][2]
    # Labels 0, 1, 0, 0 give 2/3, 2, 2/3, 2/3; sample weights are 0 to 3.
    assert weights.tolist() == pytest.approx([0, 2 * 3 * 1, 2 / 3 * 2, 2 / 3 * 3])


def test_balance_of_several_labels_an_image_is_refused():
    with pytest.raises(ValueError, match="balance is given for 2 labels an image, expected one class index"):
        Batches(IMAGES, np.stack([LABELS, 1 - LABELS], axis=1), balance=True)


def test_keras_loss_is_weighted_as_by_hand():
    model = keras.Sequential(
        [
            keras.Input((4, 5, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(1 / 3)),
        ]
    )
    model.compile(loss="mean_squared_error")
    weight = {0: 0.5, 1: 3.0}
    loss = model.evaluate(Batches(IMAGES, LABELS, batch_size=10, class_weight=weight), verbose=0)
    # The model's output is the grey level i; Keras divides the weighted sum by the number of images.
    by_hand = sum(weight[int(label)] * (i - label) ** 2 for i, label in enumerate(LABELS)) / 10
    assert loss == pytest.approx(by_hand, rel=1e-5)


def test_class_weights_are_scikit_learns_balanced_ones():
    labels = np.repeat([0, 1, 2], [437, 210, 133])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights(labels, 3) == pytest.approx(dict(enumerate(expected)))
    assert class_weights(labels, ["benign", "malignant", "normal"]) == class_weights(labels, 3)
    assert class_weights([0, 0, 0, 1], 2) == {0: 4 / 6, 1: 2.0}


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 0], ["benign", "malignant"], "class 'malignant' has no images"),
        ([0, 0], 2, "class 1 has no images"),
        ([0, 1, 2], 2, r"labels are \[0, 1, 2\], expected class indices from 0 to 1"),
        ([], 2, "expected class indices"),
        ([0.5, 1], 2, "expected class indices"),
    ],
)
def test_class_weights_refuse(labels, classes, message):
    with pytest.raises(ValueError, match=message):
        class_weights(labels, classes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": LABELS[:9]}, r"labels are int64 of shape \(9,\), expected 10 class indices"),
        ({"labels": LABELS / 2}, "labels are float64"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"indices": []}, "indices are float64 of shape"),
        ({"indices": [0, 10]}, "indices reach from 0 to 10, expected 0 to 9"),
        ({"indices": [True, False]}, "indices are bool"),
        ({"class_weight": {0: 1.0}}, "class_weight has no weight for class 1"),
        ({"sample_weight": [1.0]}, r"sample_weight has shape \(1,\), expected \(10,\)"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        Batches(**{"images": IMAGES, "labels": LABELS, **options})
    assert "\n" not in str(caught.value)


def test_several_labels_an_image():
    findings = np.stack([LABELS, 1 - LABELS, LABELS], axis=1)
    batches = Batches(IMAGES, findings, batch_size=4, indices=[3, 1, 7, 2, 9], sample_weight=np.arange(10))
    _, y, weights = batches[0]
    assert (y.shape, y.dtype) == ((4, 3), np.int32)
    assert y.tolist() == [[0, 1, 0], [1, 0, 1], [1, 0, 1], [0, 1, 0]]
    assert weights.tolist() == [3, 1, 7, 2]
    assert batches[1][1].tolist() == [[0, 1, 0]]
    with pytest.raises(ValueError, match="class_weight is given for 3 labels an image, expected None"):
        Batches(IMAGES, findings, class_weight={0: 1.0, 1: 1.0})
    with pytest.raises(ValueError, match="hold 0 to 2, expected 0 and 1"):
        Batches(IMAGES, 2 * findings)
    with pytest.raises(ValueError, match="expected one class index an image"):
        class_weights(findings, 2)


def test_one_finding_an_image_is_a_class_index():
    assert Batches(IMAGES, LABELS[:, None])[0][1].tolist() == Batches(IMAGES, LABELS)[0][1].tolist()
