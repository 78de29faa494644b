"""Predictions and heatmaps of image files, against networks whose output can be worked out by hand."""

from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from medzoo.analysis import heatmap_overlays, overlay, predict_images, prepare_image, write_heatmaps
from medzoo.datasets import cached_images, image_table, read_image, resize_image
from medzoo.datasets.policies import FITS
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

CLASSES = ["benign", "malignant"]
KERNEL = np.array([0.02, -0.01, 0.005])


def make_card(
    shape=(8, 12, 3),
    classes=CLASSES,
    resize="bilinear with antialiasing to the shape",
    crop=1.0,
    multi_label=False,
    dicom="voi",
):
    prepared = {"shape": list(shape), "resize": resize, "crop": crop, "dicom": dicom}
    return SimpleNamespace(name="mean-colour", input=prepared, classes=classes, multi_label=multi_label)


def mean_colour(shape=(8, 12, 3), units=1, activation=None):
    """A network whose logits are a linear function of the mean colour."""
    image = keras.Input(shape)
    pooled = keras.layers.GlobalAveragePooling2D(name="head_pool")(keras.layers.Activation("linear")(image))
    logits = keras.layers.Dense(units, name="head_logits")(pooled)
    outputs = keras.layers.Activation(activation or ("sigmoid" if units == 1 else "softmax"))(logits)
    model = keras.Model(image, outputs)
    kernel = KERNEL[:, None] * np.arange(1, units + 1)
    model.get_layer("head_logits").set_weights([kernel[: shape[2]], np.full(units, 0.25)])
    return model


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def paths(tmp_path):
    """Twenty colour images, more than a batch, of two sizes."""
    random = np.random.default_rng(0)
    sizes = [(8, 12, 3), (31, 20, 3)] * 10
    return [write(tmp_path / f"{i:02}.png", random.integers(0, 256, size, "uint8")) for i, size in enumerate(sizes)]


def pillow_mean(path, size=(12, 8)):
    """Of the 8-bit image as Pillow resizes it, which rounds once more than we do: between its two passes."""
    resized = Image.open(path).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized, "float64").mean(axis=(0, 1))


def test_probabilities_of_two_classes_are_those_worked_by_hand(paths):
    table = predict_images(mean_colour(), make_card(), paths)
    assert list(table.columns) == ["image", "benign", "malignant", "predicted"]
    assert list(table["image"]) == [str(path) for path in paths]
    expected = [1 / (1 + np.exp(-(pillow_mean(path) @ KERNEL + 0.25))) for path in paths]
    np.testing.assert_allclose(table["malignant"], expected, atol=2e-3)
    np.testing.assert_allclose(table["benign"], 1 - np.array(expected), atol=2e-3)
    assert list(table["predicted"]) == ["malignant" if value > 0.5 else "benign" for value in expected]


def test_probabilities_of_three_classes_are_those_worked_by_hand(paths):
    table = predict_images(mean_colour(units=3), make_card(classes=["a", "b", "c"]), paths)
    logits = np.array([np.outer([1, 2, 3], pillow_mean(path) @ KERNEL[:, None]).ravel() for path in paths])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(table[["a", "b", "c"]], expected, atol=2e-3)
    assert list(table["predicted"]) == [["a", "b", "c"][index] for index in expected.argmax(axis=1)]


def test_probabilities_of_several_labels_are_those_worked_by_hand(paths):
    """Sigmoids, whose sum is free; two labels have a unit each."""
    model = mean_colour(units=2, activation="sigmoid")
    kernel = np.array([[0.2, 0.1], [-0.1, 0.1], [-0.1, -0.2]])
    logits = np.array([pillow_mean(path) for path in paths]) @ kernel
    bias = -np.median(logits, axis=0)  # each label in half of the images
    logits += bias
    model.get_layer("head_logits").set_weights([kernel, bias])
    table = predict_images(model, make_card(classes=["Mass", "Nodule"], multi_label=True), paths)
    assert list(table.columns) == ["image", "Mass", "Nodule", "predicted"]
    np.testing.assert_allclose(table[["Mass", "Nodule"]], 1 / (1 + np.exp(-logits)), atol=1e-2)
    names = {(0, 0): "No Finding", (1, 0): "Mass", (0, 1): "Nodule", (1, 1): "Mass|Nodule"}
    expected = [names[tuple(row)] for row in (logits >= 0).astype(int)]
    assert set(expected) == set(names.values())
    assert list(table["predicted"]) == expected


