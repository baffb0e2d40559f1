"""A picture of an endurance run."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from tests.soak.endurance import Record


def draw(record: Record, path: Path) -> None:
    """Draw memory, descriptors, threads and the 99th percentile over time, to a PNG."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    memory, counts, latency = figure.subplots(3, sharex=True)
    minutes = [point.seconds / 60 for point in record.points]
    warm = record.load.stage_seconds / 60
    memory.plot(minutes, [point.rss_bytes / 1e6 for point in record.points])
    memory.axvspan(0, warm, alpha=0.15, label="warm-up")
    memory.set(
        ylabel="MB resident",
        title=f"{record.rate:.0f} calls/s; {record.mb_per_10_minutes:+.2f} MB in 10 minutes",
    )
    memory.legend(loc="lower right")
    counts.plot(minutes, [point.fds for point in record.points], label="file descriptors")
    counts.plot(minutes, [point.threads for point in record.points], label="threads")
    counts.set(ylabel="count", ylim=(0, None))
    counts.legend(loc="lower right")
    middles = [(number + 0.5) * warm for number in range(len(record.p99_ms))]
    latency.plot(middles, record.p99_ms, marker="o")
    latency.set(ylabel="p99, ms", xlabel="minutes", ylim=(0, None))
    figure.savefig(path)
