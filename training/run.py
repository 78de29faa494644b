"""The run folder: everything that a recipe writes, and that its numbers can be computed from again."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

import keras
import pandas as pd

from .._files import atomic, read_json, write_json

PACKAGES = ("medzoo", "keras", "tensorflow", "jax", "numpy", "pandas", "scikit-learn", "opencv-python-headless")
SUBJECT_SOURCES = {
    "named": "named by the dataset.",
    "twins": "twin groups, found by `medzoo twins` (the dataset names no patients).",
    "none": "unknown, each image counts as its own: the same subject may be on both sides of the split.",
}


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


def write_figure(path, figure):
    """Writes a matplotlib figure as PNG, whole or not at all."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def write_split(path, table):
    """Writes which image is in which part, and checks it when a run goes on.

    Args:
        path: of the CSV file.
        table: image table with the columns `split` and `sha256` (of each image file) added.

    Raises:
        ValueError: when a run that goes on finds other images, or another split.
    """
    columns = ["image", "split", "sha256"]
    if path.is_file():
        before, received = (
            set(rows[columns].itertuples(index=False, name=None)) for rows in (pd.read_csv(path, dtype=str), table)
        )
        if differing := sorted({row[0] for row in before ^ received}):
            raise ValueError(
                f"{path}: received other images or another split than the run began with: {len(differing)} differ, "
                f"such as {differing[0]}; expected the same data, or another folder"
            )
    write_table(path, table)


def leaked(table):
    """How many test images have a subject in the training or validation part, and how many test images there are.

    Args:
        table: image table with the column `split`: `train`, `validation` or `test`.

    Returns:
        (int, int).
    """
    known = set(table.loc[table["split"] != "test", "subject"])
    test = table.loc[table["split"] == "test", "subject"]
    return int(test.isin(known).sum()), len(test)


def interval_columns(name, interval):
    """Columns of a result table for a value with its interval.

    Args:
        name: of the value.
        interval: mapping with `value, low, high, n`, as `analysis.Interval._asdict()` and metrics in JSON have it.

    Returns:
        dict `name, name_low, name_high, name_n`.
    """
    return {
        name: interval["value"],
        f"{name}_low": interval["low"],
        f"{name}_high": interval["high"],
        f"{name}_n": interval["n"],
    }


def interval_text(name, row):
    """A value with its interval as a report prints it, of a row with `interval_columns`.

    >>> interval_text("auc", {"auc": 0.9123, "auc_low": 0.85, "auc_high": 0.97})
    '0.912 (0.850 to 0.970)'
    """
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def command_text(recipe, profile, protocol, data, backbone=None, overrides=(), dataset=None):
    """The command that a run can be had again with, its folders named by words.

    >>> command_text("drs", "quick", "sound", "BUSI", overrides=["seed=1"])
    'medzoo run drs --profile quick --protocol sound --set seed=1 --data BUSI --out RUN'
    """
    words = f"medzoo run {recipe} --profile {profile} --protocol {protocol}"
    words += f" --backbone {backbone}" if backbone else ""
    words += f" --dataset {dataset}" if dataset else ""
    return words + "".join(f" --set {override}" for override in overrides) + f" --data {data} --out RUN"


def card_metrics(metrics, part, protocol, command):
    """The field `metrics` of a card.

    Args:
        metrics: mapping of name to `analysis.Interval`.
        part: such as `"test"`.
        protocol: of the run.
        command: that gives these numbers again.

    Returns:
        list of dict.
    """
    return [
        {
            "name": name,
            "part": part,
            "protocol": protocol,
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "n": interval.n,
            "command": command,
            "machine": machine(),
        }
        for name, interval in metrics.items()
    ]


def card_data(table):
    """What an image table with the column `split` tells of a card's field `data`.

    Returns:
        dict `images, subjects, subject_source, split`.
    """
    sizes = table["split"].value_counts()
    return {
        "images": len(table),
        "subjects": int(table["subject"].nunique()),
        "subject_source": table.attrs["subjects"],
        "split": {part: int(sizes.get(part, 0)) for part in ("train", "validation", "test")},
    }


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
