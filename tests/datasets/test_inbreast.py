import importlib.util
import plistlib
import shutil

import numpy as np
import pandas as pd
import pytest
from medzoo.datasets import Region, image_paths, read, read_inbreast, region_mask
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

HEADER = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
ROWS = [
    "removed;removed;R;CC;201001;101;4;1",
    "removed;removed;L;CC;201001;102;4;2",
    "removed;removed;R;MLO;201001;103;4;3",
    "removed;removed;L;MLO;201001;104;1;4a",
    "removed;removed;L;FB;200901;105;1;4B",
    "removed;removed;R;MLO;200901;106;   ;6",
]
# File id to patient, side and view as in the files' names, where oblique is ML.
FILES = {
    "101": "6c613a14b80a8591_MG_R_CC",
    "102": "6c613a14b80a8591_MG_L_CC",
    "103": "6c613a14b80a8591_MG_R_ML",
    "104": "6c613a14b80a8591_MG_L_ML",
    "105": "fe7d005dcbbfb46d_MG_L_FB",
    "106": "fe7d005dcbbfb46d_MG_R_ML",
}
TRIANGLE = [(640.0, 832.5), (1280.0, 832.5), (640.0, 1664.25)]  # in an image of 2560 x 3328 pixels
FRACTIONS = ((0.25, 832.5 / 3328), (0.5, 832.5 / 3328), (0.25, 1664.25 / 3328))


def write_dicom(file, height, width):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalMammographyXRayImageStorageForPresentation, generate_uid()
    dataset.Rows, dataset.Columns = height, width
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 14, 13, 0
    dataset.PixelData = bytes(2)  # readers open the header only
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(file, enforce_file_format=True)


def write_areas(file, *marks):
    """As OsiriX exports them: a property list of images, their regions and the points as text."""
    regions = [
        {
            "Area": 1.5,
            "Center": "(0.000000, 0.000000, 0.000000)",
            "IndexInImage": number,
            "Name": name,
            "NumberOfPoints": len(points),
            "Point_mm": ["(0.000000, 0.000000, 0.000000)"] * len(points),
            "Point_px": [f"({x:f}, {y:f})" for x, y in points],
            "Type": 15,
        }
        for number, (name, points) in enumerate(marks)
    ]
    file.parent.mkdir(exist_ok=True)
    content = {"Images": [{"ImageIndex": 0, "NumberOfROIs": len(regions), "ROIs": regions}]}
    file.write_bytes(plistlib.dumps(content))


@pytest.fixture
def folder(tmp_path):
    """The release's layout, with annotations as the release has them: none of an image without findings."""
    folder = tmp_path / "INbreast Release 1.0"
    (folder / "AllDICOMs").mkdir(parents=True)
    (folder / "INbreast.csv").write_text("\r\n".join([HEADER, *ROWS]) + "\r\n")
    for name, rest in FILES.items():
        write_dicom(folder / "AllDICOMs" / f"{name}_{rest}_ANON.dcm", 3328, 2560)
    point, line = ("Calcification", TRIANGLE[:1]), ("Calcification", TRIANGLE[:2])
    write_areas(folder / "AllXML" / "102.xml", point, ("Cluster", TRIANGLE))
    write_areas(folder / "AllXML" / "104.xml", ("Mass", TRIANGLE), line, ("Calcifications", TRIANGLE))
    write_areas(folder / "AllXML" / "105.xml", ("Espiculated Region", TRIANGLE))
    write_areas(folder / "AllXML" / "106.xml", ("Assymetry ", TRIANGLE), ("Distortion", TRIANGLE))
    return folder


