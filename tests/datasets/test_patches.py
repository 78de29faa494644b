import multiprocessing
import pickle
import warnings

import cv2
import numpy as np
import pandas as pd
import pytest
from medzoo.datasets import (
    PATCH_CLASSES,
    Batches,
    PatchImages,
    Region,
    breast_mask,
    cached_images,
    circle_outline,
    encode_labels,
    image_table,
    read,
    region_mask,
    sample_patches,
)
from PIL import Image

HEIGHT, WIDTH, SIZE = 96, 80, 24


def circle(label, x, y, radius):
    return Region(label, circle_outline(x, y, radius, WIDTH, HEIGHT))


def box(label, left, top, right, bottom):
    """Pixels from left to right and from top to bottom, the last ones excluded."""
    left, top, right, bottom = left + 0.5, top + 0.5, right - 0.5, bottom - 0.5
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return Region(label, tuple((x / WIDTH, y / HEIGHT) for x, y in corners))


REGIONS = {
    "a.png": [circle("malignant mass", 40, 50, 8)],  # smaller than a patch
    "b.png": [circle("benign mass", 20, 40, 15), circle("malignant calcification", 40, 80, 3)],  # larger, and tiny
    "c.png": [circle("benign calcification", 1, 48, 6)],  # over the border
    "d.png": [],
    "e.png": None,
}


