"""Stages: what trains and what does not, decay, patience, the best epoch, metrics and refusals."""

import keras
import numpy as np
import pytest
from medzoo.datasets import Batches
from medzoo.layers import add_drs
from medzoo.training import (
    Stage,
    affine_augmentation,
    crop_augmentation,
    fit,
    fit_stages,
    precision,
    validation_metrics,
)
from medzoo.zoo.builders import attach_head
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

SIZE = (6, 5)
ONE_EPOCH = (Stage(1, 0.01),)


def network(classes=2, batch_norm=True, drs=True, multi_label=False):
    """One residual block named as in a backbone, DRS, a head."""
    image = keras.Input((*SIZE, 1), name="image")
    x = keras.layers.Rescaling(1 / 255, name="pixels")(image)
    x = keras.layers.Conv2D(3, 3, padding="same", bias_initializer="ones", name="conv1_conv")(x)
    y = keras.layers.Conv2D(3, 3, padding="same", bias_initializer="ones", name="conv2_block1_conv")(x)
    if batch_norm:
        y = keras.layers.BatchNormalization(name="conv2_block1_bn")(y)
    y = keras.layers.Add(name="conv2_block1_add")([x, y])
    model = keras.Model(image, keras.layers.Activation("relu", name="conv2_block1_out")(y))
    return attach_head(add_drs(model) if drs else model, classes, multi_label)


def data(classes=2, count=18, weight=None):
    """Batches of 6 bright and dark images; all losses are multiplied by `weight`."""
    labels = np.arange(count) % classes
    images = np.random.default_rng(0).uniform(0, 127, (count, *SIZE, 1)) + 128 * (labels == 1)[:, None, None, None]
    sample_weight = None if weight is None else np.full(count, weight)
    return Batches(images, labels, 6, sample_weight=sample_weight)


def values(model):
    return {variable.path: keras.ops.convert_to_numpy(variable).copy() for variable in model.variables}


def test_decay_is_in_force_in_its_stage_alone(tmp_path):
    """With a loss of 0 the gradients are 0 and Adam stands still; what is left is w (1 - rate * decay) a step."""
    model = network()
    start = values(model)
    fit_stages(model, (Stage(1, 0.1, weight_decay=0.5),), data(weight=0), data(), tmp_path, verbose=0)
    after_first = values(model)
    kernels = [path for path in start if path.endswith("/kernel")]
    assert len(kernels) == 3
    for path in kernels:
        np.testing.assert_allclose(after_first[path], start[path] * (1 - 0.1 * 0.5) ** 3, rtol=1e-5)
    rest = [path for path in start if path not in kernels and "moving" not in path]
    assert len(rest) == 3 + 2 + 4  # biases, gamma and beta, DRS
    for path in rest:
        np.testing.assert_array_equal(after_first[path], start[path])

    stages = (Stage(1, 0.1, weight_decay=0.5), Stage(1, 0.1), Stage(1, 0.2, ("head",), weight_decay=0.25))
    fit_stages(model, stages[:2], data(weight=0), data(), tmp_path, verbose=0)
    for path in kernels:
        np.testing.assert_array_equal(values(model)[path], after_first[path])
    fit_stages(model, stages, data(weight=0), data(), tmp_path, verbose=0)
    for path in kernels:
        factor = (1 - 0.2 * 0.25) ** 3 if path.startswith("head") else 1  # what is frozen does not decay
        np.testing.assert_allclose(values(model)[path], after_first[path] * factor, rtol=1e-5)


def test_what_is_frozen_rests_and_trains_in_a_later_stage(tmp_path):
    model = network()
    normalization = model.get_layer("conv2_block1_bn")
    normalization.moving_mean.assign([1.0, 2.0, 3.0])
    normalization.moving_variance.assign([4.0, 0.25, 1.0])
    normalization.gamma.assign([2.0, 3.0, 4.0])
    normalization.beta.assign([0.5, 0.0, -1.0])
    start = values(model)
    first = Stage(2, 0.01, ("drs", "head"))
    fit_stages(model, (first,), data(), data(), tmp_path, verbose=0)
    trained = values(model)
    moved = {path for path in start if (start[path] != trained[path]).any()}
    drs = {f"conv2_block1_add_drs/{part}_{kind}" for part in ("spatial", "channel") for kind in ("scale", "bias")}
    assert moved == drs | {"head_logits/kernel", "head_logits/bias"}
    # Frozen batch norm in training: gamma (x - mean) / sqrt(variance + epsilon) + beta, with the statistics it has.
    x = np.random.default_rng(1).normal(size=(2, *SIZE, 3)).astype("float32")
    by_hand = np.array([2, 3, 4]) * (x - [1, 2, 3]) / np.sqrt(np.array([4, 0.25, 1]) + 1e-3) + [0.5, 0, -1]
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(normalization(x, training=True)), by_hand, rtol=1e-5, atol=1e-5
    )

    fit_stages(model, (first, Stage(2, 0.01)), data(), data(), tmp_path, verbose=0)
    assert all((values(model)[path] != trained[path]).any() for path in trained)


