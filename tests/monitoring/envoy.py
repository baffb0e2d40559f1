"""Envoy of this machine's, on ports of its own, with the configuration that is shipped."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.scale.proxy import CONFIGURATION, binary


class Addresses(NamedTuple):
    """Where it takes calls and where it tells its metrics."""

    calls: str
    metrics: str


def _addresses(content: Any) -> Iterator[dict[str, Any]]:
    """Give every socket address in the configuration."""
    if isinstance(content, dict):
        if "socket_address" in content:
            yield content["socket_address"]
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from _addresses(each)


@contextmanager
def envoy(folder: Path, replica: str) -> Iterator[Addresses]:
    """Run it in front of one replica while the block runs."""
    program = binary()
    assert program is not None
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = dict(zip((50051, 9901, 9902), (each.getsockname()[1] for each in found), strict=True))
    for address in _addresses(configuration):
        if address["address"] == "armoire-replica":
            address["address"], port = replica.split(":")
            address["port_value"] = int(port)
        else:
            address.update(address="127.0.0.1", port_value=ports[address["port_value"]])
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(configuration))
    flags = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
    with (folder / "envoy.log").open("w") as log:
        process = subprocess.Popen([program, "-c", file, *flags], stdout=log, stderr=log)
    try:
        yield Addresses(f"127.0.0.1:{ports[50051]}", f"127.0.0.1:{ports[9902]}")
    finally:
        process.kill()
        process.wait()
