import keras
import numpy as np
import pytest
from medzoo.analysis import activation_layers, activation_rate, activation_rate_change
from medzoo.layers import DRSLayer

SIZE = (4, 6, 3)


def random_weights(seed):
    """Kernels and biases of two residual blocks of 1x1 convolutions, and the weights of a DRS layer for each."""
    random = np.random.default_rng(seed)
    return [
        {
            "inner": (random.normal(size=(3, 5)), random.normal(size=5)),
            "outer": (random.normal(size=(5, 3)), random.normal(size=3)),
            "drs": [random.normal(1, 0.7, SIZE[:2]), random.normal(0, 0.7, SIZE[:2]),
                    random.normal(1, 0.7, 3), random.normal(0, 0.7, 3)],
        }
        for _ in range(2)
    ]  # fmt: skip


def network(weights, drs, name="network"):
    """The two blocks in Keras; the first has an `Add` layer, the second writes `x + y`."""
    images = keras.Input(SIZE)
    x = images
    for index, block in enumerate(weights, 1):
        inner = keras.layers.Conv2D(5, 1, name=f"block{index}_inner")
        outer = keras.layers.Conv2D(3, 1, name=f"block{index}_outer")
        y = keras.layers.Activation("relu", name=f"block{index}_relu")(inner(x))
        y = keras.layers.Add(name="block1_add")([x, outer(y)]) if index == 1 else x + outer(y)
        if drs:
            scaling = DRSLayer(name=f"block{index}_drs")
            y = scaling(y)
            for weight, value in zip(scaling.weights, block["drs"], strict=True):
                weight.assign(value)
        x = keras.layers.ReLU(name=f"block{index}_out")(y)
        inner.set_weights([block["inner"][0][None, None], block["inner"][1]])
        outer.set_weights([block["outer"][0][None, None], block["outer"][1]])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(1, activation="sigmoid")(x), name=name)


def outputs_by_hand(weights, drs, images):
    """x_{l+1} of equations (1) and (2) in NumPy, for each block."""
    x, outputs = images.astype("float64"), []
    for block in weights:
        inner = np.maximum(x @ block["inner"][0] + block["inner"][1], 0)
        y = x + inner @ block["outer"][0] + block["outer"][1]
        if drs:
            spatial_scale, spatial_bias, channel_scale, channel_bias = block["drs"]
            y = spatial_scale[:, :, None] * y + spatial_bias[:, :, None]
            y = channel_scale * y + channel_bias
        x = np.maximum(y, 0)
        outputs.append(x)
    return outputs


@pytest.fixture
def images():
    return np.random.default_rng(5).normal(size=(7, *SIZE)).astype("float32")


class Numbered(keras.utils.PyDataset):
    """Images and labels in batches of 3, 3 and 1."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return 3

    def __getitem__(self, index):
        chosen = self.images[3 * index : 3 * index + 3]
        return chosen, np.zeros((len(chosen), 1), "int32"), np.ones(len(chosen), "float32")


def test_layers_are_the_activations_after_the_additions():
    weights = random_weights(0)
    assert activation_layers(network(weights, drs=False)) == ["block1_out", "block2_out"]
    assert activation_layers(network(weights, drs=True)) == ["block1_out", "block2_out"]


def test_layers_of_resnet50_are_its_sixteen_blocks():
    model = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(32, 32, 3))
    expected = [f"conv{stage}_block{block}_out" for stage, n in enumerate((3, 4, 6, 3), 2) for block in range(1, n + 1)]
    assert activation_layers(model) == expected


@pytest.mark.parametrize("drs", [False, True])
@pytest.mark.parametrize("form", ["dataset", "arrays", "tuples"])
def test_activation_rate_is_that_of_equation_5(images, drs, form):
    weights = random_weights(1)
    batches = {
        "dataset": lambda: Numbered(images),
        "arrays": lambda: (images[start : start + 4] for start in (0, 4)),
        "tuples": lambda: [(images[:5], np.zeros(5)), (images[5:], np.zeros(2))],
    }[form]()
    rates = activation_rate(network(weights, drs), batches)
    expected = [np.mean(np.sign(x)) for x in outputs_by_hand(weights, drs, images)]
    assert all(0.1 < rate < 0.9 for rate in expected)
    assert rates["layer"].tolist() == ["block1_out", "block2_out"]
    np.testing.assert_allclose(rates["rate"], expected, rtol=1e-12)


def test_activation_rate_at_named_layers(images):
    weights = random_weights(1)
    rates = activation_rate(network(weights, False), [images], layers=["block1_relu"])
    inner = images @ weights[0]["inner"][0] + weights[0]["inner"][1]
    assert rates.to_dict("records") == [{"layer": "block1_relu", "rate": pytest.approx(np.mean(inner > 0))}]


def test_activation_rate_change_is_that_of_equation_7(images):
    weights, others = random_weights(1), random_weights(2)
    for drs, theirs in ((True, weights), (False, others)):
        changes = activation_rate_change(network(weights, drs), network(theirs, False), Numbered(images))
        expected = [
            np.mean(np.sign(x) != np.sign(y))
            for x, y in zip(outputs_by_hand(weights, drs, images), outputs_by_hand(theirs, False, images), strict=True)
        ]
        assert min(expected) > 0.05
        assert changes["layer"].tolist() == ["block1_out", "block2_out"]
        np.testing.assert_allclose(changes["change"], expected, rtol=1e-12)


def test_a_network_does_not_differ_from_itself(images):
    model = network(random_weights(1), True)
    assert activation_rate_change(model, model, [images])["change"].tolist() == [0, 0]


def test_opposite_networks_differ_everywhere(images):
    image = keras.Input(SIZE)
    models = []
    for sign in (1.0, -1.0):
        scaling = DRSLayer(name="scaling")
        y = scaling(keras.layers.Add()([image, image]))
        scaling.channel_scale.assign(np.full(3, sign))
        models.append(keras.Model(image, keras.layers.ReLU(name="out")(y)))
    assert activation_rate_change(*models, [images])["change"].tolist() == [1]


def test_bad_input_gets_one_line(images):
    model = network(random_weights(1), False)
    plain = keras.Sequential([keras.Input(SIZE), keras.layers.Conv2D(3, 1, activation="relu")], name="plain")
    smaller = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.ReLU()])
    other_width = keras.Sequential([keras.Input(SIZE), keras.layers.Conv2D(2, 1, name="block1_out")])
    cases = [
        (lambda: activation_layers(plain), "model 'plain': no activation follows an addition"),
        (
            lambda: activation_rate(model, [images], layers=["block9_out"]),
            "model 'network': unknown layer 'block9_out': did you mean 'block2_out'",
        ),
        (lambda: activation_rate(model, []), "received no image"),
        (lambda: activation_rate(model, images), r"received an array of shape \(4, 6, 3\)"),
        (lambda: activation_rate(model, [images[:, :2]]), r"received an array of shape \(7, 2, 6, 3\)"),
        (lambda: activation_rate_change(model, smaller, [images]), "received a model for inputs"),
        (
            lambda: activation_rate_change(model, other_width, [images], layers=["block1_out"]),
            r"layer 'block1_out': received output \(None, 4, 6, 2\) in the reference",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
