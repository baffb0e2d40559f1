"""Makes the calls of one stage in one client process, and counts what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable

import grpc.aio

from armoire.load.channels import Call, Channels
from armoire.load.order import Order
from armoire.load.tally import Tally

TICK_SECONDS = 0.1
# Of the timers of an event loop.
TIMER_SECONDS = 0.001
# A caller whose server has gone waits so long before the next call.
REST_SECONDS = 0.1
# After an interruption, answers on the way have so long.
HURRY_SECONDS = 1.0
TIMING = re.compile(r"queue=([\d.]+), run=([\d.]+)")


class Generator:
    """One stage."""

    def __init__(self, channels: Channels, order: Order, watch: Callable[[int, int], None]) -> None:
        """Prepare; ``watch`` is told the calls answered and failed, several times a second."""
        self._channels, self._order, self._watch = channels, order, watch
        self._window = order.start + order.warm_up
        self._stop = self._window + order.seconds
        self._over = asyncio.Event()  # before its time: all calls are made, or interrupted
        self._full = False
        self._tally = Tally()
        self._done = self._failed = 0
        self._calls: asyncio.Task[None] | None = None

    async def run(self) -> Tally:
        """Make the calls, wait for the answers, and give the counts."""
        await self._until(self._order.start)
        self._calls = asyncio.create_task(self._closed_loop() if self._order.callers else self._open_loop())
        ticks = asyncio.create_task(self._tick())
        await self._until(self._window)
        began, cpu = time.monotonic(), time.process_time()
        await self._until(self._stop)
        tally = self._tally
        tally.cpu = (time.process_time() - cpu) / (time.monotonic() - began)
        with contextlib.suppress(asyncio.CancelledError):  # interrupted
            await self._calls
        ticks.cancel()
        # A stage that has all its calls ends with the last answer.
        tally.seconds = max(0.0, (time.monotonic() if self._full else self._stop) - self._window)
        return tally

    def interrupt(self) -> None:
        """Make no more calls, and wait for those in flight no longer than HURRY_SECONDS."""
        self._cut()
        if self._calls:
            asyncio.get_running_loop().call_later(HURRY_SECONDS, self._calls.cancel)

    def _cut(self) -> None:
        """Close the window early."""
        self._stop = min(self._stop, time.monotonic())
        self._over.set()

    async def _until(self, moment: float) -> None:
        """Sleep until then, not a millisecond less as a timer may, or until the stage is over."""
        while not self._over.is_set() and (wait := moment - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), wait)

    async def _tick(self) -> None:
        while True:
            self._watch(self._done, self._failed)
            await asyncio.sleep(TICK_SECONDS)

    async def _closed_loop(self) -> None:
        async with asyncio.TaskGroup() as callers:
            for _ in range(self._order.callers):
                callers.create_task(self._caller())

    async def _caller(self) -> None:
        while not self._over.is_set() and (now := time.monotonic()) < self._stop:
            self._count(now)
            if await self._call(now) == "UNAVAILABLE":
                await asyncio.sleep(REST_SECONDS)

    async def _open_loop(self) -> None:
        """Send what is due at each waking: the timers of an event loop count in milliseconds."""
        now = time.monotonic()
        async with asyncio.TaskGroup() as calls:
            for due in self._order.arrivals():
                if due >= self._stop:
                    return
                while due > now:
                    wait = due - time.monotonic()
                    # Of less than a tick an event loop makes none, and spins; nothing lets the calls just made begin.
                    await asyncio.sleep(max(wait, TIMER_SECONDS) if wait > 0 else 0)
                    now = time.monotonic()
                if self._over.is_set():
                    return
                self._count(due)
                calls.create_task(self._call(due))

    def _count(self, due: float) -> None:
        tally = self._tally
        if due < self._window:
            tally.warm_up_calls += 1
            return
        tally.calls += 1
        tally.sent_bytes += len(self._order.message)
        if tally.calls >= self._order.most_calls:
            self._full = True
            self._cut()

    async def _call(self, due: float) -> str | None:
        """Make a call that was due then, count its answer, and give its error's name."""
        tally, expected = self._tally, self._order.answer_bytes
        if self._order.rate and due >= self._window:
            tally.lag.record(time.monotonic() - due)
        call = self._channels.call(self._order.message)
        answer, text = b"", ""
        error: str | None = None
        try:
            answer = await call
        except grpc.aio.AioRpcError as failure:
            error, text = failure.code().name, failure.details() or ""
        now = time.monotonic()
        if not error and expected not in (None, len(answer)):
            error, text = "WRONG_SIZE", f"{len(answer)} bytes came, not {expected}"
        self._done += 1
        self._failed += error is not None
        if not error and self._window <= now and (now < self._stop or self._full):
            tally.completed += 1
        if due < self._window:
            return error
        if error:
            tally.errors[error] += 1
            tally.failure.record(now - due)
            tally.examples.setdefault(error, text)
        else:
            tally.answered += 1
            tally.received_bytes += len(answer)
            tally.latency.record(now - due)
            await self._record_server(call)
        return error

    async def _record_server(self, call: Call) -> None:
        told = str((await call.trailing_metadata()).get("armoire-timing", ""))
        if found := TIMING.search(told):
            self._tally.queue.record(float(found[1]) / 1e3)
            self._tally.run.record(float(found[2]) / 1e3)
