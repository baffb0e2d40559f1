"""Makes the calls of one stage in one client process, and counts what comes back."""

from __future__ import annotations

import re
import select
import time
from collections.abc import Callable
from typing import Protocol

from armoire.load.connection import Answer
from armoire.load.link import Link
from armoire.load.order import Order
from armoire.load.pool import Pool
from armoire.load.status import Code
from armoire.load.tally import Tally

TICK_SECONDS = 0.1
# Of answers that came together, the callers of the first are not kept waiting by those of the last.
SEND_EVERY = 8
# A caller whose server has gone waits so long before the next call.
REST_SECONDS = 0.1
# gRPC servers tell the end of a deadline themselves; so much later nothing will come.
LATE_SECONDS = 0.5
# After an interruption, answers on the way have so long.
HURRY_SECONDS = 1.0
# Trailers that need decoding are decoded of so many answers, and then of every so many-th.
ALL_TIMED, EVERY = 100, 32
TIMING = re.compile(rb"queue=([\d.]+), run=([\d.]+)")


class Control(Protocol):
    """What the parent process says in the middle of a stage."""

    def fileno(self) -> int:
        """Give what select takes."""

    def stop_asked(self) -> bool:
        """Tell, when there is something to read, whether it means to stop."""


class Generator:
    """One stage."""

    def __init__(self, pool: Pool, order: Order, control: Control, watch: Callable[[int, int], None]) -> None:
        """Prepare; ``watch`` is told the calls answered and failed, several times a second."""
        self._pool, self._order, self._control, self._watch = pool, order, control, watch
        self._pace = order.pace()
        self._window = order.start + order.warm_up
        self._stop = self._window + order.seconds
        self._end = self._stop + order.timeout + LATE_SECONDS
        self._interrupted = self._full = False
        self._tally = Tally()
        self._done = self._failed = self._timed = 0
        self._idle = 0.0
        self._cpu: list[float] = []

    def run(self) -> Tally:
        """Make the calls, wait for the answers, and give the counts."""
        tick = self._order.start
        while True:
            now = self._send()
            if now >= tick:
                tick = now + TICK_SECONDS
                self._tick(now)
            self._watch_cpu(now)
            if now >= self._stop and (now >= self._end or not self._pool.unanswered):
                return self._finished()
            for source in self._wait(min(tick, self._next_event(now))):
                if isinstance(source, Link):
                    self._receive(source)
                elif self._control.stop_asked():
                    self._interrupt()

    def _next_event(self, now: float) -> float:
        if now < self._window:
            return min(self._pace.next, self._window)
        return min(self._pace.next, self._stop) if now < self._stop else self._end

    def _wait(self, until: float) -> list[Control | Link]:
        reading: list[Control | Link] = [*self._pool] if self._interrupted else [self._control, *self._pool]
        writing = [link for link in self._pool if link.sending]
        begun = time.monotonic()
        # Not epoll, which counts in milliseconds: a call must not be late by the client's own clock.
        readable, _, _ = select.select(reading, writing, (), max(0.0, until - begun))
        ended = time.monotonic()
        self._idle += max(0.0, min(ended, self._stop) - max(begun, self._window))
        return readable

    def _send(self) -> float:
        """Send what is due; give the time."""
        now = time.monotonic()
        self._send_due(now)
        for link in self._pool:
            link.flush()
        return now

    def _send_due(self, now: float) -> None:
        tally = self._tally
        while self._pace.next <= now and self._pace.next < self._stop and not self._full:
            due = self._pace.take(now)
            if due < self._window:
                tally.warm_up_calls += 1
            else:
                tally.calls += 1
                tally.sent_bytes += len(self._order.message)
                if self._order.rate:
                    tally.lag.record(now - due)
                if tally.calls >= self._order.most_calls:
                    self._full = True
                    self._cut(now)
            link = self._pool.next()
            if link is None:
                self._finish(Answer(due, Code.UNAVAILABLE, "no connection to the server"), now)
                continue
            link.call(due, self._order.message)
            if link.waiting and due >= self._window:
                tally.held += 1

    def _receive(self, link: Link) -> None:
        try:
            answers = link.receive()
        except ConnectionError as error:
            answers = link.abandon(str(error))
            self._pool.drop(link)
        now = time.monotonic()
        for number, answer in enumerate(answers, 1):
            self._finish(answer, now, link)
            if number % SEND_EVERY == 0:
                self._send()
        if link.leaving:
            self._pool.tend()

    def _finish(self, answer: Answer, now: float, link: Link | None = None) -> None:
        self._pace.answered(now + REST_SECONDS if answer.code == Code.UNAVAILABLE else now)
        tally, expected = self._tally, self._order.answer_bytes
        wrong_size = not answer.code and expected not in (None, answer.size)
        error = "WRONG_SIZE" if wrong_size else answer.code and answer.code.name
        self._done += 1
        if error:
            self._failed += 1
        elif self._window <= now < self._stop or (self._full and now >= self._window):
            tally.completed += 1
        if answer.key < self._window:
            return
        if not error:
            tally.answered += 1
            tally.received_bytes += answer.size
            tally.latency.record(now - answer.key)
            self._record_server(answer, link)
        else:
            tally.errors[error] += 1
            tally.examples.setdefault(error, answer.message or f"{answer.size} bytes came, not {expected}")

    def _record_server(self, answer: Answer, link: Link | None) -> None:
        found = TIMING.search(answer.trailers)
        if not found and link:
            # The text is not there as it stands: perhaps by Huffman, which takes longer to decode than all the rest.
            self._timed += 1
            if self._timed <= ALL_TIMED or self._timed % EVERY == 0:
                found = TIMING.search(link.fields(answer).get("armoire-timing", "").encode())
        if found:
            self._tally.queue.record(float(found[1]) / 1e3)
            self._tally.run.record(float(found[2]) / 1e3)

    def _tick(self, now: float) -> None:
        for link in list(self._pool):
            for answer in link.give_up(now - self._order.timeout - LATE_SECONDS):
                self._finish(answer, now)
        self._pool.tend()
        self._watch(self._done, self._failed)

    def _watch_cpu(self, now: float) -> None:
        """Read the CPU clock as the window opens and as it closes."""
        if (not self._cpu and now >= self._window) or (len(self._cpu) == 1 and now >= self._stop):
            self._cpu.append(time.process_time())

    def _cut(self, now: float) -> None:
        """Close the window early."""
        self._stop = max(now, self._window)
        self._end = self._stop + self._order.timeout + LATE_SECONDS

    def _interrupt(self) -> None:
        now = time.monotonic()
        self._interrupted = True
        if now < self._stop:
            self._cut(now)
        self._end = now + HURRY_SECONDS

    def _finished(self) -> Tally:
        for link in list(self._pool):
            for answer in link.give_up(float("inf")):
                if not self._interrupted:
                    self._finish(answer, self._end)
            link.flush()
        tally = self._tally
        # A stage that has all its calls ends with the last answer.
        tally.seconds = (time.monotonic() if self._full else self._stop) - self._window
        if tally.seconds > 0:
            tally.busy = max(0.0, 1 - self._idle / tally.seconds)
            tally.cpu = (self._cpu[1] - self._cpu[0]) / tally.seconds if len(self._cpu) == 2 else 0.0
        return tally
