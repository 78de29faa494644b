"""Image files of any kind to one decoded form: float32, height x width x channels (1 or 3), values in [0, 255]."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from .._nearest import require
from .containers import member_bytes
from .dicom import OtherKind, decode_dicom
from .policies import DICOM_POLICIES, FITS

DICOM_SUFFIXES = (".dcm", ".dicom")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".pnm", ".tif", ".tiff")
SUFFIXES = (*PICTURE_SUFFIXES, *DICOM_SUFFIXES)
KINDS = "PNG, JPEG, BMP, PGM, PPM, TIFF or DICOM"
DECODER_VERSION = 1  # raised whenever the same file gives other pixels, so that no cache holds on to the old ones
DICOM_VERSION = 2  # likewise, of DICOM files alone: 2 since padding is black
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow and JPEG take for grey


def read_image(path, intensity="voi"):
    """Reads an image file: PNG, JPEG, BMP, PGM, PPM, TIFF or DICOM.

    Deeper images are scaled by their bit depth (a PGM by its `maxval`) and keep their fractions: 16-bit 257 becomes
    1.0. Alpha is dropped, a palette becomes colour, and grey stored as colour stays three channels. An orientation
    tag (EXIF) is not applied.

    Grey DICOM follows PS3.3 C.11: rescale, then what `intensity` says, then MONOCHROME1 is inverted, so that large
    values are bright in every image. Padding (`PixelPaddingValue`, up to `PixelPaddingRangeLimit`) is black and counts
    for no range. Uncompressed, RLE, JPEG, JPEG lossless, JPEG-LS and JPEG 2000 are read, up to 16 bits. Refused are
    tomosynthesis and other files of several frames, objects without pixel data, segmentations, and grey images of one
    value alone, which no range can scale; images of any modality are read.

    Args:
        path: the file, or `FILE#NUMBER` of an image in an HDF5 file or a binary file of STL-10, see
            `medzoo.datasets.containers`.
        intensity: how the values of grey DICOM come to [0, 255]. `"voi"`: by the first VOI lookup table, else the first
            window (each from its output range), else the full range of the stored bits. `"window"`: by the first window
            even where there is a lookup table, else the full range of the stored bits. `"full"`: from the smallest to
            the largest value that occurs, whatever windows and tables say.

    Returns:
        float32 array of shape (height, width, channels), channels 1 or 3, values in [0, 255].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, no image, or an image of another kind (several frames, float values), or
            `intensity` is none of the three.

    Example:

    ```python
    read_image("1-130.dcm").shape  # (4432, 2864, 1)
    ```
    """
    return decode_image(read_bytes(path), path, intensity)


def read_bytes(path):
    """The content of an image file; one that is not there is a FileNotFoundError of one line.

    Of an image in a container (see `medzoo.datasets.containers`), the content of a PPM file that holds it.
    """
    path = Path(path)
    member = member_bytes(path)
    if member is not None:
        return member
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    return path.read_bytes()


def decode_image(data, path, intensity="voi"):
    """What `read_image` does, for a file whose content is at hand; `path` tells DICOM by its suffix and errors."""
    path = Path(path)
    require("intensity", intensity, DICOM_POLICIES)
    try:
        image = decode_dicom(data, intensity) if _is_dicom(path, data) else _decode(data)
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image, expected {KINDS}") from None
    except OtherKind as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # decoders raise whatever they like on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: cannot be decoded ({reason}), expected a whole {KINDS} file") from error
    if min(image.shape) == 0:
        raise ValueError(f"{path}: an image of shape {image.shape}, expected at least one pixel")
    return image


def resize_image(image, size):
    """Resizes an image, bilinear with antialiasing (Pillow's `BILINEAR`: the filter widens as the image shrinks).

    Args:
        image: array of shape (height, width, channels).
        size: the new (height, width) in pixels.

    Returns:
        float32 array of shape (*size, channels), in the range of the input.
    """
    height, width = size
    channels = np.moveaxis(np.asarray(image, "float32"), -1, 0)
    resized = [Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR) for channel in channels]
    return np.stack([np.asarray(channel) for channel in resized], axis=-1)


def convert_channels(image, channels):
    """Gives an image one channel (luma of ITU-R BT.601) or three (grey repeated).

    Args:
        image: array of shape (height, width, 1 or 3).
        channels: 1 or 3.

    Returns:
        float32 array of shape (height, width, channels).
    """
    if image.shape[-1] == channels:
        return image
    if channels == 1:
        return (image @ np.array(LUMA, "float32"))[..., None]
    return np.repeat(image, 3, axis=-1)


def fit_window(image_size, size, fit):
    """Where an image lies in its frame.

    Args:
        image_size: (height, width) of the image.
        size: (height, width) of the frame.
        fit: `"stretch"`, the image fills its frame; `"pad"`, it keeps its aspect ratio (rounded to whole pixels) and
            its top left corner is the frame's.

    Returns:
        (top, left, height, width) in pixels of the frame.

    Example:

    ```python
    >>> fit_window((4560, 2864), (1152, 896), "pad")
    (0, 0, 1152, 724)
    ```
    """
    require("fit", fit, FITS)
    if fit == "stretch":
        return 0, 0, *size
    scale = min(side / length for side, length in zip(size, image_size, strict=True))
    return 0, 0, *(min(side, max(1, round(length * scale))) for side, length in zip(size, image_size, strict=True))


def frame_image(image, size, channels, fit="stretch"):
    """Brings a decoded image to what networks read: one size, 1 or 3 channels, whole numbers.

    Args:
        image: array of shape (height, width, 1 or 3), values in [0, 255].
        size: (height, width) of the frame.
        channels: 1 or 3, see `convert_channels`.
        fit: see `fit_window`; black (0) where the image is not.

    Returns:
        float32 array of shape (*size, channels): whole numbers in [0, 255].
    """
    top, left, height, width = fit_window(image.shape[:2], size, fit)
    if channels < image.shape[-1]:
        image = convert_channels(image, channels)
    image = np.rint(convert_channels(resize_image(image, (height, width)), channels)).clip(0, 255)
    if (height, width) == tuple(size):
        return image
    frame = np.zeros((*size, channels), "float32")
    frame[top : top + height, left : left + width] = image
    return frame


def image_files(folder, recursive=False):
    """The image files of a folder by their suffix, sorted by path; hidden files (`._x.png` of macOS) are no images."""
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path
        for path in found
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _decode(data):
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "BMP", "PPM", "TIFF")) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise OtherKind(f"it holds {frames} frames, expected one: each row of the table is one image")
        layout, maximum = _layout(image)
        image.load()  # before any other decoder: Pillow tells when a file is truncated
        if image.format == "PNG" and b"IEND" not in data:
            raise ValueError("the file is truncated: it lacks its end chunk")
        if image.format == "PPM" and maximum > 255:
            return _decode_deep_ppm(data, layout, image.size, 3 if image.mode == "RGB" else 1)
        if maximum == 65535 and image.mode in ("RGB", "RGBA", "LA"):
            return _decode_deep_colour(data, grey=layout.startswith("LA"))
        if image.mode in ("I;16", "I;16B", "I;16L"):
            pixels = np.asarray(image).astype("float32") * np.float32(255 / maximum)
            inverted = image.format == "TIFF" and image.tag_v2.get(262) == 0  # WhiteIsZero
            return (255 - pixels if inverted else pixels)[..., None]
        if image.mode in ("1", "L", "LA"):
            return np.asarray(image.convert("L"), "float32")[..., None]
        if image.mode in ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
            return np.asarray(image.convert("RGB"), "float32")
        raise OtherKind(f"pixels of mode {image.mode}, expected 8 or 16 unsigned bits")


def _layout(image):
    """How the file lays out its pixels (Pillow's raw mode; for a PPM where they begin), and their largest value."""
    _, _, offset, arguments = image.tile[0]
    raw_mode, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
    if image.format == "PPM":
        maximum = rest[0] if rest and rest[0] else 65535 if raw_mode == "I;16B" else 255
        return offset, maximum
    if image.format == "TIFF":
        return raw_mode, 2 ** image.tag_v2.get(258, (1,))[0] - 1
    # In a BMP "BGR;16" stands for three colours in 16 bits together.
    return raw_mode, 65535 if ";16" in str(raw_mode) and image.format != "BMP" else 255


def _decode_deep_ppm(data, offset, size, channels):
    """16-bit PPM and PGM, plain or raw: Pillow rounds their colours to 8 bits."""
    width, height = size
    maximum = int(data[:offset].split()[-1])
    if data[:2] in (b"P2", b"P3"):
        values = np.array(data[offset:].split()[: width * height * channels], "float64")
    else:
        values = np.frombuffer(data, ">u2", width * height * channels, offset)
    return (values.reshape(height, width, channels) * (255 / maximum)).astype("float32")


def _decode_deep_colour(data, grey):
    """16-bit colour and grey with alpha, which Pillow rounds to 8 bits."""
    pixels = cv2.imdecode(np.frombuffer(data, "uint8"), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise OtherKind("16-bit colour in a layout that OpenCV does not read")
    colours = pixels[..., :1] if grey else pixels[..., 2::-1]
    return colours.astype("float32") * np.float32(255 / 65535)


def _is_dicom(path, data):
    return data[128:132] == b"DICM" or path.suffix.lower() in DICOM_SUFFIXES
