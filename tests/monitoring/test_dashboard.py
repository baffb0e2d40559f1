"""Grafana's files and the Kubernetes component, by their structure: what Grafana's server would find in them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from typing import Any

import pytest
import yaml

from armoire.config import SETTINGS
from tests.deploy.rendered import kubectl
from tests.monitoring.files import COMPONENT, CONFIG, DASHBOARD, PROVISIONING, RULES, dashboard, read, records
from tests.monitoring.panels import interpolated, panels, queries
from tests.monitoring.test_rules import SERIES, exposed

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
    """The port is that of metrics_listen, for the one service and for replicas alike."""
    (job,) = read(CONFIG)["scrape_configs"]
    port = SETTINGS["metrics_listen"].default.rpartition(":")[2]
    assert job["static_configs"] == [{"targets": [f"armoire:{port}"]}]
    (replicas,) = job["dns_sd_configs"]
    assert (replicas["names"], str(replicas["port"])) == (["armoire-replica", "armoire-gpu"], port)


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
            if "ALERTS" not in target["expr"] and "namespace_job_slo" not in target["expr"]:
                assert 'instance=~"$instance"' in target["expr"], panel["title"]


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
    (job,) = read(CONFIG)["scrape_configs"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": job["job_name"]}]
