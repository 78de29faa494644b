"""Backbones: headless classification networks with named groups, known preprocessing and known ImageNet weights."""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from pathlib import Path

import keras
import numpy as np
import pooch

from .. import _cache
from .._nearest import unknown
from ..layers import PixelNormalization

# ImageNet statistics on RGB in [0, 1] (torchvision) and means on BGR in [0, 255] ("caffe" in keras.applications).
TORCHVISION_PIXELS = {
    "mean": [value * 255 for value in (0.485, 0.456, 0.406)],
    "deviation": [value * 255 for value in (0.229, 0.224, 0.225)],
    "order": "rgb",
}
# From -1 to 1 ("tf" in keras.applications).
INCEPTION_PIXELS = {"mean": [127.5] * 3, "deviation": [127.5] * 3, "order": "rgb"}
CAFFE_PIXELS = {"mean": [103.939, 116.779, 123.68], "deviation": [1.0, 1.0, 1.0], "order": "bgr"}

RESNET_GROUPS = {
    "stem": ("conv1_*", "pool1_*"),
    "stage1": ("conv2_*",),
    "stage2": ("conv3_*",),
    "stage3": ("conv4_*",),
    "stage4": ("conv5_*",),
}
# VGG's blocks by the same names, so that one schedule freezes any backbone. Each ends in its pooling.
VGG_GROUPS = {
    "stem": ("block1_*",),
    "stage1": ("block2_*",),
    "stage2": ("block3_*",),
    "stage3": ("block4_*",),
    "stage4": ("block5_*",),
}
# Inception-v3 by the size of its maps: up to the first pooling, up to the second, then the modules mixed0 to mixed2,
# mixed3 to mixed7 and mixed8 to mixed10. Its layers are named for these groups.
INCEPTION_GROUPS = {
    "stem": ("stem_*",),
    "stage1": ("stage1_*",),
    "stage2": ("stage2_*",),
    "stage3": ("stage3_*",),
    "stage4": ("stage4_*",),
}
# Groups that surgery and the classification head add to any backbone.
ADDED_GROUPS = {"drs": ("*_drs",), "heatmap": ("heatmap_*",), "top": ("top_*",), "head": ("head_*",)}


@dataclass(frozen=True)
class Source:
    """Where a backbone's official ImageNet weights come from, and how to know them.

    Attributes:
        files: names under which the weights are looked for in a folder, in this order; the last is the official one.
        url: address of the official file.
        hash: its checksum as `algorithm:hexadecimal digits`.
        licence: of the weights.
    """

    files: tuple[str, ...]
    url: str
    hash: str
    licence: str


@dataclass(frozen=True)
class Backbone:
    """One architecture: how it is built, its groups from input to output, its preprocessing and its weights.

    Attributes:
        build: `build(pixels)` returns the model whose first tensor is the normalised image.
        pixels: arguments of `PixelNormalization`.
        groups: name of a group to patterns of layer names.
        blocks: number of residual blocks a stage; none for a network without them.
        imagenet: source of the ImageNet weights.
        torchvision: whether files with torchvision's names fit.
        least: height and width in pixels of the smallest image that it takes.
    """

    build: Callable
    pixels: dict
    groups: dict[str, tuple[str, ...]]
    blocks: tuple[int, ...]
    imagenet: Source
    torchvision: bool = False
    least: int = 1

    @property
    def last_block(self):
        """Pattern of the layer names of the last residual block, of a network with residual blocks."""
        return f"conv5_block{self.blocks[-1]}_*"

    @property
    def before_last_block(self):
        """Name of the layer whose output is the input of the last residual block, of a network with such blocks."""
        return f"conv5_block{self.blocks[-1] - 1}_out"


BACKBONES: dict[str, Backbone] = {}
# Norm of each variable of the official weights, by backbone and variable path.
NORMS = Path(__file__).with_name("imagenet_norms.json")


