"""How far surgery moves what a network computes."""

import keras
import numpy as np
import pandas as pd


def feature_movement(old, old_images, new, new_images, layers):
    """Compares the features of two networks at the same layers, each on its own version of the same images.

    Args:
        old, new: functional Keras models with these layers, whose maps have the same shapes in both.
        old_images, new_images: lists of batches (n, height, width, channels), values in [0, 255].
        layers: names of layers.

    Returns:
        DataFrame, a row a layer: `layer`; `distance`, the root mean square of new minus old as a share of that of old;
        `cosine` of the angle between them, all images taken together.

    Raises:
        ValueError: when the lists differ in length, or the shapes of a layer's maps.

    Example:

    ```python
    small = zoo.backbone("resnet18", input_shape=(224, 224, 1))
    feature_movement(small, [halves], morph_stem(small), [images], ["conv1_bn", "conv5_block2_out"])
    ```
    """
    if len(old_images) != len(new_images):
        raise ValueError(f"received {len(old_images)} batches and {len(new_images)}, expected as many of both")
    networks = [
        keras.Model(model.inputs, {name: model.get_layer(name).output for name in layers}) for model in (old, new)
    ]
    sums = np.zeros((len(layers), 4))
    for batches in zip(old_images, new_images, strict=True):
        computed = [network.predict_on_batch(batch) for network, batch in zip(networks, batches, strict=True)]
        for row, name in enumerate(layers):
            before, after = (keras.ops.convert_to_numpy(maps[name]).astype("float64") for maps in computed)
            if before.shape != after.shape:
                raise ValueError(f"layer {name!r}: received maps of {after.shape}, expected {before.shape} as before")
            products = (after - before) ** 2, before**2, after**2, before * after
            sums[row] += [product.sum() for product in products]
    moved, before, after, both = sums.T
    return pd.DataFrame(
        {"layer": layers, "distance": np.sqrt(moved / before), "cosine": both / np.sqrt(before * after)}
    )
