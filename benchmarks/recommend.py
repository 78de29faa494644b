"""How long `medzoo recommend` takes, what it says of costs against what they are, and how far its order is right.

    export MEDZOO_WEIGHTS=FOLDER
    python benchmarks/recommend.py speed kermany CHEST
    python benchmarks/recommend.py costs
    python benchmarks/recommend.py validate OUT busi=BUSI rsna=RSNA kermany=CHEST
    python benchmarks/recommend.py report OUT

`speed`: 600 images and four candidates, with an empty cache. `costs`: a step of fine-tuning against a forward pass and
the memory that it takes, beside the estimates. `validate`: 600 images of each dataset are ranked, and every candidate
is fine-tuned on one half of their subjects and tested on the other: all layers, 50 steps of 16 images, Adam at 1e-4,
classes weighted, in bfloat16; a file each in OUT, so that it can be stopped and started again. Everything is done at
128 pixels where the network can (DRS is bound to 224, a morphed stem takes 256). `report`: what there is by now.

Candidates that were trained on the dataset are tuned last and listed apart.
"""

import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from medzoo import analysis, datasets, training, zoo
from medzoo._files import read_json, write_json
from medzoo.analysis import candidates
from medzoo.analysis.recommendation import STEP, rank_candidates
from medzoo.training.run import machine
from medzoo.zoo import builders

IMAGES, STEPS, BATCH, RATE, REPEATS = 600, 50, 16, 1e-4, 2
SIZE = (128, 128)
FOUR = ("resnet18", "resnet50", "vgg16", "resnet18-rsna")
# The cheap ones first.
EIGHT = (
    "resnet18",
    "resnet18-rsna",
    "resnet50",
    "morphhr-resnet18-rsna",
    "allconv-resnet18-rsna",
    "drs-resnet18-busi",
    "vgg16",
    "drs-resnet50-busi",
)
ESTIMATES = {
    "auc": "linear probe",
    "neighbours": "nearest neighbours",
    "log_maximum_evidence": "LogME",
    "h_score": "H-score",
    "leep": "LEEP",
}


def part(reader, path):
    table = datasets.read(reader, path)
    return datasets.fraction(table, IMAGES / len(table), seed=0) if len(table) > IMAGES else table


def speed(reader, path):
    table = part(reader, path)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MEDZOO_CACHE"] = cache
        before, used = time.perf_counter(), time.process_time()
        ranked, _, _, images = rank_candidates(table, FOUR)
        print(f"{machine()}; {images}; {len(FOUR)} candidates")
        print(f"{time.perf_counter() - before:.0f} s in all, {time.process_time() - used:.0f} s of processor time")
    for row in ranked.to_dict("records"):
        print(f"  {row['candidate']:22}{row['height']}x{row['width']}  {row['images_per_second']:6.1f} images/s")


def costs():
    print(f"{machine()}; batches of {BATCH}, float32, 224 x 224")
    for name in ("resnet18", "resnet50"):
        subprocess.run([sys.executable, __file__, "cost", name], check=True)


def cost(name):
    """In a process of its own, whose peak memory is the training's."""
    chosen = candidates.candidate(name)
    network = candidates._Network(chosen)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *chosen.form.size, 3), "uint8")
    labels = np.arange(BATCH) % 2
    forward = processor_seconds(lambda: network.run(images))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer = training.Trainer(description(chosen))
    batches = datasets.Batches(images, labels, batch_size=BATCH)
    weights = trainer.model.get_weights()
    trainer.fit(weights, batches, RATE, 1)
    step = processor_seconds(lambda: trainer.fit(weights, batches, RATE, 5)) / 5
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024
    counted = network.costs
    estimate = 16 * counted.parameters + 4 * BATCH * counted.activations
    print(
        f"  {name:10} a step is {step / forward:.2f} forward passes of processor time (estimate {STEP}); "
        f"memory {taken / 1e9:.2f} GB (estimate {estimate / 1e9:.2f})"
    )


def processor_seconds(function):
    times = []
    for _ in range(4):
        before = time.process_time()
        function()
        times.append(time.process_time() - before)
    return min(times[1:])


def description(chosen):
    """How the classifier of two classes on a candidate is built."""
    if chosen.card is not None:
        return chosen.card.build
    arguments = {"backbone": chosen.name, "input_shape": [*chosen.form.size, chosen.form.channels], "classes": 2}
    return {"builder": "classifier", "arguments": arguments}


def small(name, folder):
    """A checkpoint with the same weights at another size, where it is not bound to its own."""
    card = zoo.card(name)
    surgery = {operation["name"] for operation in card.build["arguments"]["surgery"]}
    if "add_drs" in surgery:
        return name
    if not (folder / "card.json").is_file():
        scale = 2 if "morph_stem" in surgery else 1
        shape = [*(scale * side for side in SIZE), card.input["shape"][2]]
        build = {**card.build, "arguments": {**card.build["arguments"], "input_shape": shape}}
        fields = {
            **dataclasses.asdict(card),
            "build": build,
            "input": {**card.input, "shape": shape},
        }
        model = builders.build(build)
        model.set_weights(zoo.load(name).get_weights())
        for computed in ("schema", "weights", "golden"):
            del fields[computed]
        zoo.save_checkpoint(model, folder, fields)
    return str(folder)


