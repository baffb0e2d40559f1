"""Whether the graphs answer here as PyTorch did at export."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from armoire.arrays import Array
from armoire.engine.graph import Graph
from armoire.errors import BadBundle, BadSettings
from armoire.ops.bundle import Bundle

# What golden outputs in fp32 may differ by: sums in another order.
TOLERANCE = 1e-3
EQUAL_PIXELS = 0.999


@dataclass(frozen=True)
class Deviation:
    """How far the decoder's pixels are from the golden ones.

    Attributes:
        equal: the share of pixels that are equal.
        close: the share that differ by at most 1 of 255.
        largest: the largest difference, of 255.
    """

    equal: float
    close: float
    largest: int


def check(bundle: Bundle, encoder: Graph, decoder: Graph, close_pixels: float) -> Deviation:
    """Compare the graphs' answers with those that PyTorch gave at export.

    Raises:
        BadBundle, BadSettings: as ``compare_points`` and ``compare_pixels`` say.
    """
    compare_points(bundle, *encoder.prove(bundle.golden["pixels"]))
    (pixels,) = decoder.prove(bundle.golden["latents"])
    return compare_pixels(bundle, pixels, decoder.provider.precision, close_pixels)


def compare_points(bundle: Bundle, mean: Array, log_variance: Array) -> None:
    """Compare what the encoder made of the golden pixels, float32 [n, d] twice; it computes in fp32 everywhere.

    Raises:
        BadBundle: they differ by more than rounding.
    """
    for name, came in (("mean", mean), ("log_variance", log_variance)):
        gap = float(np.abs(came - bundle.golden[name]).max())
        if not gap <= TOLERANCE:  # a NaN is no match
            raise BadBundle(
                f"{bundle.where}: the encoder's {name} differs from its golden output by {gap:.3g}; export it again"
            )


def compare_pixels(bundle: Bundle, pixels: Array, precision: str, close_pixels: float) -> Deviation:
    """Compare what the decoder made of the golden latents: uint8 [n, h, w, c].

    In fp32 they differ by rounding only; a decoder in less must have this share of its pixels within 1 of 255.

    Raises:
        BadBundle: in fp32 they differ by more.
        BadSettings: the provider's precision is too low for this model.
    """
    where = bundle.where
    gaps = np.abs(pixels.astype(np.int16) - bundle.golden["decoded_pixels"])
    found = Deviation(float((gaps == 0).mean()), float((gaps <= 1).mean()), int(gaps.max()))
    if precision == "fp32" and (found.largest > 1 or found.equal < EQUAL_PIXELS):
        raise BadBundle(
            f"{where}: the decoder's pixels differ from its golden output by up to {found.largest} of 255 and "
            f"agree in {found.equal:.2%}; export it again"
        )
    if found.close < close_pixels:
        raise BadSettings(
            f"{where}: in {precision} {found.close:.2%} of the decoder's pixels are within 1 of 255 of the golden "
            f"ones, the furthest {found.largest} off; close_pixels = {close_pixels:g} wants {close_pixels:.2%}: "
            "name another provider, or a lower bound"
        )
    return found
