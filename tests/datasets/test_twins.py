"""Twins on made-up tissue whose truth is known, and on BUSI against pairs that were confirmed by eye."""

import csv
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from medzoo.datasets import twins as module
from medzoo.datasets.busi import read_busi
from medzoo.datasets.table import image_table
from medzoo.datasets.twins import contact_sheet, find_twins, twin_subjects, write_table
from PIL import Image, ImageDraw, ImageFont

EYE = Path(__file__).with_name("busi_twins.csv")


def tissue(seed, size=360):
    """Made-up ultrasound: speckle of two grain sizes under a smooth map of echogenicity, uint8 (size, size)."""
    noise = np.random.default_rng(seed).normal(size=(4, size, size)).astype("float32")
    smooth = [cv2.GaussianBlur(layer, (0, 0), sigma) for layer, sigma in zip(noise, (1.5, 1.5, 5, 25), strict=True)]
    fine, other, coarse, echo = (layer / layer.std() for layer in smooth)
    image = 20 * np.log(1e-3 + fine**2 + other**2) / 2 + 22 * coarse + 25 * echo + 110
    return image.clip(0, 255).astype("uint8")


def crop(image, top, left, height, width, size=(256, 256)):
    return cv2.resize(image[top : top + height, left : left + width], size[::-1], interpolation=cv2.INTER_AREA)


def write_on(image, text, place=(20, 200), size=18):
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text(place, text, fill=255, font=ImageFont.load_default(size=size))
    return np.asarray(picture)


def with_callipers(image):
    image = image.copy()
    for x, y in ((60, 90), (170, 120), (100, 50), (120, 170)):
        cv2.drawMarker(image, (x, y), 255, cv2.MARKER_CROSS, 12, 2)
    cv2.line(image, (60, 90), (170, 120), 255, 1)
    cv2.line(image, (100, 50), (120, 170), 255, 1)
    return image


def with_gain(image, gamma, factor):
    return (255 * factor * (image / 255.0) ** gamma).clip(0, 255).astype("uint8")


def make_table(folder, images, labels=None):
    """Writes images (mapping of name to uint8 array) and returns their table."""
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        Image.fromarray(image).save(folder / name)
    labels = labels or {}
    rows = [{"image": name, "label": labels.get(name, "benign")} for name in images]
    return image_table(rows, "scans", folder, ["benign", "malignant"], "none")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SCENE = tissue(0)
PICTURED_AGAIN = {
    "crop": crop(SCENE, 60, 50, 220, 220),
    "squash": crop(SCENE, 40, 30, 200, 260),
    "dark": with_gain(crop(SCENE, 50, 30, 256, 256), 1.5, 0.7),
    "bright": with_gain(crop(SCENE, 50, 30, 256, 256), 0.7, 1.1),
    "caption": write_on(crop(SCENE, 50, 30, 256, 256), "RT AXILLA 10 O'CLOCK"),
    "callipers": with_callipers(crop(SCENE, 50, 30, 256, 256)),
    "large": cv2.resize(SCENE[40:320, 20:300], (700, 700), interpolation=cv2.INTER_CUBIC),
    "small": crop(SCENE, 40, 30, 280, 280, (180, 180)),
    "tilted": cv2.warpAffine(SCENE, cv2.getRotationMatrix2D((180, 180), 7, 1), (360, 360))[50:306, 50:306],
}
OTHERS = {f"other{seed}.png": crop(tissue(seed), 30, 30, 256, 256) for seed in range(1, 5)}


@pytest.mark.parametrize("change", PICTURED_AGAIN)
def test_the_same_tissue_pictured_again_is_a_twin(tmp_path, own_cache, change):
    images = {"a.png": crop(SCENE, 30, 30, 256, 256), "b.png": PICTURED_AGAIN[change], **OTHERS}

    twins = find_twins(make_table(tmp_path / "scans", images))

    assert list(zip(twins.pairs["image"], twins.pairs["twin"], strict=True)) == [("a.png", "b.png")]
    assert twins.groups == {"a.png": "a.png", "b.png": "a.png", **{name: name for name in OTHERS}}