def register_backbone(name, record):
    """Adds a backbone to the registry. Raises ValueError when the name is taken."""
    if name in BACKBONES:
        raise ValueError(f"backbone {name!r} is registered already")
    BACKBONES[name] = record


def _resnet18(pixels):
    """ResNet18 in torchvision's layout (He et al., Deep residual learning, 2016, table 1): strides in the 3x3
    convolutions, no convolution bias, batch norm with epsilon 1e-5. Layers are named as in keras.applications."""

    def convolution(x, filters, size, strides, name):
        if size > 1:
            # torchvision pads both sides alike, which "same" does not do at stride 2.
            x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        x = keras.layers.Conv2D(filters, size, strides, use_bias=False, name=f"{name}_conv")(x)
        return keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn")(x)

    def relu(x, name):
        return keras.layers.Activation("relu", name=name)(x)

    x = relu(convolution(pixels, 64, 7, 2, "conv1"), "conv1_relu")
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool1_pool")(x)
    for stage, filters in enumerate((64, 128, 256, 512), start=2):
        for block in (1, 2):
            name = f"conv{stage}_block{block}"
            strides = 2 if stage > 2 and block == 1 else 1
            shortcut = convolution(x, filters, 1, strides, f"{name}_0") if strides == 2 else x
            x = relu(convolution(x, filters, 3, strides, f"{name}_1"), f"{name}_1_relu")
            x = convolution(x, filters, 3, 1, f"{name}_2")
            x = relu(keras.layers.Add(name=f"{name}_add")([shortcut, x]), f"{name}_out")
    return keras.Model(keras.utils.get_source_inputs(pixels)[0], x)


def _application(name):
    def build(pixels):
        return getattr(keras.applications, name)(include_top=False, weights=None, input_tensor=pixels)

    return build


def _inception_v3(pixels):
    """Inception-v3 of keras.applications, its layers renamed: Keras numbers most of them over the life of a process,
    which no group and no checkpoint could refer to."""
    kinds = {
        keras.layers.Conv2D: "conv",
        keras.layers.BatchNormalization: "bn",
        keras.layers.Activation: "relu",
        keras.layers.MaxPooling2D: "max_pool",
        keras.layers.AveragePooling2D: "average_pool",
        keras.layers.Concatenate: "concatenate",
    }
    model = keras.applications.InceptionV3(include_top=False, weights=None, input_tensor=pixels)
    group, number, names = 0, Counter(), {}
    for layer in model.layers:
        if type(layer) not in kinds:
            continue  # what lies before: the image and its pixels
        kind = kinds[type(layer)]
        number[kind] += 1
        ending = layer.name if layer.name.startswith("mixed") else f"{kind}{number[kind]}"
        names[layer.name] = f"{list(INCEPTION_GROUPS)[group]}_{ending}"
        if ending in ("max_pool1", "max_pool2", "mixed2", "mixed7"):
            group += 1

    def rename(layer):
        return layer.from_config({**layer.get_config(), "name": names.get(layer.name, layer.name)})

    return keras.models.clone_model(model, input_tensors=model.inputs, clone_function=rename)


def _keras_source(name, digest, licence, folder="resnet"):
    official = f"{name}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    return Source(
        files=(f"{name}_imagenet_notop.weights.h5", official),
        url=f"https://storage.googleapis.com/tensorflow/keras-applications/{folder}/{official}",
        hash=f"md5:{digest}",
        licence=licence,
    )


