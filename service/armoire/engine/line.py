"""Who comes into the next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import attrgetter

from armoire.engine.tickets import Slice, Ticket

LEFT = attrgetter("left")
CanRun = Callable[[Ticket, float], bool]


class Line:
    """Tickets that wait, and the order in which their rows are taken.

    A batch first takes the calls that ask for no more than an equal share of it, whole and in their order: a call of
    one row waits for one batch, whatever else is there. What is left goes to the large calls, half of it to the one
    with the fewest rows to go, the rest to the oldest. So a call of 32 rows overtakes one of 1,000, which goes on all
    the same, and calls of equal size end one after the other: were all of them kept going side by side, they would end
    at one time, and the engine would stand idle while their answers are sent.
    """

    def __init__(self) -> None:
        self._fresh: deque[Ticket] = deque()
        self._large: list[Ticket] = []  # oldest first
        self._odd = False
        # Of one change of the line to the next: where it is long, many ask.
        self._ahead: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._fresh or self._large)

    def add(self, ticket: Ticket) -> None:
        """Let a ticket wait."""
        self._fresh.append(ticket)
        self._ahead.clear()

    def oldest(self) -> float:
        """Give the arrival of the ticket that waits longest."""
        return self._large[0].arrived if self._large else self._fresh[0].arrived

    def ahead(self, rows: int) -> int:
        """Tell how many rows run before a new call of so many is done: of a larger call no more than its own."""
        if rows not in self._ahead:
            waiting = (min(ticket.left, rows) for part in (self._fresh, self._large) for ticket in part)
            self._ahead[rows] = sum(waiting)
        return self._ahead[rows]

    def take(self, limit: int, now: float, can_run: CanRun) -> list[Slice]:
        """Take up to ``limit`` rows, none only where nobody waits; ``can_run`` says whose caller still does."""
        self._ahead.clear()
        share = max(1, limit // max(1, len(self._large) + len(self._fresh)))
        # More small calls than a batch has rows still leave the large ones their shares, up to half of the batch; of a
        # batch of one row, that is every other batch.
        self._odd = not self._odd
        reserved = min(share * len(self._large), (limit + self._odd) // 2)
        slices, room = self._take_small(share, limit - reserved, now, can_run)
        room += reserved
        return slices + self._take_large(room, now, can_run) if room and self._large else slices

    def _take_small(self, share: int, room: int, now: float, can_run: CanRun) -> tuple[list[Slice], int]:
        slices = []
        while self._fresh and room:
            ticket = self._fresh.popleft()
            if not can_run(ticket, now):
                continue
            if ticket.left > share:
                self._large.append(ticket)
            elif ticket.left > room:
                self._fresh.appendleft(ticket)
                break
            else:
                room -= ticket.left
                slices.append(ticket.take(ticket.left))
        return slices, room

    def _take_large(self, room: int, now: float, can_run: CanRun) -> list[Slice]:
        slices = []
        shortest = min(self._large, key=LEFT)
        if can_run(shortest, now):
            slices.append(shortest.take(min(shortest.left, -(-room // 2))))
            room -= len(slices[0])
        for ticket in self._large:
            if not room:
                break
            if not ticket.left or not can_run(ticket, now):
                continue
            count = min(room, ticket.left)
            room -= count
            if ticket is shortest:
                slices[0].last += count
                ticket.left -= count
            else:
                slices.append(ticket.take(count))
        self._large = [ticket for ticket in self._large if ticket.left]
        return slices
