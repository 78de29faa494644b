"""Where in an image a network finds the evidence for a class: class activation maps, occlusion, patch classifiers."""

import keras
import numpy as np

from ..zoo.backbones import groups

# Okabe and Ito's vermilion and blue: people with a colour vision deficiency can tell them apart, and both stand out
# on dark and on bright tissue.
FOR, AGAINST = (213, 94, 0), (0, 114, 178)
OCCLUDED = 3  # cells of the trunk's last feature map a side, odd
BATCH = 16  # feature maps that pass the top layers at once


def evidence_map(model, images, class_index=None):
    """Returns where the evidence for a class lies, at the resolution of the backbone's last feature map.

    The class activation map of a backbone with a head; of a network with top layers in between, whose last feature map
    is coarser, the occlusion map. Both are in units of the logit, but only the former's mean and bias are the logit.

    Args:
        model, images, class_index: as for `class_activation_map` and `occlusion_map`.

    Returns:
        float32 (n, height, width).

    Raises:
        ValueError: as the two.
    """
    has_top = {"top", "heatmap"} & groups(model).keys()
    return (occlusion_map if has_top else class_activation_map)(model, images, class_index)


def class_activation_map(model, images, class_index=None):
    """Returns class activation maps (Zhou and others, CVPR 2016) in pixels of the input.

    For a network that ends in global average pooling and one dense layer: the last feature map, weighted by the
    kernel of the class. The logit is the map's mean plus the layer's bias, so the map shows where the logit comes
    from, with its sign: positive values speak for the class, negative ones against it. It takes no gradients and
    works with any backend. Maps are enlarged bilinearly; their mean stays exact where the input's sides are multiples
    of the feature map's, as in every ResNet at a multiple of 32 pixels.

    Args:
        model: functional Keras model with layers `head_pool` (`GlobalAveragePooling2D`) and `head_logits` (`Dense`).
        images: (n, height, width, channels) array of the model's input, values in [0, 255].
        class_index: class to explain. None: class 1 for a head of one unit, the class with the highest logit of
            each image otherwise. With one unit class 0 is the map of class 1 negated.

    Returns:
        float32 (n, height, width), in units of the logit.

    Raises:
        ValueError: the head is another one, the images do not fit, or there is no such class.
    """
    pool, dense = _head(model)
    units = dense.units
    images = _checked(model, images, units, class_index)
    features = keras.Model(model.inputs[0], pool.input).predict(images, batch_size=16, verbose=0)
    features = np.asarray(features, dtype=np.float32)
    kernel = np.asarray(keras.ops.convert_to_numpy(dense.kernel), dtype=np.float32)
    if units == 1:
        weights = np.broadcast_to(-kernel[:, 0] if class_index == 0 else kernel[:, 0], (len(images), len(kernel)))
    elif class_index is None:
        bias = np.asarray(keras.ops.convert_to_numpy(dense.bias)) if dense.use_bias else 0.0
        logits = features.mean(axis=(1, 2)) @ kernel + bias
        weights = kernel.T[logits.argmax(axis=1)]
    else:
        weights = np.broadcast_to(kernel[:, class_index], (len(images), len(kernel)))
    maps = np.einsum("nhwc,nc->nhw", features, weights)
    return _enlarge(maps, images.shape[1:3])


def occlusion_map(model, images, class_index=None):
    """Returns what the logit of a class loses when a place of the image is hidden from the top layers.

    For a network with top layers between backbone and head (`add_top`, `to_whole_image`), after Zeiler and Fergus
    (ECCV 2014, section 4.2), but on the backbone's last feature map in place of the image: the backbone sees the image
    once, the top layers once for each cell. A neighbourhood of 3 x 3 cells is hidden, not one cell, because a ResNet
    top begins with a 1x1 convolution of stride 2, which reads only every second cell of every second row. Hidden cells
    take the mean feature of their image: a zero is not the absence of evidence but a value that the backbone may never
    give. It takes no gradients and works with any backend; for a map of 36 x 28 cells the top layers see 1008.

    Args:
        model: functional Keras model with layers of the group `top` or `heatmap` (`medzoo.zoo.groups`) and
            `head_logits` (`Dense`).
        images: (n, height, width, channels) array of the model's input, values in [0, 255].
        class_index: as for `class_activation_map`.

    Returns:
        float32 (n, height, width), in units of the logit, enlarged bilinearly: positive where what is seen there speaks
        for the class. The values do not add up to the logit.

    Raises:
        ValueError: the model has no top layers or another head, the images do not fit, or there is no such class.

    Example:

    ```python
    maps = occlusion_map(zoo.load("allconv-resnet18-rsna"), images)
    ```
    """
    named = groups(model)
    added = [*named.get("heatmap", ()), *named.get("top", ())]
    layers = {layer.name: layer for layer in model.layers}
    dense = layers.get("head_logits")
    if not added or not isinstance(dense, keras.layers.Dense):
        raise ValueError(
            f"model {model.name!r}: expected top layers ('top_*' or 'heatmap_*') and the layer 'head_logits' (Dense)"
        )
    units = dense.units
    images = _checked(model, images, units, class_index)
    cut = layers[added[0]].input
    trunk, top = keras.Model(model.inputs[0], cut), keras.Model(cut, dense.output)
    features = np.asarray(trunk.predict(images, batch_size=BATCH, verbose=0))
    logits = np.asarray(top.predict(features, batch_size=BATCH, verbose=0), dtype=np.float32)
    height, width = features.shape[1:3]
    hidden = _neighbourhoods(height, width)
    maps = []
    for feature, logit in zip(features, logits, strict=True):
        mean = feature.mean(axis=(0, 1), dtype=np.float32).astype(feature.dtype)
        # In parts: all at once would be the feature map times its cells.
        without = [
            top.predict_on_batch(np.where(hidden[start : start + BATCH, ..., None], mean, feature))
            for start in range(0, len(hidden), BATCH)
        ]
        index = (0 if units == 1 else logit.argmax()) if class_index is None or units == 1 else class_index
        lost = logit[index] - np.concatenate(without).astype(np.float32)[:, index]
        maps.append((-lost if units == 1 and class_index == 0 else lost).reshape(height, width))
    return _enlarge(np.stack(maps), images.shape[1:3])


