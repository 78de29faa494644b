"""What passes the activations of a residual network: Byra 2021, section 3.5, equations (5) to (7)."""

import keras
import numpy as np
import pandas as pd

from .._nearest import unknown
from ..layers.drs import ACTIVATIONS, DRSLayer


def activation_layers(model):
    """Returns the names of the activations that follow a residual addition, from input to output.

    The `f` of equations (1) and (2): a DRS layer may lie between addition and activation, so that a network and the
    same network with DRS layers give the same names.

    Args:
        model: functional Keras model whose layers are its own (not those of a model nested in it).

    Raises:
        ValueError: the model has none.
    """
    # The operations of a functional model are its layers and what `x + y` leaves; a Sequential has layers only.
    producers = {id(operation.output): operation for operation in getattr(model, "operations", model.layers)}
    names = []
    for layer in model.layers:
        if not isinstance(layer, ACTIVATIONS):
            continue
        before = producers.get(id(layer.input))
        if isinstance(before, DRSLayer):
            before = producers.get(id(before.input))
        if type(before).__name__ == "Add":  # the layer and the operation have the same name
            names.append(layer.name)
    if not names:
        raise ValueError(f"model {model.name!r}: no activation follows an addition, expected a residual network")
    return names


def activation_rate(model, batches, layers=None):
    """Returns the activation rate A_l of equation (5): the share of elements that are greater than zero.

    Images pass in batches and only counts are kept, so that any number of images fits into memory.

    Args:
        model: functional Keras model with one input of images (n, height, width, channels), values in [0, 255].
        batches: iterable of image arrays, or of tuples that begin with one, or a `keras.utils.PyDataset`.
        layers: names of layers, by default `activation_layers(model)`: one for each residual block.

    Returns:
        DataFrame with a row for each layer: `layer`, `rate` in [0, 1].

    Raises:
        ValueError: no image, a batch that is not (n, height, width, channels) of the model's size, or an unknown
            layer.

    Example:

    ```python
    rates = activation_rate(zoo.load("drs-resnet18-busi"), batches)
    ```
    """
    layers = activation_layers(model) if layers is None else list(layers)
    active = [keras.ops.greater(tensor, 0) for tensor in _tensors(model, layers)]
    rates = _mean_over_images(model.inputs[0], active, batches)
    return pd.DataFrame({"layer": layers, "rate": rates})


def activation_rate_change(model, reference, batches, layers=None):
    """Returns the activation rate change ΔA_l of equations (6) and (7).

    It is the share of elements that one of two networks passes on and the other blocks, for the same images: 0 where
    both pass the same elements, 1 where they pass opposite ones. The paper compares a network with DRS layers to the
    same network with its ImageNet weights (feature extraction).

    Args:
        model: functional Keras model with one input of images (n, height, width, channels), values in [0, 255].
        reference: model to compare with, of the same input; its layers have the same names and sizes.
        batches: iterable of image arrays, or of tuples that begin with one, or a `keras.utils.PyDataset`; each batch
            passes both models at once.
        layers: names of layers, by default `activation_layers(model)`: one for each residual block.

    Returns:
        DataFrame with a row for each layer: `layer`, `change` in [0, 1].

    Raises:
        ValueError: as `activation_rate`, or the models differ in the size of the input or of a layer.
    """
    layers = activation_layers(model) if layers is None else list(layers)
    if model.input_shape != reference.input_shape:
        raise ValueError(
            f"reference: received a model for inputs {reference.input_shape}, expected {model.input_shape}"
        )
    images = keras.Input(model.input_shape[1:])
    changed = []
    for name, ours, theirs in zip(
        layers, layer_outputs(model, layers, images), layer_outputs(reference, layers, images), strict=True
    ):
        if ours.shape != theirs.shape:
            raise ValueError(
                f"layer {name!r}: received output {tuple(theirs.shape)} in the reference, "
                f"expected {tuple(ours.shape)} as in the model"
            )
        changed.append(keras.ops.not_equal(keras.ops.greater(ours, 0), keras.ops.greater(theirs, 0)))
    changes = _mean_over_images(images, changed, batches)
    return pd.DataFrame({"layer": layers, "change": changes})


def _tensors(model, layers):
    known = {layer.name: layer for layer in model.layers}
    for name in layers:
        if name not in known:
            raise ValueError(f"model {model.name!r}: {unknown('layer', name, known)}")
    return [known[name].output for name in layers]


def layer_outputs(model, layers, images):
    """Tensors of the named layers when a tensor of images passes the model, a list.

    Raises:
        ValueError: an unknown layer.
    """
    return keras.tree.flatten(keras.Model(model.inputs[0], _tensors(model, layers))(images))


def _mean_over_images(images, flags, batches):
    """Mean of each boolean tensor over all elements and all images; the counting is part of the compiled network."""
    counts = [keras.ops.sum(keras.ops.cast(flag, "int32"), axis=tuple(range(1, len(flag.shape)))) for flag in flags]
    counter = keras.Model(images, counts)
    totals, n = np.zeros(len(flags), dtype=np.int64), 0
    for batch in image_arrays(batches, images.shape[1:]):
        per_image = keras.tree.flatten(counter.predict_on_batch(batch))
        totals += [int(np.sum(count, dtype=np.int64)) for count in per_image]
        n += len(batch)
    if n == 0:
        raise ValueError("batches: received no image, expected at least one")
    elements = [int(np.prod(flag.shape[1:])) for flag in flags]
    return totals / (n * np.array(elements, dtype=np.float64))


def image_arrays(batches, shape):
    """Gives the image array of each batch.

    Args:
        batches: iterable of image arrays, or of tuples that begin with one, or a `keras.utils.PyDataset`.
        shape: (height, width, channels) of the images, None where anything goes.

    Raises:
        ValueError: a batch that is not (n, height, width, channels) of these.
    """
    if isinstance(batches, keras.utils.PyDataset):  # it has a length, but iterating over it does not end
        batches = map(batches.__getitem__, range(len(batches)))
    for batch in batches:
        images = np.asarray(batch[0] if isinstance(batch, tuple | list) else batch)
        if images.ndim != 4 or not _fits(images.shape[1:], shape):
            raise ValueError(f"batches: received an array of shape {images.shape}, expected images {('n', *shape)}")
        yield images


def _fits(shape, expected):
    return all(side is None or side == size for size, side in zip(shape, expected, strict=True))
