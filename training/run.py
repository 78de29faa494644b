"""The run folder: everything that a recipe writes, and that its numbers can be computed from again."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

import keras

from .._files import atomic, read_json, write_json

PACKAGES = ("medzoo", "keras", "tensorflow", "jax", "numpy", "pandas", "scikit-learn", "opencv-python-headless")


def open_run(folder, configuration):
    """Makes a run folder, or opens the one that an interrupted run with the same configuration left.

    Writes `configuration.json` and `environment.json` (packages, backend, machine).

    Args:
        folder: path of the run.
        configuration: plain data that settles what is computed, as JSON can hold it.

    Returns:
        `Path` of the folder.

    Raises:
        ValueError: when the folder holds something else, or a run of another configuration.
    """
    folder = Path(folder)
    file = folder / "configuration.json"
    configuration = json.loads(json.dumps(configuration))  # as it is read back: tuples are lists
    if file.is_file():
        before = read_json(file)
        differing = [key for key in {**before, **configuration} if before.get(key) != configuration.get(key)]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{folder}: holds a run with {key} {before.get(key)!r}, received {configuration.get(key)!r}; "
                "expected the same configuration, or another folder"
            )
    elif folder.exists() and (not folder.is_dir() or any(not item.name.startswith(".") for item in folder.iterdir())):
        raise ValueError(f"{folder}: exists and holds no run; expected an empty or a new folder")
    else:
        write_json(file, configuration)
    write_json(folder / "environment.json", environment())
    return folder


def write_table(path, table):
    """Writes a pandas DataFrame as CSV without its index, whole or not at all."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def environment():
    """What a run ran on, as plain data: package versions, Keras backend, Python, machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "packages": versions,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "machine": machine(),
    }


def machine():
    """This machine in a few words: cores, processor, accelerators.

    >>> machine()
    '2 cores AMD EPYC'
    """
    processor = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        names = [line.split(":", 1)[1] for line in listing.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].strip() if names else processor
    accelerators = [device for device in keras.distribution.list_devices() if not device.startswith("cpu")]
    return f"{os.cpu_count()} cores {processor}" + (f", {len(accelerators)} accelerators" if accelerators else "")
