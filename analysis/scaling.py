"""How far training moved the DRS layers from the identity: Byra 2021, section 3.5 and figure 7."""

import keras
import numpy as np
import pandas as pd

from ..layers.drs import DRSLayer


def drs_deviations(model):
    """Returns mean and maximum absolute deviation of every DRS layer's parameters from the identity mapping.

    The identity has scale 1 and bias 0, so these are the mean and the maximum of |scale - 1| and of |bias|, for the
    spatial part S (equation 3) and the channel part D (equation 4).

    Args:
        model: Keras model with DRS layers among its layers.

    Returns:
        DataFrame with a row for each weight, layers from input to output: `layer` (name), `part` ("spatial" or
        "channel"), `parameter` ("scale" or "bias"), `mean`, `maximum`. Scales have no unit (0.01 is 1 %), biases the
        unit of the representation.

    Raises:
        ValueError: the model has no DRS layer.
    """
    rows = []
    for layer in model.layers:
        if not isinstance(layer, DRSLayer):
            continue
        for weight in layer.weights:
            part, parameter = weight.name.split("_")
            deviation = np.abs(keras.ops.convert_to_numpy(weight).astype(np.float64) - (parameter == "scale"))
            rows.append((layer.name, part, parameter, deviation.mean(), deviation.max()))
    if not rows:
        raise ValueError(f"model {model.name!r} has no DRS layer")
    return pd.DataFrame(rows, columns=["layer", "part", "parameter", "mean", "maximum"])
