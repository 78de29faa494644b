"""Which start to fine-tune from for somebody's own images, asked before anything is trained.

Every candidate turns the images into features once; what follows costs seconds. The order is that of a linear probe's
AUC, each image scored by a probe that has seen other subjects. It is an estimate: how far its order agrees with that
of the AUCs after fine-tuning is measured by `benchmarks/recommend.py`.
"""

import hashlib
import math
import os
import re
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import _progress
from .._files import atomic
from ..datasets import encode_labels, fraction, is_multi_label, read, readable
from .candidates import BATCH, candidate, candidate_features, has_seen, list_candidates
from .estimates import h_score, leep, log_maximum_evidence, neighbour_scores, probe_scores, subject_folds
from .plots import recommendation_figure
from .roc import compare_weighted, weighted_auc

FOLDS = 5
SEED = 0
LARGEST = 2000  # images; of a larger table a part of so many is taken
LEVEL = 0.95
# Of the comparisons: their levels are high (of eight candidates some four of these lie outside on each side).
RESAMPLES = 5000
# Forward passes that a training step takes: three by count, see `multiply_accumulates`, and what batch norm,
# activations and optimiser add (`benchmarks/recommend.py costs`).
STEP = 4
# In float32: a weight, its gradient and Adam's two moments; a number that a layer gives, kept for the way back.
BYTES_PER_PARAMETER, BYTES_PER_ACTIVATION = 16, 4
SUBJECTS = {
    "named": "named by the data",
    "twins": "groups of twin images",
    "none": "unknown, each image counts as its own",
}


class Recommendation(NamedTuple):
    """What `recommend` found.

    Attributes:
        advice: str, which start to take, in a sentence or two.
        notes: list of str, what the reader must know of these numbers.
        table: DataFrame, a row for each candidate, see `rank_candidates`.
        predictions: DataFrame, the probabilities that the table's AUCs are of.
        report: path of `report.md`; beside it `recommendation.csv`, `predictions.csv` and `recommendation.png`.
    """

    advice: str
    notes: list
    table: pd.DataFrame
    predictions: pd.DataFrame
    report: Path

    @property
    def summary(self):
        """The table with its most important columns, the advice and the notes, as lines of text."""
        shown = _shown(self.table)
        listed = shown[["candidate", "input", "AUC (95 % interval)", "behind the first", "images/s", "epoch", "memory"]]
        return "\n".join([listed.to_string(index=False), "", self.advice, *(f"Note: {note}" for note in self.notes)])


def recommend(data, dataset=None, candidates=None, out=None):
    """Ranks what a training on somebody's images may begin with, and writes a report.

    Args:
        data: a folder with a subfolder of images for each class, or a CSV file `image,label[,subject,split]`.
        dataset: one of `datasets.list_datasets()`, where the folder is such a dataset in its own layout.
        candidates: names, see `rank_candidates`.
        out: folder for `report.md`, `recommendation.csv`, `predictions.csv` and `recommendation.png`, made if need
            be; by default `recommendation-NAME`, after the data, in the current folder.

    Returns:
        `Recommendation`.

    Raises:
        FileNotFoundError, ValueError: as the readers of datasets and as `rank_candidates`.
        NotADirectoryError: `out` is a file.
        OSError: a file cannot be written.

    Example:

    ```python
    print(recommend("~/data/lesions").summary)
    ```
    """
    path = Path(data).expanduser()
    table = read(dataset or ("csv" if path.is_file() else "folder"), path)
    name = re.sub(r"[^\w.-]+", "-", table.attrs["dataset"])
    out = Path(out) if out is not None else Path(f"recommendation-{name}")
    _check(table)
    chosen, notes = _chosen(candidates)
    try:
        out.mkdir(parents=True, exist_ok=True)  # before minutes of work, not after
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"{out}: received a file's path, expected that of a folder, new or not") from None
    ranked, predictions, notes, images = _rank(table, chosen, notes)
    advice = give_advice(ranked)
    notes = [*notes, *_seen_notes(ranked)]
    _write_csv(out / "recommendation.csv", ranked)
    _write_csv(out / "predictions.csv", predictions)
    with atomic(out / "recommendation.png") as temporary:
        recommendation_figure(ranked).savefig(temporary, dpi=150, format="png")
    with atomic(out / "report.md") as temporary:
        temporary.write_text(_report(ranked, advice, notes, images), encoding="utf-8")
    return Recommendation(advice, notes, ranked, predictions, out / "report.md")


