"""``python -m training export PRESET``: from a checkpoint to a bundle that can be served."""

import argparse
import importlib.metadata
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from training import files
from training.bundles import bundle, card, latent_space, parity
from training.data import celeba, sources
from training.errors import TrainingError
from training.evaluate import evaluate, judged
from training.measures import mixture
from training.measures.subject import Subject
from training.running import checkpoint

ROOT = Path(__file__).resolve().parent.parent  # of the repository
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "scikit-learn", "numpy")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    run: Path = arguments.runs / arguments.preset
    model, state = checkpoint.load_model(run)
    data = sources.load(model.config, arguments.data)
    checkpoint.require_data(state, data, run)
    if not model.config.variational:
        raise TrainingError(
            f"{arguments.preset} is a plain autoencoder: without a prior there is nothing to serve"
        )
    name = re.sub("fashion|celeba", data.source.slug, arguments.preset)
    folder: Path = arguments.out / name / str(arguments.version)
    # Beside the weights a bundle holds eight photographs, in golden.npz; git, the wheel and the images pass them on.
    if data.source.licence == celeba.LICENCE and folder.resolve().is_relative_to(ROOT):
        raise TrainingError(
            f"{run} was trained on {data.source.name}, which may not be passed on, and {folder} is in this repository, "
            "which is: name a folder outside it, as --out ~/models"
        )
    bundle.require_replaceable(folder, force=arguments.force)
    # All of it or nothing: a bundle that fails a check never takes the place of one that passed.
    with files.replacing(folder) as unfinished:
        found = judged(run, state)
        subject = Subject(model, data, arguments.runs)
        write(subject, state, found, unfinished, name, str(arguments.version), arguments.without)
    if not found:
        print(
            f"the model card lacks what `python -m training evaluate {arguments.preset}` would say: run it first"
        )
    batches = ", ".join(map(str, parity.BATCHES))
    print(f"{folder}: {name} version {arguments.version}, checked at batches {batches}")
    return 0


def write(
    subject: Subject,
    state: dict[str, Any],
    evaluation: dict[str, Any],
    folder: Path,
    name: str,
    version: str,
    without: Collection[str] = (),
) -> None:
    """Write every file of the bundle into ``folder``.

    ``evaluation`` is what ``judged`` gives; for the providers ``without`` the decoder gets no form of its own.

    Raises:
        TrainingError: a graph does not answer as the model does.
    """
    model, data = subject.model, subject.data
    # Of a small folder the held-out part may be too small to check the graphs with.
    images = max((data.test.images, data.train.images), key=lambda part: min(len(part), max(parity.BATCHES)))
    if len(images) < max(parity.BATCHES):
        raise TrainingError(
            f"{data.source.name} has {len(data.train)} and {len(data.test)} images; the graphs are checked with "
            f"{max(parity.BATCHES)} of one part"
        )
    gaps = bundle.write_graphs(model, images, folder)
    bundle.leave_out(without, folder)
    attributes, means = subject.attributes, subject.train.mean.double().numpy()
    latent_space.save(folder / bundle.LATENT_SPACE, means, attributes, subject.mixture)
    evaluated = evaluate(model, data.test)
    figures = {key: value for key, value in evaluated.items() if isinstance(value, int | float)}
    metrics = {**figures, "rate_fitted_prior": _rate_under_fitted(subject), **gaps}
    manifest = {
        "name": name,
        "version": version,
        **bundle.interface(model, data.test.images, without),
        "preprocessing": data.source.preprocessing,
        "attributes": [attribute.as_dict() for attribute in attributes],
        "priors": ["normal", "fitted"],
        "mixture_components": len(subject.mixture.weights),  # of few images fewer than the preset asks for
        # The prior under which distortion + rate is lower on the test split.
        "default_prior": "fitted" if metrics["rate_fitted_prior"] < metrics["rate"] else "normal",
        "metrics": metrics,
        "rate_per_dimension": evaluated["rate_per_dimension"],
        "evaluation": evaluation,
        "training": {
            "data": data.source.name,
            "split": f"{len(data.train):,} training and {len(data.test):,} {data.source.held_out} images",
            "held_out": data.source.held_out,
            "classes": data.source.exclusive,
            "preset": model.config.preset,
            "seed": model.config.seed,
            "epochs": len(state["history"]),
            "seconds": round(state["seconds"]),
            "skipped_steps": state["skipped"],
            "commit": state["commit"],
            "libraries": {library: importlib.metadata.version(library) for library in LIBRARIES},
            "config": model.config.as_dict(),
        },
        "licence": data.source.licence,
    }
    bundle.finish(folder, manifest, card.text(manifest))


def _rate_under_fitted(subject: Subject) -> float:
    """The rate on the held-out images, with the fitted prior in the place of N(0, I)."""
    noise = subject.normal_latents(len(subject.data.test), "evaluation")
    latents = subject.model.latents(subject.test, noise).double().numpy()
    return mixture.rate_under(subject.mixture, subject.test, latents)
