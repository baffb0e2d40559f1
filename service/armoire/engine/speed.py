"""How fast batches go now, as a share of what was measured on an idle machine."""

from __future__ import annotations

# A look at the speed takes so long: many batches, and soon enough for a queue of a second.
WINDOW_SECONDS = 0.1
# The weight of the newest look, and what a batch that nobody waited behind takes off the distance to full speed.
NEWEST, RECOVERY = 0.3, 0.05
SLOWEST = 0.01


class Speed:
    """Learns from the batches of one queue, while rows wait behind them.

    Other graphs on the same lanes, other processes on the same cores and the calls' own work all make a queue slower
    than its graph was alone; what a queue is told to take has to be divided by this, or calls are let in that end too
    late, and the time for them is lost to those that would have been answered.
    """

    def __init__(self, lanes: int) -> None:
        """Begin at full speed; ``lanes`` is how many batches may run side by side."""
        self.now = 1.0
        self._lanes = lanes
        self._began: float | None = None
        self._work = 0.0

    def did(self, work: float, now: float, *, saturated: bool) -> None:
        """Learn from a batch that has run.

        Args:
            work: seconds that such a batch takes on an idle machine.
            now: on the clock of time.monotonic().
            saturated: whether rows are waiting for a lane.
        """
        if not saturated:
            self._began = None
            self.now += RECOVERY * (1 - self.now)
        elif self._began is None:
            self._began, self._work = now, 0.0
        else:
            self._work += work
            if (elapsed := now - self._began) >= WINDOW_SECONDS:
                seen = min(1.0, max(SLOWEST, self._work / (elapsed * self._lanes)))
                self.now += NEWEST * (seen - self.now)
                self._began, self._work = now, 0.0