def refused(folder, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        read_inbreast(folder)
    assert "\n" not in str(caught.value)


def rows_of(table):
    return {row["image"].split("/")[-1][:3]: row for row in table.to_dict("records")}


def without_regions(folder, name):
    """The regions of an image, in a table that says so where they are None."""
    with pytest.warns(UserWarning, match=f"1 of 5 images have lesions that no usable area shows, the first is {name}"):
        assert rows_of(read_inbreast(folder))[name]["regions"] is None


def test_a_row_an_image_with_what_list_name_and_annotations_tell(folder):
    table = read_inbreast(folder)
    rows = rows_of(table)
    assert {name: (row["subject"], row["label"], row["laterality"], row["view"]) for name, row in rows.items()} == {
        "101": ("6c613a14b80a8591", "negative", "R", "CC"),
        "102": ("6c613a14b80a8591", "negative", "L", "CC"),
        "104": ("6c613a14b80a8591", "positive", "L", "MLO"),
        "105": ("fe7d005dcbbfb46d", "positive", "L", "FB"),
        "106": ("fe7d005dcbbfb46d", "positive", "R", "MLO"),
    }
    assert {name: row["regions"] for name, row in rows.items()} == {
        "101": [],
        "102": [Region("benign calcification", FRACTIONS)],
        "104": [Region("malignant mass", FRACTIONS), Region("malignant calcification", FRACTIONS)],
        "105": [Region("malignant mass", FRACTIONS)],
        "106": [Region("malignant mass", FRACTIONS)] * 2,
    }
    assert table.attrs["classes"] == ["negative", "positive"]
    assert (table.attrs["dataset"], table.attrs["subjects"]) == ("inbreast", "named")
    assert all(path.is_file() for path in image_paths(table))
    # A quarter to a half of the width, and of the height: the upper left half of that rectangle.
    mask = region_mask(rows["105"]["regions"][0], (400, 400))
    assert mask.sum() == pytest.approx(100 * 100 / 2, rel=0.05)
    assert mask[110, 110]
    assert not mask[190, 190]


def test_without_annotations_there_are_no_regions(folder):
    shutil.rmtree(folder / "AllXML")
    assert "regions" not in read_inbreast(folder)


@pytest.mark.parametrize("size", [(3328, 2560), (333, 256), (1152, 886)])
def test_conversions_keep_names_and_aspect_ratio_at_any_size(folder, size):
    (folder / "png").mkdir()
    for file in (folder / "AllDICOMs").iterdir():
        Image.new("L", size[::-1]).save(folder / "png" / f"{file.name}.png")
    assert set(read_inbreast(folder)["image"].str[-4:]) == {".dcm"}  # the original where it is there too
    shutil.rmtree(folder / "AllDICOMs")
    assert rows_of(read_inbreast(folder))["105"]["regions"] == [Region("malignant mass", FRACTIONS)]


def test_images_of_the_larger_plate_have_their_own_size(folder):
    write_dicom(folder / "AllDICOMs" / f"105_{FILES['105']}_ANON.dcm", 4084, 3328)
    (region,) = rows_of(read_inbreast(folder))["105"]["regions"]
    assert region.outline[1] == pytest.approx((1280 / 3328, 832.5 / 4084))


def test_a_squashed_image_has_no_regions(folder):
    write_dicom(folder / "AllDICOMs" / f"105_{FILES['105']}_ANON.dcm", 512, 512)
    without_regions(folder, "105")


@pytest.mark.parametrize("marks", [[], [("Mass", TRIANGLE[:2])], [("Mass", TRIANGLE), ("Unnamed", TRIANGLE)]])
def test_a_positive_image_without_a_known_area_has_no_regions(folder, marks):
    write_areas(folder / "AllXML" / "105.xml", *marks)
    without_regions(folder, "105")


def test_points_alone_are_no_lesions_of_a_negative_image(folder):
    write_areas(folder / "AllXML" / "102.xml", ("Calcification", TRIANGLE[:1]), ("Point 1", TRIANGLE[1:2]))
    assert rows_of(read_inbreast(folder))["102"]["regions"] == []


@pytest.mark.parametrize("name", ["102", "105"])
def test_a_lost_file_of_annotations_is_no_answer(folder, name):
    (folder / "AllXML" / f"{name}.xml").unlink()
    without_regions(folder, name)


def test_a_region_outside_its_image(folder):
    write_areas(folder / "AllXML" / "105.xml", ("Mass", [(x + 2560, y) for x, y in TRIANGLE]))
    refused(folder, r"105.xml: 'Mass' around \(3413, 1110\), expected in an image of 2560 x 3328 pixels")
    write_areas(folder / "AllXML" / "105.xml", ("Mass", [*TRIANGLE, (-3000.0, 100.0), (3000.0, 100.0)]))
    refused(folder, r"105.xml: region 'malignant mass': point \(-1.17.*, expected fractions of the image")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<plist><dict>",
        plistlib.dumps({"Image": []}),
        plistlib.dumps({"Images": [{"ROIs": [{"Point_px": ["(1)"] * 3}]}]}),
        plistlib.dumps({"Images": [{"ROIs": [{"Point_px": ["(x, y)"] * 3}]}]}),
    ],
)
def test_damaged_annotations(folder, content):
    (folder / "AllXML" / "105.xml").write_bytes(content)
    refused(folder, r"105.xml: not readable \(.*, expected outlines as OsiriX exports them")


