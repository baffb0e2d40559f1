"""The folder that the service loads, whatever the model was trained on."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from training.bundles import graphs, parity
from training.errors import TrainingError
from training.model import Autoencoder

FORMAT = 1
MANIFEST, CARD, GOLDEN, LATENT_SPACE = "manifest.json", "README.md", "golden.npz", "latent_space.npz"
GOLDEN_ROWS = 8


def require_replaceable(folder: Path, *, force: bool) -> None:
    """Refuse what would delete a bundle unasked, or anything that is no bundle.

    Raises:
        TrainingError: ``folder`` is there and is no bundle, or is one and ``force`` is not given.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not (folder / MANIFEST).is_file():
        raise TrainingError(f"{folder} is there and is no bundle (it holds no {MANIFEST}): it is left alone")
    if not force:
        raise TrainingError(f"{folder} holds a bundle: give another --version, or --force to replace it")


def write_graphs(model: Autoencoder, images: Tensor, folder: Path) -> dict[str, float]:
    """Write the graphs and their golden outputs, on images uint8 [64 or more, h, w, c] of the model's kind.

    Returns how far the graphs are from PyTorch, as figures for the manifest.

    Raises:
        TrainingError: a graph does not answer as the model does.
    """
    graphs.write(model, images, folder)
    gaps = parity.check(model, images, folder)
    latents = parity.far_and_near_latents(GOLDEN_ROWS, model.config.latent_size)
    mean, log_variance, pixels, means = parity.answers(model, images[:GOLDEN_ROWS], latents)
    np.savez(
        folder / GOLDEN,
        pixels=images[:GOLDEN_ROWS].numpy(),
        mean=mean,
        log_variance=log_variance,
        latents=latents.numpy(),
        decoded_pixels=pixels,
        decoded_means=means,
    )
    return {f"parity_{name}": gap for name, gap in gaps.items()}


def leave_out(providers: Collection[str], folder: Path) -> None:
    """Remove the decoder's forms for some providers, which then take the form for everybody else."""
    for provider in providers:
        (folder / graphs.VARIANTS[provider]).unlink()


def interface(model: Autoencoder, images: Tensor, without: Collection[str] = ()) -> dict[str, Any]:
    """The manifest's entries on what goes into the graphs and what comes out.

    ``images`` lend their shape; ``without`` are the providers for which the decoder has no form of its own.
    """
    height, width, channels = images.shape[1:]
    pixels = {"dtype": "uint8", "shape": ["n", height, width, channels]}
    latents = {"dtype": "float32", "shape": ["n", model.config.latent_size]}
    return {
        "image": {"height": height, "width": width, "channels": channels},
        "latent_size": model.config.latent_size,
        "likelihood": model.config.likelihood,
        "graphs": {
            "encoder": {
                "file": graphs.ENCODER,
                "inputs": {"pixels": pixels},
                "outputs": {"mean": latents, "log_variance": latents},
            },
            "decoder": {
                "file": graphs.DECODER,
                "variants": {
                    provider: file for provider, file in graphs.VARIANTS.items() if provider not in without
                },
                "inputs": {"latents": latents},
                "outputs": {"pixels": pixels, "means": {**pixels, "dtype": "float32"}},
            },
        },
    }


def finish(folder: Path, manifest: dict[str, Any], card: str) -> dict[str, Any]:
    """Write the model card and, last, the manifest with its format and the fingerprint of every file; returns it."""
    (folder / CARD).write_text(card)
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, **manifest, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _fingerprint(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
