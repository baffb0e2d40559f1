"""A load that goes on and on, and what a server holds meanwhile: run, then look for what it did not give back."""

from __future__ import annotations

import json
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import theilslopes

from armoire.load.tally import Tally
from tests.soak.mixture import EVERY_RPC, Mixture, Share, added
from tests.soak.process import ServerProcess, apart, until
from tests.soak.sampler import Point, Sampler
from tests.soak.trouble import Trouble

#: Called every so often while the load runs; `lambda server: server.signal(SIGHUP)` would reload models.
Nudge = Callable[[ServerProcess], None]
SETTLE_SECONDS = 20.0


@dataclass(frozen=True)
class Load:
    """What is done to a server.

    Attributes:
        stages: of ``stage_seconds`` each, one after the other; the first is the warm-up.
        of_capacity: the share of what it was measured to bear.
        trouble: calls a second that are bad or cut off.
    """

    stages: int = 30
    stage_seconds: float = 60.0
    of_capacity: float = 0.8
    capacity_seconds: float = 10.0  # for each RPC
    trouble: float = 10.0
    shares: Mapping[str, Share] = field(default_factory=lambda: EVERY_RPC)
    nudge: Nudge | None = None
    nudge_seconds: float = 10.0


@dataclass(frozen=True)
class Bounds:
    """What is allowed after the warm-up."""

    mb_per_10_minutes: float = 1.0
    p99_ratio: float = 1.2  # of the last stage to the second
    failed: float = 0.001  # share of the good calls
    fds: int = 8
    threads: int = 4


@dataclass(frozen=True)
class Record:
    """What was seen.

    Attributes:
        rate: calls a second.
        p99_ms: of each stage.
        failed: good calls that failed after the warm-up, by code.
        points: once a second, the warm-up's too.
        sent: calls as their callers saw them end, by code.
        answered: calls as the server counts them, by code.
    """

    load: Load
    rate: float
    p99_ms: list[float]
    failed: dict[str, int]
    points: list[Point]
    sent: dict[str, int]
    answered: dict[str, int]

    @property
    def warm(self) -> list[Point]:
        """The points after the warm-up."""
        return [point for point in self.points if point.seconds >= self.load.stage_seconds]

    @property
    def mb_per_10_minutes(self) -> float:
        """The slope of memory after the warm-up by Theil and Sen: the median of those of all pairs of points."""
        points = self.warm
        slope = theilslopes([p.rss_bytes for p in points], [p.seconds for p in points])[0]
        return float(slope) * 600 / 1e6

    @property
    def p99_ratio(self) -> float:
        """The last stage's 99th percentile by that of the second."""
        return self.p99_ms[-1] / self.p99_ms[1]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        plain: dict[str, Any] = {
            "stages": self.load.stages,
            "stage_seconds": self.load.stage_seconds,
            "rate": round(self.rate, 2),
            "mb_per_10_minutes": round(self.mb_per_10_minutes, 3),
            "p99_ratio": round(self.p99_ratio, 3),
            "p99_ms": [round(each, 2) for each in self.p99_ms],
            "failed": self.failed,
            "sent": self.sent,
            "answered": self.answered,
            "points": [point._asdict() for point in self.points],
        }
        path.write_text(json.dumps(plain) + "\n")


def run(server: ServerProcess, load: Load) -> Record:
    """Measure what the server bears, then load it stage after stage."""
    with ExitStack() as stack:
        stack.enter_context(apart(server))
        mixture = Mixture(server.address, load.shares, stack)
        # What it bears beside all that is asked of it later.
        with Trouble(server.address, load.trouble), _nudging(server, load):
            capacity, _ = mixture.capacity(load.capacity_seconds)
        rate = capacity * load.of_capacity
        before = server.answered()
        with (
            Sampler(server.pid) as sampler,
            Trouble(server.address, load.trouble) as trouble,
            _nudging(server, load),
        ):
            tallies = [mixture.stage(rate, load.stage_seconds, number) for number in range(load.stages)]
    sent = Counter(trouble.codes)
    for tally in tallies:
        sent += tally.errors
        sent["OK"] += tally.answered
    # A call that was cut off is counted when the server hears of it.
    until(lambda: (server.answered() - before).total() >= sent.total() - sent["CANCELLED"], SETTLE_SECONDS)
    answered = server.answered() - before
    return Record(
        load,
        rate,
        p99_ms=[_p99(tally) for tally in tallies],
        failed=dict(added(tallies[1:]).errors),
        points=sampler.points,
        sent=dict(sent),
        answered=dict(answered),
    )


def faults(record: Record, bounds: Bounds) -> list[str]:
    """Say what the server did not give back, lost count of, or did ever more slowly; nothing: all is well."""
    found = []
    if record.mb_per_10_minutes > bounds.mb_per_10_minutes:
        found.append(f"memory grows by {record.mb_per_10_minutes:.2f} MB in 10 minutes")
    if record.p99_ratio > bounds.p99_ratio:
        found.append(f"p99 has gone from {record.p99_ms[1]:.1f} to {record.p99_ms[-1]:.1f} ms")
    good = record.sent.get("OK", 0)
    if (failed := sum(record.failed.values())) > bounds.failed * (good + failed):
        found.append(f"of {good + failed} good calls {failed} failed: {record.failed}")
    third = max(1, len(record.warm) // 3)
    for name, allowed in (("fds", bounds.fds), ("threads", bounds.threads)):
        counts = [getattr(point, name) for point in record.warm]
        early, late = statistics.median(counts[:third]), statistics.median(counts[-third:])
        if late > early + allowed:
            found.append(f"{name} have gone from {early:g} to {late:g}")
    return found + _miscounted(record)


def _miscounted(record: Record) -> list[str]:
    """Compare both sides' counts.

    A call that its caller cut off may have ended before the server heard of it, as whatever it was, or may never have
    reached the server: of those only there may be more or fewer. What is UNAVAILABLE here gRPC has refused by itself.
    """
    sent, answered = Counter(record.sent), Counter(record.answered)
    cut_off = sent.pop("CANCELLED", 0)
    sent.pop("UNAVAILABLE", 0)
    answered.pop("CANCELLED", 0)
    found = [
        f"{count} calls ended as {code} by their callers' count and {answered[code]} by the server's"
        for code, count in sent.items()
        if answered[code] < count
    ]
    surplus = Counter(record.answered).total() - sent.total()
    if surplus > cut_off:
        found.append(
            f"the server counts {surplus} calls more than were sent, of which {cut_off} were cut off"
        )
    return found


def _p99(tally: Tally) -> float:
    value = tally.latency.quantile(99)
    assert value is not None, f"no call was answered: {tally.errors} {tally.examples}"
    return value


@contextmanager
def _nudging(server: ServerProcess, load: Load) -> Iterator[None]:
    """Nudge the server from a thread while the block runs."""
    over = threading.Event()

    def work() -> None:
        while load.nudge is not None and not over.wait(load.nudge_seconds):
            load.nudge(server)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
