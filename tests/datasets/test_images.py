import struct
import zlib

import cv2
import gdcm
import numpy as np
import pydicom
import pytest
from medzoo.datasets import image_paths, read_busi, read_folder, read_image, resize_image
from medzoo.datasets.images import convert_channels, image_files
from PIL import Image, TiffImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

GREY = np.array([[0, 1, 127], [128, 254, 255]], "uint8")
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
DEEP = np.array([[0, 1, 255], [257, 40000, 65535]], "uint16")
DEEP_COLOUR = np.stack([DEEP, DEEP[::-1], 65535 - DEEP], axis=-1)


def as_read(path):
    image = read_image(path)
    assert image.dtype == np.float32
    return image


# Eight bits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.png", "x.pgm", "x.tif", "x.tiff", "X.PNG"])
def test_grey_is_one_channel_as_stored(tmp_path, name):
    Image.fromarray(GREY).save(tmp_path / name)
    assert np.array_equal(as_read(tmp_path / name), GREY[..., None])


@pytest.mark.parametrize("name", ["x.png", "x.ppm", "x.tif"])
def test_colour_is_three_channels_red_first(tmp_path, name):
    Image.fromarray(COLOUR).save(tmp_path / name)
    assert np.array_equal(as_read(tmp_path / name), COLOUR)


def test_jpeg_grey_and_colour(tmp_path):
    Image.new("L", (16, 16), 77).save(tmp_path / "grey.jpg")
    assert np.array_equal(as_read(tmp_path / "grey.jpg"), np.full((16, 16, 1), 77))
    Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / "colour.jpeg", quality=100)
    assert abs(as_read(tmp_path / "colour.jpeg") - [200, 100, 50]).max() <= 1


def test_grey_stored_as_colour_stays_three_channels(tmp_path):
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "x.png")
    assert np.array_equal(as_read(tmp_path / "x.png"), np.repeat(GREY[..., None], 3, axis=-1))


def test_alpha_is_dropped_also_where_it_hides_a_pixel(tmp_path):
    alpha = np.array([[0, 128, 255], [255, 1, 0]], "uint8")
    Image.fromarray(np.dstack([COLOUR, alpha])).save(tmp_path / "colour.png")
    assert np.array_equal(as_read(tmp_path / "colour.png"), COLOUR)
    Image.fromarray(np.dstack([GREY, alpha]), mode="LA").save(tmp_path / "grey.png")
    assert np.array_equal(as_read(tmp_path / "grey.png"), GREY[..., None])


def test_palettes_are_expanded(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 2]], "uint8"), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "x.png", transparency=0)
    assert as_read(tmp_path / "x.png").tolist() == [[[10, 20, 30], [40, 50, 60]], [[40, 50, 60], [70, 80, 90]]]


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "x.png")
    assert as_read(tmp_path / "x.png").tolist() == [[[255], [0]]]


# Sixteen bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_sixteen_bit_grey_keeps_its_fractions(tmp_path, name):
    cv2.imwrite(str(tmp_path / name), DEEP)
    assert np.allclose(as_read(tmp_path / name)[..., 0], [[0, 1 / 257, 255 / 257], [1, 40000 / 257, 255]], atol=1e-4)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.ppm"])
def test_sixteen_bit_colour_keeps_its_fractions(tmp_path, name):
    cv2.imwrite(str(tmp_path / name), DEEP_COLOUR[..., ::-1])
    assert np.allclose(as_read(tmp_path / name), DEEP_COLOUR / 257, atol=1e-4)


