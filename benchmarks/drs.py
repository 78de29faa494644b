"""What DRS costs, and what loading from the zoo costs: step time, trained parameters, peak memory, time to the first
prediction. Everything is measured side by side, on random weights and random images.

    python benchmarks/drs.py [--backbone resnet50]

- step time: one process holds the network twice, with DRS layers and head training, and with everything training; steps
  on the same batch take turns; median after warming up.
- peak memory: largest resident size of a process that trains one of the two for a few steps.
- first prediction: from the start of a process to the scores of one image, by `zoo.load` of a checkpoint, and by plain
  Keras of the same network and weights: built and given an `.h5` of weights, and loaded as a `.keras` file. Processes
  take turns; median.
"""

import argparse
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGE_SIZE = 224
BATCH_SIZE = 24  # the paper's
WARM_UP_STEPS, STEPS = 3, 10
MEMORY_STEPS = 3
STARTS = 5
TRAINED = {"DRS and head": ("drs", "head"), "everything": ("*",)}
APPLICATIONS = {"resnet50": "ResNet50", "resnet101": "ResNet101"}


def trainer(backbone, train):
    """A network with DRS layers, compiled as `fit_stages` does, and its number of trained parameters."""
    import keras
    from medzoo.training import Stage, make_optimizer, set_trainable
    from medzoo.zoo import builders

    # Full fine-tuning as in table 1 has no DRS layers.
    surgery = [{"name": "add_drs"}] if "drs" in train else []
    model = builders.build(description(backbone, surgery))
    parameters = set_trainable(model, train)
    jit = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(make_optimizer(model, Stage(1, 0.001)), "binary_crossentropy", jit_compile=jit)
    return model, parameters


def description(backbone, surgery=()):
    arguments = {"backbone": backbone, "input_shape": [IMAGE_SIZE, IMAGE_SIZE, 3], "classes": 2}
    return {"builder": "classifier", "arguments": {**arguments, "surgery": list(surgery)}}


def batch():
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3)).astype("float32")
    return images, (np.arange(BATCH_SIZE) % 2)[:, None]


def image():
    return np.full((1, IMAGE_SIZE, IMAGE_SIZE, 3), 100, "float32")


def step_times(backbone):
    """Median seconds a step and trained parameters of each way to train."""
    images, labels = batch()
    trainers = {name: trainer(backbone, train) for name, train in TRAINED.items()}
    seconds = {name: [] for name in trainers}
    for step in range(WARM_UP_STEPS + STEPS):
        for name, (model, _) in trainers.items():
            start = time.perf_counter()
            model.train_on_batch(images, labels)
            if step >= WARM_UP_STEPS:
                seconds[name].append(time.perf_counter() - start)
    return {name: (statistics.median(seconds[name]), parameters) for name, (_, parameters) in trainers.items()}


