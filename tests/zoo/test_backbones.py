"""Backbones against keras.applications, a ResNet18 in plain NumPy and published parameter counts; and every way in
which weights can be wrong."""

import json

import h5py
import keras
import numpy as np
import pooch
import pytest
import safetensors.numpy
from keras.src.legacy.saving import legacy_h5_format
from medzoo.layers import PixelNormalization
from medzoo.zoo import backbones
from medzoo.zoo.backbones import Backbone, Source, backbone, groups, list_backbones, record, torchvision_name

SIZE = (64, 96)
# Output channels and trainable parameters. ResNet18: torchvision's 11,689,512 less the 513,000 of its dense layer;
# the others: what `summary()` of keras.applications prints without the top.
PUBLISHED = {
    "resnet18": (512, 11_176_512),
    "resnet50": (2048, 23_534_592),
    "resnet101": (2048, 42_552_832),
    "vgg16": (512, 14_714_688),
    "inceptionv3": (2048, 21_768_352),
}
# Inception-v3 pads nothing and would have no map left at `SIZE`.
SIZES = {"inceptionv3": (96, 160)}


def size_of(name):
    return SIZES.get(name, SIZE)


def pixels(*shape):
    return np.random.default_rng(1).uniform(0, 255, shape).astype("float32")


@pytest.fixture(scope="module", params=list_backbones())
def model(request):
    keras.utils.set_random_seed(0)
    return backbone(request.param, weights=None, input_shape=(*size_of(request.param), 3))


class TestEveryBackbone:
    def test_output(self, model):
        channels, parameters = PUBLISHED[model.name]
        height, width = size_of(model.name)
        y = model.predict(pixels(2, height, width, 3), verbose=0)
        # Inception-v3 at 96 x 160, by hand: 47, 45, 45, 22, 20, 9, 4, 1 and 79, 77, 77, 38, 36, 17, 8, 3.
        expected = (1, 3) if model.name == "inceptionv3" else (height // 32, width // 32)
        assert y.shape == (2, *expected, channels)
        assert np.isfinite(y).all()
        assert np.abs(y[0] - y[1]).max() > 0
        assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == parameters

    def test_grey_is_replicated(self, model):
        size = size_of(model.name)
        grey_model = backbone(model.name, weights=None, input_shape=(*size, 1))
        grey_model.set_weights(model.get_weights())
        grey = pixels(2, *size, 1)
        expected = model.predict(np.repeat(grey, 3, axis=-1), verbose=0)
        np.testing.assert_allclose(
            grey_model.predict(grey, verbose=0), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
        )

    def test_groups_hold_every_layer_with_weights_once_and_in_order(self, model):
        named = groups(model)
        assert list(named) == ["stem", "stage1", "stage2", "stage3", "stage4"]
        order = [name for listed in named.values() for name in listed]
        assert len(order) == len(set(order))
        weighted = {layer.name for layer in model.layers if layer.weights}
        assert weighted <= set(order)
        assert set(order) == {layer.name for layer in model.layers} - {"image", "pixels"}
        depth = [model.get_layer(listed[-1]).output.shape[1] for listed in named.values()]
        if model.name == "inceptionv3":
            assert depth == [22, 9, 9, 4, 1]
            return
        strides = (2, 4, 8, 16, 32) if model.name == "vgg16" else (4, 4, 8, 16, 32)
        assert depth == [SIZE[0] // stride for stride in strides]

    def test_blocks(self, model):
        found = record(model.name)
        additions = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Add)]
        assert len(additions) == sum(found.blocks)
        if not found.blocks:
            return
        last = backbones.match_layers([layer.name for layer in model.layers], [found.last_block])
        before = model.get_layer(found.before_last_block)
        # The last block is what lies behind that layer, and the network ends with it.
        names = [layer.name for layer in model.layers]
        assert set(names[names.index(before.name) + 1 :]) == set(last)
        assert model.get_layer(last[-1]).output is model.outputs[0]

    def test_raw_pixels(self, model):
        first = model.layers[1]
        assert isinstance(first, PixelNormalization)
        assert first.compute_dtype == "float32"
        whole = np.round(pixels(1, *size_of(model.name), 3))
        y = model.predict(whole, verbose=0)
        np.testing.assert_allclose(model.predict(whole.astype("uint8"), verbose=0), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "application"), [("resnet50", "ResNet50"), ("vgg16", "VGG16")])
