"""Rows in, rows out: the rows of concurrent calls meet in one queue and run as batches.

While the lanes run, rows gather; what waits when one frees is the next batch. A call larger than a batch shares
every batch fairly with the others.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Protocol

from armoire.arrays import Array
from armoire.engine.lanes import Lanes
from armoire.engine.pacing import Pacer
from armoire.errors import ArmoireError, DeadlineExceeded, Internal, Overloaded
from armoire.metrics import GraphMetrics

logger = logging.getLogger(__name__)

Outputs = tuple[Array, ...]


class Engine(Protocol):
    """What runs batches."""

    def empty(self, rows: int) -> Outputs:
        """Give arrays for the outputs of ``rows`` rows, [rows, ...] each."""

    def run(self, parts: Sequence[Array], into: Outputs) -> None:
        """Run the rows of ``parts``, one array after the other, and write their outputs; from any lane."""

    def padding(self, rows: int) -> int:
        """Tell how many rows ``run`` adds to a batch of so many."""


@dataclass
class Call:
    """What a caller brings along, and what the call has cost so far.

    Attributes:
        deadline: on the clock of time.monotonic(), in seconds; None: the caller waits for ever.
        queue_seconds: the time in which rows of this call waited for their first batch.
        run_seconds: the time in which a batch with rows of this call ran. What happens side by side counts once.
        later: measured seconds of what the call will ask of other graphs after this one.
    """

    deadline: float | None = None
    later: float = 0.0
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
    """The seconds of a batch on one lane: ``fixed`` + rows x ``per_row``, at most ``max_batch`` rows at once.

    ``measured`` is what the line was drawn through: rows to seconds.
    """

    fixed: float
    per_row: float
    max_batch: int
    measured: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))

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
    done: int = 0
    outputs: Outputs | None = None

    @property
    def left(self) -> int:
        """Rows that no batch has taken yet."""
        return len(self.rows) - self.taken

    def finish(self, rows: int, outputs: Outputs | None) -> None:
        """Count rows as done; with the last of them ``outputs`` is the answer."""
        self.done += rows
        if self.done == len(self.rows) and not self.future.done():
            assert outputs is not None
            self.future.set_result(outputs)

    def fail(self, error: ArmoireError) -> None:
        """Answer the call with an error."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(eq=False)
class _Slice:
    """Rows ``first`` to ``last`` of a ticket, as part of a batch."""

    ticket: _Ticket
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def whole(self) -> bool:
        """Whether it is all that the ticket has."""
        return len(self) == len(self.ticket.rows)


class _Batch:
    """Slices that run together."""

    def __init__(self, slices: Sequence[_Slice], engine: Engine) -> None:
        self.slices = slices
        self.rows = sum(map(len, slices))
        self.started = self.ended = 0.0
        self._engine = engine
        for part in slices:
            if not part.whole and part.ticket.outputs is None:
                part.ticket.outputs = engine.empty(len(part.ticket.rows))
        # A part of one call is written straight to its place in the answer; other batches are answered by views.
        alone = len(slices) == 1 and not slices[0].whole
        self.outputs = _cut(slices[0].ticket.outputs, slices[0]) if alone else engine.empty(self.rows)

    def run(self) -> None:
        """Run the rows, in a lane."""
        self.started = time.monotonic()
        parts = [part.ticket.rows[part.first : part.last] for part in self.slices]
        self._engine.run(parts, self.outputs)
        for part, outputs in self._with_outputs():
            if not part.whole and len(self.slices) > 1:
                for place, output in zip(_cut(part.ticket.outputs, part), outputs, strict=True):
                    place[:] = output
        self.ended = time.monotonic()

    def answer(self) -> None:
        """Tell the calls what ran, on the event loop."""
        for part, outputs in self._with_outputs():
            part.ticket.call.ran(self.started, self.ended)
            part.ticket.finish(len(part), outputs if part.whole else part.ticket.outputs)

    def fail(self, error: ArmoireError) -> None:
        """Tell the calls that they have no answer."""
        for part in self.slices:
            part.ticket.fail(error)

    def _with_outputs(self) -> Iterator[tuple[_Slice, Outputs]]:
        start = 0
        for part in self.slices:
            yield part, tuple(output[start : start + len(part)] for output in self.outputs)
            start += len(part)


def _cut(outputs: Outputs | None, part: _Slice) -> Outputs:
    assert outputs is not None, "a call in parts has its answer allocated before its first batch"
    return tuple(output[part.first : part.last] for output in outputs)


