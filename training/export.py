"""``python -m training export PRESET``: from a checkpoint to a bundle that can be served."""

import argparse
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np

from training import aggregate, card, checkpoint, files, graphs, latent_space, randomness
from training.data import PADDING, Data, load
from training.errors import TrainingError
from training.evaluate import evaluate
from training.model import Autoencoder

MANIFEST = "manifest.json"
FORMAT = 1
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "scikit-learn", "numpy")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    data = load(arguments.data)
    model, state = checkpoint.load_model(arguments.runs / arguments.preset, data)
    if not model.config.variational:
        raise TrainingError(
            f"{arguments.preset} is a plain autoencoder: without a prior there is nothing to serve"
        )
    name = arguments.preset.replace("fashion", data.edition.slug)
    folder: Path = arguments.out / name / str(arguments.version)
    _require_replaceable(folder, force=arguments.force)
    # All of it or nothing: a bundle that fails a check never takes the place of one that passed.
    with files.replacing(folder) as unfinished:
        manifest = write(model, state, data, unfinished, name, str(arguments.version))
    print(
        f"{folder}: {name} version {manifest['version']}, checked at batches {', '.join(map(str, graphs.BATCHES))}"
    )
    return 0


def _require_replaceable(folder: Path, *, force: bool) -> None:
    """Refuse what would delete a bundle unasked, or anything that is no bundle."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not (folder / MANIFEST).is_file():
        raise TrainingError(f"{folder} is there and is no bundle (it holds no {MANIFEST}): it is left alone")
    if not force:
        raise TrainingError(f"{folder} holds a bundle: give another --version, or --force to replace it")


def write(
    model: Autoencoder, state: dict[str, Any], data: Data, folder: Path, name: str, version: str
) -> dict[str, Any]:
    """Write every file of the bundle into ``folder`` and return its manifest.

    Raises:
        TrainingError: a graph does not answer as the model does.
    """
    graphs.write(model, data.test.images, folder)
    parity = graphs.check(model, data.test.images, folder)
    attributes, metrics = _write_latent_space(model, data, folder)
    _write_golden(model, data, folder)
    figures = {
        key: value for key, value in evaluate(model, data.test).items() if isinstance(value, int | float)
    }
    metrics = {**figures, **metrics, **{f"parity_{key}": value for key, value in parity.items()}}
    manifest = {
        "format": FORMAT,
        "name": name,
        "version": version,
        **_interface(model, data),
        "files": {},
        "preprocessing": {"crop": None, "resize": [28, 28], "pad": PADDING},
        "attributes": [
            {
                "name": attribute.name,
                "norm": attribute.norm,
                "auc": attribute.auc,
                "positives": attribute.positives,
                "negatives": attribute.negatives,
            }
            for attribute in attributes
        ],
        "priors": ["normal", "fitted"],
        # The prior under which distortion + rate is lower on the test split.
        "default_prior": "fitted" if metrics["rate_fitted_prior"] < metrics["rate"] else "normal",
        "metrics": metrics,
        "training": {
            "data": data.edition.name,
            "split": f"{len(data.train):,} training and {len(data.test):,} test images, as published",
            "preset": model.config.preset,
            "seed": model.config.seed,
            "epochs": len(state["history"]),
            "seconds": round(state["seconds"]),
            "skipped_steps": state["skipped"],
            "commit": state["commit"],
            "libraries": {library: importlib.metadata.version(library) for library in LIBRARIES},
            "config": model.config.as_dict(),
        },
        "licence": data.edition.licence,
    }
    (folder / "README.md").write_text(card.text(manifest))
    manifest["files"] = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _interface(model: Autoencoder, data: Data) -> dict[str, Any]:
    """What goes into the graphs and what comes out of them."""
    height, width, channels = data.test.images.shape[1:]
    images = {"dtype": "uint8", "shape": ["n", height, width, channels]}
    means = {**images, "dtype": "float32"}
    latents = {"dtype": "float32", "shape": ["n", model.config.latent_size]}
    return {
        "image": {"height": height, "width": width, "channels": channels},
        "latent_size": model.config.latent_size,
        "likelihood": model.config.likelihood,
        "graphs": {
            "encoder": {
                "file": graphs.ENCODER,
                "inputs": {"pixels": images},
                "outputs": {"mean": latents, "log_variance": latents},
            },
            "decoder": {
                "file": graphs.DECODER,
                "inputs": {"latents": latents},
                "outputs": {"pixels": images, "means": means},
            },
        },
    }


def _write_latent_space(
    model: Autoencoder, data: Data, folder: Path
) -> tuple[list[latent_space.Attribute], dict[str, float]]:
    train, test = (aggregate.encode(model, split.images) for split in (data.train, data.test))
    train_means, test_means = (posterior.mean.double().numpy() for posterior in (train, test))
    attributes = latent_space.attributes(
        data.edition.classes, train_means, data.train.labels.numpy(), test_means, data.test.labels.numpy()
    )
    mixture = latent_space.fit_mixture(train, model.config.mixture_components, model.config.seed)
    np.savez(
        folder / "latent_space.npz",
        attribute_directions=np.stack([attribute.direction for attribute in attributes]).astype(np.float32),
        mixture_weights=mixture.weights,
        mixture_means=mixture.means,
        mixture_choleskys=mixture.choleskys,
        posterior_mean=train_means.mean(0).astype(np.float32),
        posterior_std=train_means.std(0).astype(np.float32),
    )
    noise = randomness.noise(model.config.seed, "evaluation", len(data.test), model.config.latent_size)
    latents = model.latents(test, noise).double().numpy()
    return attributes, {"rate_fitted_prior": latent_space.rate_under(mixture, test, latents)}


def _write_golden(model: Autoencoder, data: Data, folder: Path) -> None:
    images = data.test.images[:8]
    latents = graphs.far_and_near_latents(8, model.config.latent_size)
    mean, log_variance, pixels, means = graphs.answers(model, images, latents)
    np.savez(
        folder / "golden.npz",
        pixels=images.numpy(),
        mean=mean,
        log_variance=log_variance,
        latents=latents.numpy(),
        decoded_pixels=pixels,
        decoded_means=means,
    )


def _fingerprint(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
