"""Rows in, rows out: the rows of concurrent calls meet in one queue and run as one batch.

There is no timer. While the engine runs, rows gather; what waits when it frees is the next batch. A call
larger than a batch takes its turn with the others, a batch at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from armoire.arrays import Array
from armoire.errors import DeadlineExceeded, Internal, Overloaded
from armoire.metrics import GraphMetrics

logger = logging.getLogger(__name__)

Outputs = tuple[Array, ...]
Run = Callable[[Array], Outputs]


@dataclass
class Call:
    """What a caller brings along, and what the call has cost so far.

    Attributes:
        deadline: on the clock of time.monotonic(), in seconds; None: the caller waits for ever.
        queue_seconds: the time in which rows of this call waited for their first batch.
        run_seconds: the time in which a batch with rows of this call ran. What happens side by side counts once.
    """

    deadline: float | None = None
    queue_seconds: float = 0.0
    run_seconds: float = 0.0
    _queued_until: float = 0.0
    _ran_until: float = 0.0

    def queued(self, start: float, end: float) -> None:
        """Add a wait, on the clock of time.monotonic()."""
        self.queue_seconds += max(0.0, end - max(start, self._queued_until))
        self._queued_until = max(end, self._queued_until)

    def ran(self, start: float, end: float) -> None:
        """Add a batch, on the clock of time.monotonic()."""
        self.run_seconds += max(0.0, end - max(start, self._ran_until))
        self._ran_until = max(end, self._ran_until)

    def remaining(self) -> float:
        """Give the seconds left, infinity without a deadline."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()


