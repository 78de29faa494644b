"""What every published checkpoint in `weights/` must hold."""

import keras
import numpy as np
import pytest
from medzoo import zoo
from medzoo.zoo import store
from medzoo.zoo.cards import Card

FOLDERS = sorted(path.parent for path in store.WEIGHTS.glob("*/card.json"))


def needs_imagenet(folder, request):
    if Card.read(folder / "card.json").weights["kind"] == "delta":
        request.getfixturevalue("imagenet")


def test_there_are_some_and_they_stay_small():
    files = [file for file in store.WEIGHTS.rglob("*") if file.is_file()]
    assert FOLDERS
    assert sum(file.stat().st_size for file in files) < 120e6
    assert max(file.stat().st_size for file in files) < 50e6


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
class TestEveryCheckpoint:
    def test_gives_its_golden_outputs(self, folder, request):
        needs_imagenet(folder, request)
        found = zoo.verify(folder)
        assert found.name == folder.name
        assert found.difference <= found.tolerance

    def test_is_a_classifier_of_raw_pixels_that_takes_a_new_head(self, folder, request):
        needs_imagenet(folder, request)
        card = zoo.card(folder)
        image = np.random.default_rng(0).integers(0, 256, (1, *card.input["shape"])).astype("float32")
        model = zoo.load(folder)
        scores = keras.ops.convert_to_numpy(model(image))
        assert scores.shape == (1, 1 if len(card.classes) == 2 else len(card.classes))
        assert ((scores > 0) & (scores < 1)).all()
        assert zoo.load(folder, classes=3).output_shape == (None, 3)

    def test_card_has_numbers_with_intervals_licence_and_limits(self, folder):
        card = zoo.card(folder)
        test = [metric for metric in card.metrics if metric["part"] == "test"]
        assert any(metric["name"] == "auc" for metric in test)
        for metric in card.metrics:
            assert metric["low"] <= metric["value"] <= metric["high"]
            assert metric["n"] > 30
            assert metric["command"].startswith("medzoo run ")
        assert card.data["licence"].split(",")[0] in card.licence or card.licence.startswith("Apache-2.0")
        assert card.limitations[-1] == "For research, not for diagnosis."
        assert sum(card.data["split"].values()) == card.data["images"]
