"""Twins: images that show the same thing again, in any image table.

The same lesion is often pictured, or the same picture stored, more than once: cropped otherwise, with other gain or
size, with callipers or captions or without. Whoever splits such images one by one tests on training images
(Pawłowska and others, Data in Brief 48:109247, 2023, on breast ultrasound). Twins are found in three steps:

1. SIFT features of each image (Lowe, IJCV 60:91, 2004; RootSIFT as Arandjelović and Zisserman, CVPR 2012), at most
   350, of the image shrunk to 256 pixels.
2. Candidates: each feature falls into a cell of an inverted multi-index (Babenko and Lempitsky, CVPR 2012), and each
   image takes the few others with which it shares the most and the rarest cells. A cell that many images share (a
   logo, a letter of a caption) counts for nothing, which also keeps the growth close to linear.
3. Confirmation: matched features must agree on one affine transform without reflection that is close to a similarity
   (datasets squash their images to squares, so the two axes may differ in scale), and after that transform the
   tissue itself must correlate, block by block over the whole overlap. A caption, callipers or a frame that two
   images share cover few blocks and so are no evidence.

Mirrored copies are not looked for.
"""

import csv
import hashlib
import itertools
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from scipy import sparse
from threadpoolctl import threadpool_limits

from .. import _progress
from .._files import atomic
from .cache import cache_folder
from .images import DECODER_VERSION, convert_channels, read_bytes, read_image, resize_image
from .table import check_table, image_paths

VERSION = 2  # of the algorithm: results of another version are not taken from the cache

SIDE = 256  # pixels of the longer side on which features are found; smaller images stay as they are
FEATURES = 350  # per image, the strongest
CANDIDATES = 15  # per image
COMMON = 64  # a cell that more images share is a caption, a logo or plain background
TOLERANCE = 0.006  # of the image's side; ribs of two patients agree too, but less exactly
INLIERS = 22  # unrelated breast scans reach 14 (by a caption), chest X-rays of two patients 21
CORRELATION = 0.5  # unrelated images reach 0.37, another frame of the same scan 0.4 to 0.9, the same picture 0.95
BLOCK = 24  # pixels, side of the blocks that are correlated
BLOCKS = 6  # as many at least must have texture in both images
EVIDENCE = ["inliers", "scale", "aspect", "rotation", "overlap", "correlation"]


@dataclass(frozen=True)
class Twins:
    """Images that show the same thing again, as `find_twins` finds them.

    Attributes:
        root: folder that the paths are relative to.
        groups: mapping of each image to its group, which has the name of its first image in sorted order. An image
            without a twin is a group of its own.
        pairs: DataFrame, one row a confirmed pair, sorted: `image`, `twin`, their labels `label` and `twin_label`,
            and the evidence: `inliers` (matched features that agree on one transform), `scale` (pixels of the twin per
            pixel of the image), `aspect` (larger over smaller scale of the two axes), `rotation` (degrees, clockwise
            as seen on a screen), `overlap` (share of the less enlarged image that the other shows), `correlation`
            (mean over the blocks of the overlap, -1 to 1). Within a group of three or more, two images may be
            connected by the others alone and then have no row.
    """

    root: str
    groups: dict
    pairs: pd.DataFrame

    @property
    def contradictions(self):
        """The pairs whose labels differ."""
        return self.pairs[self.pairs["label"] != self.pairs["twin_label"]].reset_index(drop=True)

    def members(self):
        """Mapping of group to its images (sorted list), for the groups of two and more images."""
        members = {}
        for image in sorted(self.groups):
            members.setdefault(self.groups[image], []).append(image)
        return {group: images for group, images in sorted(members.items()) if len(images) > 1}

    def labels(self):
        """Mapping of each image that has a twin to its label."""
        labels = dict(zip(self.pairs["image"], self.pairs["label"], strict=True))
        return labels | dict(zip(self.pairs["twin"], self.pairs["twin_label"], strict=True))

    def contradictory_groups(self):
        """Names of the groups in which labels differ, sorted."""
        labels = self.labels()
        return [group for group, images in self.members().items() if len({labels[image] for image in images}) > 1]

    def __str__(self):
        members, contradictory = self.members(), set(self.contradictory_groups())
        labels, contradictions = self.labels(), self.contradictions
        twins = sum(map(len, members.values()))
        lines = [
            f"{len(self.pairs)} pairs among {twins} of {len(self.groups)} images "
            f"({twins / len(self.groups):.0%}), in {len(members)} groups"
        ]
        lines += [
            f"  {', '.join(images)}{'  (labels differ)' if group in contradictory else ''}"
            for group, images in members.items()
        ]
        lines.append(f"{len(contradictions)} pairs with contradictory labels, in {len(contradictory)} groups")
        lines += [
            f"  {image} ({labels[image]}) ~ {twin} ({labels[twin]})"
            for image, twin in zip(contradictions["image"], contradictions["twin"], strict=True)
        ]
        return "\n".join(lines)


