"""Plots of figures: scatter, histograms, curves."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from training.model import Posterior

INK, PAPER, RULE, ACCENT, SECOND = "#22262b", "#ffffff", "#d8dce1", "#2563a8", "#c2410c"
MANY = 32  # dimensions, from which on histograms are drawn small
STYLE: dict[Any, Any] = {
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.dpi": 130,
    "font.size": 9,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def scatter(means: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Figure:
    """Draw posterior means [n, 2], a dot per image, coloured by class."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.4), layout="constrained")
        axes = figure.add_subplot()
        colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
        for label, name in enumerate(classes):
            x, y = means[labels == label].T.numpy()
            axes.scatter(
                x, y, s=4, alpha=0.45, linewidths=0, color=colours[label], label=name.replace("_", " ")
            )
        axes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
        low, high = np.quantile(means.numpy(), [0.001, 0.999], axis=0)
        margin = 0.05 * (high - low)
        axes.set(
            xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1])
        )
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=4)
    return figure


def histograms(posterior: Posterior, rate: Tensor, *, variational: bool) -> Figure:
    """Draw the posterior means of each dimension with N(0, 1) over them, and KL per dimension [n, d] beside."""
    d = posterior.mean.shape[1]
    many = d > MANY
    columns = min(d, 20 if many else 4)
    rows = math.ceil(d / columns)
    with mpl.rc_context(STYLE):
        height = 0.45 * rows + 0.6 if many else max(2.6, 1.35 * rows + 0.5)
        figure = Figure(figsize=(9.6, height), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(3, 1.3))
        left, right = halves
        cells = left.subplots(rows, columns, squeeze=False)
        for dimension, axes in enumerate(cells.flat):
            if dimension >= d:
                axes.set_axis_off()
                continue
            _histogram(
                axes, posterior.mean[:, dimension].numpy(), "" if many else f"mean of $z_{{{dimension + 1}}}$"
            )
            if many:
                axes.set(xticks=[], xlim=(-3.5, 3.5))
        axes = right.subplots()
        if variational:
            each = rate.mean(0).numpy()
            # Of many the order says nothing, and how many carry how much says all.
            axes.barh(np.arange(1, d + 1), np.sort(each)[::-1] if many else each, color=ACCENT, height=0.7)
            axes.invert_yaxis()
            axes.set(title="KL per dimension", xlabel="nats", ylabel="rank" if many else "dimension")
            if not many:
                axes.set(yticks=np.arange(1, d + 1))
        else:
            axes.set_axis_off()
            axes.text(
                0.5, 0.5, "no KL:\nthe code has\nno distribution", ha="center", va="center", fontsize=11
            )
    return figure


def _histogram(axes: Any, values: npt.NDArray[np.float32], title: str) -> None:
    reach = max(3.5, float(np.quantile(np.abs(values), 0.999)))
    axes.hist(values, bins=60, range=(-reach, reach), density=True, color=ACCENT, alpha=0.55)
    x = np.linspace(-reach, reach, 400)
    axes.plot(x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color=SECOND, linewidth=1.2)
    axes.set(title=title, yticks=[])
    axes.spines["left"].set_visible(False)


def curves(history: list[dict[str, float]], *, variational: bool) -> Figure:
    """Draw distortion, rate and their sum per epoch, in training and on the test split."""
    epochs = [row["epoch"] for row in history]
    parts = ("distortion", "rate", "sum") if variational else ("distortion",)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.8), layout="constrained")
        for axes, part in zip(np.atleast_1d(figure.subplots(1, len(parts))), parts, strict=True):
            for split, colour in (("train", ACCENT), ("test", SECOND)):
                values = [_part(row, split, part) for row in history]
                axes.plot(epochs, values, color=colour, linewidth=1.4, marker=".", markersize=4, label=split)
            _fit_scale(axes, [[_part(row, split, part) for row in history] for split in ("train", "test")])
            axes.set(title=f"{part}, nats per image", xlabel="epoch")
        axes.legend()
    return figure


def _part(row: dict[str, float], split: str, part: str) -> float:
    if part == "sum":
        return row[f"{split}_distortion"] + row[f"{split}_rate"]
    return row[f"{split}_{part}"]


def _fit_scale(axes: Any, lines: list[list[float]]) -> None:
    """Leave the first epoch's heights out of the scale: what happens afterwards is what one wants to see."""
    later = [value for line in lines for value in (line[1:] if len(line) > 2 else line)]
    margin = 0.1 * (max(later) - min(later)) or 1
    axes.set_ylim(min(later) - margin, max(later) + margin)


def changes(matrix: npt.NDArray[np.float64], added: Sequence[str], labels: Sequence[str]) -> Figure:
    """Draw what adding each attribute changes: the share of images of which a label changes, [added, labels]."""
    with mpl.rc_context(STYLE):
        side = max(4.5, 0.22 * len(labels))
        figure = Figure(figsize=(side + 1.8, 0.8 * side + 1.4), layout="constrained")
        axes = figure.add_subplot()
        picture = axes.imshow(matrix, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        axes.set_xticks(
            range(len(labels)), [name.replace("_", " ") for name in labels], rotation=90, fontsize=7
        )
        axes.set_yticks(range(len(added)), [name.replace("_", " ") for name in added], fontsize=7)
        axes.set(xlabel="label of which the classifier changes its mind", ylabel="added at strength 1")
        figure.colorbar(picture, label="share of images", shrink=0.6)
    return figure


def latent_map(means: Tensor, labels: Tensor, names: Sequence[str], shown: Sequence[str]) -> Figure:
    """Draw the means [n, d] on their first two principal components, once for each attribute ``shown``."""
    with mpl.rc_context(STYLE):
        columns = min(3, len(shown))
        rows = math.ceil(len(shown) / columns)
        figure = Figure(figsize=(9.6, 3.0 * rows), layout="constrained")
        centred = means - means.mean(0)
        _, _, axes_of = torch.pca_lowrank(centred, min(8, *means.shape), center=False)
        x, y = (centred @ axes_of[:, :2]).T.numpy()
        for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, strict=False):
            member = labels[:, names.index(name)].numpy()
            for chosen, colour in ((~member, RULE), (member, SECOND)):
                axes.scatter(x[chosen], y[chosen], s=5, linewidths=0, color=colour, alpha=0.8)
            axes.set(title=name.replace("_", " "), xticks=[], yticks=[], aspect="equal")
    return figure
