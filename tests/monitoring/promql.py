"""Promtool, and what it finds that an expression gives over made-up series with the project's rules."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.monitoring.files import RULES


def promtool(*words: str | Path) -> None:
    """Run promtool, which is to find no fault."""
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def holds(folder: Path, expression: str, series: Mapping[str, str], value: float) -> None:
    """Hold the only sample of an expression, after a quarter of an hour with a sample a minute, to a value."""
    case = {"expr": expression, "eval_time": "15m", "exp_samples": [{"labels": "{}", "value": value}]}
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [case],
    }
    file = folder / "test.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]})
    )
    promtool("test", "rules", file)