def test_evidence_is_the_transform_that_was_applied(tmp_path, own_cache):
    # 256 pixels of the scene in the first picture are 256 of the file, 200 x 260 become 256 x 256 in the second.
    images = {"a.png": crop(SCENE, 30, 30, 256, 256), "b.png": PICTURED_AGAIN["squash"], **OTHERS}
    evidence = find_twins(make_table(tmp_path / "squash", images)).pairs.iloc[0]
    assert evidence["scale"] == pytest.approx(np.sqrt(256 / 200 * 256 / 260), rel=0.01)
    assert evidence["aspect"] == pytest.approx(260 / 200, rel=0.02)
    assert evidence["rotation"] == pytest.approx(0, abs=0.5)
    # the second picture shows rows 40 to 240 and columns 30 to 290 of the scene, the first 30 to 286 of both
    assert evidence["overlap"] == pytest.approx(200 * 256 / 256**2, abs=0.02)
    assert evidence["correlation"] > 0.9

    images["b.png"] = PICTURED_AGAIN["large"]
    assert find_twins(make_table(tmp_path / "large", images)).pairs.iloc[0]["scale"] == pytest.approx(
        700 / 280, rel=0.01
    )

    # OpenCV's 7 degrees are counter-clockwise as seen on a screen, and the evidence's clockwise
    images["b.png"] = PICTURED_AGAIN["tilted"]
    assert find_twins(make_table(tmp_path / "tilted", images)).pairs.iloc[0]["rotation"] == pytest.approx(-7, abs=0.5)


def test_evidence_is_reversed_when_the_names_are(tmp_path, own_cache):
    pictures = [PICTURED_AGAIN["tilted"], PICTURED_AGAIN["large"]]
    forward = find_twins(
        make_table(tmp_path / "forward", dict(zip(("a.png", "b.png"), pictures, strict=True)) | OTHERS)
    )
    backward = find_twins(make_table(tmp_path / "back", dict(zip(("b.png", "a.png"), pictures, strict=True)) | OTHERS))
    first, second = forward.pairs.iloc[0], backward.pairs.iloc[0]
    assert first["scale"] * second["scale"] == pytest.approx(1)
    assert first["rotation"] == -second["rotation"] != 0
    assert first["inliers"] == second["inliers"]


def test_a_burned_in_caption_and_frame_are_no_evidence(tmp_path, own_cache, monkeypatch):
    def overlay(image):
        image = write_on(image, "GENERAL HOSPITAL BREAST", (8, 6), 17)
        image = write_on(image, "RT AXILLA 10 O'CLOCK", (30, 200), 20)
        image = write_on(image, "12.03.2018 14:07 L12-5 MHz", (8, 232), 16)
        for depth in range(30, 200, 12):
            cv2.line(image := image.copy(), (240, depth), (252, depth), 255, 2)
        return cv2.rectangle(image, (2, 2), (253, 253), 255, 1)

    table = make_table(tmp_path / "scans", {name: overlay(image) for name, image in OTHERS.items()})
    assert find_twins(table).pairs.empty

    # The overlay alone would do, did the tissue not have to agree: else this test shows nothing.
    monkeypatch.setattr(module, "CORRELATION", -1)
    monkeypatch.setattr(module, "VERSION", "without correlation")
    assert len(find_twins(table).pairs) == 6


def test_contradictory_labels_are_reported(tmp_path, own_cache):
    images = {f"{name}.png": PICTURED_AGAIN[name] for name in ("crop", "dark", "large")} | OTHERS
    table = make_table(tmp_path / "scans", images, {"dark.png": "malignant", "other1.png": "malignant"})

    twins = find_twins(table)

    found = twins.contradictions[["image", "label", "twin", "twin_label"]].values.tolist()
    assert found == [["crop.png", "benign", "dark.png", "malignant"], ["dark.png", "malignant", "large.png", "benign"]]
    assert twins.contradictory_groups() == ["crop.png"]
    assert twins.members() == {"crop.png": ["crop.png", "dark.png", "large.png"]}
    assert "crop.png (benign) ~ dark.png (malignant)" in str(twins)
    assert "2 pairs with contradictory labels, in 1 groups" in str(twins)