def draw(number):
    """A breast at the left of the film, a smaller label at the right."""
    random = np.random.default_rng(number)
    image = cv2.ellipse(np.zeros((HEIGHT, WIDTH)), (0, HEIGHT // 2), (62, 44), 0, 0, 360, 120, -1)
    image[4:14, 66:78] = 250
    return np.clip(image + random.normal(8, 4, image.shape), 0, 255).astype("uint8")[..., None]


def make(regions=REGIONS, order=None):
    """An image table and its images."""
    rows = [
        {"image": name, "subject": name[0], "label": "benign", "split": "train", "regions": found}
        for name, found in regions.items()
    ]
    table = image_table(rows, "drawn", "/nowhere", ["benign", "malignant"], "named")
    if order is not None:
        attrs = table.attrs
        table = table.iloc[order].reset_index(drop=True)
        table.attrs = attrs
    return table, np.stack([draw(ord(name[0])) for name in table["image"]])


def overlap(mask, top, left, size=SIZE):
    """Shared area divided by the smaller one, counted pixel by pixel."""
    return mask[top : top + size, left : left + size].sum() / min(size * size, mask.sum())


def masks_of(table, row):
    return [region_mask(region, (HEIGHT, WIDTH)) for region in table["regions"][row]]


def places_of(patches, row, label):
    chosen = patches[(patches["row"] == row) & (patches["label"] == label)]
    return list(zip(chosen["top"], chosen["left"], strict=True))


@pytest.mark.parametrize(("patch_set", "count"), [("S1", 1), ("S10", 10)])
def test_columns_and_counts(patch_set, count):
    table, images = make()
    patches = sample_patches(table, images, patch_set, SIZE)
    assert list(patches.columns) == ["row", "image", "subject", "split", "top", "left", "label"]
    assert patches["label"].value_counts().to_dict() == {"background": 4 * count} | dict.fromkeys(
        PATCH_CLASSES[1:], count
    )
    assert patches.groupby("row").size().to_dict() == {0: 2 * count, 1: 4 * count, 2: 2 * count}
    assert patches["image"].tolist() == table["image"].iloc[patches["row"]].tolist()
    assert patches["subject"].tolist() == table["subject"].iloc[patches["row"]].tolist()
    assert patches["top"].between(0, HEIGHT - SIZE).all()
    assert patches["left"].between(0, WIDTH - SIZE).all()
    encoded = encode_labels(patches, PATCH_CLASSES)
    assert [PATCH_CLASSES[index] for index in encoded] == patches["label"].tolist()


def test_patches_of_s10_overlap_their_region_and_are_distinct():
    table, images = make()
    patches = sample_patches(table, images, "S10", SIZE)
    for row in range(3):
        for region, mask in zip(table["regions"][row], masks_of(table, row), strict=True):
            places = places_of(patches, row, region.label)
            assert len(set(places)) == 10
            assert min(overlap(mask, *place) for place in places) >= 0.9


def test_places_of_s10_are_drawn_from_all_that_overlap_enough():
    """Over many seeds every place that qualifies by brute force is taken, about as often as any other."""
    table, images = make({"a.png": [circle("benign mass", 20, 20, 10)]})
    mask = masks_of(table, 0)[0]
    places = [(top, left) for top in range(HEIGHT - SIZE + 1) for left in range(WIDTH - SIZE + 1)]
    allowed = [place for place in places if overlap(mask, *place) >= 0.9]
    assert 30 < len(allowed) < 100
    drawn = dict.fromkeys(allowed, 0)
    for seed in range(200):
        for place in places_of(sample_patches(table, images, "S10", SIZE, seed), 0, "benign mass"):
            drawn[place] += 1
    share = 10 / len(allowed)
    deviation = (200 * share * (1 - share)) ** 0.5
    assert sum(drawn.values()) == 2000
    assert max(abs(count - 200 * share) for count in drawn.values()) < 4 * deviation


def test_the_patch_of_s1_is_centred_and_shifted_at_the_border():
    regions = {"a.png": [box("malignant mass", 30, 40, 40, 60)], "b.png": [box("benign mass", 0, 86, 10, 96)]}
    table, images = make(regions)
    patches = sample_patches(table, images, "S1", SIZE)
    # The middle of the first is (x 35, y 50): 12 to the left and above; the second lies in the lower left corner.
    assert places_of(patches, 0, "malignant mass") == [(38, 23)]
    assert places_of(patches, 1, "benign mass") == [(HEIGHT - SIZE, 0)]


def test_background_shows_the_breast_and_no_lesion():
    table, images = make()
    patches = sample_patches(table, images, "S10", SIZE)
    for row in range(3):
        lesions = np.any(masks_of(table, row), axis=0)
        breast = cv2.ellipse(np.zeros((HEIGHT, WIDTH)), (0, HEIGHT // 2), (62, 44), 0, 0, 360, 1, -1)
        places = places_of(patches, row, "background")
        assert len(set(places)) == len(places)
        for top, left in places:
            assert not lesions[top : top + SIZE, left : left + SIZE].any()
            # The mask found may be a little wider than the one drawn.
            assert breast[top : top + SIZE, left : left + SIZE].mean() > 0.42


def test_the_same_seed_gives_the_same_patches_whatever_the_order_of_the_rows():
    table, images = make()
    first = sample_patches(table, images, "S10", SIZE, seed=3)
    pd.testing.assert_frame_equal(sample_patches(table, images, "S10", SIZE, seed=3), first)
    mixed = sample_patches(*make(order=[4, 2, 0, 3, 1]), "S10", SIZE, seed=3)
    assert mixed["row"].unique().tolist() == [1, 2, 4]
    pd.testing.assert_frame_equal(
        mixed.drop(columns="row").sort_values("image", kind="stable", ignore_index=True), first.drop(columns="row")
    )
    alone = sample_patches(*make({"b.png": REGIONS["b.png"]}), "S10", SIZE, seed=3)
    assert alone[["top", "left"]].to_numpy().tolist() == first[first["row"] == 1][["top", "left"]].to_numpy().tolist()
    other = sample_patches(table, images, "S10", SIZE, seed=4)
    assert other[["top", "left"]].to_numpy().tolist() != first[["top", "left"]].to_numpy().tolist()


def test_a_region_that_no_patch_covers_gives_the_nearest_and_a_warning():
    """A strip of 60 pixels by 4: a patch of 24 covers at most 24 * 4 of its 240 pixels."""
    table, images = make({"a.png": [box("benign mass", 2, 30, 62, 34)]})
    with pytest.warns(
        UserWarning, match=r"1 region\(s\) without 10 places of overlap 0.9.*\n  a.png: benign mass.*0.40"
    ):
        patches = sample_patches(table, images, "S10", SIZE)
    mask = masks_of(table, 0)[0]
    places = places_of(patches, 0, "benign mass")
    assert [overlap(mask, *place) for place in places] == [pytest.approx(0.4)] * 10
    assert len(set(places)) == 10
    assert max(left for _, left in places) - min(left for _, left in places) > 5  # not those of one corner


def test_too_little_background_gives_fewer_patches_and_a_warning():
    table, images = make({"a.png": [box("benign mass", 0, 2, 64, 94)], "b.png": REGIONS["a.png"]})
    with pytest.warns(UserWarning, match=r"^1 image\(s\) with too few background places\n  a.png: 0 of 10$"):
        patches = sample_patches(table, images, "S10", SIZE)
    assert patches.groupby(["image", "label"]).size().to_dict() == {
        ("a.png", "benign mass"): 10,
        ("b.png", "background"): 10,
        ("b.png", "malignant mass"): 10,
    }


def test_an_image_with_a_region_that_cannot_be_placed_is_left_out_and_named():
    outside = Region("benign mass", ((1.2, 0.5), (1.3, 0.5), (1.3, 0.6)))
    regions = {
        "a.png": [circle("malignant mass", 40, 50, 8), outside],
        "b.png": REGIONS["b.png"],
        "c.png": [Region("benign mass", mask="lost.png")],
    }
    table, images = make(regions)
    with pytest.warns(UserWarning, match=r"^2 image\(s\) with a region that cannot be placed") as caught:
        patches = sample_patches(table, images, "S10", SIZE)
    assert patches["image"].unique().tolist() == ["b.png"]
    assert "a.png: " in str(caught[0].message)
    assert "lost.png" in str(caught[0].message)


def test_padded_frames_place_regions_in_their_window(tmp_path):
    """A film of 96 by 80 in frames of 96 by 160: beside it is black, and its lesion is where it was."""
    Image.fromarray(draw(97)[..., 0]).save(tmp_path / "a.png")
    table, _ = make({"a.png": REGIONS["a.png"]})
    table.attrs["root"] = str(tmp_path)
    images = cached_images(table, (HEIGHT, 2 * WIDTH), channels=1, fit="pad")
    assert images.windows.tolist() == [[0, 0, HEIGHT, WIDTH]]
    patches = sample_patches(table, images, "S10", SIZE)
    mask = np.pad(masks_of(table, 0)[0], ((0, 0), (0, WIDTH)))
    assert min(overlap(mask, *place) for place in places_of(patches, 0, "malignant mass")) >= 0.9
    background = places_of(patches, 0, "background")
    assert len(background) == 10
    # At least half of each shows the breast, which ends at 62 pixels.
    assert max(left for _, left in background) <= 62 - SIZE / 2 + 2
    pixels = PatchImages(images, patches, SIZE).read(range(20))
    for patch, found in zip(patches.itertuples(), pixels, strict=True):
        whole = np.pad(draw(97), ((0, 0), (0, WIDTH), (0, 0)))
        np.testing.assert_array_equal(found, whole[patch.top : patch.top + SIZE, patch.left : patch.left + SIZE])


@pytest.mark.parametrize("bright", [60, 240])
def test_breast_mask_finds_the_breast_and_no_label(bright):
    """On film with a lighter ground, dense tissue and a label, and on a flat bright digital image."""
    breast = cv2.ellipse(np.zeros((300, 240)), (0, 150), (180, 130), 0, 0, 360, 1, -1)
    image = 12 + np.random.default_rng(0).normal(0, 3, breast.shape) + breast * bright * 0.8
    image += cv2.GaussianBlur(cv2.circle(np.zeros_like(breast), (60, 150), 40, 1.0, -1), (0, 0), 8) * bright * 0.2
    image[10:40, 190:230] = 255
    image[:, 236:238] = 255
    found = breast_mask(np.clip(image, 0, 255)[..., None])
    assert (found & (breast > 0)).sum() / (found | (breast > 0)).sum() > 0.97
    assert not found[:45, 185:].any()


def test_breast_mask_of_an_image_without_contrast_is_empty():
    assert not breast_mask(np.full((40, 30, 3), 7, "uint8")).any()


def test_patch_images_are_the_pixels_at_their_places(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), "uint8")
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    rows = [{"image": tmp_path / f"{number}.png", "label": "x"} for number in range(3)]
    table = image_table(rows, "noise", tmp_path, ["x"], "none")
    patches = pd.DataFrame({"row": [2, 0, 2], "top": [0, 24, 5], "left": [14, 0, 3]})
    expected = np.stack([images[2, :16, 14:], images[0, 24:, :16], images[2, 5:21, 3:19]])
    for source in (images, cached_images(table, (40, 30), folder=tmp_path / "cache")):
        found = PatchImages(source, patches, 16)
        assert (len(found), found.shape) == (3, (3, 16, 16, 3))
        np.testing.assert_array_equal(found.read([0, 1, 2]), expected)
        np.testing.assert_array_equal(found.read(np.array([2, 0])), expected[[2, 0]])
        assert found.read([]).shape == (0, 16, 16, 3)
    assert found.read([0]).dtype == np.uint8
    pickled = pickle.dumps(found)
    assert len(pickled) < 2000  # the file's name, not its pixels
    np.testing.assert_array_equal(pickle.loads(pickled).read([1]), expected[[1]])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        np.testing.assert_array_equal(np.concatenate(pool.map(found.read, [[0], [1], [2]])), expected)
    x, _, weights = Batches(found, [1, 0, 1], batch_size=3, balance=True)[0]
    np.testing.assert_array_equal(x, expected.astype("float32"))
    assert weights.tolist() == [0.75, 1.5, 0.75]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"row": [3], "top": [0], "left": [0]}, "patch 0 of 16 pixels is at"),
        ({"row": [0], "top": [25], "left": [0]}, r"at \(25, 0\) of image 0, expected a place in 3 frames of 40x30"),
        ({"row": [0], "top": [0], "left": [-1]}, r"at \(0, -1\)"),
    ],
)
def test_patches_outside_their_frames_are_refused(place, message):
    with pytest.raises(ValueError, match=message) as caught:
        PatchImages(np.zeros((3, 40, 30, 1), "uint8"), pd.DataFrame(place), 16)
    assert "\n" not in str(caught.value)