def rank_candidates(table, candidates=None):
    """Ranks what a training may begin with by a linear probe on its features of a table's images.

    Of a table of more than 2000 images a part of about so many is taken, by subject and stratified by class; of a
    class of few subjects some images of as many of them as there are folds at least. Images that cannot be read are
    left out.

    Args:
        table: an image table, one class an image, each class of five subjects or more.
        candidates: names of backbones (with ImageNet weights) and checkpoints, or folders and archives of the latter;
            None for all that need no download.

    Returns:
        (ranked, predictions, notes, images). `ranked` is a DataFrame with a row for each candidate, that of the
        highest AUC first:

        - `candidate`, `kind` (imagenet, checkpoint), `seen` (whether its card says that it was trained on this
          dataset, on a part of it, or on one of which this is a part; see `candidates.has_seen`), `height`, `width`,
          `channels` (of its input), `features` (their number);
        - `auc`, `auc_low`, `auc_high`, `n`: of a linear probe, see `probe_scores`; the mean over the folds, weighted
          one-against-rest for several classes, see `weighted_auc`;
        - `behind`, `behind_low`, `behind_high`: how far it is behind the first that has not seen the data, paired by
          subject, at a level that holds for all pairs of candidates together (Bonferroni), as which of them comes
          first is known from the same images; NaN for the first and for those that have seen the data; `told_apart`:
          whether that interval excludes 0;
        - `neighbours`, `neighbours_low`, `neighbours_high`: AUC of the nearest neighbours; `log_maximum_evidence`,
          `h_score` (with shrinkage), `leep` (NaN without a head of exclusive classes);
        - `images_per_second` measured, `multiply_accumulates` and `parameters` counted, `epoch_seconds` (of
          `epoch_images`, all that the table has) and `memory_bytes` of fine-tuning estimated, see `recommend`'s
          report.

        `predictions` has a row for each candidate and image: `candidate`, `image`, `subject`, `label`, `fold` and the
        probability of each class. `notes` are sentences, `images` says in words what was ranked on.

    Raises:
        ValueError: a multi-label table, a class of too few subjects, no candidate, an unknown one, or the same twice.
        FileNotFoundError: no image can be read, or weights are missing.
    """
    _check(table)
    return _rank(table, *_chosen(candidates))


def _rank(table, chosen, notes):
    """What `rank_candidates` returns; `notes` are those of the candidates."""
    found = len(table)
    if found > LARGEST:
        table, rare = _part(table)
        by_image = f", of {', '.join(rare)} (few subjects) by image" if rare else ""
        notes = [
            *notes,
            f"Ranked on {len(table)} of {found} images, drawn by subject and stratified by class{by_image}.",
        ]
    table, unreadable = _readable(table, chosen)
    if unreadable:
        _check(table)
        notes.append(f"Left out, as they cannot be read: {unreadable} of {len(table) + unreadable} images.")
    if table.attrs["subjects"] == "none":
        notes.append(
            "No subjects are known, so that images of one person may be on both sides of a fold, which flatters every "
            "AUC: name them in a CSV file with the columns image,label,subject (`medzoo twins` finds images that show "
            "the same thing)."
        )
    # Numbers of the classes that occur, in their order.
    labels, subjects = np.unique(encode_labels(table), return_inverse=True)[1], table["subject"].to_numpy()
    folds = subject_folds(labels, subjects, FOLDS, SEED)
    rows, scores = [], {}
    for number, each in enumerate(chosen, start=1):
        made, costs = candidate_features(each, table)
        scores[each.name] = probe_scores(made.features, labels, subjects, FOLDS, SEED)
        row = _row(each, table, made, costs, labels, subjects, folds, scores[each.name])
        rows.append(row | {"epoch_images": found, "epoch_seconds": STEP * found / made.images_per_second})
        _progress.show("candidates ranked", number, len(chosen))
    ranked = pd.DataFrame(rows).sort_values("auc", ascending=False, kind="stable", ignore_index=True)
    _compare(ranked, scores, labels, subjects, folds)
    counts = table["label"].value_counts()
    images = (
        f"{len(table)} images of {table.attrs['dataset']} ("
        + ", ".join(f"{counts[name]} {name}" for name in table.attrs["classes"] if name in counts)
        + f"), {len(set(subjects))} subjects ({SUBJECTS[table.attrs['subjects']]})"
    )
    return ranked, _predictions(table, scores, folds), notes, images


