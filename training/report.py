"""``python -m training report PRESET...``: one self-contained HTML page about trained models, its PNGs beside it."""

import argparse
import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import torch
from matplotlib.figure import Figure
from PIL import Image

from training import files, randomness
from training.data import Data, sources
from training.drawing import pictures, plots
from training.evaluate import evaluate, table_cells, training_figures
from training.measures import aggregate, mixture
from training.model import Autoencoder, Posterior
from training.running import checkpoint

TEMPLATE = Path(__file__).with_name("drawing") / "report.html.j2"
PAGE = "index.html"
SIDE = 24  # images along one side of the decoded wall


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    out: Path = arguments.out or arguments.runs / "report"
    out.mkdir(parents=True, exist_ok=True)
    loaded = [checkpoint.load_model(arguments.runs / name) for name in arguments.preset]
    data = sources.load(loaded[0][0].config, arguments.data)
    for name, (_, state) in zip(arguments.preset, loaded, strict=True):
        checkpoint.require_data(state, data, arguments.runs / name)
    chapters = [chapter(model, state, data, out) for model, state in loaded]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        TEMPLATE.read_text()
    )
    page = template.render(
        data=data.source.name,
        images=len(data.test),
        chapters=chapters,
        comparison=_comparison(chapters),
        table=table_cells([{"preset": entry.preset, **entry.figures} for entry in chapters]),
    )
    files.write(out / PAGE, page.encode())
    print(out / PAGE)
    return 0


@dataclass
class Chapter:
    """One model: its checkpoint, its figures, and its pictures as data URIs by name."""

    preset: str
    state: dict[str, Any]
    figures: dict[str, Any]
    variational: bool
    latent_size: int
    pictures: dict[str, str] = field(default_factory=dict)


def chapter(model: Autoencoder, state: dict[str, Any], data: Data, out: Path) -> Chapter:
    """Measure and draw one trained model; its PNGs go into ``out``."""
    config = model.config
    figures = {**evaluate(model, data.test), **training_figures(state)}
    entry = Chapter(config.preset, state, figures, config.variational, config.latent_size)
    for name, picture in _draw(model, state, data).items():
        path = out / f"{config.preset}-{name}.png"
        _save(picture, path)
        entry.pictures[name] = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return entry


def _draw(model: Autoencoder, state: dict[str, Any], data: Data) -> dict[str, Image.Image | Figure]:
    config, classes = model.config, data.source.attributes
    posterior = aggregate.encode(model, data.test.images)
    normal = randomness.noise(config.seed, "report", 96, config.latent_size)
    drawn: dict[str, Image.Image | Figure] = {
        "reconstructions": _reconstructions(model, posterior, data),
        "samples": pictures.grid(pictures.decode(model, normal), 16),
        "interpolation": _interpolation(model, posterior, data),
        "histograms": plots.histograms(posterior, model.rate(posterior), variational=config.variational),
    }
    if state["history"]:  # none of a run that was stopped in its first epoch
        drawn["curves"] = plots.curves(state["history"], variational=config.variational)
    if config.variational:
        drawn["fitted"] = pictures.grid(pictures.decode(model, _fitted_samples(model, data)), 16)
    if config.latent_size == 2:
        drawn["scatter"] = plots.scatter(posterior.mean, data.test.labels, classes)
        wall = pictures.wall_latents(posterior.mean, SIDE)
        drawn["wall"] = pictures.grid(pictures.decode(model, wall), SIDE, gap=0)
    return drawn


def _reconstructions(model: Autoencoder, posterior: Posterior, data: Data) -> Image.Image:
    rows = pictures.one_of_each(data.test.labels, len(data.source.attributes), 2)
    originals = data.test.images[rows].numpy()
    decoded = pictures.decode(model, posterior.mean[rows])
    return pictures.grid(pictures.interleave(originals, decoded, len(rows)), len(rows))


def _interpolation(model: Autoencoder, posterior: Posterior, data: Data) -> Image.Image:
    """From an image of each class in turn to one of the next class but four, in 16 steps."""
    ends = posterior.mean[pictures.one_of_each(data.test.labels, len(data.source.attributes), 1)]
    latents = pictures.path_latents(ends[:5], ends[5:10], 16)
    return pictures.grid(pictures.decode(model, latents), 16)


def _fitted_samples(model: Autoencoder, data: Data) -> torch.Tensor:
    config = model.config
    posterior = aggregate.encode(model, data.train.images)
    fitted = mixture.fit(posterior, config.mixture_components, config.seed)
    return torch.from_numpy(fitted.sample(96, config.seed)).float()


def _comparison(chapters: list[Chapter]) -> tuple[Chapter, Chapter] | None:
    """The first plain autoencoder and the first variational one of two dimensions, where the page has both."""
    flat = [entry for entry in chapters if entry.latent_size == 2]
    plain = [entry for entry in flat if not entry.variational]
    variational = [entry for entry in flat if entry.variational and not entry.preset.startswith("book-")]
    return (plain[0], variational[0]) if plain and variational else None


def _save(picture: Image.Image | Figure, path: Path) -> None:
    """Write a PNG without a date in it, so that the same model gives the same file."""
    buffer = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.savefig(buffer, format="png", metadata={"Software": None})
    files.write(path, buffer.getbuffer())
