"""Augmentation as Keras layers, on the training device."""

import math

import keras
import numpy as np

from .mixed_precision import precision


@keras.saving.register_keras_serializable("medzoo")
class RandomCropFlip(keras.layers.Layer):
    """The layer of `crop_augmentation`.

    Args:
        size: (height, width) of the windows.
        flip: whether half of the images are mirrored.
        seed: of the random generator.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: when an image is smaller than a window.
    """

    def __init__(self, size, flip=True, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)
        self.flip = flip
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        height, width = self.size
        _, full_height, full_width, channels = images.shape
        count = keras.ops.shape(images)[0]
        top, left = self._margins(images.shape)
        rows, columns = keras.ops.arange(height), keras.ops.arange(width)
        if training:
            draw = {"shape": (count, 1), "minval": 0, "dtype": "int32", "seed": self.generator}
            rows = rows + keras.random.randint(maxval=top + 1, **draw)
            offsets = keras.random.randint(maxval=left + 1, **draw)
            if self.flip:
                mirrored = keras.random.randint(maxval=2, **draw) == 1
                columns = keras.ops.where(mirrored, width - 1 - columns, columns)
            columns = columns + offsets
        else:
            rows, columns = (rows + top // 2)[None], (columns + left // 2)[None]
        # Positions in a list of all pixels of the batch: one gather on every backend, whatever each image's window.
        first = keras.ops.arange(count)[:, None, None] * (full_height * full_width)
        places = first + rows[:, :, None] * full_width + columns[:, None, :]
        return keras.ops.take(keras.ops.reshape(images, (-1, channels)), places, axis=0)

    def compute_output_shape(self, input_shape):
        self._margins(input_shape)
        return (input_shape[0], *self.size, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "size": self.size, "flip": self.flip, "seed": self.seed}

    def _margins(self, shape):
        margins = shape[1] - self.size[0], shape[2] - self.size[1]
        if min(margins) < 0:
            raise ValueError(f"size: received {self.size} for images of {tuple(shape[1:3])}, expected none larger")
        return margins


def crop_augmentation(size, flip=True, seed=0):
    """Random windows of raw images, and a mirror.

    Images that are larger than the network's input by a margin lose it at a random place, each at one of its own
    (`keras.layers.RandomCrop` takes one place for the whole batch). MorphHR (Wei and others, section IV.B)
    resizes images to 1 / 0.875 of the network's input for it, and mirrors left and right half of the time.

    Args:
        size: (height, width) of the windows: of the network's input.
        flip: mirror left and right half of the time.
        seed: of the random generator; its state is part of what `fit_stages` saves.

    Returns:
        Keras layer from `(batch, height, width, channels)` to `(batch, *size, channels)`; in inference the centre
        crop, which `analysis.crop_images` gives too. Computes in float32, as `affine_augmentation`.
    """
    return RandomCropFlip(size, flip, seed, dtype="float32", name="crop_augmentation")


@keras.saving.register_keras_serializable("medzoo")
class RandomAffineShift(keras.layers.Layer):
    """The layer of `mammogram_augmentation`.

    Args:
        flips, rotation, shear, zoom, intensity, seed: as there.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: when `zoom` is no range of factors.
    """

    def __init__(self, flips=True, rotation=25.0, shear=0.2, zoom=(0.8, 1.2), intensity=20.0, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.flips = flips
        self.rotation = rotation
        self.shear = shear
        self.zoom = zoom
        self.intensity = intensity
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)
        if np.shape(zoom) != (2,) or not 0 < zoom[0] <= zoom[1]:
            raise ValueError(f"zoom: received {zoom}, expected two factors above 0, the smaller first")

    def call(self, images, training=False):
        images = keras.ops.cast(images, self.compute_dtype)
        if not training:
            return images
        # A column of random numbers for each thing that is drawn, a row for each image.
        draws = keras.random.uniform(
            (keras.ops.shape(images)[0], 7), -1.0, 1.0, dtype=self.compute_dtype, seed=self.generator
        )
        matrices = affine_matrices(
            angle=math.radians(self.rotation) * draws[:, 0],
            shear=self.shear * draws[:, 1],
            zoom=sum(self.zoom) / 2 + (self.zoom[1] - self.zoom[0]) / 2 * draws[:, 2:4],
            mirrored=(draws[:, 4:6] < 0) if self.flips else keras.ops.zeros_like(draws[:, 4:6], "bool"),
            size=images.shape[1:3],
        )
        images = keras.ops.image.affine_transform(
            images, matrices, "bilinear", fill_mode="constant", fill_value=0.0, data_format="channels_last"
        )
        return keras.ops.clip(images + self.intensity * draws[:, 6, None, None, None], 0.0, 255.0)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        names = ("flips", "rotation", "shear", "zoom", "intensity", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def affine_matrices(angle, shear, zoom, mirrored, size):
    """Maps from a place in the augmented image to the place in the image where its grey value comes from.

    Args:
        angle: (n,), radians by which both axes are turned, counter-clockwise as seen in the picture that results.
        shear: (n,), radians by which the x axis is turned less than the y axis.
        zoom: (n, 2), the steps in the image that a step down and a step to the right in the result take.
        mirrored: bool (n, 2), upside down and left to right.
        size: (height, width) in pixels; the centre stays where it is.

    Returns:
        (n, 8) as `keras.ops.image.affine_transform` takes them: `x' = a x + b y + c` and `y' = d x + e y + f` in
        pixels of (0, 0) in the middle of the top-left one, then two zeros.
    """
    ops = keras.ops
    steps = ops.where(mirrored, -zoom, zoom)
    down, right = steps[:, 0], steps[:, 1]
    a, b = ops.cos(angle - shear) * right, -ops.sin(angle) * down
    d, e = ops.sin(angle - shear) * right, ops.cos(angle) * down
    y, x = ((side - 1) / 2 for side in size)
    none = ops.zeros_like(angle)
    return ops.stack([a, b, x - a * x - b * y, d, e, y - d * x - e * y, none, none], axis=1)


def mammogram_augmentation(flips=True, rotation=25.0, shear=0.2, zoom=(0.8, 1.2), intensity=20.0, seed=0):
    """Random flips, rotation, shear, zoom and shift of grey values of raw mammograms or their patches.

    Shen and others, section 3.1.2. One matrix an image and one resampling, whatever is asked for. Differences from the
    original code, Keras 2's `ImageDataGenerator`:
    - All channels of an image are shifted alike. There each was shifted by itself, which tints grey images.
    - What comes in from outside is black, as the background of a mammogram is (before its shift). There the pixels of
      the border were drawn out into stripes, which at the chest wall are long and look like no tissue.
    - Bilinear, where it took the nearest pixel; grey values end at 0 and 255, not at the image's own extremes.

    Args:
        flips: mirror upside down half of the time, and left to right half of the time.
        rotation: largest angle to either side, degrees.
        shear: largest angle to either side between an axis and where it would stand, radians.
        zoom: (smallest, largest) factor, drawn apart for height and width, by which the part of the image that is
            shown is larger than the image: at 0.8 things look 1.25 times as large, as in the original.
        intensity: largest shift to either side, grey values.
        seed: of the random generator; its state is part of what `fit_stages` saves.

    Returns:
        Keras layer on `(batch, height, width, channels)` in [0, 255], inert in inference. Computes in float32, as
        `affine_augmentation`.

    Raises:
        ValueError: when `zoom` is no range of factors.

    Example:

    ```python
    fit_stages(model, stages, train, validation, "RUN", augmentation=mammogram_augmentation(seed=1))
    ```
    """
    return RandomAffineShift(
        flips, rotation, shear, zoom, intensity, seed, dtype="float32", name="mammogram_augmentation"
    )


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
