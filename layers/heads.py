"""The classification head that every network of the zoo ends in."""

import keras


def attach_head(body, classes, multi_label=False, dropout=0.0):
    """A classification head on a network that ends in a feature map, or in a vector of features.

    Global average pooling (of a map) and one dense layer: layers `head_pool`, `head_logits`, `head_probabilities`, and
    where asked for `head_dropout` between the first two.

    Args:
        body: functional Keras model with an output of rank 4 (a map) or 2 (features).
        classes: number of classes, two or more. Two share one unit with a sigmoid, the probability of the second class.
        multi_label: whether an image may have several of the classes or none. Each, one or more, then has a unit with
            a sigmoid of its own, also of two.
        dropout: share of the features that each training step leaves out, in [0, 1).

    Returns:
        `keras.Model` on the same layers, from the body's input to float32 probabilities: `(batch, 1)` for two classes
        that exclude each other, else `(batch, classes)`.

    Raises:
        ValueError: for fewer than two classes (than one, of several labels), or a dropout out of range.
    """
    least = 1 if multi_label else 2
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < least:
        raise ValueError(f"classes: received {classes!r}, expected an integer of at least {least}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: received {dropout}, expected a share of at least 0 and below 1")
    units = 1 if classes == 2 and not multi_label else classes
    features = body.outputs[0]
    if len(features.shape) == 4:
        features = keras.layers.GlobalAveragePooling2D(name="head_pool")(features)
    if dropout:
        features = keras.layers.Dropout(dropout, name="head_dropout")(features)
    logits = keras.layers.Dense(units, name="head_logits")(features)
    # In float32 whatever the precision of the body: a half-precision sigmoid saturates at 1.
    probabilities = keras.layers.Activation(
        "sigmoid" if units == 1 or multi_label else "softmax", dtype="float32", name="head_probabilities"
    )(logits)
    return keras.Model(body.inputs[0], probabilities, name=body.name)