def find_twins(table):
    """Finds images of a table that show the same thing again.

    Nothing but the images' content counts; labels are only compared afterwards. The result does not depend on the
    order of the rows, and is kept in the user's cache (`MEDZOO_CACHE`, or the platform's cache folder) under the
    SHA-256 of the files, so that a second call only hashes them. Progress is shown on standard error.

    Args:
        table: an image table.

    Returns:
        `Twins`.

    Raises:
        FileNotFoundError: if an image is missing.
        ValueError: if the table is none, or an image cannot be decoded.

    Example:

    ```python
    twins = find_twins(read_folder("~/data/scans"))
    print(twins)
    twins.contradictions[["image", "label", "twin", "twin_label"]]
    ```
    """
    check_table(table)
    images, paths = list(table["image"]), image_paths(table)
    hashes = _each(_hash_file, paths, "reading")
    copies, path_of = {}, {}
    for image, path, digest in sorted(zip(images, paths, hashes, strict=True), key=lambda row: row[0]):
        copies.setdefault(digest, []).append(image)
        path_of.setdefault(digest, path)
    label = dict(zip(images, table["label"], strict=True))

    rows = []
    for same in copies.values():
        evidence = Evidence(inliers=FEATURES, scale=1.0, aspect=1.0, rotation=0.0, overlap=1.0, correlation=1.0)
        rows += [(image, twin, evidence) for image, twin in itertools.combinations(same, 2)]
    for first, second, evidence in _cached_pairs(path_of):
        for image, twin in itertools.product(copies[first], copies[second]):
            rows.append((image, twin, evidence) if image < twin else (twin, image, evidence.reversed()))
    rows.sort()
    pairs = pd.DataFrame(
        [(image, twin, label[image], label[twin], *evidence) for image, twin, evidence in rows],
        columns=["image", "twin", "label", "twin_label", *EVIDENCE],
    )
    return Twins(table.attrs["root"], _group(images, pairs), pairs)


def twin_subjects(table):
    """Gives a table the groups of twins as its subjects.

    Args:
        table: an image table; its own subjects are replaced.

    Returns:
        A copy of the table with `subject` set to the name of the image's group (the group's first image; an image
        without a twin is its own) and `attrs["subjects"]` set to `"twins"`.
    """
    groups = find_twins(table).groups
    table = table.assign(subject=[groups[image] for image in table["image"]])
    table.attrs = {**table.attrs, "subjects": "twins"}
    return table


def write_table(twins, path):
    """Writes a CSV file with the columns `image,group`, a row for each image, paths relative to the table's root.

    Args:
        twins: result of `find_twins`.
        path: the file, replaced if it exists.
    """
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "group"])
        writer.writerows(sorted(twins.groups.items()))


