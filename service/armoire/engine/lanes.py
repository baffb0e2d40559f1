"""Threads that run batches beside the event loop, one batch at a time each."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

Job = Callable[[], None]
T = TypeVar("T")
WAIT_SECONDS = 1.0


class Lanes:
    """As many threads as batches may run side by side, shared by all graphs of a server.

    ONNX Runtime lets go of the GIL while it runs. Everything but ``run``'s work happens on the event loop.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = count
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._waiting: deque[Callable[[], None]] = deque()
        self._closing = threading.Lock()
        self._closed = False
        self._numbers = itertools.count()
        self._began: dict[int, float] = {}  # batches
        self._called: dict[int, float] = {}
        # Daemons: a batch that never ends must not keep a process alive that was told to stop.
        for number in range(count):
            threading.Thread(target=self._work, name=f"lane-{number}", daemon=True).start()

    def run(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Run ``work`` in a free lane, then ``done`` on the event loop with what ``work`` raised, or None."""
        assert self.free, "no lane is free"
        self.free -= 1
        number, loop = next(self._numbers), asyncio.get_running_loop()
        self._jobs.put(partial(self._run, number, loop, work, partial(self._leave, number, done)))

    def longest(self) -> float:
        """Tell for how many seconds the oldest of the batches that run has been running."""
        return time.monotonic() - min(list(self._began.values()), default=float("inf"))

    def longest_call(self) -> float:
        """Tell the same of what ``call`` runs."""
        return time.monotonic() - min(list(self._called.values()), default=float("inf"))

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a lane and wait for what it gives; from a thread that is no event loop's.

        What a library keeps for each thread (ONNX Runtime its CUDA graphs) is then there when batches come.

        Raises:
            RuntimeError: the lanes are closed.
        """
        future: Future[T] = Future()
        number = next(self._numbers)

        def job() -> None:
            self._called[number] = time.monotonic()
            try:
                future.set_result(work())
            except BaseException as error:  # handed over, not swallowed
                future.set_exception(error)
            finally:
                del self._called[number]

        with self._closing:
            if self._closed:
                raise RuntimeError("the lanes are closed")
            self._jobs.put(job)
        while True:
            # In steps: where a batch that never ends is before it, nobody shall wait for it once the lanes are closed.
            with contextlib.suppress(TimeoutError):
                return future.result(WAIT_SECONDS)
            if future.done():
                return future.result()
            if self._closed:
                raise RuntimeError("the lanes are closed")

    def when_free(self, start: Callable[[], None]) -> None:
        """Call ``start`` once, when a lane is free and it is its turn."""
        if start not in self._waiting:
            self._waiting.append(start)

    def close(self) -> None:
        """End the threads, once they are free."""
        with self._closing:
            self._closed = True
            for _ in range(self.count):
                self._jobs.put(None)

    def _work(self) -> None:
        while job := self._jobs.get():
            job()
            # While it waits for the next one: the last batch's arrays and its graph would be kept.
            del job

    def _run(
        self,
        number: int,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[], None],
        leave: Callable[[Exception | None], None],
    ) -> None:
        self._began[number] = time.monotonic()
        error: Exception | None = None
        try:
            work()
        except Exception as raised:  # handed over, not swallowed
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            loop.call_soon_threadsafe(leave, error)

    def _leave(self, number: int, done: Callable[[Exception | None], None], error: Exception | None) -> None:
        self.free += 1
        del self._began[number]
        done(error)
        while self.free and self._waiting:
            self._waiting.popleft()()