def test_first_update_is_adams(tmp_path):
    """The learning rate against the sign of the gradient, nearly whatever its size (Kingma and Ba 2015)."""
    model = network(drs=False)
    start = values(model)["head_logits/bias"]
    # All of class 1: the gradient of the bias, p - 1, is negative.
    bright = Batches(np.full((4, *SIZE, 1), 200.0), np.ones(4, int), 4)
    gradient = model.predict(bright[0][0], verbose=0).mean() - 1
    fit_stages(model, (Stage(1, 0.03, ("head",)),), bright, data(), tmp_path, verbose=0)
    # First moment 0.1 g, second 0.001 g^2; Keras has the rate times sqrt(1 - 0.999) / (1 - 0.9), epsilon 1e-7.
    step = 0.03 * np.sqrt(0.001) / 0.1 * 0.1 * gradient / (np.sqrt(0.001) * abs(gradient) + 1e-7)
    np.testing.assert_allclose(values(model)["head_logits/bias"] - start, -step, rtol=1e-3)


def test_learning_rate_as_in_the_paper(tmp_path):
    """Section 3.4: times 0.9 every 4 epochs without improvement, the end after 20 such epochs (here 10)."""
    model = network(batch_norm=False)
    stage = Stage(50, 0.01, patience=10, decay=0.9, decay_epochs=4)
    history = fit_stages(model, (stage,), data(weight=0), data(), tmp_path, verbose=0)
    # Epoch 0 is the best one; 1 to 4, 5 to 8 and 9 to 10 bring nothing.
    expected = [0.01] * 5 + [0.009] * 4 + [0.0081] * 2
    np.testing.assert_allclose([row["learning_rate"] for row in history], expected, rtol=1e-6)
    assert [row["epoch"] for row in history] == list(range(11))


@pytest.mark.parametrize(
    ("monitor", "scripted", "best", "rates"),
    [
        ("val_auc", [0.5, 0.8, 0.8, 0.6, 0.7], 1, [1, 1, 1, 1, 0.5]),
        ("val_accuracy", [0.5, 0.4, 0.6, 0.5, 0.9], 4, [1, 1, 1, 1, 1]),  # an improvement counts anew
        ("val_loss", [0.5, 0.3, 0.4, 0.3, 0.6], 1, [1, 1, 1, 1, 0.5]),
    ],
)
def test_best_epoch_is_restored_and_the_first_of_equals(monitor, scripted, best, rates, tmp_path, monkeypatch):
    seen, series = [], iter(scripted)

    def metrics(model, batches, labels):
        seen.append(values(model))
        return {"val_loss": 1.0, "val_accuracy": 0.5, "val_auc": 0.5, monitor: next(series)}

    monkeypatch.setattr(fit, "validation_metrics", metrics)
    model = network()
    stage = Stage(5, 0.01, monitor=monitor, decay=0.5, decay_epochs=2)
    history = fit_stages(model, (stage,), data(), data(), tmp_path, verbose=0)
    assert [row[monitor] for row in history] == scripted
    np.testing.assert_allclose([row["learning_rate"] / 0.01 for row in history], rates, rtol=1e-6)
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, seen[best][path])
    others = [epoch for epoch in range(5) if epoch != best]
    assert all((seen[epoch]["head_logits/kernel"] != values(model)["head_logits/kernel"]).any() for epoch in others)


def test_patience_ends_a_stage_and_the_next_one_starts(tmp_path):
    model = network(batch_norm=False)
    stages = (Stage(9, 0.01, patience=2), Stage(2, 0.02))
    history = fit_stages(model, stages, data(weight=0), data(), tmp_path, verbose=0)
    assert [(row["stage"], row["epoch"]) for row in history] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    np.testing.assert_allclose([row["learning_rate"] for row in history], [0.01] * 3 + [0.02] * 2, rtol=1e-6)


