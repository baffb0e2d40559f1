"""armoire bench, as a person types it: the table, the files, the exit status."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from armoire.cli import main
from armoire.load import saturation
from armoire.load.plan import Closed, Open, Saturation
from armoire.load.result import Result
from armoire.load.tally import Durations, Tally
from tests.serving import Running
from tests.stranger import images, stranger

STAGE = {
    *("loop", "stage", "seconds", "warm_up_calls", "calls", "answered", "failed", "unanswered", "errors"),
    *("examples", "calls_per_second", "images_per_second", "sent_mb_per_second", "received_mb_per_second"),
    *("latency_ms", "failed_ms", "queue_ms", "run_ms", "lag_ms", "client_cpu", "searching", "warnings"),
}
REPORT = {
    *(
        "schema",
        "armoire",
        "started",
        "address",
        "rpc",
        "model",
        "warm_up_seconds",
        "processes",
        "connections",
    ),
    *("interrupted", "saturations", "stages"),
}


@pytest.fixture
def type_in(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Type armoire bench in an empty folder; gives the exit status."""
    monkeypatch.chdir(tmp_path)

    def run(line: str, address: str = server.address) -> int:
        return main(["bench", "--address", address, "--warm-up", "0", *shlex.split(line)])

    return run


def rows_of(table: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines() if re.search(r" \d", line)][1:]


def test_a_sweep_is_a_row_each_and_a_whole_file(type_in, capsys: pytest.CaptureFixture[str]) -> None:
    """Each number of rows and callers has its line, whole also where no terminal is, and its stage in the JSON."""
    assert type_in("--callers 1,3 --rows 2,4 --seconds 0.3 --json sweep.json") == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "Decode on fashion-mnist 1" in shown
    lines = rows_of(shown)
    assert [line[0].removeprefix("! ") for line in lines] == [
        f"{callers} x {rows} rows" for rows in (2, 4) for callers in ("1 caller", "3 callers")
    ]
    report = json.loads(Path("sweep.json").read_text())
    assert report.keys() == REPORT
    assert report["schema"] == 1
    assert not report["interrupted"]
    for line, stage in zip(lines, report["stages"], strict=True):
        assert stage.keys() == STAGE
        assert stage["loop"] == "closed"
        assert line[1:3] == [f"{stage['calls_per_second']:,.0f}", f"{stage['images_per_second']:,.0f}"]
        assert stage["latency_ms"].keys() == {"mean", "p50", "p90", "p99", "p999", "max"}
        assert stage["calls"] == stage["answered"] > 0
        assert line[-1] == "0"
    assert [(s["stage"]["callers"], s["stage"]["rows"]) for s in report["stages"]] == [
        (1, 2),
        (3, 2),
        (1, 4),
        (3, 4),
    ]


def test_open_loops_and_a_search_share_a_picture(type_in, capsys: pytest.CaptureFixture[str]) -> None:
    """Rates and a search draw throughput against latency: two inks for the kinds of loop, on white, in a PNG."""
    assert type_in("--rate 20,40 --arrivals fixed --rows 1 --seconds 0.3 --plot rates.png") == 0
    assert [line[0].removeprefix("! ") for line in rows_of(capsys.readouterr().out)] == [
        "20/s x 1 row",
        "40/s x 1 row",
    ]
    status = type_in("--saturate 500 --rows 1 --seconds 0.2 --plot search.png --json search.json")
    shown = capsys.readouterr()
    (rate,) = json.loads(Path("search.json").read_text())["saturations"]
    if rate is None:
        assert status == 1
        assert "no rate that was tried keeps a p99 of 500 ms" in shown.err
    else:
        assert status == 0
        assert f"highest rate that keeps a p99 of 500 ms: {rate:,.0f} calls/s" in shown.out
    for file, inks in (("rates.png", 1), ("search.png", 2)):
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert picture.format == "PNG"
        assert (pixels[0, 0] == 255).all()
        colours = {(31, 119, 180), (255, 127, 14)}  # the first two of tab10
        assert sum((pixels == colour).all(-1).any() for colour in colours) == inks
    assert not list(Path().glob(".*"))


def test_list_models_has_no_images(type_in, capsys: pytest.CaptureFixture[str]) -> None:
    """A load of ListModels counts calls only, in the table and in the picture."""
    assert type_in("--rpc ListModels --callers 2 --calls 20 --plot calls.png") == 0
    ((load, _calls, per_second, *_),) = rows_of(capsys.readouterr().out)
    assert load.removeprefix("! ") == "2 callers"
    assert per_second == "0"
    assert Path("calls.png").stat().st_size > 10_000


