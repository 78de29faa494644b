"""What it saves to convert a patch classifier: one pass over a whole image against the classifier slid over it.

    python benchmarks/all_conv.py [--backbone vgg16] [--height 1152] [--width 896] [--repeats 5]

Both give the heatmap of Shen and others 2018, section 2.1, on random noise: the probabilities of five classes for every
patch of 224 pixels at steps of 32, of which an image of 1152 x 896 pixels has 30 x 22 = 660. Measured side by side: one
process holds both networks, which take turns; the ratio is taken within a turn. Median over the turns and, in brackets,
smallest to largest. The windows are cut beforehand and not timed.

- multiply-accumulates: counted (`medzoo.analysis.multiply_accumulates`), for one image.
- agreement: the two heatmaps are not the same, since each window is padded with zeros at its own border, where the
  converted network sees the neighbours (`tests/layers/test_whole_image.py`). Reported are the largest and the mean
  absolute difference of probabilities, the share of places with the same most probable class, and the correlation of
  the probabilities over all places and classes; with `MEDZOO_WEIGHTS` set and `--weights imagenet` of a pretrained
  trunk. The head is at random in any case, so that this shows how far the features move, not what a trained classifier
  makes of it.
"""

import argparse
import shlex
import statistics
import sys
import time

import numpy as np

PATCH, STRIDE, CLASSES = 224, 32, 5
WARM_UPS = 1


def build(backbone, height, width, weights=None):
    """The patch classifier and the network that it is converted to."""
    import keras
    from medzoo.layers import patch_heatmap
    from medzoo.zoo import builders

    keras.utils.set_random_seed(0)
    arguments = {"backbone": backbone, "input_shape": [PATCH, PATCH, 1], "classes": CLASSES}
    patch_model = builders.build({"builder": "classifier", "arguments": arguments}, weights=weights)
    # A fresh head gives much the same for every patch; with this one logits differ by about 1.
    head = patch_model.get_layer("head_logits")
    patches = cut(noise(2 * PATCH, 2 * PATCH))[::5]
    features = keras.Model(patch_model.inputs[0], head.input).predict(patches, verbose=0)
    kernel = np.random.default_rng(1).normal(size=head.kernel.shape)
    kernel /= (features @ kernel).std(axis=0)
    head.set_weights([kernel, -features.mean(axis=0) @ kernel])
    return patch_model, patch_heatmap(patch_model, (height, width, 1))


def noise(height, width):
    """An image with structure of all sizes: noise, coarse and fine."""
    random = np.random.default_rng(0)
    image = np.zeros((height, width))
    for size in (1, 4, 16, 64, 256):
        coarse = random.normal(size=(-(-height // size), -(-width // size)))
        # The coarser, the stronger, as in photographs: patches of one noise would all look the same.
        image += np.sqrt(size / 256) * coarse.repeat(size, axis=0).repeat(size, axis=1)[:height, :width]
    return (127.5 + 50 * image).clip(0, 255).astype("float32")[..., None]


def cut(image):
    """Every patch on the grid, row by row."""
    rows, columns = ((side - PATCH) // STRIDE + 1 for side in image.shape[:2])
    return np.stack(
        [
            image[STRIDE * i : STRIDE * i + PATCH, STRIDE * j : STRIDE * j + PATCH]
            for i in range(rows)
            for j in range(columns)
        ]
    )


def spread(values, unit=""):
    return f"{statistics.median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"


def main():
    import keras
    from medzoo.analysis import multiply_accumulates
    from medzoo.training.run import machine

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backbone", default="vgg16", choices=("resnet18", "resnet50", "vgg16"))
    parser.add_argument("--weights", choices=("imagenet",), help="of the trunk; random by default")
    parser.add_argument("--height", type=int, default=1152, help="of the image, a multiple of 32")
    parser.add_argument("--width", type=int, default=896, help="of the image, a multiple of 32")
    parser.add_argument("--batch", type=int, default=16, help="windows at once")
    parser.add_argument("--repeats", type=int, default=5, help="turns that are measured")
    given = parser.parse_args()
    if given.height % STRIDE or given.width % STRIDE or min(given.height, given.width) < PATCH:
        parser.error(f"received an image of {given.height} x {given.width}, expected multiples of 32 from {PATCH}")

    print(f"{machine()}; Keras {keras.version()} on {keras.backend.backend()}\npython {shlex.join(sys.argv)}")
    patch_model, whole = build(given.backbone, given.height, given.width, given.weights)
    image = noise(given.height, given.width)
    windows = cut(image)
    parts = [windows[start : start + given.batch] for start in range(0, len(windows), given.batch)]
    passes = {
        "converted": lambda: whole.predict_on_batch(image[None])[0],
        "slid": lambda: np.concatenate([patch_model.predict_on_batch(part) for part in parts]),
    }
    print(
        f"{given.backbone}, an image of {given.height} x {given.width} pixels, {len(windows)} windows in batches of "
        f"{given.batch}, float32\n",
        flush=True,
    )
    seconds, heatmaps = {name: [] for name in passes}, {}
    for turn in range(WARM_UPS + given.repeats):
        print(f"turn {turn + 1} of {WARM_UPS + given.repeats}", file=sys.stderr)
        for name, run in passes.items():
            start = time.perf_counter()
            heatmaps[name] = np.asarray(run())
            if turn >= WARM_UPS:
                seconds[name].append(time.perf_counter() - start)

    counts = {
        "converted": int(multiply_accumulates(whole)["multiply_accumulates"].sum()),
        "slid": len(windows) * int(multiply_accumulates(patch_model)["multiply_accumulates"].sum()),
    }
    print("| the patch classifier | multiply-accumulates | time of an image |")
    print("|---|---|---|")
    for name in passes:
        print(f"| {name} | {counts[name] / 1e9:.4g} billion | {spread(seconds[name], ' s')} |")
    ratios = [slid / converted for slid, converted in zip(seconds["slid"], seconds["converted"], strict=True)]
    print(f"| slid / converted | {counts['slid'] / counts['converted']:.3g} | {spread(ratios)} |")

    converted = heatmaps["converted"].reshape(-1, CLASSES)
    difference = np.abs(converted - heatmaps["slid"])
    same = (converted.argmax(axis=1) == heatmaps["slid"].argmax(axis=1)).mean()
    correlation = np.corrcoef(converted.ravel(), heatmaps["slid"].ravel())[0, 1]
    print(
        f"\nAgreement over {len(windows)} places: probabilities differ by {difference.mean():.3g} in the mean and "
        f"{difference.max():.3g} at most, correlation {correlation:.3f}; the most probable class is the same at "
        f"{same:.1%}."
    )


if __name__ == "__main__":
    main()