def test_logs(tmp_path, capsys):
    history = fit_stages(network(), (Stage(2, 0.01),), data(), data(), tmp_path, verbose=2)
    assert {"stage", "epoch", "learning_rate", "loss", "accuracy", "auc"} < history[0].keys()
    assert capsys.readouterr().out.count("val_auc") == 2
    lines = (tmp_path / "stage-0" / "history.csv").read_text().splitlines()
    assert lines[0].split(",") == list(history[0])
    assert [float(cell) for cell in lines[2].split(",")] == list(history[1].values())


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="logs for TensorBoard are written by TensorFlow alone"
)
def test_tensorboard_log(tmp_path):
    fit_stages(network(), (Stage(1, 0.01),), data(), data(), tmp_path, verbose=0)
    events = list((tmp_path / "stage-0" / "tensorboard").rglob("events.*"))
    # Keras writes the validation part to a folder of its own and drops `val_` there.
    assert any(b"epoch_auc" in file.read_bytes() for file in events if file.parent.name == "validation")


class Fixed:
    """A network that says what it is told."""

    def __init__(self, scores):
        self.scores = iter(np.array_split(np.asarray(scores, "float32"), 3))

    def predict_on_batch(self, images):
        return next(self.scores)


@pytest.mark.parametrize("classes", [2, 3])
def test_validation_metrics_as_scikit_learn_has_them(classes):
    random = np.random.default_rng(5)
    labels = np.arange(18) % classes
    scores = random.dirichlet(np.ones(classes), 18)
    scores[:2] = scores[2:4]  # ties
    received = validation_metrics(Fixed(scores[:, 1:] if classes == 2 else scores), data(classes), labels)
    one_against_rest = [roc_auc_score(labels == index, scores[:, index]) for index in range(classes)]
    assert received["val_loss"] == pytest.approx(log_loss(labels, scores), rel=1e-5)
    assert received["val_accuracy"] == accuracy_score(labels, scores.argmax(axis=1))
    assert received["val_auc"] == pytest.approx(np.mean(one_against_rest), rel=1e-6)


def test_certain_and_wrong_is_a_finite_loss():
    """Clipped at 1e-7, as the training loss is."""
    received = validation_metrics(Fixed([[1.0], [0.0], [0.5]]), data(count=18), np.array([0, 1, 1]))
    assert received["val_loss"] == pytest.approx((2 * -np.log(1e-7) - np.log(0.5)) / 3)


def test_network_that_diverged_is_the_worst(tmp_path):
    """A learning rate of the grid may be too large for a network: that must not end the search."""
    model = network()
    wild = Batches(np.full((6, *SIZE, 1), np.nan), np.arange(6) % 2, 6)
    history = fit_stages(model, (Stage(2, 0.1),), wild, data(), tmp_path, verbose=0)
    assert [(row["val_loss"], row["val_accuracy"], row["val_auc"]) for row in history] == [(np.inf, 0.0, 0.0)] * 2


def test_three_classes_train(tmp_path):
    model = network(3)
    assert model.output_shape == (None, 3)
    history = fit_stages(model, (Stage(30, 0.05),), data(3), data(3), tmp_path, verbose=0)
    assert max(row["val_auc"] for row in history) > 0.7
    assert history[0]["loss"] > history[-1]["loss"]


