"""Files that appear whole or not at all."""

import contextlib
import errno
import json
import os
import shutil
import uuid
from pathlib import Path


@contextlib.contextmanager
def atomic(path):
    """Gives a temporary path in the same folder, moved to `path` when the block ends well and removed when it does not.

    The temporary path may become a file or a folder; an existing file or folder at `path` is replaced.

    Raises:
        OSError: with one line that names `path`, when the disk is full or cannot be written.

    Example:

    ```python
    with atomic("run/metrics.json") as temporary:
        temporary.write_text("{}")
    ```
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise OSError(errno.ENOSPC, f"{path}: the disk is full; nothing was changed there") from error
        raise


def is_disk_full(error):
    """Whether an error says that the disk is full; HDF5 and safetensors tell it in words only."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def write_json(path, content):
    """Writes `content` as indented JSON, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path):
    """Reads JSON. Raises ValueError, in one line that names the file, when it is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a whole JSON file ({str(error).splitlines()[0]})") from error
