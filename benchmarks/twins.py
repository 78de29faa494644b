"""Twins: time and growth, and a perceptual hash beside ours.

    python benchmarks/twins.py DATA_DIR [--chest DIR]

DATA_DIR is BUSI (`benign/`, `malignant/`, `normal/`), DIR a larger folder of class subfolders in which hardly any twins
are expected, such as the Kermany chest X-rays. Nothing is taken from or left in the user's cache.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from medzoo.datasets import busi, folder
from medzoo.datasets.images import convert_channels, read_image, resize_image
from medzoo.datasets.table import image_paths
from medzoo.datasets.twins import find_twins
from scipy.fft import dctn


def part_of(table, count):
    """`count` images spread evenly over a table."""
    part = table.iloc[np.linspace(0, len(table) - 1, count).astype(int)]
    part.attrs = table.attrs
    return part


def measure(name, table, counts):
    """Prints the time for each number of images, and the exponent of growth from the one before."""
    previous = None
    for count in counts:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["MEDZOO_CACHE"] = cache
            start, processor = time.perf_counter(), time.process_time()
            twins = find_twins(part_of(table, count))
            seconds, processor = time.perf_counter() - start, time.process_time() - processor
        growth = ""
        if previous:
            wall, work = (
                np.log(now / before) / np.log(count / previous[0])
                for now, before in ((seconds, previous[1]), (processor, previous[2]))
            )
            growth = f"; growth n^{wall:.2f}, of processor time n^{work:.2f}"
        paired = sum(map(len, twins.members().values()))
        print(
            f"{name}: {count} images in {seconds:.1f} s ({processor:.1f} s of processor time{growth}): "
            f"{len(twins.pairs)} pairs among {paired} images, {len(twins.contradictions)} contradictory",
            flush=True,
        )
        previous = count, seconds, processor
    return twins


def perceptual_hash(path):
    """The usual 64-bit pHash: signs of the lowest 8 x 8 DCT coefficients of a 32 x 32 image against their median."""
    image = resize_image(convert_channels(read_image(path), 1), (32, 32))[..., 0]
    low = dctn(image, norm="ortho")[:8, :8].ravel()
    return low > np.median(low)


def compare_with_hash(table, twins):
    """Prints recall and precision of ours and of the perceptual hash against the pairs that were confirmed by eye.

    The list came from our own output, every pair looked at, so it is not independent of ours; the hash has no such tie.
    """
    start = time.perf_counter()
    hashes = np.array([perceptual_hash(path) for path in image_paths(table)]).astype("float32")
    different = hashes @ (1 - hashes).T + (1 - hashes) @ hashes.T
    seconds = time.perf_counter() - start
    images = list(table["image"])
    listed = pd.read_csv(Path(__file__).parent.parent / "tests" / "datasets" / "busi_twins.csv")
    listed = listed[(listed["verdict"] == "same") & listed["image"].isin(images) & listed["twin"].isin(images)]
    true = set(zip(listed["image"], listed["twin"], strict=True))
    ours = set(zip(twins.pairs["image"], twins.pairs["twin"], strict=True))
    print(f"against {len(true)} pairs confirmed by eye:")
    print(f"  ours: {len(ours)} pairs, recall {len(ours & true) / len(true):.1%}", end=", ")
    print(f"precision {len(ours & true) / len(ours):.1%}")
    print(f"perceptual hash (DCT, 64 bits), {seconds:.1f} s:")
    for most in (2, 4, 6, 8, 10, 12, 14, 16):
        first, second = np.nonzero(np.triu(different <= most, 1))
        found = {(images[i], images[j]) for i, j in zip(first, second, strict=True)}
        precision = len(found & true) / max(len(found), 1)
        print(
            f"  at most {most:2d} bits differ: {len(found):4d} pairs, "
            f"recall {len(found & true) / len(true):.1%}, precision {precision:.1%}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA_DIR")
    parser.add_argument("--chest", metavar="DIR")
    options = parser.parse_args()
    table = busi.read_busi(options.data, classes=busi.CLASSES, twins=False)
    print(f"{os.cpu_count()} cores, load before the start {os.getloadavg()[0]:.1f}")
    twins = measure("BUSI", table, (len(table) // 2, len(table)))
    compare_with_hash(table, twins)
    if options.chest:
        chest = folder.read_folder(options.chest)
        counts = [count for count in (1250, 2500, 5000) if count <= len(chest)]
        measure("chest X-rays", chest, counts or [len(chest)])


if __name__ == "__main__":
    main()
