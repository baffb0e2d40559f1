"""Envoy as it is shipped, under traffic: what it passes on, what it answers itself, what it shows."""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from armoire.wire.channel import SERVICE
from tests.scale.cluster import Cluster, Hosts, balanced
from tests.scale.proxy import CONFIGURATION, METRICS

pytestmark = [pytest.mark.scale, pytest.mark.timeout(600)]


def test_strange_calls_are_answered_and_eject_nobody(cluster: Cluster) -> None:
    """Statuses come through as the server gave them, large messages and ids too; mistakes take no replica out."""
    program = (sys.executable, "-m", "tests.scale.strange_calls", cluster.envoy.address)
    told = json.loads(cluster.client.run(*program))
    identifier = told.pop("given id")
    assert told == {
        "check": "OK",
        # Else it would be the health of one replica, which a client would take for Envoy's.
        "watch": "UNIMPLEMENTED",
        "services": sorted((SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")),
        "unknown service": ["UNIMPLEMENTED"],
        "unknown method": ["UNIMPLEMENTED"],
        "bad request": ["INVALID_ARGUMENT"],
        "too short a deadline": ["DEADLINE_EXCEEDED"],
        "1024 images": "OK",
        "1024 points": "OK",
        "15 MiB": "INVALID_ARGUMENT",
        "17 MiB": "RESOURCE_EXHAUSTED",
        "own id": "of-the-caller",
    }
    assert re.fullmatch(r"[0-9a-f-]{36}", identifier)
    outliers = "cluster.armoire.outlier_detection"
    assert cluster.envoy.stat(f"{outliers}.ejections_enforced_total") == 0
    # By Envoy's defaults they would have.
    assert cluster.envoy.stat(f"{outliers}.ejections_detected_consecutive_5xx") > 0
    assert cluster.envoy.healthy() == {replica.address for replica in cluster.replicas}


def test_our_client_works_through_it(cluster: Cluster) -> None:
    """The client, which balances by health where it is told, and the verbs work, with one replica less, too."""
    lost = cluster.replicas[0]
    assert lost.process.stop() == 0
    try:
        for _ in range(3):
            assert "SERVING" in cluster.armoire("health")
            assert "fashion-mnist" in cluster.armoire("models")
    finally:
        lost.start()


def test_a_connection_that_has_its_age_costs_no_call(hosts: Hosts, tmp_path: Path) -> None:
    """With ages of a second in place of minutes Envoy asks its callers to connect anew under load: no call fails."""
    text, shorter = CONFIGURATION.read_text(), tmp_path / "envoy.yaml"
    for name in ("max_connection_duration", "drain_timeout"):
        text, count = re.subn(rf"\b{name}: \d+s", f"{name}: 1s", text)
        assert count == 1, name
    shorter.write_text(text)
    with balanced(hosts, tmp_path, configuration=shorter) as cluster:
        path = tmp_path / "bench.json"
        cluster.armoire("bench", *f"--rate 45 --rows 8 --seconds 12 --warm-up 0 --json {path}".split())
        (stage,) = json.loads(path.read_text())["stages"]
        assert stage["failed"] == 0, stage["errors"]
        assert cluster.envoy.stat("http.grpc.downstream_cx_max_duration_reached") >= 3


def test_without_a_replica_calls_fail_at_once(cluster: Cluster) -> None:
    """Where nobody is healthy Envoy says UNAVAILABLE without waiting, and goes on as soon as somebody is."""
    for replica in cluster.replicas:
        replica.process.kill()
    try:
        cluster.envoy.await_healthy(set())
        program = (sys.executable, "-m", "tests.scale.strange_calls", cluster.envoy.address)
        began = time.monotonic()
        with pytest.raises(AssertionError, match="UNAVAILABLE"):
            cluster.client.run(*program)
        assert time.monotonic() - began < 10
    finally:
        for replica in cluster.replicas:
            replica.start()
    cluster.envoy.await_healthy({replica.address for replica in cluster.replicas})
    assert "SERVING" in cluster.armoire("health")


def test_others_see_the_figures_of_admin_only(cluster: Cluster) -> None:
    """Prometheus gets its text from another host; admin itself is on loopback, and its port passes nothing else on."""
    at = METRICS.replace("127.0.0.1", cluster.envoy.host.address)
    with cluster.client.inside():
        with urllib.request.urlopen(at, timeout=10) as reply:
            text = reply.read().decode()
        for path in ("/quitquitquit", "/stats", "/config_dump", "/metrics/../quitquitquit"):
            for method in ("GET", "POST"):
                request = urllib.request.Request(at.replace("/metrics", path), method=method)
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(request, timeout=10)
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://{cluster.envoy.host.address}:9901/stats", timeout=10)
    assert "envoy_cluster_membership_healthy" in text
