"""Pictures for the eye: images beside what a model sees in them."""

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..datasets.patches import PATCH_CLASSES
from ..datasets.regions import region_mask
from .heatmaps import class_overlays

PAIRS = 4  # pairs of image and heatmap in a row: the four views of a woman
MAMMOGRAMS = 4  # in a row of the picture of patches
# Okabe and Ito, Color Universal Design, 2008, those that are seen on black: of the classes of patches in their order.
PATCH_COLOURS = ("#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#F0E442", "#E69F00", "#0072B2")


def prediction_figure(images, overlays, titles, heading, note):
    """Draws images beside their heatmaps, four pairs in a row.

    Args:
        images: list of (height, width, 1 or 3) arrays with values in [0, 255].
        overlays: list of uint8 (height, width, 3), as `heatmap_overlays` gives them.
        titles: list of str, one for each image, such as its name and probability.
        heading: str, what the images are.
        note: str, how to read the picture; wrapped below it.

    Returns:
        matplotlib `Figure`: `savefig(path, dpi=120)`.

    Raises:
        ValueError: there is no image, or the lists differ in length.
    """
    if not images or not len(images) == len(overlays) == len(titles):
        raise ValueError(
            f"images, overlays, titles: received {len(images)}, {len(overlays)} and {len(titles)}, "
            "expected as many of each, at least one"
        )
    columns = min(PAIRS, len(images))
    rows = -(-len(images) // columns)
    side = max(6.0, 4.2 * columns) / (2 * columns)  # inches, the width of an image
    width = 2 * columns * side
    shapes = [np.shape(image)[0] / np.shape(image)[1] for image in images]
    heights = [side * min(max(shapes[row * columns : (row + 1) * columns]), 2) + 0.4 for row in range(rows)]
    # As many letters of these sizes as an inch surely holds.
    heading, note = textwrap.wrap(heading, int(10 * width)), textwrap.wrap(note, int(14 * width))
    height = sum(heights) + 0.2 * len(heading) + 0.15 * len(note) + 0.2
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False, height_ratios=heights)
    for cell in axes.flat:
        cell.axis("off")
        cell.set_anchor("N")
    for index, (image, picture, title) in enumerate(zip(images, overlays, titles, strict=True)):
        row, column = divmod(index, columns)
        left, right = axes[row, 2 * column : 2 * column + 2]
        grey = np.broadcast_to(np.asarray(image), (*np.shape(image)[:2], 3))
        left.imshow(np.rint(grey).astype("uint8"))
        left.set_title(title, fontsize=8, loc="left")
        right.imshow(picture)
    figure.suptitle("\n".join(heading), fontsize=11, fontweight="bold")
    figure.supxlabel("\n".join(note), fontsize=8)
    return figure


