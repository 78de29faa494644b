"""PatchCamelyon's 327,680 images through table and cache: how long it takes, and how much memory.

    python benchmarks/pcam.py [--size 32] [--data PCAM]

Without `--data`, files of PatchCamelyon's shape are made first: 262,144, 32,768 and 32,768 images of 96 x 96 pixels in
gzip chunks of 32 (compressed once and written many times, which takes seconds), with labels and slides. Then, in a
process of its own:

- table: `datasets.read("pcam", ...)`;
- middle: `datasets.read("pcam_middle", ...)`, the stratified 100,000;
- cache: `datasets.cached_images` of the whole table at SIZE x SIZE into an empty folder, which reads every image (its
  file of 327,680 x SIZE x SIZE x 3 bytes, and 0.4 GB of made files, lie in the temporary folder);
- batches: all of it once more from the cache, in batches of 64 out of order, as training reads.

Memory is the process's own (without the pages of mapped files, which the system takes back when it needs them: the
cache's file is read that way), looked at every 10 ms: the largest of each step, less what it was when the imports were
done, and as a share of the 9.06 GB that the images take decoded. Linux only.
"""

import argparse
import contextlib
import io
import json
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np

COUNTS = {"train": 262_144, "valid": 32_768, "test": 32_768}
SHAPE = (96, 96, 3)
CHUNK = 32
DISTINCT = 16  # chunks that are different
BATCH = 64
SLIDE = 1000  # images of one


def make(folder):
    """Files of PatchCamelyon's shape."""
    import h5py

    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (DISTINCT, CHUNK, 12, 12, 3), dtype="uint8")
    chunks = [zlib.compress(each.repeat(8, axis=1).repeat(8, axis=2).tobytes(), 1) for each in coarse]
    for part, count in COUNTS.items():
        stem = folder / f"camelyonpatch_level_2_split_{part}"
        with h5py.File(f"{stem}_x.h5", "w") as store:
            images = store.create_dataset("x", (count, *SHAPE), "uint8", chunks=(CHUNK, *SHAPE), compression="gzip")
            for number, start in enumerate(range(0, count, CHUNK)):
                images.id.write_direct_chunk((start, 0, 0, 0), chunks[number % DISTINCT])
        labels = random.permutation(np.arange(count) % 2).astype("uint8")
        with h5py.File(f"{stem}_y.h5", "w") as store:
            store["y"] = labels.reshape(count, 1, 1, 1)
        rows = [f"{row},0,0,{label},{label},{part}_{row // SLIDE:03d}" for row, label in enumerate(labels)]
        header = ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"
        Path(f"{stem}_meta.csv").write_text("\n".join([header, *rows]))


def own_memory():
    """What this process holds itself at this moment, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


@contextlib.contextmanager
def watched():
    """Yields a list whose only number is, at the end, the largest memory meanwhile."""
    largest, done = [own_memory()], threading.Event()

    def watch():
        while not done.wait(0.01):
            largest[0] = max(largest[0], own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        done.set()
        thread.join()


def measure(data, size):
    """Of each step its name, how many images, its seconds and its memory."""
    from medzoo import datasets
    from medzoo.datasets import cache, pcam  # noqa: F401  (imported late, and not what is measured)

    before, found = own_memory(), []

    def step(name, action):
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()), watched() as largest:  # the cache shows its progress
            result = action()
        found.append((name, len(result), time.perf_counter() - start, largest[0] - before))
        return result

    table = step("table", lambda: datasets.read("pcam", data))
    step("middle", lambda: datasets.read("pcam_middle", data))
    with tempfile.TemporaryDirectory() as folder:
        images = step("cache", lambda: datasets.cached_images(table, (size, size), folder=folder))
        order = np.random.default_rng(0).permutation(len(images))

        def read_all():
            for start in range(0, len(order), BATCH):
                images.read(order[start : start + BATCH])
            return images

        step("batches", read_all)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32, metavar="SIZE")
    parser.add_argument("--data", metavar="PCAM", help="a folder with the published files")
    parser.add_argument("--measured", metavar="PCAM", help=argparse.SUPPRESS)  # what the process of its own is given
    arguments = parser.parse_args()
    if arguments.measured:
        print(json.dumps(measure(arguments.measured, arguments.size)))
        return
    from medzoo.training.run import machine

    print(f"{machine()}; {shlex.join(['python', *sys.argv])}")
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            start = time.perf_counter()
            make(Path(folder))
            print(f"made in {time.perf_counter() - start:.1f} s")
            data = folder
        command = [sys.executable, __file__, "--size", str(arguments.size), "--measured", str(data)]
        found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    whole = sum(COUNTS.values()) * np.prod(SHAPE)
    print("| step | images | seconds | images a second | peak memory | of the images |\n|---|---|---|---|---|---|")
    for name, count, seconds, memory in found:
        print(
            f"| {name} | {count} | {seconds:.1f} | {count / seconds:.0f} | {memory / 1e6:.0f} MB "
            f"| {100 * memory / whole:.1f} % |"
        )


if __name__ == "__main__":
    main()
