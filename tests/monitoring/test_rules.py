"""Recording rules and alerts: what promtool says of them, and that each is tested and explained."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest

from armoire.metrics import SECONDS, Metrics
from tests.monitoring.files import CONFIG, MONITORING, ROOT, RULE_TESTS, RULES, RUNBOOK, alerts, read, records
from tests.monitoring.prometheus import needs_prometheus
from tests.monitoring.promql import promtool

ALERTS = alerts()
NAMESPACE = re.compile(r'namespace="([^"]+)"')
SERIES = re.compile(r"\b(?:armoire|process|python)_\w+")


def exposed() -> set[str]:
    """Every series of ours, and of the process, that there can be."""
    registry = Metrics().registry
    seen = {sample.name for family in registry.collect() for sample in family.samples}
    return seen | set(registry._names_to_collectors)  # without labels yet, some have no sample


@functools.cache
def cases_of_promtool() -> list[tuple[set[str], dict[str, Any]]]:
    """Each case, and the namespaces whose series it looks at."""
    return [
        (set(NAMESPACE.findall(str(test["input_series"]))), case)
        for file in RULE_TESTS
        for test in read(file)["tests"]
        for case in test["alert_rule_test"]
    ]


@needs_prometheus
def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    """Promtool finds no fault in the configuration, nor in the rules that it names."""
    promtool("check", "config", CONFIG)
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


@needs_prometheus
@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_the_alerts_fire_where_they_should_and_only_there(file: Path) -> None:
    """The cases that promtool plays through the rules come out as they say."""
    promtool("test", "rules", file)


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_each_alert_has_a_case_that_fires_and_one_that_does_not(name: str) -> None:
    """Promtool's cases hold every alert to firing at least once and to resting at least once."""
    outcomes = set()
    for namespaces, case in cases_of_promtool():
        if case["alertname"] == name:
            outcomes.add(bool(case["exp_alerts"]))
            # Some cases are namespaces, side by side: what rests is one that no alert is expected of.
            if namespaces - {alert["exp_labels"].get("namespace") for alert in case["exp_alerts"]}:
                outcomes.add(False)
    assert outcomes == {True, False}


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_each_alert_says_what_to_do(name: str) -> None:
    """An alert has a severity, a summary, a description and a chapter of the runbook of at most five lines."""
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    file, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert (ROOT / file, anchor) == (RUNBOOK, name.lower())
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["description"].endswith(".")
    chapters = dict(
        re.findall(r"^## (\w+)\n\n(.*?)(?=\n## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    )
    assert 1 <= len(chapters[name].strip().splitlines()) <= 5


def test_the_runbook_has_no_alert_that_there_is_not() -> None:
    """The chapters of the runbook are the alerts."""
    assert re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE) == list(ALERTS)


def test_rules_ask_for_series_that_there_are() -> None:
    """What the rules name is a metric of the service or one of the rules' own records."""
    asked = set(
        SERIES.findall(re.sub(r"\S+:\S+:\S+|slo:\w+:\w+", "", RULES.read_text().partition("groups:")[2]))
    )
    asked = {name for name in asked if not name.startswith("armoire_budget")}
    assert asked
    assert asked <= exposed()


def test_the_bound_of_the_latency_slo_is_a_bucket() -> None:
    """Each bound that the rules count calls by is one of the histogram's."""
    bounds = {float(bound) for bound in re.findall(r'le="([\d.]+)"', RULES.read_text())}
    assert bounds == {0.25}
    assert bounds <= set(SECONDS)


def test_records_are_named_by_what_is_left_of_their_labels() -> None:
    """A record is level:metric:operation, and nothing is recorded that nobody asks for."""
    users = RULES.read_text() + (MONITORING / "grafana" / "dashboards" / "armoire.json").read_text()
    for name in records():
        assert re.fullmatch(r"(namespace_job|namespace_job_slo|slo):armoire_\w+:\w+", name)
        assert len(re.findall(rf"{name}\b", users)) > 1, name
