"""What goes through the queue in front of a graph: a call's rows as a ticket, slices of tickets as a batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import numpy as np

from armoire.arrays import Array
from armoire.errors import ArmoireError

Outputs = tuple[Array, ...]
NO_ROWS = np.empty(0, np.float32)


class Engine(Protocol):
    """What runs batches."""

    def empty(self, rows: int) -> Outputs:
        """Give arrays for the outputs of ``rows`` rows, [rows, ...] each."""

    def run(self, parts: Sequence[Array], into: Outputs) -> None:
        """Run the rows of ``parts``, one array after the other, and write their outputs; from any lane."""

    def padding(self, rows: int) -> int:
        """Tell how many rows ``run`` adds to a batch of so many."""


class Observer(Protocol):
    """Who is told what became of the rows in front of one graph, on the event loop."""

    def ran(self, batch: Batch, padding: int, error: Exception | None) -> dict[str, str] | None:
        """Hear of a batch that ran, or failed; give the labels of an exemplar of its time, None for none."""

    def left(self, ticket: Ticket) -> None:
        """Hear of a call that leaves: answered, failed, or gone before that."""


@dataclass
class Call:
    """What a caller brings along, and what the call has cost so far.

    Attributes:
        deadline: on the clock of time.monotonic(), in seconds; None: the caller waits for ever.
        queue_seconds: the time in which rows of this call waited for their first batch.
        run_seconds: the time in which a batch with rows of this call ran. What happens side by side counts once.
        later: measured seconds of what the call will ask of other graphs after this one.
        model: the model that answers, NAME/VERSION; empty until it is found.
        trace: trace_id and span_id in hexadecimal, as labels of exemplars; None: the call is not traced.
    """

    deadline: float | None = None
    later: float = 0.0
    model: str = ""
    queue_seconds: float = 0.0
    run_seconds: float = 0.0
    trace: dict[str, str] | None = None
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


@dataclass(eq=False, slots=True)
class Ticket:
    """One call's rows on their way through the queue.

    Attributes:
        arrived: when the rows came into the queue, on the clock of time.monotonic(), in seconds.
        taken: when a batch took the first of them, on the same clock; 0: none has.
        count: rows of the call.
        left: rows that no batch has taken yet.
    """

    rows: Array
    call: Call
    future: asyncio.Future[Outputs]
    arrived: float = field(default_factory=time.monotonic)
    taken: float = 0.0
    count: int = field(init=False)
    left: int = field(init=False)
    done: int = 0
    outputs: Outputs | None = None

    def __post_init__(self) -> None:
        self.count = self.left = len(self.rows)

    def take(self, rows: int) -> Slice:
        """Give the next ``rows`` of those that are left to a batch."""
        first = self.count - self.left
        self.left -= rows
        return Slice(self, first, first + rows)

    def drop(self) -> None:
        """Take what is left for nobody."""
        if self.left == self.count:
            # No batch reads them, and the line keeps the ticket until its turn comes.
            self.rows = NO_ROWS
        self.left = 0

    def finish(self, rows: int, outputs: Outputs | None) -> None:
        """Count rows as done; with the last of them ``outputs`` is the answer."""
        self.done += rows
        if self.done == self.count and not self.future.done():
            assert outputs is not None
            self.future.set_result(outputs)

    def fail(self, error: ArmoireError) -> None:
        """Answer the call with an error."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(eq=False, slots=True)
class Slice:
    """Rows ``first`` to ``last`` of a ticket, as part of a batch."""

    ticket: Ticket
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def whole(self) -> bool:
        """Whether it is all that the ticket has."""
        return len(self) == self.ticket.count


class Batch:
    """Slices that run together."""

    def __init__(self, slices: Sequence[Slice], engine: Engine) -> None:
        self.slices = slices
        self.rows = sum(map(len, slices))
        self.started = self.ended = 0.0
        self._engine = engine
        for part in slices:
            if not part.whole and part.ticket.outputs is None:
                part.ticket.outputs = engine.empty(part.ticket.count)
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

    def _with_outputs(self) -> Iterator[tuple[Slice, Outputs]]:
        start = 0
        for part in self.slices:
            yield part, tuple(output[start : start + len(part)] for output in self.outputs)
            start += len(part)


def _cut(outputs: Outputs | None, part: Slice) -> Outputs:
    assert outputs is not None, "a call in parts has its answer allocated before its first batch"
    return tuple(output[part.first : part.last] for output in outputs)
