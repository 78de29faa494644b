"""The folder for what medzoo downloads or computes once."""

import os
from pathlib import Path

import pooch


def root():
    """The cache: the folder that `MEDZOO_CACHE` names, else medzoo's in the platform's cache folder."""
    return Path(os.environ.get("MEDZOO_CACHE") or pooch.os_cache("medzoo")).expanduser()


def folder(*parts):
    """A folder of the cache, made if need be."""
    path = root().joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path
