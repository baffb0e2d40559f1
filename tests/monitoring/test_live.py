"""Prometheus reads two real servers under load: every panel has data, rules run, and alerts come."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from tests import bundles
from tests.collector import collecting
from tests.monitoring.envoy import envoy
from tests.monitoring.panels import Query, queries
from tests.monitoring.prometheus import SCRAPE_SECONDS, Prometheus, needs_prometheus, prometheus
from tests.scale.proxy import binary
from tests.soak.process import ServerProcess, server_process, until

pytestmark = needs_prometheus
START_SECONDS, PANEL_SECONDS, ALERT_SECONDS = 30.0, 60.0, 20.0
# Of Envoy where there is one.
QUERIES = [query for query in queries(SCRAPE_SECONDS) if binary() or 'job="envoy"' not in query.expression]
# What stays at zero on a machine without a GPU whose callers bring no deadline and whose graphs run.
ZERO = {"On the CPU in place of a GPU A", "Work for nothing A", "Work for nothing B", "Work for nothing C"}
# And of an Envoy whose only replica is well.
ZERO |= {"Calls through Envoy B", "Calls through Envoy C"}
SMALL = ("--max-rows", "64", "--max-queue-rows", "64", "--canary-seconds", "0.5", "--reload-seconds", "0.2")
# No more than a busy machine can answer; a Sample fills the queue, so that who comes beside it is refused.
CALLS = (
    ("--rpc", "Decode", "--rows", "8", "--rate", "60"),
    ("--rpc", "Encode", "--rows", "4", "--rate", "20"),
    ("--rpc", "Sample", "--rows", "64", "--rate", "5"),
)
FEW = (("--rpc", "Decode", "--rows", "1", "--rate", "5"),)


@dataclass
class Monitored:
    """Two replicas and the Prometheus that reads them."""

    prometheus: Prometheus
    busy: ServerProcess
    idle: ServerProcess
    models: Path
    began: float = field(default_factory=time.time)

    def found(self, query: Query) -> list[list[float]]:
        if query.instant:
            return self.prometheus.instant(query.expression)
        return self.prometheus.over(query.expression, self.began, time.time())

    def shows(self, query: Query) -> bool:
        """Whether the panel has a line, and one that leaves zero where it should."""
        values = [value for series in self.found(query) for value in series if value == value]
        return bool(values) if query.name in ZERO else any(value > 0 for value in values)


@contextmanager
def load(address: str, calls: Sequence[Sequence[str]], *flags: str) -> Iterator[None]:
    """Call a server in several ways at once while the block runs."""
    command = [sys.executable, "-m", "armoire.cli", "bench", "--address", address, *flags]
    command += ["--seconds", "3600", "--warm-up", "0", "--allow-failures"]
    processes = [subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL) for words in calls]
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait(30)


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """The busy one is traced, with a certificate that nobody renews and a queue that is soon full."""
    folder = tmp_path_factory.mktemp("monitored")
    models = folder / "models"
    bundles.copy(models, "1")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=6))
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    certificate.private_key_pem.write_to_path(str(folder / "tls.key"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    tls = ("--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key"))
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        patch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
        patch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.1")
        with server_process("--models", str(models), "--provider", "cpu", *SMALL, *tls) as busy:
            patch.undo()
            with server_process("--provider", "cpu", "--canary-seconds", "1") as idle:
                targets = {
                    "armoire": [server.metrics_url.split("/")[2] for server in (busy, idle)],
                    "envoy": [],
                }
                with ExitStack() as stack:
                    if binary():
                        proxy = stack.enter_context(envoy(folder, idle.address))
                        targets["envoy"] = [proxy.metrics]
                        stack.enter_context(load(proxy.calls, FEW))
                    running = stack.enter_context(prometheus(folder, **targets))
                    stack.enter_context(load(busy.address, CALLS, "--tls-ca", str(folder / "ca.crt")))
                    # What rises before the first look at it does not rise for Prometheus.
                    everybody = float(sum(map(len, targets.values())))
                    assert until(lambda: running.instant("sum(up)") == [[everybody]], START_SECONDS)
                    yield Monitored(running, busy, idle, models)


def test_every_panel_shows_data_under_load(monitored: Monitored) -> None:
    """Each query of each panel has an answer, above zero wherever load and a changing folder of models raise it."""
    bundles.copy(monitored.models, "2")
    bundles.copy(monitored.models, "3").joinpath("decoder.onnx").write_bytes(b"no graph")
    missing = {query.name: query for query in QUERIES}

    def all_shown() -> bool:
        for name, query in list(missing.items()):
            if monitored.shows(query):
                del missing[name]
        return not missing

    assert until(all_shown, PANEL_SECONDS), sorted(missing)


def test_exemplars_lead_from_panels_to_traces(monitored: Monitored) -> None:
    """Each panel that asks for exemplars has some, with the trace that they lead to."""
    asked = [query for query in QUERIES if query.exemplar]
    assert asked

    def traced(query: Query) -> Callable[[], bool]:
        def look() -> bool:
            times = {"start": str(monitored.began), "end": str(time.time())}
            found = monitored.prometheus.get("query_exemplars", query=query.expression, **times)
            return any("trace_id" in each["labels"] for series in found for each in series["exemplars"])

        return look

    for query in asked:
        assert until(traced(query), ALERT_SECONDS), query.name


def test_every_rule_runs(monitored: Monitored) -> None:
    """No rule fails over the series of two replicas, as one that matches many to many would, and all have run."""
    prometheus = monitored.prometheus

    def rules() -> list[tuple[str, str, str]]:
        groups = prometheus.get("rules")["groups"]
        return [(r["name"], r["health"], r.get("lastError", "")) for group in groups for r in group["rules"]]

    assert until(lambda: all(health != "unknown" for _, health, _ in rules()), ALERT_SECONDS)
    assert [rule for rule in rules() if rule[1] != "ok"] == []


def test_alerts_come_for_what_happened_and_for_nothing_else(monitored: Monitored) -> None:
    """A refused bundle and a certificate of six days fire, and a replica that goes is pending at once."""
    come = {"ArmoireModelRefused": {"firing"}, "ArmoireCertificateExpires": {"firing"}}
    alerts = monitored.prometheus.alerts
    assert until(lambda: come.items() <= alerts().items(), ALERT_SECONDS), alerts()
    # Of an overloaded server, and no longer than their time to wait.
    load = {"ArmoireQueueSaturated", "ArmoireRefusesCalls", "ArmoireErrorBudgetBurnsFast"}
    load |= {
        "ArmoireErrorBudgetBurnsSlowly",
        "ArmoireLatencyBudgetBurnsFast",
        "ArmoireLatencyBudgetBurnsSlowly",
    }
    assert alerts().keys() - come.keys() - load == set()
    monitored.idle.kill()
    assert until(lambda: alerts().get("ArmoireDown") == {"pending"}, ALERT_SECONDS)
    assert "ArmoireAbsent" not in alerts()
    monitored.busy.kill()
    assert until(lambda: alerts().get("ArmoireAbsent") == {"pending"}, ALERT_SECONDS)
