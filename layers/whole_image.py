"""All-convolutional surgery: from a classifier of patches to a classifier of whole images.

L. Shen, L. R. Margolies, J. H. Rothstein, E. Fluder, R. B. McBride and W. Sieh, End-to-end Training for Whole Image
Breast Cancer Diagnosis using An All Convolutional Design, arXiv:1708.09427, sections 2.1 and 2.2.

A convolutional network does not care how large its input is. The trunk of a patch classifier (all of it but the head)
slides over a whole image by being applied to it; new top layers gather what it sees.
"""

import re
from dataclasses import dataclass

import keras

from .heads import attach_head
from .surgery import rebuild

# Tables 2 and 3: the rows' top layers.
TOPS = (
    "resnet-512-512-2048x1-512-512-2048x1",
    "resnet-512-512-1024x2-512-512-1024x2",
    "resnet-256-256-256x1-128-128-128x1",
    "resnet-256-256-256x3-128-128-128x3",
    "resnet-256-256-512x3-128-128-256x3",
    "vgg-512x3-512x3",
    "vgg-512x1-512x1",
    "vgg-256x3-128x3",
    "vgg-256x1-128x1",
    "vgg-128x1-64x1",
    "heatmap-resnet-512-512-1024x2-512-512-1024x2",
    "heatmap-resnet-64-64-256x2-128-128-512x2",
    "heatmap-pool5-fc64-fc32",
    "heatmap-pool2-fc512-fc256",
    "heatmap-pool1-fc2048-fc1024",
)


@dataclass(frozen=True)
class Top:
    """What the name of top layers says.

    Attributes:
        heatmap: whether the patch classifier's heatmap lies between trunk and top layers.
        kind: `"resnet"`, `"vgg"` or `"fc"`.
        blocks: of each block (depths, repetitions): `((512, 512, 1024), 2)` for ResNet, `((256,), 1)` for VGG.
        pool: side of the max pooling on the heatmap before fully connected layers, in cells.
        units: of the fully connected layers.
    """

    heatmap: bool
    kind: str
    blocks: tuple = ()
    pool: int = 1
    units: tuple[int, ...] = ()


def parse_top(name):
    """The top layers that a name stands for.

    - `vgg-NxK-NxK`: blocks of K 3x3 convolutions of depth N, each with batch norm, and 2x2 max pooling;
    - `resnet-L-M-NxK-L-M-NxK`: blocks of K bottleneck units of depths L, M and N, of which the first has stride 2;
    - `heatmap-` before either: the heatmap in between;
    - `heatmap-poolP-fcA-fcB`: max pooling of PxP cells, two fully connected layers, and a shortcut past them.

    Args:
        name: such as one of `TOPS`; blocks may be one or more.

    Returns:
        `Top`.

    Raises:
        ValueError: when the name says none of this.

    Example:

    ```python
    >>> parse_top("vgg-256x1-128x1").blocks
    (((256,), 1), ((128,), 1))
    ```
    """
    number = r"[1-9]\d*"
    if match := re.fullmatch(rf"heatmap-pool({number})((?:-fc{number})+)", name):
        units = tuple(int(part) for part in re.findall(r"\d+", match[2]))
        return Top(heatmap=True, kind="fc", pool=int(match[1]), units=units)
    for kind, depths in (("vgg", 1), ("resnet", 3)):
        block = "-".join([number] * depths) + f"x{number}"
        if match := re.fullmatch(rf"(heatmap-)?{kind}((?:-{block})+)", name):
            found = [[int(part) for part in re.findall(r"\d+", text)] for text in re.findall(block, match[2])]
            blocks = tuple((tuple(sizes), repetitions) for *sizes, repetitions in found)
            return Top(heatmap=match[1] is not None, kind=kind, blocks=blocks)
    raise ValueError(f"top: received {name!r}, expected a name such as {', '.join((TOPS[8], TOPS[1], TOPS[12]))}")


