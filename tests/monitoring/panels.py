"""The queries of the dashboard's panels, as Grafana would send them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from tests.monitoring.files import dashboard


class Query(NamedTuple):
    """One target of a panel."""

    panel: str
    kind: str
    ref: str
    expression: str
    instant: bool
    exemplar: bool

    @property
    def name(self) -> str:
        return f"{self.panel} {self.ref}"


def panels() -> list[dict[str, Any]]:
    """Give the panels that show something, those in rows that are folded too."""
    found: list[dict[str, Any]] = []
    for panel in dashboard()["panels"]:
        found += panel.get("panels", []) if panel["type"] == "row" else [panel]
    return found


def interpolated(expression: str, scrape_seconds: float) -> str:
    """Put in what Grafana would with every variable at All.

    The shortest range that it takes rates over is four scrapes. An unknown variable stays:
    Prometheus takes no ``$``.
    """
    values = {"__rate_interval": f"{4 * scrape_seconds:g}s"}
    variables = {v["name"]: v.get("allValue", "") for v in dashboard()["templating"]["list"]}
    return re.sub(r"\$(\w+)", lambda found: (variables | values).get(found[1]) or found[0], expression)


def queries(scrape_seconds: float) -> list[Query]:
    """Give what the panels ask for."""
    return [
        Query(
            panel["title"],
            panel["type"],
            target["refId"],
            interpolated(target["expr"], scrape_seconds),
            target["instant"],
            target["exemplar"],
        )
        for panel in panels()
        for target in panel["targets"]
    ]