def contact_sheet(twins, path, rows=60):
    """Draws the groups of twins side by side with names and labels, for the eye; contradictory ones first, in red.

    Args:
        twins: result of `find_twins`.
        path: PNG file. More groups than fit on a page go to `NAME-2.png` and so on beside it.
        rows: rows of pictures on a page.

    Returns:
        The pages that were written (list of `Path`).

    Raises:
        ValueError: if there are no twins to draw.
    """
    members, labels, contradictory = twins.members(), twins.labels(), set(twins.contradictory_groups())
    if not members:
        raise ValueError(f"no twins among the {len(twins.groups)} images of {twins.root}: nothing to draw")
    size, gap, text, columns = 168, 4, 30, 9
    font = ImageFont.load_default(size=12)
    lines = [[]]
    for group in sorted(members, key=lambda group: (group not in contradictory, group)):
        images = members[group]
        for start in range(0, len(images), columns):
            part = [(group, image) for image in images[start : start + columns]]
            if len(lines[-1]) + len(part) > columns:
                lines.append([])
            lines[-1] += part
    path, pages = Path(path), []
    for number, start in enumerate(range(0, len(lines), rows), start=1):
        page = lines[start : start + rows]
        sheet = Image.new("RGB", (columns * (size + gap) + gap, len(page) * (size + text + gap) + gap), "white")
        draw = ImageDraw.Draw(sheet)
        for row, line in enumerate(page):
            for column, (group, image) in enumerate(line):
                x, y = gap + column * (size + gap), gap + row * (size + text + gap)
                colour = "firebrick" if group in contradictory else "black"
                draw.text((x, y), _fit(Path(image).name, size, font), fill=colour, font=font)
                draw.text((x, y + 14), _fit(labels[image], size, font), fill=colour, font=font)
                pixels = read_image(Path(twins.root) / image)
                picture = Image.fromarray(convert_channels(pixels, 3).round().astype("uint8"))
                picture.thumbnail((size, size))
                sheet.paste(picture, (x, y + text))
                if column and line[column - 1][0] != group:
                    draw.line([(x - gap // 2, y), (x - gap // 2, y + size + text)], fill="black", width=2)
        target = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        with atomic(target) as temporary:
            sheet.save(temporary, format="PNG")
        pages.append(target)
    return pages


class Evidence(NamedTuple):
    """What confirms a pair; the columns are described at `Twins.pairs`."""

    inliers: int
    scale: float
    aspect: float
    rotation: float
    overlap: float
    correlation: float

    def reversed(self):
        """The same evidence seen from the twin."""
        return self._replace(scale=1 / self.scale, rotation=-self.rotation)


class Features(NamedTuple):
    """An image as the search sees it: pixels uint8 (h, w), points float32 (n, 2), descriptors uint8 (n, 128)."""

    pixels: np.ndarray
    factor: float  # working pixels per pixel of the file
    points: np.ndarray
    descriptors: np.ndarray


def _group(images, pairs):
    """Connected images, under the name of the first of them."""
    images = sorted(images)
    number = {image: position for position, image in enumerate(images)}
    first, second = pairs["image"].map(number).to_numpy(int), pairs["twin"].map(number).to_numpy(int)
    links = sparse.coo_matrix((np.ones(len(pairs)), (first, second)), shape=(len(images), len(images)))
    _, component = sparse.csgraph.connected_components(links, directed=False)
    name = {}
    for image, group in zip(images, component, strict=True):
        name.setdefault(group, image)
    return {image: name[group] for image, group in zip(images, component, strict=True)}


def _cached_pairs(path_of):
    """The confirmed pairs of distinct files, from the cache or found now.

    Args:
        path_of: mapping of the files' SHA-256 to a path.

    Returns:
        List of (SHA-256, SHA-256, `Evidence`).
    """
    key = hashlib.sha256("\n".join(sorted(path_of)).encode()).hexdigest()
    file = cache_folder() / "twins" / f"{key}-{VERSION}.{DECODER_VERSION}.json"
    try:
        return [(first, second, Evidence(*evidence)) for first, second, evidence in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError):
        pass  # not there, or damaged: found anew
    hashes = sorted(path_of)
    pairs = _find_pairs([path_of[digest] for digest in hashes])
    found = [(hashes[first], hashes[second], evidence) for first, second, evidence in pairs]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(found))
    except OSError as error:  # a full disk must not cost the result
        warnings.warn(f"{file}: the twins found are not kept ({error.strerror})", stacklevel=2)
    return found


def _find_pairs(paths):
    features = _each(_find_features, paths, "finding features")
    candidates = _find_candidates([each.descriptors for each in features])

    def confirm(pairs, title):
        evidence = _each(lambda pair: _confirm(features[pair[0]], features[pair[1]]), pairs, title)
        return {pair: each for pair, each in zip(pairs, evidence, strict=True) if each is not None}

    found = confirm(candidates, "comparing candidates")
    twins = {}
    for first, second in found:
        twins.setdefault(first, []).append(second)
        twins.setdefault(second, []).append(first)
    linked = {tuple(sorted(pair)) for each in twins.values() for pair in itertools.combinations(each, 2)}
    found |= confirm(sorted(linked.difference(candidates)), "comparing twins of twins")
    return [(first, second, evidence) for (first, second), evidence in sorted(found.items())]


def _find_features(path):
    image = convert_channels(read_image(path), 1)
    height, width = image.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    if factor < 1:
        image = resize_image(image, (max(1, round(height * factor)), max(1, round(width * factor))))
    low, high = np.percentile(image, (0.5, 99.5))
    pixels = (np.clip((image[..., 0] - low) / max(high - low, 1), 0, 1) * 255).round().astype("uint8")
    detector = cv2.SIFT_create(nfeatures=FEATURES, contrastThreshold=0.01, edgeThreshold=15)
    keypoints, descriptors = detector.detectAndCompute(pixels, None)
    if descriptors is None:
        return Features(pixels, factor, np.zeros((0, 2), "float32"), np.zeros((0, 128), "uint8"))
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1))
    points = np.array([keypoint.pt for keypoint in keypoints], "float32")
    return Features(pixels, factor, points, np.minimum(512 * root, 255).round().astype("uint8"))