def add_top(model, top, heatmap=None):
    """Surgery: new top layers on a headless network.

    Args:
        model: functional Keras model that ends in a feature map.
        top: name of the top layers, see `parse_top`.
        heatmap: for tops with a heatmap, mapping `classes` (of the patch classifier) and `cells` (height and width of
            the last feature map of one patch); its layer `heatmap_logits` begins at random (`to_whole_image` gives it
            the weights of the patch classifier).

    Returns:
        A new `keras.Model`, with weights of its own, that ends in the top's feature map, or in features for fully
        connected ones. New layers are called `heatmap_*` (the heatmap) and `top_*`.

    Raises:
        ValueError: for a model that is not functional or ends in no map, a name without meaning, a heatmap where the
            top has none or the other way round, and an input that is too small.

    Example:

    ```python
    network = add_top(zoo.backbone("resnet50", input_shape=(1152, 896, 1)), "vgg-256x1-128x1")
    ```
    """
    return _grow(rebuild(model), top, heatmap)


def _grow(model, top, heatmap):
    """`add_top` on the model's own layers."""
    parsed = parse_top(top)
    if parsed.heatmap != (heatmap is not None):
        expected = "classes and cells of its patch classifier" if parsed.heatmap else "None"
        raise ValueError(f"heatmap: received {heatmap!r} for the top {top!r}, expected {expected}")
    x = model.outputs[0]
    if len(x.shape) != 4:
        raise ValueError(f"model {model.name!r}: ends in shape {tuple(x.shape)}, expected a feature map")
    if parsed.heatmap:
        x = _heatmap(x, heatmap["classes"], heatmap["cells"])
        # Not softmax, whose gradients vanish for large inputs: equation (2).
        x = keras.layers.Activation("relu", name="heatmap_relu")(x)
    if parsed.kind == "fc":
        x = _fully_connected(x, parsed)
    else:
        add_block = _vgg_block if parsed.kind == "vgg" else _resnet_block
        for index, (depths, repetitions) in enumerate(parsed.blocks, start=1):
            x = add_block(x, depths, repetitions, f"top_block{index}")
    return keras.Model(model.inputs[0], x, name=model.name)


def to_whole_image(patch_model, top, input_shape, classes=2):
    """Surgery: a patch classifier becomes a classifier of whole images.

    Its trunk is applied to the whole image, with its weights; top layers and head are new. Where the top has a heatmap,
    the patch classifier's own head makes it.

    Where padding does not reach, the trunk gives for a whole image what it gives for a patch at that place. A patch
    is padded at its own border, so that there the patch classifier sees less than the whole-image network, which sees
    the neighbours. How far that reaches is measured in `tests/layers/test_whole_image.py`: a cell of the last feature
    map sees 212 x 212 pixels with VGG16, 435 x 435 with ResNet18 and 483 x 483 with ResNet50, where the paper reckons
    with the 224 of a patch. So VGG16's padding leaves one of a patch's 7 x 7 cells alone, a ResNet's none. A 3x3
    convolution on top adds (3 - 1) x 32 to each side, as the paper has it: 276, 499 and 547.

    Args:
        patch_model: functional Keras classifier with the layers `head_pool` and `head_logits`, as `zoo.load` and the
            recipe make it.
        top: name of the top layers, see `parse_top`.
        input_shape: (height, width, channels) of the whole image.
        classes: of the whole image.

    Returns:
        `keras.Model` from whole images in [0, 255] to probabilities, as `attach_head`.

    Raises:
        ValueError: as `add_top`, and when the patch classifier has another head.

    Example:

    ```python
    network = to_whole_image(patch_classifier, "vgg-256x1-128x1", (1152, 896, 1))
    ```
    """
    trunk, logits = _take_apart(patch_model, input_shape)
    heatmap = describe_heatmap(patch_model) if parse_top(top).heatmap else None
    model = _grow(trunk, top, heatmap)
    if heatmap is not None:
        _set_heatmap(model, logits)
    return attach_head(model, classes)


def describe_heatmap(patch_model):
    """What `add_top` must know of a patch classifier to put its heatmap in between: `classes` and `cells`."""
    cells = patch_model.get_layer("head_pool").input.shape[1:3]
    return {"classes": int(patch_model.get_layer("head_logits").units), "cells": [int(side) for side in cells]}


