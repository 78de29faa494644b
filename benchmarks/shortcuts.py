"""What a classifier reaches on any dataset without seeing what is in the images.

    python benchmarks/shortcuts.py kermany CHEST

A linear probe (`analysis.probe_scores`: five folds by subject) on mean, deviation and ten quantiles of each image's
grey levels, and on the outermost tenth of the image, averaged to 64 numbers. AUC, weighted one-against-rest for several
classes, with a 95 % interval from a bootstrap by subject.
"""

import sys

import numpy as np
from leakage import border, grey_levels
from medzoo import analysis, datasets
from medzoo.training.run import machine

SIZE = (112, 112)


def main(reader, data):
    table = datasets.read(reader, data)
    labels, subjects = datasets.encode_labels(table), table["subject"].to_numpy()
    images = datasets.cached_images(table, SIZE, channels=1).read(np.arange(len(table)))
    folds = analysis.subject_folds(labels, subjects, 5, 0)
    print(f"{machine()}; {reader}: {len(table)} images, {len(set(subjects))} subjects ({table.attrs['subjects']})")
    for name, columns in (("grey levels", grey_levels(images)), ("border", border(images))):
        scores = analysis.probe_scores(columns, labels, subjects)
        area = analysis.weighted_auc(labels, scores, subjects, folds, resamples=1000)
        print(f"  {name}: AUC {area.value:.3f} ({area.low:.3f} to {area.high:.3f}), n = {area.n}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python benchmarks/shortcuts.py READER DATA")
    main(*sys.argv[1:])