class Batcher:
    """The queue in front of one graph, on one event loop."""

    def __init__(
        self,
        engine: Engine,
        cost: Cost,
        lanes: Lanes,
        *,
        max_queue_rows: int,
        metrics: GraphMetrics,
        pacer: Pacer | None = None,
    ) -> None:
        """Wire a queue.

        Args:
            engine: runs batches of up to ``cost.max_batch`` rows.
            cost: measured on ``engine``.
            lanes: where batches run; other queues may use them too.
            max_queue_rows: the most unanswered rows.
            metrics: where to count.
            pacer: says when a batch waits for more rows; None: never.
        """
        self.cost = cost
        self._engine = engine
        self._lanes = lanes
        self._pacer = pacer or Pacer(0.0, cost.max_batch, lanes.count)
        self._max_queue_rows = max_queue_rows
        self._metrics = metrics
        self._queue: deque[_Ticket] = deque()
        self._pending_rows = 0  # not yet answered
        self._queued_rows = 0  # of these, in no batch yet
        self._pump_is_due = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def lanes(self) -> int:
        """How many batches may run side by side."""
        return self._lanes.count

    @property
    def longest_delay(self) -> float:
        """Seconds that a batch may wait for more rows."""
        return self._pacer.max_delay

    async def submit(self, rows: Array, call: Call) -> Outputs:
        """Run ``rows`` [n, ...] in batches with other calls' rows; give arrays [n, ...], perhaps views.

        Raises:
            DeadlineExceeded: the deadline is over, or shorter than the rows take on an idle server.
            Overloaded: the queue is full, or the deadline is out of reach because of it.
            Internal: the graph failed.
        """
        count = len(rows)
        self._admit(count, call)
        loop = asyncio.get_running_loop()
        ticket = _Ticket(rows, call, loop.create_future())
        self._queue.append(ticket)
        self._queued_rows += count
        self._count_pending(count)
        if not self._pump_is_due:
            # One turn of the loop later: calls that arrived with this one come into the same batch.
            self._pump_is_due = True
            loop.call_soon(self._pump)
        try:
            return await ticket.future
        finally:
            # Reached by an answer, a failure and a cancelled caller alike.
            self._count_pending(-count)
            self._drop(ticket)

    def _admit(self, rows: int, call: Call) -> None:
        pending = self._pending_rows
        if pending + rows > self._max_queue_rows:
            backlog = self._backlog()
            raise Overloaded(
                f"{pending} rows are waiting and {rows} more pass max_queue_rows = "
                f"{self._max_queue_rows}; try again in {backlog:.3f} s",
                backlog,
            )
        if call.deadline is None:
            return
        remaining, alone = call.remaining(), self.cost.seconds(rows) + call.later
        if remaining < alone:
            what = f"{rows} rows and what follows" if call.later else f"{rows} rows"
            raise DeadlineExceeded(
                f"the deadline leaves {max(remaining, 0) * 1e3:.1f} ms; {what} take {alone * 1e3:.1f} ms "
                "on an idle server"
            )
        backlog = self._backlog()
        if remaining < backlog + alone:
            raise Overloaded(
                f"the queue takes {backlog:.3f} s and the deadline leaves {remaining:.3f} s; try again later",
                backlog,
            )

    def _backlog(self) -> float:
        """Tell how many seconds the unanswered rows take."""
        return self.cost.seconds(self._pending_rows) / self._lanes.count

    def _count_pending(self, rows: int) -> None:
        self._pending_rows += rows
        self._metrics.pending_rows.set(self._pending_rows)

    def _pump(self) -> None:
        """Start batches while there are rows and lanes for them."""
        self._pump_is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            if not self._lanes.free:
                self._lanes.when_free(self._pump)
                return
            now = time.monotonic()
            patience = self._pacer.patience(self._queued_rows, self._queue[0].arrived, now)
            if patience > 0:
                self._timer = asyncio.get_running_loop().call_later(patience, self._pump)
                return
            # Free lanes share what there is. Callers that have gone leave tickets without rows in the queue.
            share = max(1, -(-self._queued_rows // self._lanes.free))
            slices = self._take(min(self.cost.max_batch, share), now)
            if slices:
                batch = _Batch(slices, self._engine)
                self._pacer.started(batch.rows, now)
                self._lanes.run(batch.run, partial(self._finish, batch))

    def _take(self, limit: int, now: float) -> list[_Slice]:
        """Take up to ``limit`` rows: an equal share for each waiting call, and what is left over to the first ones."""
        tickets: list[_Ticket] = []
        while self._queue and len(tickets) < limit:
            ticket = self._queue.popleft()
            if self._can_run(ticket, now):
                tickets.append(ticket)
        share = limit // max(1, len(tickets))
        spare = limit - sum(min(share, ticket.left) for ticket in tickets)
        slices = []
        for ticket in tickets:
            if not ticket.taken:
                ticket.call.queued(ticket.arrived, now)
                self._metrics.queue_duration.observe(now - ticket.arrived)
            count = min(ticket.left, share + spare)
            spare -= max(0, count - share)
            slices.append(_Slice(ticket, ticket.taken, ticket.taken + count))
            ticket.taken += count
            self._queued_rows -= count
        self._queue.extend(ticket for ticket in tickets if ticket.left)
        return slices

    def _can_run(self, ticket: _Ticket, now: float) -> bool:
        """Whether the caller is still there and has time; else the ticket is dropped."""
        late = ticket.call.deadline is not None and ticket.call.deadline <= now
        if not (late or ticket.future.done()):
            return True
        if late:
            self._metrics.deadline_missed.inc()
            ticket.fail(DeadlineExceeded("the deadline passed in the queue"))
        self._drop(ticket)
        return False

    def _drop(self, ticket: _Ticket) -> None:
        """Take what no batch has taken, for nobody."""
        self._queued_rows -= ticket.left
        ticket.taken = len(ticket.rows)

    def _finish(self, batch: _Batch, error: Exception | None) -> None:
        if error is None:
            batch.answer()
            self._metrics.inference_duration.observe(batch.ended - batch.started)
            self._metrics.batch_rows.observe(batch.rows)
            self._metrics.rows.inc(batch.rows)
            self._metrics.padding_rows.inc(self._engine.padding(batch.rows))
        else:
            incident = secrets.token_hex(4)
            logger.error(
                "a batch of %d calls failed, incident %s", len(batch.slices), incident, exc_info=error
            )
            batch.fail(
                Internal(f"the graph failed; the server's log has the traceback under incident {incident}")
            )
        if self._queue:
            self._lanes.when_free(self._pump)