def test_it_is_keras_applications_with_its_preprocessing(name, application, imagenet):
    """The preprocessing of keras.applications is in the network."""
    reference = getattr(keras.applications, application)(include_top=False, weights=None, input_shape=(*SIZE, 3))
    reference.load_weights(imagenet / f"{name}_imagenet_notop.weights.h5")
    image = pixels(2, *SIZE, 3)
    preprocess = getattr(keras.applications, name).preprocess_input
    expected = reference.predict(preprocess(image.copy()), verbose=0)
    assert np.abs(expected).max() > 1
    received = backbone(name, input_shape=(*SIZE, 3)).predict(image, verbose=0)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4)


class TestInceptionV3:
    """No ImageNet weights of it lie here: the official file's layout is written from keras.applications."""

    @pytest.fixture(scope="class")
    def reference(self):
        keras.utils.set_random_seed(3)
        model = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(96, 160, 3))
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):  # other than at the start, and apart from each other
                layer.moving_variance.assign(keras.random.uniform(layer.moving_variance.shape, 0.5, 1.5))
                layer.beta.assign(keras.random.normal(layer.beta.shape, 0, 0.3))
        return model

    @pytest.mark.parametrize("form", ["official", "keras"])
    def test_it_is_keras_applications_with_its_preprocessing(self, reference, form, tmp_path):
        if form == "official":  # the layout of the official .h5: layers by name, in their order
            file = tmp_path / "weights.h5"
            with h5py.File(file, "w") as group:
                legacy_h5_format.save_weights_to_hdf5_group(group, reference)
        else:
            file = tmp_path / "inception.weights.h5"
            reference.save_weights(file)
        image = pixels(2, 96, 160, 3)
        expected = reference.predict(keras.applications.inception_v3.preprocess_input(image.copy()), verbose=0)
        assert np.abs(expected).max() > 0.1
        received = backbone("inceptionv3", file, (96, 160, 3)).predict(image, verbose=0)
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)

    def test_layers_are_named_alike_however_many_there_were_before(self):
        again = [backbone("inceptionv3", None, (96, 96, 1)) for _ in range(2)]
        names = [[layer.name for layer in each.layers] for each in again]
        assert names[0] == names[1]
        assert {"stem_conv1", "stage2_mixed0", "stage3_mixed7", "stage4_mixed10"} <= set(names[0])
        paths = [[variable.path for variable in each.weights] for each in again]
        assert paths[0] == paths[1]

    def test_too_small(self):
        with pytest.raises(ValueError, match=r"input_shape: received \(64, 96, 1\), inceptionv3 takes 75 pixels"):
            backbone("inceptionv3", None, (64, 96, 1))


class TestMean:
    """Section 3.1.2 of Shen and others: one grey value is subtracted."""

    @pytest.mark.parametrize("name", ["resnet18", "vgg16"])
    def test_one_grey_value_in_place_of_imagenets(self, name):
        plain = backbone(name, weights=None, input_shape=(32, 32, 1))
        shifted = backbone(name, weights=None, input_shape=(32, 32, 1), mean=50)
        grey = np.full((1, 32, 32, 1), 80.0, "float32")
        first = [keras.ops.convert_to_numpy(model.get_layer("pixels")(grey))[0, 0, 0] for model in (plain, shifted)]
        deviation = {"resnet18": [0.229 * 255, 0.224 * 255, 0.225 * 255], "vgg16": [1, 1, 1]}[name]
        mean = {"resnet18": [0.485 * 255, 0.456 * 255, 0.406 * 255], "vgg16": [103.939, 116.779, 123.68]}[name]
        np.testing.assert_allclose(first[0], (80 - np.array(mean)) / deviation, rtol=1e-5)
        np.testing.assert_allclose(first[1], 30 / np.array(deviation), rtol=1e-5)

    def test_the_weights_are_imagenets_all_the_same(self, imagenet):
        plain, shifted = (backbone("resnet18", input_shape=(32, 32, 3), mean=mean) for mean in (None, 12.5))
        for mine, theirs in zip(shifted.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)

    @pytest.mark.parametrize("mean", [-1, 255.5, float("nan"), True, "50", (1, 2, 3)])
    def test_anything_else_is_refused(self, mean):
        with pytest.raises(ValueError, match=r"mean: received .*, expected one grey value from 0 to 255") as error:
            backbone("resnet18", weights=None, mean=mean)
        assert "\n" not in str(error.value)


