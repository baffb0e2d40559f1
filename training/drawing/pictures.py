"""Pictures made of images: grids and strips, pixel for pixel."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from training.measures import aggregate
from training.model import Autoencoder

Pixels = npt.NDArray[np.uint8]
GAP = 2  # pixels of paper between two images


def decode(model: Autoencoder, latents: Tensor) -> Pixels:
    """Decode float32 [n, d] to images that the functions here take, uint8 [n, h, w, c]."""
    return aggregate.decode(model, latents).numpy()


def grid(images: Pixels, columns: int, *, gap: int = GAP, scale: int = 1) -> Image.Image:
    """Lay uint8 [n, h, w, c] out in rows of ``columns``, each pixel ``scale`` wide, on white."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    paper = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        paper[top : top + height, left : left + width] = image
    picture = Image.fromarray(paper.squeeze(2) if channels == 1 else paper)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def interleave(above: Pixels, below: Pixels, columns: int) -> Pixels:
    """Order two sets of as many images so that ``grid`` shows each row of one over the same row of the other."""
    rows = [
        (above[start : start + columns], below[start : start + columns])
        for start in range(0, len(above), columns)
    ]
    return np.concatenate([part for pair in rows for part in pair])


def one_of_each(labels: Tensor, classes: int, times: int) -> Tensor:
    """Rows of the first ``times`` images of every class, class by class within each time: int64 [times * classes].

    Of images that belong to no class (labels bool [n, attributes]) the first 10 x ``times``, over again where there are
    fewer.
    """
    if labels.dim() == 2:
        return torch.arange(10 * times) % len(labels)
    firsts = torch.stack([torch.nonzero(labels == label).flatten()[:times] for label in range(classes)])
    return firsts.T.flatten()


def wall_latents(means: Tensor, side: int) -> Tensor:
    """Points of a side x side grid over a 2-D wall: float32 [side * side, 2], the top row first.

    They lie at even quantiles of each dimension, 0.01 to 0.99, of the posterior means [n, 2], so that the grid is where
    the images are, whatever the scale of the latents.
    """
    quantiles = torch.linspace(0.01, 0.99, side)
    horizontal, vertical = (torch.quantile(means[:, dimension], quantiles) for dimension in (0, 1))
    return torch.cartesian_prod(vertical.flip(0), horizontal).flip(1)


def path_latents(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Straight lines z = z_a (1 - alpha) + z_b alpha, both ends included: two [n, d] -> [n * steps, d]."""
    alpha = torch.linspace(0, 1, steps)[None, :, None]
    return (start[:, None] * (1 - alpha) + end[:, None] * alpha).flatten(0, 1)


def labelled(strips: Pixels, names: Sequence[str], columns: int) -> Image.Image:
    """Lay strips uint8 [n, steps, h, w, c] out in ``columns``, each under its name, on white."""
    count, _, height, _, _ = strips.shape
    drawn = [grid(strip, len(strip)) for strip in strips]
    width, text = drawn[0].width + 4 * GAP, max(14, height // 5)
    rows = -(-count // columns)
    paper = Image.new("RGB", (columns * width, rows * (height + text + 3 * GAP)), "white")
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(text * 0.8)
    for index, (strip, name) in enumerate(zip(drawn, names, strict=True)):
        left, top = index // rows * width, index % rows * (height + text + 3 * GAP)
        draw.text((left, top), name.replace("_", " "), fill="#22262b", font=font)
        paper.paste(strip, (left, top + text))
    return paper
