import io
import shutil

import numpy as np
import pandas as pd
import pytest
from medzoo.datasets import Region, image_paths, read, read_cbis_ddsm, region_mask, validation_from_training
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

# The columns of the real tables; the two kinds write the second one differently.
HEADER = (
    "patient_id,{density},left or right breast,image view,abnormality id,abnormality type,{shape},{margin},assessment,"
    "pathology,subtlety,image file path,cropped image file path,ROI mask file path"
)
HEADERS = {
    "mass": HEADER.format(density="breast_density", shape="mass shape", margin="mass margins"),
    "calc": HEADER.format(density="breast density", shape="calc type", margin="calc distribution"),
}
TYPES = {"mass": "mass", "calc": "calcification"}
# Kind, part, patient, side, view, number of the lesion, pathology.
LESIONS = [
    ("mass", "Training", "P_00001", "LEFT", "CC", 1, "BENIGN"),
    ("mass", "Training", "P_00001", "LEFT", "CC", 2, "MALIGNANT"),
    ("mass", "Training", "P_00001", "LEFT", "MLO", 1, "BENIGN_WITHOUT_CALLBACK"),
    ("mass", "Test", "P_00002", "RIGHT", "MLO", 1, "MALIGNANT"),
    ("calc", "Training", "P_00002", "RIGHT", "MLO", 1, "BENIGN"),
    ("calc", "Test", "P_00003", "RIGHT", "CC", 1, "BENIGN"),
]


def case_of(kind, part, patient, side, view):
    return f"{kind.title()}-{part}_{patient}_{side}_{view}"


def series_of(case, lesion=0):
    return f"1.3.6.1.4.1.9590.100.1.2.{int.from_bytes(case.encode()) % 10**30 + lesion}"


def write_tables(folder, lesions=LESIONS):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, header in HEADERS.items():
        for part in ("Training", "Test"):
            lines = [header]
            for lesion in lesions:
                if lesion[:2] == (kind, part):
                    *name, number, pathology = lesion
                    case, (patient, side, view) = case_of(*name), name[2:]
                    path = f"{case}/1.3.6.1/{series_of(case)}/000000.dcm"
                    crop = f"{case}_{number}/1.3.6.1/{series_of(case, number)}/00000"
                    row = f"{patient},3,{side},{view},{number},{TYPES[kind]},ROUND,SPICULATED,4,{pathology},4,{path}"
                    lines.append(f'{row},{crop}0.dcm,"{crop}1.dcm\n"')  # with the line break of the real ones
            name = f"{kind}_case_description_{'train' if part == 'Training' else 'test'}_set.csv"
            (folder / name).write_text("\n".join(lines) + "\n")


def cases_of(lesions=LESIONS):
    return sorted({case_of(*lesion[:5]) for lesion in lesions})


LAYOUTS = {
    "NBIA Data Retriever": lambda case: (
        f"manifest-1/CBIS-DDSM/{case}/07-20-2016-DDSM-NA-30104/1.000000-full mammogram images-94942/1-1.dcm"
    ),
    "older download": lambda case: f"DOI/{case}/1.3.6.1/{series_of(case)}/000000.dcm",
    "converted": lambda case: f"{case}/1.3.6.1/{series_of(case)}/000000.png",
    "Kaggle": lambda case: f"jpeg/{series_of(case)}/1-249.jpg",
    "one file a case": lambda case: f"png/{case}.png",
}


# The two files of a lesion, its crop and its mask, in either order.
LESION_LAYOUTS = {
    "NBIA Data Retriever": lambda case, number: [
        f"manifest-1/CBIS-DDSM/{case}_{number}/07-20-2016-DDSM-NA-1/1.000000-{kind}/1-1.dcm"
        for kind in ("cropped images-77287", "ROI mask images-18515")
    ],
    "older download": lambda case, number: [
        f"DOI/{case}_{number}/1.3.6.1/{series_of(case, number)}/00000{file}.dcm" for file in (0, 1)
    ],
    "converted": lambda case, number: [
        f"{case}_{number}/1.3.6.1/{series_of(case, number)}/00000{file}.png" for file in (0, 1)
    ],
    "Kaggle": lambda case, number: [f"jpeg/{series_of(case, number)}/{file}-249.jpg" for file in (1, 2)],
    "one file a case": lambda case, number: [f"png/{case}_{number}{end}.png" for end in ("", "_mask")],
}
WHOLE = (64, 48)  # height and width of the made-up mammograms
BOX = (slice(16, 32), slice(12, 24))  # where their lesions are


