"""A backbone that trains in seconds, and folders in the layouts of BUSI and mini-MIAS."""

import dataclasses
import functools

import numpy as np
import pytest
from PIL import Image

KINDS = ["CIRC M", "CIRC B", "CALC M", "CALC B", None]
PIXELS = {"mean": [100.0] * 3, "deviation": [50.0] * 3}


def build_tiny(pixels, stride=4, projected=False):
    """Residual blocks of twelve channels, named as in every backbone: one in stage 1, two in stage 4.

    With a projection ahead of stage 4, as real networks have, its filters may be halved.
    """
    import keras

    x = keras.layers.Conv2D(12, stride + 1, stride, padding="same", activation="relu", name="conv1_conv")(pixels)
    for name in ("conv2_block1", "conv5_block1", "conv5_block2"):
        y = keras.layers.Conv2D(12, 3, padding="same", name=f"{name}_1_conv")(x)
        y = keras.layers.BatchNormalization(name=f"{name}_1_bn")(y)
        if projected and name == "conv5_block1":
            x = keras.layers.Conv2D(12, 1, name=f"{name}_0_conv")(x)
        x = keras.layers.Add(name=f"{name}_add")([x, y])
        x = keras.layers.Activation("relu", name=f"{name}_out")(x)
    return keras.Model(keras.utils.get_source_inputs(pixels)[0], x)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Registers the backbone `tiny` with "ImageNet" weights in `MEDZOO_WEIGHTS`."""
    return register(build_tiny, tmp_path, monkeypatch)


@pytest.fixture
def coarse(tmp_path, monkeypatch):
    """As `tiny`, of stride 32."""
    return register(functools.partial(build_tiny, stride=32), tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    """As `tiny`, of stride 32 with a projection, for all tests of a module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        build = functools.partial(build_tiny, stride=32, projected=True)
        yield register(build, tmp_path_factory.mktemp("projected"), monkeypatch)


def register(build, tmp_path, monkeypatch):
    import keras
    import pooch
    from medzoo.zoo import backbones

    (tmp_path / "imagenet").mkdir()
    keras.utils.set_random_seed(11)
    file = tmp_path / "imagenet" / "tiny.weights.h5"
    source = backbones.Source((file.name,), "https://example.org/tiny", "sha256:", "MIT")
    record = backbones.Backbone(build, PIXELS, backbones.RESNET_GROUPS, (1, 0, 0, 2), source)
    monkeypatch.setitem(backbones.BACKBONES, "tiny", record)
    monkeypatch.setenv("MEDZOO_WEIGHTS", str(tmp_path / "imagenet"))
    backbones.backbone("tiny", None, (32, 32, 3)).save_weights(file)
    official = dataclasses.replace(source, hash=f"sha256:{pooch.file_hash(file)}")
    monkeypatch.setitem(backbones.BACKBONES, "tiny", dataclasses.replace(record, imagenet=official))
    return "tiny"


@pytest.fixture(scope="session")
def busi(tmp_path_factory):
    """24 benign and 16 malignant pictures: speckle with a blob, darker where malignant."""
    folder = tmp_path_factory.mktemp("made-up") / "BUSI"
    rows, columns = np.mgrid[:72, :80]
    for label, count, depth in (("benign", 24, 60), ("malignant", 16, 110)):
        (folder / label).mkdir(parents=True)
        for number in range(1, count + 1):
            random = np.random.default_rng([number, count])
            blob = ((rows - random.uniform(25, 45)) ** 2 + (columns - random.uniform(30, 50)) ** 2) < 300
            image = random.normal(140, 40, (72, 80)) - depth * blob
            Image.fromarray(np.clip(image, 0, 255).astype("uint8")).save(folder / label / f"{label} ({number}).png")
    return folder


@pytest.fixture(scope="session")
def mammograms(tmp_path_factory):
    """50 women in the layout of mini-MIAS; masses are discs and calcifications dots, malignant ones brighter."""
    folder = tmp_path_factory.mktemp("made-up") / "MIAS"
    folder.mkdir()
    rows, columns = np.mgrid[:128, :128]
    lines = []
    for number in range(1, 101):
        random = np.random.default_rng(number)
        kind = KINDS[(number - 1) // 2 % 5] if number % 2 else None
        pixels = np.where(columns < 104, random.normal(90, 15, (128, 128)), 3)  # the breast, and film beside it
        x, y, radius = random.integers(16, 40), random.integers(16, 40), 8
        if kind:
            inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            inside &= (random.random((128, 128)) < 0.2) if kind.startswith("CALC") else True
            pixels += inside * (140 if kind.endswith("M") else 70)
        name = f"mdb{number:03d}"
        Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(folder / f"{name}.png")
        lines.append(f"{name} G {kind} {8 * x} {1024 - 8 * y} {8 * radius}" if kind else f"{name} G NORM")
    (folder / "Info.txt").write_text("\n".join(lines) + "\n")
    return folder
