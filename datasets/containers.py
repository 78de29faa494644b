"""Images that lie many in one file: HDF5 with a dataset `x`, and the binary files of STL-10.

In an image table such an image is called `train_x.h5#000123`: the file, `#` and the image's number in it from 0, with
so many digits that the order of the names is that of the images. `read_image` and everything that reads through
`medzoo.datasets.images.read_bytes` takes such a path like that of a file; one image at a time is in memory.
"""

import contextlib
import math
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

MEMBER = re.compile(r"(.+\.(h5|bin))#(\d+)", re.DOTALL)
DIGITS = 6
HDF5_IMAGES = "x"
STL_SHAPE = (3, 96, 96)  # channel, column, row: each channel is stored column by column
OPEN_FILES = 4
CHUNKS = 2  # of an HDF5 file stay decompressed, so that readers of neighbouring images share them
CHUNK_BYTES = 2**28  # and no more than that

_opened = OrderedDict()  # of a file: its dataset of images, and by which process and in what state it was opened
_lock = threading.Lock()


def member_names(file, count):
    """The names of a container's images, in its order.

    Args:
        file: path of the container.
        count: how many images it holds.

    Returns:
        List of `count` str: the file's name, `#`, and the image's number.

    Example:

    ```python
    >>> member_names("pcam/train_x.h5", 2)
    ['train_x.h5#000000', 'train_x.h5#000001']
    ```
    """
    digits = max(DIGITS, len(str(count - 1)))
    name = Path(file).name
    return [f"{name}#{index:0{digits}d}" for index in range(count)]


def is_member(image):
    """Whether a name or path (str) is that of an image in a container."""
    return MEMBER.fullmatch(image) is not None


def container_of(path):
    """The file that holds an image: the container of `train_x.h5#000123`, and otherwise the path itself."""
    match = MEMBER.fullmatch(path.name)
    return path.with_name(match[1]) if match else path


def member_bytes(path):
    """An image in a container as the content of a PPM (or PGM) file, or None where the path names no such image.

    Safe to call from several threads, and from a process that was forked from one that has read.

    Raises:
        FileNotFoundError: if there is no such container.
        ValueError: if the container is damaged or has another content than expected, or has fewer images.
    """
    match = MEMBER.fullmatch(path.name)
    if not match:
        return None
    file, index = path.with_name(match[1]), int(match[3])
    image = (_hdf5_image if match[2] == "h5" else _stl_image)(file, index)
    height, width, channels = image.shape
    return f"P{6 if channels == 3 else 5}\n{width} {height}\n255\n".encode() + image.tobytes()


def count_hdf5(file):
    """How many images an HDF5 file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds no uint8 dataset `x` of shape (images, height, width, 1 or 3).
    """
    with _lock:
        return len(_hdf5(file))


def read_hdf5(file, name):
    """One dataset of an HDF5 file as an array.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds no dataset of this name.
    """
    with _lock, _reading(file), _open(file) as store:
        return _dataset(store, file, name)[()]


def count_stl(file):
    """How many images a binary file of STL-10 holds, from its size.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its size is no multiple of an image's.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, expected a binary file of STL-10")
    size, image = file.stat().st_size, math.prod(STL_SHAPE)
    if not size or size % image:
        raise ValueError(f"{file}: {size} bytes, expected a multiple of {image}, the bytes of an image of STL-10")
    return size // image


def _stl_image(file, index):
    count = count_stl(file)
    _check_index(file, index, count)
    size = math.prod(STL_SHAPE)
    with file.open("rb") as stream:
        stream.seek(index * size)
        pixels = stream.read(size)
    return np.frombuffer(pixels, "uint8").reshape(STL_SHAPE).transpose(2, 1, 0)


def _hdf5_image(file, index):
    with _lock:
        images = _hdf5(file)
        _check_index(file, index, len(images))
        with _reading(file):
            return images[index]


def _check_index(file, index, count):
    if index >= count:
        raise ValueError(f"{file}#{index}: the file holds {count} images, expected a number from 0 to {count - 1}")


def _hdf5(file):
    """The dataset of images of a file, which stays open until the file changes."""
    status = file.stat() if file.is_file() else None
    state = os.getpid(), status and (status.st_size, status.st_mtime_ns)
    # A handle does not notice a change, nor must it cross a fork; and while one is open, HDF5 hands it on as a new one.
    for other in [
        key for key, (_, known) in _opened.items() if known[0] != state[0] or (key == file and known != state)
    ]:
        _opened.pop(other)[0].file.close()
    if file not in _opened:
        with _reading(file):
            with _open(file) as store:
                images = _dataset(store, file, HDF5_IMAGES)
                if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8 or 0 in images.shape:
                    raise ValueError(
                        f"{file}: dataset {HDF5_IMAGES!r} is {images.dtype} of shape {images.shape}, "
                        "expected uint8 of shape (images, height, width, 1 or 3)"
                    )
                held = min(CHUNKS * math.prod(images.chunks or (0,)), CHUNK_BYTES)
            images = _open(file, rdcc_nbytes=max(held, 2**20))[HDF5_IMAGES]
        while len(_opened) >= OPEN_FILES:
            _opened.popitem(last=False)[1][0].file.close()
        _opened[file] = images, state
    _opened.move_to_end(file)
    return _opened[file][0]


def _open(file, **settings):
    import h5py  # not above: readers of image files do without it

    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, expected an HDF5 file")
    return h5py.File(file, "r", locking=False, **settings)


def _dataset(store, file, name):
    held = [key for key in store if hasattr(store[key], "dtype")]
    if name not in held:
        raise ValueError(f"{file}: no dataset {name!r} among {', '.join(held) or 'nothing'}, expected it")
    return store[name]


@contextlib.contextmanager
def _reading(file):
    """One line for what HDF5 says of a damaged file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: cannot be read ({reason}), expected a whole HDF5 file") from error
