"""Deep representation scaling (DRS), Byra 2021, Biomedical Signal Processing and Control 69:102828."""

import keras

from .surgery import adds, rebuild

ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
)


@keras.saving.register_keras_serializable("medzoo")
class DRSLayer(keras.layers.Layer):
    """Scales a representation by position, then by channel; the identity until it is trained.

    Section 2.2 of the paper, for a representation `y` of shape `(height, width, channels)`:

        y'(i, j, k) = S_m(i, j) y(i, j, k) + S_b(i, j)       equation (3), the spatial part
        z(i, j, k)  = D_m(k) y'(i, j, k) + D_b(k)            equation (4), the channel part

    Args:
        spatial: whether the spatial part is there: weights `spatial_scale` and `spatial_bias`, shape `(height, width)`.
        channel: whether the channel part is there: weights `channel_scale` and `channel_bias`, shape `(channels,)`.

    Input and output: `(batch, height, width, channels)`.

    Raises:
        ValueError: when neither part is asked for, when the input is not a batch of maps in `channels_last` order, or
            when the spatial part meets a height or width that is unknown.

    Example:

    >>> layer = DRSLayer()
    >>> layer.build((None, 7, 7, 2048))
    >>> layer.count_params()  # 2 * 7 * 7 + 2 * 2048
    4194
    """

    def __init__(self, spatial=True, channel=True, **kwargs):
        super().__init__(**kwargs)
        if not (spatial or channel):
            raise ValueError("DRSLayer: spatial and channel are both False, expected at least one to be True")
        self.spatial = spatial
        self.channel = channel

    def build(self, input_shape):
        if len(input_shape) != 4 or keras.config.image_data_format() != "channels_last":
            raise ValueError(
                f"{self.name}: received an input of shape {tuple(input_shape)} in {keras.config.image_data_format()} "
                "order, expected (batch, height, width, channels)"
            )
        _, height, width, channels = input_shape
        if self.spatial and (height is None or width is None):
            raise ValueError(
                f"{self.name}: received a representation of unknown size (height {height}, width {width}), but the "
                "spatial scaling has one weight a position: build the network with a fixed input_shape, "
                "such as (224, 224, 3), or leave the spatial part out (spatial=False)"
            )
        if self.spatial:
            self.spatial_scale = self.add_weight((height, width), "ones", name="spatial_scale")
            self.spatial_bias = self.add_weight((height, width), "zeros", name="spatial_bias")
        if self.channel:
            self.channel_scale = self.add_weight((channels,), "ones", name="channel_scale")
            self.channel_bias = self.add_weight((channels,), "zeros", name="channel_bias")

    def call(self, inputs):
        outputs = inputs
        if self.spatial:
            scale = keras.ops.expand_dims(self.spatial_scale, -1)
            outputs = outputs * scale + keras.ops.expand_dims(self.spatial_bias, -1)
        if self.channel:
            outputs = outputs * self.channel_scale + self.channel_bias
        return outputs

    def resample_from(self, other):
        """Takes the weights of `other`, a DRS layer for another height and width; its maps are resampled bilinearly."""
        for mine, theirs in zip(self.weights, other.weights, strict=True):
            values = keras.ops.convert_to_tensor(theirs)
            if mine.shape != theirs.shape:
                maps = keras.ops.image.resize(values[None, :, :, None], mine.shape, antialias=True)
                values = maps[0, :, :, 0]
            mine.assign(values)

    def get_config(self):
        return {**super().get_config(), "spatial": self.spatial, "channel": self.channel}


def add_drs(model, spatial=True, channel=True):
    """Surgery: a `DRSLayer` between addition and activation of every residual block (figure 2b of the paper).

    At first the new network computes what the old one did. ResNet101 at 224x224 gets 33 layers with 99,422 parameters;
    with the one-unit dense layer behind them (2,049) that is 101,471, the number in the paper's table 1, which counts
    the dense layer although its caption excludes it.

    Args:
        model: any functional Keras network with residual blocks; networks nested in it as layers are searched too.
        spatial: scale by position, equation (3).
        channel: scale by channel, equation (4).

    Returns:
        A new model, its pretrained weights those of `model`. The layer after addition `X` is named `X_drs`.

    Raises:
        ValueError: when no addition is followed by an activation (a network without residual blocks, or one with
            pre-activation blocks), when the network has DRS layers already, or when its spatial size is unknown.

    Example:

    ```python
    network = add_drs(zoo.backbone("resnet50"))
    ```
    """
    added_tensors = {}
    inserted = []

    def insert(layer, *args, **kwargs):
        if isinstance(layer, DRSLayer):
            raise ValueError(f"add_drs: the network {model.name!r} has a DRS layer already ({layer.name!r})")
        # Activations too come as layers, or as the operation that `keras.ops.relu(x)` leaves.
        activates = isinstance(layer, ACTIVATIONS) or type(layer).__name__ == "Relu"
        if activates and id(args[0]) in added_tensors:
            name = f"{added_tensors[id(args[0])][0]}_drs"
            # In float32 also in a half-precision network: trained scales differ from 1 by about 1 % (figure 7), and
            # bfloat16 knows nothing between 1 and 1.008.
            drs = DRSLayer(spatial, channel, name=name, dtype="float32")
            inserted.append(drs)
            return layer(drs(args[0]), *args[1:], **kwargs)
        outputs = layer(*args, **kwargs)
        if adds(layer):
            added_tensors[id(outputs)] = (layer.name, outputs)
        return outputs

    scaled = rebuild(model, call_function=insert)
    if not inserted:
        raise ValueError(
            f"add_drs: no addition of {model.name!r} is followed by an activation; "
            "expected a network of residual blocks such as ResNet18, ResNet50 or ResNet101"
        )
    return scaled
