"""Custom Keras layers, and the surgery that puts them into a finished network.

Importing this room registers the layers with Keras, so that `keras.models.load_model` finds them.
"""

from .drs import DRSLayer, add_drs
from .pixels import PixelNormalization
from .surgery import rebuild, resize_network, split_at

__all__ = ["DRSLayer", "PixelNormalization", "add_drs", "rebuild", "resize_network", "split_at"]