def patch_figure(table, images, patches, size=224, rows=None):
    """Draws sampled patches over their mammograms, with the outlines of the regions, four mammograms in a row.

    Patches of lesions are solid squares in the colour of their class, those of the background dashed ones; regions
    are outlined in white.

    Args:
        table: the image table that the patches were sampled from.
        images: its images, as `sample_patches` took them.
        patches: DataFrame as `sample_patches` gives it.
        size: side of the patches in pixels, as they were sampled.
        rows: positions in the table of the mammograms to draw; by default the first one with a patch of each class of
            lesions.

    Returns:
        matplotlib `Figure`: `savefig(path, dpi=120)`.

    Raises:
        ValueError: there are no patches, or none of a mammogram that was asked for.

    Example:

    ```python
    patch_figure(table, images, sample_patches(table, images), rows=[0, 4]).savefig("patches.png", dpi=120)
    ```
    """
    if patches.empty:
        raise ValueError("patches: received a table without rows, expected at least one patch")
    labels = list(dict.fromkeys([*PATCH_CLASSES, *patches["label"]]))
    if rows is None:
        first = patches.groupby("label")["row"].min()
        rows = dict.fromkeys(first[label] for label in labels[1:] if label in first)
    rows = [int(row) for row in rows]
    for row in rows:
        if not (patches["row"] == row).any():
            raise ValueError(f"rows: received {row}, expected one of the mammograms with patches")
    shown = patches[patches["row"].isin(rows)]
    colours = {label: PATCH_COLOURS[number % len(PATCH_COLOURS)] for number, label in enumerate(labels)}
    lines = {label: "--" if label == PATCH_CLASSES[0] else "-" for label in labels}
    height, width = images.shape[1:3]
    columns = min(MAMMOGRAMS, len(rows))
    lengths = -(-len(rows) // columns)
    side = 4.2 if columns > 1 else 6  # inches, the width of a mammogram
    figure = Figure(figsize=(columns * side, lengths * (side * height / width + 0.25) + 0.5), layout="constrained")
    cells = figure.subplots(lengths, columns, squeeze=False).ravel()
    for axes in cells:
        axes.axis("off")
    for axes, row in zip(cells, rows, strict=False):
        image = np.asarray(images[row], "float32").mean(axis=-1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        windows = getattr(images, "windows", None)
        top, left, tall, wide = (0, 0, height, width) if windows is None else (int(value) for value in windows[row])
        for region in table["regions"].iloc[row]:
            mask = region_mask(region, (tall, wide), table.attrs.get("root"))
            mask = np.pad(mask, 1)  # so that an outline closes at the border
            axes.contour(left + np.arange(-1, wide + 1), top + np.arange(-1, tall + 1), mask, [0.5], colors="white")
        for patch in shown[shown["row"] == row].itertuples():
            axes.add_patch(
                Rectangle(
                    (patch.left - 0.5, patch.top - 0.5),
                    size,
                    size,
                    fill=False,
                    edgecolor=colours[patch.label],
                    linestyle=lines[patch.label],
                )
            )
        axes.set(xlim=(-2, width + 1), ylim=(height + 1, -2))
        axes.set_title(table["image"].iloc[row], fontsize=9)
    handles = [Line2D([], [], color="white", label="region")]
    for label in labels:
        if (shown["label"] == label).any():
            handles.append(Line2D([], [], color=colours[label], linestyle=lines[label], label=label))
    ncols = len(handles) if columns > 2 else min(3, len(handles))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=ncols,
        fontsize=9,
        facecolor="0.15",
        labelcolor="white",
    )
    return figure


def patch_heatmap_figure(image, heatmap, classes, title):
    """Draws what a patch classifier finds where in a mammogram: the image, and its heatmap for each class of lesions.

    Args:
        image: (height, width, 1 or 3), values in [0, 255].
        heatmap: (u, v, classes) probabilities of `medzoo.layers.patch_heatmap` for that image.
        classes: their names, the background first, such as `PATCH_CLASSES`.
        title: str, such as the image's name and its label.

    Returns:
        matplotlib `Figure`: `savefig(path, dpi=120)`. Above each picture stands the largest probability in it; a
        probability of 1 is covered alike in all of them.

    Raises:
        ValueError: names and heatmap differ in number, or the heatmap does not fit the image; see `class_overlays`.
    """
    image, heatmap = np.asarray(image), np.asarray(heatmap)
    pictures = class_overlays(image, heatmap)
    if len(classes) != heatmap.shape[-1]:
        raise ValueError(f"classes: received {len(classes)} names for a heatmap of {heatmap.shape[-1]} classes")
    side = 2.6  # inches, the width of an image
    columns = 1 + len(pictures)
    figure = Figure(figsize=(columns * side, side * image.shape[0] / image.shape[1] + 0.7), layout="constrained")
    axes = figure.subplots(1, columns)
    for cell in axes:
        cell.axis("off")
    axes[0].imshow(np.rint(np.broadcast_to(image, (*image.shape[:2], 3))).astype("uint8"))
    for index, (cell, picture) in enumerate(zip(axes[1:], pictures, strict=True), start=1):
        cell.imshow(picture)
        cell.set_title(f"{classes[index]}, up to {heatmap[..., index].max():.2f}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure
