"""Whether a bundle's graphs answer as the model does: asked before anyone else may read them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

from training import graphs
from training.data import as_pixels
from training.errors import TrainingError
from training.model import Autoencoder

Floats = npt.NDArray[np.float32]

DECODERS = (graphs.DECODER, graphs.OPENVINO_DECODER)
BATCHES = (1, 2, 3, 7, 64)
TOLERANCE = 1e-4  # on means and log-variances
EQUAL_PIXELS = 0.999  # this share of uint8 pixels is equal, and none is off by more than 1


def far_and_near_latents(rows: int, size: int) -> Tensor:
    """float32 [rows, size]: the first half from N(0, I), the second spread evenly between -6 and 6."""
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(rows // 2, size, generator=generator)
    far = torch.rand(rows - rows // 2, size, generator=generator) * 12 - 6
    return torch.cat([near, far])


class Answers(NamedTuple):
    """What PyTorch gives: means and log-variances [n, d], uint8 pixels and float means [n, h, w, c]."""

    mean: Floats
    log_variance: Floats
    pixels: npt.NDArray[np.uint8]
    means: Floats


@torch.no_grad()
def answers(model: Autoencoder, images: Tensor, latents: Tensor) -> Answers:
    """Ask the model itself, by another way than the graphs go, so that a fault of theirs cannot be in both."""
    mean, log_variance = model.encoder(as_pixels(images))
    means = np.moveaxis(model.decoder(latents).sigmoid().numpy(), 1, -1)
    return Answers(
        mean.numpy(), log_variance.numpy(), np.rint(means * np.float32(255)).astype(np.uint8), means
    )


def check(model: Autoencoder, images: Tensor, folder: Path) -> dict[str, float]:
    """Compare the graphs in ``folder`` with the model on real images uint8 [64 or more, h, w, c] and on latents.

    Returns the largest difference of each graph and the largest share of unequal pixels that any form and any batch
    size gave.

    Raises:
        TrainingError: a graph answers differently from PyTorch at some batch size.
    """
    images = images[: max(BATCHES)]
    latents = far_and_near_latents(max(BATCHES), model.config.latent_size)
    wanted = answers(model, images, latents)
    worst = {"encoder": 0.0, "decoder": 0.0, "unequal_pixels": 0.0}
    encoder, *decoders = (_session(folder / file) for file in (graphs.ENCODER, *DECODERS))
    for batch in BATCHES:
        mean, log_variance = _in_batches(encoder, images, batch)
        gap = max(_gap(mean, wanted.mean), _gap(log_variance, wanted.log_variance))
        worst["encoder"] = max(worst["encoder"], _tolerated(gap, graphs.ENCODER, batch))
        for file, decoder in zip(DECODERS, decoders, strict=True):
            pixels, means = _in_batches(decoder, latents, batch)
            worst["decoder"] = max(worst["decoder"], _tolerated(_gap(means, wanted.means), file, batch))
            unequal = _unequal(pixels, wanted.pixels)
            if unequal > 1 - EQUAL_PIXELS:
                raise TrainingError(
                    f"{file} gives {unequal:.2%} of its pixels unlike PyTorch's in batches of {batch}"
                )
            worst["unequal_pixels"] = max(worst["unequal_pixels"], unequal)
    return worst


def _tolerated(gap: float, file: str, batch: int) -> float:
    if gap > TOLERANCE:
        raise TrainingError(
            f"{file} is off by {gap:.2g} from PyTorch in batches of {batch}; {TOLERANCE:.0e} is allowed"
        )
    return gap


def _in_batches(session: onnxruntime.InferenceSession, rows: Tensor, batch: int) -> list[npt.NDArray[Any]]:
    """Run all rows, ``batch`` at a time (the last time what is left); each output in one piece."""
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: part.numpy()}) for part in torch.split(rows, batch)]
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _gap(got: Floats, wanted: Floats) -> float:
    """Return the largest difference; infinity where the shapes differ or anything is not a number."""
    if got.shape != wanted.shape:
        return float("inf")
    largest = float(np.abs(got - wanted).max())
    return largest if np.isfinite(largest) else float("inf")


def _unequal(got: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8]) -> float:
    """Return the share of unequal pixels; all of them where the shapes differ or any is off by more than 1."""
    if got.shape != wanted.shape:
        return 1.0
    off = np.abs(got.astype(np.int16) - wanted)
    return float((off > 0).mean()) if off.max() <= 1 else 1.0
