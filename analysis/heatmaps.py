"""Class activation maps: where in an image a network finds the evidence for a class."""

import keras
import numpy as np

# Okabe and Ito's vermilion and blue: people with a colour vision deficiency can tell them apart, and both stand out
# on dark and on bright tissue.
FOR, AGAINST = (213, 94, 0), (0, 114, 178)


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
    images = np.asarray(images)
    expected = model.input_shape[1:]
    if images.ndim != 4 or any(side not in (None, size) for side, size in zip(expected, images.shape[1:], strict=True)):
        raise ValueError(f"images: received shape {images.shape}, expected {('n', *expected)}")
    units = dense.units
    if class_index is not None and not 0 <= class_index < max(units, 2):
        raise ValueError(
            f"class_index: received {class_index}, expected 0 to {max(units, 2) - 1} for model {model.name!r}"
        )
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
    enlarged = keras.ops.image.resize(
        maps[..., None], images.shape[1:3], interpolation="bilinear", data_format="channels_last"
    )
    return np.asarray(keras.ops.convert_to_numpy(enlarged), dtype=np.float32)[..., 0]


def overlay(image, heatmap):
    """Returns an image with a heatmap laid over it: vermilion speaks for the class, blue against it.

    The colour covers the image in proportion to the absolute value, the largest of this map by 60 %, so that the image
    shows through where there is no evidence.

    Args:
        image: (height, width, 1 or 3), values in [0, 255].
        heatmap: (height, width) finite values.

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
    largest = np.abs(heatmap).max()
    strength = heatmap / largest if largest > 0 else heatmap
    colours = np.where(strength[..., None] > 0, FOR, AGAINST)
    opacity = 0.6 * np.abs(strength)[..., None]
    return np.clip(np.rint((1 - opacity) * image + opacity * colours), 0, 255).astype(np.uint8)


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
