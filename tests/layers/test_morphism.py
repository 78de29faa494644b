"""The surgery of MorphHR against convolutions by scipy, a slow Monte Carlo, and the networks that it operates on."""

import functools
import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from medzoo import zoo
from medzoo.layers import add_drs, factor_kernel, morph_stem, morphism, resize_network, size_before_morphing, split_at
from medzoo.zoo.builders import attach_head
from scipy.signal import convolve2d

L = keras.layers


def random_weights(model, seed=0):
    """Weights and batch-norm statistics that are not those of a fresh network, of a size that keeps signals alive."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            random_weights(layer, seed + 1)
        elif isinstance(layer, L.BatchNormalization):
            for variable in layer.weights:
                variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(random.uniform(-1, 1, layer.bias.shape))
    return model


def pixels(*shape, seed=1):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def call(model, x, training=False):
    return keras.ops.convert_to_numpy(model(x, training=training)).astype("float32")


def small(
    size=(21, 18, 3), kernel=7, strides=2, padding="same", filters=24, norm=True, activation=None, pad=0, **kwargs
):
    """A stem and one layer behind it that sees what the stem's borders are."""
    image = keras.Input(size, name="image")
    x = L.ZeroPadding2D(pad, name="pad")(image) if pad else image
    x = L.Conv2D(filters, kernel, strides, padding=padding, activation=activation, name="first", **kwargs)(x)
    if norm:
        x = L.BatchNormalization(name="first_bn")(x)
    x = L.Conv2D(4, 3, padding="same", name="second")(x)
    return random_weights(keras.Model(image, x, name="small"))


def smooth(count, size, channels=3, seed=0):
    """Blurred noise in [0, 255]: neighbouring pixels are alike, as in photographs."""
    noise = np.random.default_rng(seed).normal(size=(count, size, size, channels))
    spectrum = np.fft.fft2(noise, axes=(1, 2))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))[None, :, :, None]
    image = np.fft.ifft2(spectrum / (frequency + 0.5 / size) ** 1.25, axes=(1, 2)).real
    image = image.mean(axis=-1, keepdims=True) + 0.2 * image
    return (128 + 45 * (image - image.mean()) / image.std()).clip(0, 255).astype("float32")


def real_images(shared, size):
    from PIL import Image

    paths = sorted((shared / "data" / "dtd").rglob("*.jpg"))[::150]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((size, size)), "float32") for path in paths])


