"""Hybrid transfer: the pretrained weights of the lower layers under a lighter top that starts at random.

M. Raghu, C. Zhang, J. Kleinberg and S. Bengio, Transfusion: Understanding Transfer Learning for Medical Imaging,
NeurIPS 2019, section 5: "reusing pretrained weights up to e.g. Block2, redesigning the top of the network (which has
the bulk of the parameters) to be more lightweight, initializing these layers randomly". There the top has half the
channels.
"""

from numbers import Real

import keras

from .._nearest import unknown
from .surgery import adds, clone_layer, copy_weights, rebuild, require_functional, split_at


def slim_top(model, after, width=0.5):
    """Surgery: layers up to one keep their weights, those behind it start at random with fewer filters.

    Behind `after` every convolution gets `width` of its filters, rounded, at least one. What follows fits itself to
    that: batch norm, and depthwise convolutions, which have no filters of their own but keep their number for each
    channel. Dense layers keep their units. All of them start as their initializers say, also those that did not
    shrink; seed them by `keras.utils.set_random_seed`.

    In a ResNet `after` is the end of a stage, such as `conv3_block4_out` of ResNet50 for the paper's Block2: within a
    stage the shortcuts carry what lies before with all its channels.

    Args:
        model: functional Keras model, without head or with one; `after` may lie in a network nested in it.
        after: name of the last layer that keeps its weights. Its output alone connects what lies before to the rest.
        width: share of the filters that is left, in (0, 1].

    Returns:
        A new model with the layers, names and `trainable` flags of `model`, frozen random layers included.

    Raises:
        ValueError: when there is no such layer, something bypasses it or adds its full width to the slimmed one, a
            layer lies on both sides of it, or behind it lies a network nested in `model`, or a convolution in groups,
            whose channels need not be divisible any more; for a `width` outside (0, 1].

    Example:

    ```python
    network = slim_top(zoo.backbone("resnet50"), after="conv3_block4_out")
    ```
    """
    require_functional(model)
    if isinstance(width, bool) or not isinstance(width, Real) or not 0 < width <= 1:
        raise ValueError(f"slim_top: received width {width!r}, expected a share of the filters above 0 and up to 1")
    behind = {id(layer) for layer in _layers_behind(model, after)}

    def clone(layer):
        config = layer.get_config()
        if id(layer) not in behind or "filters" not in config:
            return clone_layer(layer)
        if config.get("groups", 1) > 1 and width < 1:
            raise ValueError(
                f"slim_top: {layer.name!r} behind {after!r} is a convolution in {config['groups']} groups, "
                "expected one group"
            )
        return layer.__class__.from_config({**config, "filters": max(1, round(width * config["filters"]))})

    def call(layer, *args, **kwargs):
        if adds(layer):
            widths = [tensor.shape[-1] for tensor in keras.tree.flatten(args) if hasattr(tensor, "shape")]
            if len(set(widths)) > 1:
                raise ValueError(
                    f"slim_top: behind {after!r} the layer {layer.name!r} would add maps of "
                    f"{' and '.join(map(str, widths))} channels, expected the last layer of a stage"
                )
        return layer(*args, **kwargs)

    def transfer(new, old):
        if id(old) not in behind:
            copy_weights(new, old)

    return rebuild(model, call_function=call, transfer=transfer, clone=clone)


def _layers_behind(model, after):
    """Layers of `model`, and of the network nested in it in which the layer `after` lies, that come behind it."""
    if after in [layer.name for layer in model.layers]:
        return _cut(model, after)
    for layer in model.layers:
        if isinstance(layer, keras.Model) and after in _names(layer):
            return [*_layers_behind(layer, after), *_cut(model, layer.name)]
    raise ValueError(unknown("layer", after, _names(model)))


def _names(model):
    names = []
    for layer in model.layers:
        names += [layer.name, *(_names(layer) if isinstance(layer, keras.Model) else ())]
    return names


def _cut(model, name):
    """Layers of `model` behind one of them."""
    before, behind = split_at(model, name)
    for layer in behind.layers:
        if isinstance(layer, keras.Model):  # its own input has the old width
            raise ValueError(f"slim_top: the network {layer.name!r} is nested behind {name!r}, expected single layers")
        if layer.weights and layer in before.layers:
            raise ValueError(f"slim_top: the layer {layer.name!r} is used before and behind {name!r}, expected either")
    return behind.layers
