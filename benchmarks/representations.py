"""What comparing two layers takes in memory: sums over batches against all activations at once.

    python benchmarks/representations.py [--positions 300000] [--neurons 512] [--limit 1.0]

Both ways get the same made-up float32 activations, batch by batch, and give the four measures of
`medzoo.analysis.similarity`; each runs in a process of its own, with one thread of BLAS. The naive way puts all batches
together in float64 and takes the covariances of the whole: the least that it can do (an SVD or Gram matrices of the
data take more).

- peak: largest resident size of the process, less its size when its imports were done.
- limit: the same with so many GiB of further address space (`RLIMIT_AS`).

Linux only.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BATCH = 3136  # positions: four images of 28 x 28
SHARED = 64  # sources that both layers see
GIB = 2**30


def activations(positions, neurons):
    """Batches of two layers' activations, float32; a decade between the strongest and the weakest direction."""
    random = np.random.default_rng(0)
    mixings = [random.normal(size=(SHARED, neurons)).astype("float32") for _ in range(2)]
    scales = np.logspace(0, -1, neurons, dtype="float32")
    for start in range(0, positions, BATCH):
        rows = min(BATCH, positions - start)
        sources = random.standard_normal((rows, SHARED), dtype="float32")
        yield [
            (sources @ mixing + random.standard_normal((rows, neurons), dtype="float32")) * scales + 3
            for mixing in mixings
        ]


def stream(positions, neurons):
    from medzoo.analysis import Moments, similarity

    moments = Moments(neurons, neurons)
    for x, y in activations(positions, neurons):
        moments.add(x, y)
    return similarity(moments)[:4]


def naive(positions, neurons):
    """The four measures from whole matrices, by NumPy alone."""
    first, second = zip(*activations(positions, neurons), strict=True)
    x, y = (np.concatenate(batches, dtype="float64") for batches in (first, second))
    del first, second
    x -= x.mean(axis=0)
    y -= y.mean(axis=0)
    covariances = x.T @ x, y.T @ y, x.T @ y
    bases, kept = [], []
    for covariance in covariances[:2]:
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = values[::-1], vectors[:, ::-1]
        bases.append(vectors / np.sqrt(values))
        kept.append(int((np.cumsum(values) / values.sum() < 0.99).sum()) + 1)
    whitened = bases[0].T @ covariances[2] @ bases[1]
    rotation, coefficients, _ = np.linalg.svd(whitened)
    weights = np.abs((x @ (bases[0] @ rotation)).T @ x).sum(axis=1)
    norms = [np.linalg.norm(covariance) for covariance in covariances]
    return (
        coefficients.mean(),
        np.linalg.svd(whitened[: kept[0], : kept[1]], compute_uv=False).mean(),
        np.average(coefficients, weights=weights),
        norms[2] ** 2 / (norms[0] * norms[1]),
    )


def sizes():
    """Bytes of address space and of resident memory that this process has."""
    pages = Path("/proc/self/statm").read_text().split()[:2]
    return [int(number) * resource.getpagesize() for number in pages]


def child(way, positions, neurons, limit):
    """Prints the measures, the peak above the imports and the seconds, or nothing where memory does not suffice."""
    import medzoo.analysis.representations  # noqa: F401 - both ways begin with the same imports

    # What BLAS takes for itself is taken before the limit and the start are set.
    np.linalg.eigh(np.ones((neurons, neurons)) @ np.ones((neurons, neurons)))
    address_space, resident = sizes()
    if limit:
        address_space += int(limit * GIB)
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    start = time.perf_counter()
    try:
        measures = {"stream": stream, "naive": naive}[way](positions, neurons)
    except MemoryError:
        print("null")
        return
    seconds = time.perf_counter() - start
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([[float(value) for value in measures], largest - resident, seconds]))


def run(way, positions, neurons, limit):
    command = [sys.executable, __file__, "--child", way]
    command += ["--positions", str(positions), "--neurons", str(neurons), "--limit", str(limit)]
    environment = {**os.environ, **dict.fromkeys(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"], "1")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{shlex.join(command)}: ended with {result.returncode}\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def main(positions, neurons, limit):
    from medzoo.training.run import machine

    print(f"{machine()}; {shlex.join(['python', *sys.argv])}")
    whole = 2 * positions * neurons * 8 / GIB
    print(f"two layers of {neurons} neurons, {positions} data: {whole:.2f} GiB in float64")
    free = {way: run(way, positions, neurons, 0) for way in ("stream", "naive")}
    for way, (_, memory, seconds) in free.items():
        print(f"  {way:6}  peak {memory / GIB:6.3f} GiB, {seconds:5.1f} s")
    print(f"  naive / stream: {free['naive'][1] / free['stream'][1]:.0f} times the memory")
    differences = np.abs(np.subtract(free["naive"][0], free["stream"][0]))
    print(f"  largest difference of a measure: {differences.max():.1e}")
    print(f"with {limit:g} GiB of address space above the imports:")
    for way in free:
        print(f"  {way:6}  {'finishes' if run(way, positions, neurons, limit) else 'MemoryError'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=300_000)
    parser.add_argument("--neurons", type=int, default=512)
    parser.add_argument("--limit", type=float, default=1.0, help="GiB")
    parser.add_argument("--child", choices=["stream", "naive"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.positions, arguments.neurons, arguments.limit)
    else:
        main(arguments.positions, arguments.neurons, arguments.limit)
