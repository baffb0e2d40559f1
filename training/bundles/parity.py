"""Whether a bundle's graphs answer as the model does: asked before anyone else may read them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

from training.bundles import graphs
from training.data import as_pixels
from training.errors import TrainingError
from training.model import Autoencoder

Floats = npt.NDArray[np.float32]

BATCHES = (1, 2, 3, 7, 64)
TOLERANCE = 1e-4  # on the encoder's means and log-variances
# For each value of an image: the linear path sums as many products as there are, and float32 rounds each partial sum by
# up to 6e-8 of it (Higham, Accuracy and Stability of Numerical Algorithms, 4.2). At 128x128x3 that is 1e-3.
ROUNDING = 2e-8


class Form(NamedTuple):
    """A form of the decoder, and what it may differ by from PyTorch in float32.

    ``off_by`` grey levels are passed by at most 0.1 % of the pixels, and ``most_off`` by none.
    """

    name: str
    file: str
    tolerance: float  # on means in [0, 1]
    off_by: int
    most_off: int


DECODERS = (
    Form("decoder", graphs.DECODER, 1e-4, off_by=0, most_off=1),
    Form("decoder", graphs.OPENVINO_DECODER, 1e-4, off_by=0, most_off=1),
    Form("fp16", graphs.FP16_DECODER, 5e-3, off_by=1, most_off=2),
)
STRAY_PIXELS = 0.001


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

    Returns the largest difference of the encoder, of the decoder and of its fp16 form, and the largest share of pixels
    that a form in float32 gave unlike PyTorch.

    Raises:
        TrainingError: a graph answers differently from PyTorch at some batch size.
    """
    images = images[: max(BATCHES)]
    latents = far_and_near_latents(max(BATCHES), model.config.latent_size)
    wanted = answers(model, images, latents)
    worst = {"encoder": 0.0, "decoder": 0.0, "fp16": 0.0, "unequal_pixels": 0.0}
    encoder = _session(folder / graphs.ENCODER)
    decoders = [(form, _session(folder / form.file)) for form in DECODERS]
    tolerance = max(TOLERANCE, ROUNDING * images[0].numel())
    for batch in BATCHES:
        mean, log_variance = _in_batches(encoder, images, batch)
        gap = max(_gap(mean, wanted.mean), _gap(log_variance, wanted.log_variance))
        worst["encoder"] = max(worst["encoder"], _tolerated(gap, tolerance, graphs.ENCODER, batch))
        for form, decoder in decoders:
            pixels, means = _in_batches(decoder, latents, batch)
            gap = _tolerated(_gap(means, wanted.means), form.tolerance, form.file, batch)
            worst[form.name] = max(worst[form.name], gap)
            stray = _stray(pixels, wanted.pixels, form)
            if stray > STRAY_PIXELS:
                raise TrainingError(
                    f"{form.file} gives {stray:.2%} of its pixels unlike PyTorch's in batches of {batch}"
                )
            if form.off_by == 0:
                worst["unequal_pixels"] = max(worst["unequal_pixels"], stray)
    return worst


def _tolerated(gap: float, tolerance: float, file: str, batch: int) -> float:
    if gap > tolerance:
        raise TrainingError(
            f"{file} is off by {gap:.2g} from PyTorch in batches of {batch}; {tolerance:.0e} is allowed"
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


def _stray(got: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8], form: Form) -> float:
    """Return the share of pixels off by too much; all of them where the shapes differ or any is off by far too much."""
    if got.shape != wanted.shape:
        return 1.0
    off = np.abs(got.astype(np.int16) - wanted)
    return float((off > form.off_by).mean()) if off.max() <= form.most_off else 1.0
