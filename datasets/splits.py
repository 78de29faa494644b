"""Splits of an image table: stratified by class, by subject, and the same on every machine.

No random number generator decides: groups are ordered by the SHA-256 of seed and name, so that a split depends on
nothing but the table's content and the seed, neither on the order of the rows nor on a library's version.

A multi-label table is stratified by whether an image shows any finding: rare findings fall where chance puts them.
"""

import hashlib
from collections import Counter, defaultdict
from fractions import Fraction

from .table import NO_FINDING, check_table, is_multi_label

ANY_FINDING = "any finding"


def split(table, parts, seed, by="subject"):
    """Divides a table into parts that keep the classes' proportions, with every subject in one part only.

    In place of the class of a multi-label image stands whether it shows any finding.

    Part sizes come from the largest remainder. Where each subject has one image, they and the classes' counts in
    each part (each rounded up or down from the exact proportion) are met exactly; where subjects carry several
    images, the largest are placed first, each where the share still missing is largest, and the counts come as
    close as the groups allow.

    Args:
        table: an image table.
        parts: name to share of the images: floats that sum to 1, or whole numbers of images that sum to the table's.
        seed: any integer; another seed gives another split.
        by: `"subject"`, or `"image"` for published protocols that split by image. The second lets the images of a
            subject fall on both sides.

    Returns:
        A copy of the table, in its order, with the column `split`.

    Raises:
        ValueError: if the parts do not sum up, a class has fewer subjects than there are parts, or a part would
            hold one class only.

    Example:

    ```python
    table = split(table, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=0)
    ```
    """
    check_table(table)
    assigned = _assign(table, _part_sizes(parts, len(table)), seed, by)
    result = table.copy()
    result["split"] = assigned
    return result


def validation_from_training(table, share, seed):
    """Takes a validation part out of the training part of a split that came with the data, under the rules of `split`.

    Every other part, such as an official `"test"`, stays as it is.

    Args:
        table: an image table whose column `split` holds `"train"` and no `"validation"`.
        share: of the training part's images, above 0 and below 1.
        seed: any integer.

    Returns:
        A copy of the table, in its order, in which a share of `"train"` has become `"validation"`.

    Raises:
        ValueError: if there is no split, no training part or a validation part already, or as `split`.

    Example:

    ```python
    table = validation_from_training(read_cbis_ddsm("~/data/CBIS-DDSM"), 0.15, seed=0)
    ```
    """
    check_table(table)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise ValueError(f"share is {share!r}, expected a number above 0 and below 1")
    parts = sorted(set(table["split"])) if "split" in table else []
    if "train" not in parts or "validation" in parts:
        received = f"the parts {', '.join(parts)}" if parts else "no column 'split'"
        raise ValueError(
            f"image table of {table.attrs['dataset']!r} has {received}, expected a part 'train' and no 'validation'"
        )
    training = (table["split"] == "train").to_numpy()
    result = table.copy()
    result.loc[training, "split"] = split(table[training], {"train": 1 - share, "validation": share}, seed)["split"]
    return result


def k_folds(table, folds, seed, by="subject"):
    """Divides a table into folds of equal size for cross-validation, under the rules of `split`.

    Args:
        table: an image table.
        folds: how many, 2 or more.
        seed: any integer.
        by: `"subject"` or `"image"`.

    Returns:
        A copy of the table, in its order, with the integer column `fold`, 0 to `folds` - 1.

    Raises:
        ValueError: as `split`.
    """
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= len(table):
        raise ValueError(f"folds is {folds!r}, expected a whole number from 2 to the number of images, {len(table)}")
    check_table(table)
    share, rest = divmod(len(table), folds)
    sizes = {fold: share + (fold < rest) for fold in range(folds)}
    result = table.copy()
    result["fold"] = _assign(table, sizes, seed, by)
    return result


def fraction(table, fraction, seed):
    """A stratified part of a table, subject by subject, for example for learning curves.

    Args:
        table: an image table.
        fraction: share of the images to keep, above 0 and at most 1.
        seed: any integer.

    Returns:
        The rows that are kept, in the table's order.

    Raises:
        ValueError: if the fraction is out of range, or leaves a class without images.
    """
    check_table(table)
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction!r}, expected a number above 0 and at most 1")
    if fraction == 1:
        return table.copy()
    sizes = _largest_remainder([fraction, 1 - fraction], len(table))
    strata = _strata(table)
    placed = _place(_groups(table["subject"], strata), _cell_targets(strata, sizes), seed)
    kept = table[[placed[name] == 0 for name in table["subject"]]].reset_index(drop=True)
    lost = sorted(set(strata).difference(_strata(kept)))
    if lost:
        raise ValueError(
            f"fraction {fraction} of {len(table)} images keeps none of class {lost[0]!r}, expected a larger fraction"
        )
    return kept


