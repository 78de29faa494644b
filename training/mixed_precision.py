"""Mixed precision on demand."""

import contextlib

import keras

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@contextlib.contextmanager
def precision(policy):
    """Models built inside the block compute in this precision; their weights stay float32.

    Args:
        policy: one of `PRECISIONS`.

    Example:

    ```python
    with precision("mixed_bfloat16"):
        model = zoo.backbone("resnet50")
    ```
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