def _find_candidates(descriptors):
    """Pairs of images that share many rare cells.

    Each half of a descriptor is quantised by a codebook of its own, which together make K x K cells; K grows so that
    cells hold two features on average, whatever the number of images. An image enters the index with one cell per
    feature and asks with the four nearest.

    Args:
        descriptors: list of uint8 arrays of shape (n, 128).

    Returns:
        Sorted list of (first, second) with first < second.
    """
    counts = np.array([len(each) for each in descriptors])
    total, images = counts.sum(), len(descriptors)
    if total == 0:
        return []
    stacked, owner = np.concatenate(descriptors), np.repeat(np.arange(images), counts)
    words = max(1, int(np.sqrt(total / 2)))
    upper, lower = (_nearest_words(stacked[:, part], words) for part in (slice(0, 64), slice(64, 128)))

    def incidence(cells, owners):
        shape = (images, words * words)
        matrix = sparse.csr_matrix((np.ones(len(cells), "float32"), (owners, cells)), shape=shape)
        matrix.sum_duplicates()
        matrix.data[:] = 1
        return matrix

    index = incidence(upper[:, 0] * words + lower[:, 0], owner)
    shared = np.bincount(index.indices, minlength=words * words)
    weight = np.where(shared <= COMMON, np.log1p(images / np.maximum(shared, 1)), 0).astype("float32")
    asked = [upper[:, i] * words + lower[:, j] for i, j in itertools.product((0, 1), (0, 1))]
    question = incidence(np.concatenate(asked), np.tile(owner, 4)).multiply(weight).tocsr()
    question.eliminate_zeros()

    pairs, answers, size = set(), index.T.tocsr(), 256
    for start in range(0, images, size):
        votes = (question[start : start + size] @ answers).tocsr()
        for row in range(votes.shape[0]):
            image, entry = start + row, slice(votes.indptr[row], votes.indptr[row + 1])
            others = votes.indices[entry]
            score = votes.data[entry] / np.sqrt(counts[others])
            score, others = score[others != image], others[others != image]
            best = others[np.lexsort((others, -score))[:CANDIDATES]]
            pairs.update((min(image, int(other)), max(image, int(other))) for other in best)
    return sorted(pairs)


def _nearest_words(vectors, words):
    """The two nearest words of a k-means codebook learned from a sample; int64 of shape (n, 2)."""
    vectors = vectors.astype("float32")
    sample = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), 50 * words)).astype(int)]
    codebook = sample[np.linspace(0, len(sample) - 1, words).astype(int)]
    for _ in range(8):
        nearest = _nearest(sample, codebook)[:, 0]
        cells = (np.ones(len(sample), "float32"), (nearest, np.arange(len(sample))))
        members = sparse.csr_matrix(cells, shape=(words, len(sample)))
        sizes = np.bincount(nearest, minlength=words)[:, None]
        codebook = np.where(sizes > 0, (members @ sample) / np.maximum(sizes, 1), codebook).astype("float32")
    return _nearest(vectors, codebook)


def _nearest(vectors, codebook):
    norms, nearest = (codebook**2).sum(axis=1) / 2, np.zeros((len(vectors), 2), "int64")
    for start in range(0, len(vectors), 8192):
        score = vectors[start : start + 8192] @ codebook.T - norms
        rows = np.arange(len(score))
        nearest[start : start + 8192, 0] = best = score.argmax(axis=1)
        score[rows, best] = -np.inf
        nearest[start : start + 8192, 1] = score.argmax(axis=1)
    return nearest