def test_result_does_not_depend_on_the_order_of_rows_or_on_chance(tmp_path, own_cache, monkeypatch):
    images = {f"{name}.png": image for name, image in PICTURED_AGAIN.items()} | OTHERS
    table = make_table(tmp_path / "scans", images)
    shuffled = table.sample(frac=1, random_state=3)
    shuffled.attrs = table.attrs
    assert list(shuffled["image"]) != list(table["image"])

    first = find_twins(table)
    monkeypatch.setenv("MEDZOO_CACHE", str(tmp_path / "second"))
    cv2.setRNGSeed(7)
    second = find_twins(shuffled)

    assert len(first.pairs) == len(list(itertools.combinations(PICTURED_AGAIN, 2)))
    assert second.groups == first.groups
    assert second.pairs.equals(first.pairs)


def test_identical_files_are_twins_even_without_texture(tmp_path, own_cache):
    blank = np.zeros((64, 64), "uint8")
    table = make_table(
        tmp_path / "scans", {"x.png": blank, "y.png": blank, "z.png": tissue(9), "tiny.png": blank[:3, :2]}
    )
    twins = find_twins(table)
    assert twins.groups == {"tiny.png": "tiny.png", "x.png": "x.png", "y.png": "x.png", "z.png": "z.png"}
    assert twins.pairs["correlation"].tolist() == [1.0]


def test_results_are_cached_by_content(tmp_path, own_cache, monkeypatch):
    images = {"a.png": crop(SCENE, 30, 30, 256, 256), "b.png": PICTURED_AGAIN["crop"], **OTHERS}
    table = make_table(tmp_path / "scans", images)
    first = find_twins(table)
    searched = []
    original = module._find_pairs
    monkeypatch.setattr(module, "_find_pairs", lambda paths: searched.append(len(paths)) or original(paths))

    table["label"] = "malignant"
    assert find_twins(table).pairs["label"].tolist() == ["malignant"]
    elsewhere = make_table(tmp_path / "elsewhere", {name.replace("a", "c"): image for name, image in images.items()})
    assert find_twins(elsewhere).groups["c.png"] == "b.png"
    assert searched == []

    (found,) = (own_cache / "twins").iterdir()
    found.write_text(found.read_text()[:-20])
    assert find_twins(table).groups == first.groups
    assert searched == [6]

    Image.fromarray(tissue(11)).save(tmp_path / "scans" / "b.png")
    assert find_twins(table).pairs.empty
    assert searched == [6, 6]


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDZOO_CACHE", str(tmp_path / "file"))
    images = {"a.png": crop(SCENE, 30, 30, 256, 256), "b.png": PICTURED_AGAIN["crop"]}
    with pytest.warns(UserWarning, match="are not kept") as warned:
        twins = find_twins(make_table(tmp_path / "scans", images))
    assert "\n" not in str(warned[0].message)
    assert len(twins.pairs) == 1


def test_twin_groups_become_subjects(tmp_path, own_cache):
    images = {"a.png": crop(SCENE, 30, 30, 256, 256), "b.png": PICTURED_AGAIN["crop"], **OTHERS}
    table = make_table(tmp_path / "scans", images)

    grouped = twin_subjects(table)

    assert grouped["subject"].tolist() == ["a.png", "a.png", *OTHERS]
    assert grouped.attrs == {**table.attrs, "subjects": "twins"}
    assert table["subject"].tolist() == list(table["image"])
    assert table.attrs["subjects"] == "none"


