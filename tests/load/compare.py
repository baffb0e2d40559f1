"""``make bench``: the service as a share of bare ONNX Runtime, measured in turn on this machine.

The server has one core and the client another. A round measures ONNX Runtime alone, and then each load on the service
and on grpc.aio alone, which answers with as many bytes and decodes nothing; a figure is the median of the rounds'
ratios, since on a shared machine only what was taken side by side compares. What one core would give if it had nothing
to do but the calls and the graph follows from the two: 1 / (1 / bare + 1 / echo). ``--record`` writes the shares of
bare ONNX Runtime to tests/load/recorded.json; without it they are held against it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from armoire.config import BUNDLED_MODELS
from armoire.load import session
from armoire.load.plan import Closed, Open, Plan, Target
from armoire.load.result import Result
from tests.load import faces

# Written once: the export of the faces takes longer than a round. `make clean` removes it.
MODELS = Path("build/load-models")
RECORDED = Path(__file__).with_name("recorded.json")
# Callers and rows of each load.
CELLS = {
    "faces": ((64, 1), (32, 8), (16, 32), (8, 128)),
    "fashion-mnist": ((64, 1), (16, 32)),
}
HELD = 0.95  # of the recorded ratio
# 32 rows x 16 callers; the client, too, has both.
TWO_CORES = "two lanes on two cores, of one on one"


@dataclass
class Round:
    """What one round measured: images/s of the bare graphs, and shares of it: the service's, and the most possible."""

    bare: dict[str, dict[int, float]]
    ratios: dict[str, float] = field(default_factory=dict)
    possible: dict[str, float] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)
    limited: list[str] = field(default_factory=list)


def main() -> int:
    """Measure, print, and give exit status 1 where a ratio fell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each load of a round (default: 4)")
    parser.add_argument("--record", action="store_true", help="write the ratios down")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("make bench needs two cores: one for the server, one for the client", file=sys.stderr)
        return 2
    if not (MODELS / "faces").exists():
        faces.write(MODELS)
    shutil.copytree(BUNDLED_MODELS / "fashion-mnist", MODELS / "fashion-mnist", dirs_exist_ok=True)
    with Progress(console=Console(stderr=True)) as progress:
        steps = progress.add_task("", total=arguments.rounds * (4 + sum(map(len, CELLS.values()))))

        def step(text: str) -> None:
            progress.update(steps, advance=1, description=text)

        with (
            serving(MODELS, cores, on(cores[0])) as (address, rss, start_seconds),
            serving(MODELS, cores, on(*cores[:2])) as (wide, _, _),
            echoing(cores) as echo,
        ):
            rounds = [
                one_round(MODELS, address, wide, echo, cores, arguments.seconds, step)
                for _ in range(arguments.rounds)
            ]
            resident = rss()
    figures = {name: statistics.median(r.ratios[name] for r in rounds) for name in rounds[0].ratios}
    times = {name: statistics.median(r.milliseconds[name] for r in rounds) for name in rounds[0].milliseconds}
    show(rounds, figures, times, resident, start_seconds)
    if arguments.record:
        RECORDED.write_text(
            json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=2) + "\n"
        )
        return 0
    return compare(figures)


def one_round(
    models: Path, address: str, wide: str, echo: str, cores: list[int], seconds: float, step: Any
) -> Round:
    """Measure everything once."""
    files = {name: str(models / name / "1" / "decoder.onnx") for name in CELLS}
    step("ONNX Runtime alone")
    with on(cores[0]):
        run = subprocess.run(
            [sys.executable, "-m", "tests.load.bare", *files.values()], stdout=subprocess.PIPE, check=True
        )
    measured = json.loads(run.stdout)
    bare = {name: {int(k): v for k, v in measured[file].items()} for name, file in files.items()}
    found = Round(bare)
    for name, cells in CELLS.items():
        best = max(bare[name].values())
        for callers, rows in cells:
            step(f"{name}, {callers} callers x {rows} rows")
            stage, cell = Closed(callers, rows, seconds), f"{name} {rows}x{callers}"
            result = load(address, name, stage, cores)
            found.ratios[cell] = result.images_per_second / best
            if result.client_is_limit:
                found.limited.append(cell)
            nothing = load(echo, name, stage, cores).images_per_second
            found.possible[cell] = 1 / (1 + best / nothing)
    step("faces, one lone caller")
    lone = load(address, "faces", Closed(1, 1, seconds), cores).latency_ms.p50
    assert lone is not None
    nothing = load(echo, "faces", Closed(1, 1, seconds), cores).latency_ms.p50
    assert nothing is not None
    found.milliseconds["lone caller over bare ONNX Runtime, p50"] = lone - 1e3 / bare["faces"][1]
    found.milliseconds["of this, bare grpc.aio"] = nothing
    step("faces, open loop at half load")
    rate = 0.5 * max(bare["faces"].values()) * found.ratios["faces 8x32"] / 8
    late = load(address, "faces", Open(rate, 8, seconds), cores).latency_ms.p99
    assert late is not None
    found.milliseconds["open loop at half load, 8 rows, p99"] = late
    step("faces, two lanes on two cores")
    stage = Closed(16, 32, seconds)
    alone = load(address, "faces", stage, cores).images_per_second
    found.ratios[TWO_CORES] = load(wide, "faces", stage, cores, both=True).images_per_second / alone
    return found


def load(address: str, model: str, stage: Closed | Open, cores: list[int], *, both: bool = False) -> Result:
    """Send one load from the client's core, or from both."""
    with on(*(cores[:2] if both else cores[1:2])):
        (result,) = session.run(Plan((stage,), Target(address, model=model))).results
    if result.failed:
        raise SystemExit(f"{result.failed} calls failed: {result.examples}")
    return result


