"""Task2Vec: a dataset as the Fisher information that it has about the filters of a fixed probe network.

- Achille and others, Task2Vec: task embedding for meta-learning, ICCV 2019 (arXiv 1902.03545): the embedding in
  section 2, its robust (variational) form in section 2.2 of arXiv's version, the distances in section 3
- van den Brandt and others, Cats, not CAT scans (arXiv 2107.05940), section IV-B: many embeddings of small subsets of
  a dataset, the distance of two datasets the mean over five random pairs of them

The probe keeps its weights; only a softmax head on its average-pooled features is fitted to the labels. How much
the prediction depends on each weight, averaged over the weights of a filter, is the embedding. It has the same length
for every dataset, whatever the classes.
"""

from itertools import combinations, product
from typing import NamedTuple

import keras
import numpy as np

from ..layers.surgery import rebuild, require_functional

# The authors' settings of the head, and how many images they draw for the variational form.
HEAD_EPOCHS, DRAWS, HEAD_BATCH, HEAD_RATE, HEAD_DECAY = 10, 10_000, 64, 4e-4, 1e-4
# The authors' settings of the noise: weight of the divergence, learning rate, and its variance at the start as a share
# of the variance of the filter's weights.
DIVERGENCE, NOISE_RATE, NOISE_START = 1e-7, 1e-2, 0.05
BATCH = 8  # images whose gradients are summed before they are squared: fewer give less noise, more are faster
KINDS = ("symmetric", "normalised", "asymmetric")
METHODS = ("montecarlo", "expected", "variational")


class TaskEmbedding(NamedTuple):
    """The embedding of a dataset; see `task_embedding`.

    Attributes:
        fisher: float64 (filters,), Fisher information of each convolution filter, the mean over its weights.
        scale: float64 (filters,), of the variational form what `fisher` would be of a filter that the task does not
            depend on; otherwise that is 0, and the scale is 1 as in the authors' code.
        layers: tuple of (name, number of filters) of the convolutions, from input to output.
        n: number of images.
    """

    fisher: np.ndarray
    scale: np.ndarray
    layers: tuple
    n: int


class MeanDistance(NamedTuple):
    """How far two datasets lie apart; see `mean_distance`.

    Attributes:
        value: mean distance of a few random pairs, as the paper has it.
        mean: of all pairs.
        deviation: sample standard deviation over all pairs; 0 for one pair.
        low, high: 2.5th and 97.5th percentile of all pairs.
        n: number of all pairs.
    """

    value: float
    mean: float
    deviation: float
    low: float
    high: float
    n: int


def task_embedding(probe, images, labels, classes, method="montecarlo", passes=None, seed=0):
    """Embeds a dataset of labelled images.

    A softmax head on the probe's average-pooled features is fitted with the authors' settings (Adam at 4e-4, decay
    1e-4, ten epochs of 10,000 images drawn so that every class is as frequent). Then one of:

    - `"montecarlo"`: the diagonal of the Fisher information itself, the mean of the squared gradient of log p(y | x),
      with the labels y drawn from the model and not from the dataset (section 2, equation 1). Gradients of eight images
      are summed before they are squared; as labels drawn from the model make each of mean 0, this changes nothing but
      the noise. Images weigh such that every class weighs the same.
    - `"expected"`: the same, with the mean over the labels in place of a draw. A head that is sure of its few images
      draws a label other than the likeliest once in thousands, and then all that the task depends on comes at once;
      here a random vector of the covariance of that gradient (in the logits, diag(p) - p pᵀ) is passed back instead,
      which has the same mean square at every image.
    - `"variational"`: normal noise is added to the weights, of one variance σ² a filter, which is trained to be as
      large as the loss bears: cross-entropy + 1e-7 · the divergence from a normal prior of the layer's variance λ². At
      the optimum 1e-7 / σ² is the Fisher information + 1e-7 / λ², which is `fisher` here and never negative. The
      authors' number of steps (10,000 images at 1e-2 a step) does not go all the way from where they begin; and as they
      do, noise is drawn anew at every position of a map, where that of a weight is the same at all: filters whose maps
      are averaged come out with less.

    Batch norm and dropout are as in inference.

    Args:
        probe: headless functional Keras model of one image input, such as `zoo.backbone("resnet18")`; stays as it is.
        images: (n, height, width, channels) of the probe's input shape, values in [0, 255]: an array, or what has
            `read(indices)` and a length as `medzoo.datasets.CachedImages` does.
        labels: (n,) class numbers, of two classes at least.
        classes: number of classes of the head; some may lack images.
        method: `"montecarlo"`, `"expected"` or `"variational"`.
        passes: how often each image is passed (variational: is drawn on average), or None for once, and for 10,000
            images in all where variational.
        seed: of all that is random; the same seed gives the same embedding.

    Returns:
        `TaskEmbedding(fisher, scale, layers, n)`.

    Raises:
        ValueError: images that do not fit the probe, labels that are no class numbers or of one class, lengths that
            differ, an unknown method, a probe without convolutions or none that is functional.

    Example:

    ```python
    probe = zoo.backbone("resnet18", input_shape=(96, 96, 3))
    images = datasets.cached_images(table, (96, 96))
    embedding = task_embedding(probe, images, datasets.encode_labels(table), len(table.attrs["classes"]))
    ```
    """
    labels = _checked(probe, images, labels, classes, passes)
    return embedder(probe, classes, method).embed(images, np.arange(len(labels)), labels, passes, seed)


