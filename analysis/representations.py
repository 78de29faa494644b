"""How similar two networks' hidden representations are: CCA, SVCCA, projection-weighted CCA and linear CKA.

A representation is what a set of neurons gives for a sequence of data, a vector a neuron. The measures are computed
from means and covariances that are summed up batch by batch, so that memory depends on the neurons and never on the
number of data.

- CCA and SVCCA: Raghu and others, SVCCA, NIPS 2017 (arXiv 1706.05806); figure 1 of the pretraining-effect study
- projection-weighted CCA: Morcos, Raghu and Bengio, NeurIPS 2018 (arXiv 1806.05759)
- linear CKA: Kornblith and others, ICML 2019 (arXiv 1905.00414)
"""

from typing import NamedTuple

import keras
import numpy as np

from .activations import image_arrays, layer_outputs

# A direction with less than this share of the largest direction's variance is one that linearly dependent neurons do
# not have, or that rounding has made up: variances are the squares of what was measured, so that of sixteen digits
# eight count, and an error of 1e-16 in them is one of 1e-6 in a coefficient of such a direction.
RANK_CUT_OFF = 1e-10
# A neuron is constant when its deviation is within so many rounding errors of its size; float32 sums are of that order.
ROUNDING = 16
ROWS = 1024  # data that are taken to float64 at a time, at least


class Similarity(NamedTuple):
    """How similar a second set of neurons is to a first one; see `similarity`.

    Attributes:
        cca: mean of the canonical correlation coefficients, in [0, 1].
        svcca: the same between the directions that hold most of each set's variance, in [0, 1].
        pwcca: mean weighted by how much of the first set each canonical direction accounts for, in [0, 1].
        cka: linear centred kernel alignment, in [0, 1].
        n: number of data: images, or images times positions.
        kept: number of directions of the first and the second set that `svcca` compares; of the Fourier form the mean
            over the frequencies.
    """

    cca: float
    svcca: float
    pwcca: float
    cka: float
    n: int
    kept: tuple


class Moments:
    """Means and centred products of two sets of neurons, summed up in float64 over batches of data.

    Each batch is centred by its own mean before the products are taken, and what the means differ by is added (Chan,
    Golub and LeVeque, The American Statistician 37, 1983): a large mean cancels nothing, and the result does not depend
    on how the data are cut into batches. Memory is that of (first + second)^2 numbers, whatever the number of data.

    Args:
        first, second: numbers of neurons.

    Attributes:
        n: number of data so far.
        resolution: relative rounding error of the coarsest activations so far.

    Raises:
        ValueError: a number of neurons below 1.

    Example:

    ```python
    moments = Moments(512, 256)
    for x, y in activations:
        moments.add(x, y)
    similarity(moments).cca
    ```
    """

    def __init__(self, first, second):
        if min(first, second) < 1:
            raise ValueError(f"Moments: received {first} and {second} neurons, expected at least 1 of each")
        self.first, self.second = first, second
        self.n = 0
        self._means = self._products = None  # made by the first batch, which tells real numbers from complex ones
        self.resolution = np.finfo(np.float64).eps

    def add(self, x, y):
        """Adds a batch: what both sets give for the same data.

        Args:
            x: (n, first), real or complex, of any precision.
            y: (n, second).

        Raises:
            ValueError: other shapes.
        """
        x, y = np.asarray(x), np.asarray(y)
        if x.ndim != 2 or x.shape[1] != self.first or y.shape != (len(x), self.second):
            raise ValueError(
                f"activations: received shapes {x.shape} and {y.shape}, expected (n, {self.first}) and "
                f"(n, {self.second})"
            )
        dtype = "complex128" if np.iscomplexobj(x) or np.iscomplexobj(y) else "float64"
        if self._means is None:
            self._means = np.zeros(self.first, dtype), np.zeros(self.second, dtype)
            self._products = tuple(
                np.zeros(shape, dtype) for shape in [(self.first,) * 2, (self.second,) * 2, (self.first, self.second)]
            )
        for values in (x, y):
            if values.dtype.kind in "fc":
                self.resolution = max(self.resolution, float(np.finfo(values.dtype).eps))
        rows = max(ROWS, self.first + self.second)
        for start in range(0, len(x), rows):
            self._add(x[start : start + rows].astype(dtype), y[start : start + rows].astype(dtype))

    def _add(self, x, y):
        means = x.mean(axis=0), y.mean(axis=0)
        x -= means[0]
        y -= means[1]
        total = self.n + len(x)
        moved = [mean - before for mean, before in zip(means, self._means, strict=True)]
        for products, (left, right), (a, b) in zip(
            self._products, ((x, x), (y, y), (x, y)), ((0, 0), (1, 1), (0, 1)), strict=True
        ):
            products += left.conj().T @ right
            products += np.outer(moved[a].conj() * (self.n * len(x) / total), moved[b])
        for before, change in zip(self._means, moved, strict=True):
            before += change * (len(x) / total)
        self.n = total

    def covariances(self):
        """Centred covariances over the data, divided by n - 1 (complex numbers: the left one conjugated).

        Returns:
            Three float64 or complex128 arrays: (first, first), (second, second) and, of first with second,
            (first, second).

        Raises:
            ValueError: fewer than 2 data, or activations that are not finite.
        """
        self._require_data()
        if not all(np.isfinite(products).all() for products in self._products):
            raise ValueError("moments: received activations that are not finite, expected numbers")
        return tuple(products / (self.n - 1) for products in self._products)

    def powers(self):
        """Mean squares of the neurons about 0, (first,) and (second,): the size that rounding is measured by.

        Raises:
            ValueError: fewer than 2 data.
        """
        self._require_data()
        return tuple(
            np.diagonal(products).real / self.n + np.abs(mean) ** 2
            for products, mean in zip(self._products[:2], self._means, strict=True)
        )

    def _require_data(self):
        if self.n < 2:
            raise ValueError(f"moments: received {self.n} data, expected at least 2")