register_backbone(
    "resnet18",
    Backbone(
        build=_resnet18,
        pixels=TORCHVISION_PIXELS,
        groups=RESNET_GROUPS,
        blocks=(2, 2, 2, 2),
        imagenet=Source(
            files=("resnet18_imagenet_notop_torch_names.npz", "resnet18.tv_in1k.safetensors"),
            url="https://huggingface.co/timm/resnet18.tv_in1k/resolve/"
            "bbd144b3e5565108aad885f145491d11bc6ce807/model.safetensors",
            hash="sha256:694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
            licence="BSD-3-Clause",
        ),
        torchvision=True,
    ),
)
register_backbone(
    "resnet50",
    Backbone(
        build=_application("ResNet50"),
        pixels=CAFFE_PIXELS,
        groups=RESNET_GROUPS,
        blocks=(3, 4, 6, 3),
        imagenet=_keras_source("resnet50", "4d473c1dd8becc155b73f8504c6f6626", "MIT"),
    ),
)
register_backbone(
    "resnet101",
    Backbone(
        build=_application("ResNet101"),
        pixels=CAFFE_PIXELS,
        groups=RESNET_GROUPS,
        blocks=(3, 4, 23, 3),
        imagenet=_keras_source("resnet101", "88cf7a10940856eca736dc7b7e228a21", "MIT"),
    ),
)
# Two trainings on ImageNet fit VGG16. The official file of Keras, known by its checksum, holds Oxford's own weights.
# `vgg16_imagenet_notop.weights.h5` holds torchvision's instead, its normalisation folded into the first convolution so
# that it takes the same "caffe" pixels; the norms beside this module are those of that file, as stored in float16.
# Either is pretrained and nothing else passes, but they are not the same numbers: a run records the file's hash, and a
# delta checkpoint made on one is refused on the other by its norms.
register_backbone(
    "vgg16",
    Backbone(
        build=_application("VGG16"),
        pixels=CAFFE_PIXELS,
        groups=VGG_GROUPS,
        blocks=(),
        imagenet=_keras_source(
            "vgg16",
            "6d6bbae143d832006294945121d1f1fc",
            "CC-BY-4.0 (Oxford's, the official file) or BSD-3-Clause (torchvision's)",
            folder="vgg16",
        ),
    ),
)
register_backbone(
    "inceptionv3",
    Backbone(
        build=_inception_v3,
        pixels=INCEPTION_PIXELS,
        groups=INCEPTION_GROUPS,
        blocks=(),
        imagenet=_keras_source("inception_v3", "bcbd6486424b2319ff4ef7d526e38f63", "Apache-2.0", folder="inception_v3"),
        least=75,
    ),
)


def list_backbones():
    """Names of the registered backbones, sorted."""
    return sorted(BACKBONES)


def record(name):
    """The `Backbone` record of a name. Raises ValueError, with the nearest right name, when there is none."""
    if name not in BACKBONES:
        raise ValueError(unknown("backbone", name, BACKBONES))
    return BACKBONES[name]


def backbone(name, weights="imagenet", input_shape=(224, 224, 3), mean=None):
    """A headless classification network that eats raw pixels.

    Args:
        name: one of `list_backbones()`.
        weights: `"imagenet"`, the path of a file, or None for random weights. ImageNet weights are taken from the
            folder that the environment variable `MEDZOO_WEIGHTS` names, else from the cache, else downloaded by the
            official route and verified by checksum. A file is a Keras weights file (`.h5`) or, for ResNet18,
            a `.safetensors` or `.npz` with torchvision's names.
        input_shape: (height, width, channels), channels 1 or 3.
        mean: one grey value in [0, 255] that is subtracted from every channel in place of ImageNet's mean of each, as
            Shen and others do with the mean of their training images (2018, section 3.1.2). The deviation stays.

    Returns:
        A functional `keras.Model`: input `(batch, *input_shape)` with values in [0, 255]; output the last feature map,
        `(batch, height / 32, width / 32, channels)` (a little smaller for Inception-v3, which does not pad and takes
        75 pixels at least). Its first layer is its `PixelNormalization`.

    Raises:
        ValueError: for an unknown name, an image too small for the network, a mean outside [0, 255], and for weights
            that are missing in part, of other shapes, or altered.
        FileNotFoundError: for weights that are nowhere to be had; the message says where they were looked for.

    Example:

    ```python
    network = zoo.backbone("resnet50", input_shape=(512, 512, 1))
    ```
    """
    found = record(name)
    if any(side is not None and side < found.least for side in input_shape[:2]):
        raise ValueError(f"input_shape: received {tuple(input_shape)}, {name} takes {found.least} pixels at least")
    pixels = found.pixels
    if mean is not None:
        if isinstance(mean, bool) or not isinstance(mean, Real) or not 0 <= mean <= 255:
            raise ValueError(f"mean: received {mean!r}, expected one grey value from 0 to 255, or None for ImageNet's")
        pixels = {**pixels, "mean": [mean] * 3}
    image = keras.Input(input_shape, name="image")
    # In float32 whatever the precision: half precision would round pixels to whole grey levels.
    model = found.build(PixelNormalization(**pixels, name="pixels", dtype="float32")(image))
    model = keras.Model(image, model.outputs[0], name=name)
    if weights is None:
        return model
    path = imagenet_file(name) if weights == "imagenet" else Path(weights)
    _load_file(model, path, found)
    if weights == "imagenet" and path.name != found.imagenet.files[-1]:
        _check_imagenet(model, path)
    return model


