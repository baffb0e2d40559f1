"""The queue: rows in, rows out, whoever else is in it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from armoire.engine.batching import Batcher
from armoire.engine.lanes import Lanes
from armoire.engine.tickets import Call, Cost
from armoire.errors import DeadlineExceeded, Internal, Overloaded
from armoire.metrics import Metrics
from tests.soak.scale import is_soak

FREE = Cost(0.0, 0.0, 8)


class Engine:
    """Doubles rows, keeps the batch sizes, and runs only while its gate is open."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def empty(self, rows: int) -> tuple[np.ndarray, ...]:
        return np.full((rows, 3), np.nan, np.float32), np.full(rows, np.nan, np.float32)

    def run(self, parts: Sequence[np.ndarray], into: tuple[np.ndarray, ...]) -> None:
        assert self.gate.wait(30)
        rows = np.concatenate(parts)
        self.sizes.append(len(rows))
        into[0][:], into[1][:] = rows * 2, rows.sum(axis=1)

    def padding(self, rows: int) -> int:
        return -rows % 8


def batcher(
    engine: Engine,
    cost: Cost = FREE,
    max_queue_rows: int = 100_000,
    metrics: Metrics | None = None,
    lanes: int = 1,
) -> Batcher:
    graph = (metrics or Metrics()).graph("m", "g")
    return Batcher(engine, cost, Lanes(lanes), max_queue_rows=max_queue_rows, metrics=graph)


def rows(count: int, start: float = 0) -> np.ndarray:
    return (np.arange(count * 3, dtype=np.float32) + start).reshape(count, 3)


async def settle(turns: int = 20) -> None:
    """Let every task that can go on do so."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def settle_until(condition: Callable[[], bool]) -> None:
    """Let tasks and lanes go on until a condition holds."""
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 16), st.integers(1, 3))
def test_every_caller_gets_its_own_rows_in_order(sizes: list[int], max_batch: int, lanes: int) -> None:
    """Whatever the sizes of calls and batches and the lanes, each call's answer is that of its own rows."""

    async def scenario() -> None:
        engine = Engine()
        queue = batcher(engine, Cost(0, 0, max_batch), lanes=lanes)
        calls = [rows(size, start=1000 * index) for index, size in enumerate(sizes)]
        answers = await asyncio.gather(*(queue.submit(call, Call()) for call in calls))
        for call, (doubled, sums) in zip(calls, answers, strict=True):
            np.testing.assert_array_equal(doubled, call * 2)
            np.testing.assert_array_equal(sums, call.sum(axis=1))
        assert max(engine.sizes) <= max_batch
        assert sum(engine.sizes) == sum(sizes)

    asyncio.run(scenario())


async def test_calls_that_arrive_together_run_together() -> None:
    """Calls of one turn of the loop share the first batch."""
    engine = Engine()
    queue = batcher(engine)
    await asyncio.gather(*(queue.submit(rows(1), Call()) for _ in range(8)))
    assert engine.sizes == [8]


async def test_rows_of_a_caller_that_has_gone_are_let_go() -> None:
    """While a batch is running, what was cancelled in the queue behind it is in memory no more."""
    engine = Engine()
    engine.gate.clear()
    queue = batcher(engine)
    first = asyncio.create_task(queue.submit(rows(1), Call()))
    await settle()
    waiting = rows(8)
    kept = weakref.ref(waiting)
    gone = asyncio.create_task(queue.submit(waiting, Call()))
    del waiting
    await settle()
    assert kept() is not None
    gone.cancel()
    await asyncio.wait([gone])
    del gone
    gc.collect()
    assert kept() is None
    engine.gate.set()
    await first


async def test_what_waits_while_the_engine_runs_is_the_next_batch() -> None:
    """Rows that come during a run are one batch when it ends."""
    engine = Engine()
    engine.gate.clear()
    queue = batcher(engine)
    first = asyncio.create_task(queue.submit(rows(1), Call()))
    await settle()
    later = [asyncio.create_task(queue.submit(rows(1), Call())) for _ in range(5)]
    await settle()
    engine.gate.set()
    await asyncio.gather(first, *later)
    assert engine.sizes == [1, 5]


