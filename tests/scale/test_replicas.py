"""Hosts that are cut off, killed, hung or slow, and replicas that come and go: behind Envoy no call fails.

The callers try nothing again and know of one address only, so what saves a call is Envoy.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scale.cluster import Cluster, Hosts, Replica, balanced
from tests.scale.load import Load, calling
from tests.scale.proxy import PORT
from tests.soak.process import until

pytestmark = [pytest.mark.scale, pytest.mark.timeout(3600)]
Figures = list[dict[str, Any]]
RATE = 45.0  # calls a second, 8 rows each: a third of what one core gives
EVEN = 0.02  # the widest gap between two replicas' rows, of their mean
MOST_SECONDS = 10.0  # to recover
# A host that sends no faster, for 15 calls a second of 8 KiB answers each: not enough for its share.
KILOBITS, LOSS = 512, 0.2
DELAY = 0.2  # seconds, on the way to it
HUNG_SECONDS = 5.0  # until somebody like a liveness probe ends it


def answered(stage: dict[str, Any]) -> int:
    """See that every call has a good answer, and give how many there are."""
    assert stage["errors"] == {}, (stage["errors"], stage["examples"])
    assert stage["failed"] == stage["unanswered"] == 0
    calls: int = stage["calls"]
    return calls


def test_replicas_get_even_shares(
    hosts: Hosts, tmp_path: Path, figures: Figures, pytestconfig: pytest.Config
) -> None:
    """DNS gives one, two and then three replicas: they run equal shares of the rows, within 2 %, others none."""
    seconds, path = pytestconfig.getoption("scale_seconds"), tmp_path / "bench.json"
    flags = f"--callers 24 --rows 8 --seconds {seconds} --warm-up 0 --json {path}"
    with balanced(hosts, tmp_path, count=1) as cluster:
        for count in range(1, len(cluster.replicas) + 1):
            cluster.announce(count)
            before = [replica.rows() for replica in cluster.replicas]
            cluster.armoire("bench", *flags.split())
            shares = [replica.rows() - old for replica, old in zip(cluster.replicas, before, strict=True)]
            (stage,) = json.loads(path.read_text())["stages"]
            rows = shares[:count]
            figures.append(
                {
                    "event": f"{count} replicas",
                    "calls": answered(stage),
                    "failed": stage["failed"],
                    "images_per_second": round(stage["images_per_second"]),
                    "shares": [round(row / sum(rows), 4) for row in rows],
                    "connections": [replica.host.connections(PORT) for replica in cluster.replicas[:count]],
                }
            )
            assert not any(shares[count:]), shares
            assert (max(rows) - min(rows)) / (sum(rows) / count) < EVEN, shares


@contextlib.contextmanager
def cut_off(replica: Replica) -> Iterator[None]:
    with replica.host.cut_off():
        yield


@contextlib.contextmanager
def killed(replica: Replica) -> Iterator[None]:
    replica.process.kill()
    yield
    replica.start()


@contextlib.contextmanager
def hung(replica: Replica) -> Iterator[None]:
    """It stands still, as in a deadlock, and is killed after a while."""
    replica.process.signal(signal.SIGSTOP)
    until(lambda: False, HUNG_SECONDS)
    replica.process.kill()
    yield
    replica.start()


@contextlib.contextmanager
def slow(replica: Replica) -> Iterator[None]:
    with replica.host.rate(KILOBITS):
        yield


@contextlib.contextmanager
def lossy(replica: Replica) -> Iterator[None]:
    with replica.host.loss(LOSS):
        yield


@pytest.mark.parametrize("fault", [cut_off, killed, hung], ids=lambda fault: fault.__name__)
def test_a_host_that_goes_costs_no_call(
    cluster: Cluster, fault: Callable[[Replica], Any], figures: Figures
) -> None:
    """All calls are answered, those on it late; the others take over, and once back it gets its share again."""
    lost, *others = cluster.replicas
    with calling(cluster.client, cluster.envoy.address, RATE) as load:
        cluster.await_shares(cluster.replicas)
        event = time.monotonic()
        with fault(lost):
            seconds = load.recovered_after(event)
            cluster.envoy.await_healthy({replica.address for replica in others})
            cluster.await_shares(others)
        back = time.monotonic()
        cluster.envoy.await_healthy({replica.address for replica in cluster.replicas})
        cluster.await_shares([lost])
        back = time.monotonic() - back
        record(figures, fault.__name__, load, seconds, back)
    assert seconds < MOST_SECONDS + (HUNG_SECONDS if fault is hung else 0.0)


@contextlib.contextmanager
def far(replica: Replica) -> Iterator[None]:
    pytest.importorskip("netfilterqueue", reason="pip install --group delay has failed")
    with replica.host.delay(DELAY):
        yield


@pytest.mark.parametrize("fault", [slow, lossy, far], ids=lambda fault: fault.__name__)
def test_a_slow_host_fails_no_call(
    cluster: Cluster, fault: Callable[[Replica], Any], figures: Figures
) -> None:
    """A host on a thin, lossy or long line makes its own calls slow; none fails, and afterwards all is as before."""
    with calling(cluster.client, cluster.envoy.address, RATE) as load:
        cluster.await_shares(cluster.replicas)
        with fault(cluster.replicas[0]):
            load.await_calls(round(RATE * 8))
        over = time.monotonic()
        seconds = load.recovered_after(over)
        cluster.envoy.await_healthy({replica.address for replica in cluster.replicas})
        cluster.await_shares(cluster.replicas)
        record(figures, fault.__name__, load, seconds, time.monotonic() - over)
    assert seconds < MOST_SECONDS


def record(figures: Figures, event: str, load: Load, recovered: float, back: float) -> None:
    """End the load, see that nothing failed, and note the figures."""
    stage = load.stop()
    figures.append(
        {
            "event": event,
            "calls": answered(stage),
            "failed": stage["failed"],
            "seconds_to_recover": round(recovered, 1),
            "seconds_until_back": round(back, 1),
            "p50_ms": round(stage["latency_ms"]["p50"], 1),
            "longest_call_ms": round(stage["latency_ms"]["max"]),
        }
    )


def test_rolling_restarts_fail_no_call(
    cluster: Cluster, figures: Figures, pytestconfig: pytest.Config
) -> None:
    """SIGTERM, then a start in its place, one replica after the other: every call is answered."""
    rounds, everybody = pytestconfig.getoption("scale_rounds"), {r.address for r in cluster.replicas}
    began = time.monotonic()
    with calling(cluster.client, cluster.envoy.address, RATE) as load:
        for _ in range(rounds):
            for replica in cluster.replicas:
                assert replica.process.stop() == 0
                replica.start()
                cluster.envoy.await_healthy(everybody)
                cluster.await_shares([replica])
        stage = load.stop()
    figures.append(
        {
            "event": f"{rounds} rolling restarts of three",
            "calls": answered(stage),
            "failed": stage["failed"],
            "retries": cluster.envoy.stat("cluster.armoire.upstream_rq_retry"),
            "longest_call_ms": round(stage["latency_ms"]["max"]),
            "seconds": round(time.monotonic() - began),
        }
    )


@pytest.mark.parametrize("fault", [cut_off, killed], ids=lambda fault: fault.__name__)
def test_our_client_needs_no_envoy_for_that(
    hosts: Hosts, fault: Callable[[Replica], Any], figures: Figures
) -> None:
    """armoire.client's own round robin over the same replicas loses no call, either, when a host goes."""
    addresses = ",".join(f"{replica.address}:{PORT}" for replica in hosts.replicas)
    program = (sys.executable, "-m", "tests.scale.balancing", f"ipv4:{addresses}", str(RATE), "15")
    lost = hosts.replicas[0]
    with subprocess.Popen(
        hosts.network["client"].program(*program), stdout=subprocess.PIPE, text=True
    ) as client:
        try:
            assert client.stdout
            assert client.stdout.readline() == "calling\n"
            rows = lost.rows()
            assert until(lambda: lost.rows() > rows, 30)
            with fault(lost):
                told = json.loads(client.stdout.read())
        finally:
            client.kill()
    figures.append({"event": f"{fault.__name__}, without Envoy", **told})
    assert set(told["codes"]) == {"OK"}, told