def test_table_and_contact_sheet(tmp_path, own_cache):
    images = {"a, b.png": crop(SCENE, 30, 30, 256, 256), "b.png": PICTURED_AGAIN["crop"], **OTHERS}
    images |= {f"again-{name}": crop(image, 8, 8, 240, 240) for name, image in OTHERS.items()}
    twins = find_twins(make_table(tmp_path / "scans", images, {"b.png": "malignant"}))

    write_table(twins, tmp_path / "twins.csv")
    with open(tmp_path / "twins.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"]: row["group"] for row in rows} == twins.groups
    assert [row["image"] for row in rows] == sorted(images)

    (page,) = contact_sheet(twins, tmp_path / "sheet.png")
    with Image.open(page) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    # the contradictory pair comes first, its names in red; ten pictures with their names, five pairs, nine a row
    assert ((pixels[:30, :340, 0] - pixels[:30, :340, 1]) > 80).any()
    assert not ((pixels[:30, 360:, 0] - pixels[:30, 360:, 1]) > 80).any()
    reference = cv2.resize(images["a, b.png"], (168, 168), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(pixels[34:202, 4:172, 0].ravel(), reference.ravel())[0, 1] > 0.95

    pages = contact_sheet(twins, tmp_path / "paged.png", rows=1)
    assert [page.name for page in pages] == ["paged.png", "paged-2.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["paged-2.png", "paged.png", "sheet.png"]


def test_no_twins_no_sheet(tmp_path, own_cache):
    twins = find_twins(make_table(tmp_path / "scans", OTHERS))
    with pytest.raises(ValueError, match="no twins among the 4 images"):
        contact_sheet(twins, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(("content", "error"), [(None, FileNotFoundError), (b"no image", ValueError)])
def test_bad_images_are_named_in_one_line(tmp_path, own_cache, content, error):
    table = make_table(tmp_path / "scans", OTHERS)
    path = tmp_path / "scans" / "other2.png"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(error, match=r"other2\.png") as raised:
        find_twins(table)
    assert "\n" not in str(raised.value)


def eye_verdicts():
    """Pairs of BUSI by what the eye says: (nearly) the same picture, another frame of the same lesion, different."""
    with open(EYE, newline="") as file:
        rows = list(csv.DictReader(file))
    verdicts = ("same", "other frame", "different")
    return [{(row["image"], row["twin"]) for row in rows if row["verdict"] == verdict} for verdict in verdicts]


def test_busi_agrees_with_the_eye(shared, own_cache):
    """A part of BUSI: all contradictory and all doubtful pairs, the near misses, and images without a twin."""
    same, other_frame, different = eye_verdicts()
    table = read_busi(shared / "data" / "busi", classes=("benign", "malignant", "normal"), twins=False)
    doubtful = {"malignant (4).png", "malignant (28).png", "benign (94).png", "benign (116).png", "malignant (95).png"}
    chosen = {image for pair in different for image in pair}
    for first, second in same:
        if first.split("/")[0] != second.split("/")[0] or {Path(first).name, Path(second).name} & doubtful:
            chosen |= {first, second}
    has_twin = {image for pair in same | other_frame for image in pair}
    chosen |= set([image for image in table["image"] if image not in has_twin][::20])
    part = table[table["image"].isin(chosen)]
    part.attrs = table.attrs

    twins = find_twins(part)

    found = set(zip(twins.pairs["image"], twins.pairs["twin"], strict=True))
    expected = {pair for pair in same if chosen.issuperset(pair)}
    assert len(expected) > 30
    assert len(expected - found) <= 1
    assert not found - expected - other_frame
    contradictions = set(zip(twins.contradictions["image"], twins.contradictions["twin"], strict=True))
    assert len(contradictions) == 11
    assert ("benign/benign (131).png", "malignant/malignant (51).png") in contradictions
    assert ("benign/benign (399).png", "malignant/malignant (93).png") in contradictions
    assert not [pair for pair in different if twins.groups[pair[0]] == twins.groups[pair[1]]]


@pytest.mark.slow
def test_all_of_busi_agrees_with_the_eye(shared, own_cache):
    same, other_frame, different = eye_verdicts()
    table = read_busi(shared / "data" / "busi", classes=("benign", "malignant", "normal"), twins=False)
    twins = find_twins(table)
    found = set(zip(twins.pairs["image"], twins.pairs["twin"], strict=True))
    assert len(same) == 205
    assert len(found & same) >= 0.97 * len(same)
    assert not found - same - other_frame
    assert not [pair for pair in different if twins.groups[pair[0]] == twins.groups[pair[1]]]
    assert {image for pair in same for image in pair}.issubset({*twins.labels()})
