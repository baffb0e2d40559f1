"""``python -m training.bundles.upsampling``: how fast a decoder is in ONNX Runtime, by its way of doubling the size.

One thread on one core. The decoders have the widths of a preset's and random weights, which cost the same as trained
ones. Prints images/s at several batch sizes, and whether a row's result depends on the rows beside it.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from training import model
from training.bundles import graphs, parity
from training.bundles.subpixel import SubpixelConvolution
from training.config import Config, preset

BATCHES = (1, 8, 64, 256)
ROUNDS = 9
VARIANTS: dict[str, Callable[[int, int], nn.Module]] = {
    "transposed convolution k3 s2": model.upsampling,
    "the same, as convolution k2 and DepthToSpace": lambda channels, width: SubpixelConvolution(
        model.upsampling(channels, width)
    ),
    "transposed convolution k4 s2": lambda channels, width: nn.ConvTranspose2d(channels, width, 4, 2, 1),
    "convolution k3, pixel shuffle": lambda channels, width: nn.Sequential(
        nn.Conv2d(channels, 4 * width, 3, padding=1), nn.PixelShuffle(2)
    ),
    "nearest neighbour, convolution k3": lambda channels, width: nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels, width, 3, padding=1)
    ),
}


def main() -> None:
    """Measure every variant and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", nargs="?", default="fashion", help="whose widths to use (default: fashion)")
    config = preset(parser.parse_args().preset)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(
        "| upsampling | "
        + " | ".join(f"batch {batch}" for batch in BATCHES)
        + " | row depends on its batch |"
    )
    print("|---" * (len(BATCHES) + 2) + "|")
    for name, layer in VARIANTS.items():
        session = _session(config, layer)
        speeds = " | ".join(f"{_images_per_second(session, config, batch):,.0f}" for batch in BATCHES)
        print(f"| {name} | {speeds} | {'yes' if _depends_on_batch(session, config) else 'no'} |", flush=True)


def _session(config: Config, layer: Callable[[int, int], nn.Module]) -> onnxruntime.InferenceSession:
    torch.manual_seed(config.seed)
    layers = model.Decoder(config).layers
    for index, old in enumerate(layers):
        if isinstance(old, nn.ConvTranspose2d):
            layers[index] = layer(old.in_channels, old.out_channels)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / graphs.DECODER
        graphs.write_decoder(layers, config.latent_size, path)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _images_per_second(session: onnxruntime.InferenceSession, config: Config, batch: int) -> float:
    latents = np.random.default_rng(0).standard_normal((batch, config.latent_size), np.float32)
    runs = max(1, 1024 // batch)
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(runs):
            session.run(["pixels"], {"latents": latents})
        best = min(best, (time.perf_counter() - start) / runs)
    return batch / best


def _depends_on_batch(session: onnxruntime.InferenceSession, config: Config) -> bool:
    """Whether any row of 64 differs in any bit when it is decoded in a smaller batch, of every size from 1."""
    latents = parity.far_and_near_latents(64, config.latent_size).numpy()
    whole = session.run(["means"], {"latents": latents})[0]
    return not all(
        np.array_equal(
            session.run(["means"], {"latents": latents[start : start + size]})[0], whole[start : start + size]
        )
        for size in range(1, 64)
        for start in range(0, 65 - size, size)
    )


if __name__ == "__main__":
    main()
