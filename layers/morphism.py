"""Network morphism of a stem: a pretrained network takes images of twice the size at nearly its old cost.

T. Wei and others, Beyond Fine-tuning: Classifying High Resolution Mammograms using Function-Preserving
Transformations (MorphHR). The first convolution G is replaced by two, F1 and F2, which together compute what it did
(figure 2 and equation 2); then the first of them takes every second pixel of an image twice as large.

What the paper leaves open, and what is done here:
- Equation (2) has many solutions. Here F1 has orthonormal filters in a space drawn at random, which all answer to
  natural images with the same variance: the new batch norm, which in training divides each channel by its own
  deviation, then divides all of them by the same and leaves the function. F2 is solved for, exactly. Of all F2 that
  solve it, a network that is doubled gets the one whose outputs on an image of twice the size stay nearest to
  those of the old network on the image itself (in the mean square, over images whose pixels correlate as natural ones
  do); a network that is not doubled gets the smallest.
- The right-hand side of equation (3) is printed as C_j C_l (K1 + K2 - 1)^2, which for its own example is 200,704 and
  makes it fail; C_j C_i (K1 + K2 - 1)^2 is 9,408, the number that the paper then compares. That is what is checked.
- Its text puts a 2x2 max pooling behind the first convolution, its figure 2 lets that convolution stride: both are
  here.
"""

import math
from numbers import Integral

import keras
import numpy as np

from .surgery import copy_weights, rebuild

DOWNSAMPLINGS = ("stride", "maxpool", None)
# Of natural images: the distance, in pixels of the larger image, at which the correlation of two pixels falls to 1 / e,
# and the correlation of two colours. What F2 becomes hardly depends on them.
CORRELATION_LENGTH = 32.0
COLOUR_CORRELATION = 0.95


def morph_stem(model, rounds=1, downsample="stride", seed=0):
    """Surgery: the first convolution becomes two, and the network takes images of twice the height and width.

    Behind the first convolution, that is `conv1_1` in figure 2, come batch norm with γ = 1 and β = 0 where the network
    has one behind its first convolution, a parametric ReLU of slope 1 and, with `downsample="maxpool"`, the pooling;
    behind the second what was behind the old one. All maps from there on keep their size. A kernel of 7 becomes 5 and
    3, one of 5 becomes 3 and 3, one of 3 becomes 3 and 3 (zero-padded to 5).

    Args:
        model: functional `keras.Model` whose first layer with weights is a `Conv2D`, in `channels_last` order.
            Networks nested in it are searched too.
        rounds: how often; each round morphs what is then the first convolution and doubles the input again.
        downsample: how the maps come back to their size: `"stride"` (figure 2: the first of the two convolutions takes
            every second pixel), `"maxpool"` (the text of section III.B; costs more) or None: the input keeps its size
            and the network its function, exactly, borders included.
        seed: of F1.

    Returns:
        A new model. The convolution `X` becomes `X_morph1` and `X_morph2`, with its regularizers; between them lie
        `X_morph1_bn`, `X_morph1_prelu` and `X_morph1_pool`, before them, where needed, `X_morph1_pad` or
        `X_morph1_crop`.

    Raises:
        ValueError: when the first layer with weights is no convolution, one in groups, dilated or constrained, called
            twice or, where the input is doubled, bypassed; when it has too few filters for equation (3); when a size
            that is needed is not fixed; for `rounds` less than 1 or an unknown `downsample`.

    Example:

    ```python
    network = morph_stem(zoo.backbone("resnet18", input_shape=(224, 224, 3)))
    network.input_shape  # (None, 448, 448, 3)
    ```
    """
    _check_arguments(rounds, downsample, seed)
    for number in range(rounds):
        model = _morph_once(model, downsample, seed + number)
    return model


