import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from medzoo import zoo
from medzoo.zoo import Card, store
from medzoo.zoo.checkpoints import backbone_share, golden_input, golden_outputs
from safetensors.numpy import load_file, save_file

IMAGES = np.random.default_rng(0).uniform(0, 255, (3, 12, 10, 3)).astype("float32")


def rewrite(checkpoint, change):
    """Changes the arrays of a checkpoint, and the size and hash on its card with them."""
    path = checkpoint / "weights.safetensors"
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path)
    fields = json.loads((checkpoint / "card.json").read_text())
    fields["weights"].update(bytes=path.stat().st_size, sha256=store.file_sha256(path))
    (checkpoint / "card.json").write_text(json.dumps(fields))


def one_line(error):
    return "\n" not in str(error.value)


def test_a_loaded_model_gives_the_same_outputs(tiny_model, checkpoint):
    loaded = zoo.load(checkpoint)
    assert isinstance(loaded, keras.Model)
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), tiny_model.predict(IMAGES, verbose=0), atol=1e-6)
    for mine, theirs in zip(loaded.weights, tiny_model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_the_file_holds_every_variable_by_path(tiny_model, checkpoint):
    arrays = load_file(checkpoint / "weights.safetensors")
    assert arrays.keys() == {
        "conv1/kernel",
        "conv1/bias",
        "bn1/gamma",
        "bn1/beta",
        "bn1/moving_mean",
        "bn1/moving_variance",
        "head_logits/kernel",
        "head_logits/bias",
    }
    np.testing.assert_array_equal(arrays["conv1/kernel"], tiny_model.get_layer("conv1").kernel.numpy())
    assert {array.dtype.name for array in arrays.values()} == {"float32"}


def test_the_card_describes_the_file(tiny_model, checkpoint, fields):
    card = zoo.card(checkpoint)
    path = checkpoint / "weights.safetensors"
    assert card.weights["bytes"] == len(path.read_bytes())
    assert card.weights["kind"] == "whole"
    assert {name: getattr(card, name) for name in fields} == fields
    # The logits are those that the weights give by hand.
    images = golden_input((12, 10, 3), card.golden["seed"])
    body = keras.Model(tiny_model.inputs, tiny_model.get_layer("head_pool").output)
    kernel, bias = (variable.numpy() for variable in tiny_model.get_layer("head_logits").weights)
    expected = body.predict(images, verbose=0) @ kernel + bias
    np.testing.assert_allclose(card.golden["logits"], expected, rtol=1e-5)


def test_the_golden_input_is_that_of_pcg64():
    images = golden_input((4, 5, 3), 42)
    # `random` makes a double of the upper 53 bits of each word, the images a byte of the upper 8.
    doubles = np.random.Generator(np.random.PCG64(42)).random(2 * 4 * 5 * 3)
    np.testing.assert_array_equal(images.ravel(), np.floor(doubles * 256))
    assert images.dtype == np.float32
    assert images.shape == (2, 4, 5, 3)


def test_golden_outputs_of_a_model_without_logits_are_its_outputs():
    image = keras.Input((2, 2, 1))
    model = keras.Model(image, keras.layers.Flatten()(image))
    kind, outputs = golden_outputs(model, 5)
    assert kind == "outputs"
    np.testing.assert_array_equal(outputs, golden_input((2, 2, 1), 5).reshape(2, 4))


def test_float16_rounds_tensors_of_rank_two_and_more(tiny_model, fields, tmp_path):
    card = zoo.save_checkpoint(tiny_model, tmp_path / "half", fields, storage="float16")
    arrays = load_file(tmp_path / "half" / "weights.safetensors")
    for variable in tiny_model.weights:
        exact = variable.numpy()
        expected = exact.astype("float16") if exact.ndim >= 2 else exact
        assert arrays[variable.path].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[variable.path], expected)
    loaded = zoo.load(tmp_path / "half")
    assert {variable.dtype for variable in loaded.weights} == {"float32"}
    _, before = golden_outputs(tiny_model, card.golden["seed"])
    _, after = golden_outputs(loaded, card.golden["seed"])
    assert 0 < np.abs(before - after).max() < 1e-2
    assert card.weights["logit_difference"] == pytest.approx(np.abs(before - after).max(), rel=1e-3)


