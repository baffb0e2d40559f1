"""When a batch waits for more rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from armoire.engine.pacing import Pacer

DELAY, MOST = 0.002, 32


def pacer(share: float, cores: int = 1) -> tuple[Pacer, list[float]]:
    """A pacer in a process that takes ``share`` of the processor time that there is."""
    clock = [100.0]
    return Pacer(DELAY, MOST, cores, lambda: clock[0] * share * cores), clock


def run(pacing: Pacer, clock: list[float], rows: int, batches: int = 40) -> None:
    """Start a batch every 20 ms."""
    for _ in range(batches):
        clock[0] += 0.02
        pacing.started(rows, clock[0])


@given(rows=st.integers(1, MOST), cores=st.integers(1, 64), share=st.floats(0, 0.75))
def test_a_processor_with_time_to_spare_waits_for_nobody(rows: int, cores: int, share: float) -> None:
    """However many rows came together before, a lone row runs at once."""
    pacing, clock = pacer(share, cores)
    run(pacing, clock, rows)
    assert pacing.patience(1, clock[0], clock[0]) == 0


def test_a_saturated_processor_waits_for_as_many_rows_as_came_lately() -> None:
    """Full batches raise what is waited for to the largest batch, and never longer than the delay."""
    pacing, clock = pacer(0.95)
    run(pacing, clock, MOST)
    assert 0 < pacing.patience(MOST - 1, clock[0] - 0.0005, clock[0]) <= DELAY - 0.0004
    assert pacing.patience(MOST, clock[0], clock[0]) == 0
    assert pacing.patience(1, clock[0] - DELAY, clock[0]) == 0


def test_waiting_in_vain_is_unlearned() -> None:
    """Where only one row ever comes, one row is soon enough though the processor is saturated."""
    pacing, clock = pacer(0.95)
    run(pacing, clock, MOST)
    run(pacing, clock, 1)
    # Each row that runs alone once more asks for a little company, for a moment.
    assert pacing.patience(4, clock[0], clock[0]) == 0


def test_saturation_is_left_when_the_processor_rests() -> None:
    """After a busy time the first calm window is enough to run lone rows at once again."""
    share = [0.95]
    clock = [100.0]
    used = [0.0]

    def processor_time() -> float:
        return used[0]

    pacing = Pacer(DELAY, MOST, 1, processor_time)
    for _ in range(20):
        clock[0] += 0.06
        used[0] += 0.06 * share[0]
        pacing.started(MOST, clock[0])
    assert pacing.patience(1, clock[0], clock[0]) > 0
    clock[0] += 0.06
    pacing.started(1, clock[0])
    assert pacing.patience(1, clock[0], clock[0]) == 0


def test_no_delay_means_no_wait() -> None:
    """With a delay of 0 nothing is measured and nothing waits."""
    pacing = Pacer(0.0, MOST, 1, lambda: 1 / 0)
    pacing.started(MOST, 1.0)
    assert pacing.patience(1, 1.0, 1.0) == 0
