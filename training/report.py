"""``python -m training report PRESET...``: one self-contained HTML page about trained models, its PNGs beside it."""

import argparse
import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from training import files
from training.data import sources
from training.drawing import pictures, plots
from training.evaluate import SHOWN, evaluate, judged, table_cells, training_figures
from training.measures import edits, neighbours
from training.measures.subject import Subject
from training.running import checkpoint

TEMPLATE = Path(__file__).with_name("drawing") / "report.html.j2"
PAGE = "index.html"
SIDE = 24  # images along one side of the decoded wall
SAMPLES, COLUMNS = 96, 16
STEPS = 9  # of an attribute's strip, from strength -2 to 2


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    out: Path = arguments.out or arguments.runs / "report"
    out.mkdir(parents=True, exist_ok=True)
    loaded = [checkpoint.load_model(arguments.runs / name) for name in arguments.preset]
    data = sources.load(loaded[0][0].config, arguments.data)
    for name, (_, state) in zip(arguments.preset, loaded, strict=True):
        checkpoint.require_data(state, data, arguments.runs / name)
    chapters = [
        chapter(Subject(model, data, arguments.runs), state, judged(arguments.runs / name, state), out)
        for name, (model, state) in zip(arguments.preset, loaded, strict=True)
    ]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        TEMPLATE.read_text()
    )
    page = template.render(
        data=data.source.name,
        images=len(data.test),
        chapters=chapters,
        classes=data.source.exclusive,
        held_out=data.source.held_out,
        comparison=_comparison(chapters),
        edited=edits.IMAGES,
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


def chapter(subject: Subject, state: dict[str, Any], found: dict[str, Any], out: Path) -> Chapter:
    """Measure and draw one model; its PNGs go into ``out``. ``found`` is what evaluate said of it, if anything."""
    config = subject.model.config
    figures = {**evaluate(subject.model, subject.data.test), **training_figures(state), **found}
    entry = Chapter(config.preset, state, figures, config.variational, config.latent_size)
    for name, picture in _draw(subject, state).items():
        path = out / f"{config.preset}-{name}.png"
        _save(picture, path)
        entry.pictures[name] = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return entry


def _draw(subject: Subject, state: dict[str, Any]) -> dict[str, Image.Image | Figure]:
    model, data, posterior = subject.model, subject.data, subject.test
    config = model.config
    samples = pictures.decode(model, subject.normal_latents(SAMPLES, "report"))
    drawn: dict[str, Image.Image | Figure] = {
        "reconstructions": _reconstructions(subject),
        "samples": pictures.grid(samples, COLUMNS),
        "interpolation": _interpolation(subject),
        "histograms": plots.histograms(posterior, model.rate(posterior), variational=config.variational),
    }
    if state["history"]:  # none of a run that was stopped in its first epoch
        drawn["curves"] = plots.curves(state["history"], variational=config.variational)
    if config.variational:
        fitted = torch.from_numpy(subject.mixture.sample(SAMPLES, config.seed)).float()
        decoded = pictures.decode(model, fitted)
        drawn["fitted"] = pictures.grid(decoded, COLUMNS)
        nearest = neighbours.nearest(torch.from_numpy(decoded[:COLUMNS]), data.train.images).rows
        pairs = pictures.interleave(decoded[:COLUMNS], data.train.images[nearest].numpy(), COLUMNS)
        drawn["neighbours"] = pictures.grid(pairs, COLUMNS)
        drawn |= _draw_attributes(subject)
    if config.latent_size == 2:
        drawn["scatter"] = plots.scatter(posterior.mean, data.test.labels, data.source.attributes)
        wall = pictures.wall_latents(posterior.mean, SIDE)
        drawn["wall"] = pictures.grid(pictures.decode(model, wall), SIDE, gap=0)
    return drawn


def _draw_attributes(subject: Subject) -> dict[str, Image.Image | Figure]:
    """A strip for each attribute, what each changes, and where those that have one lie."""
    attributes, source = subject.attributes, subject.data.source
    if not attributes:
        return {}
    strengths = torch.linspace(-2, 2, STEPS)[:, None]
    directions = [torch.from_numpy(attribute.direction).float() for attribute in attributes]
    typical = subject.test.mean.norm(dim=1).argmin()
    latents = torch.cat([subject.test.mean[typical] + strengths * direction for direction in directions])
    decoded = pictures.decode(subject.model, latents)
    strips = decoded.reshape(len(attributes), STEPS, *decoded.shape[1:])
    names = [attribute.name for attribute in attributes]
    drawn: dict[str, Image.Image | Figure] = {"strips": pictures.labelled(strips, names, 2)}
    if edited := edits.quality(subject):
        matrix = np.array([figures["changes"] for figures in edited.values()])
        drawn["changes"] = plots.changes(matrix, list(edited), source.attributes)
    if not source.exclusive:
        shown = [name for name in SHOWN if name in names] or names[:6]
        drawn["map"] = plots.latent_map(subject.test.mean, subject.data.test.labels, source.attributes, shown)
    return drawn


def _reconstructions(subject: Subject) -> Image.Image:
    test = subject.data.test
    rows = pictures.one_of_each(test.labels, len(subject.data.source.attributes), 2)
    originals, decoded = test.images[rows].numpy(), subject.reconstructions[rows].numpy()
    columns = len(rows) if subject.data.source.exclusive else len(rows) // 2
    return pictures.grid(pictures.interleave(originals, decoded, columns), columns)


def _interpolation(subject: Subject) -> Image.Image:
    """From an image of each class in turn to one of the next class but four, in 16 steps."""
    rows = pictures.one_of_each(subject.data.test.labels, len(subject.data.source.attributes), 1)
    ends = subject.test.mean[rows]
    latents = pictures.path_latents(ends[:5], ends[5:10], COLUMNS)
    return pictures.grid(pictures.decode(subject.model, latents), COLUMNS)


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