def class_overlays(image, heatmap, stride=32):
    """Lays the heatmap of a patch classifier over an image, a picture for each class but the background.

    A cell's probability is that of the whole patch around it; it is drawn over the middle of that patch, as large as
    the step to the next. A probability of 1 covers the image by 60 %, so that pictures can be compared.

    Args:
        image: (height, width, 1 or 3), values in [0, 255].
        heatmap: (u, v, classes) probabilities of `patch_heatmap` for that image, the background first.
        stride: pixels from one cell to the next, 32 for every backbone of the zoo.

    Returns:
        list of uint8 (height, width, 3), RGB, for classes 1 and on.

    Raises:
        ValueError: the heatmap is larger than the image, or one of the two has another number of axes.
    """
    image, heatmap = np.asarray(image), np.asarray(heatmap)
    size = [stride * cells for cells in heatmap.shape[:2]]
    if heatmap.ndim != 3 or image.ndim != 3 or size[0] > image.shape[0] or size[1] > image.shape[1]:
        raise ValueError(
            f"heatmap: received shape {heatmap.shape} for an image of shape {image.shape}, expected (u, v, classes) "
            f"with at most a cell for every {stride} pixels"
        )
    # As many pixels lie before the middle of the first patch as behind that of the last.
    top, left = ((length - extent) // 2 for length, extent in zip(image.shape, size, strict=False))
    placed = np.zeros((*image.shape[:2], heatmap.shape[-1]), "float32")
    placed[top : top + size[0], left : left + size[1]] = heatmap.repeat(stride, axis=0).repeat(stride, axis=1)
    return [overlay(image, placed[..., index], largest=1.0) for index in range(1, heatmap.shape[-1])]


def overlay(image, heatmap, largest=None):
    """Returns an image with a heatmap laid over it: vermilion speaks for the class, blue against it.

    The colour covers the image in proportion to the absolute value, the largest of this map by 60 %, so that the image
    shows through where there is no evidence.

    Args:
        image: (height, width, 1 or 3), values in [0, 255].
        heatmap: (height, width) finite values.
        largest: absolute value that covers the image by 60 %, in place of the largest of this map.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        ValueError: the image has another number of channels, or another size than the heatmap.
    """
    image, heatmap = np.asarray(image, dtype=np.float64), np.asarray(heatmap, dtype=np.float64)
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"image: received shape {image.shape}, expected (height, width, 1 or 3)")
    if heatmap.shape != image.shape[:2]:
        raise ValueError(f"heatmap: received shape {heatmap.shape}, expected {image.shape[:2]} as the image")
    largest = np.abs(heatmap).max() if largest is None else largest
    strength = heatmap / largest if largest > 0 else heatmap
    colours = np.where(strength[..., None] > 0, FOR, AGAINST)
    opacity = 0.6 * np.abs(strength)[..., None]
    return np.clip(np.rint((1 - opacity) * image + opacity * colours), 0, 255).astype(np.uint8)


def _checked(model, images, units, class_index):
    """The images as an array, if they and the class fit the model."""
    images = np.asarray(images)
    expected = model.input_shape[1:]
    if images.ndim != 4 or any(side not in (None, size) for side, size in zip(expected, images.shape[1:], strict=True)):
        raise ValueError(f"images: received shape {images.shape}, expected {('n', *expected)}")
    if class_index is not None and not 0 <= class_index < max(units, 2):
        raise ValueError(
            f"class_index: received {class_index}, expected 0 to {max(units, 2) - 1} for model {model.name!r}"
        )
    return images


def _enlarge(maps, size):
    """Maps (n, h, w) at another size, bilinearly."""
    enlarged = keras.ops.image.resize(maps[..., None], size, interpolation="bilinear", data_format="channels_last")
    return np.asarray(keras.ops.convert_to_numpy(enlarged), dtype=np.float32)[..., 0]


def _neighbourhoods(height, width):
    """For each cell of a map, row by row, which cells are hidden with it: bool (height * width, height, width)."""
    near = [np.abs(np.subtract.outer(np.arange(side), np.arange(side))) <= OCCLUDED // 2 for side in (height, width)]
    return np.einsum("ir,jc->ijrc", *near).reshape(height * width, height, width)


def _head(model):
    """The pooling and the dense layer of a class activation network, or a one-line error."""
    layers = {layer.name: layer for layer in model.layers}
    pool, dense = layers.get("head_pool"), layers.get("head_logits")
    if not isinstance(pool, keras.layers.GlobalAveragePooling2D) or not isinstance(dense, keras.layers.Dense):
        raise ValueError(
            f"model {model.name!r}: expected the layers 'head_pool' (GlobalAveragePooling2D) and 'head_logits' (Dense)"
        )
    producers = {id(layer.output): layer for layer in model.layers}
    before = producers.get(id(dense.input))
    while isinstance(before, keras.layers.Dropout):
        before = producers.get(id(before.input))
    if before is not pool:
        raise ValueError(
            f"model {model.name!r}: 'head_logits' does not follow 'head_pool', "
            "expected nothing but dropout between the two"
        )
    return pool, dense
