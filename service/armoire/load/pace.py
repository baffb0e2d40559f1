"""When the calls of a stage are due."""

from __future__ import annotations

import heapq
import math
import random
from itertools import count


class Callers:
    """Closed loop: a caller's next call is due when its last is answered."""

    def __init__(self, callers: int, start: float) -> None:
        self._free = [start] * callers

    @property
    def next(self) -> float:
        """When the next call is due; infinity while all callers wait."""
        return self._free[0] if self._free else math.inf

    def take(self, now: float) -> float:
        """Send the next call; give the time from which its latency counts, here ``now``."""
        heapq.heappop(self._free)
        return now

    def answered(self, at: float) -> None:
        """Free a caller, now or somewhat later."""
        heapq.heappush(self._free, at)


class Arrivals:
    """Open loop: a call is due when a Poisson process or a metronome says so, whatever became of those before."""

    def __init__(self, rate: float, start: float, *, poisson: bool, seed: int, share: float) -> None:
        """Begin at ``start`` with ``rate`` calls a second; ``share`` of the first interval passes before the first."""
        if poisson:
            self._gaps = random.Random(seed)  # noqa: S311
            self._rate = rate
            self._times = iter(self._poisson, math.nan)
            self._at = start
        else:
            self._times = (start + (share + number) / rate for number in count())
        self.next = next(self._times)

    def take(self, now: float) -> float:  # noqa: ARG002
        """Send the next call; give the time from which its latency counts: when it was due."""
        due, self.next = self.next, next(self._times)
        return due

    def answered(self, at: float) -> None:
        """Nobody waits for an answer before the next call."""

    def _poisson(self) -> float:
        self._at += self._gaps.expovariate(self._rate)
        return self._at
