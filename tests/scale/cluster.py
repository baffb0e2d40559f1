"""Three replicas, Envoy in front of them and a client, each on a host of its own."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.scale.hosts import Host, Network
from tests.scale.name_server import NameServer
from tests.scale.proxy import CONFIGURATION, PORT, Envoy, proxying
from tests.soak.process import ARMOIRE, ServerProcess, until

REPLICAS = ("replica1", "replica2", "replica3")
# What envoy.yaml asks DNS for.
NAME = "armoire-replica"
# Envoy tells its workers of hosts whose health has changed all at once, a second after the first (update_merge_window).
MERGE_SECONDS = 1.2


class Replica:
    """`armoire serve` on a host, as often as it is started there."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.process = self._start()

    @property
    def address(self) -> str:
        return self.host.address

    def _start(self) -> ServerProcess:
        # A canary's rows would count as somebody's.
        flags = ("--threads", "1", "--provider", "cpu", "--canary-seconds", "0")
        ports = ("--listen", f"0.0.0.0:{PORT}", "--metrics-listen", "127.0.0.1:9464")
        return ServerProcess(*flags, *ports, program=self.host.program(*ARMOIRE))

    def start(self) -> None:
        """Start it again where it has ended."""
        assert self.process.exit_status is not None
        self.process = self._start()

    def kill(self) -> None:
        """End it for certain."""
        self.process.kill()

    def metrics(self) -> str:
        """Scrape it."""
        with self.host.inside(), urllib.request.urlopen(self.process.metrics_url, timeout=10) as reply:
            text: str = reply.read().decode()
        return text

    def rows(self) -> float:
        """How many rows its decoder has run since its start."""
        with self.host.inside():
            series = self.process.series("armoire_rows_total")
        return sum(value for labels, value in series.items() if 'graph="decoder"' in labels)


@dataclass(frozen=True)
class Hosts:
    """What stays from test to test; replicas are found by a name that DNS answers with the addresses told to it."""

    network: Network
    names: NameServer
    replicas: tuple[Replica, ...]


class Cluster:
    """Replicas behind an Envoy that has just been started."""

    def __init__(self, hosts: Hosts, envoy: Envoy) -> None:
        self.client, self.envoy, self._names = hosts.network["client"], envoy, hosts.names
        self.replicas = hosts.replicas

    def announce(self, count: int) -> None:
        """Give the first replicas in DNS, and wait until Envoy knows that they are healthy.

        Those that were there before stay, though DNS has forgotten them, until their health fails.
        """
        addresses = [replica.address for replica in self.replicas[:count]]
        self._names.addresses = addresses
        self.envoy.await_healthy(set(addresses))
        until(lambda: False, MERGE_SECONDS)

    def await_shares(self, replicas: Sequence[Replica], seconds: float = 60.0) -> float:
        """Wait until each of them gets rows; give how long that took."""
        began, before = time.monotonic(), [replica.rows() for replica in replicas]
        for replica, old in zip(replicas, before, strict=True):
            assert until(lambda r=replica, n=old: r.rows() > n, seconds), f"{replica.host.name} gets none"  # type: ignore[misc]
        return time.monotonic() - began

    def armoire(self, verb: str, *words: str) -> str:
        """Run an `armoire` verb on the client, against Envoy, and give what it prints."""
        return self.client.run(*ARMOIRE, verb, "--address", self.envoy.address, *words)


@contextlib.contextmanager
def running() -> Iterator[Hosts]:
    """Have the hosts, and a replica on each of three, while the block runs; nothing is left behind."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network((*REPLICAS, "envoy", "client")))
        names = stack.enter_context(NameServer(network["envoy"], NAME))
        replicas = []
        for name in REPLICAS:
            replica = Replica(network[name])
            stack.callback(replica.kill)
            replicas.append(replica)
        yield Hosts(network, names, tuple(replicas))


@contextlib.contextmanager
def balanced(
    hosts: Hosts, folder: Path, count: int = len(REPLICAS), configuration: Path = CONFIGURATION
) -> Iterator[Cluster]:
    """Start Envoy in front of the first replicas while the block runs."""
    hosts.names.addresses = []
    with proxying(hosts.network["envoy"], folder, configuration) as envoy:
        cluster = Cluster(hosts, envoy)
        cluster.announce(count)
        yield cluster
