"""Decoded, resized images in one HDF5 file, made once and checked against the files that they came from."""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from filelock import FileLock

from .. import _cache, _progress
from .._files import read_json, write_json
from .._nearest import require
from .containers import container_of, is_member
from .dicom import dicom_modality
from .images import DECODER_VERSION, DICOM_VERSION, PICTURE_SUFFIXES, decode_image, fit_window, frame_image, read_bytes
from .policies import DICOM_POLICIES, FITS
from .table import check_table, image_paths

CHUNK = 32  # images decoded and written together
BLOCK = 2**24  # bytes moved at a time
LISTED = 20  # files that a warning names


class _Form(NamedTuple):
    size: tuple
    channels: int
    fit: str
    intensity: str


class CachedImages:
    """Images of one size in a file of the cache, in the order of the table that they were made from.

    Reading is safe from several threads and processes: the pixels are mapped, not read through HDF5's handles, which
    must not cross a fork. Pickling passes on the file's name.

    Attributes:
        file: path of the HDF5 file.
        shape: (images, height, width, channels).
        sha256: list of str, the SHA-256 of each image's source file.
        windows: int array (n, 4), where each image lies in its frame: top, left, height and width in pixels. The rest
            of the frame is black.
    """

    def __init__(self, file):
        self.file = Path(file)
        with h5py.File(self.file, "r", locking=False) as store:
            pixels = store["images"]
            self.shape = pixels.shape
            self.sha256 = [value.decode() for value in store["sha256"][:]]
            self._stamps = store["stamps"][:]
            # Files of before there were windows hold images that fill their frames.
            everywhere = np.tile([0, 0, *self.shape[1:3]], (len(self), 1))
            self.windows = store["windows"][:].astype(int) if "windows" in store else everywhere
            offset = pixels.id.get_offset()
        self._pixels = np.memmap(self.file, "uint8", "r", offset, self.shape).view(np.ndarray)

    def __len__(self):
        return self.shape[0]

    def __reduce__(self):
        return CachedImages, (self.file,)

    def read(self, indices):
        """Images by their position in the table.

        Args:
            indices: sequence of n integers.

        Returns:
            uint8 array of shape (n, height, width, channels).
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise ValueError(f"indices is {indices.dtype} of shape {indices.shape}, expected a list of integers")
        return self._pixels[indices.astype("int64")]

    def __getitem__(self, index):
        """One image without copying it, so that a part can be read alone: uint8 (height, width, channels)."""
        return self._pixels[index]


def cached_images(table, size, channels=3, folder=None, fit="stretch", intensity="voi"):
    """Decodes and resizes a table's images once, and finds them in the cache from then on.

    Another process that asks for the same images meanwhile waits for the first. A file that changed on disk since
    (its size or time of change differs, and so does its content) is decoded anew.

    Args:
        table: an image table.
        size: (height, width) in pixels.
        channels: 1 (colour becomes luma) or 3 (grey is repeated).
        folder: the cache; by default the folder named by `MEDZOO_CACHE`, else the user's cache folder.
        fit: `"stretch"` ignores the aspect ratio; `"pad"` keeps it, and black fills the frame on the right and below,
            see `CachedImages.windows`.
        intensity: how the values of grey DICOM files come to [0, 255], see `read_image`.

    Returns:
        CachedImages, in the order of the table.

    Raises:
        FileNotFoundError, ValueError: if an image is missing or cannot be decoded, see `read_image`; `readable` goes on
            past such files.
        OSError: if the cache cannot be written; nothing half-written stays.

    Example:

    ```python
    images = cached_images(table, (224, 224), channels=1)
    images.read([0, 1]).shape  # (2, 224, 224, 1)
    ```
    """
    form = _form(size, channels, fit, intensity)
    file = _cache_file(table, form, folder)
    paths = image_paths(table)
    found = _open(file)
    if found is None or not _is_current(found, paths):
        with FileLock(f"{file}.lock"):
            found = _open(file)  # another process may have made it while this one waited
            if found is None or not _is_current(found, paths):
                _build(file, paths, form, found)
                found = CachedImages(file)
    return found


def readable(table, size, channels=3, folder=None, fit="stretch", intensity="voi", modality=None):
    """The part of a table whose images can be decoded, with these in the cache: one bad file ends no run of thousands.

    Bad files are remembered, and tried again only when they change.

    Args:
        table, size, channels, folder, fit, intensity: as for `cached_images`, which finds the returned table's images
            ready.
        modality: what DICOM files must be, such as `"MG"` (mammography); those of another modality are left out, too.
            Any when None.

    Returns:
        The table without the images that are missing, cannot be decoded or have another modality, numbered anew; with
        a warning that counts them and gives the reason for each of the first twenty.

    Raises:
        ValueError: if no image can be decoded.
        OSError: if the cache cannot be written.

    Example:

    ```python
    table = readable(table, (1152, 896), channels=1, fit="pad")
    images = cached_images(table, (1152, 896), channels=1, fit="pad")  # at once
    ```
    """
    form = _form(size, channels, fit, intensity)
    others = {} if modality is None else _other_modalities(table, modality)
    whole, table = table, _without(table, others)
    file = _cache_file(table, form, folder)
    notes = file.with_suffix(".unreadable.json")
    with FileLock(f"{file}.lock"):
        failures, made = _noted(notes, table)
        kept = _without(table, failures)
        target = _cache_file(kept, form, folder)
        found = _open(target)
        if found is None or not _is_current(found, image_paths(kept)):
            unnamed = file.with_suffix(".readable.h5")  # the name follows from the images that it will hold
            stamps = _stamps(image_paths(kept))
            bad = _build(unnamed, image_paths(kept), form, found or _open(file.with_name(made)), go_on=True)
            failures |= {kept["image"].iloc[row]: [*stamps[row], reason] for row, reason in bad.items()}
            kept = _without(table, failures)
            target = _cache_file(kept, form, folder)
            with _writing(target):
                os.replace(unnamed, target)
                write_json(notes, {"images": failures, "file": target.name})
    failures |= others
    if failures:
        reasons = [failures[image][-1] for image in whole["image"] if image in failures]
        more = [f"and {len(reasons) - LISTED} more"] if len(reasons) > LISTED else []
        what = f"{len(reasons)} of {len(whole)} images of {table.attrs['dataset']!r} cannot be read and are left out:"
        warnings.warn("\n  ".join([what, *reasons[:LISTED], *more]), stacklevel=2)
    return kept


def _form(size, channels, fit, intensity):
    """What the decoded images shall be, checked."""
    height, width = size
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}, expected 1 or 3")
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise ValueError(f"size is {size!r}, expected (height, width) in pixels")
    require("fit", fit, FITS)
    require("intensity", intensity, DICOM_POLICIES)
    return _Form((height, width), channels, fit, intensity)


def _cache_file(table, form, folder):
    """Where the images of a table lie, in a folder that is made if need be."""
    check_table(table)
    (height, width), channels, fit, intensity = form
    key = [table.attrs["root"], list(table["image"]), height, width, channels, DECODER_VERSION]
    # What was there before there was a choice keeps the name of its file.
    if fit != "stretch":
        key.append(fit)
    if intensity != "voi":
        key.append(intensity)
    if not all(image.lower().endswith(PICTURE_SUFFIXES) or is_member(image) for image in table["image"]):
        key.append(DICOM_VERSION)
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    name = re.sub(r"[^\w.-]", "_", table.attrs["dataset"])
    file = cache_folder(folder) / "images" / f"{name}-{height}x{width}x{channels}-{digest}.h5"
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _other_modalities(table, modality):
    """Mapping of the DICOM files that have another modality to the reason for which they are left out, in a tuple."""
    others = {}
    for image, path in zip(table["image"], image_paths(table), strict=True):
        found = dicom_modality(path)
        if found not in (None, modality):
            others[image] = (f"{path}: a DICOM file of modality {found}, expected {modality}",)
    return others


def _noted(notes, table):
    """The images that could not be decoded and have not changed since, and the name of the file with the others."""
    try:
        noted = read_json(notes)
        failures, made = noted["images"], noted["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}, notes.name
    stamps = dict(zip(table["image"], _stamps(image_paths(table)), strict=True))
    return {image: entry for image, entry in failures.items() if list(stamps[image]) == entry[:2]}, made


def _without(table, failures):
    kept = table[~table["image"].isin(list(failures))].reset_index(drop=True)
    if kept.empty:
        first = next(iter(failures.values()))[-1]
        raise ValueError(
            f"none of the {len(table)} images of {table.attrs['dataset']!r} can be read, the first: {first}"
        )
    return kept


def cache_folder(folder=None):
    """The folder asked for, else medzoo's cache."""
    return Path(folder).expanduser() if folder else _cache.root()


