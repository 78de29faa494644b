"""Task2Vec: the Fisher information against finite differences, distances by hand, subsets, other backends."""

import importlib.util
import os
import subprocess
import sys
from itertools import combinations, product

import keras
import numpy as np
import pytest
from medzoo.analysis import (
    TaskEmbedding,
    embedding_distance,
    mean_distance,
    subset_embeddings,
    task2vec,
    task_embedding,
)
from sklearn.linear_model import LogisticRegression

SIZE = (6, 6, 1)
LAYERS = {"first": 2, "depthwise": 2, "last": 3}


def network():
    """Two convolutions and a depthwise one, with an activation of their own, batch norm and dropout among them."""
    random = np.random.default_rng(0)
    x = inputs = keras.Input(SIZE)
    x = keras.layers.Conv2D(2, 2, activation="relu", name="first")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.DepthwiseConv2D(2, name="depthwise")(x)
    x = keras.layers.Conv2D(3, 2, name="last")(x)
    x = keras.layers.Dropout(0.5)(x)
    model = keras.Model(inputs, x, name="tiny")
    model.set_weights([0.5 * random.normal(size=weight.shape) ** 2 for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def probe():
    return network()


def task(n=10, classes=3):
    """Images of which each class has a brighter part of its own; the first class has half of them."""
    random = np.random.default_rng(1)
    labels = np.maximum(np.arange(n) % (2 * classes - 2) - classes + 2, 0)
    images = random.uniform(0, 2, (n, *SIZE)).astype("float32")
    for label in range(1, classes):
        images[labels == label, 2 * label : 2 * label + 2] += 1.5
    return images, labels


def head_of(probe, images, labels, classes, seed=0):
    pooled = keras.ops.convert_to_numpy(probe(images, training=False)).mean(axis=(1, 2))
    return task2vec._fit_head(pooled, labels, classes, np.random.default_rng(seed))


def exact_fisher(probe, images, labels, classes):
    """By its definition: over images and labels the mean square of the derivative by finite differences, every class
    of the dataset with the same weight, then the mean over the weights of a filter."""
    kernel, bias = head_of(probe, images, labels, classes)

    def log_probabilities():
        pooled = keras.ops.convert_to_numpy(probe(images, training=False)).astype("float64").mean(axis=(1, 2))
        logits = pooled @ kernel + bias
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    weights = 1 / np.bincount(labels)[labels] / len(np.unique(labels))
    shares, found, step = np.exp(log_probabilities()), [], 4e-3
    for name in LAYERS:
        variable = probe.get_layer(name).kernel
        before = keras.ops.convert_to_numpy(variable).copy()
        squares = np.zeros(before.shape)
        for index in np.ndindex(before.shape):
            sides = []
            for sign in (1, -1):
                moved = before.copy()
                moved[index] += sign * step
                variable.assign(moved)
                sides.append(log_probabilities())
            slopes = (sides[0] - sides[1]) / (2 * step)
            squares[index] = (weights[:, None] * shares * slopes**2).sum()
        variable.assign(before)
        found.append(squares.mean(axis=(0, 1) if name == "depthwise" else (0, 1, 2)).reshape(-1))
    return np.concatenate(found)


@pytest.mark.parametrize(("method", "tolerance"), [("montecarlo", 0.25), ("expected", 0.2)])
def test_fisher_is_that_of_finite_differences(probe, method, tolerance):
    images, labels = task()
    found = task_embedding(probe, images, labels, 3, method, passes=300)
    expected = exact_fisher(probe, images, labels, 3)
    assert found.layers == tuple(LAYERS.items())
    assert found.n == 10
    assert (found.scale == 1).all()
    # 600 squares of deviation √2 or so each: 6 % of a filter's value.
    assert found.fisher == pytest.approx(expected, rel=tolerance)
    assert expected.max() > 10 * expected.min()


def gradients(embedder, targets, logits):
    """Of the loss in the logits, by differences."""
    steps = np.concatenate([np.eye(3), -np.eye(3)]).astype("float32") / 100
    losses = [embedder._loss(targets, np.tile(logits + step, (len(targets), 1)).astype("float32")) for step in steps]
    losses = np.stack([keras.ops.convert_to_numpy(each) for each in losses])
    return ((losses[:3] - losses[3:]) * 50).T


def test_signs_have_the_covariance_of_drawn_labels_and_spread_less():
    """All eight signs, and all drawn labels: diag(p) - p pᵀ, the Fisher information of the logits."""
    logits = np.log([0.98, 0.015, 0.005])
    shares = np.array([0.98, 0.015, 0.005])
    expected = np.diag(shares) - np.outer(shares, shares)
    signs = np.array(list(product([1.0, -1.0], repeat=3)))
    # √p ξ is the loss's coefficient where p is that of the logits without the step, which differences would move.
    signed = np.sqrt(shares) * signs
    wanted = signed - shares * signed.sum(axis=1, keepdims=True)
    drawn = gradients(task2vec._MonteCarlo, np.array([[1, 0.5], [1, 0.99], [1, 0.999]], "float32"), logits)
    assert drawn == pytest.approx(shares - np.eye(3), abs=1e-3)
    assert wanted.T @ wanted / 8 == pytest.approx(expected)
    assert (drawn.T * shares) @ drawn == pytest.approx(expected, abs=1e-3)
    # The squares' own mean square, by which an estimate of them spreads.
    assert (wanted**4).sum(axis=1).mean() < 0.1 * ((drawn**4).sum(axis=1) * shares).sum()
    # And in the loss: a weight counts with its size.
    found = keras.ops.convert_to_numpy(
        task2vec._Expected._loss(
            np.concatenate([np.full((8, 1), 3), signs], axis=1).astype("float32"),
            np.tile(logits, (8, 1)).astype("float32"),
        )
    )
    assert found == pytest.approx(3 * wanted @ logits, rel=1e-4)


def test_variational_fisher_is_where_noise_costs_as_much_as_it_gains(monkeypatch):
    """1 / σ² = F / β + 1 / λ²: so where the loss is a parabola of the weights (little noise), its curvature one for
    any label (logits linear in the weights) and each weight is seen at one position of its map."""
    monkeypatch.setattr(task2vec, "DIVERGENCE", 1e-4)
    inputs = keras.Input(SIZE)
    linear = keras.Model(inputs, keras.layers.Conv2D(3, 6, name="whole")(inputs))
    kernel = np.random.default_rng(0).normal(size=(6, 6, 1, 3)) * [0.1, 0.2, 0.4]
    linear.set_weights([kernel, np.zeros(3)])
    images, labels = task()
    found = task_embedding(linear, images, labels, 3, "variational", passes=2400)
    head, bias = head_of(linear, images, labels, 3)
    logits = np.einsum("nhwc,hwcf->nf", images, kernel) @ head + bias
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # d logits / d weight = pixel · head: Fᵢ = mean over pixels and images of pixel² · headᵢᵀ (diag(p) - p pᵀ) headᵢ.
    curvature = (shares @ (head**2).T) - (shares @ head.T) ** 2
    weights = 1 / np.bincount(labels)[labels] / 3
    fisher = (weights[:, None] * (images**2).mean(axis=(1, 2)) * curvature).sum(axis=0)
    # Steps of 1 % keep what each image says of the noise, so that it wavers about where it belongs.
    assert found.fisher == pytest.approx(fisher + found.scale, rel=0.6)
    assert (found.scale == found.scale[0]).all()
    assert fisher.max() > 40 * fisher.min()
    variances = 1e-4 / found.fisher
    assert found.scale[0] == pytest.approx(1e-4 / (np.mean(kernel**2) + variances.mean()), rel=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Conv2D(4, 2, strides=2, padding="same", groups=2),
        keras.layers.DepthwiseConv2D(2, padding="same", depth_multiplier=2),
        keras.layers.Conv2D(2, 2, dilation_rate=2),
    ],
    ids=["groups", "depthwise", "dilated"],
)
def test_noise_on_the_output_is_that_of_noisy_weights(layer):
    """The variance of a map is the sum over the weights of what each alone gives, squared."""
    images = np.random.default_rng(0).normal(size=(1, 5, 5, 2)).astype("float32")
    maps = layer(images)
    variance = np.zeros(maps.shape)
    for index in np.ndindex(tuple(layer.kernel.shape)):
        kernel = np.zeros(layer.kernel.shape)
        kernel[index] = 1
        layer.set_weights([kernel, np.zeros(maps.shape[-1])])
        variance += keras.ops.convert_to_numpy(layer(images)) ** 2
    noise = task2vec._FilterNoise(layer)
    assert keras.ops.convert_to_numpy(noise._windows(images)) == pytest.approx(variance, rel=1e-4)


def test_the_head_is_softmax_regression_with_balanced_classes():
    """1560 steps do not converge; where features are large they come near, and scikit-learn goes all the way."""
    random = np.random.default_rng(0)
    labels = (np.arange(200) % 5 == 0).astype(int)
    features = random.normal(size=(200, 4)) + labels[:, None]
    kernel, bias = task2vec._fit_head(4 * features, labels, 3, np.random.default_rng(0))
    regression = LogisticRegression(class_weight="balanced", C=1e3).fit(4 * features, labels)
    ours = 4 * features @ kernel + bias
    assert np.corrcoef(ours[:, 1] - ours[:, 0], regression.decision_function(4 * features))[0, 1] > 0.99
    assert 0.3 < (ours[:, 1] > ours[:, 0]).mean() < 0.6  # one in five, but for the balance
    assert (ours[:, 2] < ours.max(axis=1)).all()  # a class without images


def test_the_same_seed_gives_the_same_bits_and_the_probe_stays(probe):
    images, labels = task()
    before = [weight.copy() for weight in probe.get_weights()]
    flags = [variable.trainable for variable in probe.variables]
    for method in ("expected", "variational"):
        found = [task_embedding(probe, images, labels, 3, method, passes=4, seed=5) for _ in range(2)]
        assert np.array_equal(found[0].fisher, found[1].fisher)
    assert all(np.array_equal(old, new) for old, new in zip(before, probe.get_weights(), strict=True))
    assert [variable.trainable for variable in probe.variables] == flags


class Stored:
    """What `datasets.CachedImages` gives."""

    def __init__(self, images):
        self.shape, self._images, self.asked = images.shape, images, []

    def read(self, indices):
        self.asked.append(len(indices))
        return self._images[indices]


def test_subsets_are_balanced_and_depend_on_seed_and_number_alone(probe, monkeypatch):
    images, labels = task(n=200)
    seen = []
    original = task2vec._fit_head
    monkeypatch.setattr(task2vec, "_fit_head", lambda *args: seen.append(args[1]) or original(*args))
    stored = Stored(images)
    many = subset_embeddings(probe, stored, labels, 3, subsets=4, share=0.1, seed=3)
    few = subset_embeddings(probe, images, labels, 3, subsets=2, share=0.1, seed=3)
    assert [each.n for each in many] == [20] * 4
    assert all(np.array_equal(a.fisher, b.fisher) for a, b in zip(few, many, strict=False))
    assert not np.array_equal(many[0].fisher, many[1].fisher)
    assert max(stored.asked) <= 8  # of images from a file no more than a batch is in memory
    # Half of the images are of class 0, a third of the subsets.
    assert (labels == 0).mean() == 0.5
    assert np.mean(np.concatenate(seen) == 0) == pytest.approx(1 / 3, abs=0.12)


def test_a_subset_of_two_images_has_two_classes(probe):
    images, labels = task(n=30)
    assert [each.n for each in subset_embeddings(probe, images, labels, 3, subsets=3, share=0.01)] == [2] * 3


def test_halves_of_a_task_lie_nearer_than_two_tasks(probe):
    images, labels = task(n=60)
    other = np.random.default_rng(0).uniform(0, 5, images.shape).astype("float32")
    other_labels = (other[:, :3].mean(axis=(1, 2, 3)) > 2.5).astype(int)
    first = subset_embeddings(probe, images, labels, 3, subsets=3, share=0.5, method="expected", passes=4)
    second = subset_embeddings(probe, other, other_labels, 3, subsets=3, share=0.5, method="expected", passes=4)
    assert mean_distance(first, first).high < mean_distance(first, second).low


def embedding(*fisher, scale=1.0):
    return TaskEmbedding(np.array(fisher, float), np.full(len(fisher), float(scale)), (("first", len(fisher)),), 10)


def test_distances_by_hand():
    a, b = embedding(1, 3), embedding(1, 1)
    # (1/2, 3/4) and (1/2, 1/4).
    cosine = (1 / 4 + 3 / 16) / (np.sqrt(1 / 4 + 9 / 16) * np.sqrt(1 / 4 + 1 / 16))
    assert embedding_distance(a, b) == pytest.approx(1 - cosine)
    assert embedding_distance(b, a) == pytest.approx(1 - cosine)
    assert embedding_distance(a, a) == pytest.approx(0, abs=1e-12)
    # (1, 3) and (1, 1): 4 / √10 √2.
    assert embedding_distance(a, b, "normalised") == pytest.approx(1 - 4 / np.sqrt(20))
    # (2, 6) and (1, 1), as the scale of a is 1/2.
    assert embedding_distance(embedding(1, 3, scale=0.5), b, "normalised") == pytest.approx(1 - 4 / np.sqrt(20))
    # Trivial is (1, 1) where it is not given, which is b; (9, 1) is at (1/10, 3/4) and (9/10, 1/4).
    assert embedding_distance(a, b, "asymmetric") == pytest.approx((1 - cosine) * 0.85)
    far = 1 - (9 / 100 + 3 / 16) / (np.hypot(1 / 10, 3 / 4) * np.hypot(9 / 10, 1 / 4))
    found = embedding_distance(a, b, "asymmetric", trivial=embedding(9, 1), alpha=0.5)
    assert found == pytest.approx(1 - cosine - 0.5 * far)
    # A filter of which neither knows anything does not count, whatever the size of the others.
    assert embedding_distance(embedding(1e-30, 3e-30, 0), embedding(1e-30, 1e-30, 0)) == pytest.approx(1 - cosine)


def test_mean_distance_draws_pairs_and_tells_the_spread_of_all():
    random = np.random.default_rng(0)
    first, second = ([embedding(*random.uniform(size=6)) for _ in range(n)] for n in (4, 5))
    all_pairs = [embedding_distance(a, b) for a in first for b in second]
    found = mean_distance(first, second, pairs=20)
    assert (found.value, found.mean, found.n) == (pytest.approx(np.mean(all_pairs)), pytest.approx(found.value), 20)
    assert found.deviation == pytest.approx(np.std(all_pairs, ddof=1))
    assert min(all_pairs) <= found.low < found.mean < found.high <= max(all_pairs)
    five = {mean_distance(first, second, seed=seed).value for seed in range(10)}
    assert len(five) == 10
    assert np.std(list(five)) < found.deviation
    assert mean_distance(first, second, seed=1) == mean_distance(first, second, seed=1)
    # A dataset and itself: no embedding with itself, each pair once.
    itself = mean_distance(first, first)
    assert itself.n == 6
    assert itself.mean == pytest.approx(np.mean([embedding_distance(a, b) for a, b in combinations(first, 2)]))
    assert mean_distance(first[:1], second[:1]).deviation == 0


JAX = """
import importlib.util, sys
specification = importlib.util.spec_from_file_location("here", sys.argv[1])
here = importlib.util.module_from_spec(specification)
specification.loader.exec_module(here)
print(here.keras.backend.backend(), *here.numbers())
"""


def numbers():
    """What every backend computes: the Fisher information is the same, noise has another generator."""
    images, labels = task()
    return [
        value
        for each in subset_embeddings(network(), images, labels, 3, 2, share=0.8, passes=3)
        for value in each.fisher
    ] + [len(task_embedding(network(), images, labels, 3, "variational", passes=2).fisher)]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed: pip install medzoo[jax]")
def test_jax_gives_the_same():
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    result = subprocess.run(
        [sys.executable, "-c", JAX, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    backend, *found = result.stdout.split()
    assert backend == "jax"
    np.testing.assert_allclose([float(value) for value in found], numbers(), rtol=1e-3)


def test_what_does_not_fit_is_refused(probe):
    images, labels = task()
    dense = keras.Sequential([keras.Input(SIZE), keras.layers.Flatten(), keras.layers.Dense(2)], name="flat")
    flat = keras.Model(dense.inputs, dense.outputs, name="flat")
    cases = [
        (lambda: task_embedding(probe, images[:, :5], labels, 3), r"images: received the shape \(10, 5, 6, 1\)"),
        (lambda: task_embedding(probe, images, labels[:9], 3), "received 10 images and 9 labels"),
        (lambda: task_embedding(probe, images, labels, 2), r"labels: received values \[0, 1, 2\], expected 0 to 1"),
        (lambda: task_embedding(probe, images, labels * 0, 2), "labels: received class 0 only"),
        (lambda: task_embedding(probe, images, labels, ["a", "b", "c"]), "classes: received .*, expected their number"),
        (lambda: task_embedding(probe, images, labels, 3, "fisher"), "method: received 'fisher', expected one of"),
        (lambda: task_embedding(probe, images, labels, 3, passes=0), "passes: received 0"),
        (lambda: task_embedding(probe, images * np.nan, labels, 3), "pixels that are not finite"),
        (lambda: task_embedding(flat, images, labels, 3), "probe 'flat': has no convolution"),
        (lambda: subset_embeddings(probe, images, labels, 3, subsets=0), "subsets: received 0"),
        (lambda: subset_embeddings(probe, images, labels, 3, share=1.5), "share: received 1.5"),
        (lambda: embedding_distance(embedding(1), embedding(1, 2)), "received 1 and 2 filters"),
        (lambda: embedding_distance(embedding(1), embedding(1), "cosine"), "kind: received 'cosine'"),
        (lambda: mean_distance([embedding(1)] * 2, []), "embeddings: received 2 and 0"),
        (lambda: mean_distance([embedding(1)], [embedding(1)], pairs=0), "pairs: received 0"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