def subset_embeddings(
    probe, images, labels, classes, subsets=100, share=0.01, seed=0, method="montecarlo", passes=None
):
    """Embeds random subsets of a dataset, as the cats-scans study does.

    Each subset draws without replacement, every class as likely (section IV-B: "using sample weights"). One of a single
    class is drawn again. The probe is compiled once for all.

    Args:
        probe, images, labels, classes, method, passes: as for `task_embedding`.
        subsets: how many.
        share: of the images in each subset, above 0 and up to 1; two images at least.
        seed: of all that is random. A subset depends on seed and its number alone, so that the first of many are the
            same as of few.

    Returns:
        list of `TaskEmbedding`.

    Raises:
        ValueError: as `task_embedding`, or when `subsets` or `share` is out of range.
    """
    labels = _checked(probe, images, labels, classes, passes)
    if isinstance(subsets, bool) or not isinstance(subsets, int) or subsets < 1:
        raise ValueError(f"subsets: received {subsets!r}, expected a whole number from 1")
    if not 0 < share <= 1:
        raise ValueError(f"share: received {share!r}, expected a share of the images above 0 and up to 1")
    compiled = embedder(probe, classes, method)
    size = max(2, round(share * len(labels)))
    found = []
    for index in range(subsets):
        random = np.random.default_rng([seed, index])
        while True:
            rows = np.sort(random.choice(len(labels), size, replace=False, p=_class_weights(labels)))
            if len(np.unique(labels[rows])) > 1:
                break
        found.append(compiled.embed(images, rows, labels[rows], passes, [seed, index]))
    return found