def test_one_label_has_a_column(paths):
    table = predict_images(mean_colour(), make_card(classes=["Mass"], multi_label=True), paths)
    assert list(table.columns) == ["image", "Mass", "predicted"]
    expected = predict_images(mean_colour(), make_card(), paths)
    np.testing.assert_array_equal(table["Mass"], expected["malignant"])
    assert list(table["predicted"]) == ["Mass" if value >= 0.5 else "No Finding" for value in table["Mass"]]


def test_labels_that_do_not_fit_are_refused(paths):
    with pytest.raises(ValueError, match="received 1 outputs for the classes benign, malignant"):
        predict_images(mean_colour(), make_card(multi_label=True), paths)


def test_a_card_with_a_crop_takes_the_centre_of_the_resized_image(paths):
    """8 x 12 of 10 x 15: one pixel off above, below and on the left, two on the right."""
    for path in paths[:2]:
        resized = Image.open(path).resize((15, 10), Image.Resampling.BILINEAR)
        prepared = prepare_image(np.asarray(Image.open(path), "float32"), make_card(crop=0.8))
        assert prepared.shape == (8, 12, 3)
        assert (prepared == np.rint(prepared)).all()
        np.testing.assert_allclose(prepared, np.asarray(resized, "float32")[1:9, 1:13], atol=1)


@pytest.mark.parametrize("fit", FITS)
def test_an_image_is_prepared_as_the_cache_prepares_it_for_training(paths, tmp_path, fit):
    rows = [{"image": path, "label": "a"} for path in paths]
    table = image_table(rows, "some", tmp_path, ["a"], "none")
    for channels in (1, 3):
        cached = cached_images(table, (8, 12), channels, tmp_path / "cache", fit=fit)
        card = make_card((8, 12, channels), resize=f"{FITS[fit]}; grey repeated")
        prepared = [prepare_image(read_image(path), card) for path in paths]
        np.testing.assert_array_equal(cached.read(range(len(paths))), prepared)


def test_a_padded_image_is_black_on_the_right_and_below():
    """31 x 20 into 8 x 12 by 8/31: five columns; 20 x 40 by 12/40: six rows."""
    card = make_card(resize=FITS["pad"])
    for size, (height, width) in [((31, 20), (8, 5)), ((20, 40), (6, 12))]:
        prepared = prepare_image(np.full((*size, 3), 200, "uint8"), card)
        assert prepared.shape == (8, 12, 3)
        assert (prepared[:height, :width] == 200).all()
        assert prepared.sum() == 200 * 3 * height * width


def write_dicom(path, stored, **elements):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = stored.astype("<u2").tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("dicom", "grey"),
    [("voi", [0, 255]), ("full", [0, 255 / 9])],  # a window from 0 to 100; values from 0 to 900
)
def test_dicom_is_read_by_the_policy_of_the_card(tmp_path, dicom, grey):
    stored = np.zeros((8, 12))
    stored[:, 6:], stored[0, 0] = 100, 900
    window = {"WindowCenter": 50, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}
    path = write_dicom(tmp_path / "a.dcm", stored, **window)
    card = make_card((8, 12, 1), dicom=dicom)
    expected = np.full((8, 12), round(grey[0]))
    expected[:, 6:], expected[0, 0] = round(grey[1]), 255
    model = mean_colour((8, 12, 1))
    model.get_layer("head_logits").set_weights([np.array([[0.02]]), np.zeros(1)])
    (probability,) = predict_images(model, card, [path])["malignant"]
    assert probability == pytest.approx(1 / (1 + np.exp(-0.02 * expected.mean())), abs=1e-5)
    (written,) = write_heatmaps(model, card, [path], tmp_path / "out")
    mapped = overlay(np.asarray(read_image(path, dicom)), expected * 0.02)
    np.testing.assert_allclose(np.asarray(Image.open(written)).astype(int), mapped, atol=1)


@pytest.mark.parametrize("resize", ["pad to a square", "bilinear, padded on all sides"])
def test_another_way_of_resizing_is_refused(paths, resize):
    with pytest.raises(ValueError, match=f"received resize '{resize}', expected one of bilinear"):
        predict_images(mean_colour(), make_card(resize=resize), paths)


def test_a_file_that_is_no_image_is_named(paths, tmp_path):
    bad = tmp_path / "notes.png"
    bad.write_text("no image")
    with pytest.raises(ValueError, match=r"notes\.png") as error:
        predict_images(mean_colour(), make_card(), [*paths, bad])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("paths", "message"),
    [([], "no image file"), ("scan.png", "single path 'scan.png'")],
)
def test_what_is_no_list_of_images_is_refused(paths, message):
    with pytest.raises(ValueError, match=message):
        predict_images(mean_colour(), make_card(), paths)


