"""What splitting BUSI by image is worth, and what a classifier gets without looking at the lesion.

    MEDZOO_WEIGHTS=FOLDER python benchmarks/leakage.py BUSI

Five-fold cross-validation over all benign and malignant images (AUC over the pooled scores), folds by image and folds
by twin group, the groups with contradictory labels left in and left out:

- linear probe: logistic regression on the average-pooled features of ResNet50 (ImageNet);
- nearest neighbour: share of malignant among the 1 nearest image by cosine of the same features;
- grey levels: logistic regression on mean, deviation and ten quantiles of the image;
- border: logistic regression on the outermost tenth of the image, averaged to 64 numbers.

The last two see hardly anything of the lesion: what they reach is what a shortcut gives.
"""

import sys

import keras
import numpy as np
from medzoo import analysis, datasets, zoo
from medzoo.training.run import machine
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def features(images):
    network = zoo.backbone("resnet50")
    pooled = keras.Model(network.input, keras.layers.GlobalAveragePooling2D()(network.output))
    return pooled.predict(images.astype("float32"), batch_size=24, verbose=0)


def grey_levels(images):
    pixels = images[..., 0].reshape(len(images), -1).astype("float64")
    quantiles = np.quantile(pixels, np.linspace(0.05, 0.95, 10), axis=1).T
    return np.column_stack([pixels.mean(axis=1), pixels.std(axis=1), quantiles])


def border(images):
    grey = images[..., 0].astype("float64")
    width = grey.shape[1] // 10
    sides = [grey[:, :width].mean(1), grey[:, -width:].mean(1), grey[:, :, :width].mean(2), grey[:, :, -width:].mean(2)]
    return np.concatenate([side.reshape(len(side), 16, -1).mean(2) for side in sides], axis=1)


def cross_validate(classifier, columns, labels, folds):
    scores = np.empty(len(labels))
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        scores[test] = classifier().fit(columns[train], labels[train]).predict_proba(columns[test])[:, 1]
    return scores


def logistic():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=2000))


def neighbour():
    return KNeighborsClassifier(1, metric="cosine")


def main(folder):
    table = datasets.read("busi", folder)
    images = datasets.cached_images(table, (224, 224)).read(np.arange(len(table)))
    labels = datasets.encode_labels(table)
    deep = features(images)
    probes = {
        "linear probe": (logistic, deep),
        "nearest neighbour": (neighbour, deep),
        "grey levels": (logistic, grey_levels(images)),
        "border": (logistic, border(images)),
    }
    contradictory = (table.groupby("subject")["label"].transform("nunique") > 1).to_numpy()
    print(f"{machine()}; {len(table)} images, {table['subject'].nunique()} twin groups, ", end="")
    print(f"{contradictory.sum()} images in groups with contradictory labels")
    for kept, name in ((np.full(len(table), True), "all images"), (~contradictory, "without contradictory groups")):
        part = table[kept].reset_index(drop=True)
        subjects = part["subject"].to_numpy()
        folds = {by: datasets.k_folds(part, 5, seed=0, by=by)["fold"].to_numpy() for by in ("image", "subject")}
        print(f"\n{name}, n = {len(part)}: AUC (95 % interval, bootstrap by twin group)")
        for probe, (classifier, columns) in probes.items():
            scores = {by: cross_validate(classifier, columns[kept], labels[kept], fold) for by, fold in folds.items()}
            cells = []
            for by, values in scores.items():
                area = analysis.auc(labels[kept], values, subjects)
                cells.append(f"by {by} {area.value:.3f} ({area.low:.3f} to {area.high:.3f})")
            gain = analysis.compare_delong(labels[kept], scores["image"], scores["subject"], subjects)
            cells.append(f"difference {gain.difference:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
            print(f"  {probe:18}", "; ".join(cells))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/leakage.py BUSI")
    main(sys.argv[1])