def embedding_distance(a, b, kind="symmetric", trivial=None, alpha=0.15):
    """The distance of two embeddings of the same probe (section 3 of Achille and others).

    With F the Fisher information of the filters and d the cosine distance, 1 - cosine:

    - `"symmetric"`: d(F_a / (F_a + F_b), F_b / (F_a + F_b)), element by element, so that filters of every size count;
      in [0, 1]. Filters of which neither task knows anything do not count.
    - `"normalised"`: d(F_a / scale_a, F_b / scale_b), in [0, 1]. (The authors' code takes the inverse of these, which
      is infinite where a filter has no information.)
    - `"asymmetric"`: symmetric(a, b) - α · symmetric(a, trivial), from the source a to the target b: a complex source,
      far from the trivial task, is nearer to all.

    Args:
        a, b: `TaskEmbedding`.
        kind: one of the three.
        trivial: `TaskEmbedding` of the trivial task for the asymmetric distance; None for a's scale, the embedding of a
            task that depends on no filter.
        alpha: how much complexity counts; the paper's 0.15.

    Returns:
        float.

    Raises:
        ValueError: embeddings of other layers, or an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: received {kind!r}, expected one of {', '.join(KINDS)}")
    for other in (b, *([] if trivial is None else [trivial])):
        if other.layers != a.layers:
            raise ValueError(
                f"embeddings of other probes: received {len(a.fisher)} and {len(other.fisher)} filters, "
                "expected those of the same layers"
            )
    if kind == "normalised":
        return _cosine_distance(a.fisher / a.scale, b.fisher / b.scale)
    distance = _symmetric(a.fisher, b.fisher)
    if kind == "symmetric":
        return distance
    return distance - alpha * _symmetric(a.fisher, a.scale if trivial is None else trivial.fisher)


def mean_distance(first, second, pairs=5, seed=0):
    """The distance of two datasets by the embeddings of their subsets, and the spread that averaging hides.

    The paper's distance is the mean of the symmetric distances of five random pairs. Another five pairs give another
    mean: it deviates by about `deviation` / √5.

    Args:
        first, second: lists of `TaskEmbedding`, see `subset_embeddings`. Of a dataset and itself (the same list) the
            pairs are those of two different embeddings.
        pairs: how many to draw, without replacement; all if there are fewer.
        seed: of the drawing.

    Returns:
        `MeanDistance(value, mean, deviation, low, high, n)`.

    Raises:
        ValueError: no pair, or `pairs` below 1.
    """
    if isinstance(pairs, bool) or not isinstance(pairs, int) or pairs < 1:
        raise ValueError(f"pairs: received {pairs!r}, expected a whole number from 1")
    all_pairs = list(combinations(first, 2) if first is second else product(first, second))
    if not all_pairs:
        raise ValueError(f"embeddings: received {len(first)} and {len(second)}, expected a pair at least")
    distances = np.array([embedding_distance(a, b) for a, b in all_pairs])
    drawn = np.random.default_rng(seed).choice(len(distances), min(pairs, len(distances)), replace=False)
    low, high = np.percentile(distances, [2.5, 97.5])
    deviation = distances.std(ddof=1) if len(distances) > 1 else 0.0
    value, mean = distances[drawn].mean(), distances.mean()
    return MeanDistance(float(value), float(mean), float(deviation), float(low), float(high), len(distances))


def _symmetric(a, b):
    total = a + b
    known = total > 0
    return _cosine_distance(a[known] / total[known], b[known] / total[known])


def _cosine_distance(a, b):
    """1 - cosine, in [0, 1] for what is never negative; 1 from what is 0 everywhere."""
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.clip(1 - a @ b / norm, 0, 1)) if norm > 0 else 1.0


def embedder(probe, classes, method="montecarlo"):
    """A probe compiled once, whose `embed` embeds any number of datasets of up to so many classes.

    Args:
        probe, classes, method: as for `task_embedding`.

    Raises:
        ValueError: an unknown method, a probe without convolutions or none that is functional.
    """
    if method not in METHODS:
        raise ValueError(f"method: received {method!r}, expected one of {', '.join(METHODS)}")
    kinds = _MonteCarlo, _Expected, _Variational
    return dict(zip(METHODS, kinds, strict=True))[method](probe, classes)


class _Classifier(keras.Model):
    """A network, average pooling and a softmax head's logits; batch norm and dropout always as in inference."""

    def __init__(self, network, head):
        super().__init__(name=f"{network.name}_task")
        self.network, self.head = network, head

    def call(self, images):
        return self.head(_pooled(self.network(images, training=False)))


class _Embedder:
    """What the methods have in common: the probe, its head, and a model whose steps gather what each is after."""

    def __init__(self, probe, classes):
        self.features = keras.Model(probe.inputs[0], _pooled(probe.outputs[0]))
        self.convolutions = []
        network = rebuild(probe, call_function=self._call)
        if not self.convolutions:
            raise ValueError(f"probe {probe.name!r}: has no convolution, expected some")
        trained = self._trained()
        network.trainable = True
        for variable in network.variables:
            variable.trainable = any(variable is each for each in trained)
        self.head = keras.layers.Dense(classes, trainable=False, dtype="float32")
        self.model = _Classifier(network, self.head)
        self.model(np.zeros((1, *(side or 64 for side in probe.input_shape[1:3]), probe.input_shape[3]), "float32"))
        self.model.compile(optimizer=self._optimizer(), loss=self._loss)
        self.model.optimizer.build(self.model.trainable_variables)
        self.fresh = [keras.ops.convert_to_numpy(variable) for variable in self._state()]

    def embed(self, images, rows, labels, passes=None, seed=0):
        """The `TaskEmbedding` of some rows of the images, with one label a row; see `task_embedding`."""
        # As if it were the first: what was embedded before must not matter.
        for variable, value in zip(self._state(), self.fresh, strict=True):
            variable.assign(value)
        random = np.random.default_rng(seed)
        self.head.set_weights(_fit_head(self._features(images, rows), labels, self.head.units, random))
        fisher, scale = self._fisher(images, rows, labels, passes, random)
        layers = tuple((layer.name, _filters(layer)) for layer in self.convolutions)
        return TaskEmbedding(fisher.astype("float64"), scale.astype("float64"), layers, len(rows))

    def _features(self, images, rows):
        parts = []
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            parts.append(self.features.predict_on_batch(_read(images, batch))[: len(batch)])
        return np.concatenate(parts)


