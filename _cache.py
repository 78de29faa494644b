"""The folder for what medzoo downloads or computes once."""

import os
from pathlib import Path

import pooch


def folder(*parts):
    """A folder of the cache, made if need be: below `MEDZOO_CACHE`, else below the platform's cache folder."""
    path = Path(os.environ.get("MEDZOO_CACHE") or pooch.os_cache("medzoo")).joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path