async def test_a_large_call_lets_small_ones_through() -> None:
    """A call of many batches goes to the end of the queue after each, so a small one waits for one batch."""
    engine = Engine()
    engine.gate.clear()
    queue = batcher(engine)
    finished: list[str] = []

    async def submit(name: str, count: int) -> None:
        await queue.submit(rows(count), Call())
        finished.append(name)

    large = asyncio.create_task(submit("large", 80))
    await settle()
    small = asyncio.create_task(submit("small", 1))
    await settle()
    engine.gate.set()
    await asyncio.gather(large, small)
    assert finished == ["small", "large"]
    assert len(engine.sizes) == 11


async def test_every_batch_is_shared_fairly() -> None:
    """Small calls that wait with a large one all come into the next batch, and the large one fills what is left."""
    engine = Engine()
    engine.gate.clear()
    queue = batcher(engine)
    first = asyncio.create_task(queue.submit(rows(8), Call()))
    await settle()
    large = asyncio.create_task(queue.submit(rows(40), Call()))
    small = [asyncio.create_task(queue.submit(rows(1), Call())) for _ in range(3)]
    await settle()
    engine.gate.set()
    await asyncio.gather(first, *small)
    assert not large.done()
    await large
    assert engine.sizes == [8, 8, 8, 8, 8, 8, 3]


async def test_batches_run_side_by_side() -> None:
    """With two lanes two batches are in the engine at one time, and what waits is shared between them."""

    class Meeting(Engine):
        def __init__(self) -> None:
            super().__init__()
            self.both = threading.Barrier(2, timeout=30)

        def run(self, parts: Sequence[np.ndarray], into: tuple[np.ndarray, ...]) -> None:
            self.both.wait()  # breaks unless a second batch comes while this one runs
            super().run(parts, into)

    engine = Meeting()
    queue = batcher(engine, lanes=2)
    doubled, _ = await queue.submit(rows(6), Call())
    np.testing.assert_array_equal(doubled, rows(6) * 2)
    assert engine.sizes == [3, 3]


async def test_queues_that_share_lanes_take_turns() -> None:
    """A queue that is never empty does not keep another one from the only lane."""
    engine, other = Engine(), Engine()
    engine.gate.clear()
    lanes = Lanes(1)
    busy, calm = (
        Batcher(e, FREE, lanes, max_queue_rows=1000, metrics=Metrics().graph("m", "g"))
        for e in (engine, other)
    )
    much = asyncio.create_task(busy.submit(rows(80), Call()))
    await settle()
    little = asyncio.create_task(calm.submit(rows(1), Call()))
    await settle()
    engine.gate.set()
    await little
    assert not much.done()
    await much


