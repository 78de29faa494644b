"""The demonstration, with a small stand-in for the published checkpoint."""

import numpy as np
import pytest
from medzoo.analysis import demonstrate, demonstration
from medzoo.zoo import save_checkpoint, store
from medzoo.zoo.builders import build
from PIL import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of checkpoints in which `drs-resnet18-busi` is small and untrained."""
    description = {
        "builder": "classifier",
        "arguments": {
            "backbone": "resnet18",
            "input_shape": [32, 32, 3],
            "classes": 2,
            "surgery": [{"name": "add_drs"}],
        },
    }
    fields = {
        "name": demonstration.CHECKPOINT,
        "version": 3,
        "summary": "a stand-in",
        "modality": "ultrasound",
        "task": "classification",
        "recipe": {"name": "drs", "command": "medzoo run drs", "paper": "Byra 2021"},
        "build": description,
        "input": {"shape": [32, 32, 3], "range": [0, 255], "resize": "bilinear", "crop": 1.0},
        "classes": ["benign", "malignant"],
        "data": {
            "dataset": "nothing",
            "licence": "none",
            "url": None,
            "images": 0,
            "subjects": None,
            "subject_source": "none",
            "split": {"train": 0, "validation": 0, "test": 0},
            "excluded": None,
        },
        "metrics": [],
        "licence": "Apache-2.0",
        "limitations": ["untrained"],
    }
    weights = tmp_path_factory.mktemp("weights")
    save_checkpoint(build(description, weights=None), weights / demonstration.CHECKPOINT, fields)
    return weights


@pytest.fixture
def stand_in(folder, monkeypatch):
    monkeypatch.setattr(store, "WEIGHTS", folder)


@pytest.fixture
def drawn(monkeypatch):
    """Catches what is put on the picture."""
    seen = []

    def figure(*arguments):
        seen.append(arguments)
        return original(*arguments)

    original = demonstration.prediction_figure
    monkeypatch.setattr(demonstration, "prediction_figure", figure)
    return seen


def test_without_images_phantoms_are_drawn_and_the_picture_says_so(stand_in, drawn, tmp_path):
    made = demonstrate(out=tmp_path / "out")
    ((_, overlays, titles, heading, note),) = drawn
    assert made.picture == tmp_path / "out" / "predictions.png"
    assert min(Image.open(made.picture).size) > 300
    assert "Drawn phantoms" in heading
    assert "no evidence of its accuracy" in heading
    assert made.heading == heading
    assert "version 3" in note
    assert len(made.predictions) == len(overlays) == made.found == 6
    assert sorted(path.name for path in (tmp_path / "out" / "phantoms").iterdir()) == [
        f"{kind}-like-phantom-{number}.png" for kind in ("benign", "malignant") for number in (1, 2, 3)
    ]
    for title, (_, row) in zip(titles, made.predictions.iterrows(), strict=True):
        assert title.endswith(f"malignant {row['malignant']:.2f}")


def test_of_many_own_images_twelve_are_pictured_and_none_is_called_a_phantom(stand_in, drawn, tmp_path):
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50), "uint8")
        (tmp_path / "mine" / "deep").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "mine" / "deep" / f"{number:02}.png")
    made = demonstrate(tmp_path / "mine", tmp_path / "out")
    assert made.found == 30
    assert len(made.predictions) == 12
    assert made.predictions["image"].is_unique
    assert made.predictions["image"].str.endswith("27.png").any()  # spread over the folder, not its beginning
    assert "hantom" not in str(drawn[0][2:])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions.png"]


def test_a_folder_without_images_leaves_nothing_behind(stand_in, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileNotFoundError, match="mine: no images"):
        demonstrate(tmp_path / "mine", tmp_path / "out")
    assert not (tmp_path / "out").exists()