def mask_of(size=WHOLE, box=BOX):
    pixels = np.zeros(size, "uint8")
    pixels[box] = 255
    return pixels


def write_image(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix != ".dcm":
        Image.fromarray(pixels).save(file)
        return
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(file, enforce_file_format=True)


def write_images(folder, layout, lesions=LESIONS, masks=True):
    """The mammograms, and of each lesion the crop and the mask, of every second one in the other's place."""
    for case in cases_of(lesions):
        write_image(folder / LAYOUTS[layout](case), np.full(WHOLE, 99, "uint8"))
    for number, lesion in enumerate(lesions):
        if masks:
            files = LESION_LAYOUTS[layout](case_of(*lesion[:5]), lesion[5])
            crop, mask = files if number % 2 and layout != "one file a case" else files[::-1]
            if layout == "one file a case":
                crop, mask = files
            write_image(folder / crop, np.full((16, 12), 99, "uint8"))
            write_image(folder / mask, mask_of())
    return folder


@pytest.fixture
def folder(tmp_path):
    write_tables(tmp_path / "cbis")
    return write_images(tmp_path / "cbis", "converted")


def refused(folder, match, kind=ValueError, **options):
    with pytest.raises(kind, match=match) as caught:
        read_cbis_ddsm(folder, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tables", ["", "csv"])
def test_every_layout_gives_one_row_an_image(layout, tables, tmp_path):
    write_tables(tmp_path / tables)
    write_images(tmp_path, layout, masks=False)
    with pytest.warns(UserWarning, match="1 training images are of 1 women") as warned:
        table = read_cbis_ddsm(tmp_path)
    assert len(warned) == 1
    rows = {row["image"]: (row["subject"], row["label"], row["view"], row["laterality"]) for _, row in table.iterrows()}
    image = LAYOUTS[layout]
    assert rows == {
        image("Mass-Training_P_00001_LEFT_CC"): ("P_00001", "malignant", "CC", "L"),  # one of two lesions is
        image("Mass-Training_P_00001_LEFT_MLO"): ("P_00001", "benign", "MLO", "L"),
        image("Mass-Test_P_00002_RIGHT_MLO"): ("P_00002", "malignant", "MLO", "R"),
        image("Calc-Training_P_00002_RIGHT_MLO"): ("P_00002", "malignant", "MLO", "R"),  # the same film
        image("Calc-Test_P_00003_RIGHT_CC"): ("P_00003", "benign", "CC", "R"),
    }
    assert table.attrs["classes"] == ["benign", "malignant"]
    assert (table.attrs["dataset"], table.attrs["subjects"]) == ("cbis_ddsm", "named")
    assert "regions" not in table  # images alone


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_are_told_from_crops_in_every_layout(layout, tmp_path):
    write_tables(tmp_path)
    write_images(tmp_path, layout)
    with pytest.warns(UserWarning, match="1 training images are of 1 women") as warned:
        table = read_cbis_ddsm(tmp_path)
    assert len(warned) == 1
    assert len(table) == 5
    regions = dict(zip(table["image"], table["regions"], strict=True))
    labels = {image: [region.label for region in found] for image, found in regions.items()}
    image = LAYOUTS[layout]
    both = [
        "malignant mass",
        "benign calcification",
    ]  # of one film, the mass in one table, the calcification in the other
    assert labels == {
        image("Mass-Training_P_00001_LEFT_CC"): ["benign mass", "malignant mass"],
        image("Mass-Training_P_00001_LEFT_MLO"): ["benign mass"],
        image("Mass-Test_P_00002_RIGHT_MLO"): both,
        image("Calc-Training_P_00002_RIGHT_MLO"): both,
        image("Calc-Test_P_00003_RIGHT_CC"): ["benign calcification"],
    }
    masks = {region.mask for found in regions.values() for region in found}
    assert len(masks) == len(LESIONS)
    for found in regions.values():
        for region in found:
            assert np.array_equal(region_mask(region, WHOLE, table.attrs["root"]), mask_of() > 0)


def test_a_file_of_a_lesion_is_no_mammogram(folder):
    case = "Calc-Test_P_00003_RIGHT_CC"
    write_image(folder / case / f"{case}_1_mask.png", mask_of())
    shutil.rmtree(folder / f"{case}_1")
    with pytest.warns(UserWarning, match="training images"):
        table = read_cbis_ddsm(folder)
    row = table[table["image"].str.startswith(case)].iloc[0]
    assert row["image"].endswith("000000.png")
    assert row["regions"] == [Region("benign calcification", mask=f"{case}/{case}_1_mask.png")]


@pytest.mark.filterwarnings("ignore:.*training images are of")
@pytest.mark.parametrize("size", [(73, 55), (56, 42), (65, 48)])
def test_a_mask_of_another_size_is_stretched_and_counted(folder, size):
    name = "Mass-Training_P_00001_LEFT_CC_1"
    mask = folder / LESION_LAYOUTS["converted"](name[:-2], 1)[0]
    assert Image.open(mask).size == WHOLE[::-1]
    write_image(mask, mask_of(size, tuple(slice(n // 4, n // 2) for n in size)))
    with pytest.warns(UserWarning, match=f"1 masks differ in size from their mammogram .* the first is .*{name}"):
        table = read_cbis_ddsm(folder)
    region = table["regions"][table["image"].str.startswith(name[:-2])].iloc[0][0]
    found = region_mask(region, WHOLE, table.attrs["root"])
    assert found.sum() == pytest.approx(16 * 12, rel=0.2)
    assert found[24, 18]


@pytest.mark.filterwarnings("ignore:.*training images are of")
@pytest.mark.parametrize("damage", ["missing", "truncated", "crops only", "two"])
def test_a_lesion_without_a_mask_leaves_its_image_without_regions(folder, damage):
    case = "Mass-Training_P_00001_LEFT_CC"
    mask, crop = (folder / file for file in LESION_LAYOUTS["converted"](case, 1))
    if damage == "missing":
        shutil.rmtree(mask.parent)
    elif damage == "truncated":
        mask.write_bytes(mask.read_bytes()[:10])
    elif damage == "crops only":
        mask.unlink()
    else:
        write_image(crop, mask_of())  # as large: which is the mask?
    with pytest.warns(
        UserWarning,
        match=f"1 lesions have no mask of their mammogram's size, the first is {case}_1; 1 of 5 mammograms are without",
    ):
        table = read_cbis_ddsm(folder)
    regions = dict(zip(table["image"].str.split("/").str[0], table["regions"], strict=True))
    assert regions.pop(case) is None
    assert all(regions.values())


@pytest.mark.filterwarnings("ignore:.*training images are of")
def test_crops_without_any_mask_are_no_regions(folder):
    for lesion in LESIONS:
        for file in LESION_LAYOUTS["converted"](case_of(*lesion[:5]), lesion[5]):
            if Image.open(folder / file).size == WHOLE[::-1]:
                (folder / file).unlink()
    with pytest.warns(UserWarning, match="6 lesions have no mask .* 5 of 5 mammograms are without regions"):
        assert "regions" not in read_cbis_ddsm(folder)


@pytest.mark.filterwarnings("ignore:.*training images are of")
def test_each_header_is_read_once_and_no_more_than_the_header(folder, monkeypatch):
    from medzoo.datasets import cbis_ddsm

    read_headers = []
    size = cbis_ddsm.image_size
    monkeypatch.setattr(cbis_ddsm, "image_size", lambda file: read_headers.append(file) or size(file))
    read_cbis_ddsm(folder)
    assert len(read_headers) == len(set(read_headers)) == 5 + 2 * len(LESIONS)
    read_headers.clear()
    for lesion in LESIONS:
        shutil.rmtree(folder / f"{case_of(*lesion[:5])}_{lesion[5]}")
    read_cbis_ddsm(folder)
    assert read_headers == []


@pytest.mark.parametrize(
    ("overlap", "moved", "said"),
    [
        ("test", "test", "moved to test"),
        ("drop", None, "left out"),
        ("official", "train", "stay in training"),
    ],
)
def test_training_images_of_women_in_the_test_part(folder, overlap, moved, said):
    with pytest.warns(UserWarning, match=f"1 training images are of 1 women .* {said} .overlap='{overlap}'"):
        table = read_cbis_ddsm(folder, overlap=overlap)
    split = {image.split("/")[0]: part for image, part in zip(table["image"], table["split"], strict=True)}
    assert split.pop("Calc-Training_P_00002_RIGHT_MLO", None) == moved
    assert split == {
        "Mass-Training_P_00001_LEFT_CC": "train",
        "Mass-Training_P_00001_LEFT_MLO": "train",
        "Mass-Test_P_00002_RIGHT_MLO": "test",
        "Calc-Test_P_00003_RIGHT_CC": "test",
    }


@pytest.mark.filterwarnings("ignore:.*training images are of")
def test_missing_images_are_counted(folder):
    shutil.rmtree(folder / "Mass-Training_P_00001_LEFT_CC")
    shutil.rmtree(folder / "Calc-Test_P_00003_RIGHT_CC")
    with pytest.warns(
        UserWarning, match="2 of 5 listed images are not there and left out, the first is Mass-Training_P"
    ):
        assert len(read_cbis_ddsm(folder)) == 3


def test_without_any_image_it_is_an_error(tmp_path):
    write_tables(tmp_path)
    refused(tmp_path, "none of the 5 listed images is there, expected such as Mass-Training_P_", FileNotFoundError)


def test_missing_folders_and_tables(folder, tmp_path):
    refused(tmp_path / "nothing", "nothing: no such folder, expected the images and tables", FileNotFoundError)
    (folder / "calc_case_description_train_set.csv").unlink()
    refused(folder, "calc_case_description_train_set.csv: no such file, expected the list", FileNotFoundError)


def test_an_unknown_overlap(folder):
    refused(folder, "unknown overlap 'tests': did you mean 'test'", overlap="tests")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("BENIGN_WITHOUT_CALLBACK", "BENIGN_WITH_CALLBACK", "row 4: unknown pathology 'BENIGN_WITH_CALLBACK': did you"),
        ("pathology", "diagnosis", "train_set.csv: no column 'pathology' among patient_id"),
        ("P_00001,3,LEFT", "P_00001,3,BOTH", "row 2, column 'left or right breast': 'BOTH', expected LEFT or RIGHT"),
        ("/000000.dcm,Mass-Training_P_00001_LEFT_CC_1", ",x", "row 2: patient 'P_00001' with image file path 'Mass-"),
        ("P_00001,3", ",3", "row 2: patient '' with image file path"),
        (",1,mass,", ",1,lump,", "row 2, column 'abnormality type': 'lump', expected mass or calcification"),
        ('/000000.dcm,"', ',"', "row 2: patient 'P_00001' with cropped image file path 'Mass-"),
    ],
)
def test_a_table_that_does_not_fit(folder, old, new, message):
    file = folder / "mass_case_description_train_set.csv"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    refused(folder, message)


def test_two_images_that_could_be_the_same_mammogram(folder):
    write_images(folder, "Kaggle")
    refused(folder, r"000000.png: .*jpeg/.*1-249.jpg could be the same mammogram, Calc-Test_P_00003_RIGHT_CC/")


def test_of_several_formats_the_original_is_taken(folder):
    case = folder / "Calc-Test_P_00003_RIGHT_CC" / "1.3.6.1"
    write_image(case / series_of("Calc-Test_P_00003_RIGHT_CC") / "000000.dcm", np.zeros(WHOLE, "uint8"))
    with pytest.warns(UserWarning, match="training images"):
        table = read_cbis_ddsm(folder)
    assert len(table) == 5
    assert table["image"].str.endswith(".dcm").sum() == 1


@pytest.fixture(scope="module")
def official(shared, tmp_path_factory):
    """The real tables, and a small image for every one that they name, where Kaggle's conversion has it."""
    folder = tmp_path_factory.mktemp("cbis")
    (folder / "csv").mkdir()
    frames = []
    for file in (shared / "data" / "labels").glob("*_case_description_*_set.csv"):
        shutil.copy(file, folder / "csv")
        frames.append(pd.read_csv(file).assign(part=file.stem.split("_")[3]))
    lesions = pd.concat(frames, ignore_index=True)
    whole, crop = (jpeg_of(size) for size in ((20, 15), (8, 8)))
    for path in lesions["image file path"].unique():
        image = folder / "jpeg" / path.split("/")[2] / "1-001.jpg"
        image.parent.mkdir(parents=True)
        image.write_bytes(whole)
    # The first file of a lesion is the mask if its number is odd, whatever the tables call it.
    for number, lesion in enumerate(lesions.to_dict("records")):
        for file, column in enumerate(("cropped image file path", "ROI mask file path")):
            image = folder / "jpeg" / lesion[column].split("/")[2] / f"{file + 1}-002.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(whole if file != number % 2 else crop)
    return folder, lesions


def jpeg_of(size):
    data = io.BytesIO()
    Image.new("L", size).save(data, "JPEG")
    return data.getvalue()


def counts_of(table):
    return {part: (len(rows), rows["subject"].nunique()) for part, rows in table.groupby("split")}


def test_the_real_tables_as_published(official):
    folder, lesions = official
    with pytest.warns(UserWarning, match="64 training images are of 31 women who are in the official test part too"):
        table = read_cbis_ddsm(folder, overlap="official")
    # Wei and others, MorphHR, section IV.A: 3103 images of 1566 women; 2097, 361 and 645 of 1061, 187 and 349.
    assert (len(table), table["subject"].nunique()) == (3103, 1566)
    assert counts_of(table) == {"train": (2097 + 361, 1061 + 187), "test": (645, 349)}
    assert 1061 + 187 + 349 == 1566 + 31  # the women on both sides are counted twice there
    # By pandas: a film, known by woman, side and view, is malignant if any row of it is.
    film = ["patient_id", "left or right breast", "image view"]
    lesions = lesions.assign(malignant=lesions["pathology"] == "MALIGNANT")
    lesions["malignant"] = lesions.groupby(film)["malignant"].transform("any")
    expected = {
        f"jpeg/{path.split('/')[2]}/1-001.jpg": malignant
        for path, malignant in zip(lesions["image file path"], lesions["malignant"], strict=True)
    }
    assert dict(zip(table["image"], table["label"] == "malignant", strict=True)) == expected
    assert lesions["malignant"].sum() > (lesions["pathology"] == "MALIGNANT").sum()
    # 71 films are in both tables.
    assert len(table) - len(table.drop_duplicates(["subject", "laterality", "view"])) == 71
    assert all(path.is_file() for path in image_paths(table)[:20])


def test_the_lesions_of_the_real_tables(official):
    folder, lesions = official
    with pytest.warns(UserWarning, match="64 training images") as warned:
        table = read_cbis_ddsm(folder)
    assert len(warned) == 1  # every lesion has its mask
    film = ["patient_id", "left or right breast", "image view"]
    number_of = lesions.groupby(film).size().to_dict()
    keys = list(zip(table["subject"], table["laterality"].map({"L": "LEFT", "R": "RIGHT"}), table["view"], strict=True))
    assert [len(found) for found in table["regions"]] == [number_of[key] for key in keys]
    # Of films in one table only, as every lesion counts twice in the others.
    once = table[~pd.Series(keys).duplicated(keep=False)]
    labels = pd.Series([region.label for found in once["regions"] for region in found]).value_counts()
    single = lesions[lesions.groupby(film)["abnormality type"].transform("nunique") == 1]
    malignant = np.where(single["pathology"] == "MALIGNANT", "malignant ", "benign ")
    assert labels.to_dict() == (malignant + single["abnormality type"]).value_counts().to_dict()
    masks = {region.mask for found in table["regions"] for region in found}
    assert len(masks) == len(lesions) == 3568


def test_the_real_tables_without_women_on_both_sides(official):
    with pytest.warns(UserWarning, match="64 training images are of 31 women .* moved to test"):
        table = read("cbis_ddsm", official[0])
    assert counts_of(table) == {"train": (2394, 1217), "test": (709, 349)}
    assert (table.groupby("subject")["split"].nunique() == 1).all()
    with pytest.warns(UserWarning, match="64 training images are of 31 women .* left out"):
        dropped = read("cbis_ddsm", official[0], overlap="drop")
    assert counts_of(dropped) == {"train": (2394, 1217), "test": (645, 349)}
    parts = validation_from_training(table, 0.15, seed=0)
    assert (parts.groupby("subject")["split"].nunique() == 1).all()
    share = {part: (rows["label"] == "malignant").mean() for part, rows in parts.groupby("split")}
    assert abs((parts["split"] == "validation").sum() - 0.15 * 2394) < 2
    assert abs(share["validation"] - share["train"]) < 0.01
