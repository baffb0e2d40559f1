"""Where what Prometheus and Grafana read is kept, and what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "docker" / "monitoring"
CONFIG = MONITORING / "prometheus" / "prometheus.yml"
RULES = MONITORING / "prometheus" / "rules" / "armoire.yaml"
RULE_TESTS = sorted((MONITORING / "prometheus" / "tests").glob("*.yaml"))
PROVISIONING = MONITORING / "grafana" / "provisioning"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "armoire.json"
COMPONENT = ROOT / "deploy" / "components" / "monitoring"
RUNBOOK = ROOT / "deploy" / "RUNBOOK.md"


def read(path: Path) -> Any:
    """Read a file of one YAML document."""
    return yaml.safe_load(path.read_text())


def alerts() -> dict[str, dict[str, Any]]:
    """Give the alerts by name."""
    groups = read(RULES)["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def records() -> set[str]:
    """Give the names of what is recorded."""
    groups = read(RULES)["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def dashboard() -> dict[str, Any]:
    """Read the dashboard."""
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return board
