"""Task2Vec on real images: do halves of a dataset lie nearer than two datasets, and what does an embedding cost?

    MEDZOO_WEIGHTS=FOLDER python benchmarks/task2vec.py ISIC2018 CHEST_XRAY DTD BUSI

The four folders are those of the readers `isic2018`, `kermany`, `dtd` and `busi`. Four times each dataset is divided
into halves by subject, and 100 images of each half, every class as likely, are embedded by ResNet18 at 64 pixels, each
image passed once. Each distance of two halves of a dataset is compared with those of the one half from the halves of
every other dataset of the same time: how often is it the smaller? The interval is a bootstrap over the four divisions
of these four datasets; what another dataset would give is not in it.
"""

import resource
import sys
import time

import numpy as np
from medzoo import analysis, datasets, zoo
from medzoo.analysis import task2vec
from medzoo.training.run import machine

READERS = ("isic2018", "kermany", "dtd", "busi")
SIZE, IMAGES, TIMES = (64, 64), 100, 4


def draw(labels, rows, seed):
    """Some of the rows without replacement, every class as likely."""
    counts = np.bincount(labels[rows])
    weights = 1 / counts[labels[rows]]
    size = min(IMAGES, len(rows))
    return np.random.default_rng(seed).choice(rows, size, replace=False, p=weights / weights.sum())


def halves(probe, table, images, method):
    """Embeddings of the two halves, for each time."""
    labels, found = datasets.encode_labels(table), []
    embedder = task2vec.embedder(probe, len(table.attrs["classes"]), method)
    for seed in range(TIMES):
        parts = datasets.split(table, {"first": 0.5, "second": 0.5}, seed)["split"]
        drawn = [draw(labels, np.flatnonzero(parts == part), seed) for part in ("first", "second")]
        found.append([embedder.embed(images, rows, labels[rows], seed=seed) for rows in drawn])
    return found


def compare(found):
    """How often halves lie nearer, an `Interval`, and the mean distances of all pairs of datasets."""
    nearer, times = [], []
    distances = np.zeros((len(READERS), len(READERS)))
    for seed in range(TIMES):
        for one, name in enumerate(READERS):
            first, second = found[name][seed]
            within = analysis.embedding_distance(first, second)
            distances[one, one] += within / TIMES
            for other, another in enumerate(READERS):
                if other != one:
                    between = [analysis.embedding_distance(first, half) for half in found[another][seed]]
                    distances[one, other] += np.mean(between) / TIMES
                    nearer += [int(within < each) for each in between]
                    times += [seed] * len(between)
    return analysis.accuracy(np.ones(len(nearer), int), nearer, times), distances


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(*folders):
    probe = zoo.backbone("resnet18", input_shape=(*SIZE, 3))
    tables = {name: datasets.read(name, folder) for name, folder in zip(READERS, folders, strict=True)}
    images = {name: datasets.cached_images(table, SIZE) for name, table in tables.items()}
    print(f"{machine()}; ResNet18 at {SIZE[0]} pixels, {IMAGES} images of each half, {TIMES} times")
    for method in ("expected", "montecarlo"):
        started = time.process_time(), time.perf_counter()
        found = {name: halves(probe, tables[name], images[name], method) for name in READERS}
        spent = time.process_time() - started[0], time.perf_counter() - started[1]
        share, distances = compare(found)
        print(
            f"{method}: halves of a dataset nearer than two datasets in {share.value:.3f} "
            f"({share.low:.3f} to {share.high:.3f}) of {share.n} comparisons; {spent[0]:.0f} s of CPU, {spent[1]:.0f} s"
        )
        for name, row in zip(READERS, distances, strict=True):
            print(f"  {name:10s}" + " ".join(f"{value:.3f}" for value in row), flush=True)
    embedder = task2vec.embedder(probe, len(tables["isic2018"].attrs["classes"]), "expected")
    labels = datasets.encode_labels(tables["isic2018"])
    embedder.embed(images["isic2018"], np.arange(IMAGES), labels[:IMAGES])
    before, started = peak(), (time.process_time(), time.perf_counter())
    embedder.embed(images["isic2018"], np.arange(1000), labels[:1000])
    print(
        f"1000 images: {time.process_time() - started[0]:.1f} s of CPU, {time.perf_counter() - started[1]:.1f} s, "
        f"{1000 * (peak() - before):.0f} MiB more than {IMAGES} images, {before:.2f} GiB in all"
    )


if __name__ == "__main__":
    if len(sys.argv) != 1 + len(READERS):
        sys.exit("usage: python benchmarks/task2vec.py ISIC2018 CHEST_XRAY DTD BUSI")
    main(*sys.argv[1:])
