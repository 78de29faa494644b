"""Pictures for the eye: images beside what a model sees in them."""

import textwrap

import numpy as np
from matplotlib.figure import Figure

PAIRS = 3  # pairs of image and heatmap in a row


def prediction_figure(images, overlays, titles, heading, note):
    """Draws images beside their heatmaps, three pairs in a row.

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
    tallest = max(np.shape(image)[0] / np.shape(image)[1] for image in images)
    height = rows * (side * min(tallest, 2) + 0.45) + 1.2
    figure = Figure(figsize=(2 * columns * side, height), layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False)
    for cell in axes.flat:
        cell.axis("off")
    for index, (image, picture, title) in enumerate(zip(images, overlays, titles, strict=True)):
        row, column = divmod(index, columns)
        left, right = axes[row, 2 * column : 2 * column + 2]
        grey = np.broadcast_to(np.asarray(image), (*np.shape(image)[:2], 3))
        left.imshow(np.rint(grey).astype("uint8"))
        left.set_title(title, fontsize=8, loc="left")
        right.imshow(picture)
    width = int(14 * figure.get_figwidth())
    figure.suptitle("\n".join(textwrap.wrap(heading, width)), fontsize=11, fontweight="bold")
    figure.supxlabel("\n".join(textwrap.wrap(note, width)), fontsize=8)
    return figure
