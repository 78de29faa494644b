"""Small folders in the layouts that the readers know, with images that have twins."""

import cv2
import numpy as np
import pytest
from PIL import Image


def picture(number, size=160):
    """A speckled picture with a dark blob of its own, much like ultrasound: enough structure to be told apart."""
    noise = np.random.default_rng(number)
    fine = cv2.GaussianBlur(noise.normal(size=(size, size)), (0, 0), 1.5)
    coarse = cv2.GaussianBlur(noise.normal(size=(size, size)), (0, 0), 12)
    image = 110 + 45 * fine / fine.std() + 30 * coarse / coarse.std()
    centre = [int(value) for value in noise.integers(50, 110, 2)]
    axes = [int(value) for value in noise.integers(12, 35, 2)]
    blob = cv2.ellipse(np.zeros((size, size)), centre, axes, int(noise.integers(0, 180)), 0, 360, 1, -1)
    return np.clip(image * (1 - 0.7 * cv2.GaussianBlur(blob, (0, 0), 3)), 0, 255).astype("uint8")


def twin_of(image):
    """The same, cropped and with other gain."""
    return np.clip(image[8:, 6:].astype("float32") * 1.15 + 8, 0, 255).astype("uint8")


@pytest.fixture(scope="session")
def busi_folder(tmp_path_factory):
    """BUSI's layout with masks: 14 images a class, of which 12 and 13 are twins of 0 and 1."""
    folder = tmp_path_factory.mktemp("busi") / "Dataset_BUSI_with_GT"
    for offset, label in enumerate(("benign", "malignant", "normal")):
        (folder / label).mkdir(parents=True)
        for number in range(14):
            image = picture(100 * offset + number % 12)
            image = twin_of(image) if number >= 12 else image
            stem = f"{label} ({number + 1})"
            Image.fromarray(image).save(folder / label / f"{stem}.png")
            Image.new("1", image.shape[::-1]).save(folder / label / f"{stem}_mask.png")
            if number == 3:
                Image.new("1", image.shape[::-1]).save(folder / label / f"{stem}_mask_1.png")
    return folder
