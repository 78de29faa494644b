"""Papers as recipes: one file each, with `run`, `PROFILES`, `METHODS` and `PROTOCOLS`."""

import importlib

from .._nearest import require

# Name of a recipe to its module in this folder.
RECIPES = {"drs": "drs", "morphhr": "morphhr"}


def recipe(name):
    """The module of a recipe. Raises ValueError, with the nearest right name, when there is none."""
    require("recipe", name, RECIPES)
    return importlib.import_module(f"{__name__}.{RECIPES[name]}")
