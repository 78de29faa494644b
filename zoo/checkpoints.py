"""Checkpoints: a model as a card and a file of weights, saved, loaded and verified."""

import datetime
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .._files import atomic
from .backbones import backbone, norm
from .builders import build
from .cards import SCHEMA, Card
from .store import check_weights, file_sha256, find

WEIGHTS_FILE = "weights.safetensors"
# The layer that `classes=` replaces, and whose outputs are the logits.
HEAD = "head_logits"
GOLDEN_SEED = 20210
GOLDEN_IMAGES = 2
# A backbone's norms move by less than this when its weights are rounded to float16, by more when they are others.
NORM_TOLERANCE = 1e-3
# What another machine, another backend or TensorFloat-32 may change, relative to the largest logit.
GOLDEN_TOLERANCE = 1e-3
# A delta may lie on the official weights or on their float16 form, which moves logits as float16 storage does.
DELTA_TOLERANCE = 1e-2
# The most that float16 storage may change a logit.
ROUNDING_TOLERANCE = 1e-2
# The most by which a rebuilt model with the very same weights may differ: accelerators choose among algorithms.
REBUILD_TOLERANCE = 1e-5


class Verification(NamedTuple):
    """What `verify` found.

    Attributes:
        name: of the checkpoint.
        bytes: size of its weights file.
        sha256: of its weights file.
        difference: largest absolute difference to the card's golden outputs.
        tolerance: the largest allowed.
    """

    name: str
    bytes: int
    sha256: str
    difference: float
    tolerance: float


def load(name, classes=None):
    """A pretrained model.

    Args:
        name: a checkpoint's name (see `list_models`), its folder, or the path or address of its release archive.
        classes: None for the model as published, or a number of classes from two for a fresh, untrained head on the
            pretrained body, also when the checkpoint has as many classes itself. The head is of the same kind: that of
            a multi-label checkpoint has a sigmoid for each class.

    Returns:
        `keras.Model`, not compiled. Input: float32 images `(batch, height, width, channels)` with values in
        [0, 255], of the size in `card(name).input`. Output of a classifier: probabilities `(batch, 1)` for two
        classes that exclude each other, else `(batch, classes)`.

    Raises:
        FileNotFoundError: the checkpoint, or its backbone's weights, are not there.
        ValueError: the name is unknown, or the weights are short, altered or of another model. Nothing is ever
            left at random but the head that `classes` asks for.

    Example:

    ```python
    model = zoo.load("drs-resnet18-busi")
    model = zoo.load("drs-resnet18-busi", classes=3)
    ```
    """
    folder = find(name)
    card = Card.read(folder / "card.json")
    return _rebuild(folder, card.build, card.weights, classes)


def save_checkpoint(model, folder, card_fields, storage="float32", delta=False):
    """Writes a checkpoint folder, whole or not at all, after loading it back and comparing.

    Args:
        model: the `keras.Model` to save.
        folder: the checkpoint's folder; an older one is replaced.
        card_fields: the fields of `Card` but `schema`, `weights` and `golden`, which are computed here. `created`
            is today by default. `build` must describe `model`.
        storage: `"float32"`, or `"float16"` for tensors of rank two and more; those of rank one stay float32.
        delta: store only what differs, bit for bit, from the ImageNet weights of the backbone that
            `card_fields["build"]` names.

    Returns:
        the `Card` as written.

    Raises:
        ValueError: `build` describes another model, or float16 would move a logit by more than 0.01.
        OSError: the file cannot be written.
    """
    if storage not in ("float32", "float16"):
        raise ValueError(f"storage: received {storage!r}, expected 'float32' or 'float16'")
    build_fields = card_fields["build"]
    supplied, record = {}, None
    if delta:
        arguments = build_fields["arguments"]
        supplied = _supplied(model, arguments)
        record = {
            "name": arguments["backbone"],
            "weights": "imagenet",
            "kernel_norms": {path: norm(array) for path, array in supplied.items()},
        }
    with atomic(folder, marker="card.json") as temporary:
        temporary.mkdir()
        path = temporary / WEIGHTS_FILE
        save_weights(model, path, storage, leave_out=supplied)
        weights = {
            "file": WEIGHTS_FILE,
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
            "storage": storage,
            "kind": "delta" if delta else "whole",
            "backbone": record,
        }
        kind, before = golden_outputs(model, GOLDEN_SEED)
        _, after = golden_outputs(_rebuild(temporary, build_fields, weights), GOLDEN_SEED)
        scale = max(1.0, float(np.abs(before).max()))
        difference = float(np.abs(before - after).max()) if before.shape == after.shape else np.inf
        allowed = ROUNDING_TOLERANCE if storage == "float16" else REBUILD_TOLERANCE * scale
        if not difference <= allowed:
            raise ValueError(
                f"card field 'build': received a description with which the {kind} of {model.name!r} change by "
                f"{difference:.3g} when it is rebuilt from {storage} storage, expected at most {allowed:.3g}"
            )
        tolerance = (DELTA_TOLERANCE if delta else GOLDEN_TOLERANCE) * scale
        card = Card.from_dict(
            {
                "created": datetime.date.today().isoformat(),
                **card_fields,
                "schema": SCHEMA,
                "weights": {**weights, "logit_difference": difference},
                "golden": {"seed": GOLDEN_SEED, kind: after.tolist(), "tolerance": tolerance},
            }
        )
        card.write(temporary / "card.json")
    return card