def halved(images):
    count, height, width, channels = images.shape
    return images.reshape(count, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def composed(first, second):
    """F1 * F2 of equation (2), by scipy in double precision."""
    first, second = first.astype("float64"), second.astype("float64")
    return np.stack(
        [
            np.stack(
                [
                    sum(
                        convolve2d(first[:, :, i, channel], second[:, :, channel, j])
                        for channel in range(first.shape[3])
                    )
                    for j in range(second.shape[3])
                ],
                axis=-1,
            )
            for i in range(first.shape[2])
        ],
        axis=2,
    )


def padded(kernel, size):
    before = [(long - short) // 2 for long, short in zip(size, kernel.shape, strict=False)]
    result = np.zeros((*size, *kernel.shape[2:]))
    result[before[0] : before[0] + kernel.shape[0], before[1] : before[1] + kernel.shape[1]] = kernel
    return result


FACTORS = [
    # G, K1, K2, C_l
    ((7, 7, 3, 16), (5, 5), (3, 3), 24),
    ((5, 5, 3, 16), (3, 3), (3, 3), 16),
    ((3, 3, 3, 16), (3, 3), (3, 3), 16),
    ((4, 4, 3, 16), (3, 3), (3, 3), 16),
    ((1, 1, 3, 16), (3, 3), (3, 3), 16),
    ((7, 3, 2, 8), (5, 3), (3, 3), 12),
    ((6, 5, 1, 8), (4, 3), (3, 3), 8),
    ((5, 5, 16, 2), (3, 3), (3, 3), 8),  # the unknowns lie in F1
]


class TestFactors:
    @pytest.mark.parametrize("downsample", [None, "stride", "maxpool"])
    @pytest.mark.parametrize(("shape", "first_size", "second_size", "channels"), FACTORS)
    def test_equation_2(self, shape, first_size, second_size, channels, downsample):
        kernel = np.random.default_rng(0).normal(size=shape)
        first, second = factor_kernel(kernel, first_size, second_size, channels, downsample)
        assert first.dtype == second.dtype == np.float32
        assert first.shape == (*first_size, shape[2], channels)
        assert second.shape == (*second_size, channels, shape[3])
        joint = tuple(a + b - 1 for a, b in zip(first_size, second_size, strict=True))
        np.testing.assert_allclose(composed(first, second), padded(kernel, joint), atol=1e-6 * np.abs(kernel).max())

    @pytest.mark.parametrize("channels", [24, 30, 64, 100])
    def test_first_factor_is_well_conditioned(self, channels):
        """Orthonormal filters; of more than 75 the taps are, up to one factor."""
        first, second = factor_kernel(np.random.default_rng(0).normal(size=(7, 7, 3, 8)), (5, 5), (3, 3), channels)
        flat = first.reshape(75, -1)
        assert np.linalg.cond(flat) < 1 + 1e-5
        assert np.linalg.matrix_rank(flat) == min(75, flat.shape[1])
        assert 0.02 < np.sqrt(np.mean(second**2)) < 2

    @pytest.mark.parametrize("channels", [32, 48, 64, 96])
    def test_all_filters_answer_alike_to_natural_images(self, channels):
        first, _ = factor_kernel(np.ones((7, 7, 3, 8)), (5, 5), (3, 3), channels)
        patches = np.lib.stride_tricks.sliding_window_view(smooth(8, 64), (5, 5), axis=(1, 2))
        answers = np.einsum("nhwcij,ijcl->nhwl", patches, first)
        variances = answers.var(axis=(0, 1, 2))
        assert variances.max() / variances.min() < 1.6

    def test_numbers_of_the_paper(self):
        """max(4800, 36864) >= 9408; the printed right-hand side would be 64 * 64 * 49 and refuse it."""
        assert max(64 * 3 * 25, 64 * 64 * 9) == 36864 >= 64 * 3 * 49 == 9408
        assert max(4800, 36864) < 64 * 64 * 49 == 200_704
        morphism.check_condition((7, 7, 3, 64), (5, 5), (3, 3), 64)

    def test_seed_decides(self):
        kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 16))
        one, same, other = (factor_kernel(kernel, (3, 3), (3, 3), 16, "stride", seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one[0], same[0])
        np.testing.assert_array_equal(one[1], same[1])
        assert np.abs(one[0] - other[0]).max() > 0.01

    @pytest.mark.parametrize("shape", [(7, 7, 3, 64), (3, 3, 3, 64), (5, 5, 16, 2)])
    def test_channels_too_few_and_enough(self, shape):
        first_size = tuple(max(side - 2, 3) for side in shape[:2])
        with pytest.raises(ValueError, match="expected at least") as error:
            factor_kernel(np.ones(shape), first_size, (3, 3), 1)
        assert "\n" not in str(error.value)
        needed = int(str(error.value).split("expected at least ")[1].split()[0])
        with pytest.raises(ValueError, match=rf"expected at least {needed} channels"):
            morphism.check_condition(shape, first_size, (3, 3), needed - 1)
        kernel = np.random.default_rng(0).normal(size=shape)
        first, second = factor_kernel(kernel, first_size, (3, 3), needed)
        joint = tuple(side + 2 for side in first_size)
        np.testing.assert_allclose(composed(first, second), padded(kernel, joint), atol=1e-4)

    def test_equation_3_is_not_enough_for_one_input_channel(self):
        """27 unknowns for 25 equations, but f1 * f2 - f2 * f1 = 0 and its like take three of them away."""
        kernel = np.random.default_rng(0).normal(size=(5, 3, 1, 8))
        morphism.check_condition(kernel.shape, (3, 3), (3, 3), 3)
        with pytest.raises(ValueError, match="without a solution, expected more than 3 channels"):
            factor_kernel(kernel, (3, 3), (3, 3), 3)
        first, second = factor_kernel(kernel, (3, 3), (3, 3), 4)
        np.testing.assert_allclose(composed(first, second), padded(kernel, (5, 5)), atol=1e-5)

    def test_kernels_that_do_not_reach(self):
        with pytest.raises(ValueError, match="kernels of 3x3 and 3x3 reach over 5x5 pixels, expected at least the 7x7"):
            factor_kernel(np.ones((7, 7, 3, 64)), (3, 3), (3, 3), 64)

    @pytest.mark.parametrize("downsample", ["stride", "maxpool"])
    def test_freedom_is_used_for_the_doubled_image(self, downsample):
        """The map of the new stem on sampled images is nearer to that of the old one on the images at half the size
        than with the smallest F2. One output, placed by hand: windows with the same middle, to half a pixel."""
        kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
        images = smooth(400, 16, 2)
        small_images = halved(images)
        target = np.einsum("nijc,ijco->no", small_images[:, 2:5, 2:5], kernel)  # pixels 4 to 9 of the doubled image
        errors = {}
        for name, option in (("smallest", None), ("best", downsample)):
            first, second = factor_kernel(kernel, (3, 3), (3, 3), 16, option)
            reach = 3 if downsample == "stride" else 6
            start = 4 + (6 - (7 if downsample == "stride" else 8)) // 2
            maps = np.zeros((len(images), reach, reach, 16))
            for row in range(reach):
                for column in range(reach):
                    step = 2 if downsample == "stride" else 1
                    top, left = start + step * row, start + step * column
                    window = images[:, top : top + 3, left : left + 3]
                    maps[:, row, column] = np.einsum("nijc,ijcl->nl", window, first)
            if downsample == "maxpool":  # for the mean of four, which is what the least squares assume
                maps = maps.reshape(len(images), 3, 2, 3, 2, 16).mean(axis=(2, 4))
            answers = np.einsum("nijl,ijlo->no", maps, second)
            errors[name] = np.mean((answers - target) ** 2)
        assert errors["best"] < 0.7 * errors["smallest"]


@functools.cache
def network_of(name):
    if name in ("resnet18", "resnet50"):
        return random_weights(zoo.backbone(name, weights=None, input_shape=(64, 49, 1)))
    if name == "resnet101":
        return random_weights(zoo.backbone(name, weights=None, input_shape=(33, 32, 3)))
    if name == "vgg16":
        model = keras.applications.VGG16(include_top=False, weights=None, input_shape=(33, 47, 3))
    else:
        model = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=(79, 76, 3))
    return random_weights(model)


