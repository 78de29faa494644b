"""Exported files for programs that have no medzoo, each reloaded and compared with the model before it is kept."""

from pathlib import Path

import keras
import numpy as np

from .._files import atomic
from .._nearest import unknown
from .checkpoints import GOLDEN_SEED, golden_input, load

# Of the outputs, relative to the largest one where that is above 1. In another program the same sums are taken in
# another order: float32 at 448 pixels was seen to differ by 1.1e-6.
TOLERANCE = 1e-5


def export(model, format, out):
    """Writes a model for use without medzoo, then reloads the file and compares its outputs with the model's.

    The exported model eats raw pixels in [0, 255] as the model does. An older export is replaced.

    Args:
        model: a `keras.Model`, or the name of a checkpoint as for `load`.
        format: `"saved_model"` (TensorFlow Serving; endpoint `serve`, signature `serving_default`; needs the
            TensorFlow backend), `"keras"` (Keras 3 after `import medzoo.layers`) or `"onnx"` (needs the extra
            `onnx` and
            the TensorFlow backend).
        out: folder, made if need be, into which `saved_model/`, `model.keras` or `model.onnx` is written.

    Returns:
        `Path` of what was written.

    Raises:
        ValueError: the format is unknown or not to be had on this backend, or the exported file does not
            reproduce the outputs to 1e-5; nothing is left of it then.
        ModuleNotFoundError: a package of the extra `onnx` is missing.

    Example:

    ```python
    zoo.export("drs-resnet18-busi", "saved_model", "exported")
    ```
    """
    if format not in _WRITERS:
        raise ValueError(unknown("export format", format, _WRITERS))
    backend = keras.backend.backend()
    if format != "keras" and backend != "tensorflow":
        raise ValueError(f"export format {format!r}: received the {backend} backend, expected tensorflow")
    if not isinstance(model, keras.Model):
        model = load(model)
    name, write, run = _WRITERS[format]
    target = Path(out) / name
    # Of a model made from a list of one input, the exported file would want a list too.
    model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    images = golden_input(model.inputs[0].shape[1:], GOLDEN_SEED)
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    with atomic(target, marker="saved_model.pb") as path:
        write(model, path)
        received = np.asarray(run(path, images))
        scale = max(1.0, float(np.abs(expected).max()))
        difference = float(np.abs(received - expected).max()) if received.shape == expected.shape else np.inf
        if not difference <= TOLERANCE * scale:
            raise ValueError(
                f"{target}: received an export whose outputs differ from the model's by {difference:.3g}, expected "
                f"at most {TOLERANCE * scale:.3g}; it was removed"
            )
    return target


def _write_saved_model(model, path):
    import tensorflow

    # Not `model.export`, which writes every weight twice (Keras 3.15): 190 MB for a ResNet50 in place of 95 MB.
    image = tensorflow.TensorSpec(model.inputs[0].shape, "float32", name=model.inputs[0].name)
    module = tensorflow.Module()
    module.weights = [variable.value for variable in model.weights]
    module.serve = tensorflow.function(lambda image: model(image, training=False), input_signature=[image])
    tensorflow.saved_model.save(module, path, signatures={"serving_default": module.serve})


def _run_saved_model(path, images):
    import tensorflow

    # The function alone would not keep its variables alive.
    loaded = tensorflow.saved_model.load(path)
    return loaded.serve(images).numpy()


def _write_keras(model, path):
    model.save(path)


def _run_keras(path, images):
    return keras.ops.convert_to_numpy(keras.saving.load_model(path, compile=False)(images, training=False))


def _write_onnx(model, path):
    for package in ("onnx", "onnxruntime", "tf2onnx"):
        try:
            __import__(package)
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"export format 'onnx': received no package {package}, expected the extra: pip install 'medzoo[onnx]'"
            ) from None
    model.export(path, format="onnx", verbose=False)


def _run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


_WRITERS = {
    "saved_model": ("saved_model", _write_saved_model, _run_saved_model),
    "keras": ("model.keras", _write_keras, _run_keras),
    "onnx": ("model.onnx", _write_onnx, _run_onnx),
}
