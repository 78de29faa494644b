"""CCA, SVCCA, projection-weighted CCA and CKA against their definitions on whole matrices, and on networks by hand."""

import importlib.util
import os
import subprocess
import sys
import tracemalloc

import keras
import numpy as np
import pytest
from medzoo.analysis import Moments, canonical_correlations, layer_similarity, similarity
from sklearn.cross_decomposition import CCA


@pytest.fixture
def random():
    return np.random.default_rng(11)


def moments_of(x, y, size=None):
    """`Moments` of two matrices, in batches of `size` rows."""
    moments = Moments(x.shape[1], y.shape[1])
    for start in range(0, len(x), size or len(x)):
        moments.add(x[start : start + (size or len(x))], y[start : start + (size or len(x))])
    return moments


def related(random, n, first, second, shared=3):
    """Two sets of neurons that see some of the same sources and some of their own."""
    sources = random.normal(size=(n, shared))
    return [sources @ random.normal(size=(shared, width)) + random.normal(size=(n, width)) for width in (first, second)]


def centred(x):
    return x - x.mean(axis=0)


def basis(x, variance=None):
    """Orthonormal basis of the data's column space by SVD of the data themselves, perhaps of part of their variance.

    Directions of 1e-6 are what float32 makes up where a network has more neurons than directions.
    """
    u, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    keep = (s > 1e-6 * s[0]).sum() if variance is None else (np.cumsum(s**2) / np.sum(s**2) < variance).sum() + 1
    return u[:, :keep]


def by_definition(x, y, variance=0.99):
    """The four measures from the whole matrices: angles between subspaces, sums over neurons, Gram matrices."""
    rotation, coefficients, _ = np.linalg.svd(basis(x).conj().T @ basis(y), full_matrices=False)
    variates = basis(x) @ rotation
    weights = np.array([sum(abs(np.vdot(h, neuron)) for neuron in centred(x).T) for h in variates.T])
    kept = basis(x, variance), basis(y, variance)
    centring = np.eye(len(x)) - 1 / len(x)
    k, l = (centring @ each @ each.conj().T @ centring for each in (x, y))  # noqa: E741 - the names of the paper
    return {
        "cca": coefficients.mean(),
        "svcca": np.linalg.svd(kept[0].conj().T @ kept[1], compute_uv=False).mean(),
        "pwcca": (weights / weights.sum() * coefficients).sum(),
        "cka": (np.vdot(k, l) / np.sqrt(np.vdot(k, k) * np.vdot(l, l))).real,  # trace(KL), as both are Hermitian
        "n": len(x),
        "kept": tuple(each.shape[1] for each in kept),
    }


def matches(found, expected, rel=1e-9):
    kept, expected = expected["kept"], {name: value for name, value in expected.items() if name != "kept"}
    assert found.kept == pytest.approx(kept)
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=rel)


def test_two_by_two_by_hand():
    """Var X = (2 1; 1 2), Var Y = diag(1, 4), Cov(X, Y) = 1: the squared coefficients are the eigenvalues of
    Var X^-1 Var Y^-1 = (2 -1/4; -1 1/2) / 3, of trace 5/6 and determinant 1/12, that is (5 ± sqrt 13) / 12."""
    covariance = np.array([[2, 1, 1, 0], [1, 2, 0, 1], [1, 0, 1, 0], [0, 1, 0, 4]], "float64")
    # Five points in four dimensions whose covariance is exactly that.
    corners = np.linalg.svd(np.eye(5) - 1 / 5)[0][:, :4]
    data = 2 * corners @ np.linalg.cholesky(covariance).T
    moments = moments_of(data[:, :2], data[:, 2:], 2)
    for part, expected in zip(moments.covariances(), (slice(0, 2), slice(2, 4)), strict=False):
        np.testing.assert_allclose(part, covariance[expected, expected], atol=1e-14)
    np.testing.assert_allclose(moments.covariances()[2], np.eye(2), atol=1e-14)
    np.testing.assert_allclose(
        canonical_correlations(moments), np.sqrt([(5 + 13**0.5) / 12, (5 - 13**0.5) / 12]), rtol=1e-12
    )
    # ||Cov(X, Y)||^2 = 2; ||Var X||^2 = 10, ||Var Y||^2 = 17.
    assert similarity(moments).cka == pytest.approx(2 / 170**0.5)


