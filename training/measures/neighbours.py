"""Whether samples repeat training images: how far each is from the nearest of them."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data import as_pixels

SIDE = 16  # pixels, to which images are brought before they are compared: faces, not their noise
NEAR = 0.01  # the quantile under which a distance counts as that of a repeated image
BLOCK = 256


class Nearest(NamedTuple):
    """For each image [n]: root mean squared difference from its nearest training image, pixels in [0, 1]; its row."""

    distances: Tensor
    rows: Tensor


def nearest(images: Tensor, train: Tensor) -> Nearest:
    """Look for each of uint8 [n, h, w, c] among the training images uint8 [m, h, w, c], mirrored ones too."""
    wanted, known = (
        torch.cat([_small(part) for part in torch.split(each, 2000)]) for each in (images, train)
    )
    mirrored = known.reshape(len(known), -1, SIDE, SIDE).flip(3).flatten(1)
    parts = []
    for block in torch.split(wanted, BLOCK):
        both = torch.minimum(torch.cdist(block, known), torch.cdist(block, mirrored))
        parts.append(both.min(1))
    distances, rows = (torch.cat(each) for each in zip(*parts, strict=True))
    return Nearest(distances / wanted.shape[1] ** 0.5, rows)


def comparison(samples: Tensor, reconstructions: Tensor, train: Tensor) -> dict[str, Any]:
    """Set the distances of samples beside those of held-out images' reconstructions, which are as smooth.

    ``repeated``: the share of samples nearer to a training image than all but 1 % of the reconstructions are: about
    0.01 where nothing is repeated.
    """
    drawn, held_out = nearest(samples, train).distances, nearest(reconstructions, train).distances
    return {
        "samples_median": float(drawn.median()),
        "held_out_median": float(held_out.median()),
        "repeated": float((drawn < torch.quantile(held_out, NEAR)).float().mean()),
    }


def _small(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(as_pixels(images), SIDE).flatten(1)