def verify(name):
    """Checks a checkpoint: size and SHA-256 of its weights, and its outputs for the card's fixed input.

    Args:
        name: as for `load`.

    Returns:
        a `Verification`.

    Raises:
        FileNotFoundError, ValueError: as `load` does, and ValueError when the golden outputs are not reproduced.
    """
    folder = find(name)
    card = Card.read(folder / "card.json")
    # Half precision that the caller set would be measured otherwise, not the checkpoint.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        model = _rebuild(folder, card.build, card.weights)
    finally:
        keras.config.set_dtype_policy(policy)
    kind, received = golden_outputs(model, card.golden["seed"])
    expected = np.asarray(card.golden.get(kind), "float32")
    difference = float(np.abs(received - expected).max()) if received.shape == expected.shape else np.inf
    tolerance = card.golden["tolerance"]
    if not difference <= tolerance:
        raise ValueError(
            f"{folder}: received {kind} that differ by {difference:.3g} from the golden ones of the card, expected "
            f"at most {tolerance:.3g}"
        )
    return Verification(card.name, card.weights["bytes"], card.weights["sha256"], difference, tolerance)


def save_weights(model, path, storage="float32", leave_out=()):
    """Writes a model's weights as safetensors keyed by variable path, whole or not at all.

    Args:
        model: `keras.Model`.
        path: file to write.
        storage: `"float32"` or `"float16"`, the latter for tensors of rank two and more only.
        leave_out: variable paths that are not written.

    Raises:
        ValueError: two variables share a path, or a weight is not finite in this storage.
        OSError: the file cannot be written, as when the disk is full.
    """
    path = Path(path)
    arrays = {}
    for name, variable in _variables(model).items():
        if name not in leave_out:
            array = np.asarray(keras.ops.convert_to_numpy(variable), "float32")
            if storage == "float16" and array.ndim >= 2:
                with np.errstate(over="ignore"):
                    array = array.astype("float16")
            if not np.isfinite(array).all():
                raise ValueError(f"{path}: received {name} with values that are not finite in {storage}")
            arrays[name] = np.ascontiguousarray(array)
    with atomic(path) as temporary:
        temporary.write_bytes(save(arrays))


def load_weights(model, path):
    """Gives a model the weights that `save_weights` wrote, all of them or none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or lacks a variable, has one too many or one of another shape.
    """
    _assign(model, path)


def golden_input(shape, seed):
    """The fixed images that a checkpoint is recognised by: noise from PCG64's raw bits, the same in any NumPy.

    Args:
        shape: (height, width, channels).
        seed: of the generator.

    Returns:
        float32 `(2, height, width, channels)`, whole numbers in [0, 255].
    """
    size = (GOLDEN_IMAGES, *shape)
    bits = np.random.PCG64(seed).random_raw(int(np.prod(size)))
    return (bits >> np.uint64(56)).astype("float32").reshape(size)


