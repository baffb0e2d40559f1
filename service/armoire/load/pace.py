"""When the calls of an open loop are due."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count


def arrivals(rate: float, start: float, *, poisson: bool, seed: int, share: float) -> Iterator[float]:
    """Give the times, without end: of a Poisson process of ``rate`` calls a second, or of a metronome.

    The metronome lets ``share`` of its first interval pass before the first.
    """
    if not poisson:
        yield from (start + (share + number) / rate for number in count())
    gaps = random.Random(seed)  # noqa: S311
    at = start
    while True:
        at += gaps.expovariate(rate)
        yield at