def canonical_correlations(moments, variance=None):
    """Canonical correlation coefficients between two sets of neurons.

    The largest correlations that linear combinations of the one set and of the other have, each pair uncorrelated with
    those before it. They do not change when either set is mapped by an invertible matrix, or shifted.

    Constant neurons are left out. Neurons that depend linearly on each other count once: each is brought to variance
    1, and directions with less than 1e-10 of the largest direction's variance are dropped (1e-5 in units of the
    neurons), so that nothing is divided by what is only rounding. There are as many coefficients as the smaller of the
    two ranks.

    Args:
        moments: `Moments` of the two sets.
        variance: None for plain CCA. A share in (0, 1] for SVCCA: CCA between the fewest principal directions of each
            set that hold this share of its variance.

    Returns:
        float64 array of coefficients in [0, 1], descending; empty where a set has no neuron that varies.

    Raises:
        ValueError: fewer than 2 data, activations that are not finite, or a share out of range.
    """
    if variance is not None:
        _require_share(variance)
    first, second, between = moments.covariances()
    limits = _rounding(moments.powers(), moments)
    left, right = (
        _whitening(covariance, limit, moments.n, variance)
        for covariance, limit in zip((first, second), limits, strict=True)
    )
    return _coefficients(left, between, right)


def similarity(moments, variance=0.99):
    """Compares two sets of neurons by four measures.

    With fewer data than neurons (strictly: n - 1 no more than the smaller rank allows) any two sets are perfectly
    correlated: plain CCA and projection-weighted CCA are then 1, or close to it, whatever the networks compute. Only
    SVCCA, if few directions hold the variance, and CKA tell anything; Raghu and others ask for several times more data
    than neurons.

    Args:
        moments: `Moments` of the two sets.
        variance: share of each set's variance, in (0, 1], that the directions kept for SVCCA hold, the paper's 0.99.
            The variance of a direction is its squared singular value; the notebooks of google/svcca add up singular
            values, which keeps more directions.

    Returns:
        `Similarity`. All but `pwcca` are symmetric: its weights are those of the first set, each canonical direction's
        sum over the first set's centred neurons x_j of |<h_i, x_j>|, with h_i the direction's values over the data
        (google/svcca weighs by the set with fewer neurons). NaN where a set has no neuron that varies.

    Raises:
        ValueError: fewer than 2 data, activations that are not finite, or a share out of range.

    Example:

    ```python
    moments = Moments(3, 4)
    moments.add(x, y)
    similarity(moments).svcca
    ```
    """
    _require_share(variance)
    return _average([moments], np.ones(1), variance)


