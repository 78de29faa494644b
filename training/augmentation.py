"""Augmentation as Keras layers, on the training device."""

import keras

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
