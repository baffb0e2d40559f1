"""The GPU's benchmark, on the CPU: that it runs, for the day when there is a GPU."""

from __future__ import annotations

import re

import pytest

from tests.gpu import bench


def test_the_benchmark_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Each provider has a line with its share of close pixels and, for each number of rows, time and speed."""
    assert bench.main(["--cpu", "--rows", "1", "8", "--seconds", "0.05"]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    cells = r"\d+\.\d\d ms, [\d,]+/s"
    assert re.fullmatch(rf"\| cpu, one core \| 100\.00% \| {cells} \| {cells} \|", line)
