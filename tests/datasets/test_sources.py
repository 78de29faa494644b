"""What cards say of datasets."""

import importlib
import json
import re
from pathlib import Path

import pytest
from medzoo import datasets
from medzoo.datasets import READERS

CARDS = sorted((Path(datasets.__file__).parent.parent / "weights").glob("*/card.json"))


@pytest.mark.parametrize("name", READERS)
def test_every_reader_has_its_source(name):
    """Author and year, if it has one, are those that the reader names."""
    source = datasets.source(name)
    assert source.licence
    assert source.modality
    assert re.fullmatch(r"[A-Z0-9-]+", source.folder)
    if name in ("csv", "folder"):
        assert (source.title, source.url) == ("the user's own images", None)
        return
    description = importlib.import_module(f"medzoo.datasets.{READERS[name][0]}").__doc__
    author, year = re.fullmatch(r".+ \((.+?)(?: and others)?, .*(\d{4})\)", source.title).groups()
    assert author in description
    assert year in description
    assert re.match(r"https?://", source.url)
    assert all(sentence.endswith(".") for sentence in source.limitations)


def test_aliases_are_plain_and_of_one_dataset():
    aliases = [alias for name, each in datasets.SOURCES.items() for alias in (name.replace("_", ""), *each.aliases)]
    assert len(set(aliases)) == len(aliases)
    assert all(re.fullmatch("[a-z0-9]+", alias) for alias in aliases)


def test_parts_are_of_a_whole_that_is_none():
    wholes = {name: each.whole for name, each in datasets.SOURCES.items() if each.whole}
    assert wholes == {"pcam_middle": "pcam", "pcam_small": "pcam"}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_published_cards_say_the_same(path):
    card = json.loads(path.read_text())
    (source,) = (source for source in datasets.SOURCES.values() if source.title == card["data"]["dataset"])
    assert (card["modality"], card["data"]["licence"]) == (source.modality, source.licence)
    assert card["data"]["url"] == source.url
    assert set(source.limitations) <= set(card["limitations"])


def test_dataset_that_nobody_knows():
    with pytest.raises(ValueError, match="unknown dataset 'mini_mia': did you mean 'mini_mias'"):
        datasets.source("mini_mia")
