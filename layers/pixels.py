"""From raw pixels to what a pretrained network was trained on, as the network's own first layer."""

import keras


@keras.saving.register_keras_serializable("medzoo")
class PixelNormalization(keras.layers.Layer):
    """Repeats grey to three channels, orders the channels, subtracts a mean and divides by a deviation.

    Args:
        mean: three numbers in [0, 255], in the order of the output's channels.
        deviation: three positive numbers in the same units.
        order: `"rgb"` or `"bgr"`, the channels that the pretrained weights expect. The input is always RGB or grey.

    Input: `(batch, height, width, 1 or 3)`, values in [0, 255]. Output: `(batch, height, width, 3)`.

    Raises:
        ValueError: when `order` is another word, when mean and deviation are not three numbers each, the deviation
            positive, or when the input has neither one nor three channels.
    """

    def __init__(self, mean, deviation, order="rgb", **kwargs):
        super().__init__(**kwargs)
        if order not in ("rgb", "bgr"):
            raise ValueError(f"PixelNormalization: received order {order!r}, expected 'rgb' or 'bgr'")
        self.mean = tuple(float(value) for value in mean)
        self.deviation = tuple(float(value) for value in deviation)
        self.order = order
        if len(self.mean) != 3 or len(self.deviation) != 3 or min(self.deviation) <= 0:
            raise ValueError(
                f"PixelNormalization: received mean {self.mean} and deviation {self.deviation}, "
                "expected three numbers each, the deviation positive"
            )

    def build(self, input_shape):
        if input_shape[-1] not in (1, 3):
            raise ValueError(
                f"{self.name}: received an input of shape {tuple(input_shape)}, "
                "expected one channel (grey) or three (RGB) last"
            )

    def call(self, inputs):
        # Broadcasting against three means repeats a single grey channel.
        pixels = keras.ops.cast(inputs, self.compute_dtype)  # whole numbers too
        ordered = keras.ops.flip(pixels, axis=-1) if self.order == "bgr" else pixels
        mean = keras.ops.convert_to_tensor(self.mean, dtype=self.compute_dtype)
        deviation = keras.ops.convert_to_tensor(self.deviation, dtype=self.compute_dtype)
        return (ordered - mean) / deviation

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 3)

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "deviation": self.deviation, "order": self.order}