class _MonteCarlo(_Embedder):
    def _call(self, layer, *args, **kwargs):
        if _is_convolution(layer):
            self.convolutions.append(layer)
        return layer(*args, **kwargs)

    def _trained(self):
        return [layer.kernel for layer in self.convolutions]

    def _optimizer(self):
        return _SquaredGradients(self.convolutions)

    def _state(self):
        return self.model.optimizer.variables

    def _draw(self, n, random):
        return random.random((n, 1))

    @staticmethod
    def _loss(targets, logits):
        """-log p of a label drawn from the model; targets: what the gradient counts with, and a uniform number."""
        cumulated = keras.ops.cumsum(keras.ops.softmax(logits), axis=-1)
        drawn = keras.ops.sum(keras.ops.cast(cumulated[:, :-1] <= targets[:, 1:], "int32"), axis=-1)
        label = keras.ops.one_hot(drawn, logits.shape[-1])
        return -targets[:, 0] * keras.ops.sum(label * keras.ops.log_softmax(logits), axis=-1)

    def _fisher(self, images, rows, labels, passes, random):
        passes = 1 if passes is None else passes
        # The gradient counts with the weight of its image when it has been squared.
        weights = np.sqrt(_class_weights(labels))
        for _ in range(passes):
            order = random.permutation(len(rows))
            for start in range(0, len(rows), BATCH):
                batch = order[start : start + BATCH]
                # Always as many, as another shape would be compiled anew; what fills a batch up counts with 0.
                drawn = self._draw(len(batch), random)
                targets = np.zeros((BATCH, 1 + drawn.shape[1]), "float32")
                targets[: len(batch)] = np.concatenate([weights[batch, None], drawn], axis=1)
                self.model.train_on_batch(_read(images, rows[batch]), targets)
        # Keras takes the mean over a batch, of which the sum was wanted.
        fisher = BATCH**2 / passes * self.model.optimizer.squares()
        return fisher, np.ones(len(fisher))


class _Expected(_MonteCarlo):
    def _draw(self, n, random):
        return random.choice([-1.0, 1.0], (n, self.head.units))

    @staticmethod
    def _loss(targets, logits):
        """What has the gradient (√p ξ - p √p·ξ) in the logits; targets: what it counts with, and the signs ξ.

        Its covariance is diag(p) - p pᵀ, that of the gradients of log p over the labels that the model would draw.
        """
        shares = keras.ops.stop_gradient(keras.ops.softmax(logits))
        signed = keras.ops.sqrt(shares) * targets[:, 1:]
        wanted = signed - shares * keras.ops.sum(signed, axis=-1, keepdims=True)
        return targets[:, 0] * keras.ops.sum(wanted * logits, axis=-1)


class _SquaredGradients(keras.optimizers.Optimizer):
    """Adds up the squares of each step's gradients, averaged over the weights of a filter, and moves nothing."""

    def __init__(self, convolutions):
        super().__init__(learning_rate=0.0, name="squared_gradients")
        self.convolutions = convolutions

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        layers = [next(layer for layer in self.convolutions if layer.kernel is kernel) for kernel in variables]
        self.depthwise = [_is_depthwise(layer) for layer in layers]
        self.sums = [self.add_variable((_filters(layer),), name="squares") for layer in layers]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        # (height, width, channels, filters), or of a depthwise convolution (height, width, channels, multiplier)
        axes = (0, 1) if self.depthwise[index] else (0, 1, 2)
        squares = keras.ops.mean(keras.ops.square(gradient), axis=axes)
        self.assign_add(self.sums[index], keras.ops.reshape(squares, (-1,)))

    def squares(self):
        """float64 (filters,), in the order of the layers."""
        kernels = [layer.kernel for layer in self.convolutions]
        sums = [self.sums[self._get_variable_index(kernel)] for kernel in kernels]
        return np.concatenate([keras.ops.convert_to_numpy(total) for total in sums]).astype("float64")


