"""`docker compose up` from nothing, seen from outside its containers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest

from tests.containers.engine import ROOT, Stack, docker, fetch, inspect, until

pytestmark = pytest.mark.containers
PLAIN = ("armoire", "prometheus", "grafana")
ARMOIRE = (sys.executable, "-m", "armoire.cli")


@pytest.fixture(scope="module", autouse=True)
def up(stack: Stack) -> None:
    """The stack as `docker compose up` makes it; the service alone first, for the time that it takes."""
    began = time.monotonic()
    stack.compose("up", "--detach", "--wait", "armoire")
    print(f"\nfrom `compose up` to a healthy service: {time.monotonic() - began:.1f} s")
    stack.compose("up", "--detach", "--build", "--wait", *PLAIN)


def armoire(stack: Stack, *arguments: str, cwd: Path) -> str:
    """Run one verb of the command line on this host against the service."""
    command = [*ARMOIRE, *arguments, "--address", stack.address("GRPC_PORT")]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=True).stdout


def query(stack: Stack, expression: str) -> list[dict[str, object]]:
    """Ask Prometheus."""
    url = f"http://{stack.address('PROMETHEUS_PORT')}/api/v1/query?"
    answer = json.loads(fetch(url + urllib.parse.urlencode({"query": expression})))
    result: list[dict[str, object]] = answer["data"]["result"]
    return result


def test_it_answers_from_outside(stack: Stack, tmp_path: Path) -> None:
    """`armoire sample` on this host gets its pictures from the container."""
    armoire(stack, "sample", "--count", "64", "--seed", "7", "--out", "wall.png", cwd=tmp_path)
    assert (tmp_path / "wall.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("service", PLAIN)
def test_no_container_has_rights(stack: Stack, service: str) -> None:
    """Nobody is root, writes to its root file system, has or gains a capability, or takes all memory."""
    (container,) = map(inspect, stack.containers(service))
    host = container["HostConfig"]
    assert int(container["Config"]["User"].split(":")[0]) > 0
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] > 0
    assert 0 < host["PidsLimit"] <= 1024
    assert container["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize("service", PLAIN)
def test_every_port_is_on_loopback(stack: Stack, service: str) -> None:
    """What is published is published on 127.0.0.1 alone."""
    (container,) = map(inspect, stack.containers(service))
    places = [place for places in container["NetworkSettings"]["Ports"].values() for place in places or ()]
    assert places
    assert {place["HostIp"] for place in places} == {"127.0.0.1"}


def test_prometheus_scrapes(stack: Stack, tmp_path: Path) -> None:
    """Prometheus finds the service by itself, has its rules loaded, and counts the calls that are made."""
    armoire(stack, "sample", "--count", "1", "--out", "one.png", cwd=tmp_path)
    until(lambda: bool(query(stack, 'up{job="armoire"} == 1')), 60, "up is 1")
    counted = 'armoire_requests_total{method="Sample",code="OK"} > 0'
    print(f"scraped after {until(lambda: bool(query(stack, counted)), 60, 'calls are counted'):.0f} s")
    rules = json.loads(fetch(f"http://{stack.address('PROMETHEUS_PORT')}/api/v1/rules"))["data"]["groups"]
    assert [rule for group in rules for rule in group["rules"] if rule["type"] == "alerting"]
    assert all(rule["health"] != "err" for group in rules for rule in group["rules"])


def test_the_load_test_runs_beside_it(stack: Stack) -> None:
    """`docker compose run --rm load` loads the decode path over the network of the containers; no call fails."""
    printed = stack.compose("run", "--rm", "load", LOAD="--rpc Decode --rows 8 --callers 8 --seconds 2")
    assert "Decode" in printed
    print(printed)


def test_bundles_of_ones_own_are_served(stack: Stack, tmp_path: Path) -> None:
    """A folder of this host, named by MODELS, is what the service serves."""
    shutil.copytree(ROOT / "service/armoire/models/fashion-mnist-2d", tmp_path / "models/fashion-mnist-2d")
    tmp_path.chmod(0o755)
    own = {"MODELS": str(tmp_path / "models"), "ARMOIRE_MODELS": "/models"}
    stack.compose("up", "--detach", "--wait", "armoire", **own)
    try:
        told = armoire(stack, "models", cwd=tmp_path)
    finally:
        stack.compose("up", "--detach", "--wait", "armoire")
    assert "fashion-mnist-2d" in told
    assert not [line for line in told.splitlines() if line.split()[:1] == ["fashion-mnist"]]


def test_a_stop_drains(stack: Stack) -> None:
    """`docker compose stop` ends the service with status 0; right after a start, too, it does not wait for SIGKILL."""
    (container,) = stack.containers("armoire")
    began = time.monotonic()
    stack.compose("stop", "armoire")
    assert time.monotonic() - began < 10
    assert inspect(container)["State"]["ExitCode"] == 0
    stack.compose("start", "armoire")
    began = time.monotonic()
    docker("stop", "--time", "30", container)
    assert time.monotonic() - began < 10
