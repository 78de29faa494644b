"""Custom Keras layers, and the surgery that puts them into a finished network."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    names={
        "drs": ["DRSLayer", "add_drs"],
        "pixels": ["PixelNormalization"],
        "surgery": ["rebuild", "resize_network", "split_at"],
    },
)