def test_sixteen_bit_png_with_alpha(tmp_path):
    # Written by hand: neither library writes grey with alpha at 16 bits.
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">4H", *row) for row in [(300, 65535, 65535, 0), (1, 9, 40000, 12)])
    (tmp_path / "x.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 4, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    expected = np.array([[300, 65535], [1, 40000]])[..., None] / 257
    assert np.allclose(as_read(tmp_path / "x.png"), expected, atol=1e-4)


@pytest.mark.parametrize(
    "data",
    [
        b"P5\n3 1\n4095\n" + struct.pack(">3H", 0, 1000, 4095),
        b"P5 # a comment with 7 numbers\n3 1 4095\n" + struct.pack(">3H", 0, 1000, 4095),
        b"P2\n3 1\n4095\n0 1000\n4095\n",
    ],
)
def test_pgm_is_scaled_by_its_maxval(tmp_path, data):
    (tmp_path / "x.pgm").write_bytes(data)
    assert np.allclose(as_read(tmp_path / "x.pgm")[0, :, 0], [0, 1000 * 255 / 4095, 255], atol=1e-4)


def test_ppm_of_twelve_bits(tmp_path):
    (tmp_path / "x.ppm").write_bytes(b"P6\n1 1\n4095\n" + struct.pack(">3H", 4095, 819, 0))
    assert np.allclose(as_read(tmp_path / "x.ppm")[0, 0], [255, 51, 0], atol=1e-4)


def test_tiff_where_white_is_zero_is_inverted(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    Image.fromarray(DEEP).save(tmp_path / "deep.tif", tiffinfo=tags)
    with Image.open(tmp_path / "deep.tif") as written:
        assert written.tag_v2[262] == 0
    assert np.allclose(as_read(tmp_path / "deep.tif")[..., 0], 255 - DEEP / 257, atol=1e-4)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff(tmp_path, compression):
    Image.fromarray(DEEP).save(tmp_path / "x.tif", compression=compression)
    assert np.allclose(as_read(tmp_path / "x.tif")[..., 0], DEEP / 257, atol=1e-4)


# Files that are no whole images ----------------------------------------------------------------------------------


def refused(path, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.ppm", "x.tif", "lzw.tif"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_image_cut_anywhere_is_an_error_never_zeros(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype="uint8")
    options = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
    Image.fromarray(noise).save(tmp_path / name, **options)
    data = (tmp_path / name).read_bytes()
    read_image(tmp_path / name)
    for length in [*range(0, len(data) - 20, 37), len(data) - 20, len(data) - 10]:
        (tmp_path / name).write_bytes(data[:length])
        refused(tmp_path / name, "cannot be decoded|not an image")


def test_a_png_without_its_end_is_truncated(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:-12])
    refused(tmp_path / "x.png", "truncated")


def test_a_real_truncated_png(shared, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes((shared / "data" / "busi" / "benign" / "benign (10).png").read_bytes()[:20000])
    refused(path, "truncated")


def test_a_text_file_is_no_image(tmp_path):
    (tmp_path / "x.png").write_text("image,label\n")
    refused(tmp_path / "x.png", "not an image, expected PNG, JPEG, PGM, PPM, TIFF or DICOM")


def test_an_empty_file_is_no_image(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"")
    refused(tmp_path / "x.jpg", "not an image")


def test_a_missing_file_and_a_folder(tmp_path):
    refused(tmp_path / "x.png", "no such image file", FileNotFoundError)
    refused(tmp_path, "no such image file", FileNotFoundError)


def test_several_pages_are_refused_with_the_reason(tmp_path):
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    refused(tmp_path / "x.tif", "it holds 2 frames, expected one")


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(GREY.astype("float32")).save(tmp_path / "x.tif")
    refused(tmp_path / "x.tif", "pixels of mode F")


# DICOM -----------------------------------------------------------------------------------------------------------


def write_dicom(path, stored, bits=12, **elements):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * stored.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


STORED = np.array([[0, 50, 75], [100, 125, 4095]], "uint16")


def test_dicom_without_window_has_the_full_range_of_its_stored_bits(tmp_path):
    grey = as_read(write_dicom(tmp_path / "x.dcm", STORED))
    assert grey.shape == (2, 3, 1)
    assert np.allclose(grey[..., 0], STORED / 4095 * 255, atol=1e-4)
    deep = np.array([[0, 257, 65535]], "uint16")
    assert np.allclose(as_read(write_dicom(tmp_path / "y.dcm", deep, 16))[0, :, 0], [0, 1, 255], atol=1e-4)


# PS3.3 C.11.2.1.2.1 with centre 100.5 and width 101: ((x - 100) / 100 + 0.5), 0 up to 50, 1 above 150.
WINDOWED = np.array([[0, 0, 0.25], [0.5, 0.75, 1]]) * 255


def test_dicom_window(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", STORED, WindowCenter=100.5, WindowWidth=101)
    assert np.allclose(as_read(path)[..., 0], WINDOWED, atol=1e-3)


def test_dicom_takes_the_first_of_several_windows(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", STORED, WindowCenter=[100.5, 9], WindowWidth=[101, 3])
    assert np.allclose(as_read(path)[..., 0], WINDOWED, atol=1e-3)


def test_dicom_window_functions(tmp_path):
    # C.11.2.1.3.2, centre 100 and width 100: ((x - 100) / 100 + 0.5).
    window = {"WindowCenter": 100, "WindowWidth": 100}
    exact = write_dicom(tmp_path / "x.dcm", STORED, VOILUTFunction="LINEAR_EXACT", **window)
    assert np.allclose(as_read(exact)[..., 0], WINDOWED, atol=1e-3)
    # C.11.2.1.3.1: 1 / (1 + exp(-4 (x - 100) / 100)).
    sigmoid = write_dicom(tmp_path / "y.dcm", STORED, VOILUTFunction="SIGMOID", **window)
    expected = np.array([[0.0179862, 0.1192029, 0.2689414], [0.5, 0.7310586, 1]]) * 255
    assert np.allclose(as_read(sigmoid)[..., 0], expected, atol=1e-3)


def test_dicom_monochrome1_is_inverted_after_the_window(tmp_path):
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    path = write_dicom(tmp_path / "x.dcm", STORED, WindowCenter=100.5, WindowWidth=101, **inverted)
    assert np.allclose(as_read(path)[..., 0], 255 - WINDOWED, atol=1e-3)
    path = write_dicom(tmp_path / "y.dcm", STORED, **inverted)
    assert np.allclose(as_read(path)[..., 0], 255 - STORED / 4095 * 255, atol=1e-3)


@pytest.mark.parametrize(("slope", "intercept"), [(5, -100), (0.5, -1000), (-1, 200)])
def test_dicom_window_applies_to_rescaled_values(tmp_path, slope, intercept):
    rescaled = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    stored = ((np.array([[0, 50, 75], [100, 125, 160]]) - intercept) / slope).astype("uint16")
    path = write_dicom(tmp_path / "x.dcm", stored, WindowCenter=100.5, WindowWidth=101, **rescaled)
    assert np.allclose(as_read(path)[..., 0], WINDOWED, atol=1e-3)


def test_dicom_rescaled_without_window(tmp_path):
    up = write_dicom(tmp_path / "x.dcm", STORED, RescaleSlope=2, RescaleIntercept=-1024)
    assert np.allclose(as_read(up)[..., 0], STORED / 4095 * 255, atol=1e-3)
    down = write_dicom(tmp_path / "y.dcm", STORED, RescaleSlope=-1, RescaleIntercept=4095)
    assert np.allclose(as_read(down)[..., 0], 255 - STORED / 4095 * 255, atol=1e-3)


def test_dicom_signed_values(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", np.array([[-2048, 0, 2047]], "int16"))
    assert np.allclose(as_read(path)[0, :, 0], [0, 2048 * 255 / 4095, 255], atol=1e-3)


@pytest.mark.parametrize("rescaled", [{}, {"RescaleSlope": 1, "RescaleIntercept": 0}])
def test_dicom_lookup_table_goes_before_the_window(tmp_path, rescaled):
    table = Dataset()
    table.LUTDescriptor = [4, 100, 16]  # four entries, the first for 100, sixteen bits
    table.add_new("LUTData", "OW", np.array([0, 257, 25700, 65535], "<u2").tobytes())
    stored = np.array([[0, 100, 101], [102, 103, 4095]], "uint16")
    path = write_dicom(tmp_path / "x.dcm", stored, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2, **rescaled)
    assert np.allclose(as_read(path)[..., 0], [[0, 0, 1], [100, 255, 255]], atol=1e-3)


def test_dicom_colour(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", COLOUR, 8, PhotometricInterpretation="RGB")
    assert np.array_equal(as_read(path), COLOUR)


def test_dicom_is_known_by_its_content(tmp_path):
    write_dicom(tmp_path / "x.dcm", STORED).rename(tmp_path / "x.png")
    assert as_read(tmp_path / "x.png").shape == (2, 3, 1)


def test_dicom_run_length_encoded(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", STORED)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    assert np.allclose(as_read(path)[..., 0], STORED / 4095 * 255, atol=1e-4)


@pytest.mark.parametrize(
    ("syntax", "uid"),
    [
        (gdcm.TransferSyntax.JPEGLosslessProcess14_1, JPEGLosslessSV1),
        (gdcm.TransferSyntax.JPEGLSLossless, JPEGLSLossless),
        (gdcm.TransferSyntax.JPEG2000Lossless, "1.2.840.10008.1.2.4.90"),
    ],
)
def test_dicom_compressed_as_scanners_do(tmp_path, syntax, uid):
    stored = np.random.default_rng(0).integers(0, 4096, (40, 50), dtype="uint16")
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(write_dicom(tmp_path / "plain.dcm", stored)))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "x.dcm"))
    assert writer.Write()
    assert pydicom.dcmread(tmp_path / "x.dcm").file_meta.TransferSyntaxUID == uid
    assert np.allclose(as_read(tmp_path / "x.dcm")[..., 0], stored / 4095 * 255, atol=1e-4)


def test_dicom_of_several_frames_is_refused_with_the_reason(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", STORED, NumberOfFrames=3)
    refused(path, "it holds 3 frames, expected one: each row of the table is one image")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dicom_cut_anywhere_is_an_error(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", np.tile(STORED, (10, 10)))
    data = path.read_bytes()
    for length in [*range(0, len(data), 41), len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path, "cannot be decoded|without pixel data")


def test_dicom_without_pixels(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", STORED)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    refused(path, "a DICOM file without pixel data")


# Resizing, channels, files ---------------------------------------------------------------------------------------


def test_resizing_is_pillows_bilinear():
    image = np.random.default_rng(0).integers(0, 256, (37, 53), dtype="uint8")
    ours = resize_image(image[..., None], (10, 20))
    assert (ours.dtype, ours.shape) == (np.float32, (10, 20, 1))
    assert abs(ours[..., 0] - np.asarray(Image.fromarray(image).resize((20, 10), Image.BILINEAR))).max() < 1.01


def test_resizing_by_half_by_hand():
    # Two to one, the triangle filter weighs four neighbours 1 : 3 : 3 : 1 (at the border what there is of them).
    row = np.array([0, 80, 160, 240, 40, 120, 0, 8], "float32")
    resized = resize_image(row[None, :, None], (1, 4))[0, :, 0]
    inner = [(80 + 3 * 160 + 3 * 240 + 40) / 8, (240 + 3 * 40 + 3 * 120 + 0) / 8]
    border = [(3 * 0 + 3 * 80 + 160) / 7, (120 + 3 * 0 + 3 * 8) / 7]
    assert np.allclose(resized, [border[0], *inner, border[1]], atol=1e-3)


def test_resizing_keeps_channels_and_constant_images():
    image = np.broadcast_to(np.array([10.5, 20, 255], "float32"), (9, 7, 3))
    assert np.allclose(resize_image(image, (30, 4)), np.broadcast_to(image[0, 0], (30, 4, 3)), atol=1e-4)
    assert np.array_equal(resize_image(image, (9, 7)), image)


def test_channels():
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], "float32")
    grey = convert_channels(colour, 1)
    assert grey.shape == (1, 4, 1)
    assert np.allclose(grey[0, :, 0], [76.245, 149.685, 29.07, 90], atol=1e-3)
    assert np.array_equal(convert_channels(grey, 3), np.repeat(grey, 3, axis=-1))
    assert convert_channels(colour, 3) is colour


def test_image_files_skip_what_is_hidden_or_no_image(tmp_path):
    for name in ["b.PNG", "a.jpg", "._a.jpg", "notes.txt", "Thumbs.db", "sub/c.dcm", ".hidden/d.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in image_files(tmp_path)] == ["a.jpg", "b.PNG"]
    assert [path.name for path in image_files(tmp_path, recursive=True)] == ["a.jpg", "b.PNG", "c.dcm"]


# Real files ------------------------------------------------------------------------------------------------------


def test_real_images_are_what_another_library_reads(shared):
    paths = image_paths(read_busi(shared / "data" / "busi", twins=False))[::40]
    paths += image_paths(read_folder(shared / "data" / "dtd" / "images"))[::300]
    paths += sorted((shared / "data" / "mini_mias").rglob("*.pgm"))
    for path in paths:
        theirs = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        theirs = theirs[..., None] if theirs.ndim == 2 else theirs[..., ::-1]
        # JPEG decoders may round otherwise.
        assert abs(as_read(path) - theirs).max() <= (3 if path.suffix in (".jpg", ".jpeg") else 0)
