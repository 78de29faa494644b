"""What frozen ImageNet features reach on the split of a run, and how the run's networks stand against it.

    MEDZOO_WEIGHTS=FOLDER python benchmarks/probe.py rsna RSNA RUN

A linear probe: logistic regression (C 0.001, standardised) on the average-pooled features of ResNet50 at 320 pixels,
fitted to the training and validation images of `RUN/split.csv`; scored on its test images, and compared with the
predictions of every network in RUN on the same images, paired by a bootstrap by subject.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from medzoo import analysis, datasets, zoo
from medzoo.training.run import machine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SIZE = (320, 320)


def features(images):
    network = zoo.backbone("resnet50", input_shape=(*SIZE, 1))
    pooled = keras.Model(network.input, keras.layers.GlobalAveragePooling2D()(network.output))
    batches = (images.read(np.arange(start, min(start + 16, len(images)))) for start in range(0, len(images), 16))
    return np.concatenate([np.asarray(pooled.predict_on_batch(batch.astype("float32"))) for batch in batches])


def text(value, low, high):
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def main(reader, data, run):
    table = datasets.read(reader, data)
    split = pd.read_csv(Path(run) / "split.csv", dtype=str).set_index("image")["split"]
    table = table[table["image"].isin(split.index)].reset_index(drop=True)
    test = (table["image"].map(split) == "test").to_numpy()
    columns, labels = features(datasets.cached_images(table, SIZE, channels=1)), datasets.encode_labels(table)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=2000))
    scores = probe.fit(columns[~test], labels[~test]).predict_proba(columns[test])[:, 1]
    tested, subjects = labels[test], table["subject"][test].to_numpy()
    area = analysis.auc(tested, scores, subjects)
    print(f"{machine()}; {reader}, {area.n} test images of {len(set(subjects))} subjects, {(~test).sum()} to fit")
    print(f"linear probe: AUC {text(area.value, area.low, area.high)}")
    for file in sorted(Path(run).glob("*/predictions.csv")):
        rows = pd.read_csv(file, dtype={"image": str}).set_index("image")
        if "score" in rows:
            found = analysis.compare_means(tested, rows["score"][table["image"][test]].to_numpy(), scores, subjects)
            print(f"{file.parent.name} - linear probe: {text(found.difference, found.low, found.high)}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python benchmarks/probe.py READER DATA RUN")
    main(*sys.argv[1:])
