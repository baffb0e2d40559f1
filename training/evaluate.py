"""``python -m training evaluate PRESET...``: a trained model on the whole test set, as JSON and as one table."""

import argparse
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from training import files, randomness
from training.data import Split, as_pixels, sources
from training.measures import aggregate, edits, few_labels, neighbours, references
from training.measures.inception import Inception
from training.measures.subject import Subject
from training.model import Autoencoder, Posterior
from training.running import checkpoint

NAME = "metrics.json"
SHOWN = ("Smiling", "Male", "Eyeglasses", "Blond_Hair", "Wearing_Hat", "Mustache")
MOST_SAMPLES = 2000  # whose nearest neighbours are looked for
# The keys of what judge gives, beside the means over attributes.
JUDGED = ("frechet", "fid", "pca_mse", "few_labels", "neighbours", "attributes", "auc", "auc_logistic")
OF_EDITS = {
    "flip_rate": "flips",
    "leakage": "leakage",
    "cycle_cosine": "cycle cosine",
}  # and what they are called
ACTIVE = 0.01  # a unit is active where its mean varies by more than this over the data (Burda et al. 2016)


def main(arguments: argparse.Namespace) -> int:
    """Run the command: write RUNS/PRESET/metrics.json for each preset, print one table; returns the exit code."""
    rows = []
    inception = Inception(arguments.inception) if arguments.inception else None
    for name in arguments.preset:
        folder: Path = arguments.runs / name
        model, state = checkpoint.load_model(folder)
        data = sources.load(model.config, arguments.data)
        checkpoint.require_data(state, data, folder)
        figures = {
            "preset": name,
            "data": data.source.name,
            "split": data.source.held_out,
            "seed": model.config.seed,
            "run": identity(state),
            **evaluate(model, data.test),
            **training_figures(state),
            **judge(Subject(model, data, arguments.runs), inception),
        }
        files.write(folder / NAME, (json.dumps(figures, indent=2) + "\n").encode())
        rows.append(figures)
    print(table(rows))
    return 0


def identity(state: dict[str, Any]) -> dict[str, Any]:
    """What tells the checkpoint of one run from that of another: figures of one are not the other's."""
    return {key: state[key] for key in ("step", "commit", "seconds")} | {"seed": state["config"]["seed"]}


