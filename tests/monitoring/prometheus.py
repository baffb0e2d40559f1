"""A Prometheus of this machine's, as a process of its own on loopback, with the project's configuration."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.files import CONFIG, RULES, read
from tests.soak.process import until

SCRAPE_SECONDS = 1
START_SECONDS = 30.0
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool (Debian's package prometheus)",
)


class Prometheus:
    """Its HTTP API."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        """Ask the API; an error is raised with Prometheus' words."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"http://{self._address}/api/v1/{path}?{query}", timeout=10) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def instant(self, expression: str) -> list[list[float]]:
        """Give the value of each series, now."""
        result = self.get("query", query=expression)["result"]
        return [[float(series["value"][1])] for series in result]

    def over(self, expression: str, start: float, end: float) -> list[list[float]]:
        """Give the values of each series, a second apart."""
        times = {"start": str(start), "end": str(end), "step": "1"}
        result = self.get("query_range", query=expression, **times)["result"]
        return [[float(value) for _, value in series["values"]] for series in result]

    def alerts(self) -> dict[str, set[str]]:
        """Give the states, pending or firing, of the alerts that are not at rest."""
        states: dict[str, set[str]] = {}
        for alert in self.get("alerts")["alerts"]:
            states.setdefault(alert["labels"]["alertname"], set()).add(alert["state"])
        return states


def configuration(**targets: Sequence[str]) -> dict[str, Any]:
    """Give prometheus.yml for what is here of each job, looked at once a second."""
    config: dict[str, Any] = read(CONFIG)
    config["global"] = dict.fromkeys(config["global"], f"{SCRAPE_SECONDS}s")
    config["rule_files"] = [str(RULES)]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
        del job["dns_sd_configs"]  # nobody here has such a name
    return config


@contextmanager
def prometheus(folder: Path, **targets: Sequence[str]) -> Iterator[Prometheus]:
    """Run it over the targets of its jobs while the block runs."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration(**targets)))
    with socket.create_server(("127.0.0.1", 0)) as found:
        address = f"127.0.0.1:{found.getsockname()[1]}"
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                "--enable-feature=exemplar-storage",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        running = Prometheus(address)
        assert until(lambda: process.poll() is not None or running.ready(), START_SECONDS)
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        yield running
    finally:
        process.kill()
        process.wait()