def golden_outputs(model, seed):
    """A model's outputs for its golden input.

    Returns:
        `"logits"` and the outputs of the layer `head_logits`, where the model has one, else `"outputs"` and its
        outputs; float32.
    """
    kind, outputs = "outputs", model.outputs[0]
    if HEAD in [layer.name for layer in model.layers]:
        kind, outputs = "logits", model.get_layer(HEAD).output
    images = golden_input(model.inputs[0].shape[1:], seed)
    outputs = keras.Model(model.inputs[0], outputs)(images, training=False)
    return kind, np.asarray(keras.ops.convert_to_numpy(outputs), "float32")


def backbone_share(model, arguments):
    """How much of a model is, bit for bit, the ImageNet weights of its backbone.

    Args:
        model: `keras.Model`.
        arguments: of its builder: `backbone` and `input_shape`.

    Returns:
        share of the bytes of all weights, 0 to 1.
    """
    supplied = _supplied(model, arguments)
    return sum(array.nbytes for array in supplied.values()) / sum(
        keras.ops.convert_to_numpy(variable).nbytes for variable in model.weights
    )


def _variables(model):
    variables = {}
    for variable in model.weights:
        if variable.path in variables:
            raise ValueError(f"model {model.name!r}: received two variables {variable.path!r}, expected one")
        variables[variable.path] = variable
    return variables


def _supplied(model, arguments):
    """Variables of the model that equal those of its ImageNet backbone bit for bit: path to array."""
    network = backbone(arguments["backbone"], "imagenet", tuple(arguments["input_shape"]))
    mine = _variables(model)
    supplied = {}
    for path, variable in _variables(network).items():
        array = keras.ops.convert_to_numpy(variable)
        if path in mine and keras.ops.convert_to_numpy(mine[path]).tobytes() == array.tobytes():
            supplied[path] = array
    return supplied


def _rebuild(folder, description, weights, classes=None):
    """The model of a checkpoint folder, its weights checked and in place."""
    path = check_weights(folder, weights)
    below = weights["backbone"]
    if classes is not None:
        if "classes" not in description["arguments"]:
            raise ValueError(f"classes: received {classes!r} for {folder}, which has no head to replace")
        description = {**description, "arguments": {**description["arguments"], "classes": classes}}
    model = build(description, weights=below["weights"] if below else None)
    supplied = below["kernel_norms"] if below else {}
    _assign(model, path, supplied, fresh_head=classes is not None)
    _check_norms(model, supplied, path)
    return model


def _assign(model, path, supplied=(), fresh_head=False):
    """Gives the model every variable of the file, after all names and shapes were found right."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected the weights of {model.name!r}")
    variables = _variables(model)
    fresh = {name for name in variables if fresh_head and HEAD in name.split("/")}
    expected = {name: variable for name, variable in variables.items() if name not in {*supplied, *fresh}}
    try:
        with safe_open(path, "numpy") as file:
            # The published head stays in the file when a fresh one takes its place.
            received = {name for name in file.keys() if not (fresh_head and HEAD in name.split("/"))}  # noqa: SIM118
            for name in [*sorted(expected.keys() - received), *sorted(set(supplied) - variables.keys())]:
                raise ValueError(f"{path}: received no {name!r}, expected every variable of {model.name!r}")
            for name in sorted(received - expected.keys()):
                raise ValueError(f"{path}: received {name!r}, expected only the variables of {model.name!r}")
            for name, variable in expected.items():
                shape = tuple(file.get_slice(name).get_shape())
                if shape != tuple(variable.shape):
                    raise ValueError(f"{path}: received {name!r} of shape {shape}, expected {tuple(variable.shape)}")
            for name, variable in expected.items():
                variable.assign(file.get_tensor(name).astype("float32", copy=False))
    except SafetensorError as error:
        raise ValueError(f"{path}: received a damaged file ({error}), expected safetensors") from None


def _check_norms(model, norms, path):
    variables = _variables(model)
    for name, expected in norms.items():
        received = norm(keras.ops.convert_to_numpy(variables[name]))
        if not np.isclose(received, expected, rtol=NORM_TOLERANCE, atol=1e-8):
            raise ValueError(
                f"{path}: received a backbone whose {name!r} has norm {received:.6g}, expected {expected:.6g}: "
                "the delta was made on other weights"
            )
