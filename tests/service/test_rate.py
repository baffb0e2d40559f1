"""How many rows a second a token may ask for, by a clock that the test turns."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armoire.errors import RateLimited
from armoire.wire.rate import RateLimit


class Clock:
    """time.monotonic of a test."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def refused(limit: RateLimit, rows: int) -> float:
    """The seconds that a refusal asks to wait for."""
    with pytest.raises(RateLimited) as caught:
        limit.take(rows)
    assert caught.value.retry_after is not None
    return caught.value.retry_after


def test_what_a_second_brings_can_be_taken_in_any_pieces(clock: Clock) -> None:
    """A hundred rows a second are a hundred single rows, and the next one is due a hundredth of a second later."""
    limit = RateLimit(100)
    for _ in range(100):
        limit.take(1)
    assert refused(limit, 1) == pytest.approx(0.01)
    clock.now += 0.25
    limit.take(25)
    assert refused(limit, 50) == pytest.approx(0.5)


def test_a_refusal_takes_nothing_and_keeps_its_word(clock: Clock) -> None:
    """After the seconds that a refusal names the same call passes, however often it was refused before."""
    limit = RateLimit(10)
    limit.take(10)
    for _ in range(1000):
        wait = refused(limit, 7)
    clock.now += wait + 1e-9
    limit.take(7)


def test_nothing_is_saved_beyond_one_second(clock: Clock) -> None:
    """A token that was idle for an hour has one second's rows, not an hour's."""
    limit = RateLimit(10)
    clock.now += 3600
    limit.take(10)
    assert refused(limit, 1) == pytest.approx(0.1)


def test_a_call_of_more_than_a_second_passes_and_is_paid_off(clock: Clock) -> None:
    """With ten rows a second a call of 1,024 rows needs a full bucket, and then nothing passes for 101 seconds."""
    limit = RateLimit(10)
    limit.take(1)
    assert refused(limit, 1024) == pytest.approx(0.1)
    clock.now += 0.1 + 1e-9
    limit.take(1024)
    assert refused(limit, 1) == pytest.approx(101.5)
    clock.now += 101.5 + 1e-9
    limit.take(1)


@given(
    rate=st.integers(1, 2000),
    calls=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 4096)), min_size=1, max_size=60),
)
def test_no_span_of_time_lets_in_more_than_its_rows_and_one_burst(
    rate: int, calls: list[tuple[float, int]]
) -> None:
    """From any passed call to any later one, what passed is within what the time brings, and one burst or call."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        limit = RateLimit(rate)
        passed: list[tuple[float, int]] = []
        for wait, rows in calls:
            clock.now += wait
            with contextlib.suppress(RateLimited):
                limit.take(rows)
                passed.append((clock.now, rows))
    for first, (start, _) in enumerate(passed):
        rows = 0
        for end, more in passed[first:]:
            rows += more
            burst = max(rate, max(n for _, n in passed[first:]))
            assert rows <= rate * (end - start) + burst + 1e-6
