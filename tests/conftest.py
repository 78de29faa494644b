"""Shared fixtures: real data where it lies beside the project, small made-up images everywhere."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared():
    """The folder of real images and weights beside the project; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("MEDZOO_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"real data are not here: {folder}")
    return folder


@pytest.fixture(scope="session")
def imagenet(shared):
    """`MEDZOO_WEIGHTS` set to the folder of ImageNet weights beside the project."""
    before = os.environ.get("MEDZOO_WEIGHTS")
    os.environ["MEDZOO_WEIGHTS"] = str(shared / "imagenet")
    yield shared / "imagenet"
    if before is None:
        del os.environ["MEDZOO_WEIGHTS"]
    else:
        os.environ["MEDZOO_WEIGHTS"] = before


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("MEDZOO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