def findings(count=18):
    """Batches of 6 images: bright ones have label 0, those with a bright row label 1; half of them each."""
    labels = np.stack([np.arange(count) % 2, np.arange(count) // 2 % 2], axis=1)
    images = np.random.default_rng(0).uniform(0, 63, (count, *SIZE, 1))
    images += 64 * labels[:, 0, None, None, None]
    images[:, 2] += 128 * labels[:, 1, None, None]
    return Batches(images, labels, 6)


def test_several_labels_train(tmp_path):
    """Each label is the brightness of a channel: a task that two sigmoids solve from any start."""
    labels = findings().labels
    noise = np.random.default_rng(0).uniform(0, 127, (18, *SIZE, 2))
    batches = Batches(noise + 128 * labels[:, None, None, :], labels, 6)
    image = keras.Input((*SIZE, 2))
    body = keras.Model(image, keras.layers.Rescaling(1 / 64, name="conv1_pixels")(image))
    model = attach_head(body, 2, multi_label=True)
    history = fit_stages(model, (Stage(25, 0.1),), batches, batches, tmp_path, verbose=0)
    assert history[-1]["val_auc"] == 1
    assert history[-1]["val_accuracy"] > 0.8
    assert history[0]["loss"] > history[-1]["loss"]
    assert {"accuracy", "auc"} < history[0].keys()


def test_validation_metrics_of_several_labels_as_scikit_learn_has_them():
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, (18, 3))
    scores = random.uniform(size=(18, 3))
    scores[:2] = scores[2:4]  # ties
    received = validation_metrics(Fixed(scores), data(), labels)
    each = range(3)
    losses = [log_loss(labels[:, index], scores[:, index]) for index in each]
    assert received["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    right = [accuracy_score(labels[:, index], scores[:, index] >= 0.5) for index in each]
    assert received["val_accuracy"] == pytest.approx(np.mean(right))
    areas = [roc_auc_score(labels[:, index], scores[:, index]) for index in each]
    assert received["val_auc"] == pytest.approx(np.mean(areas), rel=1e-6)


@pytest.mark.parametrize("weights", [None, [[0.5, 1.5], [1.25, 0.75]]])
def test_loss_of_several_labels_by_hand(weights, tmp_path):
    """The mean over images and labels of -w log(probability of what is true), before any step is felt."""
    model = network(2, multi_label=True)
    batches = findings(6)
    (images, labels), random = batches[0], np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0, 0.1, variable.shape))
    probabilities = model.predict_on_batch(images)
    absent, present = (np.ones(2), np.ones(2)) if weights is None else np.array(weights).T
    expected = -np.mean(labels * present * np.log(probabilities) + (1 - labels) * absent * np.log(1 - probabilities))
    stages = (Stage(1, 1e-9, ("head",)),)  # batch norm at rest, so that the network is that of `predict`
    history = fit_stages(model, stages, batches, findings(), tmp_path, label_weights=weights, verbose=0)
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_label_weights_of_one_unit_are_class_weights(tmp_path):
    """One label, or two classes: the same unit, and the same training by either weights."""
    start, results = network(batch_norm=False).get_weights(), []
    for name, classes, multi_label in (("label", 1, True), ("class", 2, False)):
        model = network(classes, batch_norm=False, multi_label=multi_label)
        model.set_weights(start)
        weights = {"label_weights": [[0.5, 1.5]]} if multi_label else {}
        train = data()
        if not multi_label:
            train = Batches(train.images, train.labels, 6, class_weight={0: 0.5, 1: 1.5})
        fit_stages(model, ONE_EPOCH, train, data(), tmp_path / name, **weights, verbose=0)
        results.append(model.get_weights())
    for by_label, by_class, before in zip(*results, start, strict=True):
        np.testing.assert_allclose(by_label, by_class, atol=1e-6)
        assert np.abs(by_label - before).max() > 1e-3


def test_nested_networks_with_layers_of_the_same_name(tmp_path):
    def dense(inputs):
        return keras.layers.Dense(2, name="dense")(inputs)

    inner_image = keras.Input((*SIZE, 1))
    inner = keras.Model(inner_image, dense(keras.layers.GlobalAveragePooling2D()(inner_image)), name="inner")
    image = keras.Input((*SIZE, 1))
    x = dense(inner(keras.layers.Rescaling(1 / 255)(image)))
    model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid", name="last")(x))
    stages = (Stage(2, 0.01),)
    fit_stages(model, stages, data(), data(), tmp_path, verbose=0)
    expected = model.get_weights()
    model.set_weights([np.zeros_like(array) for array in expected])
    fit_stages(model, stages, data(), data(), tmp_path, verbose=0)
    for mine, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("augmentation", [None, affine_augmentation(seed=1)])
def test_half_precision_trains(augmentation, tmp_path):
    with precision("mixed_bfloat16"):
        model = network()
    assert keras.config.dtype_policy().name == "float32"
    assert model.get_layer("conv1_conv").compute_dtype == "bfloat16"
    start = values(model)
    fit_stages(model, (Stage(2, 0.01),), data(), data(), tmp_path, augmentation, verbose=0)
    assert all((values(model)[path] != start[path]).any() for path in start)
    assert {variable.dtype for variable in model.variables} == {"float32"}
    probabilities = model.predict_on_batch(data()[0][0])
    assert probabilities.dtype == np.float32
    assert ((probabilities > 0) & (probabilities < 1)).all()


@pytest.mark.parametrize("augmentation", [None, affine_augmentation(seed=1)])
def test_float16_does_not_lose_small_gradients(augmentation, tmp_path):
    """Gradients of about 1e-9 are 0 in float16, unless the loss is scaled."""
    with precision("mixed_float16"):
        model = network()
    start = values(model)
    fit_stages(model, (Stage(1, 0.1),), data(weight=1e-8), data(), tmp_path, augmentation, verbose=0)
    assert (values(model)["conv1_conv/kernel"] != start["conv1_conv/kernel"]).any()


