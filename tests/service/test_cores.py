"""The cores that a process may really use."""

from __future__ import annotations

from pathlib import Path

import pytest

from armoire.engine import cores


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu.max": "9999900000 100000\n"}, None),
    ],
)
def test_cores_are_those_that_the_cgroup_grants(
    tmp_path: Path, files: dict[str, str], granted: int | None
) -> None:
    """The quota of a container bounds the threads, in both versions of cgroups; half a core is one."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    unbounded = cores.usable(tmp_path / "none")
    assert cores.usable(tmp_path) == (granted or unbounded)