def give_advice(ranked):
    """Which start to take, in words that claim no more than the intervals allow.

    Args:
        ranked: DataFrame as from `rank_candidates`.

    Returns:
        str.
    """
    fresh = ranked[~ranked["seen"]]
    if fresh.empty:
        return "Every candidate has been trained on these images: what its features reach here says nothing."
    first = fresh.iloc[0]
    area = f"AUC {first['auc']:.3f} ({first['auc_low']:.3f} to {first['auc_high']:.3f})"
    if first["auc_low"] <= 0.5:
        return (
            f"No start can be recommended: even the first, {first['candidate']}, does not tell the classes of these "
            f"{first['n']} images apart better than chance would, {area}."
        )
    if len(fresh) == 1:
        return f"{first['candidate']} reaches {area}; there is no other candidate to compare it with."
    if fresh["told_apart"].iloc[1:].all():
        return f"Begin with {first['candidate']}: {area}, ahead of each other candidate by more than chance explains."
    equals = fresh[~fresh["told_apart"]]
    # By count: measured times hold what else the machine did.
    cheapest = equals.sort_values("multiply_accumulates", kind="stable").iloc[0]
    others = ", ".join(name for name in equals["candidate"] if name != first["candidate"])
    cost = f"an epoch costs about {_duration(cheapest['epoch_seconds'])}"
    choice = (
        f"it also costs least of them, {cost}: begin with it"
        if cheapest["candidate"] == first["candidate"]
        else f"of these {cheapest['candidate']} costs least, {cost}: begin with it, or try several"
    )
    leads = f"{first['candidate']} comes first, {area}"
    return f"{leads}, but {first['n']} images cannot tell it apart from {others}; {choice}."


def _check(table):
    """Refuses a table that cannot be cross-validated."""
    title = f"image table of {table.attrs['dataset']!r}"
    if is_multi_label(table):
        raise ValueError(f"{title}: received several labels an image, expected one class an image")
    subjects = table.groupby("label")["subject"].nunique()
    if len(subjects) < 2:
        raise ValueError(f"{title}: received images of {subjects.index[0]!r} only, expected two classes or more")
    if subjects.min() < FOLDS:
        raise ValueError(
            f"{title}: received {subjects.min()} subjects of class {subjects.idxmin()!r}, expected at least {FOLDS}, "
            "one for each fold"
        )


def _part(table):
    """About `LARGEST` of a table's images by subject, and the classes that are drawn by image.

    Of a class that would be left with few subjects the images are taken one of each subject, then a second, so that
    there is one for each fold.
    """
    share = LARGEST / len(table)
    subjects = table.groupby("label")["subject"].nunique()
    rare = [name for name in table.attrs["classes"] if subjects.get(name, np.inf) * share < 2 * FOLDS]
    drawn = []
    for name in rare:
        rows = table[table["label"] == name]
        digests = [hashlib.sha256(f"{SEED}:{image}".encode()).hexdigest() for image in rows["image"]]
        rows = rows.assign(digest=digests).sort_values("digest")
        turns = rows.groupby("subject").cumcount().sort_values(kind="stable")
        drawn += list(rows.loc[turns.index[: max(FOLDS, round(share * len(rows)))], "image"])
    others = table[~table["label"].isin(rare)]
    if len(others):
        drawn += list(fraction(others, share, SEED)["image"])
    return table[table["image"].isin(set(drawn))].reset_index(drop=True), rare