def test_indices_that_are_no_integers_are_refused():
    patches = PatchImages(np.zeros((1, 8, 8, 1), "uint8"), pd.DataFrame({"row": [0], "top": [0], "left": [0]}), 8)
    with pytest.raises(ValueError, match=r"indices is bool of shape \(1,\)"):
        patches.read([True])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_set": "S100"}, "unknown patch set 'S100': did you mean 'S10'"),
        ({"size": 81}, "size is 81, expected 1 to 80: the frames are 96x80 pixels"),
        ({"size": 0}, "size is 0"),
        ({"seed": -1}, "seed is -1, expected a whole number, 0 or more"),
        ({"images": np.zeros((4, 96, 80, 1))}, "images: received 4, expected 5, one for each row of the table"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    table, images = make()
    with pytest.raises(ValueError, match=message) as caught:
        sample_patches(**{"table": table, "images": images, "size": SIZE, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("regions", [{"a.png": [], "b.png": None}, {"a.png": None, "b.png": None}])
def test_a_table_without_regions_is_refused(regions):
    table, images = make(regions)
    with pytest.raises(ValueError, match="table of 'drawn': no image has regions, expected at least one"):
        sample_patches(table, images, size=SIZE)
    with pytest.raises(ValueError, match="no image has regions"):
        sample_patches(table.drop(columns="regions"), images, size=SIZE)


def test_progress_goes_to_stderr(capsys):
    sample_patches(*make(), "S1", SIZE)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.endswith("sampling patches: 3/3\n")


def test_patches_of_mini_mias(shared):
    """Every located lesion gives ten patches; the labels are counted in Info.txt, the overlaps pixel by pixel."""
    table = read("mini_mias", shared / "data" / "mini_mias")
    lesions = [region for found in table["regions"] if isinstance(found, list) for region in found]
    images = cached_images(table, (256, 256), channels=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no image lacks background, and no region places
        patches = sample_patches(table, images, "S10", 56)
    counts = patches["label"].value_counts().to_dict()
    assert counts.pop("background") == 10 * len(lesions)
    assert counts == {
        label: 10 * count for label, count in pd.Series([region.label for region in lesions]).value_counts().items()
    }
    for row, found in patches.groupby("row"):
        masks = [region_mask(region, (256, 256)) for region in table["regions"][row]]
        lesion = [(patch.top, patch.left) for patch in found.itertuples() if patch.label != "background"]
        for number, place in enumerate(lesion):
            assert overlap(masks[number // 10], *place, 56) >= 0.9
        for patch in found[found["label"] == "background"].itertuples():
            assert not any(overlap(mask, patch.top, patch.left, 56) for mask in masks)
