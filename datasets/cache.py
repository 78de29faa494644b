"""Decoded, resized images in one HDF5 file, made once and checked against the files that they came from."""

import contextlib
import hashlib
import io
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
from filelock import FileLock

from .. import _cache
from .images import DECODER_VERSION, convert_channels, decode_image, read_bytes, resize_image
from .table import check_table, image_paths

CHUNK = 32  # images decoded and written together


class CachedImages:
    """Images of one size in a file of the cache, in the order of the table that they were made from.

    Reading is safe from several threads and processes: the pixels are mapped, not read through HDF5's handles, which
    must not cross a fork. Pickling passes on the file's name.

    Attributes:
        file: path of the HDF5 file.
        shape: (images, height, width, channels).
        sha256: list of str, the SHA-256 of each image's source file.
    """

    def __init__(self, file):
        self.file = Path(file)
        with h5py.File(self.file, "r", locking=False) as store:
            pixels = store["images"]
            self.shape = pixels.shape
            self.sha256 = [value.decode() for value in store["sha256"][:]]
            self._stamps = store["stamps"][:]
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


def cached_images(table, size, channels=3, folder=None):
    """Decodes and resizes a table's images once, and finds them in the cache from then on.

    Another process that asks for the same images meanwhile waits for the first. A file that changed on disk since
    (its size or time of change differs, and so does its content) is decoded anew.

    Args:
        table: an image table.
        size: (height, width) in pixels.
        channels: 1 (colour becomes luma) or 3 (grey is repeated).
        folder: the cache; by default the folder named by `MEDZOO_CACHE`, else the user's cache folder.

    Returns:
        CachedImages, in the order of the table.

    Raises:
        FileNotFoundError, ValueError: if an image is missing or cannot be decoded; see `read_image`.
        OSError: if the cache cannot be written; nothing half-written stays.

    Example:

    ```python
    images = cached_images(table, (224, 224), channels=1)
    images.read([0, 1]).shape  # (2, 224, 224, 1)
    ```
    """
    check_table(table)
    height, width = size
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}, expected 1 or 3")
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise ValueError(f"size is {size!r}, expected (height, width) in pixels")
    key = json.dumps([table.attrs["root"], list(table["image"]), height, width, channels, DECODER_VERSION])
    name = re.sub(r"[^\w.-]", "_", table.attrs["dataset"])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    file = cache_folder(folder) / "images" / f"{name}-{height}x{width}x{channels}-{digest}.h5"
    paths = image_paths(table)
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    found = _open(file)
    if found is None or not _is_current(found, paths):
        with FileLock(f"{file}.lock"):
            found = _open(file)  # another process may have made it while this one waited
            if found is None or not _is_current(found, paths):
                _build(file, paths, (height, width, channels), found)
                found = CachedImages(file)
    return found


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
    return np.array_equal(images._stamps, [_stamp(path) for path in paths])


def _stamp(path):
    """Size in bytes and time of change in nanoseconds; zeros for a missing file, which reading then complains about."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _build(file, paths, shape, previous):
    """Writes the cache file; pixels of sources whose content is as before are taken from the previous one."""
    height, width, channels = shape

    def load(index):
        stamp = _stamp(paths[index])
        data = read_bytes(paths[index])
        sha256 = hashlib.sha256(data).hexdigest()
        if previous is not None and previous.sha256[index] == sha256:
            return previous.read([index])[0], sha256, stamp
        image = resize_image(convert_channels(decode_image(data, paths[index]), channels), (height, width))
        return np.rint(image).clip(0, 255).astype("uint8"), sha256, stamp

    partial = file.with_suffix(".partial")  # one writer at a time, so that the next one replaces what a kill left
    header, offsets = _empty_store((len(paths), *shape))
    hashes, stamps = [], []
    try:
        with contextlib.ExitStack() as stack:
            with _writing(file):
                output = stack.enter_context(partial.open("wb", buffering=0))
                _write_at(output, 0, header)
            pool = stack.enter_context(ThreadPoolExecutor())
            for start in range(0, len(paths), CHUNK):
                chunk = list(pool.map(load, range(start, min(start + CHUNK, len(paths)))))
                with _writing(file):
                    position = offsets["images"] + start * height * width * channels
                    _write_at(output, position, np.stack([image for image, _, _ in chunk]).tobytes())
                hashes += [sha256 for _, sha256, _ in chunk]
                stamps += [stamp for _, _, stamp in chunk]
                _show_progress(len(hashes), len(paths))
            with _writing(file):
                _write_at(output, offsets["sha256"], "".join(hashes).encode())
                _write_at(output, offsets["stamps"], np.array(stamps, "<i8").tobytes())
                os.fsync(output.fileno())
        with _writing(file):
            os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _empty_store(shape):
    """The head of an HDF5 file whose datasets are still to be written, and where each begins.

    Not HDF5 but plain writes fill them: where a disk is full, HDF5 cannot close its file and crashes the interpreter.
    """
    layout = {"sha256": (shape[:1], "S64"), "stamps": ((shape[0], 2), "<i8"), "images": (shape, "uint8")}
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


def _show_progress(done, total):
    end = "\n" if done == total else ""
    print(f"\rreading images: {done}/{total}", end=end, file=sys.stderr, flush=True)
