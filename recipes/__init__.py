"""Papers as recipes: one file each, with `run`, `PROFILES`, `PROTOCOLS` and `OPTIONS`.

`OPTIONS` are the arguments of `run` that not every recipe has.
"""

import importlib
from pathlib import Path

from .._nearest import require

# Name of a recipe to its module in this folder.
RECIPES = {
    "all_conv": "all_conv",
    "cats_scans": "cats_scans",
    "drs": "drs",
    "morphhr": "morphhr",
    "pretraining_effect": "pretraining_effect",
}
# What only some recipes take.
OPTIONS = (
    "dataset",
    "top",
    "patch_dataset",
    "patch_data",
    "transfer_dataset",
    "transfer_data",
    "processes",
    "folds",
    "distances",
)


def run_folder(name, data):
    """Where a run is written when nobody says: in the current folder, named after recipe and data."""
    return f"{name}-{Path(data).expanduser().resolve().stem}"


def recipe(name):
    """The module of a recipe. Raises ValueError, with the nearest right name, when there is none."""
    require("recipe", name, RECIPES)
    return importlib.import_module(f"{__name__}.{RECIPES[name]}")
