"""What every surgery needs: to build a functional network anew, changed on the way, with its weights kept."""

import keras

from .._nearest import unknown


def copy_weights(new, old):
    """Gives a new layer the weights of an old one. Raises ValueError when their shapes differ.

    The two share no memory: where training reuses its memory (JAX), the old weights would be lost with it.
    """
    if [w.shape for w in old.weights] != [w.shape for w in new.weights]:
        raise ValueError(
            f"layer {old.name!r}: its weights {[tuple(w.shape) for w in old.weights]} do not fit the new network, "
            f"which needs {[tuple(w.shape) for w in new.weights]}"
        )
    for mine, theirs in zip(new.weights, old.weights, strict=True):
        mine.assign(keras.ops.copy(theirs))


def clone_layer(layer):
    """A new layer of the same configuration, with weights of its own."""
    return layer.__class__.from_config(layer.get_config())


def adds(layer):
    """Whether a layer, or the operation that `x + y` leaves, adds representations, as residual blocks do."""
    return isinstance(layer, keras.layers.Add) or type(layer).__name__ == "Add"


def require_functional(model):
    """Raises ValueError when `model` is not functional."""
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise ValueError(f"received {type(model).__name__} {model!r}, expected a functional keras.Model")


def rebuild(model, call_function=None, input_shape=None, transfer=copy_weights, clone=clone_layer):
    """A new functional model with the layers, names, weights and `trainable` flags of `model`.

    Args:
        model: functional Keras model; models nested in it are rebuilt too.
        call_function: `call_function(layer, *args, **kwargs)` calls each new layer in place of `layer(*args, **kwargs)`
            and may put other layers before or after it.
        input_shape: (height, width, channels) of the new model's input, by default that of `model`.
        transfer: `transfer(new, old)` gives a new layer the weights of the old one, by default all of them as they are.
            A layer whose weights depend on the image size does this in a method `resample_from(old)`.
        clone: `clone(layer)` makes the new layer, by default of the same configuration.

    Raises:
        ValueError: when `model` is not functional, or when a layer's weights no longer fit it.
    """
    require_functional(model)
    pairs = []

    def copy(layer):
        new = clone(layer)
        pairs.append((layer, new))
        return new

    inputs = None
    if input_shape is not None:
        inputs = keras.tree.map_structure(
            lambda tensor: keras.Input(input_shape, dtype=tensor.dtype, name=tensor.name), model.input
        )
    new_model = keras.models.clone_model(
        model, input_tensors=inputs, clone_function=copy, call_function=call_function, recursive=True
    )
    for old, new in pairs:
        if not isinstance(old, keras.layers.Layer):
            continue  # an operation such as `x + y`: no weights
        transfer(new, old)
        new.trainable = old.trainable
    return new_model


def resize_network(model, size):
    """Surgery: the same network for images of another size; the spatial maps of its DRS layers are resampled.

    Args:
        model: functional Keras model with one image input.
        size: (height, width) in pixels.

    Raises:
        ValueError: when the size is not two positive integers, or a layer other than DRS depends on the old size.

    Example:

    ```python
    larger = resize_network(zoo.load("drs-resnet18-busi"), (320, 320))
    ```
    """
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise ValueError(f"resize_network: received size {size!r}, expected (height, width) as positive integers")

    def transfer(new, old):
        if hasattr(new, "resample_from"):
            new.resample_from(old)
        else:
            copy_weights(new, old)

    return rebuild(model, input_shape=(*size, model.input_shape[-1]), transfer=transfer)


def split_at(model, layer_name):
    """Cuts a network in two behind a layer: what lies before it, and what lies behind, both on the same weights.

    Where the first part is frozen its output needs computing only once an image.

    Args:
        model: functional Keras model.
        layer_name: the layer, or the network nested in it, whose output alone connects the two parts.

    Returns:
        (before, behind): models with `behind(before(x)) == model(x)`.

    Raises:
        ValueError: when there is no such layer, or something bypasses it.

    Example:

    ```python
    body, last_block = split_at(classifier, "conv5_block2_out")
    ```
    """
    names = [layer.name for layer in model.layers]
    if layer_name not in names:
        raise ValueError(unknown("layer", layer_name, names))
    # Not `layer.output`, which for a nested network is its own output and not a tensor of `model`.
    cut = keras.Operation.output.fget(model.get_layer(layer_name))
    before = keras.Model(model.inputs[0], cut, name=f"{model.name}_before")
    try:
        behind = keras.Model(cut, model.outputs[0], name=f"{model.name}_behind")
    except ValueError as error:
        raise ValueError(
            f"{layer_name}: other layers of {model.name!r} bypass it, so the network has no cut there"
        ) from error
    return before, behind