def patch_heatmap(patch_model, input_shape):
    """Surgery: the patch classifier as a network that slides over a whole image: its heatmap (section 2.1).

    Args:
        patch_model: functional Keras classifier that ends in a softmax, with `head_pool` and `head_logits`.
        input_shape: (height, width, channels) of the whole image.

    Returns:
        `keras.Model` from images `(batch, *input_shape)` in [0, 255] to float32 probabilities `(batch, u, v, classes)`,
        one for each place of the patch on the grid of the trunk's stride: `u = height / 32 - patch height / 32 + 1`
        for networks of stride 32.

    Raises:
        ValueError: as `to_whole_image`.
    """
    trunk, logits = _take_apart(patch_model, input_shape)
    described = describe_heatmap(patch_model)
    x = _heatmap(trunk.outputs[0], described["classes"], described["cells"])
    x = keras.layers.Softmax(dtype="float32", name="heatmap_probabilities")(x)
    model = keras.Model(trunk.inputs[0], x, name=f"{patch_model.name}_heatmap")
    _set_heatmap(model, logits)
    return model


def _take_apart(patch_model, input_shape):
    """The trunk of a patch classifier at the size of a whole image, and the layer that makes its logits."""
    layers = {layer.name: layer for layer in patch_model.layers}
    pool, logits = layers.get("head_pool"), layers.get("head_logits")
    if not isinstance(pool, keras.layers.GlobalAveragePooling2D) or not isinstance(logits, keras.layers.Dense):
        raise ValueError(
            f"model {patch_model.name!r}: expected the layers 'head_pool' (GlobalAveragePooling2D) and 'head_logits' "
            "(Dense) of a patch classifier"
        )
    trunk = keras.Model(patch_model.inputs[0], pool.input, name=patch_model.name)
    return rebuild(trunk, input_shape=tuple(input_shape)), logits


def _heatmap(features, classes, cells):
    """The patch classifier's head at every place: the mean over a patch's cells, and its logits."""
    if features.shape[1] < cells[0] or features.shape[2] < cells[1]:
        raise ValueError(
            f"input: its last feature map has {features.shape[1]} x {features.shape[2]} cells, expected at least the "
            f"{cells[0]} x {cells[1]} of a patch"
        )
    pooled = keras.layers.AveragePooling2D(tuple(cells), strides=1, name="heatmap_pool")(features)
    return keras.layers.Conv2D(classes, 1, name="heatmap_logits")(pooled)


def _set_heatmap(model, logits):
    layer = model.get_layer("heatmap_logits")
    kernel, *bias = logits.get_weights()
    layer.set_weights([kernel[None, None], *bias])


def _vgg_block(x, depths, repetitions, name):
    for index in range(1, repetitions + 1):
        x = _convolution(x, depths[0], 3, 1, f"{name}_{index}")
        x = keras.layers.Activation("relu", name=f"{name}_{index}_relu")(x)
    return keras.layers.MaxPooling2D(2, name=f"{name}_pool")(x)


def _resnet_block(x, depths, repetitions, name):
    for unit in range(1, repetitions + 1):
        x = _bottleneck(x, depths, 2 if unit == 1 else 1, f"{name}_unit{unit}")
    return x


def _bottleneck(x, depths, strides, name):
    """He and others 2016, figure 5 on the right: the stride in the first convolution, as in section 2.2."""
    shortcut = x
    if strides > 1 or x.shape[-1] != depths[-1]:
        shortcut = _convolution(x, depths[-1], 1, strides, f"{name}_0")
    for index, (depth, size) in enumerate(zip(depths, (1, 3, 1), strict=True), start=1):
        x = _convolution(x, depth, size, strides if index == 1 else 1, f"{name}_{index}")
        if index < 3:
            x = keras.layers.Activation("relu", name=f"{name}_{index}_relu")(x)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.Activation("relu", name=f"{name}_out")(x)


def _convolution(x, depth, size, strides, name):
    x = keras.layers.Conv2D(
        depth, size, strides, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    # Not Keras's momentum of 0.99, whose moving averages lag behind for the first hundreds of steps.
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)


def _fully_connected(x, top):
    """Section 3.1.4, "Using max-pooling, shortcut and FC layers"."""
    if top.pool > 1:
        if min(x.shape[1:3]) < top.pool:
            raise ValueError(
                f"input: its heatmap has {x.shape[1]} x {x.shape[2]} cells, expected at least {top.pool} x {top.pool}"
            )
        x = keras.layers.MaxPooling2D(top.pool, name="top_pool")(x)
    shortcut = x = keras.layers.Flatten(name="top_flatten")(x)
    for index, units in enumerate(top.units, start=1):
        x = keras.layers.Dense(units, "relu", kernel_initializer="he_normal", name=f"top_fc{index}")(x)
    return keras.layers.Concatenate(name="top_shortcut")([x, shortcut])