def judged(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """What ``judge`` found of this very checkpoint when ``evaluate`` was last run; empty where it was not."""
    try:
        figures = json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(figures, dict) or figures.get("run") != identity(state):
        return {}
    return {key: value for key, value in figures.items() if key in JUDGED or key.startswith(tuple(OF_EDITS))}


def judge(subject: Subject, inception: Inception | None = None) -> dict[str, Any]:
    """Set a model beside what it is to be compared with: other ways to the same end, photographs, labels."""
    model, data = subject.model, subject.data
    attributes = {each.name: each.as_dict() for each in subject.attributes}
    for name, edited in edits.quality(subject).items():
        attributes[name] |= edited
    found: dict[str, Any] = {
        **references.frechet_distances(subject, inception),
        "pca_mse": references.principal_components(data, model.config.latent_size, model.config.seed),
        "few_labels": few_labels.accuracy(data, subject.train, subject.test, model.config.seed),
        "attributes": attributes,
        **_over_attributes(attributes),
    }
    if model.config.variational:
        count = min(len(data.test), MOST_SAMPLES)
        # Of the prior that was fitted to them: if one repeats training images, it is this one.
        samples = aggregate.decode(
            model, torch.from_numpy(subject.mixture.sample(count, model.config.seed)).float()
        )
        found["neighbours"] = neighbours.comparison(samples, subject.reconstructions, data.train.images)
    return found


def averaged(names: Collection[str]) -> tuple[str, ...]:
    """The attributes that are averaged over: those usually shown of faces, where they are all there, else all."""
    return SHOWN if set(names) >= set(SHOWN) else tuple(names)


def _over_attributes(attributes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    shown = averaged(attributes)
    if not shown:
        return {}
    found = {key: _mean([attributes[name][key] for name in shown]) for key in ("auc", "auc_logistic")}
    edited = [attributes[name] for name in shown if "flip_rate" in attributes[name]]
    if edited:
        found |= {
            f"{key}_at_{strength}": _mean([each[key][str(strength)] for each in edited])
            for key in OF_EDITS
            for strength in edits.STRENGTHS
        }
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that there are: nothing leaks where nothing flips."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def evaluate(model: Autoencoder, split: Split) -> dict[str, Any]:
    """All figures of a model on every image of a split; nats are per image.

    The rate and the sum are None for a plain autoencoder, which has no q(z|x).
    """
    variational = model.config.variational
    posterior = aggregate.encode(model, split.images)
    noise = randomness.noise(model.config.seed, "evaluation", len(split), model.config.latent_size)
    latents = model.latents(posterior, noise)
    rate = model.rate(posterior)
    distortion = _distortion(model, split, latents)
    variance = posterior.mean.var(0, correction=0)
    mse = _squared_error(model, split, posterior)
    nats = distortion + float(rate.sum(1).mean())
    pixels = split.images[0].numel()
    # Binary cross-entropy on grey levels bounds no density.
    bits = references.bits_per_dimension(nats, pixels) if model.config.likelihood == "gaussian" else None
    return {
        "images": len(split),
        "likelihood": model.config.likelihood,
        "distortion": distortion,
        "rate": float(rate.sum(1).mean()) if variational else None,
        "sum": nats if variational else None,
        "bits_per_dimension": bits if variational else None,
        "mse": mse,
        "psnr": references.peak_signal_to_noise(mse),
        "active_units": int((variance > ACTIVE).sum()),
        "rate_per_dimension": rate.mean(0).tolist() if variational else None,
        "variance_of_means": variance.tolist(),
        "aggregate_gaussian_kl": aggregate.gaussian_divergence(posterior, variational=variational),
        "aggregate_mmd": aggregate.maximum_mean_discrepancy(latents),
    }


@torch.no_grad()
def losses_on(model: Autoencoder, split: Split) -> tuple[float, float]:
    """Distortion and rate in nats per image, one z per image, on every image of the split."""
    posterior = aggregate.encode(model, split.images)
    noise = randomness.noise(model.config.seed, "evaluation", len(split), model.config.latent_size)
    distortion = _distortion(model, split, model.latents(posterior, noise))
    return distortion, float(model.rate(posterior).sum(1).mean())


@torch.no_grad()
def _distortion(model: Autoencoder, split: Split, latents: torch.Tensor) -> float:
    device = next(model.parameters()).device
    total = 0.0
    for images, rows in _batches(split, latents):
        logits = model.decoder(rows.to(device)).float()
        total += float(model.distortion(logits, as_pixels(images.to(device))).double().sum())
    return total / len(split)


@torch.no_grad()
def _squared_error(model: Autoencoder, split: Split, posterior: Posterior) -> float:
    """Mean over images and pixels in [0, 1], decoding the posterior mean: no noise in it."""
    device = next(model.parameters()).device
    total = 0.0
    for images, rows in _batches(split, posterior.mean):
        means = model.decoder(rows.to(device)).float().sigmoid()
        total += float((means - as_pixels(images.to(device))).square().double().sum())
    return total / split.images.numel()


def _batches(split: Split, latents: torch.Tensor) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    pairs = zip(torch.split(split.images, aggregate.ROWS), torch.split(latents, aggregate.ROWS), strict=True)
    return list(pairs)


def training_figures(state: dict[str, Any]) -> dict[str, Any]:
    """Return what the run itself saw: its last epoch's mean, each image before the update that it took part in."""
    if not state["history"]:
        return {}
    last = state["history"][-1]
    return {
        "train_distortion": last["train_distortion"],
        "train_rate": last["train_rate"] if state["config"]["variational"] else None,
        "train_sum": last["train_distortion"] + last["train_rate"]
        if state["config"]["variational"]
        else None,
        "epochs": last["epoch"],
        "training_seconds": state["seconds"],
    }


class _Line(NamedTuple):
    """A line of the table: figures that are read together, by their keys in what ``_flat`` gives."""

    label: str
    keys: tuple[str, ...]
    digits: int = 2


LINES = (
    _Line("distortion", ("distortion",)),
    _Line("rate", ("rate",)),
    _Line("their sum", ("sum",)),
    _Line("the sum in training", ("train_sum",)),
    _Line("bits per dimension", ("bits_per_dimension",)),
    _Line("MSE", ("mse",), 5),
    _Line("MSE of as many components", ("pca_mse",), 5),
    _Line("PSNR, dB", ("psnr",)),
    _Line("active units", ("active_units",)),
    _Line("KL(q(z))", ("aggregate_gaussian_kl",), 3),
    _Line("MMD²(q(z))", ("aggregate_mmd",), 5),
    *(
        _Line(f"{name} {label}", (f"{kind}_{key}",))
        for kind, name in (("frechet", "FD"), ("fid", "FID"))
        for key, label in (
            ("reconstructions", "rec."),
            ("normal", "normal"),
            ("fitted", "fitted"),
            ("floor", "floor"),
        )
    ),
    _Line("nearest image: samples, rec.", ("neighbours_samples_median", "neighbours_held_out_median"), 3),
    _Line("samples that repeat one", ("neighbours_repeated",), 4),
    _Line("AUC, of logistic regression", ("auc", "auc_logistic"), 3),
    *(
        _Line(
            f"{label} at {', '.join(f'{strength:g}' for strength in edits.STRENGTHS)}",
            tuple(f"{key}_at_{strength}" for strength in edits.STRENGTHS),
        )
        for key, label in OF_EDITS.items()
    ),
    *(
        _Line(
            f"{size} labels: means, pixels, PCA",
            tuple(f"{size} {features}" for features in few_labels.FEATURES),
        )
        for size in few_labels.LABELS
    ),
    _Line("trained, s", ("training_seconds",), 0),
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Lay the main figures of several models out side by side, as Markdown."""
    cells = table_cells(rows)
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def table_cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the header and a line of each kind of figures, as text, a column per model.

    A line that no model has anything for is left out.
    """
    flat = [_flat(row) for row in rows]
    return [
        ["preset", *(row["preset"] for row in rows)],
        *(
            [line.label, *(_text(line, row) for row in flat)]
            for line in LINES
            if any(row.get(key) is not None for row in flat for key in line.keys)
        ),
    ]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of a model with those that are grouped by what they are of beside the rest."""
    groups = {
        f"{group}_{name}": value
        for group in ("frechet", "fid", "neighbours")
        for name, value in row.get(group, {}).items()
    }
    few = {
        f"{size} {features}": accuracy
        for features, found in (row.get("few_labels") or {}).items()
        for size, accuracy in found.items()
    }
    return row | groups | few


def _text(line: _Line, row: dict[str, Any]) -> str:
    values = [row.get(key) for key in line.keys]
    if all(value is None for value in values):
        return "-"
    return ", ".join(
        "-" if value is None else f"{value:.{line.digits}f}" if isinstance(value, float) else str(value)
        for value in values
    )
