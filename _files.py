"""Files that appear whole or not at all."""

import contextlib
import errno
import json
import os
import shutil
import uuid
from pathlib import Path


@contextlib.contextmanager
def atomic(path, marker=None):
    """Gives a temporary path in the same folder, moved to `path` when the block ends well and removed when it does not.

    The temporary path may become a file or a folder, and ends in the name of `path`. A file at `path` is replaced by a
    file, and a folder by a folder if it is empty or holds `marker`; any other is somebody's and is refused.

    Args:
        path: where the file or folder shall be.
        marker: name of a file that a folder which may be replaced holds.

    Raises:
        FileExistsError: with one line, when a folder is at `path` that must not be replaced.
        OSError: with one line that names `path`, when it cannot be written, as when the disk is full.

    Example:

    ```python
    with atomic("run/metrics.json") as temporary:
        temporary.write_text("{}")
    ```
    """
    path = Path(path)
    _refuse_foreign_folder(path, marker)
    mark = uuid.uuid4().hex[:8]
    temporary = path.with_name(f".part-{mark}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _move(temporary, path, path.with_name(f".older-{mark}-{path.name}"))
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise OSError(errno.ENOSPC, "the disk is full, nothing was changed", str(path)) from error
        if isinstance(error, OSError) and str(temporary) in str(error.filename or temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _refuse_foreign_folder(path, marker):
    if path.is_dir() and any(path.iterdir()) and not (marker and (path / marker).is_file()):
        expected = f"a new name, or a folder with {marker}" if marker else "the name of a file"
        raise FileExistsError(f"{path}: is a folder with other things in it, expected {expected}")


def _move(temporary, path, older):
    if not path.is_dir():
        os.replace(temporary, path)
        return
    # A folder cannot be replaced in one step: two renames, so that at no time half a folder bears the name.
    os.replace(path, older)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(older, path)
        raise
    shutil.rmtree(older)


def is_disk_full(error):
    """Whether an error says that the disk is full; HDF5 and safetensors tell it in words only."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def write_json(path, content):
    """Writes `content` as indented JSON, whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path):
    """Reads JSON. Raises ValueError, in one line that names the file, when it is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a whole JSON file ({str(error).splitlines()[0]})") from error
