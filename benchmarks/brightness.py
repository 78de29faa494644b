"""How far networks that were never trained on a target follow the brightness of its images.

    python benchmarks/brightness.py TARGET FOLDER RUN

TARGET is a reader's name and FOLDER its data, RUN a finished run of `medzoo run pretraining_effect`. Prints the AUC of
an image's mean grey value, and for each network and start without fine-tuning the rank correlation of its scores with
that value, repeat by repeat.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from medzoo import analysis, datasets
from medzoo.training.run import machine
from scipy.stats import spearmanr


def main(target, folder, run):
    print(f"{machine()}: python benchmarks/brightness.py {target} {Path(folder).name} RUN")
    table = datasets.read(target, folder)
    images = datasets.cached_images(table, (96, 96), channels=1)
    grey = images.read(np.arange(len(table))).mean(axis=(1, 2, 3))
    positive = (table["label"] == table.attrs["classes"][-1]).astype(int)
    area = analysis.auc(positive, -grey, table["subject"].to_numpy())
    name = table.attrs["classes"][-1]
    print(f"darker is {name}: AUC {area.value:.3f} ({area.low:.3f} to {area.high:.3f}), n = {area.n}")
    by_image = dict(zip(table["image"], grey, strict=True))
    for start in sorted(Path(run).glob(f"cells/{target}/*/*/none")):
        found = []
        for file in sorted(start.glob("repeat-*/predictions.csv")):
            rows = pd.read_csv(file)
            found.append(spearmanr(rows["score"], rows["image"].map(by_image)).statistic)
        print(f"{start.parts[-3]}, {start.parts[-2]}: {', '.join(f'{value:+.2f}' for value in found)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