def stem_and_output(model, morphed_rounds=0):
    """A model that gives the map behind the first convolution and the network's output."""
    convolution = next(layer for layer in model.layers if isinstance(layer, L.Conv2D))
    name = convolution.name
    if morphed_rounds:
        # X_morph1_morph1 ... : the second factor of the first round is the one that stands where the old layer stood
        base = name[: -len("_morph1" * morphed_rounds)]
        name = f"{base}_morph2"
    return keras.Model(model.inputs[0], [model.get_layer(name).output, model.outputs[0]])


def assert_alike(received, expected, tolerance=1e-4):
    """At every pixel, relative to the largest value of the map."""
    for mine, theirs in zip(received, expected, strict=True):
        mine, theirs = keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(theirs)
        assert mine.shape == theirs.shape
        assert theirs.std() > 0
        assert np.abs(mine - theirs).max() <= tolerance * np.abs(theirs).max()


class TestSameFunction:
    @pytest.mark.parametrize(
        ("name", "rounds"), [("resnet18", 3), ("resnet50", 2), ("resnet101", 1), ("vgg16", 2), ("inception_v3", 1)]
    )
    def test_known_networks(self, name, rounds):
        model = network_of(name)
        x = pixels(1, *model.input_shape[1:]) - (0 if "resnet" in name else 128)
        morphed = morph_stem(model, rounds, downsample=None)
        assert morphed.count_params() > model.count_params()
        assert_alike(stem_and_output(morphed, rounds)(x), stem_and_output(model)(x))

    @pytest.mark.parametrize("name", ["resnet18", "resnet50"])
    def test_imagenet_weights_on_a_real_image(self, name, imagenet, shared):
        from PIL import Image

        path = next((shared / "data" / "dtd").rglob("*.jpg"))
        x = np.asarray(Image.open(path).convert("RGB").resize((96, 96)), "float32")[None]
        model = zoo.backbone(name, input_shape=(96, 96, 3))
        assert_alike(stem_and_output(morph_stem(model, downsample=None), 1)(x), stem_and_output(model)(x))

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"size": (20, 17, 1)},
            {"kernel": 7, "padding": "valid"},
            {"kernel": (5, 3), "strides": 1},
            {"kernel": 4, "strides": 3, "norm": False},
            {"kernel": 1, "strides": 2},
            {"kernel": 3, "padding": "valid", "pad": 1, "activation": "relu", "norm": False},
            {"size": (None, None, 3), "strides": 1},
            {"size": (None, None, 3), "padding": "valid", "pad": 3},
        ],
    )
    @pytest.mark.parametrize("rounds", [1, 2])
    def test_users_networks(self, options, rounds):
        model = small(filters=32, **options)
        x = pixels(2, *(side or 19 for side in model.input_shape[1:]))
        assert_alike(
            stem_and_output(morph_stem(model, rounds, None), rounds)(x), stem_and_output(model)(x), tolerance=2e-5
        )

    def test_network_nested_in_a_model(self):
        inner = small((None, None, 3), strides=1)
        image = keras.Input((20, 20, 3))
        model = keras.Model(image, L.GlobalMaxPooling2D()(inner(L.Rescaling(1 / 50)(image))))
        morphed = morph_stem(model, downsample=None)
        assert morphed.get_layer("small").get_layer("first_morph2").filters == 24
        assert_alike([call(morphed, pixels(2, 20, 20, 3))], [call(model, pixels(2, 20, 20, 3))])

    def test_bypassed_convolution(self):
        image = keras.Input((16, 16, 3))
        x = L.Conv2D(16, 3, padding="same", name="first")(image)
        model = random_weights(keras.Model(image, L.Concatenate(name="join")([image, x])))
        x = pixels(1, 16, 16, 3)
        assert_alike([call(morph_stem(model, downsample=None), x)], [call(model, x)])
        with pytest.raises(ValueError, match="layer 'join' receives tensors from before and from behind") as error:
            morph_stem(model)
        assert "\n" not in str(error.value)

    def test_network_of_keras_hub(self):
        hub = pytest.importorskip("keras_hub")
        model = hub.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 64],
            stackwise_num_blocks=[1, 1],
            stackwise_num_strides=[1, 2],
            block_type="basic_block",
            image_shape=(48, 40, 3),
        )
        random_weights(model)
        x = pixels(1, 48, 40, 3)
        assert_alike([call(morph_stem(model, 2, downsample=None), x)], [call(model, x)])
        assert morph_stem(model).input_shape == (None, 96, 80, 3)
        assert morph_stem(model).output_shape == model.output_shape

    def test_zeros_stay_zeros(self):
        model = small()
        model.get_layer("first").kernel.assign(np.zeros((7, 7, 3, 24)))
        x = pixels(1, 21, 18, 3)
        np.testing.assert_allclose(call(morph_stem(model, downsample=None), x), call(model, x), atol=1e-5)


