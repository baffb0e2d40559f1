"""Hosts of a test's own: network namespaces on a switch, which has a namespace too. Nothing leaves them.

The bridge is not in the machine's own namespace, so neither its addresses, routes and firewall nor a container engine's
FORWARD policy have a part in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000
NETWORK = "10.111.0"
TOOLS = ("ip", "tc", "iptables")
QUEUE = 1  # of netfilter, on each host
LIBC = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Say why there can be no such hosts here; empty: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if absent:
        return f"{', '.join(absent)} not found (Debian: iproute2, iptables)"
    name = f"armoire-{os.getpid()}-try"
    tried = subprocess.run(("ip", "netns", "add", name), capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    run("ip", "netns", "del", name)
    return ""


# Of a shell that is not root's, these two are often not in it.
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def run(*command: str) -> str:
    """Run a command and give what it prints; a failure tells what it said."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": PATH}
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


class Host:
    """A namespace with one link, `eth0`, and a loopback of its own."""

    def __init__(self, switch: str, prefix: str, name: str, number: int) -> None:
        self.name, self.address = f"{prefix}-{name}", f"{NETWORK}.{number}"
        self._switch, self._port = switch, f"port{number}"
        run("ip", "netns", "add", self.name)
        run("ip", "-n", switch, "link", "add", self._port, "type", "veth", "peer", "eth0", "netns", self.name)
        run("ip", "-n", switch, "link", "set", self._port, "master", "switch", "up")
        run("ip", "-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            run("ip", "-n", self.name, "link", "set", link, "up")

    def program(self, *command: str) -> tuple[str, ...]:
        """Give the command that runs one here; it is that process itself, so signals reach it."""
        return ("ip", "netns", "exec", self.name, *command)

    def run(self, *command: str) -> str:
        """Run a command here and give what it prints."""
        return run(*self.program(*command))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread be here while the block runs: the sockets that it opens are this host's."""
        with Path("/proc/thread-self/ns/net").open() as old, (NAMESPACES / self.name).open() as new:
            _enter(new.fileno())
            try:
                yield
            finally:
                _enter(old.fileno())

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Pull its cable while the block runs."""
        run("ip", "-n", self._switch, "link", "set", self._port, "down")
        try:
            yield
        finally:
            run("ip", "-n", self._switch, "link", "set", self._port, "up")

    @contextlib.contextmanager
    def rate(self, kilobits: int) -> Iterator[None]:
        """Let it send no faster, with a queue of up to 200 ms, while the block runs."""
        queue = ("rate", f"{kilobits}kbit", "burst", "16kb", "latency", "200ms")
        self.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *queue)
        try:
            yield
            held = self.run("tc", "-s", "qdisc", "show", "dev", "eth0")
            assert not re.search(r"overlimits 0\b", held), f"nothing was held up: {held}"
        finally:
            self.run("tc", "qdisc", "del", "dev", "eth0", "root")

    @contextlib.contextmanager
    def loss(self, share: float) -> Iterator[None]:
        """Let it lose that share of the packets which come to it while the block runs."""
        with self._coming("DROP", "-m", "statistic", "--mode", "random", "--probability", str(share)):
            yield

    @contextlib.contextmanager
    def delay(self, seconds: float) -> Iterator[None]:
        """Let all that comes to it arrive so much later while the block runs."""
        program = self.program(sys.executable, "-m", "tests.scale.delay", str(seconds))
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as holding:
            try:
                assert holding.stdout
                assert holding.stdout.readline() == "delaying\n"
                with self._coming("NFQUEUE", "--queue-num", str(QUEUE)):
                    yield
            finally:
                holding.terminate()  # it lets go what it holds first

    @contextlib.contextmanager
    def _coming(self, target: str, *words: str) -> Iterator[None]:
        """Send what comes to it to a target of iptables while the block runs, and see that something came."""
        rule = ("INPUT", "-i", "eth0", "-j", target, *words)
        self.run("iptables", "-w", "-A", *rule)
        try:
            yield
            counted = self.run("iptables", "-w", "-nvxL", "INPUT")
            found = re.search(rf"^\s*[1-9]\d* +\d+ +{target}", counted, re.MULTILINE)
            assert found, f"nothing was met by {target}: {counted}"
        finally:
            self.run("iptables", "-w", "-D", *rule)

    def connections(self, port: int) -> int:
        """How many open TCP connections it has at a port of its own (proc(5): 01 is open)."""
        tables = [self.run("cat", f"/proc/net/{name}") for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table.splitlines()[1:]]
        return sum(here.endswith(f":{port:04X}") and state == "01" for _, here, _, state, *_ in rows)


class Network:
    """The switch and the hosts on it, which go with it, whatever still runs there."""

    def __init__(self, names: Sequence[str]) -> None:
        prefix = f"armoire-{os.getpid()}"
        self._switch = f"{prefix}-switch"
        self.hosts: dict[str, Host] = {}
        try:
            run("ip", "netns", "add", self._switch)
            run("ip", "-n", self._switch, "link", "add", "switch", "type", "bridge")
            run("ip", "-n", self._switch, "link", "set", "switch", "up")
            for number, name in enumerate(names, 1):
                self.hosts[name] = Host(self._switch, prefix, name, number)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take it all down. A namespace without a name lives as long as its processes, and its links go with it."""
        ours = [path.name for path in NAMESPACES.glob(f"armoire-{os.getpid()}-*")]
        for name in ours:
            run("ip", "netns", "del", name)


def _enter(namespace: int) -> None:
    if LIBC.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