def test_float16_that_moves_logits_too_far_is_refused(tiny_model, fields, tmp_path):
    kernel = tiny_model.get_layer("head_logits").kernel
    kernel.assign(kernel * 1000)
    with pytest.raises(ValueError, match=r"rebuilt from float16 storage, expected at most 0\.01") as error:
        zoo.save_checkpoint(tiny_model, tmp_path / "half", fields, storage="float16")
    assert one_line(error)
    assert os.listdir(tmp_path) == []


def test_values_beyond_float16_are_refused(tiny_model, fields, tmp_path):
    kernel = tiny_model.get_layer("conv1").kernel
    kernel.assign(kernel + 1e5)
    with pytest.raises(ValueError, match="received conv1/kernel with values that are not finite in float16"):
        zoo.save_checkpoint(tiny_model, tmp_path / "half", fields, storage="float16")
    assert os.listdir(tmp_path) == []


def test_a_card_that_describes_another_model_is_refused(tiny_model, fields, tmp_path):
    fields["build"]["arguments"]["classes"] = 3
    fields["classes"] = ["a", "b", "c"]
    with pytest.raises(ValueError, match="'head_logits/") as error:
        zoo.save_checkpoint(tiny_model, tmp_path / "other", fields)
    assert one_line(error)
    assert os.listdir(tmp_path) == []


def test_missing_weights_are_an_error(checkpoint):
    (checkpoint / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file, expected .* bytes with sha256") as error:
        zoo.load(checkpoint)
    assert one_line(error)


def test_short_weights_are_an_error(checkpoint):
    path = checkpoint / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    expected = f"received {len(content) - 4} bytes, expected {len(content)} bytes with sha256"
    with pytest.raises(ValueError, match=expected) as error:
        zoo.load(checkpoint)
    assert str(path) in str(error.value)
    assert one_line(error)


def test_altered_weights_are_an_error(checkpoint):
    path = checkpoint / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for read in (zoo.load, zoo.verify):
        with pytest.raises(ValueError, match=r"received .* bytes with sha256 \w{64}, expected") as error:
            read(checkpoint)
        assert str(path) in str(error.value)
        assert one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("bn1/beta"), "received no 'bn1/beta', expected every variable"),
        (lambda arrays: arrays.update(extra=np.zeros(3, "float32")), "received 'extra', expected only"),
        (
            lambda arrays: arrays.update({"bn1/beta": np.zeros((1, 16), "float32")}),
            r"received 'bn1/beta' of shape \(1, 16\), expected \(16,\)",
        ),
    ],
)
def test_each_variable_must_be_there_in_its_shape(checkpoint, change, message):
    rewrite(checkpoint, change)
    for classes in (None, 3):
        with pytest.raises(ValueError, match=message) as error:
            zoo.load(checkpoint, classes=classes)
        assert str(checkpoint / "weights.safetensors") in str(error.value)
        assert one_line(error)


