"""Drawn phantoms: pictures that look a little like breast ultrasound, for a demonstration without real images.

They are drawings. What a model says of them is no evidence of its accuracy.
"""

import numpy as np
from scipy import ndimage

from .._nearest import unknown

# The signs are those of BI-RADS (ultrasound): oval, parallel, circumscribed, with enhancement behind it; and
# irregular, taller than wide, spiculated, with a shadow behind it.
KINDS = ("benign-like", "malignant-like")


def draw_phantom(kind, seed, size=(320, 400)):
    """Draws a phantom: skin, fat, glandular tissue and muscle in speckle noise, with one mass in it.

    Speckle is fully developed: the envelope of complex Gaussian noise under a point spread function that is wider
    across the beam than along it (Wagner and others, IEEE Transactions on Sonics and Ultrasonics 30:156, 1983),
    log-compressed to 50 dB.

    Args:
        kind: `"benign-like"` (a smooth oval, bright behind) or `"malignant-like"` (a spiculated mass with a shadow).
        seed: of all random numbers; another seed moves and reshapes everything.
        size: (height, width) in pixels.

    Returns:
        uint8 (height, width, 1).

    Raises:
        ValueError: the kind is unknown.

    Example:

    ```python
    image = draw_phantom("malignant-like", seed=3)
    ```
    """
    if kind not in KINDS:
        raise ValueError(unknown("phantom", kind, KINDS))
    random = np.random.default_rng([seed, KINDS.index(kind)])
    height, width = size
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]  # depth from 0 at the skin to 1

    def noise(scale):
        field = ndimage.gaussian_filter(random.normal(size=size), (scale * height, scale * width))
        return field / field.std()

    depth = down + 0.012 * noise(0.12)
    decibels = np.select([depth < 0.035, depth < 0.22, depth < 0.72, depth < 0.76], [-6, -22, -14, -10], -24)
    fibres = np.abs(noise(0.035)) < 0.15  # septa and fascia
    decibels = ndimage.gaussian_filter(decibels + np.where(fibres, 7.0, 0) + 1.5 * noise(0.05), 1.5)

    centre = random.uniform(0.42, 0.5), random.uniform(0.4, 0.6)
    # In units of the height, so that a circle is one whatever the picture's shape.
    y, x = down - centre[0], (across - centre[1]) * width / height
    angle = np.arctan2(y, x)
    if kind == "benign-like":
        tilt = random.uniform(-0.2, 0.2)
        major, minor = random.uniform(0.17, 0.22), random.uniform(0.08, 0.105)
        u, v = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
        distance = np.hypot(u / major, v / minor)
        inside, half_width = -35, 0.85 * major
        behind, blur = 6.0, 1.0
    else:
        waves = sum(
            random.uniform(0.05, 0.11) * np.cos(count * angle + random.uniform(0, 2 * np.pi)) for count in (3, 5, 7)
        )
        spikes = 0.45 * np.clip(np.cos(random.integers(9, 13) * angle + random.uniform(0, 6)), 0, 1) ** 6
        distance = np.hypot(x / 0.11, y / 0.14) / (1 + waves + spikes)
        inside, half_width = -38, 0.11
        behind, blur = -16.0, 2.5
    mass = ndimage.gaussian_filter((distance < 1).astype(float), blur)
    column = ndimage.gaussian_filter((np.abs(x) < half_width).astype(float), (0, 0.02 * width))
    below = np.clip(y / 0.1, 0, 1) * column * (1 - mass)
    decibels = (decibels + behind * below) * (1 - mass) + (inside + 1.5 * noise(0.03)) * mass

    waves = random.normal(size=(2, *size))
    real, imaginary = (ndimage.gaussian_filter(wave, (0.9, 1.8)) for wave in waves)
    envelope = np.hypot(real, imaginary)
    envelope /= np.sqrt(np.mean(envelope**2))
    decibels = decibels + 20 * np.log10(envelope + 1e-3)
    return np.rint(255 * np.clip((decibels + 50) / 50, 0, 1)).astype("uint8")[..., None]
