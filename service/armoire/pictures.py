"""Arrays of images to one PNG, and files to send."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from armoire.arrays import Pixels
from armoire.files import replacing

GAP = 2
BACKGROUND = 255
# Small images are enlarged by a whole factor, so that a wall of 32 x 32 clothes can be looked at.
LEAST_SIDE = 64


def grid(images: Pixels, columns: int | None = None) -> Image.Image:
    """Lay uint8 [n, h, w, c] out in rows of ``columns`` (default: nearly a square)."""
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    scale = max(1, LEAST_SIDE // max(height, width))
    big = images.repeat(scale, axis=1).repeat(scale, axis=2)
    step_y, step_x = height * scale + GAP, width * scale + GAP
    canvas = np.full((rows * step_y + GAP, columns * step_x + GAP, channels), BACKGROUND, np.uint8)
    for index, image in enumerate(big):
        y, x = GAP + index // columns * step_y, GAP + index % columns * step_x
        canvas[y : y + height * scale, x : x + width * scale] = image
    return to_image(canvas)


def to_image(pixels: Pixels) -> Image.Image:
    """Turn uint8 [h, w, c] with 1 or 3 channels into a picture."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels)


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all; errors as in armoire.files.replacing."""
    with replacing(path) as file:
        image.save(file, "PNG")