def test_correlation_of_single_neurons():
    moments = moments_of(np.array([[1.0], [2], [3], [4]]), np.array([[2.0], [1], [4], [3]]))
    assert canonical_correlations(moments) == pytest.approx([0.6])
    assert similarity(moments)[:4] == pytest.approx((0.6, 0.6, 0.6, 0.36))


def test_coefficients_are_scikit_learns(random):
    x, y = related(random, 300, 5, 4)
    theirs = CCA(4, max_iter=100_000, tol=1e-14).fit(x, y).transform(x, y)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(theirs[0].T, theirs[1].T, strict=True)]
    assert 0.1 < expected[3] < expected[0] < 0.95
    np.testing.assert_allclose(canonical_correlations(moments_of(x, y)), expected, rtol=1e-6)


@pytest.mark.parametrize(("n", "first", "second"), [(200, 6, 9), (200, 9, 6), (40, 12, 12)])
def test_all_measures_are_those_of_the_definitions(random, n, first, second):
    x, y = related(random, n, first, second)
    x *= 10.0 ** np.linspace(0, -2, first)  # so that few directions hold the variance
    matches(similarity(moments_of(x, y, 37)), by_definition(x, y))
    matches(similarity(moments_of(x, y), variance=0.7), by_definition(x, y, 0.7))
    svcca = canonical_correlations(moments_of(x, y), variance=0.7)
    expected = np.linalg.svd(basis(x, 0.7).T @ basis(y, 0.7), compute_uv=False)
    np.testing.assert_allclose(svcca, expected, rtol=1e-9)
    assert len(svcca) < len(canonical_correlations(moments_of(x, y))) == min(first, second)


def test_svcca_of_all_variance_is_cca(random):
    x, y = related(random, 100, 4, 5)
    assert similarity(moments_of(x, y), variance=1)[1] == pytest.approx(similarity(moments_of(x, y))[0], rel=1e-9)


def test_complex_activations(random):
    mixing = random.normal(size=(4, 5)) + 1j * random.normal(size=(4, 5))
    x = random.normal(size=(60, 4)) + 1j * random.normal(size=(60, 4))
    y = x @ mixing + 2 * (random.normal(size=(60, 5)) + 1j * random.normal(size=(60, 5)))
    matches(similarity(moments_of(x, y, 7)), by_definition(x, y))


def test_invariant_to_invertible_maps_and_shifts(random):
    x, y = related(random, 400, 6, 5)
    a, b = (random.normal(size=(size, size)) * 10.0 ** random.uniform(-2, 2, size) for size in (6, 5))
    shift = 1e3 * random.normal(size=6)
    np.testing.assert_allclose(canonical_correlations(moments_of(x, x @ a + shift)), np.ones(6), atol=1e-6)
    plain = canonical_correlations(moments_of(x, y))
    assert 0 < plain[-1] < plain[0] < 0.99
    np.testing.assert_allclose(canonical_correlations(moments_of(x @ a + shift, y @ b)), plain, atol=1e-6)


def test_symmetric_but_for_the_weights(random):
    x, y = related(random, 100, 6, 4)
    x[:, 0] *= 9
    one, other = similarity(moments_of(x, y)), similarity(moments_of(y, x))
    assert (one.cca, one.svcca, one.cka) == pytest.approx((other.cca, other.svcca, other.cka), rel=1e-9)
    assert abs(one.pwcca - other.pwcca) > 0.01


