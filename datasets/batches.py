"""Batches of images, labels and weights for `fit`, `evaluate` and `predict` of any Keras backend."""

from numbers import Integral

import keras
import numpy as np


class Batches(keras.utils.PyDataset):
    """Gives `(x, y)` or, with weights, `(x, y, w)`.

    `x` is float32 of shape (batch, height, width, channels) with values in [0, 255], `y` int32 of shape (batch, 1), or
    (batch, k) of 0 and 1 for k labels an image, `w` float32 of shape (batch,): the product of class and sample weight
    and of the batch's balance.

    The order of an epoch is a function of `seed` and the attribute `epoch` alone. `on_epoch_end` adds one to `epoch`,
    but Keras also calls it when `fit` begins: where the order must be exactly that of an epoch, as in a resumed run,
    set `epoch` from a callback's `on_epoch_begin`, and pass `shuffle=False` to `fit`, which would otherwise shuffle
    the batches among themselves by a random state of its own.

    Args:
        images: `CachedImages`, or an array of shape (n, height, width, channels) with values in [0, 255].
        labels: n class indices, one for each image of `images`; of multi-label images 0 or 1, of shape (n, k), as
            `encode_labels` gives them.
        batch_size: images in a batch; the last one of an epoch may be smaller.
        shuffle: whether each epoch has an order of its own.
        seed: of the order, 0 or more.
        class_weight: mapping of class index to weight, see `class_weights`; not for multi-label images.
        sample_weight: n weights, one for each image of `images`.
        indices: which images to give, as positions in `images`; all when None.
        balance: whether the classes present in a batch weigh alike in it ("The sample weights were adjusted within
            each batch to keep the five classes balanced", Shen and others 2017, section 3.1.2): an image of a class
            with n_c of the batch's n images, which are of k classes, weighs n / (k · n_c), on average 1. Not for
            multi-label images.

    Raises:
        ValueError: if lengths, indices or weights do not fit.

    Example:

    ```python
    train = np.flatnonzero(table["split"] == "train")
    batches = Batches(cached_images(table, (224, 224)), encode_labels(table), indices=train, shuffle=True)
    model.fit(batches, shuffle=False)
    ```
    """

    def __init__(
        self,
        images,
        labels,
        batch_size=24,
        shuffle=False,
        seed=0,
        class_weight=None,
        sample_weight=None,
        indices=None,
        balance=False,
    ):
        super().__init__()
        total = len(images)
        self.images = images
        self.labels = _labels(labels, total)
        self.indices = _indices(indices, total)
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}, expected a whole number, 1 or more")
        if not isinstance(seed, Integral) or seed < 0:
            raise ValueError(f"seed is {seed!r}, expected a whole number, 0 or more")
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.seed = int(seed)
        self.epoch = 0
        self.weights = _weights(self.labels, class_weight, sample_weight)
        self.balance = balance
        if balance and self.labels.ndim == 2:
            raise ValueError(f"balance is given for {self.labels.shape[1]} labels an image, expected one class index")

    def __len__(self):
        return -(-len(self.indices) // self.batch_size)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        chosen = self.order()[index * self.batch_size : (index + 1) * self.batch_size]
        read = getattr(self.images, "read", None)
        pixels = read(chosen) if read else np.asarray(self.images[chosen])
        batch = pixels.astype("float32"), self.labels[chosen].reshape(len(chosen), -1)
        weights = None if self.weights is None else self.weights[chosen]
        if self.balance:
            balance = _balance(self.labels[chosen])
            weights = balance if weights is None else weights * balance
        return batch if weights is None else (*batch, weights)

    def order(self):
        """Positions in `images` in the order of the current epoch (array of integers)."""
        if not self.shuffle:
            return self.indices
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.indices)

    def on_epoch_end(self):
        self.epoch += 1


def class_weights(labels, classes):
    """Weights inversely proportional to the classes' frequencies: n / (k · n_c) for n images of k classes.

    Args:
        labels: n class indices.
        classes: the number of classes k, or their names.

    Returns:
        Mapping of class index to weight; the mean weight over the images is 1 (`training.inverse_class_weights`: over
        the classes).

    Raises:
        ValueError: if a class has no images, or a label is out of range.
    """
    count = classes if isinstance(classes, Integral) else len(classes)
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise ValueError(f"labels have shape {labels.shape}, expected one class index an image: these are multi-label")
    labels = np.ravel(labels)
    if not labels.size or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= count:
        raise ValueError(f"labels are {np.unique(labels).tolist()}, expected class indices from 0 to {count - 1}")
    counts = np.bincount(labels, minlength=count)
    if not counts.all():
        name = int(np.argmin(counts)) if isinstance(classes, Integral) else repr(classes[int(np.argmin(counts))])
        raise ValueError(f"class {name} has no images, expected at least one of each of {count} classes")
    return {index: labels.size / (count * int(number)) for index, number in enumerate(counts)}


def _labels(labels, total):
    """int32 of shape (n,), or (n, k) for k labels an image."""
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or len(labels) != total or labels.size == 0 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}, expected {total} class indices, one an image, "
            f"or whole numbers of shape ({total}, k) for k labels an image"
        )
    if labels.size == total:
        return labels.reshape(total).astype("int32")
    if labels.min() < 0 or labels.max() > 1:
        raise ValueError(f"labels of shape {labels.shape} hold {labels.min()} to {labels.max()}, expected 0 and 1")
    return labels.astype("int32")


def _indices(indices, total):
    indices = np.arange(total) if indices is None else np.asarray(indices)
    if indices.ndim != 1 or not indices.size or indices.dtype.kind not in "iu":
        raise ValueError(f"indices are {indices.dtype} of shape {indices.shape}, expected one position or more")
    if indices.min() < 0 or indices.max() >= total:
        raise ValueError(f"indices reach from {indices.min()} to {indices.max()}, expected 0 to {total - 1}")
    return indices


def _weights(labels, class_weight, sample_weight):
    """One weight for each image, or None where nothing is weighted."""
    if class_weight is None and sample_weight is None:
        return None
    weights = np.ones(len(labels), "float32")
    if class_weight is not None:
        if labels.ndim == 2:
            raise ValueError(f"class_weight is given for {labels.shape[1]} labels an image, expected None")
        missing = sorted({int(label) for label in labels}.difference(class_weight))
        if missing:
            raise ValueError(f"class_weight has no weight for class {missing[0]}, expected one for each class index")
        weights *= np.array([class_weight[int(label)] for label in labels], "float32")
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight, "float32")
        if sample_weight.shape != weights.shape:
            raise ValueError(f"sample_weight has shape {sample_weight.shape}, expected {weights.shape}, one an image")
        weights *= sample_weight
    return weights


def _balance(labels):
    """Weights by which the classes of a batch weigh alike, on average 1."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return (len(labels) / (len(counts) * counts[inverse])).astype("float32")
