"""Throughput against latency, as a PNG."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import StrMethodFormatter

from armoire.files import replacing
from armoire.load.plan import Closed
from armoire.load.report import Report
from armoire.load.result import Result

INK, RULE = "#22262b", "#d8dce1"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": RULE,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.dpi": 130,
    "font.size": 9,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
QUANTILES: dict[str, Literal["-", "--"]] = {"p50": "-", "p99": "--"}
LABEL_OFFSET = (0, 5)  # points


def save(report: Report, path: Path) -> None:
    """Draw p50 and p99 of each number of rows and kind of loop; errors as in files.replacing."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.8), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, report)
        handles = [Line2D([], [], color=INK, linestyle=line, label=name) for name, line in QUANTILES.items()]
        figure.legend(
            handles=[*axes.get_lines()[:: len(QUANTILES)], *handles], loc="outside lower center", ncols=4
        )
        for saturation in report.plan.saturations:
            axes.axhline(saturation.p99_ms, color=INK, linewidth=0.8, linestyle=":")
        with replacing(path) as file:
            figure.savefig(file, format="png")


def _draw(axes: Axes, report: Report) -> None:
    measured = [result for result in report.results if result.latency_ms.p99 is not None]
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    images = report.plan.rpc != "ListModels"
    for number, (name, group) in enumerate(groupby(sorted(measured, key=_place), partial(_line_of, images))):
        results = list(group)
        x = [result.images_per_second if images else result.calls_per_second for result in results]
        for quantile, line in QUANTILES.items():
            y = [getattr(result.latency_ms, quantile) for result in results]
            style = {
                "linestyle": line,
                "marker": "o",
                "markersize": 4,
                "color": colours[number % len(colours)],
            }
            axes.plot(x, y, label=name, **style)
        for result, across, up in zip(results, x, y, strict=True):
            if isinstance(result.stage, Closed):
                axes.annotate(
                    str(result.stage.callers),
                    (across, up),
                    LABEL_OFFSET,
                    textcoords="offset points",
                    ha="center",
                )
    model = report.model
    axes.set(
        title=f"{report.plan.rpc} on {model.name} {model.version} ({model.provider}, {model.precision})",
        xlabel="images/s" if images else "calls/s",
        ylabel="latency, ms",
        yscale="log",
    )
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlim(left=0)


def _place(result: Result) -> tuple[int, bool, float]:
    """Order the points of each line by what the test turned up: callers, or the rate."""
    stage = result.stage
    closed = isinstance(stage, Closed)
    return stage.rows, closed, stage.callers if isinstance(stage, Closed) else stage.rate


def _line_of(images: bool, result: Result) -> str:
    stage = result.stage
    loop = "closed loop, by callers" if isinstance(stage, Closed) else f"open loop, {stage.arrivals}"
    return f"{stage.rows} row{'s' * (stage.rows > 1)}, {loop}" if images else loop
