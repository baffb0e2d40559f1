"""What one stage counted, in one client process or in all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from hdrh.histogram import HdrHistogram

# Microseconds to three digits, up to an hour.
MOST_MICROSECONDS, DIGITS, BITS = 3_600_000_000, 3, 11


class Durations:
    """A histogram of durations: kept in microseconds, asked for in milliseconds."""

    def __init__(self, encoded: str | None = None) -> None:
        """Begin empty, or with what ``encode`` gave."""
        self._histogram = (
            HdrHistogram(1, MOST_MICROSECONDS, DIGITS) if encoded is None else HdrHistogram.decode(encoded)
        )
        self._recorded: defaultdict[int, int] = defaultdict(int)

    def record(self, seconds: float) -> None:
        """Add one.

        The histogram itself would take 2 us, three times a call; so it gets equal values together, and later. Cut to
        the bits that it tells apart, there are never more than a few ten thousand of them.
        """
        microseconds = int(seconds * 1e6)
        surplus = microseconds.bit_length() - BITS
        self._recorded[microseconds >> surplus << surplus if surplus > 0 else microseconds] += 1

    def add(self, other: Durations) -> None:
        """Add all of another's."""
        self._whole().add(other._whole())

    def encode(self) -> str:
        """Give HdrHistogram's own compressed text."""
        return str(self._whole().encode(), "ascii")

    def _whole(self) -> HdrHistogram:
        for microseconds, count in self._recorded.items():
            self._histogram.record_value(min(max(microseconds, 0), MOST_MICROSECONDS), count)
        self._recorded.clear()
        return self._histogram

    def quantile(self, percent: float) -> float | None:
        """Give the duration under which ``percent`` of all lie, in milliseconds; None where there are none."""
        if not len(self):
            return None
        return float(self._whole().get_value_at_percentile(percent)) / 1e3

    def mean(self) -> float | None:
        """Give the mean in milliseconds; None where there are none."""
        return float(self._whole().get_mean_value()) / 1e3 if len(self) else None

    def __len__(self) -> int:
        return int(self._whole().get_total_count())


class Tally:
    """Counts and durations. A call counts where it was due within the window; the others were warm-up."""

    def __init__(self) -> None:
        self.warm_up_calls = 0
        self.calls = 0  # due within the window
        self.answered = 0  # of them, and well
        self.completed = 0  # answered well within the window, begun in the warm-up or not
        self.errors: Counter[str] = Counter()  # by the name of gRPC's code
        self.examples: dict[str, str] = {}  # one message of each
        self.sent_bytes = 0
        self.received_bytes = 0
        self.seconds = 0.0  # of the window
        self.cpu = 0.0  # cores that it used
        self.latency, self.failure, self.lag, self.queue, self.run = (Durations() for _ in range(5))

    def add(self, other: Tally) -> None:
        """Add another process's tally of the same stage."""
        for name in (
            "warm_up_calls",
            "calls",
            "answered",
            "completed",
            "sent_bytes",
            "received_bytes",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors += other.errors
        self.examples = other.examples | self.examples
        for name in ("seconds", "cpu"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        for name in DURATIONS:
            getattr(self, name).add(getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        """Give what ``from_json`` takes."""
        return vars(self) | {name: getattr(self, name).encode() for name in DURATIONS}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Tally:
        """Read what ``to_json`` gave, on another process's standard output."""
        tally = cls()
        vars(tally).update(values)
        tally.errors = Counter(tally.errors)
        for name in DURATIONS:
            setattr(tally, name, Durations(values[name]))
        return tally


DURATIONS = ("latency", "failure", "lag", "queue", "run")
