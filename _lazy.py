"""Public names of a package that are imported on first use, so that `import medzoo.zoo` does not wait for Keras."""

import importlib


def attach(package, modules=(), names=None):
    """Returns `__getattr__`, `__dir__` and `__all__` for a package's `__init__`.

    Args:
        package: the package's `__name__`.
        modules: submodules that are imported when they are first asked for.
        names: mapping of submodule to the public names that it holds.

    Example:

    ```python
    __getattr__, __dir__, __all__ = attach(__name__, names={"drs": ["DRSLayer", "add_drs"]})
    ```
    """
    home = {name: module for module, listed in (names or {}).items() for name in listed}
    public = sorted({*modules, *home})

    def __getattr__(name):
        if name in home:
            return getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__, lambda: public, public