def _chosen(names):
    notes = []
    if names is None:
        names, missing = list_candidates()
        alike = {}
        for name, reason in missing.items():
            alike.setdefault(reason, []).append(name)
        reasons = "; ".join(f"{', '.join(group)} ({reason})" for reason, group in alike.items())
        if missing:
            notes.append(f"Not ranked: {reasons}. The weights of a backbone that --candidates names are downloaded.")
        if not names:
            raise ValueError(f"candidates: found none at hand ({reasons or 'no checkpoint'}), expected one at least")
    chosen = [candidate(name) for name in names]
    twice = [each.name for index, each in enumerate(chosen) if each.name in [one.name for one in chosen[:index]]]
    if twice or not chosen:
        raise ValueError(f"candidates: received {f'{twice[0]!r} twice' if twice else 'none'}, expected distinct names")
    return chosen, notes


def _readable(table, chosen):
    """The images that can be read, decoded for all candidates, and how many cannot be."""
    found = len(table)
    for form in dict.fromkeys(each.form for each in chosen):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            table = readable(table, **form.cached)
        for warning in caught:
            print(f"\n{warning.message}", file=sys.stderr)
    return table, found - len(table)


def _row(candidate, table, made, costs, labels, subjects, folds, scores):
    card, (height, width) = candidate.card, candidate.form.size
    area = weighted_auc(labels, scores, subjects, folds, LEVEL, seed=SEED)
    near = neighbour_scores(made.features, labels, subjects, FOLDS, SEED)
    nearest = weighted_auc(labels, near, subjects, folds, LEVEL, seed=SEED)
    return {
        "candidate": candidate.name,
        "kind": "imagenet" if card is None else "checkpoint",
        "seen": card is not None and has_seen(card, table),
        "height": height,
        "width": width,
        "channels": candidate.form.channels,
        "features": made.features.shape[1],
        "auc": area.value,
        "auc_low": area.low,
        "auc_high": area.high,
        "n": area.n,
        "neighbours": nearest.value,
        "neighbours_low": nearest.low,
        "neighbours_high": nearest.high,
        "log_maximum_evidence": log_maximum_evidence(made.features, labels),
        "h_score": h_score(made.features, labels, shrinkage=True),
        "leep": np.nan if made.probabilities is None else leep(made.probabilities, labels),
        "images_per_second": made.images_per_second,
        "multiply_accumulates": costs.multiply_accumulates,
        "parameters": costs.parameters,
        "memory_bytes": BYTES_PER_PARAMETER * costs.parameters + BYTES_PER_ACTIVATION * BATCH * costs.activations,
    }


def _compare(ranked, scores, labels, subjects, folds):
    """Adds how far each candidate is behind the first of those that have not seen the data.

    The first is chosen on the same images, so that the intervals hold together where those of all pairs would.
    """
    for name in ("behind", "behind_low", "behind_high"):
        ranked[name] = np.nan
    ranked["told_apart"] = False
    first, *others = ranked.index[~ranked["seen"]] if not ranked["seen"].all() else [None]
    level = _pair_level(len(others) + 1)
    for other in others:
        found = compare_weighted(
            labels,
            scores[ranked.loc[first, "candidate"]],
            scores[ranked.loc[other, "candidate"]],
            subjects,
            folds,
            level=level,
            resamples=RESAMPLES,
            seed=SEED,
        )
        ranked.loc[other, ["behind", "behind_low", "behind_high"]] = found.difference, found.low, found.high
        ranked.loc[other, "told_apart"] = found.low > 0


def _pair_level(candidates):
    """Level of an interval such that those of all pairs of so many candidates hold together (Bonferroni)."""
    return 1 - (1 - LEVEL) / max(1, math.comb(candidates, 2))


def _predictions(table, scores, folds):
    """The probabilities of all candidates below each other; a column for each class that occurs."""
    occurring = set(table["label"])
    classes = [name for name in table.attrs["classes"] if name in occurring]
    parts = []
    for name, probabilities in scores.items():
        part = table[["image", "subject", "label"]].assign(fold=folds)
        part.insert(0, "candidate", name)
        parts.append(pd.concat([part, pd.DataFrame(probabilities, columns=classes)], axis=1))
    return pd.concat(parts, ignore_index=True)


def _seen_notes(ranked):
    seen = list(ranked["candidate"][ranked["seen"]])
    return (
        [
            f"{', '.join(seen)} (marked *): trained on images of this dataset, as card and name of the data say; the "
            "features have seen labels that they are asked for here, so that the AUC flatters, and nothing is "
            "compared or recommended."
        ]
        if seen
        else []
    )


