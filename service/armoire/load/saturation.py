"""Searches the highest rate of an open loop that a server bears."""

from __future__ import annotations

from collections.abc import Callable

from armoire.load.plan import Closed, Open, Saturation
from armoire.load.result import Result

# The first rate tried is this share of what a closed loop of so many callers gets.
CALLERS, FIRST = 64, 0.8
MOST_STAGES = 10
# The search ends when the rate that holds and the next that does not are so close.
CLOSE = 1.05
STEP = 1.3
# Of the calls of the window, so many must have been answered within it: else a queue grows.
KEEPS_UP = 0.97


def holds(saturation: Saturation, result: Result) -> bool:
    """Tell whether a stage kept what the search asks for."""
    p99 = result.latency_ms.p99
    keeps_up = result.calls_per_second * result.seconds >= KEEPS_UP * result.calls
    return not result.failed and keeps_up and p99 is not None and p99 <= saturation.p99_ms


def search(saturation: Saturation, run: Callable[[Closed | Open], Result]) -> float | None:
    """Give the highest rate, in calls a second, that held; None if none did."""
    first = run(Closed(CALLERS, saturation.rows, saturation.seconds))
    low, high = 0.0, 0.0
    rate = FIRST * first.calls_per_second
    for _ in range(MOST_STAGES):
        if rate <= 0 or (low and high and high <= CLOSE * low):
            break
        result = run(Open(rate, saturation.rows, saturation.seconds, saturation.arrivals))
        if holds(saturation, result):
            low = rate
        else:
            high = rate
        if not high:
            rate = low * STEP
        elif not low:
            rate = high / 2
        else:
            rate = (low + high) / 2
    return low or None
