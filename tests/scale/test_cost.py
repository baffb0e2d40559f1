"""What a hop over Envoy costs, and what a replica and Envoy cost those who scrape and connect to them."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.scale.cluster import Cluster, Hosts, balanced
from tests.scale.proxy import PORT
from tests.soak.process import ARMOIRE

pytestmark = [pytest.mark.scale, pytest.mark.timeout(3600)]
Figures = list[dict[str, Any]]
ROUNDS = 3
MOST_MS = 20.0  # that Envoy may add to a call of one row, on a busy machine too


def processor_seconds(pid: int) -> float:
    """How much of the processor a process has had (proc(5): utime and stime are fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bench(cluster: Cluster, address: str, rows: int, seconds: float, path: Path) -> dict[str, Any]:
    """One caller, who calls again as soon as it is answered; gives its stage."""
    flags = f"--callers 1 --rows {rows} --seconds {seconds} --warm-up 0.5 --json {path}"
    cluster.client.run(*ARMOIRE, "bench", "--address", address, *flags.split())
    (stage,) = json.loads(path.read_text())["stages"]
    assert stage["failed"] == 0, stage["errors"]
    found: dict[str, Any] = stage
    return found


@pytest.mark.parametrize("rows", [1, 64])
def test_what_a_hop_costs(
    hosts: Hosts, rows: int, tmp_path: Path, figures: Figures, pytestconfig: pytest.Config
) -> None:
    """One caller straight to a replica and over Envoy, in turn: what is added to a call, and Envoy's processor time."""
    seconds = pytestconfig.getoption("scale_seconds")
    with balanced(hosts, tmp_path, count=1) as cluster:
        straight, through, spent, calls = [], [], 0.0, 0
        for _ in range(ROUNDS):
            address = f"{cluster.replicas[0].address}:{PORT}"
            straight.append(bench(cluster, address, rows, seconds, tmp_path / "straight.json"))
            before = processor_seconds(cluster.envoy.process.pid)
            stage = bench(cluster, cluster.envoy.address, rows, seconds, tmp_path / "through.json")
            spent += processor_seconds(cluster.envoy.process.pid) - before
            calls += stage["calls"] + stage["warm_up_calls"]
            through.append(stage)
    p50 = [
        statistics.median(stage["latency_ms"]["p50"] for stage in stages) for stages in (straight, through)
    ]
    figures.append(
        {
            "event": f"a hop, {rows} rows",
            "calls": calls,
            "p50_ms_straight": round(p50[0], 2),
            "p50_ms_through": round(p50[1], 2),
            "envoy_processor_ms_per_call": round(spent * 1e3 / calls, 3),
        }
    )
    assert p50[1] - p50[0] < MOST_MS


def test_what_is_scraped_and_connected(cluster: Cluster, figures: Figures) -> None:
    """A scrape of a replica and of Envoy: bytes and series; Envoy's connections to each replica with idle callers."""
    cluster.armoire("sample", "--count", "8", "--out", "/dev/null")
    replica = cluster.replicas[0]
    for who, text in (("replica", replica.metrics()), ("Envoy", cluster.envoy.metrics())):
        series = [line for line in text.splitlines() if line and not line.startswith("#")]
        figures.append({"event": f"a scrape of a {who}", "bytes": len(text.encode()), "series": len(series)})
        assert len(series) < 2000, who
    open_now = [replica.host.connections(PORT) for replica in cluster.replicas]
    figures.append({"event": "connections to each replica, one worker", "open": open_now})
    assert max(open_now) <= 2  # one for calls, one for health