def groups(model):
    """The named groups of a network built on a backbone: group name to layer names, from input to output.

    A layer may be in two groups: a DRS layer is in `drs` and in the stage where it sits.

    Example:

    >>> groups(zoo.load("drs-resnet18-busi"))["head"]
    ['head_pool', 'head_logits', 'head_probabilities']
    """
    # Layer names of one family fit no pattern of another.
    families = (RESNET_GROUPS, VGG_GROUPS, INCEPTION_GROUPS)
    patterns = {group: sum((family[group] for family in families), ()) for group in RESNET_GROUPS} | ADDED_GROUPS
    names = [layer.name for layer in model.layers]
    found = {group: match_layers(names, listed) for group, listed in patterns.items()}
    return {group: listed for group, listed in found.items() if listed}


def match_layers(names, patterns):
    """Those of `names` that match any of the shell patterns, in their order."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def norm(array):
    """L2 norm of an array, in double precision: a fingerprint that rounding to float16 moves by less than 1e-3."""
    return float(np.linalg.norm(np.asarray(array, "float64")))


def imagenet_at_hand(name):
    """Path of a backbone's ImageNet weights where they need no download: in the folder that `MEDZOO_WEIGHTS` names,
    else in the cache; None where there are none.

    Raises:
        ValueError, FileNotFoundError: as `backbone`.
    """
    source = record(name).imagenet
    official = source.files[-1]
    folder = os.environ.get("MEDZOO_WEIGHTS")
    if folder:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"MEDZOO_WEIGHTS={folder}: no such folder")
        for file in source.files:
            path = Path(folder) / file
            if path.is_file():
                if file == official:
                    _check_hash(path, source.hash)
                return path
    cached = _cache.root() / "imagenet" / official
    # A damaged file in the cache is nobody's choice: it is downloaded anew.
    return cached if cached.is_file() and _hash(cached, source.hash) == source.hash else None


def imagenet_file(name):
    """Path of a backbone's ImageNet weights: from `MEDZOO_WEIGHTS`, else the cache, else the official address.

    Raises:
        ValueError, FileNotFoundError: as `backbone`.
    """
    found = imagenet_at_hand(name)
    if found is not None:
        return found
    source = record(name).imagenet
    official, folder = source.files[-1], os.environ.get("MEDZOO_WEIGHTS")
    try:
        return Path(pooch.retrieve(source.url, known_hash=source.hash, fname=official, path=_cache.folder("imagenet")))
    except Exception as error:  # pooch passes on whatever requests, urllib3 and the disk raise
        raise FileNotFoundError(
            f"ImageNet weights of {name}: no {' or '.join(source.files)} in MEDZOO_WEIGHTS ({folder or 'not set'}), "
            f"none cached, and {source.url} could not be downloaded ({_first_line(error)}); put the file into "
            "a folder and set MEDZOO_WEIGHTS to it, or pass weights=None for random weights"
        ) from error


def _check_imagenet(model, path):
    """Checks weights that are not the official file itself: the norm of each variable, which float16 hardly moves.

    Batch norm's moving statistics may have been estimated anew and are not compared.
    """
    known = json.loads(NORMS.read_text(encoding="utf-8")).get(model.name)
    if known is None:
        raise ValueError(
            f"{path}: cannot be verified, expected the official file {record(model.name).imagenet.files[-1]}"
        )
    for variable in model.variables:
        if variable.path in known:
            received, expected = norm(keras.ops.convert_to_numpy(variable)), known[variable.path]
            if not np.isclose(received, expected, rtol=1e-3, atol=1e-6):
                raise ValueError(
                    f"{path}: not the ImageNet weights of {model.name}: {variable.path} has norm {received:.5g}, "
                    f"expected {expected:.5g}"
                )


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _hash(path, expected):
    """A file's checksum in the form `algorithm:digits` of the one that is expected."""
    algorithm, _ = expected.split(":")
    return f"{algorithm}:{pooch.file_hash(path, alg=algorithm)}"