def layer_similarity(old, new, batches, layers, fourier=False, variance=0.99):
    """Compares two networks layer by layer on the same images, as before and after training: figure 1 of the study.

    Each batch passes both networks once, for all layers, and only covariances are kept.

    By default every position of a convolutional layer is a datum and every channel a neuron: images times height times
    width data. That compares what the channels compute where they compute it: maps that are shifted against each other
    are not similar.

    Everything is taken in float32, whatever the networks compute in. The rounding of half precision is too large to be
    told from a direction: where neurons depend linearly on each other, as behind a bottleneck, it counts in CCA.

    In the Fourier form (Raghu and others, section 3 on convolutional layers) each image's maps are transformed by a
    two-dimensional DFT, every frequency is compared over the images on its own, and the measures are averaged over the
    frequencies (those at which both layers vary). For images whose statistics do not depend on the place this is CCA
    with every position of every channel as a neuron, and does not change when one layer's maps are shifted
    cyclically or filtered. The data are the images: with no more images than channels its CCA is 1 and says nothing,
    see `similarity`. Half of the frequencies are kept, the other half being their conjugates; that takes 24 bytes
    times height times width times channels squared: 80 MB for 28 x 28 maps of 64 channels, 5 GB for 56 x 56 of 256.

    Args:
        old, new: functional Keras models of the same input with these layers, which may have different numbers of
            channels but no other height or width.
        batches: iterable of image arrays (n, height, width, channels), values in [0, 255], or of tuples that begin with
            one, or a `keras.utils.PyDataset` as `datasets.Batches`.
        layers: names of layers.
        fourier: whether to compare in the Fourier form. A layer without positions is compared as ever.
        variance: share of the variance that SVCCA keeps, in (0, 1].

    Returns:
        dict of layer name to `Similarity`, in the order of `layers`. NaN where one of the networks gives the same for
        every datum.

    Raises:
        ValueError: no layer or an unknown one, fewer than 2 images, images of another shape, inputs or maps that differ
            in size between the networks, activations that are not finite, or a share out of range.

    Example:

    ```python
    layer_similarity(before, after, batches, ["conv1_relu", "conv2_block3_out"])["conv1_relu"].cca
    ```
    """
    _require_share(variance)
    layers = list(dict.fromkeys(layers))
    if not layers:
        raise ValueError("layers: received no name, expected at least one")
    if old.input_shape != new.input_shape:
        raise ValueError(f"new: received a model for inputs {new.input_shape}, expected {old.input_shape} as the old")
    images = keras.Input(old.input_shape[1:])
    # NumPy has no bfloat16, and none of its functions takes what stands in for it.
    outputs = [
        [keras.ops.cast(tensor, "float32") for tensor in layer_outputs(model, layers, images)] for model in (old, new)
    ]
    network = keras.Model(images, [*outputs[0], *outputs[1]])
    form = _frequencies if fourier else _positions
    sums, weights, n = {}, {}, 0
    for batch in image_arrays(batches, images.shape[1:]):
        maps = [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(network.predict_on_batch(batch))]
        n += len(batch)
        for name, before, after in zip(layers, maps[: len(layers)], maps[len(layers) :], strict=True):
            if before.shape[:-1] != after.shape[:-1]:
                raise ValueError(
                    f"layer {name!r}: received maps of {after.shape[1:-1]} in the new model, "
                    f"expected {before.shape[1:-1]} as in the old"
                )
            if not (np.isfinite(before).all() and np.isfinite(after).all()):
                raise ValueError(f"layer {name!r}: received activations that are not finite, expected numbers")
            (first, weights[name]), (second, _) = form(before), form(after)
            if name not in sums:
                sums[name] = [Moments(before.shape[-1], after.shape[-1]) for _ in first]
            for moments, x, y in zip(sums[name], first, second, strict=True):
                moments.add(x, y)
    if n < 2:
        raise ValueError(f"batches: received {n} images, expected at least 2")
    # Each layer's sums are let go when it has been compared.
    return {name: _average(sums.pop(name), weights[name], variance) for name in layers}


def _positions(maps):
    """Activations (n, ..., channels) as one set of data, (n times positions, channels), and its weight."""
    return maps.reshape(1, -1, maps.shape[-1]), np.ones(1)


def _frequencies(maps):
    """Activations (n, ..., channels) as a set of data (n, channels) for each frequency, and how often that occurs."""
    if maps.ndim == 2:
        maps = maps[:, None]
    spectrum = np.fft.rfftn(maps, axes=tuple(range(1, maps.ndim - 1)), norm="ortho")
    # Real maps have conjugate coefficients at opposite frequencies: of the last axis only 0 and, of even widths, the
    # middle are there once.
    times = np.full(spectrum.shape[-2], 2.0)
    times[0] = 1
    if maps.shape[-2] % 2 == 0:
        times[-1] = 1
    weights = np.broadcast_to(times, spectrum.shape[1:-1]).ravel()
    # No more digits than the float32 maps had, by which `Moments` knows how large their rounding is.
    spectrum = spectrum.reshape(len(maps), -1, maps.shape[-1]).astype("complex64")
    return spectrum.transpose(1, 0, 2), weights


