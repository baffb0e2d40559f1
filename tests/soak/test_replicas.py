"""Replicas that come and go under load, seen by a client that goes round them: nobody loses a call."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.channel import options
from armoire.wire.tensors import to_tensor
from tests.soak.process import ServerProcess, until
from tests.soak.scale import is_soak

REQUEST = pb.DecodeRequest(latents=to_tensor(np.zeros((4, 16), np.float32)))
RATE = 50.0  # calls a second, whether the last are answered or not
DECODES = 'method="Decode"'


@dataclass
class Seen:
    """What the callers saw."""

    codes: Counter[str] = field(default_factory=Counter)
    answers: list[float] = field(default_factory=list)  # when they came
    begun: int = 0
    waiting: set[int] = field(default_factory=set)  # the numbers of those that have not come
    failed: set[int] = field(default_factory=set)
    longest: float = 0.0  # seconds


@asynccontextmanager
async def calling(*replicas: ServerProcess, retries: bool = True) -> AsyncIterator[Seen]:
    """Call the replicas as armoire.client does, in an open loop, while the block runs; then wait for all answers."""
    seen, over = Seen(), asyncio.Event()
    address = f"ipv4:{','.join(replica.address for replica in replicas)}"
    settings = [*options(), ("grpc.enable_retries", int(retries))]
    async with grpc.aio.insecure_channel(address, settings) as channel:
        decode = pb_grpc.LatentServiceStub(channel).Decode

        async def call(number: int) -> None:
            began = time.monotonic()
            seen.begun = number + 1
            seen.waiting.add(number)
            code = await decode(REQUEST, timeout=30).code()
            seen.waiting.remove(number)
            seen.codes[code.name] += 1
            if code is not grpc.StatusCode.OK:
                seen.failed.add(number)
            seen.answers.append(time.monotonic())
            seen.longest = max(seen.longest, seen.answers[-1] - began)

        async def loop() -> None:
            began = time.monotonic()
            async with asyncio.TaskGroup() as calls:
                for number in itertools.count():
                    await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
                    if over.is_set():
                        return
                    calls.create_task(call(number))

        running = asyncio.create_task(loop())
        try:
            yield seen
        finally:
            over.set()
            await running


def decoded(replica: ServerProcess) -> float:
    """How many calls a replica has answered well."""
    return sum(
        value
        for labels, value in replica.series("armoire_requests_total").items()
        if DECODES in labels and 'code="OK"' in labels
    )


async def until_called(replica: ServerProcess) -> None:
    """Wait until a replica gets its share."""
    assert await asyncio.to_thread(until, lambda: decoded(replica) >= 5, 60)


def again(old: ServerProcess) -> ServerProcess:
    """Start a replica in the place of one that has gone."""
    return ServerProcess("--threads", "1", "--listen", old.address)


async def test_rolling_restarts_fail_nobody() -> None:
    """SIGTERM, then another in its place, one replica after the other under load: every call is answered."""
    replicas = [await asyncio.to_thread(ServerProcess, "--threads", "1") for _ in range(2)]
    try:
        async with calling(*replicas) as seen:
            for turn in range(20 if is_soak() else 2):
                for replica in replicas:
                    await until_called(replica)
                old = replicas[turn % 2]
                assert await asyncio.to_thread(old.stop) == 0
                replicas[turn % 2] = await asyncio.to_thread(again, old)
    finally:
        for replica in replicas:
            replica.kill()
    assert set(seen.codes) == {"OK"}, seen.codes
    print(f"{seen.codes.total()} calls, all answered")


async def test_a_killed_replica_costs_no_call() -> None:
    """SIGKILL of one of three: calls in flight on it are tried again elsewhere, and answers go on within 2 s."""
    replicas = [await asyncio.to_thread(ServerProcess, "--threads", "1") for _ in range(3)]
    try:
        async with calling(*replicas) as seen:
            for replica in replicas:
                await until_called(replica)
            killed = time.monotonic()
            replicas[0].signal(signal.SIGKILL)
            before = [decoded(replica) for replica in replicas[1:]]
            for replica, old in zip(replicas[1:], before, strict=True):
                assert await asyncio.to_thread(until, lambda r=replica, n=old: decoded(r) >= n + 50, 30)
    finally:
        for replica in replicas:
            replica.kill()
    assert set(seen.codes) == {"OK"}, seen.codes
    after = [moment for moment in seen.answers if moment > killed]
    gap = max(b - a for a, b in itertools.pairwise([killed, *after]))
    assert gap < 2, gap
    assert seen.longest < 2, seen.longest
    print(
        f"{seen.codes.total()} calls, all answered; longest gap {gap * 1e3:.0f} ms, call {seen.longest * 1e3:.0f} ms"
    )


async def test_of_a_killed_replica_only_calls_in_flight_fail() -> None:
    """Without retries a SIGKILL costs calls that were on their way, to it or just then, and none that comes later."""
    replicas = [await asyncio.to_thread(ServerProcess, "--threads", "1") for _ in range(3)]
    try:
        async with calling(*replicas, retries=False) as seen:
            for replica in replicas:
                await until_called(replica)
            before = [decoded(replica) for replica in replicas[1:]]
            in_flight, begun = set(seen.waiting), seen.begun
            await asyncio.to_thread(replicas[0].kill)
            # And those of the moment that it takes to end, and to be heard of.
            in_flight |= set(range(begun, seen.begun + 1))
            for replica, old in zip(replicas[1:], before, strict=True):
                assert await asyncio.to_thread(until, lambda r=replica, n=old: decoded(r) >= n + 50, 30)
    finally:
        for replica in replicas:
            replica.kill()
    assert seen.failed <= in_flight, (seen.failed, in_flight, seen.codes)
    print(f"{seen.codes.total()} calls, {len(seen.failed)} of the {len(in_flight)} in flight failed")


def connections(replica: ServerProcess) -> set[str]:
    """The ends of the open connections to a replica (proc(5): addresses in hexadecimal; 01 is open)."""
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return {
        here for _, here, there, state, *_ in rows if state == "01" and there.endswith(f":{replica.port:04X}")
    }


async def test_a_new_replica_gets_its_share() -> None:
    """One that comes later is called too; connections have an age, after which another takes over unseen."""
    old = await asyncio.to_thread(ServerProcess, "--threads", "1", "--connection-age", "1")
    new = None
    try:
        # A place where nobody listens yet, as a name that DNS will give.
        spare = await asyncio.to_thread(ServerProcess, "--threads", "1")
        await asyncio.to_thread(spare.stop)
        async with calling(old, spare) as seen:
            await until_called(old)
            new = await asyncio.to_thread(again, spare)
            await until_called(new)
            first = connections(old)
            assert await asyncio.to_thread(until, lambda: bool(connections(old) - first), 10)
    finally:
        for replica in (old, new):
            if replica is not None:
                replica.kill()
    assert set(seen.codes) == {"OK"}, seen.codes
