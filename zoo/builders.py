"""How a card says a model is built: a registered builder and its arguments, plain data and no code."""

from .. import layers
from .._nearest import unknown
from ..layers import attach_head
from .backbones import backbone as build_backbone

BUILDERS = {}
# Surgeries that a card may name. Each takes a model and keyword arguments and returns a model.
SURGERIES = ("add_drs", "add_top", "morph_stem", "slim_top")


def register_builder(name):
    """Decorator: registers a function from plain arguments to a `keras.Model`. Raises ValueError for a name taken."""

    def register(function):
        if name in BUILDERS:
            raise ValueError(f"builder {name!r} is registered already")
        BUILDERS[name] = function
        return function

    return register


def build(description, weights=None):
    """Builds the model that a card describes.

    Args:
        description: `{"builder": name, "arguments": {...}}`.
        weights: weights of the backbone, as for `zoo.backbone`; None where a checkpoint is loaded next.

    Raises:
        ValueError: for an unknown builder or surgery.

    Example:

    ```python
    build({"builder": "classifier", "arguments": {"backbone": "resnet18", "input_shape": [224, 224, 3], "classes": 2}})
    ```
    """
    name = description["builder"]
    if name not in BUILDERS:
        raise ValueError(unknown("builder", name, BUILDERS))
    return BUILDERS[name](**description["arguments"], weights=weights)


@register_builder("classifier")
def classifier(
    backbone, input_shape, classes, surgery=(), multi_label=False, dropout=0.0, mean=None, weights="imagenet"
):
    """A backbone, surgery on it, and a head: global average pooling, where asked for dropout, and one dense layer.

    Args:
        backbone: name of a backbone.
        input_shape: (height, width, channels) of the raw image, channels 1 or 3.
        classes: number of classes, two or more. Two share one unit with a sigmoid, the probability of the second class.
        surgery: operations on the backbone in order, each `{"name": "add_drs", ...arguments}`.
        multi_label: whether an image may have several of the classes or none. Each, one or more, then has a unit with
            a sigmoid of its own, also of two.
        dropout: share of the features that each training step leaves out, in [0, 1).
        mean, weights: as for `zoo.backbone`.

    Returns:
        `keras.Model` from pixels in [0, 255] to probabilities: `(batch, 1)` for two classes that exclude each other,
        else `(batch, classes)`. Layers `head_pool`, `head_logits`, `head_probabilities`.

    Raises:
        ValueError: for an unknown backbone or surgery, fewer than two classes, or a size that surgery cannot reach.
    """
    operations = []
    for operation in surgery:
        arguments = dict(operation)
        name = arguments.pop("name", None)
        if name not in SURGERIES:
            raise ValueError(unknown("surgery", name, SURGERIES))
        operations.append((name, arguments))
    *size, channels = input_shape
    for name, arguments in operations:
        if name == "morph_stem":  # the one surgery that changes the size of the input
            size = layers.size_before_morphing(size, **arguments)
    model = build_backbone(backbone, weights, (*size, channels), mean)
    for name, arguments in operations:
        model = getattr(layers, name)(model, **arguments)
    return attach_head(model, classes, multi_label, dropout)


def exact_copy(model, description):
    """The same network in float32, whatever the precision that it was trained in.

    Args:
        model: as `build` made it of this description.
        description: as for `build`.
    """
    exact = build(description)
    exact.set_weights(model.get_weights())
    return exact
