"""The same answer, every time: whatever shares its batches, on however many threads, and after a restart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armoire.client import Client
from tests.serving import Running, serving
from tests.soak.process import server_process

# As README says it.
EQUAL_PIXELS, OFF_BY = 0.999, 1
LATENTS = 2 * np.random.default_rng(3).standard_normal((200, 16)).astype(np.float32)


@pytest.fixture(scope="module", params=[1, 2], ids=["one thread", "two threads"])
def running(request: pytest.FixtureRequest):
    with serving(threads=request.param, max_batch=32) as running:
        yield running


@pytest.fixture(scope="module")
def alone() -> np.ndarray:
    """Each row decoded in a batch of its own."""
    with serving(max_batch=1) as running, Client(running.address) as client:
        return client.decode(LATENTS)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_batch(
    running: Running, alone: np.ndarray, sizes: list[int], random: object
) -> None:
    """Calls of any sizes at once: of their pixels 99.9 % are those of each row alone, none is off by more than 1."""
    order = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    calls = [order.integers(0, len(LATENTS), size) for size in sizes]
    with Client(running.address) as client, ThreadPoolExecutor(len(calls)) as callers:
        answers = list(callers.map(lambda rows: client.decode(LATENTS[rows]), calls))
    gaps = np.concatenate(
        [
            np.abs(answer.astype(int) - alone[rows]).ravel()
            for answer, rows in zip(answers, calls, strict=True)
        ]
    )
    assert (gaps == 0).mean() >= EQUAL_PIXELS
    assert gaps.max() <= OFF_BY


def test_a_seed_outlives_the_process() -> None:
    """Two processes, one after the other, give the points and pixels of a seed to the bit."""
    drawn = []
    for _ in range(2):
        with server_process("--threads", "1") as server, Client(server.address) as client:
            drawn.append(client.sample(40, seed=5))
    first, second = drawn
    np.testing.assert_array_equal(first.latents, second.latents)
    np.testing.assert_array_equal(first.images, second.images)


def test_a_seed_is_the_same_on_other_threads_and_under_load(running: Running) -> None:
    """Sample with a seed gives the same points to the bit and the same pixels as another server, whatever else runs."""
    with serving(threads=1) as other, Client(other.address) as client:
        wanted = client.sample(40, seed=5)
    with Client(running.address) as client, ThreadPoolExecutor(8) as callers:
        load = [callers.submit(client.decode, LATENTS) for _ in range(16)]
        drawn = [client.sample(40, seed=5) for _ in range(8)]
        for call in load:
            call.result(60)
    for each in drawn:
        np.testing.assert_array_equal(each.latents, wanted.latents)
        gaps = np.abs(each.images.astype(int) - wanted.images)
        assert (gaps == 0).mean() >= EQUAL_PIXELS
        assert gaps.max() <= OFF_BY
