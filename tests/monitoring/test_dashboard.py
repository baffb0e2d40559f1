"""Grafana's files and the Kubernetes component, by their structure: what Grafana's server would find in them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from armoire.config import SETTINGS
from tests.deploy.rendered import kubectl
from tests.monitoring.files import COMPONENT, CONFIG, DASHBOARD, PROVISIONING, RULES, dashboard, read, records
from tests.monitoring.panels import interpolated, panels, queries
from tests.monitoring.prometheus import needs_prometheus
from tests.monitoring.promql import holds
from tests.monitoring.test_rules import SERIES, exposed
from tests.scale.proxy import CONFIGURATION as ENVOY

BOARD = dashboard()
PANELS = panels()
EXPECTED = {
    "rate": "armoire_requests_total",
    "errors by code": "sum by (code)",
    "latency by RPC": "sum by (method, le) (rate(armoire_request_duration_seconds_bucket",
    "pending": "armoire_pending_rows",
    "queue time": "armoire_queue_duration_seconds_bucket",
    "batch size": "armoire_batch_rows_sum",
    "rows per second": "rate(armoire_rows_total",
    "rejections": "armoire_rejected_total",
    "memory": "process_resident_memory_bytes",
    "provider": "armoire_model_info",
    "model changes": "armoire_model_changes_total",
    "canary": "armoire_canaries_total",
}


def test_the_data_source_is_the_one_that_prometheus_is() -> None:
    """The data source has a fixed uid, and its interval is Prometheus' own."""
    (source,) = read(PROVISIONING / "datasources" / "prometheus.yaml")["datasources"]
    assert (source["uid"], source["type"], source["access"]) == ("prometheus", "prometheus", "proxy")
    assert source["isDefault"]
    assert source["jsonData"]["timeInterval"] == read(CONFIG)["global"]["scrape_interval"]


