import keras
import numpy as np
import pytest
from medzoo.analysis import drs_deviations
from medzoo.layers import DRSLayer


def test_deviations_are_from_scale_one_and_bias_zero():
    images = keras.Input((1, 2, 2))
    both, channel = DRSLayer(name="both"), DRSLayer(spatial=False, name="channel_only")
    model = keras.Model(images, channel(both(images)))
    assert (drs_deviations(model)[["mean", "maximum"]] == 0).all(axis=None)  # the identity before training
    both.spatial_scale.assign([[1.25, 0.5]])
    both.spatial_bias.assign([[0.25, -0.75]])
    both.channel_scale.assign([1.0, -1.0])
    channel.channel_bias.assign([-0.5, 0.25])
    rows = [tuple(row) for row in drs_deviations(model).itertuples(index=False)]
    assert rows == [
        ("both", "spatial", "scale", 0.375, 0.5),
        ("both", "spatial", "bias", 0.5, 0.75),
        ("both", "channel", "scale", 1.0, 2.0),
        ("both", "channel", "bias", 0.0, 0.0),
        ("channel_only", "channel", "scale", 0.0, 0.0),
        ("channel_only", "channel", "bias", 0.375, 0.5),
    ]
    assert np.issubdtype(drs_deviations(model)["mean"].dtype, np.float64)


def test_a_model_without_drs_layers_is_refused():
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.ReLU()], name="plain")
    with pytest.raises(ValueError, match="model 'plain' has no DRS layer"):
        drs_deviations(model)