def test_failed_calls_are_the_exit_status(type_in, capsys: pytest.CaptureFixture[str]) -> None:
    """With failed calls the status is 1 and a line says how many and why, unless that is allowed."""

    def decode(number: int, context: grpc.ServicerContext):
        if number == 3:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        return images(8)

    with stranger(decode) as other:
        assert type_in("--callers 1 --calls 10 --plot all.png", other.address) == 1
        shown = capsys.readouterr()
        assert (
            shown.err.splitlines()[-1]
            == "armoire bench: 1 calls failed: 1 RESOURCE_EXHAUSTED (the queue is full)"
        )
        ((*_, failed),) = rows_of(shown.out)
        assert failed == "1 RESOURCE_EXHAUSTED"
    with stranger(decode) as other:
        assert type_in("--callers 1 --calls 10 --allow-failures", other.address) == 0

    def broken(number: int, context: grpc.ServicerContext):
        return images(8) if number == 0 else context.abort(grpc.StatusCode.INTERNAL, "broken")

    with stranger(broken) as other:
        assert type_in("--callers 1 --calls 10 --plot none.png", other.address) == 1
        assert "10 INTERNAL" in capsys.readouterr().out
        assert Path("none.png").exists()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--json nowhere/x.json", "there is no folder nowhere"),
        ("--plot nowhere/x.png", "there is no folder nowhere"),
        ("--rpc Interpolate --rows 1", "rows: 1 came"),
        ("--rows 2000", "max_rows = 1024"),
        ("--processes 65", "processes: 65 came"),
        ("--seconds 4000", "seconds: 4000 came"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_sent(
    type_in, line: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be ends with status 1 and one line."""
    assert type_in(line) == 1
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


@pytest.mark.parametrize(
    "line",
    [
        "--callers 1,x",
        "--rows 0",
        "--rate 0",
        "--saturate -1",
        "--rate 5 --callers 5",
        "--warm-up -1",
        "--rpc Dream",
    ],
)
def test_a_flag_that_cannot_be_is_shown_its_usage(
    type_in, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a flag is argparse's usage error, status 2."""
    with pytest.raises(SystemExit) as left:
        type_in(line)
    assert left.value.code == 2
    assert "usage: armoire bench" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "flags", "status"),
    [
        ("hdrh", "", 2),
        ("rich", "", 2),
        ("matplotlib", "--plot x.png", 2),
        ("matplotlib", "", 1),
    ],
)
def test_without_its_packages_bench_names_the_extra(missing: str, flags: str, status: int) -> None:
    """A caller's installation is told what to install, and needs matplotlib for a plot only."""
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from armoire.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "bench",
        "--address",
        "127.0.0.1:1",
        "--timeout",
        "3",
        *flags.split(),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == status
    assert ("install armoire[bench]" in ran.stderr) == (status == 2)
    assert "Traceback" not in ran.stderr


