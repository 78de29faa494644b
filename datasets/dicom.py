"""DICOM files to grey values or colours, by a policy that a checkpoint's card records."""

import io

import numpy as np
import pydicom
from pydicom.pixels import (
    apply_color_lut,
    apply_rescale,
    apply_voi_lut,
    apply_windowing,
    get_decoder,
    pixel_array,
)
from pydicom.uid import BreastTomosynthesisImageStorage

SYNTAXES = "uncompressed, RLE, JPEG, JPEG lossless, JPEG-LS or JPEG 2000"
NO_PICTURES = {"SEG": "a segmentation", "RTDOSE": "a distribution of dose"}  # modalities whose pixels are no picture
BITS = 16
PIXEL_DATA = b"\xe0\x7f\x10\x00"  # tag (7FE0,0010); pydicom leaves out compressed pixels that do not end


class OtherKind(Exception):
    """A whole file, but not of one image with 8 or 16 bits."""


def decode_dicom(data, policy):
    """Decodes a DICOM file; see `medzoo.datasets.read_image`.

    Args:
        data: the content of the file.
        policy: one of `medzoo.datasets.policies.DICOM_POLICIES`.

    Returns:
        float32 array of shape (height, width, 1 or 3), values in [0, 255].

    Raises:
        OtherKind: if it is another object than one two-dimensional image, with the reason.
        Exception: whatever pydicom raises on damaged files.
    """
    dataset = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in dataset and PIXEL_DATA in data:
        raise ValueError("the file is truncated in its pixel data")
    _check_kind(dataset)
    stored = pixel_array(dataset)  # YBR becomes RGB here
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(stored, dataset)
        return colours.astype("float32") * np.float32(255 / np.iinfo(colours.dtype).max)
    if stored.ndim == 3:
        return stored.astype("float32") * np.float32(255 / (2**dataset.BitsStored - 1))
    return _grey(stored, dataset, policy)[..., None]


def dicom_modality(path):
    """The modality in the head of a DICOM file, such as `"MG"`; None where there is none, or no whole head."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality")
    except Exception:  # pydicom raises whatever it likes on damaged files, which are reported when they are decoded
        return None


def _check_kind(dataset):
    modality = dataset.get("Modality")
    if modality in NO_PICTURES:
        raise OtherKind(f"a DICOM file of modality {modality}, {NO_PICTURES[modality]}, expected an image")
    if "PixelData" not in dataset:
        of = f" of modality {modality}" if modality else ""
        raise OtherKind(f"a DICOM file{of} without pixel data, expected an image")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if dataset.get("SOPClassUID") == BreastTomosynthesisImageStorage:
        raise OtherKind(f"a tomosynthesis of {frames} frames, expected a two-dimensional image")
    if frames > 1:
        raise OtherKind(f"it holds {frames} frames, expected one: each row of the table is one image")
    if dataset.BitsStored > BITS:
        raise OtherKind(f"{dataset.BitsStored} bits a pixel, expected at most {BITS}")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not _is_decodable(syntax):
        name = "none" if syntax is None else syntax if syntax.name == syntax else f"{syntax} ({syntax.name})"
        raise OtherKind(f"its transfer syntax is {name}, expected {SYNTAXES}")


def _is_decodable(syntax):
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _grey(stored, dataset, policy):
    """Grey values in [0, 255], float32 in the shape of `stored`; large ones are bright.

    All that is done to a pixel depends on its stored value alone, so it is done once for each value that there is.
    """
    values = np.arange(int(stored.min()), int(stored.max()) + 1).astype(stored.dtype)
    positions = (stored - values[0]).view(f"u{stored.itemsize}")  # the difference may be too large for a signed type
    occurring = np.zeros(len(values), bool)
    occurring[positions] = True
    padding = _padding(values, dataset)
    pictured = values[occurring & ~padding]
    if len(pictured) < 2:
        what = f"have the value {pictured[0]}" if len(pictured) else "are padding"
        raise OtherKind(f"a DICOM file of zero range, all its pixels {what}, expected an image")
    mapped = apply_rescale(values, dataset)
    if policy == "full":
        rescaled = apply_rescale(pictured, dataset)
        low, high = rescaled.min(), rescaled.max()
    elif policy == "voi" and dataset.get("VOILUTSequence"):
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
        mapped = apply_voi_lut(np.rint(mapped).astype("int64"), dataset)
    elif dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        low, high = sorted(_rescaled_range(dataset))
    else:  # it maps to the rescaled range, low first also where the slope is negative
        low, high = _rescaled_range(dataset)
        mapped = apply_windowing(mapped, dataset)
    if low == high:
        raise OtherKind(f"a DICOM file of zero range, its values are rescaled to {low}, expected an image")
    grey = np.clip((np.asarray(mapped, "float64") - low) / (high - low), 0, 1) * 255
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    grey[padding] = 0
    return grey.astype("float32")[positions]


def _padding(values, dataset):
    """Which stored values are padding: `PixelPaddingValue`, or those from it to `PixelPaddingRangeLimit`."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(len(values), bool)
    last = dataset.get("PixelPaddingRangeLimit")
    # Signed images often note theirs as unsigned (-2000 as 63536).
    ends = np.array([first, first if last is None else last]).astype(values.dtype)
    return (values >= ends.min()) & (values <= ends.max())


def _rescaled_range(dataset):
    """The values that the smallest and the largest stored number become by the modality transform."""
    if dataset.get("ModalityLUTSequence"):
        return 0, 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    bits = dataset.BitsStored
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return low, high
    return low * slope + intercept, high * slope + intercept