def fine_tune(chosen, trainer, table, repeat):
    """Trains on one half of the subjects and scores the other."""
    table = datasets.split(table, {"train": 0.5, "test": 0.5}, seed=repeat)
    images = datasets.cached_images(table, **chosen.form.cached)
    if chosen.form.crop < 1:
        images = analysis.CroppedImages(images, chosen.form.size)
    labels, test = datasets.encode_labels(table), (table["split"] == "test").to_numpy()
    weights = datasets.class_weights(labels[~test], 2)
    batches = datasets.Batches(
        images, labels, BATCH, shuffle=True, seed=repeat, class_weight=weights, indices=np.flatnonzero(~test)
    )
    keras.utils.set_random_seed(repeat)
    if chosen.card is None:
        begin = builders.build(description(chosen), weights="imagenet").get_weights()
    else:
        begin = zoo.load(chosen.source, classes=2).get_weights()
    history = trainer.fit(begin, batches, RATE, STEPS)
    scored = datasets.Batches(images, labels, BATCH, indices=np.flatnonzero(test))
    scores = np.concatenate(
        [trainer.exact.predict_on_batch(batch[0]) for batch in map(scored.__getitem__, range(len(scored)))]
    )
    area = analysis.auc(labels[test], scores, table["subject"][test].to_numpy())
    return {
        **area._asdict(),
        "loss": history[-1]["loss"],
        "image": list(table["image"][test]),
        "score": [float(score) for score in scores[:, 0]],
    }


def validate(out, *data):
    out = Path(out)
    candidates.SIZE = SIZE
    names = [name if name in zoo.list_backbones() else small(name, out / "candidates" / name) for name in EIGHT]
    chosen = [candidates.candidate(name) for name in names]
    tables = {reader: part(reader, path) for reader, path in (each.split("=", 1) for each in data)}
    seen = {}
    for reader, table in tables.items():
        if not (out / f"{reader}.csv").is_file():
            ranked, *_ = rank_candidates(table, names)
            ranked.to_csv(out / f"{reader}.csv", index=False)
        ranked = pd.read_csv(out / f"{reader}.csv").set_index("candidate")
        seen |= {(reader, name): bool(ranked.loc[name, "seen"]) for name in EIGHT}
    for late in (False, True):
        for repeat in range(REPEATS):
            for each in chosen:
                left = [
                    (reader, out / f"{reader}-{each.name}-{repeat}.json")
                    for reader in tables
                    if seen[reader, each.name] == late and not (out / f"{reader}-{each.name}-{repeat}.json").is_file()
                ]
                if left:
                    keras.backend.clear_session()
                    # Averages of batch norm that follow within the fifty steps.
                    trainer = training.Trainer(description(each), "mixed_bfloat16", momentum=0.9)
                for reader, file in left:
                    before = time.perf_counter()
                    found = fine_tune(each, trainer, tables[reader], repeat)
                    write_json(file, found)
                    took = time.perf_counter() - before
                    print(f"{file.stem}: AUC {found['value']:.3f}, loss {found['loss']:.3f}, {took:.0f} s", flush=True)
    report(out)


def report(out):
    out = Path(out)
    parts = []
    for file in sorted(out.glob("*.csv")):
        ranked = pd.read_csv(file)
        reached = {
            name: [read_json(found)["value"] for found in sorted(out.glob(f"{file.stem}-{name}-[0-9].json"))]
            for name in ranked["candidate"]
        }
        ranked["tuned"] = [np.mean(reached[name]) if reached[name] else np.nan for name in ranked["candidate"]]
        ranked["tunings"] = [len(reached[name]) for name in ranked["candidate"]]
        ranked["spread"] = [np.ptp(reached[name]) if len(reached[name]) > 1 else np.nan for name in ranked["candidate"]]
        parts.append(ranked.assign(dataset=file.stem).dropna(subset="tuned"))
    table = pd.concat(parts, ignore_index=True)
    print(f"{machine()}; {IMAGES} images a dataset at most, {STEPS} steps of {BATCH}, rate {RATE:g}")
    shown = ["dataset", "candidate", "seen", "height", "n", *ESTIMATES, "tuned", "spread", "tunings"]
    print(table[shown].to_string(index=False, float_format="{:.3f}".format))
    table = table[~table["seen"]].copy()
    print("\nSpearman with the AUC after fine-tuning (95 % interval), candidates that have seen the data left out")
    groups = table.groupby("dataset")
    # Over datasets together: how far each is above its dataset's mean, in deviations.
    for name in [*ESTIMATES, "tuned"]:
        table[f"{name} within"] = (table[name] - groups[name].transform("mean")) / groups[name].transform("std")
    for name, title in ESTIMATES.items():
        cells = [f"{dataset} {correlate(rows, name, 'tuned')}" for dataset, rows in groups]
        cells.append(f"together {correlate(table, f'{name} within', 'tuned within')}")
        print(f"  {title:18}", "; ".join(cells))
    print("\nWhat it costs to take the probe's first, against the best of all and against a draw among all")
    for dataset, rows in table.groupby("dataset"):
        first, best = rows.loc[rows["auc"].idxmax()], rows.loc[rows["tuned"].idxmax()]
        print(
            f"  {dataset}: {first['candidate']} {first['tuned']:.3f}; best {best['candidate']} {best['tuned']:.3f}; "
            f"mean of all {rows['tuned'].mean():.3f}, worst {rows['tuned'].min():.3f}"
        )


def correlate(rows, first, second):
    rows = rows[[first, second]].dropna()
    if len(rows) < 3:
        return f"- (n = {len(rows)})"
    found = analysis.correlation(rows[first], rows[second], "spearman")
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}, n = {found.n})"


if __name__ == "__main__":
    modes = {"speed": speed, "costs": costs, "cost": cost, "validate": validate, "report": report}
    if len(sys.argv) < 2 or sys.argv[1] not in modes:
        sys.exit(f"usage: python benchmarks/recommend.py {'|'.join(modes)} ...")
    modes[sys.argv[1]](*sys.argv[2:])
