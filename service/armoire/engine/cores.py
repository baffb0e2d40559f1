"""How many cores there are for this process."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Tell how many cores this process may really use: affinity and cgroup quota, not the host's count."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _cgroup_quota(cgroup))))


def _cgroup_quota(root: Path) -> float:
    """Give the CPU quota in cores of the container's cgroup (v2, then v1), infinity where there is none."""
    for quota_file, period_file in (
        ("cpu.max", "cpu.max"),
        ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"),
    ):
        try:
            quota = (root / quota_file).read_text().split()[0]
            period = (root / period_file).read_text().split()[-1]
        except (OSError, IndexError):
            continue
        if quota not in ("max", "-1"):
            return float(quota) / float(period)
    return math.inf