def _shown(ranked):
    """The ranking as text, for screen and report."""
    rows = []
    for row in ranked.to_dict("records"):
        behind = f"{row['behind']:.3f} ({row['behind_low']:.3f} to {row['behind_high']:.3f})"
        first = "seen" if row["seen"] else "first"
        rows.append(
            {
                "candidate": row["candidate"] + ("*" if row["seen"] else ""),
                "input": f"{row['height']}x{row['width']}x{row['channels']}",
                "AUC (95 % interval)": f"{row['auc']:.3f} ({row['auc_low']:.3f} to {row['auc_high']:.3f})",
                "behind the first": first if np.isnan(row["behind"]) else behind,
                "neighbours' AUC": f"{row['neighbours']:.3f}",
                "LogME": f"{row['log_maximum_evidence']:.3f}",
                "H-score": f"{row['h_score']:.3f}",
                "LEEP": "-" if np.isnan(row["leep"]) else f"{row['leep']:.3f}",
                "images/s": f"{row['images_per_second']:.1f}",
                "epoch": _duration(row["epoch_seconds"]),
                "memory": f"{row['memory_bytes'] / 1e9:.1f} GB",
            }
        )
    return pd.DataFrame(rows)


def _duration(seconds):
    """
    >>> _duration(95)
    '1.6 min'
    """
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _report(ranked, advice, notes, images):
    shown = _shown(ranked)
    compared = int((~ranked["seen"]).sum())
    return "\n".join(
        [
            "# Which start for these images",
            "",
            f"{images}.",
            "",
            f"**{advice}**",
            "",
            *(f"- {note}" for note in notes),
            *([""] if notes else []),
            f"| {' | '.join(shown.columns)} |",
            "|---" * len(shown.columns) + "|",
            *(f"| {' | '.join(map(str, row))} |" for row in shown.itertuples(index=False)),
            "",
            "![The candidates' AUCs with intervals, and what they cost](recommendation.png)",
            "",
            "What the columns are:",
            "",
            f"- AUC: of a linear probe on the network's pooled features, every image scored by a probe that has seen "
            f"other subjects only ({FOLDS} folds by subject, regularisation chosen inside the rest); mean over the "
            "folds, of several classes each against the rest weighted by its share; 95 % interval of a bootstrap by "
            "subject. `predictions.csv` holds the probabilities.",
            f"- behind the first: difference of AUCs on the same images, with the interval of a paired bootstrap by "
            f"subject at {_pair_level(compared):.2%}, so that all {math.comb(compared, 2)} pairs of candidates hold "
            "together with 95 % (Bonferroni): which comes first is known from the same images. Where it includes 0 "
            "these images do not tell the two apart.",
            "- neighbours' AUC: the same of the 20 nearest neighbours (Wu and others, 2018). LogME (You and others, "
            "2021), H-score (Bao and others, 2019; covariance shrunk) and LEEP (Nguyen and others, 2020; of networks "
            "with classes of their own) see all labels and are comparable between candidates only; higher is better.",
            f"- images/s: forward passes of {BATCH} images, measured on this machine ({os.cpu_count()} cores) when "
            "the features were computed, the fastest tenth: busy, it takes longer.",
            f"- epoch: of fine-tuning all layers on all {ranked['epoch_images'].iloc[0]} images found, estimated as "
            f"{STEP} forward passes an image (the way back is twice the work of the way there, and the optimiser has "
            "its share), without reading and validating.",
            f"- memory: of fine-tuning in batches of {BATCH}, estimated as {BYTES_PER_PARAMETER} bytes a parameter "
            f"(weight, gradient, Adam's moments) and {BYTES_PER_ACTIVATION} for each number that a layer gives, "
            "without the program's own.",
            "",
            "A linear probe is an estimate. It says what frozen features hold, not what fine-tuning makes of them, and "
            "each checkpoint is asked at the size that it is bound to. Whether a checkpoint has seen images of the "
            "user's own is known from the card's words alone.",
            "",
        ]
    )


def _write_csv(path, table):
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