def test_a_model_with_other_classes_than_the_card_is_refused(paths):
    with pytest.raises(ValueError, match="3 outputs for the classes benign, malignant"):
        predict_images(mean_colour(units=3), make_card(), paths)


def test_the_heatmap_of_a_linear_network_is_its_image_weighted(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (8, 12, 3), "uint8")
    (picture,) = heatmap_overlays(mean_colour(), make_card(), [pixels])
    np.testing.assert_allclose(picture.astype(int), overlay(pixels, pixels @ KERNEL), atol=1)


def test_no_colour_outside_the_crop():
    """Sides 8 and 12 at a crop of 0.8 are 1 to 9 of 10 and 1 to 13 of 15: of 100 and 60 pixels 10 to 90 and 4 to 52."""
    random = np.random.default_rng(1)
    pixels = random.integers(40, 200, (100, 60, 3), "uint8")
    (picture,) = heatmap_overlays(mean_colour(), make_card(crop=0.8), [pixels])
    changed = (picture != pixels).any(axis=-1)
    inside = np.zeros((100, 60), bool)
    inside[10:90, 4:52] = True
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.9
    # Where the image is as large as what is resized to, the map lies on the very pixels that the model saw.
    small = random.integers(0, 256, (10, 15, 3), "uint8")
    (picture,) = heatmap_overlays(mean_colour(), make_card(crop=0.8), [small])
    seen = np.zeros((10, 15))
    seen[1:9, 1:13] = small[1:9, 1:13] @ KERNEL
    np.testing.assert_allclose(picture.astype(int), overlay(small, seen), atol=1)


def test_the_heatmap_of_a_padded_image_lies_where_the_image_lies():
    """16 x 12 into 8 x 12 by a half: six columns of the map are the image's, the others padding's."""
    pixels = np.random.default_rng(1).integers(0, 256, (16, 12, 3), "uint8")
    (picture,) = heatmap_overlays(mean_colour(), make_card(resize=FITS["pad"]), [pixels])
    small = np.rint(resize_image(pixels, (8, 6)))
    expected = overlay(pixels, resize_image((small @ KERNEL)[..., None], (16, 12))[..., 0])
    # Colours are scaled by the largest of the map.
    np.testing.assert_allclose(picture.astype(int), expected, atol=1)
    # With a crop of the centre: 8 x 12 of 10 x 15, whose columns 1 to 13 hold those of the image from 1 to 8 of 8.
    (picture,) = heatmap_overlays(mean_colour(), make_card(resize=FITS["pad"], crop=0.8), [pixels])
    changed = (picture != pixels).any(axis=(0, -1))
    assert not changed[0]
    assert changed[2:].all()


def test_heatmaps_have_the_size_of_their_images_and_keep_folders(tmp_path):
    first = write(tmp_path / "in" / "one" / "a.png", np.full((20, 30), 200, "uint8"))
    second = write(tmp_path / "in" / "two" / "a.jpg", np.full((40, 16), 90, "uint8"))
    written = write_heatmaps(mean_colour(), make_card(), [first, second], tmp_path / "out")
    assert written == [tmp_path / "out" / "one" / "a_heatmap.png", tmp_path / "out" / "two" / "a_heatmap.png"]
    assert [Image.open(path).size for path in written] == [(30, 20), (16, 40)]
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == written


def test_two_images_with_one_heatmap_are_refused_before_anything_is_written(tmp_path):
    pair = [write(tmp_path / name, np.zeros((5, 5), "uint8")) for name in ("a.png", "a.jpg")]
    with pytest.raises(ValueError, match=r"a\.jpg.*a_heatmap\.png"):
        write_heatmaps(mean_colour(), make_card(), pair, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_heatmap_replaces_an_image_that_it_is_made_from(tmp_path):
    pair = [write(tmp_path / name, np.zeros((5, 5), "uint8")) for name in ("a.png", "a_heatmap.png")]
    before = pair[1].read_bytes()
    with pytest.raises(ValueError, match=r"a_heatmap\.png.*another folder"):
        write_heatmaps(mean_colour(), make_card(), pair, tmp_path)
    assert pair[1].read_bytes() == before


def test_the_table_is_plain_data(paths, tmp_path):
    table = predict_images(mean_colour(), make_card(), paths[:2])
    table.to_csv(tmp_path / "table.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), table)