class TestTwiceTheSize:
    @pytest.mark.parametrize("downsample", ["stride", "maxpool"])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"padding": "valid"},
            {"padding": "valid", "pad": 3},
            {"kernel": 3, "strides": 1, "norm": False},
            {"kernel": 4, "strides": 3},
            {"kernel": (5, 3), "padding": "valid", "pad": 1},
        ],
    )
    def test_maps_keep_their_size(self, downsample, options):
        model = small(**options)
        morphed = morph_stem(model, 2, downsample)
        assert morphed.input_shape == (None, 84, 72, 3)
        for layer in model.layers[model.layers.index(model.get_layer("first")) + 1 :]:
            assert morphed.get_layer(layer.name).output.shape == layer.output.shape
        assert call(morphed, pixels(1, 84, 72, 3)).shape[1:] == model.output_shape[1:]

    @pytest.mark.parametrize("name", ["resnet18", "vgg16", "inception_v3"])
    def test_known_networks(self, name):
        model = network_of(name)
        morphed = morph_stem(model)
        height, width, channels = model.input_shape[1:]
        assert morphed.input_shape == (None, 2 * height, 2 * width, channels)
        before = {layer.name: layer for layer in model.layers if not isinstance(layer, L.InputLayer)}
        after = {layer.name: layer for layer in morphed.layers}
        (convolution,) = before.keys() - after.keys()
        assert {f"{convolution}_morph1", f"{convolution}_morph2"} < after.keys()
        for name in list(before)[list(before).index(convolution) + 1 :]:
            assert after[name].output.shape == before[name].output.shape

    @pytest.mark.parametrize("downsample", ["stride", "maxpool"])
    def test_shift_by_two_pixels_is_a_shift_by_one(self, downsample):
        morphed = morph_stem(small((24, 24, 3), strides=1), 1, downsample)
        x = pixels(1, 52, 52, 3)
        one, other = call(morphed, x[:, :48, :48]), call(morphed, x[:, 2:50, 4:52])
        np.testing.assert_allclose(one[:, 9:-5, 10:-5], other[:, 8:-6, 8:-7], atol=1e-3 * np.abs(one).max())

    @pytest.mark.parametrize("padding", ["same", "valid"])
    def test_a_spot_stays_where_it_is(self, padding):
        """The centre of gravity of a blurred spot lies on the map of the doubled network where it lay on the old."""
        model = small((24, 24, 1), kernel=5, strides=1, padding=padding, norm=False)
        window = np.hanning(7)[1:-1]
        model.get_layer("first").set_weights(
            [np.repeat(np.outer(window, window)[:, :, None, None], 24, 3), np.zeros(24)]
        )
        rows, columns = np.mgrid[:48, :48]
        spot = np.exp(-((rows - 20.5) ** 2 + (columns - 26.5) ** 2) / 50).astype("float32")[None, :, :, None]

        def centre(model, name, image):
            maps = call(keras.Model(model.inputs[0], model.get_layer(name).output), image)[0].mean(axis=-1)
            rows, columns = np.indices(maps.shape)
            return np.array([np.sum(rows * maps), np.sum(columns * maps)]) / np.sum(maps)

        expected = centre(model, "first", halved(spot))
        for downsample in ("stride", "maxpool"):
            received = centre(morph_stem(model, 1, downsample), "first_morph2", spot)
            # Half a pixel of the doubled image is a quarter here; the pooled windows have the same middle.
            assert np.abs(received - expected).max() < 0.35

    @pytest.mark.parametrize("downsample", ["stride", "maxpool"])
    def test_features_of_imagenet_stay_near(self, downsample, imagenet, shared, monkeypatch):
        """On real images the stem's maps move by a third (median over channels), with the smallest F2 by a half."""
        network = zoo.backbone("resnet18", input_shape=(64, 64, 3))
        network = keras.Model(network.inputs[0], network.get_layer("conv1_conv").output)
        images = real_images(shared, 128)
        expected = call(network, halved(images))
        alive = expected.std(axis=(0, 1, 2)) > 1e-3

        def moved(morphed):
            difference = (call(morphed, images) - expected)[..., alive]
            return np.median(difference.std(axis=(0, 1, 2)) / expected[..., alive].std(axis=(0, 1, 2)))

        best = moved(morph_stem(network, 1, downsample))
        monkeypatch.setattr(morphism, "_nearest_when_doubled", lambda *args: 0 * args[4].T @ args[3])
        assert best < 0.4
        assert best < 0.8 * moved(morph_stem(network, 1, downsample))

    def test_nested_network_of_free_size(self):
        inner = small((None, None, 3), strides=1)
        image = keras.Input((20, 24, 3))
        morphed = morph_stem(keras.Model(image, inner(image)))
        assert (morphed.input_shape, morphed.output_shape) == ((None, 40, 48, 3), (None, 20, 24, 4))


