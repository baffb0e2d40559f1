"""What a process holds, once a second."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple, Self

from tests.soak.process import sample

INTERVAL_SECONDS = 1.0


class Point(NamedTuple):
    """What a process held, so many seconds after the first look."""

    seconds: float
    rss_bytes: int
    fds: int
    threads: int


class Sampler:
    """Looks at a process from a thread, while its block runs."""

    def __init__(self, pid: int, interval: float = INTERVAL_SECONDS) -> None:
        self.points: list[Point] = []
        self._pid, self._interval = pid, interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        began = due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            now = sample(self._pid)
            self.points.append(Point(time.monotonic() - began, now.rss_bytes, now.fds, now.threads))
            due += self._interval