def size_before_morphing(size, rounds=1, downsample="stride", seed=0):
    """The input size of the network that `morph_stem` brings to `size`.

    Args:
        size: (height, width) in pixels that the morphed network is to have.
        rounds, downsample, seed: as for `morph_stem`.

    Raises:
        ValueError: when the size cannot be halved so often, or an argument is refused by `morph_stem`.

    >>> size_before_morphing((896, 1152), rounds=2)
    (224, 288)
    """
    _check_arguments(rounds, downsample, seed)
    factor = 1 if downsample is None else 2**rounds
    for side in size:
        if side % factor:
            near = [-(-side // factor) * factor for side in size]
            raise ValueError(
                f"morph_stem: received an input of {_by(size)} pixels for {rounds} rounds, expected a height and width "
                f"divisible by {factor}, such as {_by(near)}"
            )
    return tuple(side // factor for side in size)


def _check_arguments(rounds, downsample, seed):
    for name, value, least in (("rounds", rounds, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"morph_stem: received {name} {value!r}, expected an integer of at least {least}")
    if downsample not in DOWNSAMPLINGS:
        raise ValueError(f"morph_stem: received downsample {downsample!r}, expected 'stride', 'maxpool' or None")


# ---------------------------------------------------------------------------------------------------------------------
# Equations (2) and (3)


def check_condition(kernel_shape, first_size, second_size, channels):
    """Checks equation (3): whether F1 and F2 have the parameters that it takes to hold any G.

    Args:
        kernel_shape: (height, width, C_i, C_j) of G.
        first_size, second_size: (height, width) of F1 and F2: K1 and K2.
        channels: C_l, the filters of F1.

    Raises:
        ValueError: when F1 * F2 is smaller than G, or the condition does not hold; the message says what would do.
    """
    *size, inputs, filters = kernel_shape
    joint = tuple(first + second - 1 for first, second in zip(first_size, second_size, strict=True))
    if any(together < alone for together, alone in zip(joint, size, strict=True)):
        raise ValueError(
            f"kernels of {_by(first_size)} and {_by(second_size)} reach over {_by(joint)} pixels, expected at least "
            f"the {_by(size)} of the kernel they replace"
        )
    area = math.prod(joint)
    # Both sides of equation (3) divided by what they share: unknowns against equations, of F2 with F1 given or of F1
    # with F2 given.
    unknown_1, equations_1 = channels * math.prod(first_size), filters * area
    unknown_2, equations_2 = channels * math.prod(second_size), inputs * area
    if unknown_1 < equations_1 and unknown_2 < equations_2:
        needed = min(-(-equations_1 // math.prod(first_size)), -(-equations_2 // math.prod(second_size)))
        raise ValueError(
            f"equation (3): {channels} channels between kernels of {_by(first_size)} and {_by(second_size)} cannot "
            f"hold a kernel of {_by(size)} from {inputs} to {filters} channels: max({inputs * unknown_1}, "
            f"{filters * unknown_2}) < {filters * inputs * area}; expected at least {needed} channels"
        )


def factor_kernel(kernel, first_size, second_size, channels, downsample=None, seed=0):
    """Factors a convolution kernel in two, equation (2): a convolution with F1 and then with F2 is one with G.

    Args:
        kernel: G, array of shape (height, width, C_i, C_j), as Keras has it.
        first_size, second_size: (height, width) of F1 and F2. Where together they reach further than G, it is
            zero-padded, by one pixel more behind than before where the difference is odd.
        channels: C_l, the filters of F1.
        downsample: `"stride"` or `"maxpool"` for the F2 that suits an image of twice the size best (max pooling is
            taken for the mean), None for the smallest.
        seed: of F1.

    Returns:
        (F1, F2): float32 arrays of shape (*first_size, C_i, C_l), its filters orthonormal, and
        (*second_size, C_l, C_j). Their convolution is G to the precision of float32.

    Raises:
        ValueError: as `check_condition`, and in the few cases in which that holds and equation (2) still has no
            solution.

    Example:

    >>> first, second = factor_kernel(np.ones((7, 7, 3, 64)), (5, 5), (3, 3), 64)
    >>> first.shape, second.shape
    ((5, 5, 3, 64), (3, 3, 64, 64))
    """
    kernel = np.asarray(kernel, "float64")
    check_condition(kernel.shape, first_size, second_size, channels)
    *size, inputs, filters = kernel.shape
    joint = [first + second - 1 for first, second in zip(first_size, second_size, strict=True)]
    if channels * math.prod(second_size) < inputs * math.prod(joint):
        # F1 has the unknowns. Transposed, the problem is the same with the factors exchanged.
        second, first = factor_kernel(kernel.swapaxes(2, 3), second_size, first_size, channels, seed=seed)
        return first.swapaxes(2, 3), second.swapaxes(2, 3)

    first = _orthonormal_filters((*first_size, inputs, channels), seed)
    padded = np.zeros((*joint, inputs, filters))
    top, left = (before for before, _ in _extension(size, joint))
    padded[top : top + size[0], left : left + size[1]] = kernel
    equations = _placed(first, second_size, 1, joint)
    rows = math.prod(joint) * inputs
    equations, wanted = equations.reshape(rows, -1), padded.reshape(rows, filters)
    left_vectors, singular, right_vectors = np.linalg.svd(equations)
    if singular[-1] < 1e-6 * singular[0]:
        # Equation (3) counts unknowns, but f g - g f = 0 for any two filters f and g: some of them count for nothing.
        raise ValueError(
            f"{channels} channels between kernels of {_by(first_size)} and {_by(second_size)} fulfil equation (3) but "
            f"leave equation (2) without a solution, expected more than {channels} channels"
        )
    second = right_vectors[:rows].T @ ((left_vectors.T @ wanted) / singular[:, None])
    if downsample is not None:
        free = right_vectors[rows:].T
        second += free @ _nearest_when_doubled(kernel, first, second_size, second, free, downsample)
    return first, second.reshape(*second_size, channels, filters).astype("float32")


def _orthonormal_filters(shape, seed):
    """Filters (height, width, inputs, channels), flattened orthonormal (or, of more than there are taps, tight), so
    that equation (2) is well conditioned, which answer to natural images with nearly the same variance.

    Most of a natural patch is its mean. Filters that are merely random answer to it with very different variances, and
    where batch norm divided by them, the filters of G that see contrast would see the mean.
    """
    *taps, channels = shape
    random = np.random.default_rng(seed)
    drawn = random.standard_normal((math.prod(taps), channels))
    left_vectors, _, right_vectors = np.linalg.svd(drawn, full_matrices=False)
    filters = left_vectors @ right_vectors
    *size, inputs = taps
    # The strongest principal component goes to the wave of frequency 0, which is in all channels alike, the second to
    # that of the highest frequency, which but changes its sign, the others to the rest.
    components = np.linalg.eigh(filters.T @ _covariance(size, inputs) @ filters)[1][:, ::-1]
    frequencies = sorted(range(channels), key=lambda frequency: 2 * frequency % channels != 0)
    angles = 2 * np.pi * np.outer(frequencies, np.arange(channels)) / channels
    hartley = (np.cos(angles) + np.sin(angles)) / np.sqrt(channels)
    filters = filters @ components @ hartley * random.choice([-1, 1], channels)
    # float32 before anything is solved with them, so that the rounding is part of the equation.
    return filters.reshape(shape).astype("float32")


def _placed(first, second_size, stride, size, start=(0, 0)):
    """Array (*size, inputs, *second_size, channels): F1 at each tap of F2, the taps `stride` pixels apart."""
    height, width, inputs, channels = first.shape
    placed = np.zeros((*size, inputs, *second_size, channels))
    for row in range(second_size[0]):
        for column in range(second_size[1]):
            top, left = start[0] + stride * row, start[1] + stride * column
            placed[top : top + height, left : left + width, :, row, column] += first
    return placed


def _nearest_when_doubled(kernel, first, second_size, second, free, downsample):
    """Coordinates in the null space `free` at which F2 = second + free @ them is best on an image of twice the size.

    The old network's image is the doubled one averaged over 2x2 pixels. Least squares between its stem and ours, the
    pixels of the doubled image being correlated.
    """
    *size, inputs, filters = kernel.shape
    offsets, sides = [], []
    for old, first_side, second_side in zip(size, first.shape, second_size, strict=False):
        offset = _offset(old, first_side, second_side, downsample)
        offsets.append((max(0, -offset), max(0, offset)))
        sides.append(max(2 * old, offset + _reach(first_side, second_side, downsample)) - min(0, offset))
    (old_top, top), (old_left, left) = offsets

    target = np.zeros((*sides, inputs, filters))
    doubled = kernel.repeat(2, axis=0).repeat(2, axis=1) / 4
    target[old_top : old_top + doubled.shape[0], old_left : old_left + doubled.shape[1]] = doubled
    shifts = [(row, column) for row in (0, 1) for column in (0, 1)] if downsample == "maxpool" else [(0, 0)]
    design = sum(_placed(first, second_size, 2, sides, (top + row, left + column)) for row, column in shifts)
    pixels = math.prod(sides) * inputs
    target, design = target.reshape(pixels, filters), design.reshape(pixels, -1) / len(shifts)

    weighted = design.T @ _covariance(sides, inputs)
    normal = weighted @ design
    # No large weights for little gain; fewer behind max pooling, whose difference from the mean they would carry on.
    ridge = 1e-2 if downsample == "maxpool" else 1e-3
    normal += ridge * np.trace(normal) / len(normal) * np.eye(len(normal))
    return np.linalg.solve(free.T @ normal @ free, free.T @ (weighted @ target - normal @ second))


def _covariance(size, channels):
    """Covariance of the pixels of natural images, (pixels * channels) squared, variance 1."""
    rows, columns = np.meshgrid(*(np.arange(side) for side in size), indexing="ij")
    vertical, horizontal = (np.subtract.outer(places.ravel(), places.ravel()) for places in (rows, columns))
    colours = np.full((channels, channels), COLOUR_CORRELATION) + (1 - COLOUR_CORRELATION) * np.eye(channels)
    return np.kron(np.exp(-np.hypot(vertical, horizontal) / CORRELATION_LENGTH), colours)


def _mean_variance(kernel):
    """Mean over its filters of the variance with which a kernel answers to natural images of variance 1."""
    *size, inputs, filters = kernel.shape
    flat = np.asarray(kernel, "float64").reshape(-1, filters)
    return np.mean(np.sum(flat * (_covariance(size, inputs) @ flat), axis=0))


def _extension(size, joint):
    """(before, behind) a side: the zero padding of G."""
    return [((long - short) // 2, -((short - long) // 2)) for short, long in zip(size, joint, strict=True)]


# ---------------------------------------------------------------------------------------------------------------------
# Figure 2


def _morph_once(model, downsample, seed):
    parents, convolution = _first_convolution(model)
    parent, path = parents[-1], {parent.name for parent in parents}
    if downsample is not None and parent is not model and None not in parent.input_shape[1:]:
        raise ValueError(
            f"morph_stem: the first convolution lies in the nested model {parent.name!r} of fixed input "
            f"{tuple(parent.input_shape[1:])}, expected one of free height and width, or the nested model itself"
        )
    if downsample is not None and [len(tensor.shape) for tensor in model.inputs] != [4]:
        raise ValueError(
            f"morph_stem: {model.name!r} has inputs of {', '.join(str(tensor.shape) for tensor in model.inputs)}, "
            "expected one of (batch, height, width, channels)"
        )
    normalization = _batch_norm_behind(parent, convolution)
    first_size, second_size = _factor_sizes(convolution.kernel_size)
    kernel = keras.ops.convert_to_numpy(convolution.kernel).astype("float64")
    try:
        first, second = factor_kernel(kernel, first_size, second_size, convolution.filters, downsample, seed)
    except ValueError as error:
        raise ValueError(f"morph_stem: layer {convolution.name!r}: {error}") from error
    if not kernel.any():
        scale = 1.0
    elif normalization is None:
        scale = np.sqrt(np.sqrt(np.mean(second**2) / np.mean(first**2)))  # both factors of one size
    else:
        # The moving variance of the old layer tells how strong the network's pixels are. With this F1, batch norm
        # finds variance 1 when it trains, as its moving average says, and changes nothing then either.
        pixels = np.mean(keras.ops.convert_to_numpy(normalization.moving_variance)) / _mean_variance(kernel)
        scale = 1 / np.sqrt(pixels * _mean_variance(first))
    layers = [
        *_border(parent, convolution, first_size, second_size, downsample),
        *_convolutions(convolution, normalization, first_size, second_size, downsample),
    ]
    weights = {f"{convolution.name}_morph1": [first * scale], f"{convolution.name}_morph2": [second / scale]}
    if convolution.use_bias:
        weights[f"{convolution.name}_morph2"].append(keras.ops.convert_to_numpy(convolution.bias))

    downstream = {}  # by id; holding the tensors keeps their ids apart
    calls = 0

    def call(layer, *args, **kwargs):
        nonlocal calls
        if layer.name == convolution.name:
            calls += 1
            if calls > 1:
                raise ValueError(f"morph_stem: layer {convolution.name!r}: received a second call, expected one")
            outputs = args[0]
            for new in layers:
                outputs = new(outputs)
        else:
            received = filter(keras.backend.is_keras_tensor, keras.tree.flatten((args, kwargs)))
            behind = [id(tensor) in downstream for tensor in received]
            if downsample is not None and any(behind) and not all(behind):
                raise ValueError(
                    f"morph_stem: layer {layer.name!r} receives tensors from before and from behind the first "
                    f"convolution {convolution.name!r}, expected nothing to bypass it"
                )
            outputs = layer(*args, **kwargs)
            if not any(behind) and layer.name not in path:
                return outputs
        downstream.update({id(tensor): tensor for tensor in keras.tree.flatten(outputs)})
        return outputs

    def transfer(new, old):
        if old is not convolution:
            copy_weights(new, old)

    input_shape = None
    if downsample is not None:
        height, width, channels = model.inputs[0].shape[1:]
        input_shape = (height and 2 * height, width and 2 * width, channels)
    morphed = rebuild(model, call_function=call, input_shape=input_shape, transfer=transfer)
    if (received := layers[-1].output.shape[1:]) != (expected := convolution.output.shape[1:]):
        raise ValueError(
            f"morph_stem: what lies between the input and {convolution.name!r} does not grow with the input: received "
            f"maps of {received} behind {layers[-1].name!r}, expected {expected}"
        )
    for layer in layers:
        if layer.name in weights:
            layer.set_weights(weights[layer.name])
        elif layer.name.endswith("_bn"):
            # With epsilon added under the root, the identity.
            layer.moving_variance.assign(np.full(layer.moving_variance.shape, 1 - layer.epsilon))
        layer.trainable = (normalization if layer.name.endswith("_bn") else convolution).trainable
    return morphed


def _first_convolution(model):
    """The first layer with weights and the models that it lies in, from the outermost."""
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise ValueError(
            f"morph_stem: received {type(model).__name__} {model!r}, expected a functional keras.Model, such as "
            "keras.Model(model.inputs, model.outputs) of a Sequential"
        )
    parents = [model]
    while True:
        # Normalization holds statistics of the pixels, which come before the network.
        weighted = (x for x in parents[-1].layers if x.weights and not isinstance(x, keras.layers.Normalization))
        layer = next(weighted, None)
        if not isinstance(layer, keras.Model):
            break
        parents.append(layer)
    where = f"morph_stem: the first layer with weights of {model.name!r}"
    if type(layer) is not keras.layers.Conv2D:
        received = "nothing" if layer is None else f"the {type(layer).__name__} {layer.name!r}"
        raise ValueError(f"{where}: received {received}, expected a Conv2D")
    # A constraint on the old kernel is none on its factors.
    needs = {"groups": 1, "dilation_rate": (1, 1), "data_format": "channels_last", "kernel_constraint": None}
    for name, needed in needs.items():
        if (received := getattr(layer, name)) != needed:
            raise ValueError(f"{where}, {layer.name!r}: received {name} {received}, expected {needed}")
    if not hasattr(parents[-1], "operations"):
        raise ValueError(f"{where}, {layer.name!r}, lies in {parents[-1].name!r}, expected a functional model")
    return parents, layer


def _batch_norm_behind(parent, convolution):
    for layer in parent.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.input is convolution.output:
            return layer
    return None


def _factor_sizes(size):
    """K1 and K2: of 7, 5 and 3; never less than 3."""
    return tuple(max(side - 2, 3) for side in size), (3, 3)


def _convolutions(convolution, normalization, first_size, second_size, downsample):
    """The layers that take the place of the first convolution, in order (figure 2)."""
    name = convolution.name
    config = convolution.get_config()
    policy = convolution.dtype_policy
    first = {
        **config,
        "name": f"{name}_morph1",
        "filters": convolution.filters,
        "kernel_size": first_size,
        "strides": 2 if downsample == "stride" else 1,
        "padding": "valid",
        "use_bias": False,
        "activation": None,
        "activity_regularizer": None,  # of the old maps, which the second convolution gives
    }
    second = {**config, "name": f"{name}_morph2", "kernel_size": second_size, "padding": "valid"}
    layers = [keras.layers.Conv2D.from_config(first)]
    if normalization is not None:
        kept = {key: getattr(normalization, key) for key in ("axis", "momentum", "epsilon")}
        layers.append(keras.layers.BatchNormalization(**kept, name=f"{name}_morph1_bn", dtype=policy))
    layers.append(
        keras.layers.PReLU(alpha_initializer="ones", shared_axes=[1, 2], name=f"{name}_morph1_prelu", dtype=policy)
    )
    if downsample == "maxpool":
        layers.append(keras.layers.MaxPooling2D(2, name=f"{name}_morph1_pool", dtype=policy))
    return [*layers, keras.layers.Conv2D.from_config(second)]


def _border(parent, convolution, first_size, second_size, downsample):
    """Layers in front of the two convolutions, which pad nothing themselves: zero padding and cropping after which all
    maps have their old sizes and places. Without downsampling the borders too are exactly the old ones."""
    changes = []
    for axis, (first, second) in enumerate(zip(first_size, second_size, strict=True)):
        old = convolution.kernel_size[axis]
        own, outside = _own_padding(convolution, axis), _padding_in_front(parent, convolution, axis)
        if downsample is None:
            before, behind = _extension((old,), (first + second - 1,))[0]
            changes.append((own[0] + before, own[1] + behind))
            continue
        # The old network sees S + padding pixels, the new one 2 S: the first convolution is to give S + given maps.
        given = sum(own) + sum(outside) - old + second
        total = 2 * given + first - (2 if downsample == "stride" else 1)
        before = 2 * (own[0] + outside[0]) - _offset(old, first, second, downsample)
        changes.append((before - outside[0], total - before - outside[1]))
    layers = []
    padding = tuple(tuple(max(side, 0) for side in sides) for sides in changes)
    cropping = tuple(tuple(max(-side, 0) for side in sides) for sides in changes)
    if np.any(cropping):
        layers.append(keras.layers.Cropping2D(cropping, name=f"{convolution.name}_morph1_crop"))
    if np.any(padding):
        layers.append(keras.layers.ZeroPadding2D(padding, name=f"{convolution.name}_morph1_pad"))
    return layers


def _offset(old, first, second, downsample):
    """How many pixels of a doubled image the window of the two convolutions begins behind the old window of twice the
    old size, so that both have the same middle (to half a pixel)."""
    return (2 * old - _reach(first, second, downsample)) // 2


def _reach(first, second, downsample):
    """How many pixels of a doubled image the window of the two convolutions reaches over."""
    return first + 2 * (second - 1) + (downsample == "maxpool")


def _own_padding(convolution, axis):
    """(before, behind): what `padding="same"` adds."""
    if convolution.padding == "valid":
        return 0, 0
    side, stride, old = convolution.input.shape[1 + axis], convolution.strides[axis], convolution.kernel_size[axis]
    if stride > 1 and side is None:
        raise ValueError(
            f"morph_stem: layer {convolution.name!r} with stride {stride} and padding 'same' pads by the size of its "
            "input, which is not fixed; expected a network with a fixed input shape"
        )
    total = old - 1 if stride == 1 else max(0, (-(-side // stride) - 1) * stride + old - side)
    return total // 2, total - total // 2


def _padding_in_front(parent, convolution, axis):
    """(before, behind): what the padding layers right in front of a layer add; cropping is negative."""
    before, behind, tensor = 0, 0, convolution.input
    makers = {id(layer.output): layer for layer in parent.layers if isinstance(layer, _BORDERS)}
    while id(tensor) in makers:
        layer = makers[id(tensor)]
        if isinstance(layer, keras.layers.ZeroPadding2D):
            before, behind = before + layer.padding[axis][0], behind + layer.padding[axis][1]
        else:
            before, behind = before - layer.cropping[axis][0], behind - layer.cropping[axis][1]
        tensor = layer.input
    return before, behind


_BORDERS = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)


def _by(size):
    return "x".join(map(str, size))