def test_a_file_that_is_no_safetensors_is_named(tiny_model, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0no safetensors")
    before = [variable.numpy() for variable in tiny_model.weights]
    with pytest.raises(ValueError, match=r"weights\.safetensors: received a damaged file") as error:
        zoo.load_weights(tiny_model, tmp_path / "weights.safetensors")
    assert one_line(error)
    for variable, value in zip(tiny_model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_new_head_sits_on_the_pretrained_body(tiny_model, checkpoint):
    for classes, units in ((2, 1), (3, 3), (7, 7)):
        model = zoo.load(checkpoint, classes=classes)
        assert model.output_shape == (None, units)
        for layer in ("conv1", "bn1"):
            for mine, theirs in zip(model.get_layer(layer).weights, tiny_model.get_layer(layer).weights, strict=True):
                np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
        kernel = model.get_layer("head_logits").kernel.numpy()
        # Glorot's uniform distribution, not the published head and not zeros.
        assert 0 < np.abs(kernel).max() <= np.sqrt(6 / (16 + units))
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(IMAGES, np.array([0, 1, 6]), verbose=0)


@pytest.mark.parametrize("classes", [1, 0, 2.5, "3"])
def test_a_wrong_number_of_classes_is_refused(checkpoint, classes):
    with pytest.raises(ValueError, match="classes: received") as error:
        zoo.load(checkpoint, classes=classes)
    assert one_line(error)


def test_a_delta_holds_only_what_differs(tiny_model, fields, tmp_path):
    card = zoo.save_checkpoint(tiny_model, tmp_path / "delta", fields, delta=True)
    arrays = load_file(tmp_path / "delta" / "weights.safetensors")
    assert arrays.keys() == {"head_logits/kernel", "head_logits/bias"}
    assert card.weights["kind"] == "delta"
    norms = card.weights["backbone"].pop("kernel_norms")
    assert card.weights["backbone"] == {"name": "tiny", "weights": "imagenet"}
    assert norms.keys() == {
        "conv1/kernel",
        "conv1/bias",
        "bn1/gamma",
        "bn1/beta",
        "bn1/moving_mean",
        "bn1/moving_variance",
    }
    kernel = tiny_model.get_layer("conv1").kernel.numpy()
    assert norms["conv1/kernel"] == pytest.approx(np.sqrt((kernel.astype("float64") ** 2).sum()))
    expected = tiny_model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(zoo.load(tmp_path / "delta").predict(IMAGES, verbose=0), expected, atol=1e-6)
    assert zoo.load(tmp_path / "delta", classes=4).output_shape == (None, 4)
    assert zoo.verify(tmp_path / "delta").difference <= 1e-6


def test_one_changed_bit_of_the_backbone_is_stored(tiny_model, fields, tmp_path):
    gamma = tiny_model.get_layer("bn1").gamma
    gamma.assign(np.nextafter(gamma.numpy(), np.float32(9)))
    zoo.save_checkpoint(tiny_model, tmp_path / "delta", fields, delta=True)
    assert "bn1/gamma" in load_file(tmp_path / "delta" / "weights.safetensors")


def test_a_delta_never_lands_on_other_weights(tiny_model, fields, tmp_path, tiny, monkeypatch):
    from medzoo.zoo import builders

    zoo.save_checkpoint(tiny_model, tmp_path / "delta", fields, delta=True)
    build = builders.BUILDERS["tiny"]

    def other(factor):
        def build_other(**arguments):
            model = build(**arguments)
            kernel = model.get_layer("conv1").kernel
            kernel.assign(kernel * factor)
            return model

        return build_other

    monkeypatch.setitem(builders.BUILDERS, "tiny", other(1.002))
    with pytest.raises(ValueError, match=r"'conv1/kernel' has norm .*: the delta was made on other weights") as error:
        zoo.load(tmp_path / "delta")
    assert one_line(error)
    monkeypatch.setitem(builders.BUILDERS, "tiny", other(1.0005))
    zoo.load(tmp_path / "delta")


def test_the_share_of_the_backbone(tiny_model, tiny):
    # conv1 3*3*3*16 + 16, bn1 4*16, head 16 + 1
    body, head = 448 + 64, 17
    assert backbone_share(tiny_model, tiny["arguments"]) == pytest.approx(body / (body + head))


def test_verify_reports_what_it_compared(checkpoint):
    card = zoo.card(checkpoint)
    found = zoo.verify(checkpoint)
    assert found.name == "tiny-busi"
    assert found.sha256 == store.file_sha256(checkpoint / "weights.safetensors")
    assert found.difference <= 1e-6
    assert found.tolerance == card.golden["tolerance"]


def test_verify_finds_other_outputs(checkpoint):
    fields = json.loads((checkpoint / "card.json").read_text())
    fields["golden"]["logits"][1][0] += 2 * fields["golden"]["tolerance"]
    (checkpoint / "card.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"received logits that differ by .* from the golden ones") as error:
        zoo.verify(checkpoint)
    assert one_line(error)


def test_verify_finds_a_builder_that_changed(checkpoint, monkeypatch):
    from medzoo.zoo import builders

    build = builders.BUILDERS["tiny"]

    def changed(**arguments):
        model = build(**arguments)
        model.get_layer("bn1").epsilon = 0.5
        return model

    monkeypatch.setitem(builders.BUILDERS, "tiny", changed)
    with pytest.raises(ValueError, match="golden"):
        zoo.verify(checkpoint)


def test_verify_measures_in_full_precision(checkpoint):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert zoo.verify(checkpoint).difference <= 1e-6
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_weights_are_written_whole_or_not_at_all(tiny_model, tmp_path):
    path = tmp_path / "weights.safetensors"
    zoo.save_weights(tiny_model, path)
    before = path.read_bytes()
    code = (
        "import resource, signal\n"
        "import medzoo.zoo, keras\n"
        "model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name='dense')])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n"
        f"    medzoo.zoo.save_weights(model, {str(path)!r})\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[Errno 27] File too large: {str(path)!r}"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_two_variables_of_one_path_are_refused(tmp_path):
    class Twice(keras.layers.Layer):
        def build(self, shape):
            self.first = self.add_weight(shape=(), name="scale")
            self.second = self.add_weight(shape=(), name="scale")

        def call(self, x):
            return x * self.first * self.second

    image = keras.Input((2, 2, 1))
    with pytest.raises(ValueError, match="received two variables 'twice/scale'"):
        zoo.save_weights(keras.Model(image, Twice(name="twice")(image)), tmp_path / "weights.safetensors")


def test_a_real_delta_on_resnet18(imagenet, fields, tmp_path):
    from medzoo.zoo.builders import build

    description = {
        "builder": "classifier",
        "arguments": {
            "backbone": "resnet18",
            "input_shape": [64, 64, 3],
            "classes": 2,
            "surgery": [{"name": "add_drs"}],
        },
    }
    model = build(description, weights="imagenet")
    random = np.random.default_rng(1)
    for variable in model.weights:
        if "_drs" in variable.path:
            variable.assign(variable.numpy() + random.normal(0, 0.05, variable.shape))
    fields.update(build=description, input={"shape": [64, 64, 3], "range": [0, 255], "resize": "bilinear", "crop": 1.0})
    card = zoo.save_checkpoint(model, tmp_path / "delta", fields, delta=True)
    stored = load_file(tmp_path / "delta" / "weights.safetensors")
    assert all("_drs/" in name or name.startswith("head_logits/") for name in stored)
    assert card.weights["bytes"] < 100_000
    images = random.uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(zoo.load(tmp_path / "delta").predict(images, verbose=0), expected, atol=1e-6)


def test_jax_loads_verifies_and_saves_without_tensorflow(fields, tmp_path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    from medzoo.zoo.builders import build

    description = {
        "builder": "classifier",
        "arguments": {"backbone": "resnet18", "input_shape": [32, 32, 1], "classes": 2},
    }
    fields.update(build=description, input={"shape": [32, 32, 1], "range": [0, 255], "resize": "bilinear", "crop": 1.0})
    model = build(description)
    zoo.save_checkpoint(model, tmp_path / "saved", fields)
    code = (
        "import json, sys\n"
        "from medzoo import zoo\n"
        f"folder = {str(tmp_path)!r}\n"
        "model = zoo.load(folder + '/saved')\n"
        "import keras\n"
        "assert keras.backend.backend() == 'jax'\n"
        "assert model.predict(zoo.checkpoints.golden_input((32, 32, 1), 1), verbose=0).shape == (2, 1)\n"
        "found = zoo.verify(folder + '/saved')\n"
        f"zoo.save_checkpoint(model, folder + '/again', json.loads({json.dumps(fields)!r}))\n"
        "assert 'tensorflow' not in sys.modules\n"
        "print(found.difference)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    scale = max(1, np.abs(zoo.card(tmp_path / "saved").golden["logits"]).max())
    assert float(done.stdout) < 1e-4 * scale
    saved, again = (load_file(tmp_path / name / "weights.safetensors") for name in ("saved", "again"))
    assert saved.keys() == again.keys()
    for name, array in saved.items():
        np.testing.assert_array_equal(again[name], array)


PUBLISHED = sorted(path.parent for path in store.WEIGHTS.glob("*/card.json"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_checkpoints_give_their_golden_outputs(folder, request):
    if Card.read(folder / "card.json").weights["kind"] == "delta":
        request.getfixturevalue("imagenet")
    found = zoo.verify(folder.name)
    assert found.difference <= found.tolerance