def test_missing_and_unlisted_images_are_counted(folder):
    (folder / "AllDICOMs" / f"102_{FILES['102']}_ANON.dcm").rename(folder / "AllDICOMs" / "102.dcm")
    with (
        pytest.warns(
            UserWarning, match="1 of 5 listed images are not there and left out, the first is 102_<patient>_MG_L"
        ),
        pytest.warns(UserWarning, match="1 image files are in no list and left out, the first is .*102.dcm"),
    ):
        assert len(read_inbreast(folder)) == 4


def test_two_files_that_could_be_the_same_image(folder):
    shutil.copytree(folder / "AllDICOMs", folder / "again")
    refused(folder, r"_ANON.dcm: .*_ANON.dcm could be the same image, expected one")


def test_missing_files(folder):
    shutil.rmtree(folder / "AllDICOMs")
    refused(folder, "none of the 5 listed images is there, expected such as 101_<patient>_MG_R_CC", FileNotFoundError)
    (folder / "INbreast.csv").unlink()
    refused(folder, "INbreast.csv: no such file, expected the list .* INbreast", FileNotFoundError)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (";4B", ";7", "row 6: unknown assessment .Bi-Rads. '7'"),
        (";4B", ";", "row 6: unknown assessment .Bi-Rads. ''"),
        ("L;FB", "B;FB", "row 6, column 'Laterality': 'B', expected L or R"),
        (";105;", ";106;", "row 7, column 'File Name': '106', expected a number that no other row has"),
        (";105;", ";x;", "row 6, column 'File Name': 'x', expected a number"),
        ("Bi-Rads", "BIRADS", "INbreast.csv: no column 'Bi-Rads' among Patient ID, Patient age"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_in_one_line(folder, old, new, message):
    file = folder / "INbreast.csv"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    refused(folder, message)


def test_a_list_saved_with_commas(folder):
    before = read_inbreast(folder)
    file = folder / "INbreast.csv"
    file.write_text(file.read_text().replace(";", ","))
    assert read_inbreast(folder).equals(before)


def test_the_spreadsheet_is_read_where_its_reader_is_installed(folder, monkeypatch):
    """Its rows as pandas gives them, with a note below; without xlrd one line says what to do."""
    before = read_inbreast(folder)
    (folder / "INbreast.csv").unlink()
    (folder / "INbreast.xls").touch()
    if importlib.util.find_spec("xlrd") is None:
        refused(folder, "INbreast.xls: reading it needs the package xlrd; or save the sheet as INbreast.csv")
    sheet = pd.DataFrame([row.split(";") for row in ROWS], columns=HEADER.replace("Bi-Rads", "Bi-Rads ").split(";"))
    sheet.loc[len(sheet)] = [np.nan] * 7 + ["a note"]
    monkeypatch.setattr(pd, "read_excel", lambda file, dtype, engine: sheet)
    assert read_inbreast(folder).equals(before)
    sheet = sheet.drop(columns="View")
    refused(folder, "INbreast.xls: no column 'View' among Patient ID")


def test_the_real_list(shared, tmp_path):
    """Shen and others, section 3.2.1: 410 images, of which 23 have BI-RADS 3; 280 and 107 remain."""
    shutil.copy(shared / "data" / "labels" / "INbreast.csv", tmp_path)
    listed = pd.read_csv(tmp_path / "INbreast.csv", sep=";", dtype=str)
    assert len(listed) == 410
    (tmp_path / "AllDICOMs").mkdir()
    for number, row in listed.iterrows():
        side, view = row["Laterality"], row["View"][:2]
        (tmp_path / "AllDICOMs" / f"{row['File Name']}_{number // 4:016x}_MG_{side}_{view}_ANON.dcm").touch()
    table = read("inbreast", tmp_path)
    assert len(table) == 280 + 107
    assessment = listed.set_index("File Name")["Bi-Rads"]
    names = table["image"].str.extract(r"/(\d+)_")[0]
    positive = assessment[names].str[0].astype(int).to_numpy() >= 4
    assert (positive == (table["label"] == "positive")).all()
    assert "3" not in set(assessment[names])
    assert table["label"].value_counts().to_dict() == {"negative": 67 + 220, "positive": 13 + 8 + 22 + 49 + 8}
