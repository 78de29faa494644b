"""What images of twice the size cost: a network at S pixels, its morphed form at 2S and the plain one at 2S, by count,
time and memory. Everything is measured side by side, on random weights and random images.

    python benchmarks/morphhr.py [--backbone resnet50] [--size 224] [--batch 8] [--precision mixed_bfloat16]

- multiply-accumulates: counted (`medzoo.analysis.multiply_accumulates`), of one image in one forward pass.
- forward pass, training step (all parameters, Adam): seconds a batch. One process holds all the networks, which take
  turns; ratios to the base are taken within a turn. Median over the turns and, in brackets, smallest to largest.
- peak memory of a training: of a process of its own for each network. On a CPU, the largest resident size of the
  process after a few training steps less its resident size when the network has just been built: activations,
  gradients, the optimiser's state, the compiled step and what the framework keeps on the side. On an accelerator, under
  JAX, the device's own largest number of bytes in use, weights included; other backends report the process.
"""

import argparse
import resource
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

WARM_UPS = 2
MEMORY_STEPS = 3
BASE = "base at S"
# Size of the input in units of S, and surgery.
NETWORKS = {
    BASE: (1, None),
    "morphed at 2S, stride": (2, "stride"),
    "morphed at 2S, max pooling": (2, "maxpool"),
    "plain at 2S": (2, None),
}


def build(name, backbone, size, precision="float32"):
    """One of `NETWORKS`, a classifier of two classes."""
    from medzoo.training.mixed_precision import precision as in_precision
    from medzoo.zoo import builders

    factor, downsample = NETWORKS[name]
    arguments = {
        "backbone": backbone,
        "input_shape": [factor * size, factor * size, 3],
        "classes": 2,
        "surgery": [{"name": "morph_stem", "downsample": downsample}] if downsample else [],
    }
    with in_precision(precision):
        return builders.build({"builder": "classifier", "arguments": arguments})


def count(model):
    """Multiply-accumulates of one image."""
    from medzoo.analysis import multiply_accumulates

    return int(multiply_accumulates(model)["multiply_accumulates"].sum())


def compile_for_training(model):
    """As `fit_stages` does."""
    import keras
    from medzoo.training import Stage, make_optimizer

    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(make_optimizer(model, Stage(1, 1e-4)), "binary_crossentropy", jit_compile=jit)


def batch(model, images):
    random = np.random.default_rng(0)
    pixels = random.uniform(0, 255, (images, *model.input_shape[1:])).astype("float32")
    return pixels, (np.arange(images) % 2)[:, None]


def measure(models, images, repeats):
    """Seconds of each forward pass and of each training step: `{"forward": {name: [...]}, "training": {...}}`."""
    batches = {name: batch(model, images) for name, model in models.items()}
    passes = {
        "forward": lambda model, pixels, labels: model.predict_on_batch(pixels),
        "training": lambda model, pixels, labels: model.train_on_batch(pixels, labels),
    }
    seconds = {what: {name: [] for name in models} for what in passes}
    for turn in range(WARM_UPS + repeats):
        print(f"turn {turn + 1} of {WARM_UPS + repeats}", file=sys.stderr)
        for what, run in passes.items():
            for name, model in models.items():
                start = time.perf_counter()
                run(model, *batches[name])
                if turn >= WARM_UPS:
                    seconds[what][name].append(time.perf_counter() - start)
    return seconds


def print_peak_memory(name, backbone, size, images, precision):
    import keras

    model = build(name, backbone, int(size), precision)
    compile_for_training(model)
    pixels, labels = batch(model, int(images))
    before = resident()
    for _ in range(MEMORY_STEPS):
        model.train_on_batch(pixels, labels)
    peak = None
    if keras.backend.backend() == "jax":
        import jax

        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if peak is None:
        # Kilobytes on Linux, bytes on macOS.
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        peak = largest - before
    print(peak)


def resident():
    """Bytes of memory that this process holds now; 0 where the system does not tell."""
    listing = Path("/proc/self/statm")
    return int(listing.read_text().split()[1]) * resource.getpagesize() if listing.is_file() else 0


def peak_memory(*arguments):
    """Bytes that a fresh process of this script prints last."""
    command = [sys.executable, __file__, "memory", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not done.stdout.strip():
        sys.exit(f"{done.stderr}\n{shlex.join(command)}: ended with {done.returncode}")
    return int(done.stdout.split()[-1])


def spread(values, unit=""):
    return f"{statistics.median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"


def main():
    import keras
    from medzoo.training.mixed_precision import PRECISIONS
    from medzoo.training.run import machine

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backbone", default="resnet18", choices=("resnet18", "resnet50", "resnet101"))
    parser.add_argument("--size", type=int, default=224, help="S, in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--repeats", type=int, default=10, help="turns that are measured")
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    given = parser.parse_args()

    print(f"{machine()}; Keras {keras.version()} on {keras.backend.backend()}\npython {shlex.join(sys.argv)}")
    print(f"{given.backbone}, S = {given.size} pixels, batches of {given.batch}, {given.precision}\n", flush=True)

    memory = {}
    for name in NETWORKS:
        print(f"memory: {name}", file=sys.stderr)
        memory[name] = peak_memory(name, given.backbone, given.size, given.batch, given.precision)

    models = {name: build(name, given.backbone, given.size, given.precision) for name in NETWORKS}
    counts = {name: count(model) for name, model in models.items()}
    for model in models.values():
        compile_for_training(model)
    seconds = measure(models, given.batch, given.repeats)

    print("| network | multiply-accumulates | forward pass | training step | peak memory of a training |")
    print("|---|---|---|---|---|")
    for name in NETWORKS:
        times = " | ".join(spread(seconds[what][name], " s") for what in seconds)
        print(f"| {name} | {counts[name] / 1e9:.3f} billion | {times} | {memory[name] / 2**30:.2f} GiB |")
    print(f"\n| times {BASE} | multiply-accumulates | forward pass | training step | peak memory of a training |")
    print("|---|---|---|---|---|")
    for name in NETWORKS:
        if name == BASE:
            continue
        ratios = " | ".join(
            spread([mine / base for mine, base in zip(taken[name], taken[BASE], strict=True)])
            for taken in seconds.values()
        )
        print(f"| {name} | {counts[name] / counts[BASE]:.2f} | {ratios} | {memory[name] / memory[BASE]:.2f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        print_peak_memory(*sys.argv[2:])
    else:
        main()