def _check_hash(path, expected):
    received = _hash(path, expected)
    if received != expected:
        algorithm, digits = received.split(":")
        raise ValueError(
            f"{path}: {algorithm} is {digits}, expected {expected.split(':')[1]}: the file is cut off or altered"
        )


def _load_file(model, path, found):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    if path.suffix == ".h5":
        try:
            model.load_weights(path)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path}: not a whole Keras weights file of {model.name} ({_first_line(error)})"
            ) from error
    elif path.suffix in (".npz", ".safetensors"):
        if not found.torchvision:
            raise ValueError(
                f"{path}: {model.name} is built as in keras.applications, with strides in the first 1x1 convolution of "
                "a block, where torchvision's network has them in the 3x3: expected a Keras weights file (.h5)"
            )
        _assign_torchvision(model, path)
    else:
        raise ValueError(f"{path}: received a {path.suffix or 'nameless'} file, expected .h5, .safetensors or .npz")


TORCHVISION_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def torchvision_name(path):
    """The name in torchvision's `ResNet` state of one of our ResNet18 variables.

    >>> torchvision_name("conv3_block1_2_bn/moving_mean")
    'layer2.0.bn2.running_mean'
    """
    layer, variable = path.split("/")
    parts = layer.split("_")
    kind = parts[-1]
    leaf = "weight" if kind == "conv" else TORCHVISION_BATCH_NORM[variable]
    if len(parts) == 2:  # conv1_conv, conv1_bn
        return f"{kind}1.{leaf}"
    stage, block, index = int(parts[0][4:]) - 1, int(parts[1][5:]) - 1, int(parts[2])
    module = f"downsample.{int(kind == 'bn')}" if index == 0 else f"{kind}{index}"
    return f"layer{stage}.{block}.{module}.{leaf}"


def _assign_torchvision(model, path):
    expected = {torchvision_name(variable.path): variable for variable in model.variables}
    try:
        if path.suffix == ".npz":
            with np.load(path) as archive:
                arrays = {name: archive[name] for name in archive.files}
        else:
            from safetensors.numpy import load_file

            arrays = load_file(path)
    except Exception as error:  # zipfile, numpy and safetensors have no common error
        raise ValueError(f"{path}: cannot be read ({_first_line(error)})") from error
    # The classification head and PyTorch's batch counters have no place in a backbone.
    arrays = {
        name: array
        for name, array in arrays.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    missing, surplus = sorted(expected.keys() - arrays.keys()), sorted(arrays.keys() - expected.keys())
    if missing or surplus:
        raise ValueError(
            f"{path}: does not hold {model.name} in torchvision's names: {len(missing)} missing "
            f"({', '.join(missing[:3])}), {len(surplus)} unknown ({', '.join(surplus[:3])})"
        )
    for name, variable in expected.items():
        array = arrays[name].astype("float32")
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)  # OIHW to HWIO
        if array.shape != tuple(variable.shape):
            raise ValueError(
                f"{path}: {name} has shape {array.shape}, expected {tuple(variable.shape)} (in HWIO order)"
            )
        variable.assign(array)