# A ResNet18 in NumPy, from torchvision's `models/resnet.py` and its names; channels first. On the weights below and on
# the real ones it agreed with the same written in torch.nn.functional (torch 2.13) to 1e-7 of the largest output.


def convolve(x, kernel, stride, padding):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=True)


def normalize(x, state, name):
    weight, bias, mean, variance = (
        state[f"{name}.{leaf}"][:, None, None] for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def resnet18_by_hand(images, state):
    """Feature map (n, h, w, 512) of images (n, height, width, 3) in [0, 255]."""
    x = (images.astype("float64") / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = x.transpose(0, 3, 1, 2)
    x = np.maximum(normalize(convolve(x, state["conv1.weight"], 2, 3), state, "bn1"), 0)
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(-2, -1))
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = np.maximum(normalize(convolve(x, state[f"{name}.conv1.weight"], stride, 1), state, f"{name}.bn1"), 0)
            y = normalize(convolve(y, state[f"{name}.conv2.weight"], 1, 1), state, f"{name}.bn2")
            if stride == 2:
                x = normalize(convolve(x, state[f"{name}.downsample.0.weight"], 2, 0), state, f"{name}.downsample.1")
            x = np.maximum(x + y, 0)
    return x.transpose(0, 2, 3, 1)


def random_resnet18():
    """A state with torchvision's names and shapes; head and batch counters as its files have them."""
    random = np.random.default_rng(4)
    state = {"fc.weight": random.normal(size=(1000, 512)), "fc.bias": np.zeros(1000)}

    def add(convolution, norm, shape):
        state[f"{convolution}.weight"] = random.normal(0, np.sqrt(1 / np.prod(shape[1:])), shape)
        state[f"{norm}.num_batches_tracked"] = np.array(7)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{leaf}"] = random.uniform(0.5, 1.5, shape[0])

    add("conv1", "bn1", (64, 3, 7, 7))
    width = 64
    for layer, filters in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            add(f"{name}.conv1", f"{name}.bn1", (filters, width, 3, 3))
            add(f"{name}.conv2", f"{name}.bn2", (filters, filters, 3, 3))
            if width != filters:
                add(f"{name}.downsample.0", f"{name}.downsample.1", (filters, width, 1, 1))
            width = filters
    return {name: array.astype("int64" if array.ndim == 0 else "float32") for name, array in state.items()}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_resnet18_is_torchvisions(suffix, tmp_path):
    state = random_resnet18()
    path = tmp_path / f"weights{suffix}"
    np.savez(path, **state) if suffix == ".npz" else safetensors.numpy.save_file(state, path)
    image = pixels(1, *SIZE, 3)
    expected = resnet18_by_hand(image, state)
    received = backbone("resnet18", weights=path, input_shape=(*SIZE, 3)).predict(image, verbose=0)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_resnet18_with_imagenet_weights(imagenet):
    with np.load(imagenet / "resnet18_imagenet_notop_torch_names.npz") as archive:
        state = {name: archive[name].astype("float64") for name in archive.files}
    image = pixels(1, *SIZE, 3)
    expected = resnet18_by_hand(image, state)
    received = backbone("resnet18", input_shape=(*SIZE, 3)).predict(image, verbose=0)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("conv1_conv/kernel", "conv1.weight"),
        ("conv1_bn/gamma", "bn1.weight"),
        ("conv1_bn/moving_variance", "bn1.running_var"),
        ("conv2_block1_1_conv/kernel", "layer1.0.conv1.weight"),
        ("conv2_block2_2_bn/beta", "layer1.1.bn2.bias"),
        ("conv3_block1_0_conv/kernel", "layer2.0.downsample.0.weight"),
        ("conv3_block1_0_bn/moving_mean", "layer2.0.downsample.1.running_mean"),
        ("conv5_block2_2_bn/gamma", "layer4.1.bn2.weight"),
    ],
)
def test_torchvision_names(ours, theirs):
    assert torchvision_name(ours) == theirs