class _Variational(_Embedder):
    def __init__(self, probe, classes):
        self.noises = []
        super().__init__(probe, classes)

    def _call(self, layer, *args, **kwargs):
        if not _is_convolution(layer):
            return layer(*args, **kwargs)
        # Noise comes before the activation, if the layer has one.
        activation, layer.activation = layer.activation, keras.activations.linear
        noise = _FilterNoise(layer)
        self.convolutions.append(layer)
        self.noises.append(noise)
        return keras.layers.Activation(activation)(noise([args[0], layer(*args, **kwargs)]))

    def _trained(self):
        # The convolutions have the probe's weights by now.
        for noise in self.noises:
            noise.begin()
        return [noise.log_variance for noise in self.noises]

    def _optimizer(self):
        return keras.optimizers.Adam(NOISE_RATE)

    def _state(self):
        return [*self.model.optimizer.variables, *(noise.log_variance for noise in self.noises)]

    @staticmethod
    def _loss(targets, logits):
        return -keras.ops.sum(targets * keras.ops.log_softmax(logits), axis=-1)

    def _fisher(self, images, rows, labels, passes, random):
        for noise in self.noises:
            noise.seeds.state.assign(random.integers(2**31, size=2).astype("uint32"))
        weights, targets = _class_weights(labels), np.eye(self.head.units, dtype="float32")[labels]
        draws = DRAWS if passes is None else passes * len(rows)
        for _ in range(-(-draws // BATCH)):
            batch = random.choice(len(rows), BATCH, p=weights)
            self.model.train_on_batch(_read(images, rows[batch]), targets[batch])
        found = [
            (variances, np.full(len(variances), noise.power + variances.mean()))
            for noise in self.noises
            for variances in [np.exp(keras.ops.convert_to_numpy(noise.log_variance).astype("float64"))]
        ]
        return tuple(DIVERGENCE / np.concatenate(each) for each in zip(*found, strict=True))


class _FilterNoise(keras.layers.Layer):
    """Adds to a convolution's output what normal noise on its weights would, of one variance for each filter.

    The local reparametrisation of Kingma and others (NIPS 2015): noise of variance σ² on every weight of a filter is,
    at each position of its map, noise of variance σ² · the sum of squares of what the filter sees there.
    """

    def __init__(self, convolution):
        super().__init__(name=f"{convolution.name}_noise")
        self.seeds = keras.random.SeedGenerator(0)
        self.convolution = [convolution]  # in a list, so that its weights stay its own
        self.power, self.size = 1.0, 1.0  # mean square of its weights, weights of a filter; see `begin`

    def build(self, shapes):
        self.log_variance = self.add_weight(shape=(shapes[1][-1],), initializer="zeros", name="log_variance")
        self.built = True

    def begin(self):
        """The variance to begin with, a share of that of the filter's weights."""
        kernel = keras.ops.convert_to_numpy(self.convolution[0].kernel)
        axes = (0, 1) if _is_depthwise(self.convolution[0]) else (0, 1, 2)
        self.log_variance.assign(np.log(NOISE_START * kernel.var(axis=axes).reshape(-1) + 1e-8))
        self.power = float((kernel**2).mean())
        self.size = kernel.size / self.log_variance.shape[0]

    def call(self, tensors):
        seen, maps = tensors
        variance = keras.ops.exp(self.log_variance)
        # The divergence at the prior's best variance λ², the mean square of the layer's noisy weights.
        prior = keras.ops.log(self.power + keras.ops.mean(variance))
        self.add_loss(DIVERGENCE / 2 * self.size * keras.ops.sum(prior - self.log_variance))
        noise = keras.random.normal(keras.ops.shape(maps), seed=self.seeds)
        return maps + keras.ops.sqrt(variance * self._windows(seen) + keras.config.epsilon() ** 2) * noise

    def _windows(self, seen):
        """Sum of squares of what each filter sees at each position."""
        layer = self.convolution[0]
        options = {"strides": layer.strides, "padding": layer.padding, "dilation_rate": layer.dilation_rate}
        height, width, channels, _ = layer.kernel.shape
        squares = keras.ops.square(seen)
        if _is_depthwise(layer):
            sums = keras.ops.depthwise_conv(squares, keras.ops.ones((height, width, channels, 1)), **options)
            return keras.ops.repeat(sums, layer.depth_multiplier, axis=-1)
        sums = keras.ops.conv(squares, keras.ops.ones((height, width, channels, layer.groups)), **options)
        return keras.ops.repeat(sums, layer.filters // layer.groups, axis=-1)


def _fit_head(features, labels, classes, random):
    """Kernel and bias of a softmax head, fitted by Adam with the authors' settings; every class is as frequent."""
    inputs = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype("float32")
    wanted = np.eye(classes, dtype="float32")[labels]
    weights, mean, power = np.zeros((3, inputs.shape[1], classes), "float32")
    steps = HEAD_EPOCHS * (DRAWS // HEAD_BATCH)
    drawn = random.choice(len(labels), (steps, HEAD_BATCH), p=_class_weights(labels))
    for step, batch in enumerate(drawn, 1):
        logits = inputs[batch] @ weights
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        gradient = inputs[batch].T @ (shares - wanted[batch]) / HEAD_BATCH + HEAD_DECAY * weights
        mean += 0.1 * (gradient - mean)
        power += 0.001 * (gradient**2 - power)
        scale = np.sqrt(power / (1 - 0.999**step)) + 1e-8
        weights -= HEAD_RATE / (1 - 0.9**step) * mean / scale
    return [weights[:-1], weights[-1]]


def _class_weights(labels):
    """Weight of each image, of sum 1, such that each class that occurs weighs the same."""
    counts = np.bincount(labels)
    return 1 / counts[labels] / np.count_nonzero(counts)


def _pooled(maps):
    return keras.layers.GlobalAveragePooling2D()(maps) if len(maps.shape) == 4 else maps


def _is_depthwise(layer):
    return isinstance(layer, keras.layers.DepthwiseConv2D)


def _is_convolution(layer):
    return isinstance(layer, keras.layers.Conv2D) or _is_depthwise(layer)


def _filters(layer):
    return layer.kernel.shape[2] * layer.depth_multiplier if _is_depthwise(layer) else layer.filters


def _read(images, rows):
    """`BATCH` of the images, float32, the rows repeated where there are fewer."""
    rows = np.resize(rows, BATCH)
    batch = np.asarray(images.read(rows) if hasattr(images, "read") else images[rows], "float32")
    if not np.isfinite(batch).all():  # an activation may take it for 0
        raise ValueError("images: received pixels that are not finite, expected values from 0 to 255")
    return batch


def _checked(probe, images, labels, classes, passes):
    """Labels as int64 (n,), or says in one line what does not fit."""
    require_functional(probe)
    shape = probe.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise ValueError(f"probe {probe.name!r}: received input {shape}, expected one of images (n, height, width, 3)")
    found = np.shape(images) if not hasattr(images, "read") else images.shape
    if len(found) != 4 or any(want not in (None, side) for side, want in zip(found[1:], shape[1:], strict=True)):
        raise ValueError(f"images: received the shape {tuple(found)}, expected {('n', *shape[1:])}")
    labels = np.asarray(labels).reshape(-1)
    if len(labels) != found[0]:
        raise ValueError(f"images and labels differ in length: received {found[0]} images and {len(labels)} labels")
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise ValueError(f"classes: received {classes!r}, expected their number, 2 or more")
    if labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < classes)).all():
        raise ValueError(f"labels: received values {np.unique(labels)[:5].tolist()}, expected 0 to {classes - 1}")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"labels: received class {labels[0]} only, expected two or more")
    if passes is not None and (isinstance(passes, bool) or not isinstance(passes, int) or passes < 1):
        raise ValueError(f"passes: received {passes!r}, expected a whole number from 1, or None")
    return labels.astype("int64")