@pytest.mark.parametrize("n", [2, 10, 40])
def test_more_neurons_than_data(random, n):
    """Any n points are an affine function of any other n that span as much: all coefficients are 1."""
    x, y = random.normal(size=(n, 40)).astype("float32"), random.normal(size=(n, 50)).astype("float32")
    coefficients = canonical_correlations(moments_of(x, y, 3))
    assert len(coefficients) == n - 1
    assert coefficients.max() <= 1
    np.testing.assert_allclose(coefficients, 1, atol=1e-6)
    found = similarity(moments_of(x, y, 3))
    assert np.isfinite(found[:4]).all()
    assert found.cca == pytest.approx(1, abs=1e-6)
    assert found.cka == pytest.approx(by_definition(x.astype("float64"), y.astype("float64"))["cka"])


def test_chance_level_of_independent_sets(random):
    """The squared coefficients of independent Gaussian sets sum to p q / (n - 1) on average."""
    sums = [
        (canonical_correlations(moments_of(*(random.normal(size=(101, width)) for width in (10, 20)))) ** 2).sum()
        for _ in range(60)
    ]
    assert np.mean(sums) == pytest.approx(10 * 20 / 100, abs=0.12)


def test_dead_and_dependent_neurons_change_nothing(random):
    x, y = related(random, 100, 4, 5)
    dead = np.tile([0, 0.1, 1e6 / 3], (100, 1))
    dependent = x @ random.normal(size=(4, 2))
    for dtype, tolerance in (("float64", 1e-9), ("float32", 1e-5)):
        more = np.hstack([dead, x, dependent]).astype(dtype)
        coefficients = canonical_correlations(moments_of(more, y.astype(dtype), 9))
        np.testing.assert_allclose(coefficients, canonical_correlations(moments_of(x, y)), rtol=tolerance)
        alive = similarity(moments_of(x, y))
        found = similarity(moments_of(np.hstack([dead, x]).astype(dtype), y.astype(dtype), 9))
        matches(found, alive._asdict(), tolerance)


@pytest.mark.parametrize("dead", [0.0, 0.1, 1e6 / 3])
def test_nothing_varies(random, dead):
    x = random.normal(size=(50, 3))
    for pair in ((np.full((50, 4), dead), x), (x, np.full((50, 4), dead)), (np.full((50, 4), dead),) * 2):
        moments = moments_of(*pair, 7)
        assert canonical_correlations(moments).shape == (0,)
        assert np.isnan(similarity(moments)[:4]).all()


def test_batches_and_large_means(random):
    """A mean of a million deviations loses six digits of sixteen, where plain sums of squares would lose twelve."""
    x, y = related(random, 500, 4, 3)
    expected = np.cov(x.T, y.T)
    for size in (1, 7, 500):
        parts = moments_of(x, y, size).covariances()
        for part, rows, columns in zip(
            parts, (slice(0, 4), slice(4, 7), slice(0, 4)), (slice(0, 4), slice(4, 7), slice(4, 7)), strict=True
        ):
            np.testing.assert_allclose(part, expected[rows, columns], rtol=1e-11, atol=1e-13)
        far = moments_of(x + 1e6, y - 1e6, size)
        np.testing.assert_allclose(similarity(far)[:4], similarity(moments_of(x, y))[:4], rtol=1e-8)