def _average(sums, weights, variance):
    """`Similarity` by the weighted mean over several `Moments`, those left out in which a set does not vary."""
    # A neuron's size over all frequencies: at one at which it does not vary nothing but rounding is left to go by.
    powers = zip(*(moments.powers() for moments in sums), strict=True)
    powers = [np.average(each, axis=0, weights=weights) for each in powers]
    found = [_compare(moments, _rounding(powers, moments), variance) for moments in sums]
    if len(found) == 1:
        return found[0]
    varying = [index for index, each in enumerate(found) if min(each.kept) > 0]
    if not varying:
        return found[0]
    cca, svcca, pwcca, cka = (
        float(np.average([found[index][field] for index in varying], weights=weights[varying])) for field in range(4)
    )
    kept = np.average([found[index].kept for index in varying], axis=0, weights=weights[varying])
    return Similarity(cca, svcca, pwcca, cka, found[0].n, tuple(kept.tolist()))


def _rounding(powers, moments):
    """Variances of the neurons of both sets below which a neuron is constant but for rounding."""
    return [(ROUNDING * moments.resolution) ** 2 * power for power in powers]


def _compare(moments, limits, variance):
    first, second, between = moments.covariances()
    # Whitened by all directions, and by those that hold the variance.
    (left, principal_left), (right, principal_right) = (
        [_whitening(covariance, limit, moments.n, share) for share in (None, variance)]
        for covariance, limit in zip((first, second), limits, strict=True)
    )
    kept = principal_left.shape[1], principal_right.shape[1]
    if not min(kept):
        return Similarity(*[float("nan")] * 4, moments.n, kept)
    variates, coefficients = _canonical(left, between, right)
    weights = np.abs(variates.conj().T @ first).sum(axis=1)
    alignment = np.linalg.norm(between) ** 2 / (np.linalg.norm(first) * np.linalg.norm(second))
    return Similarity(
        cca=float(coefficients.mean()),
        svcca=float(_coefficients(principal_left, between, principal_right).mean()),
        pwcca=float(np.average(coefficients, weights=weights)),
        cka=float(alignment),
        n=moments.n,
        kept=kept,
    )


def _whitening(covariance, limit, n, variance):
    """Matrix (neurons, directions) that makes uncorrelated variates of variance 1 of centred activations.

    Its directions are the principal ones, of neurons of variance 1 if `variance` is None, else of the neurons as they
    are and no more than hold this share of their variance. CCA does not depend on the neurons' scales, what is told
    from rounding should not either; SVCCA does.
    """
    variances = np.diagonal(covariance).real
    varying = variances > limit
    whitening = np.zeros((len(variances), 0), covariance.dtype)
    if not varying.any():
        return whitening
    scale = np.sqrt(variances[varying]) if variance is None else np.ones(varying.sum())
    values, vectors = np.linalg.eigh(covariance[np.ix_(varying, varying)] / np.outer(scale, scale))
    values, vectors = values[::-1], vectors[:, ::-1]
    count = min(int((values > RANK_CUT_OFF * values[0]).sum()), n - 1)  # n centred data span no more
    if variance is not None:
        held = np.cumsum(values[:count]) / values[:count].sum()
        count = min(count, int(np.searchsorted(held, variance)) + 1)
    whitening = np.zeros((len(variances), count), covariance.dtype)
    whitening[varying] = vectors[:, :count] / np.sqrt(values[:count]) / scale[:, None]
    return whitening


def _canonical(left, between, right):
    """Canonical directions of the first set, (neurons, k), and coefficients, (k,), of two sets whitened so."""
    rotation, coefficients, _ = np.linalg.svd(left.conj().T @ between @ right, full_matrices=False)
    # Rounding may leave a perfect correlation above 1.
    return left @ rotation, np.minimum(coefficients, 1)


def _coefficients(left, between, right):
    """The coefficients alone, for a third of the time."""
    return np.minimum(np.linalg.svd(left.conj().T @ between @ right, compute_uv=False), 1)


def _require_share(variance):
    if not 0 < variance <= 1:
        raise ValueError(f"variance: received {variance}, expected a share above 0 and up to 1")
