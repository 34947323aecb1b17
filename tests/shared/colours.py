"""Images of three colours: a data set that a small network learns in seconds."""

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "green": (50, 210, 70), "red": (220, 60, 40)}


def write_images(folder, count, seed, side=16):
    """Noisy squares of one colour a class, ``count`` of each."""
    draw = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(np.array(colour) + draw.normal(0, 40, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.png")