# Not made smaller: whoever is stranded takes the whole wait, each time.
@settings(max_examples=5000 if is_soak() else 300, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(
    calls=st.lists(
        # Rows of a call, and after how many turns of the loop it leaves; None: it stays.
        st.tuples(st.integers(1, 20), st.none() | st.integers(0, 12)),
        min_size=1,
        max_size=20,
    ),
    max_batch=st.integers(1, 16),
    lanes=st.integers(1, 3),
)
def test_cancelled_callers_change_nothing_for_the_others(
    calls: list[tuple[int, int | None]], max_batch: int, lanes: int
) -> None:
    """Whoever leaves, and when: the rest get what they would have had, the queue empties, and no task is left."""

    async def scenario() -> None:
        metrics, threads = Metrics(), Lanes(lanes)
        graph = metrics.graph("m", "g")
        queue = Batcher(Engine(), Cost(0.0, 0.0, max_batch), threads, max_queue_rows=1000, metrics=graph)
        asked = [rows(size, start=1000 * index) for index, (size, _) in enumerate(calls)]
        tasks = [asyncio.create_task(queue.submit(each, Call())) for each in asked]
        for turn in range(13):
            for task, (_, leaves) in zip(tasks, calls, strict=True):
                if leaves == turn:
                    task.cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        for each, answer, (_, leaves) in zip(asked, answers, calls, strict=True):
            if isinstance(answer, asyncio.CancelledError):
                assert leaves is not None
            else:
                np.testing.assert_array_equal(answer[0], each * 2)
                np.testing.assert_array_equal(answer[1], each.sum(axis=1))
        # Batches of those who have left may still run.
        await settle_until(lambda: pending(metrics) == 0 and len(asyncio.all_tasks()) == 1)
        threads.close()

    asyncio.run(scenario())


def pending(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("armoire_pending_rows", {"model": "m", "graph": "g"})


async def test_a_caller_that_has_gone_costs_nothing() -> None:
    """The rows of a cancelled call never reach the engine."""
    engine = Engine()
    engine.gate.clear()
    queue = batcher(engine)
    first = asyncio.create_task(queue.submit(rows(1), Call()))
    await settle()
    gone, stays = (asyncio.create_task(queue.submit(rows(n), Call())) for n in (5, 2))
    await settle()
    gone.cancel()
    engine.gate.set()
    await asyncio.gather(first, stays)
    assert engine.sizes == [1, 2]


async def test_a_failed_batch_is_told_to_its_callers_only() -> None:
    """When the graph raises, the callers of that batch get INTERNAL and the next batch runs."""

    class Fragile(Engine):
        def run(self, parts: Sequence[np.ndarray], into: tuple[np.ndarray, ...]) -> None:
            if parts[0][0, 0] < 0:
                raise RuntimeError("device lost")
            super().run(parts, into)

    queue = batcher(Fragile())
    with pytest.raises(Internal):
        await queue.submit(-rows(1, start=1), Call())
    answer, _ = await queue.submit(rows(2), Call())
    np.testing.assert_array_equal(answer, rows(2) * 2)


async def test_a_full_queue_refuses_with_a_time_to_retry() -> None:
    """Rows over max_queue_rows are refused at once, with the measured time that the queue takes."""
    engine = Engine()
    engine.gate.clear()
    queue = batcher(engine, Cost(1.0, 0.5, 8), max_queue_rows=10)
    waiting = asyncio.create_task(queue.submit(rows(9), Call()))
    await settle()
    with pytest.raises(Overloaded, match="max_queue_rows = 10") as refused:
        await queue.submit(rows(2), Call())
    assert refused.value.retry_after == pytest.approx(2 * 1.0 + 9 * 0.5)
    engine.gate.set()
    await waiting
    await queue.submit(rows(2), Call())


async def test_a_deadline_that_an_idle_server_could_not_meet_is_refused_at_once() -> None:
    """Less time than the measured cost of the rows is DEADLINE_EXCEEDED before anything runs."""
    engine = Engine()
    queue = batcher(engine, Cost(1.0, 0.0, 8))
    with pytest.raises(DeadlineExceeded, match="idle server"):
        await queue.submit(rows(1), Call(deadline=time.monotonic() + 0.5))
    assert engine.sizes == []


async def test_a_deadline_out_of_reach_because_of_the_queue_is_overload() -> None:
    """Enough time for the rows but not for those before them is RESOURCE_EXHAUSTED."""
    engine = Engine()
    engine.gate.clear()
    queue = batcher(engine, Cost(1.0, 0.0, 8))
    waiting = asyncio.create_task(queue.submit(rows(16), Call()))
    await settle()
    with pytest.raises(Overloaded, match="the queue takes"):
        await queue.submit(rows(1), Call(deadline=time.monotonic() + 2.5))
    engine.gate.set()
    await waiting


async def test_a_small_call_does_not_count_large_ones_against_its_deadline() -> None:
    """It overtakes them: behind 800 rows of two calls it waits for no more than two batches, and is let in."""
    engine = Engine()
    engine.gate.clear()
    queue = batcher(engine, Cost(0.1, 0.0, 8))
    large = [asyncio.create_task(queue.submit(rows(400), Call())) for _ in range(2)]
    await settle()
    small = asyncio.create_task(queue.submit(rows(1), Call(deadline=time.monotonic() + 1)))
    await settle()
    with pytest.raises(Overloaded, match="the queue takes"):
        await queue.submit(rows(400), Call(deadline=time.monotonic() + 7))
    engine.gate.set()
    assert len((await small)[0]) == 1
    assert not any(call.done() for call in large)
    await asyncio.gather(*large)


async def test_a_queue_that_goes_slower_than_it_was_measured_is_believed() -> None:
    """Where batches take ten times what they cost alone, a deadline counts on that; on an idle server it does not."""

    class Slow(Engine):
        def run(self, parts: Sequence[np.ndarray], into: tuple[np.ndarray, ...]) -> None:
            threading.Event().wait(0.02 if self.slow else 0)
            super().run(parts, into)

    engine = Slow()
    engine.slow = True
    queue = batcher(engine, Cost(0.002, 0.0, 8))
    # Alone 0.1 s, here a second.
    waiting = asyncio.create_task(queue.submit(rows(800), Call()))
    await settle_until(lambda: queue._speed.now < 0.2)
    with pytest.raises(Overloaded, match="the queue takes") as refused:
        await queue.submit(rows(1), Call(deadline=time.monotonic() + 0.1))
    assert refused.value.retry_after > 0.05
    engine.slow = False
    await waiting
    for _ in range(100):
        await queue.submit(rows(1), Call())
    assert queue._speed.now > 0.9


async def test_a_slow_hour_is_forgotten_where_nobody_waits() -> None:
    """However slow the last batches were, a call with time for its rows is let in where nothing is before it."""
    queue = batcher(Engine(), Cost(0.001, 0.01, 8))
    queue._speed.now = 0.05
    answer, _ = await queue.submit(rows(4), Call(deadline=time.monotonic() + 0.3))
    assert len(answer) == 4
    assert queue._speed.now > 0.05


async def test_a_deadline_that_passes_in_the_queue_is_never_run() -> None:
    """Rows whose deadline is over when their turn comes are answered, counted as missed, as no refusal, and not run."""
    engine, metrics = Engine(), Metrics()
    engine.gate.clear()
    queue = batcher(engine, metrics=metrics)
    first = asyncio.create_task(queue.submit(rows(1), Call()))
    await settle()
    deadline = time.monotonic() + 0.05
    late = asyncio.create_task(queue.submit(rows(3), Call(deadline=deadline)))
    await settle()
    await asyncio.to_thread(lambda: [None for _ in iter(lambda: time.monotonic() < deadline, False)])
    engine.gate.set()
    with pytest.raises(DeadlineExceeded, match="passed in the queue") as missed:
        await late
    assert not missed.value.reason
    await first
    assert engine.sizes == [1]
    assert metrics.registry.get_sample_value("armoire_deadline_missed_total") == 1


async def test_a_call_knows_what_it_cost() -> None:
    """Queue and run seconds are added up on the call, and every batch is counted."""
    engine, metrics = Engine(), Metrics()
    queue = batcher(engine, metrics=metrics)
    call = Call()
    await queue.submit(rows(20), call)
    labels = {"model": "m", "graph": "g"}
    value = metrics.registry.get_sample_value
    assert call.queue_seconds > 0
    assert call.run_seconds == pytest.approx(value("armoire_inference_duration_seconds_sum", labels))
    assert value("armoire_batch_rows_count", labels) == 3
    assert value("armoire_rows_total", labels) == 20
    assert value("armoire_padding_rows_total") == 4


async def test_times_side_by_side_count_once() -> None:
    """Two submissions of one call that wait and run together take no longer than the call."""
    engine = Engine()
    queue = batcher(engine)
    call, started = Call(), time.monotonic()
    await asyncio.gather(*(queue.submit(rows(8), call) for _ in range(6)))
    total = time.monotonic() - started
    assert 0 < call.run_seconds <= total
    assert 0 < call.queue_seconds <= total


async def test_a_call_that_gave_up_in_the_queue_is_counted_as_missed() -> None:
    """GRPC cancels a call at its deadline: when its turn comes it counts as a missed deadline."""
    engine, metrics = Engine(), Metrics()
    engine.gate.clear()
    queue = batcher(engine, metrics=metrics)
    first = asyncio.create_task(queue.submit(rows(1), Call()))
    await settle()
    late = asyncio.create_task(queue.submit(rows(1), Call(deadline=time.monotonic() + 0.05)))
    await asyncio.wait([late], timeout=0.1)
    late.cancel()
    engine.gate.set()
    await first
    await settle()
    assert metrics.registry.get_sample_value("armoire_deadline_missed_total") == 1
