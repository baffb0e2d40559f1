"""Rows in, rows out: the rows of concurrent calls meet in one queue and run as batches.

While the lanes run, rows gather; what waits when one frees is the next batch (armoire.engine.line says whose rows).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from functools import partial

from armoire.arrays import Array
from armoire.engine.lanes import Lanes
from armoire.engine.line import Line
from armoire.engine.pacing import Pacer
from armoire.engine.speed import Speed
from armoire.engine.tickets import Batch, Call, Cost, Engine, Observer, Outputs, Slice, Ticket
from armoire.errors import DeadlineExceeded, Internal, Overloaded
from armoire.metrics import GraphMetrics

logger = logging.getLogger(__name__)
# A call is let in where its deadline leaves so many times the wait that is before it: what comes a moment too late has
# cost as much as what comes in time, and a queue of two thirds of a deadline keeps the engine as busy as a whole one.
MARGIN = 1.5


class _Missed(DeadlineExceeded):
    """Its time was over in the queue: no refusal, since it had been taken."""

    reason = ""


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
        observer: Observer | None = None,
    ) -> None:
        """Wire a queue.

        Args:
            engine: runs batches of up to ``cost.max_batch`` rows.
            cost: measured on ``engine``.
            lanes: where batches run; other queues may use them too.
            max_queue_rows: the most unanswered rows.
            metrics: where to count.
            pacer: says when a batch waits for more rows; None: never.
            observer: is told of batches and of calls that leave.
        """
        self.cost = cost
        self.failures = 0  # batches
        self._engine = engine
        self._lanes = lanes
        self._pacer = pacer or Pacer(0.0, cost.max_batch, lanes.count)
        self._max_queue_rows = max_queue_rows
        self._metrics = metrics
        self._observer = observer
        self._line = Line()
        self._speed = Speed(lanes.count)
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
        ticket = Ticket(rows, call, loop.create_future())
        self._line.add(ticket)
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
            if self._observer is not None:
                self._observer.left(ticket)

    def _admit(self, rows: int, call: Call) -> None:
        pending = self._pending_rows
        if pending + rows > self._max_queue_rows:
            backlog = self._seconds(pending)
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
        patience = (remaining - alone / self._speed.now) / MARGIN
        # Where nothing is before it, no speed that was learnt when there was says that it will be late.
        if not pending or self._seconds(pending) <= patience:
            return
        # Most of it may be of large calls, which this one does not wait for.
        backlog = self._seconds(pending - self._queued_rows + self._line.ahead(rows))
        if backlog > patience:
            raise Overloaded(
                f"the queue takes {backlog:.3f} s and the deadline leaves {remaining:.3f} s; try again later",
                backlog,
            )

    def _seconds(self, rows: int) -> float:
        """Tell how long so many rows take, as fast as batches go now."""
        return self.cost.seconds(rows) / (self._lanes.count * self._speed.now)

    def _count_pending(self, rows: int) -> None:
        self._pending_rows += rows
        # Not set: two versions of a model share the gauge.
        self._metrics.pending_rows.inc(rows)

    def _pump(self) -> None:
        """Start batches while there are rows and lanes for them."""
        self._pump_is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._line:
            if not self._lanes.free:
                self._lanes.when_free(self._pump)
                return
            now = time.monotonic()
            patience = self._pacer.patience(self._queued_rows, self._line.oldest(), now)
            if patience > 0:
                self._timer = asyncio.get_running_loop().call_later(patience, self._pump)
                return
            # Free lanes share what there is. Callers that have gone leave tickets without rows in the queue.
            share = max(1, -(-self._queued_rows // self._lanes.free))
            slices = self._take(min(self.cost.max_batch, share), now)
            if slices:
                batch = Batch(slices, self._engine)
                self._pacer.started(batch.rows, now)
                self._lanes.run(batch.run, partial(self._finish, batch))

    def _take(self, limit: int, now: float) -> list[Slice]:
        slices = self._line.take(limit, now, self._can_run)
        for part in slices:
            self._queued_rows -= len(part)
            if part.first == 0:
                part.ticket.taken = now
                part.ticket.call.queued(part.ticket.arrived, now)
                self._metrics.queue_duration.observe(now - part.ticket.arrived, part.ticket.call.trace)
        return slices

    def _can_run(self, ticket: Ticket, now: float) -> bool:
        """Whether the caller is still there and has time; else the ticket is dropped."""
        late = ticket.call.deadline is not None and ticket.call.deadline <= now
        if not (late or ticket.future.done()):
            return True
        if late:
            self._metrics.deadline_missed.inc()
            ticket.fail(_Missed("the deadline passed in the queue"))
        self._drop(ticket)
        return False

    def _drop(self, ticket: Ticket) -> None:
        """Take what no batch has taken, for nobody."""
        self._queued_rows -= ticket.left
        ticket.drop()

    def _finish(self, batch: Batch, error: Exception | None) -> None:
        padding = self._engine.padding(batch.rows)
        if error is None:
            batch.answer()
            work = self.cost.seconds(batch.rows)
            self._speed.did(work, time.monotonic(), saturated=self._queued_rows > 0)
            exemplar = self._tell(batch, padding, None)
            self._metrics.inference_duration.observe(batch.ended - batch.started, exemplar)
            self._metrics.batch_rows.observe(batch.rows)
            self._metrics.rows.inc(batch.rows)
            if padding:
                self._metrics.padding_rows.inc(padding)
        else:
            self.failures += 1
            self._metrics.failed_batches.inc()
            incident = secrets.token_hex(4)
            logger.error(
                "a batch of %d calls failed, incident %s", len(batch.slices), incident, exc_info=error
            )
            batch.fail(
                Internal(f"the graph failed; the server's log has the traceback under incident {incident}")
            )
            self._tell(batch, padding, error)
        if self._line:
            self._lanes.when_free(self._pump)

    def _tell(self, batch: Batch, padding: int, error: Exception | None) -> dict[str, str] | None:
        return None if self._observer is None else self._observer.ran(batch, padding, error)
