"""When a batch should wait for more rows: only where the processor is the limit, and never for long."""

from __future__ import annotations

import time
from collections.abc import Callable

# Of the processor time that there is: above this, rows that run together give time back to those that wait.
SATURATED = 0.8
WINDOW_SECONDS = 0.05


class Pacer:
    """Learns how many rows are worth waiting for.

    A batch costs a fixed time and a time per row, so rows that run together cost less. But waiting for them is
    a gain only where the processor is busy all the time: elsewhere it is delay for nothing. So this looks at the
    processor time that the whole process took of late. While it is saturated, the wanted rows grow with every batch
    that reached them; a batch that did not reach them in ``max_delay`` shrinks them; in a process that has time to
    spare, one row is enough.
    """

    def __init__(
        self,
        max_delay: float,
        max_rows: int,
        cores: int,
        processor_time: Callable[[], float] = time.process_time,
    ) -> None:
        """Begin with no wait.

        Args:
            max_delay: seconds that the oldest row waits at most; 0: never.
            max_rows: rows of the largest batch.
            cores: that the process may use.
            processor_time: seconds of processor time that the process has taken so far, on all cores together.
        """
        self.max_delay = max_delay
        self._max_rows = max_rows
        self._cores = cores
        self._wanted = 1.0
        self._saturated = False
        self._processor_time = processor_time
        self._window_began, self._used = 0.0, 0.0

    def patience(self, rows: int, oldest: float, now: float) -> float:
        """Tell how many seconds ``rows`` rows, the oldest from ``oldest`` on, should still wait; 0: they run now."""
        if rows >= self._wanted:
            return 0.0
        return max(0.0, oldest + self.max_delay - now)

    def started(self, rows: int, now: float) -> None:
        """Learn from a batch that starts."""
        if not self.max_delay:
            return
        self._measure(now)
        if not self._saturated:
            self._wanted = 1.0
        elif rows >= self._wanted:
            self._wanted = min(float(self._max_rows), self._wanted * 1.25 + 1)
        else:
            self._wanted = max(1.0, (self._wanted + rows) / 2)

    def _measure(self, now: float) -> None:
        window = now - self._window_began
        if window < WINDOW_SECONDS:
            return
        used = self._processor_time()
        self._saturated = used - self._used > SATURATED * window * self._cores
        self._window_began, self._used = now, used
