"""A server under load for long holds what it held when it was warm, answers as fast, and has counted every call.

`make test-soak` takes half an hour and the bounds of README; a short form with wide ones is for those who change it.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import bundles
from tests.soak import chart
from tests.soak.endurance import Bounds, Load, Record, faults, run
from tests.soak.mixture import Share
from tests.soak.process import ServerProcess, server_process
from tests.soak.sampler import Point
from tests.soak.scale import is_soak

FLAGS = ("--provider", "cpu", "--threads", "1")
#: Two RPCs for a few seconds: that everything is there, not how good it is.
SHORT = Load(
    stages=3,
    stage_seconds=2.0,
    of_capacity=0.5,
    capacity_seconds=0.3,
    nudge_seconds=1.0,
    shares={"Decode": Share(0.7, 8), "ListModels": Share(0.3, 1)},
)
# A server that has just begun takes its buffers, and one stage of seconds says little of a percentile.
WIDE = Bounds(mb_per_10_minutes=200.0, p99_ratio=20.0, failed=0.1)


def _record(slope: float = 0.0, **changed: Any) -> Record:
    """Ten minutes in which nothing is wrong, but for a slope of memory in bytes a second and what is ``changed``."""
    record = Record(
        load=Load(stages=10),
        rate=100.0,
        p99_ms=[50.0] + [10.0] * 9,
        failed={},
        points=[Point(float(at), 10**8 + int(slope * at), 20, 10) for at in range(600)],
        sent={"OK": 1000, "NOT_FOUND": 10, "CANCELLED": 20},
        answered={"OK": 1012, "NOT_FOUND": 10, "CANCELLED": 5},
    )
    return replace(record, **changed)


FAULTY: dict[str, tuple[Record, str]] = {
    "memory": (_record(slope=2000), "memory grows by 1.20 MB"),
    "latency": (_record(p99_ms=[50.0] + [10.0] * 8 + [12.1]), "p99 has gone from 10.0 to 12.1 ms"),
    "failures": (_record(failed={"UNKNOWN": 2}), "of 1002 good calls 2 failed"),
    "an answer that nobody got": (
        _record(answered={"OK": 1030, "NOT_FOUND": 10}),
        "30 calls more than were sent",
    ),
    "a call that was not counted": (_record(answered={"OK": 999, "NOT_FOUND": 10}), "999 by the server's"),
    "another code": (_record(answered={"OK": 1010, "NOT_FOUND": 9}), "10 calls ended as NOT_FOUND"),
}


@pytest.mark.parametrize(("record", "words"), FAULTY.values(), ids=FAULTY)
def test_each_fault_is_told(record: Record, words: str) -> None:
    """A slope, a slow end, failures and counts that do not add up are each told, and nothing beside them."""
    (fault,) = faults(record, Bounds())
    assert words in fault


def test_a_run_without_faults_has_none() -> None:
    """Memory may grow by less than the bound, and a call that was cut off may count as whatever it was."""
    assert not faults(_record(slope=1500), Bounds())


@pytest.mark.soak
def test_what_a_server_holds_stays_as_it_is(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """At 80 % of its capacity, with bad calls, calls cut off and models that come and go, it gives everything back."""
    minutes = pytestconfig.getoption("soak_minutes", 30)
    load, bounds = (
        (Load(stages=minutes), Bounds())
        if is_soak()
        # A model that comes takes its memory in one of a few seconds.
        else (SHORT, replace(WIDE, mb_per_10_minutes=10_000.0))
    )
    models = tmp_path / "models"
    bundles.copy(models, "1")

    def come_or_go(server: ServerProcess) -> None:
        """Put a second version beside the first, or take it away, and tell the server."""
        second = models / "fashion-mnist" / "2"
        if second.exists():
            shutil.rmtree(second)
        else:
            bundles.copy(models, "2")
        server.signal(signal.SIGHUP)

    load = replace(load, nudge=come_or_go)
    with server_process(*FLAGS, "--models", str(models), "--reload-seconds", "0") as server:
        record = run(server, load)
        assert sum(server.series("armoire_model_changes_total").values()) >= 2
        assert server.exit_status is None
        assert not server.complaints()
    picture = pytestconfig.getoption("soak_png", None) or tmp_path / "endurance.png"
    chart.draw(record, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    record.write(picture.with_suffix(".json"))
    assert json.loads(picture.with_suffix(".json").read_text())["sent"]["CANCELLED"]
    assert not faults(record, bounds)


@pytest.mark.soak
def test_a_leak_is_found() -> None:
    """A server that keeps a little of every call fails the same check for its memory, descriptors and threads."""
    with server_process(*FLAGS, program=(sys.executable, "-m", "tests.soak.leaking")) as server:
        found = " ".join(faults(run(server, SHORT), WIDE))
    assert "memory grows" in found
    assert "fds have gone" in found
    assert "threads have gone" in found
