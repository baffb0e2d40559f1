"""deploy/SCALING.md is held to its own figures."""

from __future__ import annotations

import re

from armoire.config import SETTINGS
from tests.scale import plan

PAGE = plan.PAGE.read_text()


def test_what_is_derived_follows_from_what_is_measured() -> None:
    """The derived table is what the sums make of the measured figures: neither can drift."""
    assert plan.renewed(PAGE) == PAGE


def test_the_sums_read_every_measured_figure() -> None:
    """Each figure that the sums use stands in the page once, and a changed one changes the table."""
    found = plan.measured(PAGE)
    names = re.findall(r"^\| `([a-z0-9.]+)` \|", PAGE, re.MULTILINE)
    assert len(names) == len(set(names)) == len(found)
    for name in found:
        assert (plan.derived({**found, name: found[name] * 4}) != plan.derived(found)) == (name in USED), name


def test_the_engine_feeds_the_sums() -> None:
    """What the sums use of the engine is the table's column of 128 rows."""
    for model in plan.MODELS:
        row = re.search(rf"^\| {model} fp32 \|.*", PAGE, re.MULTILINE)
        assert row
        column = row[0].split("|")[4].strip().replace(",", "")
        assert plan.measured(PAGE)[f"{model}.cuda.engine.128"] == float(column)


def test_the_assumptions_are_the_servers() -> None:
    """The age of connections in the sums is the setting's default."""
    assert SETTINGS["connection_age"].default == plan.AGE_SECONDS


USED = {f"{model}.{provider}.grpc" for model in plan.MODELS for provider in ("cpu", "cuda")}
USED |= {f"{model}.cuda.engine.128" for model in plan.MODELS}
USED |= {"envoy.ms.1kib", "envoy.ms.256kib", "replica.series"}
