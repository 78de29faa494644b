"""What a network costs by count: multiply-accumulates, which no machine and no other program disturb."""

import math

import keras
import pandas as pd

from ..layers.drs import DRSLayer

# Layers whose weights act on each element alone: one multiplication an element, where a convolution has hundreds.
_ELEMENTWISE = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
    DRSLayer,
)
_COUNTED = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
)


def multiply_accumulates(model):
    """Counts the multiply-accumulates of convolutions and dense layers in one forward pass of one image.

    One multiply-accumulate is a multiplication and an addition: the "FLOPs" of papers on networks (He and others, Deep
    residual learning, 2016, table 1), half the floating-point operations of a profiler. As is the custom, zeros that
    pad an image count like pixels, and biases, batch norm, activations, additions, pooling and operations without
    weights (such as the products in attention) do not count. A training step takes about three times as many.

    Args:
        model: functional or sequential `keras.Model` whose inputs have fixed sizes. Models nested in it are counted
            with the sizes that they are called with, a layer that is called several times as often.

    Returns:
        DataFrame with a row for each call of a `Conv2D` (grouped and dilated ones too), `DepthwiseConv2D`,
        `SeparableConv2D` or `Dense` layer, from input to output: `layer` (name; of a nested model "model/layer"),
        `multiply_accumulates`.

    Raises:
        ValueError: when the model is neither functional nor sequential, when a size is not fixed, or for another layer
            with weights, whose operations are not known.

    Example:

    ```python
    network = zoo.backbone("resnet18", weights=None, input_shape=(224, 224, 3))
    multiply_accumulates(network)["multiply_accumulates"].sum()  # 1,813,561,344; 1.8 billion in He's table 1
    ```
    """
    if not _is_graph(model):
        raise ValueError(
            f"multiply_accumulates: received {type(model).__name__} {getattr(model, 'name', model)!r}, "
            "expected a functional keras.Model, or a keras.Sequential that knows its input"
        )
    graph = _graph(model)
    calls = []
    _walk(graph, graph.input, calls, "")
    # Not before: Keras puts a page of its own around an error in a graph.
    rows = [(path, _count(layer, shape, path)) for path, layer, shape in calls]
    return pd.DataFrame(rows, columns=["layer", "multiply_accumulates"])


def _is_graph(layer):
    if isinstance(layer, keras.Sequential):
        return layer.built
    return isinstance(layer, keras.Model) and hasattr(layer, "operations")


def _graph(model):
    """The same network as a plain functional model, be it sequential, compiled or of a class of its own."""
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0])
    return keras.Model(model.input, model.output)


def _walk(graph, inputs, calls, prefix):
    """Lists the calls of layers with weights, on inputs of the given sizes, and returns the outputs."""
    copy = keras.models.clone_model(
        graph,
        input_tensors=keras.tree.map_structure(lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype), inputs),
        clone_function=lambda layer: layer,
        call_function=lambda layer, *args, **kwargs: _StandIn(layer, calls, prefix)(*args, **kwargs),
    )
    return copy.output


class _StandIn(keras.Operation):
    """Takes a layer's place in the copied graph and notes the call, so that the layer itself is not called again."""

    def __init__(self, layer, calls, prefix):
        super().__init__()
        self.layer, self.calls, self.path = layer, calls, f"{prefix}{layer.name}"

    def compute_output_spec(self, *args, **kwargs):
        if _is_graph(self.layer):
            return _walk(_graph(self.layer), args[0], self.calls, f"{self.path}/")
        outputs = self.layer.compute_output_spec(*args, **kwargs)
        if getattr(self.layer, "weights", ()) and not isinstance(self.layer, _ELEMENTWISE):
            self.calls.append((self.path, self.layer, outputs.shape[1:]))
        return outputs


def _count(layer, shape, path):
    """Multiply-accumulates of one call with an output of `shape`, without the batch."""
    kind = type(layer).__name__
    if not isinstance(layer, _COUNTED):
        raise ValueError(
            f"multiply_accumulates: layer {path!r} is a {kind}, whose operations are not known; "
            f"expected {', '.join(known.__name__ for known in _COUNTED)}, or layers without weights"
        )
    if None in shape:
        raise ValueError(
            f"multiply_accumulates: layer {path!r} has an output of shape {shape}, expected a model with a fixed "
            "input_shape, such as (224, 224, 3)"
        )
    outputs = math.prod(shape)
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return outputs * math.prod(layer.kernel.shape[:2])
    if isinstance(layer, keras.layers.SeparableConv2D):
        *size, inputs, multiplier = layer.depthwise_kernel.shape
        channels = inputs * multiplier
        return outputs // layer.filters * channels * math.prod(size) + outputs * channels
    # Of a kernel (height, width, inputs of the group, filters) or (inputs, units).
    return outputs * math.prod(layer.kernel.shape[:-1])
