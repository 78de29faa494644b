"""Custom Keras layers, and the surgery that puts them into a finished network.

Importing this room registers the layers with Keras, so that `keras.models.load_model` finds them.
"""

from .drs import DRSLayer, add_drs
from .heads import attach_head
from .morphism import factor_kernel, morph_stem, size_before_morphing
from .pixels import PixelNormalization
from .slimming import slim_top
from .surgery import rebuild, resize_network, split_at
from .whole_image import TOPS, add_top, parse_top, patch_heatmap, to_whole_image

__all__ = [
    "TOPS",
    "DRSLayer",
    "PixelNormalization",
    "add_drs",
    "add_top",
    "attach_head",
    "factor_kernel",
    "morph_stem",
    "parse_top",
    "patch_heatmap",
    "rebuild",
    "resize_network",
    "size_before_morphing",
    "slim_top",
    "split_at",
    "to_whole_image",
]