def stem(model):
    name = "first" if "first" in [layer.name for layer in model.layers] else "first_morph2"
    return keras.Model(model.inputs[0], model.get_layer(name).output)


def relative(received, expected):
    """How far maps moved, against the spread of each channel."""
    return np.sqrt(np.mean((received - expected) ** 2) / np.mean((expected - expected.mean(axis=(0, 1, 2))) ** 2))


class TestTraining:
    def test_batch_statistics_leave_the_function(self, monkeypatch):
        """In training mode too the map behind the old batch norm hardly moves; filters of F1 that are merely random
        and orthonormal move it far."""
        model = small((48, 48, 3), filters=64)
        images = smooth(8, 48)
        maps = call(stem(model), images)
        model.get_layer("first_bn").moving_variance.assign(maps.var(axis=(0, 1, 2)))
        model.get_layer("first_bn").moving_mean.assign(maps.mean(axis=(0, 1, 2)))

        def behind_the_norm(model):
            behind = keras.Model(model.inputs[0], model.get_layer("first_bn").output)
            return call(behind, images, training=True)

        morphed = morph_stem(model, downsample=None)

        def merely_random(shape, seed):
            drawn = np.random.default_rng(seed).normal(size=(np.prod(shape[:-1]), shape[-1]))
            return np.linalg.qr(drawn)[0].reshape(shape).astype("float32")

        monkeypatch.setattr(morphism, "_orthonormal_filters", merely_random)
        careless = morph_stem(model, downsample=None)
        expected = behind_the_norm(model)
        moved = relative(behind_the_norm(morphed), expected)
        assert moved < 0.15
        assert 3 * moved < relative(behind_the_norm(careless), expected)

    def test_new_batch_norm_finds_variance_one_on_real_images(self, imagenet, shared):
        images = real_images(shared, 128)
        network = zoo.backbone("resnet18", input_shape=(64, 64, 3))
        network = keras.Model(network.inputs[0], network.get_layer("conv1_bn").output)
        morphed = morph_stem(network)
        maps = call(keras.Model(morphed.inputs[0], morphed.get_layer("conv1_conv_morph1").output), images)
        variances = maps.var(axis=(0, 1, 2))
        assert 0.4 < variances.mean() < 2
        assert variances.max() / variances.min() < 6  # of filters drawn at random it is 30

    def test_gradients_reach_both_factors_and_the_slope(self):
        morphed = morph_stem(small((16, 16, 3)))
        before = {v.path: keras.ops.convert_to_numpy(v).copy() for v in morphed.trainable_variables}
        morphed.compile(keras.optimizers.SGD(1e-6), "mse")
        x = pixels(4, 32, 32, 3)
        morphed.fit(x, np.ones((4, *morphed.output_shape[1:]), "float32"), verbose=0)
        for variable in morphed.trainable_variables:
            value = keras.ops.convert_to_numpy(variable)
            assert np.isfinite(value).all()
            # Batch norm takes away what a bias adds; float32 leaves that gradient at noise.
            if variable.path.startswith("first") and not variable.path.endswith("first_morph2/bias"):
                assert np.abs(value - before[variable.path]).max() > 0, variable.path

    def test_mixed_precision(self):
        policy = keras.DTypePolicy("mixed_bfloat16")
        image = keras.Input((32, 32, 3))
        x = L.Conv2D(24, 7, 2, padding="same", name="first", dtype=policy)(image)
        model = random_weights(keras.Model(image, L.BatchNormalization(name="first_bn", dtype=policy)(x)))
        morphed = morph_stem(model, downsample=None)
        added = [layer for layer in morphed.layers if "_morph" in layer.name and layer.weights]
        assert [layer.dtype_policy.name for layer in added] == ["mixed_bfloat16"] * 4
        assert all(keras.backend.standardize_dtype(v.dtype) == "float32" for layer in added for v in layer.weights)
        x = smooth(2, 32)
        assert relative(call(morphed, x), call(model, x)) < 0.1  # 8 bits, twice

    @pytest.mark.parametrize("trainable", [True, False])
    def test_trainable_flags(self, trainable):
        model = small(kernel_regularizer=keras.regularizers.L2(0.01))
        model.get_layer("first").trainable = trainable
        model.get_layer("first_bn").trainable = False
        morphed = morph_stem(model)
        assert morphed.get_layer("first_morph1").trainable == trainable
        assert morphed.get_layer("first_morph2").trainable == trainable
        assert morphed.get_layer("first_morph1_prelu").trainable == trainable
        assert not morphed.get_layer("first_morph1_bn").trainable  # as the old one
        assert morphed.get_layer("first_morph1").kernel_regularizer.l2 == pytest.approx(0.01)
        model.trainable = False
        assert not morph_stem(model).trainable_variables

    def test_batch_norm_and_slope_begin_as_the_paper_has_them(self):
        morphed = morph_stem(small())
        bn = morphed.get_layer("first_morph1_bn")
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(bn.gamma), 1)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(bn.beta), 0)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(morphed.get_layer("first_morph1_prelu").alpha), 1)
        assert "first_morph1_bn" not in [layer.name for layer in morph_stem(small(norm=False)).layers]


