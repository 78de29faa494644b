"""Stages as data, and which layers they make trainable."""

import keras
import pytest
from medzoo.training import Stage, set_trainable
from medzoo.zoo.builders import build

ARGUMENTS = {"backbone": "resnet18", "input_shape": [32, 32, 3], "classes": 2, "surgery": [{"name": "add_drs"}]}


@pytest.fixture(scope="module")
def model():
    return build({"builder": "classifier", "arguments": ARGUMENTS})


@pytest.mark.parametrize(
    ("train", "count"),
    [
        (("head",), 512 + 1),
        # Eight blocks: twice 8x8x64, 4x4x128, 2x2x256, 1x1x512, two parameters a position and two a channel.
        (("drs",), 2 * 2 * (8 * 8 + 64 + 4 * 4 + 128 + 2 * 2 + 256 + 1 + 512)),
        # Two 3x3 convolutions of 512 channels without bias, two batch norms, one DRS layer.
        (("conv5_block2_*",), 2 * 9 * 512 * 512 + 2 * 2 * 512 + 2 * (1 + 512)),
        # Seven by seven, and a batch norm.
        (("stem",), 49 * 3 * 64 + 2 * 64),
    ],
)
def test_counts_by_hand(model, train, count):
    assert set_trainable(model, train) == count


def test_what_is_not_named_is_frozen(model):
    set_trainable(model, ("stage2", "head"))
    trainable = {layer.name for layer in model.layers if layer.trainable and layer.weights}
    assert trainable == {
        layer.name for layer in model.layers if layer.weights and layer.name.startswith(("conv3_", "head_"))
    }
    set_trainable(model, ("*",))
    assert all(layer.trainable for layer in model.layers)


def test_layers_that_were_frozen_train_again(model):
    set_trainable(model, ("head",))
    model.trainable = False
    assert set_trainable(model, ("head",)) == 513


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"learning_rate": 0.0}, "learning_rate 0.0"),
        ({"weight_decay": -0.1}, "weight_decay -0.1"),
        ({"monitor": "val_acuracy"}, "did you mean 'val_accuracy'"),
        ({"patience": 0}, "patience 0"),
        ({"decay_epochs": 0}, "decay_epochs 0"),
        ({"train": "head"}, r"expected a tuple such as \('head',\)"),
    ],
)
def test_impossible_stages(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        Stage(**{"epochs": 1, "learning_rate": 0.1, **arguments})
    assert "\n" not in str(error.value)


def test_stage_is_frozen():
    with pytest.raises(AttributeError):
        Stage(1, 0.1).epochs = 2


def test_precision_is_put_back_after_an_error():
    from medzoo.training import precision

    with pytest.raises(KeyError), precision("mixed_bfloat16"):
        raise KeyError
    assert keras.config.dtype_policy().name == "float32"