def test_dashboards_are_provided_from_files() -> None:
    """The provider reads a folder of files, and nothing that is changed in the browser is kept apart from them."""
    (provider,) = read(PROVISIONING / "dashboards" / "armoire.yaml")["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    assert not provider["allowUiUpdates"]


def test_prometheus_looks_where_the_service_tells_its_metrics() -> None:
    """The port is that of metrics_listen, for the one service and for replicas alike; Envoy's is its own."""
    job, envoy = read(CONFIG)["scrape_configs"]
    port = SETTINGS["metrics_listen"].default.rpartition(":")[2]
    assert job["static_configs"] == [{"targets": [f"armoire:{port}"]}]
    (replicas,) = job["dns_sd_configs"]
    assert (replicas["names"], str(replicas["port"])) == (["armoire-replica", "armoire-gpu"], port)
    (found,) = envoy["dns_sd_configs"]
    listeners = {each["name"]: each for each in read(ENVOY)["static_resources"]["listeners"]}
    assert found["names"] == ["envoy"]
    assert found["port"] == listeners["metrics"]["address"]["socket_address"]["port_value"]


def test_the_dashboard_can_be_provided() -> None:
    """Its uid is fixed and it has no id of a database; panels have ids of their own and titles that differ."""
    assert BOARD["uid"] == "armoire"
    assert "id" not in BOARD
    every = BOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert len({panel["title"] for panel in every}) == len(every)
    assert [panel["title"] for panel in PANELS if not panel["fieldConfig"]["defaults"]["unit"]] == []


def test_panels_lie_side_by_side() -> None:
    """Panels are within the 24 columns, and no two of them share a place."""

    def cells(place: dict[str, int]) -> set[tuple[int, int]]:
        columns, lines = (
            range(place["x"], place["x"] + place["w"]),
            range(place["y"], place["y"] + place["h"]),
        )
        return {(column, line) for column in columns for line in lines}

    places = [cells(panel["gridPos"]) for panel in BOARD["panels"]]
    assert all(0 <= column < 24 for place in places for column, _ in place)
    assert not [pair for pair in combinations(places, 2) if pair[0] & pair[1]]


@pytest.mark.parametrize("what", EXPECTED)
def test_an_operator_finds_what_to_look_for(what: str) -> None:
    """A panel asks for each thing that a dashboard of the service is to show."""
    assert [query for query in queries(1) if EXPECTED[what] in query.expression]


def test_every_panel_asks_the_chosen_source_and_replicas() -> None:
    """Each query goes to the chosen data source, and each variable in it is one that the dashboard or Grafana has."""
    variables = {variable["name"] for variable in BOARD["templating"]["list"]}
    assert {"datasource", "namespace", "instance", "model"} == variables
    for panel in PANELS:
        for target in panel["targets"]:
            assert (
                target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            )
            assert "$" not in interpolated(target["expr"], 1), panel["title"]
            if not re.search(r'ALERTS|namespace_job_slo|job="envoy"', target["expr"]):
                assert 'instance=~"$instance"' in target["expr"], panel["title"]


@needs_prometheus
def test_what_the_dashboard_calls_failed_is_what_the_slo_does(tmp_path: Path) -> None:
    """The panel shows the share of calls that burns the budget: neither a token's rate nor a deadline counts."""
    calls = 'armoire_requests_total{{job="armoire", instance="a:9464", method="Decode", code="{}"}}'
    refusals = 'armoire_rejected_total{{job="armoire", instance="a:9464", reason="{}"}}'
    series = {
        calls.format("OK"): "0+48x20",
        calls.format("INTERNAL"): "0+4x20",
        calls.format("RESOURCE_EXHAUSTED"): "0+8x20",
        calls.format("DEADLINE_EXCEEDED"): "0+4x20",
        refusals.format("queue"): "0+4x20",
        refusals.format("rate"): "0+4x20",
        refusals.format("deadline"): "0+4x20",
    }
    slo = (
        "sum(namespace_job_slo:armoire_bad_requests:rate5m{slo='availability'})"
        " / sum(namespace_job_slo:armoire_requests:rate5m{slo='availability'})"
    )
    (panel,) = [query.expression for query in queries(75) if query.panel == "Failed"]
    assert "[300s]" in panel
    for expression in (slo, panel):
        holds(tmp_path, expression, series, 8 / 64)


def test_panels_ask_for_series_that_there_are() -> None:
    """What the queries, variables and notes name is a metric of the service or one that the rules record."""
    notes: list[dict[str, Any]] = [note for note in BOARD["annotations"]["list"] if "expr" in note]
    texts = [query.expression for query in queries(1)] + [note["expr"] for note in notes]
    texts += [variable["definition"] for variable in BOARD["templating"]["list"] if "definition" in variable]
    recorded = {name for text in texts for name in re.findall(r"\w+:\w+:\w+", text)}
    asked = {name for text in texts for name in SERIES.findall(re.sub(r"\w+:\w+:\w+", "", text))}
    assert recorded <= records()
    assert asked
    assert asked <= exposed()


def test_the_rule_manifest_is_made_of_the_rules() -> None:
    """What generate.py would write is there, and holds the groups that compose's Prometheus reads."""
    done = subprocess.run(
        [sys.executable, COMPONENT / "generate.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert read(COMPONENT / "prometheusrule.yaml")["spec"] == read(RULES)


def test_the_component_has_the_very_files_of_compose() -> None:
    """Kustomize makes a PodMonitor, a PrometheusRule of the same rules and a ConfigMap of the same dashboard."""
    done = subprocess.run([kubectl(), "kustomize", COMPONENT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    made = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}
    assert made.keys() == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    assert made["PrometheusRule"]["spec"] == read(RULES)
    assert made["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(made["ConfigMap"]["data"]["armoire.json"]) == json.loads(DASHBOARD.read_text())
    (endpoint,) = made["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert endpoint["interval"] == read(CONFIG)["global"]["scrape_interval"]
    job, _ = read(CONFIG)["scrape_configs"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": job["job_name"]}]