@contextlib.contextmanager
def on(*cores: int) -> Iterator[None]:
    """Start processes on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def serving(
    models: Path, cores: list[int], where: contextlib.AbstractContextManager[None]
) -> Iterator[tuple[str, Any, float]]:
    """Run ``armoire serve`` there; gives its address, its memory in MB when asked, and its start in s."""
    command = [
        sys.executable,
        "-m",
        "armoire.cli",
        "serve",
        "--models",
        str(models),
        "--listen",
        "127.0.0.1:0",
    ]
    began = time.monotonic()
    with where, tempfile.NamedTemporaryFile("w+") as log:
        server = subprocess.Popen([*command, "--metrics-listen", "127.0.0.1:0"], stderr=log)
        try:
            while not (ready := re.search(r"serving .* on (\S+) by", Path(log.name).read_text())):
                if server.poll() is not None:
                    raise SystemExit("the server did not start")
                time.sleep(0.01)
            seconds = time.monotonic() - began
            os.sched_setaffinity(0, cores)

            def rss() -> float:
                status = Path(f"/proc/{server.pid}/status").read_text()
                found = re.search(r"VmRSS:\s+(\d+)", status)
                assert found
                return int(found[1]) / 1024

            yield ready[1], rss, seconds
        finally:
            server.terminate()
            server.wait(30)


@contextlib.contextmanager
def echoing(cores: list[int]) -> Iterator[str]:
    """Run grpc.aio alone on the first core; gives its address."""
    with on(cores[0]):
        echo = subprocess.Popen([sys.executable, "-m", "tests.load.echo"], stdout=subprocess.PIPE, text=True)
    try:
        assert echo.stdout
        yield f"127.0.0.1:{echo.stdout.readline().strip()}"
    finally:
        echo.kill()
        echo.wait()


def show(
    rounds: list[Round], figures: dict[str, float], times: dict[str, float], resident: float, start: float
) -> None:
    """Print the table."""
    title = f"medians of {len(rounds)} rounds, one core for the server"
    table = Table("load", "share of bare", "most possible here", "share of that", title=title)
    for name, value in figures.items():
        limited = any(name in r.limited for r in rounds)
        note = " (the client was the limit)" if limited else ""
        cells = [name, f"{value:.2f}{note}"]
        if name in rounds[0].possible:
            possible = statistics.median(r.possible[name] for r in rounds)
            cells += [f"{possible:.2f}", f"{value / possible:.2f}"]
        table.add_row(*cells)
    for name, value in times.items():
        table.add_row(name, f"{value:.2f} ms")
    for name in CELLS:
        table.add_row(
            f"bare ONNX Runtime, {name}",
            f"{statistics.median(max(r.bare[name].values()) for r in rounds):,.0f}/s",
        )
    table.add_row("resident memory, both models", f"{resident:.0f} MB")
    table.add_row("start until ready, both models", f"{start:.2f} s")
    Console(width=100).print(table)


def compare(figures: dict[str, float]) -> int:
    """Hold the ratios against the recorded ones."""
    if not RECORDED.exists():
        print(f"{RECORDED} is not there: nothing to compare with (--record writes it)", file=sys.stderr)
        return 0
    recorded = json.loads(RECORDED.read_text())
    fallen = {name: value for name, value in figures.items() if value < HELD * recorded.get(name, 0.0)}
    for name, value in fallen.items():
        print(f"{name}: {value:.3f} of bare ONNX Runtime, {recorded[name]:.3f} was recorded", file=sys.stderr)
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())