class TestSaved:
    @pytest.mark.parametrize("downsample", ["stride", "maxpool"])
    def test_keras_file(self, downsample, tmp_path):
        morphed = morph_stem(small(padding="valid"), 2, downsample)
        morphed.save(tmp_path / "model.keras")
        x = pixels(2, 84, 72, 3)
        np.testing.assert_allclose(
            call(keras.models.load_model(tmp_path / "model.keras"), x), call(morphed, x), rtol=1e-5
        )

    def test_with_drs_in_either_order_resized_and_cut(self):
        image = keras.Input((24, 20, 3))
        x = L.Conv2D(16, 3, 2, padding="same", name="first")(image)
        x = L.Activation("relu", name="out")(L.Add(name="add")([x, L.Conv2D(16, 3, padding="same")(x)]))
        model = keras.Model(image, x)
        x = pixels(2, 24, 20, 3)
        for both in (add_drs(morph_stem(model, downsample=None)), morph_stem(add_drs(model), downsample=None)):
            np.testing.assert_allclose(call(both, x), call(model, x), atol=1e-3)
        morphed = morph_stem(add_drs(model))
        assert resize_network(morphed, (64, 56)).output_shape == (None, 16, 14, 16)
        before, behind = split_at(morphed, "first_morph2")
        x = pixels(1, 48, 40, 3)
        np.testing.assert_allclose(call(behind, call(before, x)), call(morphed, x), rtol=1e-5)

    def test_saved_model(self, tmp_path):
        if keras.backend.backend() != "tensorflow":
            pytest.skip("SavedModel is exported by TensorFlow")
        import tensorflow

        model = attach_head(morph_stem(small()), 2)
        x = pixels(2, 42, 36, 3)
        loaded = tensorflow.saved_model.load(zoo.export(model, "saved_model", tmp_path))
        np.testing.assert_allclose(loaded.serve(x).numpy(), call(model, x), atol=1e-6)

    @pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed: pip install medzoo[jax]")
    def test_jax(self, tmp_path):
        model = small()
        model.save(tmp_path / "small.keras")
        x = pixels(1, 42, 36, 3)
        np.save(tmp_path / "x.npy", x)
        code = (
            "import sys, keras, numpy as np; from medzoo.layers import morph_stem\n"
            "folder = sys.argv[1]; model = keras.models.load_model(folder + '/small.keras')\n"
            "np.save(folder + '/y.npy', morph_stem(model).predict(np.load(folder + '/x.npy'), verbose=0))\n"
        )
        environment = {**os.environ, "KERAS_BACKEND": "jax"}
        subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, check=True, capture_output=True)
        expected = call(morph_stem(model), x)
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-4 * np.abs(expected).max())


