"""Custom Keras layers, and the surgery that puts them into a finished network.

Importing this room registers the layers with Keras, so that `keras.models.load_model` finds them.
"""

from .drs import DRSLayer, add_drs
from .morphism import factor_kernel, morph_stem, size_before_morphing
from .pixels import PixelNormalization
from .surgery import rebuild, resize_network, split_at

__all__ = [
    "DRSLayer",
    "PixelNormalization",
    "add_drs",
    "factor_kernel",
    "morph_stem",
    "rebuild",
    "resize_network",
    "size_before_morphing",
    "split_at",
]
