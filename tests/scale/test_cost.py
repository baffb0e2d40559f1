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
MOST_MS = 20.0  # that Envoy may add to a call of one row, on a busy machine too


def processor_seconds(pid: int) -> float:
    """How much of the processor a process has had (proc(5): utime and stime are fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bench(cluster: Cluster, address: str, callers: int, rows: int, path: Path) -> dict[str, Any]:
    """Call in a closed loop for two seconds; gives the stage."""
    flags = f"--callers {callers} --rows {rows} --seconds 2 --warm-up 0.5 --json {path}"
    cluster.client.run(*ARMOIRE, "bench", "--address", address, *flags.split())
    (stage,) = json.loads(path.read_text())["stages"]
    assert stage["failed"] == 0, stage["errors"]
    found: dict[str, Any] = stage
    return found


def test_what_a_hop_adds(hosts: Hosts, tmp_path: Path, figures: Figures, pytestconfig: pytest.Config) -> None:
    """One caller with one row a call, straight to a replica and over Envoy in turn: the medians differ by little."""
    rounds = pytestconfig.getoption("scale_rounds")
    with balanced(hosts, tmp_path, count=1) as cluster:
        ways = {"straight": f"{cluster.replicas[0].address}:{PORT}", "through": cluster.envoy.address}
        p50: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, address in ways.items():
                p50[way].append(bench(cluster, address, 1, 1, tmp_path / "bench.json")["latency_ms"]["p50"])
    medians = {f"p50_ms_{way}": round(statistics.median(found), 2) for way, found in p50.items()}
    figures.append({"event": "a hop, one caller, one row", "rounds": rounds, **medians})
    assert medians["p50_ms_through"] - medians["p50_ms_straight"] < MOST_MS


@pytest.mark.parametrize("rows", [1, 256])
def test_what_envoy_spends(
    hosts: Hosts, rows: int, tmp_path: Path, figures: Figures, pytestconfig: pytest.Config
) -> None:
    """Envoy's processor time for a call is less than the replica's, which decodes on top of what both do."""
    rounds = pytestconfig.getoption("scale_rounds")
    with balanced(hosts, tmp_path, count=1) as cluster:
        pids = {"envoy": cluster.envoy.process.pid, "replica": cluster.replicas[0].process.pid}
        before = {who: processor_seconds(pid) for who, pid in pids.items()}
        calls = 0
        for _ in range(rounds):
            stage = bench(cluster, cluster.envoy.address, 16, rows, tmp_path / "bench.json")
            calls += stage["calls"] + stage["warm_up_calls"]
        spent = {who: (processor_seconds(pid) - before[who]) * 1e3 / calls for who, pid in pids.items()}
    named = {f"{who}_processor_ms": round(value, 2) for who, value in spent.items()}
    figures.append({"event": f"processor time of a call of {rows} rows", "calls": calls, **named})
    assert spent["envoy"] < spent["replica"]


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