def chain(*made, size=(16, 16, 3)):
    image = keras.Input(size)
    x = image
    for layer in made:
        x = layer(x)
    return keras.Model(image, x, name="chain")


def called_twice():
    image, layer = keras.Input((16, 16, 3)), L.Conv2D(16, 3, name="first")
    return keras.Model(image, L.Add()([layer(image), layer(L.Rescaling(2.0)(image))]))


def of_two_inputs():
    one, two = keras.Input((16, 16, 3)), keras.Input((4,))
    x = L.GlobalMaxPooling2D()(L.Conv2D(16, 3, name="first")(one))
    return keras.Model([one, two], L.Concatenate()([x, two]))


class Subclassed(keras.Model):
    def call(self, x):
        return x


REFUSED = [
    (lambda: chain(L.Dense(16, name="first")), "received the Dense 'first', expected a Conv2D"),
    (lambda: chain(L.DepthwiseConv2D(3, name="first")), "received the DepthwiseConv2D 'first', expected a Conv2D"),
    (lambda: chain(L.ReLU()), "received nothing, expected a Conv2D"),
    (lambda: chain(L.Conv2D(15, 3, groups=3, name="first")), "'first': received groups 3, expected 1"),
    (
        lambda: chain(L.Conv2D(16, 3, dilation_rate=2, name="first")),
        r"received dilation_rate \(2, 2\), expected \(1, 1\)",
    ),
    (lambda: chain(L.Conv2D(16, 3, data_format="channels_first", name="first")), "received data_format channels_first"),
    (
        lambda: chain(L.Conv2D(16, 3, kernel_constraint="non_neg", name="first")),
        r"received kernel_constraint .*expected None",
    ),
    (
        lambda: chain(L.Conv2D(8, 3, name="first")),
        r"layer 'first': equation \(3\): 8 channels.*expected at least 9 channels",
    ),
    (lambda: chain(L.Resizing(16, 16), L.Conv2D(16, 3, name="first")), "between the input and 'first' does not grow"),
    (called_twice, "layer 'first': received a second call, expected one"),
    (of_two_inputs, r"has inputs of \(None, 16, 16, 3\), \(None, 4\), expected one of"),
    (
        lambda: chain(L.Reshape((8, 8, 3)), L.Conv2D(16, 3), size=(192,)),
        r"has inputs of \(None, 192\), expected one of",
    ),
    (
        lambda: chain(L.Conv2D(16, 3, 2, padding="same", name="first"), size=(None, None, 3)),
        "expected a network with a fixed",
    ),
    (lambda: chain(chain(L.Conv2D(16, 3))), r"the nested model 'chain' of fixed input .*or the nested model itself"),
    (lambda: chain(keras.Sequential([L.Conv2D(16, 3, name="first")], name="inner")), "expected"),
    (Subclassed, r"received Subclassed .*expected a functional keras.Model"),
    (
        lambda: keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(16, 3)]),
        r"received Sequential .*expected a functional",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message) as error:
        morph_stem(make())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rounds", [0, True, 1.5, "2", None])
def test_impossible_rounds(rounds):
    with pytest.raises(ValueError, match=r"rounds .* expected an integer of at least 1"):
        morph_stem(None, rounds)


@pytest.mark.parametrize("seed", [-1, None, "x", True, 0.5])
def test_impossible_seeds(seed):
    with pytest.raises(ValueError, match=r"morph_stem: received seed .*, expected an integer of at least 0"):
        morph_stem(None, seed=seed)


@pytest.mark.parametrize("arguments", [{"rounds": 0}, {"downsample": "mean"}])
def test_size_before_morphing_refuses_what_the_surgery_does(arguments):
    with pytest.raises(ValueError, match="morph_stem: received "):
        size_before_morphing((64, 64), **arguments)


def test_impossible_downsampling():
    with pytest.raises(ValueError, match="received downsample 'mean', expected 'stride', 'maxpool' or None"):
        morph_stem(None, downsample="mean")


def test_size_before_morphing():
    assert size_before_morphing((896, 1152), 2) == (224, 288)
    assert size_before_morphing((99, 7), 2, downsample=None) == (99, 7)
    with pytest.raises(ValueError, match=r"received an input of 898x448 pixels for 2 rounds.* by 4, such as 900x448"):
        size_before_morphing((898, 448), 2)