def _part_sizes(parts, total):
    if not parts:
        raise ValueError("parts is empty, expected names with shares such as {'train': 0.8, 'test': 0.2}")
    for name, share in parts.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not share > 0:
            raise ValueError(f"part {name!r} is {share!r}, expected a positive share or number of images")
    shares = list(parts.values())
    if all(isinstance(share, int) for share in shares):
        if sum(shares) != total:
            raise ValueError(f"parts sum to {sum(shares)} images, expected the table's {total}")
        return dict(parts)
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"parts sum to {sum(shares):g}, expected 1 (or whole numbers that sum to {total} images)")
    return dict(zip(parts, _largest_remainder(shares, total), strict=True))


def _largest_remainder(shares, total):
    """Whole numbers in the proportion of `shares` that sum to `total` (Hamilton's method)."""
    exact = [Fraction(share).limit_denominator(10**9) for share in shares]
    exact = [share * total / sum(exact) for share in exact]
    counts = [int(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda part: (counts[part] - exact[part], part))
    for part in order[: total - sum(counts)]:
        counts[part] += 1
    return counts


def _assign(table, sizes, seed, by):
    """The part of each row."""
    if by not in ("subject", "image"):
        raise ValueError(f"by is {by!r}, expected 'subject' or 'image'")
    strata = _strata(table)
    groups = _groups(table[by], strata)
    names = list(sizes)
    subjects = Counter(label for labels in groups.values() for label in labels)
    for label in sorted(subjects):
        if subjects[label] < len(names):
            raise ValueError(
                f"class {label!r} has {subjects[label]} {by}s, expected at least one for each of {len(names)} parts"
            )
    placed = _place(groups, _cell_targets(strata, list(sizes.values())), seed)
    assigned = [names[placed[name]] for name in table[by]]
    held = defaultdict(set)
    for name, label in zip(assigned, strata, strict=True):
        held[name].add(label)
    # A table in which every image shows a finding is still worth a split; one of a single class is not.
    least = len(set(strata)) if is_multi_label(table) else 2
    for name in names:
        if len(held[name]) < least:
            content = f"only images of class {min(held[name])!r}" if held[name] else "no images"
            raise ValueError(
                f"part {name!r} would hold {content}, expected two classes or more: give it a larger share"
            )
    return assigned


def _strata(table):
    """What each image is stratified by: its class, or in a multi-label table whether it shows any finding."""
    if is_multi_label(table):
        return [NO_FINDING if label == NO_FINDING else ANY_FINDING for label in table["label"]]
    return list(table["label"])


def _groups(names, strata):
    """Name of each subject (or image) to how many images of each class it has."""
    groups = defaultdict(Counter)
    for name, label in zip(names, strata, strict=True):
        groups[name][label] += 1
    return groups


def _cell_targets(strata, sizes):
    """How many images of each class belong into each part: `{class: [count in each part]}`.

    Every count is the exact proportion rounded up or down, such that classes and parts both sum up. (Such a rounding
    always exists: it is an integral flow from classes to parts. Units left over after rounding down are placed where
    the remainder is largest; one that finds no free part makes room along an augmenting path.)
    """
    total, labels = len(strata), Counter(strata)
    classes = sorted(labels)
    counts = {label: [labels[label] * size // total for size in sizes] for label in classes}
    remainder = {label: [labels[label] * size % total for size in sizes] for label in classes}
    free = [size - sum(counts[label][part] for label in classes) for part, size in enumerate(sizes)]
    raised = {label: set() for label in classes}

    def raise_one(label, visited):
        order = sorted(range(len(sizes)), key=lambda part: (-remainder[label][part], part))
        for part in order:
            if not remainder[label][part] or part in raised[label] or part in visited:
                continue
            visited.add(part)
            if free[part]:
                free[part] -= 1
            else:
                # Another class gives its unit here up, if it finds a place for it elsewhere.
                holders = (other for other in classes if part in raised[other])
                giver = next((other for other in holders if raise_one(other, visited)), None)
                if giver is None:
                    continue
                raised[giver].discard(part)
            raised[label].add(part)
            return True
        return False

    for label in classes:
        for _ in range(labels[label] - sum(counts[label])):
            raise_one(label, set())
    return {label: [count + (part in raised[label]) for part, count in enumerate(counts[label])] for label in classes}


def _place(groups, targets, seed):
    """The part number of each group: largest groups first, each where the largest share is still missing."""
    missing = {label: list(counts) for label, counts in targets.items()}
    totals = {label: sum(counts) for label, counts in targets.items()}

    def order(name):
        return -groups[name].total(), hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()

    placed = {}
    for name in sorted(groups, key=order):
        labels = sorted(groups[name].items())

        def need(part, labels=labels):
            overshoot = sum(max(0, count - missing[label][part]) for label, count in labels)
            # Rare classes weigh as much as frequent ones; a share, so that small parts get their large groups too.
            share = sum(
                Fraction(count * missing[label][part], totals[label] * targets[label][part])
                for label, count in labels
                if targets[label][part]
            )
            return -overshoot, share, -part

        best = max(range(len(next(iter(targets.values())))), key=need)
        placed[name] = best
        for label, count in labels:
            missing[label][best] -= count
    return placed