@dataclass(frozen=True)
class Cost:
    """The measured seconds of a batch: ``fixed`` + rows x ``per_row``, at most ``max_batch`` rows at once."""

    fixed: float
    per_row: float
    max_batch: int

    def seconds(self, rows: int) -> float:
        """Tell how long ``rows`` rows take, in as many batches as they need."""
        return -(-rows // self.max_batch) * self.fixed + rows * self.per_row


@dataclass(eq=False)
class _Ticket:
    """One call's rows on their way through the queue."""

    rows: Array
    call: Call
    future: asyncio.Future[Outputs]
    arrived: float = field(default_factory=time.monotonic)
    taken: int = 0
    outputs: Outputs | None = None
    done: int = 0

    def deliver(self, first: int, parts: Outputs) -> None:
        """Take the outputs of rows ``first`` on; with the last of them the call is answered."""
        count = len(parts[0])
        if count == len(self.rows):
            outputs = parts  # views into the batch: nothing is copied
        else:
            if self.outputs is None:
                self.outputs = tuple(np.empty((len(self.rows), *p.shape[1:]), p.dtype) for p in parts)
            outputs = self.outputs
            for whole, part in zip(outputs, parts, strict=True):
                whole[first : first + count] = part
        self.done += count
        if self.done == len(self.rows) and not self.future.done():
            self.future.set_result(outputs)


class Batcher:
    """The queue in front of one graph, on one event loop."""

    def __init__(
        self,
        run: Run,
        cost: Cost,
        *,
        max_queue_rows: int,
        metrics: GraphMetrics,
        padding: Callable[[int], int] = lambda _: 0,
    ) -> None:
        """Wire a queue.

        Args:
            run: [n, ...] -> arrays [n, ...], for n up to ``cost.max_batch``; called in a thread of its own.
            cost: measured on ``run``.
            max_queue_rows: the most unanswered rows.
            metrics: where to count.
            padding: how many rows ``run`` adds to a batch of so many.
        """
        self.cost = cost
        self._run = run
        self._padding = padding
        self._max_queue_rows = max_queue_rows
        self._metrics = metrics
        self._queue: deque[_Ticket] = deque()
        self._pending_rows = 0
        self._work: asyncio.Task[None] | None = None
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="engine")

    async def submit(self, rows: Array, call: Call) -> Outputs:
        """Run ``rows`` [n, ...] in batches with other calls' rows; give arrays [n, ...], perhaps views.

        Raises:
            DeadlineExceeded: the deadline is over, or shorter than the rows take on an idle server.
            Overloaded: the queue is full, or the deadline is out of reach because of it.
            Internal: the graph failed.
        """
        self._admit(len(rows), call)
        ticket = _Ticket(rows, call, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._pending_rows += len(rows)
        self._metrics.pending_rows.inc(len(rows))
        if self._work is None:
            self._work = asyncio.create_task(self._work_off())
        try:
            return await ticket.future
        finally:
            # Reached by an answer, a failure and a cancelled caller alike.
            self._pending_rows -= len(rows)
            self._metrics.pending_rows.dec(len(rows))

    def close(self) -> None:
        """Let go of the engine's thread, once nothing is queued any more."""
        self._engine.shutdown(wait=False, cancel_futures=True)

    def _admit(self, rows: int, call: Call) -> None:
        remaining = call.remaining()
        alone = self.cost.seconds(rows)
        if remaining < alone:
            raise DeadlineExceeded(
                f"the deadline leaves {max(remaining, 0) * 1e3:.1f} ms; {rows} rows take {alone * 1e3:.1f} ms "
                "on an idle server"
            )
        backlog = self.cost.seconds(self._pending_rows)
        if self._pending_rows + rows > self._max_queue_rows:
            raise Overloaded(
                f"{self._pending_rows} rows are waiting and {rows} more pass max_queue_rows = "
                f"{self._max_queue_rows}; try again in {backlog:.3f} s",
                backlog,
            )
        if remaining < backlog + alone:
            raise Overloaded(
                f"the queue takes {backlog:.3f} s and the deadline leaves {remaining:.3f} s; try again later",
                backlog,
            )

    async def _work_off(self) -> None:
        """Run batch after batch until the queue is empty."""
        loop = asyncio.get_running_loop()
        # One turn of the loop first: calls that arrived with this one come into the first batch.
        await asyncio.sleep(0)
        try:
            while batch := self._next_batch():
                started = time.monotonic()
                try:
                    outputs = await loop.run_in_executor(self._engine, self._run, _gather(batch))
                    self._hand_out(batch, outputs, started)
                except Exception:
                    logger.exception("a batch of %d calls failed", len(batch))
                    for ticket, _, _ in batch:
                        if not ticket.future.done():
                            ticket.future.set_exception(
                                Internal("the graph failed; the server's log says why")
                            )
        finally:
            self._work = None

    def _next_batch(self) -> list[tuple[_Ticket, int, int]]:
        """Take (ticket, from, to) until a batch is full; what a ticket has left goes to the queue's end."""
        batch: list[tuple[_Ticket, int, int]] = []
        space, now = self.cost.max_batch, time.monotonic()
        unfinished = []
        while space and self._queue:
            ticket = self._queue.popleft()
            if ticket.future.done():  # the caller has gone away, or an earlier part of it failed
                if ticket.call.remaining() <= 0:
                    self._metrics.deadline_missed.inc()
                continue
            if ticket.call.deadline is not None and ticket.call.deadline <= now:
                self._metrics.deadline_missed.inc()
                ticket.future.set_exception(DeadlineExceeded("the deadline passed in the queue"))
                continue
            if not ticket.taken:
                ticket.call.queued(ticket.arrived, now)
                self._metrics.queue_duration.observe(now - ticket.arrived)
            first, last = ticket.taken, min(ticket.taken + space, len(ticket.rows))
            batch.append((ticket, first, last))
            ticket.taken = last
            space -= last - first
            if last < len(ticket.rows):
                unfinished.append(ticket)
        self._queue.extend(unfinished)
        return batch

    def _hand_out(self, batch: Sequence[tuple[_Ticket, int, int]], outputs: Outputs, started: float) -> None:
        start, ended = 0, time.monotonic()
        wanted = sum(last - first for _, first, last in batch)
        if any(len(output) != wanted for output in outputs):
            raise RuntimeError(f"the graph gave {[len(output) for output in outputs]} rows for {wanted}")
        for ticket, first, last in batch:
            stop = start + last - first
            ticket.call.ran(started, ended)
            ticket.deliver(first, tuple(output[start:stop] for output in outputs))
            start = stop
        self._metrics.inference_duration.observe(ended - started)
        self._metrics.batch_rows.observe(wanted)
        self._metrics.rows.inc(wanted)
        self._metrics.padding_rows.inc(self._padding(wanted))


def _gather(batch: Sequence[tuple[_Ticket, int, int]]) -> Array:
    if len(batch) == 1:
        ticket, first, last = batch[0]
        return ticket.rows[first:last]
    return np.concatenate([ticket.rows[first:last] for ticket, first, last in batch])