def peak(n, neurons=192):
    """Largest memory of comparing n data of 2 x 192 neurons in batches of 500."""
    random = np.random.default_rng(0)
    batch = random.normal(size=(500, neurons)).astype("float32")
    tracemalloc.start()
    moments = Moments(neurons, neurons)
    for index in range(n // 500):
        moments.add(batch, np.roll(batch, index, axis=1))
    canonical_correlations(moments)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return largest


def test_no_matrix_of_all_data_is_held():
    few, many = peak(1_000), peak(10_000)
    products = 3 * 192 * 192 * 8
    assert many < 1.05 * few
    assert many < 8 * products < 10_000 * 2 * 192 * 8 / 4


def test_a_large_batch_is_taken_in_parts():
    batch = np.ones((20_000, 64), "float32")
    moments = Moments(64, 64)
    tracemalloc.start()
    moments.add(batch, batch)
    assert tracemalloc.get_traced_memory()[1] < batch.nbytes / 2
    tracemalloc.stop()


def test_refusals_of_moments(random):
    x = random.normal(size=(9, 3))
    cases = [
        (lambda: Moments(0, 3), "received 0 and 3 neurons"),
        (lambda: Moments(3, 3).add(x, x[:5]), r"received shapes \(9, 3\) and \(5, 3\), expected \(n, 3\)"),
        (lambda: Moments(2, 3).add(x, x), r"received shapes \(9, 3\) and \(9, 3\), expected \(n, 2\)"),
        (lambda: similarity(Moments(3, 3)), "moments: received 0 data, expected at least 2"),
        (lambda: similarity(moments_of(x[:1], x[:1])), "moments: received 1 data, expected at least 2"),
        (lambda: similarity(moments_of(x, x), variance=0), "variance: received 0, expected a share"),
        (lambda: canonical_correlations(moments_of(x, x), 1.1), "variance: received 1.1, expected a share"),
        (lambda: similarity(moments_of(x, np.where(x > 1e-9, x, np.nan))), "activations that are not finite"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


SIZE = (6, 5, 3)


def network(seed, channels=4, name="network", size=SIZE):
    """A convolution that sees its neighbours, a second one, and a dense layer."""
    random = np.random.default_rng(seed)
    model = keras.Sequential(
        [
            keras.Input(size),
            keras.layers.Conv2D(channels, 3, padding="same", activation="tanh", name="first"),
            keras.layers.Conv2D(5, 1, strides=2, name="second"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="dense"),
        ],
        name=name,
    )
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape, scale=0.5))
    return model


@pytest.fixture
def images():
    return np.random.default_rng(3).normal(size=(40, *SIZE)).astype("float32")


def outputs(model, layer, images):
    tapped = keras.Model(model.inputs, model.get_layer(layer).output)
    return keras.ops.convert_to_numpy(tapped.predict_on_batch(images)).astype("float64")


class Numbered(keras.utils.PyDataset):
    """Images and labels in batches of 16, 16 and 8."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = self.images[16 * index : 16 * index + 16]
        return part, np.zeros(len(part))


@pytest.mark.parametrize("form", ["dataset", "arrays", "whole"])
def test_every_position_is_a_datum(images, form):
    old, new = network(1), network(2, channels=6)
    batches = {
        "dataset": lambda: Numbered(images),
        "arrays": lambda: (images[start : start + 7] for start in range(0, 40, 7)),
        "whole": lambda: [images],
    }[form]()
    found = layer_similarity(old, new, batches, ["dense", "first", "second"], variance=0.8)
    assert list(found) == ["dense", "first", "second"]
    for name, n in (("first", 40 * 30), ("second", 40 * 9), ("dense", 40)):
        x, y = (outputs(model, name, images).reshape(n, -1) for model in (old, new))
        matches(found[name], by_definition(x, y, 0.8), 1e-4)
    assert found["second"].cca != found["second"].svcca
    assert 0.1 < found["first"].cca < 0.9


def fourier_by_hand(x, y, variance):
    """The mean over every frequency of the full transform, none left out as the conjugate of another."""
    x, y = (np.fft.fft2(maps, axes=(1, 2)) for maps in (x, y))
    cells = [by_definition(x[:, u, v], y[:, u, v], variance) for u in range(x.shape[1]) for v in range(x.shape[2])]
    return {
        **{key: np.mean([cell[key] for cell in cells]) for key in ("cca", "svcca", "pwcca", "cka")},
        "n": len(x),
        "kept": tuple(np.mean([cell["kept"] for cell in cells], axis=0)),
    }


@pytest.mark.parametrize("width", [4, 5])
def test_fourier_form_is_the_mean_over_all_frequencies(width):
    images = np.random.default_rng(3).normal(size=(40, 6, width, 3)).astype("float32")
    old, new = (network(seed, channels, size=(6, width, 3)) for seed, channels in ((1, 4), (2, 6)))
    found = layer_similarity(
        old, new, [images[:9], images[9:]], ["first", "second", "dense"], fourier=True, variance=0.8
    )
    for name in ("first", "second"):
        matches(found[name], fourier_by_hand(outputs(old, name, images), outputs(new, name, images), 0.8), 1e-4)
    # Without positions there is one frequency, 0.
    dense = layer_similarity(old, new, [images], ["dense"], variance=0.8)["dense"]
    matches(found["dense"], dense._asdict(), 1e-4)


def functional(function, size=SIZE):
    """A network of one layer that computes `function` of the images."""
    image = keras.Input(size)
    return keras.Model(image, keras.layers.Lambda(function, name="maps")(image))


def in_both_forms(old, new, images):
    return [layer_similarity(old, new, [images], ["maps"], fourier=fourier)["maps"] for fourier in (False, True)]


def test_shift_of_one_networks_maps(images):
    """A cyclic shift turns each frequency by a phase, the same in all images: the Fourier form does not see it. White
    noise is not correlated with what stands beside it, so that positions do."""
    plain = functional(lambda x: x)
    shifted = functional(lambda x: keras.ops.roll(x, (2, 1), axis=(1, 2)))
    positions, fourier = in_both_forms(plain, shifted, images)
    assert positions.cca < 0.1
    assert fourier[:4] == pytest.approx((1, 1, 1, 1), abs=1e-5)
    # Both shifted alike: neither form sees it.
    other = functional(lambda x: keras.ops.tanh(x + keras.ops.roll(x, 1, axis=3)))
    both = functional(lambda x: keras.ops.roll(keras.ops.tanh(x + keras.ops.roll(x, 1, axis=3)), (2, 1), axis=(1, 2)))
    for one, two in zip(in_both_forms(plain, other, images), in_both_forms(shifted, both, images), strict=True):
        assert one[:4] == pytest.approx(two[:4], rel=1e-4)
        assert one.cca < 0.99


def test_cyclic_filter_is_a_linear_map_of_each_frequency(images):
    """x + half of its right neighbour, of which each channel has another share: no frequency is lost."""
    filtered = functional(lambda x: x + 0.5 * keras.ops.roll(x, -1, axis=2) * np.array([1, -1, 0.5], "float32"))
    positions, fourier = in_both_forms(functional(lambda x: x), filtered, images)
    assert positions.cca < 0.95
    assert fourier.cca == pytest.approx(1, abs=1e-5)
    assert fourier.cka < 0.999  # frequencies apart, channels are scaled differently


def test_constant_maps_have_the_frequency_zero_alone(images):
    """Spatial means in all positions: the Fourier form is CCA of the means over the images, rounding aside."""
    means = functional(lambda x: keras.ops.mean(x, axis=(1, 2), keepdims=True) + 0 * x)
    squares = functional(lambda x: keras.ops.mean(x + x**2, axis=(1, 2), keepdims=True) + 0 * x + 7)
    fourier = layer_similarity(means, squares, [images], ["maps"], fourier=True)["maps"]
    x = images.astype("float64")
    matches(fourier, by_definition(x.mean(axis=(1, 2)), (x + x**2).mean(axis=(1, 2))), 1e-4)


def test_a_network_with_itself_and_with_a_dead_layer(images):
    model = network(1)
    for fourier in (False, True):
        found = layer_similarity(model, model, Numbered(images), ["first", "dense"], fourier)
        assert found["first"][:4] == pytest.approx((1, 1, 1, 1), abs=1e-5)
        assert found["dense"][:4] == pytest.approx((1, 1, 1, 1), abs=1e-5)
    dead = network(1)
    dead.get_layer("first").kernel.assign(np.zeros((3, 3, 3, 4)))
    for fourier in (False, True):
        found = layer_similarity(model, dead, Numbered(images), ["first", "second"], fourier)
        assert np.isnan([found[name][:4] for name in found]).all()
    half = network(1)
    kernel = keras.ops.convert_to_numpy(half.get_layer("first").kernel).copy()
    kernel[..., :2] = 0
    half.get_layer("first").kernel.assign(kernel)
    for fourier in (False, True):
        found = layer_similarity(model, half, Numbered(images), ["first"], fourier)["first"]
        assert found.cca == pytest.approx(1, abs=1e-5)
        assert found.kept[1] == 2
        assert found.cka < 0.99


def test_each_batch_passes_once(images, monkeypatch):
    passed = []
    predict = keras.Model.predict_on_batch
    monkeypatch.setattr(
        keras.Model, "predict_on_batch", lambda model, batch: passed.append(len(batch)) or predict(model, batch)
    )
    layer_similarity(network(1), network(2), Numbered(images), ["first", "second", "dense"])
    assert passed == [16, 16, 8]


def test_bfloat16_activations(images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        old, new = network(1), network(2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(old.get_layer("first").output.dtype) == "bfloat16"
    half = layer_similarity(old, new, [images], ["first"])["first"]
    whole = layer_similarity(network(1), network(2), [images], ["first"])["first"]
    assert half[:4] == pytest.approx(whole[:4], abs=0.01)


JAX = """
import sys
class WithoutTensorFlow:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError("No module named 'tensorflow'", name=name)
sys.meta_path.insert(0, WithoutTensorFlow())
import importlib.util
specification = importlib.util.spec_from_file_location("here", sys.argv[1])
here = importlib.util.module_from_spec(specification)
specification.loader.exec_module(here)
print(here.keras.backend.backend(), *here.numbers())
"""


def numbers():
    """What both backends compute: the measures at two layers in both forms."""
    images = np.random.default_rng(3).normal(size=(40, *SIZE)).astype("float32")
    return [
        value
        for fourier in (False, True)
        for found in layer_similarity(network(1), network(2), Numbered(images), ["first", "dense"], fourier).values()
        for value in found[:4]
    ]


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed: pip install medzoo[jax]")
def test_jax_gives_the_same():
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    result = subprocess.run(
        [sys.executable, "-c", JAX, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    backend, *found = result.stdout.split()
    assert backend == "jax"
    np.testing.assert_allclose([float(value) for value in found], numbers(), rtol=1e-4)


def test_refusals_of_layers(images):
    model, smaller = network(1), network(1, size=(4, 5, 3))
    strided = keras.Sequential([keras.Input(SIZE), keras.layers.Conv2D(4, 3, 2, name="first")])
    infinite = functional(lambda x: 1 / keras.ops.relu(x))
    cases = [
        (lambda: layer_similarity(model, model, [images], ["frist"]), "unknown layer 'frist': did you mean 'first'"),
        (lambda: layer_similarity(model, strided, [images], ["dense"]), "unknown layer 'dense'"),
        (lambda: layer_similarity(model, model, [images], []), "layers: received no name"),
        (lambda: layer_similarity(model, model, [], ["first"]), "batches: received 0 images, expected at least 2"),
        (lambda: layer_similarity(model, model, [images[:1]], ["first"]), "batches: received 1 images"),
        (lambda: layer_similarity(model, model, images, ["first"]), r"received an array of shape \(6, 5, 3\)"),
        (lambda: layer_similarity(model, smaller, [images], ["first"]), "new: received a model for inputs"),
        (
            lambda: layer_similarity(model, strided, [images], ["first"]),
            r"layer 'first': received maps of \(2, 2\) in the new model, expected \(6, 5\) as in the old",
        ),
        (lambda: layer_similarity(infinite, infinite, [images], ["maps"]), "layer 'maps': .* that are not finite"),
        (lambda: layer_similarity(model, model, [images], ["first"], variance=2), "variance: received 2"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
