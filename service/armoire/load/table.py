"""A report and its progress as a person sees them in the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from armoire.load.plan import Closed, Saturation, Stage
from armoire.load.report import Report
from armoire.load.result import Result
from armoire.load.session import Progress

MOST_WIDTH = 250
HEADINGS = (
    "load",
    "calls/s",
    "images/s",
    "MB/s",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "queue",
    "run",
    "failed",
)


class Watch(Protocol):
    """Takes progress."""

    def __call__(self, progress: Progress, /) -> None:
        """Show it."""


def name_of(stage: Stage, rpc: str) -> str:
    """Say what a stage is in a few letters: 8 callers x 1 row, or 500/s x 8 rows."""
    if isinstance(stage, Closed):
        name = f"{stage.callers:,} caller{'s' * (stage.callers > 1)}"
    else:
        name = f"{stage.rate:,.4g}/s" if stage.rate < 1000 else f"{stage.rate:,.0f}/s"
    return name if rpc == "ListModels" else f"{name} x {stage.rows} row{'s' * (stage.rows > 1)}"


@contextmanager
def progress_bar(rpc: str, stages: int | None) -> Iterator[Watch]:
    """Show a bar on stderr, if that is a terminal, while the block runs; ``stages`` is how many, if that is known."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[calls]}"),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("connecting", calls="", total=1.0)

        def watch(progress: Progress) -> None:
            of = f"/{stages}" if stages else ""
            failed = f", [red]{progress.failed:,} failed" if progress.failed else ""
            bar.update(
                task,
                description=f"{progress.number}{of}  {name_of(progress.stage, rpc)}",
                completed=min(1.0, (time.monotonic() - progress.start) / progress.seconds),
                calls=f"{progress.done:,} calls{failed}",
            )

        yield watch


def show(report: Report) -> None:
    """Print the table on stdout, whole even where that is narrow, and warnings on stderr."""
    table = _table(report)
    console = Console()
    needed = console.measure(table, options=console.options.update(width=MOST_WIDTH)).maximum
    console.width = max(console.width, needed)
    console.print(table)
    # Ctrl-C leaves searches without an end.
    for saturation, rate in zip(report.plan.saturations, report.saturations, strict=False):
        if rate:
            console.print(_saturation(saturation, rate))
    told = [
        f"{name_of(result.stage, report.plan.rpc)}: {text}"
        for result in report.results
        for text in result.warnings
    ]
    if told:
        panel = Panel(
            Text("\n".join(told)), title="! these figures tell of the client", border_style="bold red"
        )
        Console(stderr=True).print(panel)


def _table(report: Report) -> Table:
    model, plan = report.model, report.plan
    table = Table(
        title=f"{plan.rpc} on {model.name} {model.version} at {plan.target.address} "
        f"({model.provider}, {model.precision})",
        caption="latency in ms as the callers see it; queue and run as the server tells them, p50",
        box=SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for result in report.results:
        table.add_row(*_cells(result, plan.rpc), style="red" if result.failed else None)
    return table


def _cells(result: Result, rpc: str) -> list[str]:
    latency = result.latency_ms
    milliseconds = (
        latency.p50,
        latency.p90,
        latency.p99,
        latency.p999,
        latency.max,
        result.queue_ms.p50,
        result.run_ms.p50,
    )
    return [
        ("! " if result.warnings else "") + name_of(result.stage, rpc),
        f"{result.calls_per_second:,.0f}",
        f"{result.images_per_second:,.0f}",
        f"{result.sent_mb_per_second + result.received_mb_per_second:.1f}",
        *(_milliseconds(value) for value in milliseconds),
        ", ".join(f"{count:,} {code}" for code, count in result.errors.items()) or "0",
    ]


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _saturation(saturation: Saturation, rate: float) -> str:
    return (
        f"highest rate that keeps a p99 of {saturation.p99_ms:g} ms: "
        f"{rate:,.0f} calls/s, {rate * saturation.rows:,.0f} images/s"
    )
