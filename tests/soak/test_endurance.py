"""A server under load for long holds what it held when it was warm, answers as fast, and has counted every call.

Seconds in `make test`, where the bounds are wide; `make test-soak` takes half an hour and the bounds of README.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.soak import chart
from tests.soak.endurance import Bounds, Load, faults, run
from tests.soak.mixture import Share
from tests.soak.process import server_process
from tests.soak.scale import is_soak

FLAGS = ("--provider", "cpu")
#: Two RPCs for a few seconds: that everything is there, not how good it is.
SHORT = Load(
    stages=3,
    stage_seconds=2.0,
    of_capacity=0.5,
    capacity_seconds=0.3,
    shares={"Decode": Share(0.7, 8), "ListModels": Share(0.3, 1)},
)
# A server that has just begun takes its buffers, and one stage of seconds says little of a percentile.
WIDE = Bounds(mb_per_10_minutes=200.0, p99_ratio=20.0)


def test_what_a_server_holds_stays_as_it_is(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Under all RPCs at 80 % of its capacity, with bad calls and calls cut off, a server gives everything back."""
    minutes = pytestconfig.getoption("soak_minutes", 30)
    load, bounds = (Load(stages=minutes), Bounds()) if is_soak() else (SHORT, WIDE)
    with server_process(*FLAGS) as server:
        record = run(server, load)
        assert server.exit_status is None
        assert not server.complaints()
    picture = pytestconfig.getoption("soak_png", None) or tmp_path / "endurance.png"
    chart.draw(record, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    record.write(picture.with_suffix(".json"))
    assert json.loads(picture.with_suffix(".json").read_text())["sent"]["CANCELLED"]
    assert not faults(record, bounds)


def test_a_leak_is_found() -> None:
    """A server that keeps a little of every call fails the same check for its memory, descriptors and threads."""
    with server_process(*FLAGS, program=(sys.executable, "-m", "tests.soak.leaking")) as server:
        found = " ".join(faults(run(server, SHORT), WIDE))
    assert "memory grows" in found
    assert "fds have gone" in found
    assert "threads have gone" in found
