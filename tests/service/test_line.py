"""The order in which waiting rows come into batches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armoire.engine.line import Line
from armoire.engine.tickets import Call, Ticket


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def ticket(rows: int, loop: asyncio.AbstractEventLoop) -> Ticket:
    return Ticket(np.zeros((rows, 1), np.float32), Call(), loop.create_future())


def waits(ticket: Ticket, _: float) -> bool:
    return not ticket.future.done()


def line(*tickets: Ticket) -> Line:
    made = Line()
    for each in tickets:
        made.add(each)
    return made


def batches(of: Line, limit: int) -> Iterator[dict[Ticket, int]]:
    """Take batches until nobody waits: rows by ticket."""
    while of:
        yield {part.ticket: len(part) for part in of.take(limit, 0.0, waits)}


def test_calls_of_equal_size_end_one_after_the_other(loop: asyncio.AbstractEventLoop) -> None:
    """Four calls of 16 rows in batches of 8 end in the second, fourth, sixth and eighth."""
    tickets = [ticket(16, loop) for _ in range(4)]
    taken = list(batches(line(*tickets), 8))
    assert taken == [{each: 8} for each in tickets for _ in range(2)]


def test_small_calls_come_into_the_next_batch_whole(loop: asyncio.AbstractEventLoop) -> None:
    """Whatever large ones were there before them."""
    large, small = [ticket(100, loop) for _ in range(3)], [ticket(1, loop) for _ in range(4)]
    waiting = line(*large)
    waiting.take(8, 0.0, waits)
    for each in small:
        waiting.add(each)
    taken = {part.ticket: len(part) for part in waiting.take(8, 0.0, waits)}
    assert taken == dict.fromkeys(small, 1) | {large[0]: 4}


def test_a_middling_call_overtakes_a_huge_one(loop: asyncio.AbstractEventLoop) -> None:
    """It has half of every batch, and the huge one goes on all the same."""
    huge, middling = ticket(1000, loop), ticket(32, loop)
    taken = list(batches(line(huge, middling), 16))
    assert taken[:4] == [{middling: 8, huge: 8}] * 4
    assert sum(map(len, taken)) == 4 + len(taken)


@pytest.mark.parametrize(("limit", "rows", "enough"), [(8, 18, 10), (1, 8, 16), (3, 9, 6)])
def test_many_small_calls_leave_a_large_one_its_share(
    limit: int, rows: int, enough: int, loop: asyncio.AbstractEventLoop
) -> None:
    """While more single rows wait than a batch holds, a large call has a row of each, or of every other single one."""
    large = ticket(rows, loop)
    waiting = line(large)
    waiting.take(limit, 0.0, waits)
    for _ in range(200):
        waiting.add(ticket(1, loop))
    for _, taken in zip(range(enough), batches(waiting, limit), strict=False):
        assert sum(taken.values()) == limit
    assert large.left == 0
    assert waiting


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    limit=st.integers(1, 16),
    gone=st.sets(st.integers(0, 29)),
)
def test_every_row_comes_into_one_batch_in_order(sizes: list[int], limit: int, gone: set[int]) -> None:
    """No batch is empty or too large, the slices of a call follow one another, and who has gone gets none."""
    loop = asyncio.new_event_loop()
    tickets = [ticket(size, loop) for size in sizes]
    waiting = line(*tickets)
    for index, each in enumerate(tickets):
        if index in gone:
            each.future.cancel()
            each.drop()
    seen = dict.fromkeys(tickets, 0)
    while waiting:
        slices = waiting.take(limit, 0.0, waits)
        assert sum(map(len, slices)) <= limit
        assert slices or not waiting
        for part in slices:
            assert part.first == seen[part.ticket] < part.last
            seen[part.ticket] = part.last
    for index, each in enumerate(tickets):
        assert seen[each] == (0 if index in gone else len(each.rows))
    loop.close()
