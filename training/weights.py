"""Weights of rare classes in the loss: equation (6) of MorphHR (Wei and others)."""

import numpy as np


def inverse_class_weights(labels, classes):
    """Weights inversely proportional to the classes' counts, whose mean over the classes is 1.

    Equation (6): w_c = C / n_c / Σ_j (1 / n_j) for n_c images of class c of C. `datasets.class_weights` are the same
    weights by another factor: there their mean over the images is 1.

    Args:
        labels: class indices, (n,) or (n, 1).
        classes: number of classes.

    Returns:
        mapping of class index to weight, as `datasets.Batches` takes it.

    Raises:
        ValueError: when a class has no images, or a label is out of range.

    Example:

    ```python
    >>> inverse_class_weights([0, 0, 0, 1], 2)
    {0: 0.5, 1: 1.5}
    ```
    """
    labels = np.ravel(np.asarray(labels))
    if not np.isin(labels, range(classes)).all():
        raise ValueError(f"labels: received {np.unique(labels).tolist()}, expected class indices 0 to {classes - 1}")
    counts = np.bincount(labels.astype(int), minlength=classes)
    if not counts.all():
        raise ValueError(f"labels: received no image of class {int(np.argmin(counts))}, expected all {classes} classes")
    inverse = 1 / counts
    return {index: float(weight) for index, weight in enumerate(classes * inverse / inverse.sum())}


def inverse_label_weights(labels):
    """Weights of absence and presence of each label of a multi-label task: equation (6), label by label.

    Args:
        labels: (n, k) of 0 (absent) and 1 (present).

    Returns:
        float64 (k, 2), the weights of absent and present, whose mean is 1 for each label, as `fit_stages` takes them.

    Raises:
        ValueError: when a label is in all images or in none, or the array is none of 0 and 1.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels: received shape {labels.shape}, expected (images, labels) of 0 and 1")
    share = labels.mean(axis=0)
    if constant := np.flatnonzero((share == 0) | (share == 1)).tolist():
        raise ValueError(
            f"labels: received label {constant[0]} in {int(labels[:, constant[0]].sum())} of {len(labels)} images, "
            "expected each in some and not in others"
        )
    return 2 * np.stack([share, 1 - share], axis=1)  # 2 / n_c / (1 / n_0 + 1 / n_1) = 2 (n - n_c) / n