def _open(file):
    """The images of a cache file, or None where there is none that can be read."""
    try:
        return CachedImages(file)
    except (OSError, KeyError, ValueError):
        return None


def _is_current(images, paths):
    """Whether the sources have the sizes and times that were noted; `_build` compares contents where not."""
    return np.array_equal(images._stamps, _stamps(paths))


def _stamps(paths):
    """The stamp of each path; a container of many images is looked at once."""
    files = [container_of(path) for path in paths]
    known = {file: _stamp(file) for file in set(files)}
    return [known[file] for file in files]


def _stamp(path):
    """Size in bytes and time of change in nanoseconds; zeros for a missing file, which reading then complains about."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _build(file, paths, form, previous, go_on=False):
    """Writes the cache file; pixels of sources whose content is as before are taken from the previous one.

    Returns:
        Where `go_on`, a mapping of the positions of sources that could not be decoded to the reason: the file is
        without them, and there is none if they are all. Otherwise the first of them raises.
    """
    (height, width), channels, fit, intensity = form
    shape = height, width, channels
    known = {} if previous is None else {sha256: row for row, sha256 in enumerate(previous.sha256)}

    def load(index):
        stamp = _stamp(container_of(paths[index]))
        try:
            data = read_bytes(paths[index])
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 in known:
                row = known[sha256]
                return previous.read([row])[0], sha256, stamp, previous.windows[row]
            image = decode_image(data, paths[index], intensity)
        except (OSError, ValueError) as error:
            if not go_on:
                raise
            return str(error)
        window = fit_window(image.shape[:2], (height, width), fit)
        return frame_image(image, (height, width), channels, fit).astype("uint8"), sha256, stamp, window

    partial = file.with_suffix(".partial")  # one writer at a time, so that the next one replaces what a kill left
    header, offsets = _empty_store((len(paths), *shape))
    hashes, stamps, windows, failures = [], [], [], {}
    try:
        with contextlib.ExitStack() as stack:
            with _writing(file):
                output = stack.enter_context(partial.open("w+b", buffering=0))
                _write_at(output, 0, header)
            pool = stack.enter_context(ThreadPoolExecutor())
            for start in range(0, len(paths), CHUNK):
                loaded = dict(enumerate(pool.map(load, range(start, min(start + CHUNK, len(paths)))), start))
                failures |= {index: each for index, each in loaded.items() if isinstance(each, str)}
                chunk = [each for index, each in loaded.items() if index not in failures]
                with _writing(file):
                    position = offsets["images"] + len(hashes) * height * width * channels
                    _write_at(output, position, b"".join(image.tobytes() for image, *_ in chunk))
                hashes += [sha256 for _, sha256, _, _ in chunk]
                stamps += [stamp for _, _, stamp, _ in chunk]
                windows += [window for *_, window in chunk]
                _progress.show("reading images", start + len(loaded), len(paths))
            if not hashes:
                partial.unlink()
                return failures
            with _writing(file):
                if failures:
                    offsets = _close_up(output, offsets["images"], (len(hashes), *shape))
                _write_at(output, offsets["sha256"], "".join(hashes).encode())
                _write_at(output, offsets["stamps"], np.array(stamps, "<i8").tobytes())
                _write_at(output, offsets["windows"], np.array(windows, "<i4").tobytes())
                os.fsync(output.fileno())
        with _writing(file):
            os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return failures


def _close_up(output, position, shape):
    """Gives a file that holds fewer images than it was made for the head for those, and moves them up to it."""
    header, offsets = _empty_store(shape)
    ahead = position - offsets["images"]
    end = offsets["images"] + math.prod(shape)
    for start in range(offsets["images"], end, BLOCK):
        output.seek(start + ahead)
        _write_at(output, start, output.read(min(BLOCK, end - start)))
    _write_at(output, 0, header)
    output.truncate(end)
    return offsets


def _empty_store(shape):
    """The head of an HDF5 file whose datasets are still to be written, and where each begins.

    Not HDF5 but plain writes fill them: where a disk is full, HDF5 cannot close its file and crashes the interpreter.
    """
    layout = {
        "sha256": (shape[:1], "S64"),
        "stamps": ((shape[0], 2), "<i8"),
        "windows": ((shape[0], 4), "<i4"),
        "images": (shape, "uint8"),
    }
    head = io.BytesIO()
    with h5py.File(head, "w") as store:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_layout(h5py.h5d.CONTIGUOUS)  # so that the pixels can be mapped
        settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        offsets = {}
        for name, (extent, kind) in layout.items():
            kind, space = h5py.h5t.py_create(np.dtype(kind)), h5py.h5s.create_simple(extent)
            offsets[name] = h5py.h5d.create(store.id, name.encode(), kind, space, dcpl=settings).get_offset()
    return head.getvalue(), offsets


def _write_at(output, position, data):
    """Writes all of `data` (one call of an unbuffered file may take a part of it only, on a disk that gets full)."""
    output.seek(position)
    rest = memoryview(data)
    while rest:
        rest = rest[output.write(rest) :]


@contextlib.contextmanager
def _writing(file):
    """Says in one line which file could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{file}: the cache cannot be written ({error.strerror}); make room, or name another folder in MEDZOO_CACHE"
        ) from error