def child(*arguments):
    """Seconds from start to end of this script run with `arguments`, and the number that it prints last."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        line = ""
        for line in process.stdout:  # noqa: B007 - the last one, and the time when it comes
            seconds = time.perf_counter() - start
    if process.returncode or not line:
        sys.exit(f"{shlex.join(map(str, arguments))}: ended with {process.returncode}")
    return seconds, float(line)


def print_peak_memory(backbone, name):
    model, _ = trainer(backbone, TRAINED[name])
    images, labels = batch()
    for _ in range(MEMORY_STEPS):
        model.train_on_batch(images, labels)
    # Kilobytes on Linux, bytes on macOS.
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def print_first_score(way, backbone, folder):
    folder = Path(folder)
    pixels = image()
    if way == "zoo.load":
        from medzoo import zoo

        model = zoo.load(folder / "checkpoint")
    else:
        import keras

        pixels = keras.applications.resnet50.preprocess_input(pixels)
        if way == "Keras, .keras":
            model = keras.models.load_model(folder / "model.keras")
        else:
            model = plain(backbone)
            model.load_weights(folder / "model.weights.h5")
    print(float(np.ravel(model.predict_on_batch(pixels))[0]), flush=True)


def plain(backbone):
    """The same classifier in plain Keras, its preprocessing left to the caller."""
    import keras

    body = getattr(keras.applications, APPLICATIONS[backbone])(
        include_top=False, weights=None, input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3), pooling="avg"
    )
    return keras.Model(body.input, keras.layers.Dense(1, activation="sigmoid")(body.output))


def save_all(backbone, folder):
    """The same network and weights as a checkpoint, as weights of plain Keras and as a `.keras` file."""
    import keras
    from medzoo import zoo
    from medzoo.zoo import builders

    model = builders.build(description(backbone))
    # Random weights give a huge logit; scaled so that the score of the image is neither 0 nor 1.
    head = model.get_layer("head_logits")
    logits = keras.Model(model.input, head.output).predict_on_batch(image())
    head.kernel.assign(head.kernel / np.abs(logits).max())
    zoo.save_checkpoint(model, folder / "checkpoint", card_fields(backbone))
    twin = plain(backbone)
    twin.set_weights(model.get_weights())
    twin.save_weights(folder / "model.weights.h5")
    twin.save(folder / "model.keras")


def card_fields(backbone):
    return {
        "name": f"benchmark-{backbone}",
        "version": 1,
        "summary": "random weights",
        "modality": "none",
        "task": "classification",
        "recipe": {"name": "none", "command": "python benchmarks/drs.py", "paper": "none"},
        "build": description(backbone),
        "input": {"shape": [IMAGE_SIZE, IMAGE_SIZE, 3], "range": [0, 255], "resize": "none", "crop": 1.0},
        "classes": ["benign", "malignant"],
        "data": {
            "dataset": "none",
            "licence": "none",
            "url": None,
            "images": 0,
            "subjects": 0,
            "subject_source": "none",
            "split": {"train": 0, "validation": 0, "test": 0},
            "excluded": "none",
        },
        "metrics": [],
        "licence": "Apache-2.0",
        "limitations": ["random weights"],
    }


def main():
    from medzoo.training.run import machine

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backbone", default="resnet50", choices=APPLICATIONS)
    backbone = parser.parse_args().backbone
    print(f"{machine()}\npython {shlex.join(sys.argv)}")
    print(f"{backbone} at {IMAGE_SIZE} pixels, batches of {BATCH_SIZE}\n")

    memory = {name: child("memory", backbone, name)[1] for name in TRAINED}
    times = step_times(backbone)
    print("| trained | parameters | step | peak memory |\n|---|---|---|---|")
    for name, (seconds, parameters) in times.items():
        print(f"| {name} | {parameters:,} | {seconds:.2f} s | {memory[name] / 2**30:.2f} GiB |")
    everything, scaling = times["everything"][0], times["DRS and head"][0]
    print(f"\nEverything takes {everything / scaling:.2f} times as long a step as DRS and head.\n")

    ways = ("zoo.load", "Keras, .h5", "Keras, .keras")
    starts = {way: [] for way in ways}
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        save_all(backbone, Path(folder))
        for _ in range(STARTS):
            for way in ways:
                seconds, scores[way] = child("start", way, backbone, folder)
                starts[way].append(seconds)
    if np.ptp(list(scores.values())) > 1e-5:
        sys.exit(f"the ways to load do not give the same score: {scores}")
    print(f"| loaded by | first prediction after (median of {STARTS}) |\n|---|---|")
    for way in ways:
        low, high = min(starts[way]), max(starts[way])
        print(f"| {way} | {statistics.median(starts[way]):.1f} s ({low:.1f} to {high:.1f}) |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        print_peak_memory(*sys.argv[2:])
    elif sys.argv[1:2] == ["start"]:
        print_first_score(*sys.argv[2:])
    else:
        main()