# ---------------------------------------------------------------------------------------------------------------------
# Weight files, on a network of two convolutions

CONVOLUTION = {"conv1.weight": (4, 3, 3, 3), "layer1.0.conv1.weight": (2, 4, 3, 3)}
NORM = {f"{name}.{leaf}": (width,) for name, width in (("bn1", 4), ("layer1.0.bn1", 2)) for leaf in ("weight", "bias")}
NORM |= {f"{name}.running_{leaf}": (w,) for name, w in (("bn1", 4), ("layer1.0.bn1", 2)) for leaf in ("mean", "var")}


def build_small(tensor):
    x = tensor
    for name, filters in (("conv1", 4), ("conv2_block1_1", 2)):
        x = keras.layers.Conv2D(filters, 3, use_bias=False, name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    return keras.Model(keras.utils.get_source_inputs(tensor)[0], x)


@pytest.fixture
def state():
    random = np.random.default_rng(2)
    return {name: random.uniform(0.5, 1, shape).astype("float32") for name, shape in (CONVOLUTION | NORM).items()}


@pytest.fixture
def small(state, tmp_path, monkeypatch):
    """Registers the backbone `small`, its weights in the folder of `MEDZOO_WEIGHTS`, and cuts off the network."""
    folder = tmp_path / "weights"
    folder.mkdir()
    np.savez(folder / "small.npz", **state)
    safetensors.numpy.save_file(state, folder / "official.safetensors")
    digest = pooch.file_hash(folder / "official.safetensors")
    source = Source(("small.npz", "official.safetensors"), "https://example.org/w", f"sha256:{digest}", "MIT")
    names = {"conv1_conv/kernel": "conv1.weight", "conv1_bn/gamma": "bn1.weight", "conv1_bn/beta": "bn1.bias"}
    norms = {path: float(np.sqrt((state[name].astype("float64") ** 2).sum())) for path, name in names.items()}
    (tmp_path / "norms.json").write_text(json.dumps({"small": norms}))
    monkeypatch.setattr(backbones, "NORMS", tmp_path / "norms.json")
    grey = {"mean": [0, 0, 0], "deviation": [1, 1, 1]}
    small = Backbone(build_small, grey, backbones.RESNET_GROUPS, (1,), source, torchvision=True)
    monkeypatch.setitem(backbones.BACKBONES, "small", small)
    monkeypatch.setenv("MEDZOO_WEIGHTS", str(folder))

    def cut_off(*args, **kwargs):
        raise ConnectionError("Network is unreachable\nand more")

    monkeypatch.setattr(pooch, "retrieve", cut_off)
    return folder


def build(weights="imagenet", name="small"):
    return backbone(name, weights=weights, input_shape=(8, 8, 3))


def refusal(kind, *args, **kwargs):
    with pytest.raises(kind) as error:
        build(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_holds(model, state):
    kernel = keras.ops.convert_to_numpy(model.get_layer("conv2_block1_1_conv").kernel)
    np.testing.assert_array_equal(kernel, state["layer1.0.conv1.weight"].transpose(2, 3, 1, 0))
    mean = keras.ops.convert_to_numpy(model.get_layer("conv1_bn").moving_mean)
    np.testing.assert_array_equal(mean, state["bn1.running_mean"])


class TestImageNetWeights:
    def test_from_the_folder(self, small, state):
        assert_holds(build(), state)

    def test_official_file_when_it_is_alone(self, small, state):
        (small / "small.npz").unlink()
        assert_holds(build(), state)

    def test_as_float16(self, small, state):
        np.savez(small / "small.npz", **{name: array.astype("float16") for name, array in state.items()})
        build()

    def test_official_file_altered(self, small, state):
        (small / "small.npz").unlink()
        state["bn1.bias"][0] += 1
        safetensors.numpy.save_file(state, small / "official.safetensors")
        message = refusal(ValueError)
        assert "official.safetensors: sha256 is" in message
        assert "cut off or altered" in message

    def test_others_of_the_same_shapes(self, small, state):
        state["conv1.weight"] *= 1.1
        np.savez(small / "small.npz", **state)
        assert "small.npz: not the ImageNet weights of small: conv1_conv/kernel has norm" in refusal(ValueError)

    def test_other_batch_norm(self, small, state):
        state["bn1.weight"][:] = 0
        np.savez(small / "small.npz", **state)
        assert "conv1_bn/gamma has norm 0, expected" in refusal(ValueError)

    def test_batch_norm_statistics_estimated_anew(self, small, state):
        state["bn1.running_mean"] += 0.1
        np.savez(small / "small.npz", **state)
        assert_holds(build(), state)

    def test_nothing_known_of_them(self, small, monkeypatch, tmp_path):
        (tmp_path / "norms.json").write_text("{}")
        assert "small.npz: cannot be verified, expected the official file official.safetensors" in refusal(ValueError)

    def test_no_numbers(self, small, state):
        state["conv1.weight"][0, 0, 0, 0] = np.nan
        np.savez(small / "small.npz", **state)
        assert "not the ImageNet weights" in refusal(ValueError)

    def test_no_folder(self, small, monkeypatch):
        monkeypatch.setenv("MEDZOO_WEIGHTS", str(small / "small.npz"))
        assert refusal(FileNotFoundError).endswith("small.npz: no such folder")

    def test_at_hand_without_a_download(self, small, monkeypatch, tmp_path):
        assert backbones.imagenet_at_hand("small") == small / "small.npz"
        monkeypatch.delenv("MEDZOO_WEIGHTS")
        monkeypatch.setenv("MEDZOO_CACHE", str(tmp_path / "cache"))
        assert backbones.imagenet_at_hand("small") is None
        cached = tmp_path / "cache" / "imagenet" / "official.safetensors"
        cached.parent.mkdir(parents=True)
        cached.write_bytes((small / "official.safetensors").read_bytes())
        assert backbones.imagenet_at_hand("small") == cached
        cached.write_bytes(cached.read_bytes()[:-1])
        assert backbones.imagenet_at_hand("small") is None

    def test_nowhere_to_be_had(self, small):
        for file in small.iterdir():
            file.unlink()
        message = refusal(FileNotFoundError)
        for part in (
            "small.npz or official.safetensors",
            str(small),
            "https://example.org/w",
            "Network is unreachable",
        ):
            assert part in message

    def test_error_without_a_word(self, small, monkeypatch):
        def silent(*args, **kwargs):
            raise TimeoutError

        monkeypatch.setattr(pooch, "retrieve", silent)
        monkeypatch.delenv("MEDZOO_WEIGHTS")
        assert "TimeoutError" in refusal(FileNotFoundError)

    def test_official_route(self, small, state, monkeypatch):
        """Downloaded and verified by pooch, into the cache."""
        asked = {}

        def retrieve(url, **arguments):
            asked.update(arguments, url=url)
            return str(small / "official.safetensors")

        monkeypatch.setattr(pooch, "retrieve", retrieve)
        monkeypatch.delenv("MEDZOO_WEIGHTS")
        assert_holds(build(), state)
        assert asked["url"] == "https://example.org/w"
        assert asked["known_hash"] == f"sha256:{pooch.file_hash(small / 'official.safetensors')}"


class TestWeightFiles:
    def test_none_is_random(self, small):
        first, second = build(None), build(None)
        assert (first.get_weights()[0] != second.get_weights()[0]).any()

    def test_keras_file(self, small, state, tmp_path):
        saved = build()
        saved.save_weights(tmp_path / "mine.weights.h5")
        assert_holds(build(tmp_path / "mine.weights.h5"), state)
        assert_holds(build(str(tmp_path / "mine.weights.h5")), state)

    def test_missing(self, small, tmp_path):
        assert refusal(FileNotFoundError, tmp_path / "none.h5").endswith("none.h5: no such weights file")

    def test_wrong_extension(self, small, tmp_path):
        (tmp_path / "weights.pth").write_bytes(b"")
        assert "weights.pth: received a .pth file, expected .h5, .safetensors or .npz" in refusal(
            ValueError, tmp_path / "weights.pth"
        )

    @pytest.mark.parametrize("name", ["cut.weights.h5", "cut.npz", "cut.safetensors"])
    @pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
    def test_truncated(self, small, tmp_path, name, share):
        build().save_weights(tmp_path / "cut.weights.h5")
        content = {
            "cut.weights.h5": tmp_path / "cut.weights.h5",
            "cut.npz": small / "small.npz",
            "cut.safetensors": small / "official.safetensors",
        }[name].read_bytes()
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        assert name in refusal(ValueError, tmp_path / name)

    @pytest.mark.parametrize("name", ["text.h5", "text.weights.h5", "text.npz", "text.safetensors"])
    def test_something_else(self, small, tmp_path, name):
        (tmp_path / name).write_text("<html>404 Not Found</html>" * 100)
        assert name in refusal(ValueError, tmp_path / name)

    @pytest.mark.parametrize("name", ["other.h5", "other.weights.h5"])
    def test_hdf5_of_something_else(self, small, tmp_path, name):
        import h5py

        with h5py.File(tmp_path / name, "w") as file:
            file["data"] = np.zeros(3)
        assert name in refusal(ValueError, tmp_path / name)

    def test_keras_file_of_another_network(self, small, tmp_path):
        image = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(5, 3, use_bias=False)(image)
        other = keras.Model(image, keras.layers.BatchNormalization()(x))
        other.save_weights(tmp_path / "other.weights.h5")
        assert "not a whole Keras weights file of small" in refusal(ValueError, tmp_path / "other.weights.h5")

    @pytest.mark.parametrize("suffix", ["npz", "safetensors"])
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: state.pop("bn1.bias"), r"1 missing \(bn1\.bias\), 0 unknown"),
            (lambda state: state.update(extra=np.zeros(2, "float32")), r"0 missing \(\), 1 unknown \(extra\)"),
            (
                lambda state: state.update({"conv1.weight": np.zeros((4, 3, 5, 5), "float32")}),
                r"conv1\.weight has shape \(5, 5, 3, 4\), expected \(3, 3, 3, 4\)",
            ),
            (
                lambda state: state.update({"bn1.bias": np.zeros(5, "float32")}),
                r"bn1\.bias has shape \(5,\), expected \(4,\)",
            ),
        ],
    )
    def test_other_variables(self, small, state, tmp_path, suffix, change, message):
        change(state)
        path = tmp_path / f"other.{suffix}"
        np.savez(path, **state) if suffix == "npz" else safetensors.numpy.save_file(state, path)
        with pytest.raises(ValueError, match=rf"other\.{suffix}: .*{message}") as error:
            build(path)
        assert "\n" not in str(error.value)

    def test_head_and_counters_are_left_out(self, small, state, tmp_path):
        state |= {"fc.weight": np.zeros((3, 2)), "bn1.num_batches_tracked": np.array(3)}
        np.savez(tmp_path / "whole.npz", **state)
        assert_holds(build(tmp_path / "whole.npz"), state)

    def test_torchvision_file_for_a_keras_network(self, small):
        assert "expected a Keras weights file (.h5)" in refusal(ValueError, small / "small.npz", name="resnet50")

    def test_unknown_backbone(self):
        assert "unknown backbone 'resnet5': did you mean 'resnet50'?" in refusal(ValueError, name="resnet5")

    def test_name_is_taken(self):
        with pytest.raises(ValueError, match="'resnet18' is registered already"):
            backbones.register_backbone("resnet18", record("resnet50"))
