"""Augmentation as Keras layers, on the training device."""

import keras

from .mixed_precision import precision


def affine_augmentation(flip=True, rotation=10.0, zoom=0.1, shift=0.1, seed=0):
    """Random flips, rotations, zooms and shifts of raw images.

    Args:
        flip: mirror left and right half of the time.
        rotation: largest angle to either side, degrees.
        zoom: largest relative change of height and of width, drawn apart, to either side.
        shift: largest shift to either side, as a fraction of height and width.
        seed: of all random generators; their state is part of what `fit_stages` saves.

    Returns:
        `keras.Sequential` on `(batch, height, width, channels)`, inert in inference. Computes in float32: half
        precision would round pixels in [0, 255] to whole grey levels. What comes in from outside the image is black.

    Raises:
        ValueError: when nothing is asked for.
    """
    black = {"fill_mode": "constant", "fill_value": 0.0}
    with precision("float32"):
        layers = [
            keras.layers.RandomFlip("horizontal", seed=seed) if flip else None,
            keras.layers.RandomRotation(rotation / 360, seed=seed + 1, **black) if rotation else None,
            keras.layers.RandomZoom(zoom, zoom, seed=seed + 2, **black) if zoom else None,
            keras.layers.RandomTranslation(shift, shift, seed=seed + 3, **black) if shift else None,
        ]
        layers = [layer for layer in layers if layer is not None]
        if not layers:
            raise ValueError("affine_augmentation: received nothing to do, expected at least one of its operations")
        return keras.Sequential(layers, name="augmentation")