def _confirm(image, twin):
    """`Evidence` that two images show the same, or None."""
    first, second = _match(image, twin)
    if len(first) < INLIERS:
        return None
    tolerance = TOLERANCE * max(twin.pixels.shape)
    transform, inliers = cv2.estimateAffine2D(
        first, second, method=cv2.RANSAC, ransacReprojThreshold=tolerance, maxIters=1000, confidence=0.99
    )
    if transform is None or inliers.sum() < INLIERS:
        return None
    turn, (larger, smaller), back = np.linalg.svd(transform[:, :2])
    if np.linalg.det(transform[:, :2]) <= 0 or larger > 2 * smaller or not 1 / 4 < np.sqrt(larger * smaller) < 4:
        return None
    scale = np.sqrt(larger * smaller)
    if scale >= 1:
        overlap, correlation = _correlate(image.pixels, twin.pixels, transform)
    else:  # in the frame of the less enlarged image, so that nothing is compared that only one of them resolves
        overlap, correlation = _correlate(twin.pixels, image.pixels, cv2.invertAffineTransform(transform))
    if correlation < CORRELATION:
        return None
    rotation = turn @ back
    return Evidence(
        inliers=int(inliers.sum()),
        scale=float(scale * image.factor / twin.factor),
        aspect=float(larger / smaller),
        rotation=float(np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))),
        overlap=float(overlap),
        correlation=float(correlation),
    )


def _match(image, twin):
    """Points of features that are each other's nearest, clearly nearer than the second nearest; two (n, 2) arrays."""
    if len(image.descriptors) < 2 or len(twin.descriptors) < 2:
        return image.points[:0], twin.points[:0]
    similarity = image.descriptors.astype("float32") @ twin.descriptors.astype("float32").T / 512**2
    rows = np.arange(len(similarity))
    nearest = similarity.argmax(axis=1)
    mutual = similarity.argmax(axis=0)[nearest] == rows
    best = similarity[rows, nearest]
    similarity[rows, nearest] = -1
    second = similarity.max(axis=1)
    kept = mutual & (1 - best < 0.9**2 * (1 - second))  # the ratio of distances of unit vectors, squared
    return image.points[kept], twin.points[nearest[kept]]


def _correlate(image, twin, transform):
    """How much of an image its twin shows, and how well the two agree there.

    Both are reduced to their fine structure at unit local contrast, so that neither gain nor the dark depth of every
    ultrasound image correlates by itself. Each block of the image may move a little: tissue is soft.

    Args:
        image: uint8 array of shape (h, w).
        twin: uint8 array.
        transform: (2, 3), from the image to its twin.

    Returns:
        Share of the image that the twin covers, and mean normalised correlation of the blocks that have texture in
        both (0 where there are fewer than `BLOCKS`).
    """
    height, width = image.shape
    flags = {"dsize": (width, height), "flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP}
    moved = cv2.warpAffine(twin, transform, borderMode=cv2.BORDER_REPLICATE, **flags)
    inside = cv2.warpAffine(np.ones(twin.shape, "uint8"), transform, **flags)
    (image, texture), (moved, moved_texture) = _fine_structure(image), _fine_structure(moved)
    reach = max(1, round(0.015 * max(height, width)))
    found = []
    for top in range(reach, height - BLOCK - reach + 1, BLOCK):
        for left in range(reach, width - BLOCK - reach + 1, BLOCK):
            block = np.s_[top : top + BLOCK, left : left + BLOCK]
            around = np.s_[top - reach : top + BLOCK + reach, left - reach : left + BLOCK + reach]
            if inside[around].all() and min(texture[block].mean(), moved_texture[block].mean()) >= 3:
                found.append(cv2.matchTemplate(moved[around], image[block], cv2.TM_CCOEFF_NORMED).max())
    return inside.mean(), np.mean(found) if len(found) >= BLOCKS else 0.0


def _fine_structure(image):
    image = cv2.GaussianBlur(image.astype("float32"), (0, 0), 1)
    image -= cv2.GaussianBlur(image, (0, 0), 8)
    deviation = np.sqrt(cv2.GaussianBlur(image**2, (0, 0), 8))
    return image / (deviation + 2), deviation


def _hash_file(path):
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _each(function, items, title):
    """`function` of every item, in order, on all cores; shows progress on standard error."""
    items, results = list(items), []
    # One BLAS thread for each of ours: more of them spend their time waiting for each other.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, result in enumerate(pool.map(function, items), start=1):
            results.append(result)
            if number * 20 // len(items) > (number - 1) * 20 // len(items):
                _progress.show(f"twins, {title}", number, len(items))
    return results


def _fit(text, width, font):
    while font.getlength(text) > width and len(text) > 4:
        text = f"…{text[2:]}"
    return text
