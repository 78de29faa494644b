"""medzoo: a Keras 3 model zoo for transfer learning on two-dimensional medical images."""

from ._lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(
    __name__, modules=["analysis", "cli", "datasets", "layers", "recipes", "training", "zoo"]
)