def test_training_images_are_cropped_to_the_input(tmp_path):
    large = np.zeros((18, SIZE[0] + 4, SIZE[1] + 2, 1))
    small, labels = data()[0][0], np.arange(18) % 2
    train = Batches(large + 255 * labels[:, None, None, None], labels, 6)
    seen = []

    class Probe(keras.layers.Layer):
        def call(self, images):
            seen.append(tuple(images.shape))
            return images

    image = keras.Input((*SIZE, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(Probe()(image))
    model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid", name="last")(pooled))
    history = fit_stages(model, (Stage(2, 0.01),), train, data(), tmp_path, crop_augmentation(SIZE), verbose=0)
    assert len(history) == 2
    assert {shape[1:] for shape in seen} == {(*SIZE, 1)}
    assert model.predict_on_batch(small).shape == (6, 1)


class TestRefusals:
    def refusal(self, folder, stages=ONE_EPOCH, model=None, validation=None, **options):
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the caller matches
            fit_stages(model or network(), stages, data(), validation or data(), folder, **options, verbose=0)
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_one_class_in_validation(self, tmp_path):
        one = Batches(np.zeros((5, *SIZE, 1)), np.ones(5, int))
        assert "validation part: 5 images of class 1; expected all of the 2" in self.refusal(tmp_path, validation=one)
        assert not any(tmp_path.iterdir())

    def test_a_class_of_three_missing_in_validation(self, tmp_path):
        message = self.refusal(tmp_path, model=network(3), validation=data(2))
        assert "18 images of class 0, 1; expected all of the 3" in message

    @pytest.mark.parametrize(("column", "count"), [(0, 0), (1, 18)])
    def test_a_label_that_never_changes_in_validation(self, column, count, tmp_path):
        validation = findings()
        validation.labels[:, column] = count > 0
        message = self.refusal(tmp_path, model=network(2, multi_label=True), validation=validation)
        assert f"label {column} is present in {count} of 18 images; expected each label both" in message

    def test_labels_of_another_kind_than_the_network(self, tmp_path):
        message = self.refusal(tmp_path, model=network(3), validation=findings())
        assert "received labels of shape (18, 2)" in message
        assert "ends in a softmax; expected (images, 1)" in message
        message = self.refusal(tmp_path, model=network(3, multi_label=True), validation=findings())
        assert "ends in a sigmoid of 3 units; expected (images, 3)" in message
        message = self.refusal(tmp_path, model=network(3, multi_label=True), validation=data(3))
        assert "received labels of shape (18, 1)" in message

    def test_label_weights_that_do_not_fit(self, tmp_path):
        message = self.refusal(tmp_path, label_weights=[0.5, 1.5])
        assert "label_weights: received shape (2,), expected (1, 2)" in message
        message = self.refusal(tmp_path, model=network(3), validation=data(3), label_weights=[[1, 1]] * 3)
        assert "received shape (3, 2), expected None for a network that ends in a softmax" in message

    def test_stage_that_trains_nothing(self, tmp_path):
        assert "stage 1: ('head_pool',) holds no" in self.refusal(
            tmp_path, (Stage(1, 0.01), Stage(1, 0.01, train=("head_pool",)))
        )

    def test_unknown_group(self, tmp_path):
        assert "unknown group or layer pattern 'haed': did you mean 'head'?" in self.refusal(
            tmp_path, (Stage(1, 0.01, train=("drs", "haed")),)
        )

    def test_state_of_another_stage(self, tmp_path):
        fit_stages(network(), (Stage(1, 0.01),), data(), data(), tmp_path, verbose=0)
        assert "belongs to a stage with learning_rate 0.01, received 0.02" in self.refusal(tmp_path, (Stage(1, 0.02),))

    def test_state_of_another_model(self, tmp_path):
        fit_stages(network(), (Stage(1, 0.01),), data(), data(), tmp_path, verbose=0)
        message = self.refusal(tmp_path, model=network(drs=False))
        assert "best.safetensors: belongs to another model: 4 variables differ" in message
        model = network(3)
        start = values(model)
        message = self.refusal(tmp_path, model=model, validation=data(3))
        assert "2 variables differ, such as head_logits/kernel" in message
        for path, value in values(model).items():
            np.testing.assert_array_equal(value, start[path])
