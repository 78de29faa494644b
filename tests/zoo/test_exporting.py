import importlib.util
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from medzoo import zoo
from medzoo.zoo import exporting

IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 12, 10, 3)).astype("float32")
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="SavedModel and ONNX are exported by TensorFlow"
)


@needs_tensorflow
def test_a_saved_model_runs_on_raw_pixels_without_medzoo(tiny_model, checkpoint, tmp_path):
    path = zoo.export(checkpoint, "saved_model", tmp_path / "out")
    assert path == tmp_path / "out" / "saved_model"
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import sys\n"
        "import numpy as np, tensorflow as tf\n"
        f"loaded = tf.saved_model.load({str(path)!r})\n"
        f"images = np.load({str(tmp_path / 'images.npy')!r})\n"
        "served = loaded.serve(images).numpy()\n"
        "signed = loaded.signatures['serving_default'](image=tf.constant(images))['output_0'].numpy()\n"
        "assert 'medzoo' not in sys.modules\n"
        f"np.save({str(tmp_path / 'outputs.npy')!r}, [served, signed])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    expected = tiny_model.predict(IMAGES, verbose=0)
    for outputs in np.load(tmp_path / "outputs.npy"):
        np.testing.assert_allclose(outputs, expected, atol=1e-6)


@needs_tensorflow
def test_a_saved_model_holds_each_weight_once(tiny_model, tmp_path):
    path = zoo.export(tiny_model, "saved_model", tmp_path)
    import tensorflow

    stored = dict(tensorflow.train.list_variables(str(path / "variables" / "variables")))
    shapes = sorted(tuple(shape) for name, shape in stored.items() if "VARIABLE_VALUE" in name)
    assert shapes == sorted(tuple(variable.shape) for variable in tiny_model.weights)


def test_a_keras_file_loads_in_keras(tiny_model, tmp_path):
    path = zoo.export(tiny_model, "keras", tmp_path / "out")
    assert path == tmp_path / "out" / "model.keras"
    assert zipfile.is_zipfile(path)
    loaded = keras.saving.load_model(path)
    expected = tiny_model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), expected, atol=1e-6)
    assert os.listdir(tmp_path / "out") == ["model.keras"]


@needs_tensorflow
@pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("onnx", "onnxruntime", "tf2onnx")),
    reason="the extra `onnx` is not installed",
)
def test_an_onnx_file_runs_in_onnxruntime(tiny_model, tmp_path):
    import onnxruntime

    path = zoo.export(tiny_model, "onnx", tmp_path / "out")
    assert path == tmp_path / "out" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert image.shape[1:] == [12, 10, 3]
    np.testing.assert_allclose(
        session.run(None, {image.name: IMAGES})[0], tiny_model.predict(IMAGES, verbose=0), atol=1e-6
    )


@needs_tensorflow
def test_onnx_without_its_packages_names_the_extra(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"no package onnx, expected the extra: pip install"):
        zoo.export(tiny_model, "onnx", tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", ["saved_model", "keras", "onnx"])
def test_an_export_that_computes_something_else_is_removed(tiny_model, tmp_path, monkeypatch, format):
    if format != "keras" and keras.backend.backend() != "tensorflow":
        pytest.skip("SavedModel and ONNX are exported by TensorFlow")
    name = exporting._WRITERS[format][0]
    written = []

    def write(model, path):
        path.mkdir(exist_ok=True) if format == "saved_model" else path.write_bytes(b"x")
        written.append(path)

    def run(path, images):
        assert path == written[0]
        expected = keras.ops.convert_to_numpy(tiny_model(images, training=False))
        return expected + 2e-5

    monkeypatch.setitem(exporting._WRITERS, format, (name, write, run))
    with pytest.raises(ValueError, match=r"differ from the model's by 2.*expected at most 1e-05; it was removed"):
        zoo.export(tiny_model, format, tmp_path)
    assert os.listdir(tmp_path) == []


def test_an_older_export_is_replaced(tiny_model, tmp_path):
    zoo.export(tiny_model, "keras", tmp_path)
    bias = tiny_model.get_layer("head_logits").bias
    bias.assign(bias + 1)
    path = zoo.export(tiny_model, "keras", tmp_path)
    expected = tiny_model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(keras.saving.load_model(path).predict(IMAGES, verbose=0), expected, atol=1e-6)


def test_an_unknown_format_gets_the_nearest_right_one(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="unknown export format 'savedmodel': did you mean 'saved_model'"):
        zoo.export(tiny_model, "savedmodel", tmp_path)


def test_a_drs_network_exports_in_every_format(tmp_path):
    from medzoo.zoo.builders import build

    model = build(
        {
            "builder": "classifier",
            "arguments": {
                "backbone": "resnet18",
                "input_shape": [32, 32, 1],
                "classes": 3,
                "surgery": [{"name": "add_drs"}],
            },
        }
    )
    images = np.random.default_rng(2).uniform(0, 255, (1, 32, 32, 1)).astype("float32")
    expected = model.predict(images, verbose=0)
    loaded = keras.saving.load_model(zoo.export(model, "keras", tmp_path))
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, atol=1e-6)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        loaded = tensorflow.saved_model.load(zoo.export(model, "saved_model", tmp_path))
        np.testing.assert_allclose(loaded.serve(images).numpy(), expected, atol=1e-6)