def test_ctrl_c_shows_what_was_measured(server: Running, tmp_path: Path) -> None:
    """Ctrl-C in a test of minutes prints table and JSON of what there is, at once, and exits with 130."""
    command = [sys.executable, "-m", "armoire.cli", "bench", "--address", server.address, "--callers", "2,4"]
    command += [
        "--seconds",
        "600",
        "--warm-up",
        "0",
        "--processes",
        "2",
        "--json",
        str(tmp_path / "part.json"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as bench:
        labels = {"method": "Decode", "code": "OK"}
        registry = server.server._metrics.registry
        start = registry.get_sample_value("armoire_requests_total", labels) or 0
        while (registry.get_sample_value("armoire_requests_total", labels) or 0) < start + 20:
            os.sched_yield()
        # As a terminal does: to every process of the group.
        os.killpg(bench.pid, signal.SIGINT)
        out, err = bench.communicate(timeout=20)
    assert bench.returncode == 130
    assert "Traceback" not in err
    ((load, calls, *_),) = rows_of(out)
    assert load.removeprefix("! ") == "2 callers x 8 rows"
    assert int(calls) > 0
    report = json.loads((tmp_path / "part.json").read_text())
    (stage,) = report["stages"]
    assert report["interrupted"]
    assert stage["answered"] >= 19
    assert stage["seconds"] < 60
    assert stage["failed"] == 0


@pytest.mark.parametrize("capacity", [3.0, 90.0, 5_000.0])
def test_the_search_finds_the_capacity_of_a_server(capacity: float) -> None:
    """For a queue with one server the search ends just under the rate whose p99 is the bound, and needs few stages."""
    bound_ms = 1e3 * 20 / capacity

    def run(stage: Closed | Open) -> Result:
        tally = Tally()
        tally.seconds = stage.seconds
        rate = capacity if isinstance(stage, Closed) else stage.rate
        tally.completed = min(rate, capacity) * stage.seconds
        tally.calls = rate * stage.seconds
        # p99 of the time in an M/M/1 queue, log(100) / (service rate - arrival rate).
        wait = 4.6 / max(capacity - rate, capacity / 1000)
        tally.latency.record(wait)
        stages.append(stage)
        return Result.of(stage, tally, 1, searching=True)

    stages: list[Closed | Open] = []
    found = saturation.search(Saturation(bound_ms), run)
    best = capacity * (1 - 4.6 / 20)
    assert best / 1.06 <= found <= best * 1.01
    assert len(stages) <= 11


def test_the_search_counts_answers_not_only_their_latency() -> None:
    """A server that answers a part of the calls at once, and the others never, bears no more than that part."""

    def run(stage: Closed | Open) -> Result:
        tally = Tally()
        rate = 200.0 if isinstance(stage, Closed) else stage.rate
        tally.seconds, tally.calls, tally.completed = 1.0, rate, min(rate, 100.0)
        tally.latency.record(0.001)
        return Result.of(stage, tally, 1, searching=True)

    assert saturation.search(Saturation(50.0), run) == pytest.approx(100, rel=0.06)


def test_the_search_gives_up_on_a_server_that_is_too_slow() -> None:
    """None is the answer where no rate keeps the bound, after a few stages, or at once where nothing is answered."""

    def run(completed: int, stage: Closed | Open) -> Result:
        stages.append(stage)
        tally = Tally()
        tally.seconds, tally.completed, tally.calls = 1.0, completed, completed
        tally.latency.record(1.0)
        return Result.of(stage, tally, 1, searching=True)

    for completed, count in ((100, 11), (0, 1)):
        stages: list[Closed | Open] = []
        assert saturation.search(Saturation(5.0), partial(run, completed)) is None
        assert len(stages) == count


def test_the_client_says_when_it_is_the_limit() -> None:
    """A process that uses a whole core, and calls sent late, are each told with what to do."""
    cases = (
        (Closed(8), {"cpu": 0.95}, 0.0, "used 95% of a core; give it more --processes"),
        (Open(100), {}, 0.3, "late or later; give it more --processes"),
        (Open(100), {"cpu": 0.5}, 0.0025, None),
    )
    for stage, values, lag, text in cases:
        tally = Tally()
        vars(tally).update({"seconds": 1.0, "calls": 100, "answered": 100} | values)
        for _ in range(100):
            tally.latency.record(0.010)
            tally.lag.record(lag)
        result = Result.of(stage, tally, 8, searching=False)
        if text is None:
            assert not result.warnings
        else:
            assert text in " ".join(result.warnings)


def test_warnings_are_loud(type_in, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the client is the limit the row is marked, and a box on stderr says why."""

    def refuse(number: int, context: grpc.ServicerContext):
        return images(1) if number == 0 else context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")

    with stranger(refuse) as other:
        # All of them are due within half a millisecond.
        assert type_in("--rate 1000000 --rows 1 --calls 500 --allow-failures", other.address) == 0
    shown = capsys.readouterr()
    assert rows_of(shown.out)[0][0] == "! 1,000,000/s x 1 row"
    assert "these figures tell of the client" in shown.err
    assert "give it more --processes" in " ".join(shown.err.replace("│", " ").split())


def test_durations_keep_three_digits() -> None:
    """Quantiles are within a thousandth of what was recorded, from microseconds to an hour, also after a merge."""
    seconds = np.exp(np.random.default_rng(0).uniform(np.log(2e-6), np.log(3000), 20_000))
    parts = [Durations(), Durations()]
    for index, value in enumerate(seconds):
        parts[index % 2].record(value)
    whole = Durations(parts[0].encode())
    whole.add(Durations(parts[1].encode()))
    assert len(whole) == 20_000
    for percent in (1, 50, 90, 99, 99.9):
        exact = 1e3 * np.quantile(seconds, percent / 100, method="inverted_cdf")
        assert whole.quantile(percent) == pytest.approx(exact, rel=1.5e-3, abs=2e-3)
    assert whole.quantile(100) == pytest.approx(1e3 * seconds.max(), rel=1.5e-3)
    assert whole.mean() == pytest.approx(1e3 * seconds.mean(), rel=3e-3)
    assert Durations().quantile(50) is None
    assert Durations().mean() is None
    clamped = Durations()
    clamped.record(-1.0)
    clamped.record(1e9)
    assert (clamped.quantile(1), clamped.quantile(100)) == (0, pytest.approx(3_600_000, rel=1e-3))
