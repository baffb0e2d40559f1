"""Profile scale: three replicas behind Envoy, one of them killed under load."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests.containers.engine import Stack, docker, fetch, inspect, until

pytestmark = pytest.mark.containers
REQUEST = pb.DecodeRequest(latents=to_tensor(np.zeros((4, 16), np.float32)))
CALLERS = 8
DECODED = re.compile(r'^armoire_requests_total\{code="OK",method="Decode"\} (\S+)$', re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def up(stack: Stack) -> None:
    """Three replicas that are ready, and Envoy in front of them."""
    began = time.monotonic()
    stack.compose("up", "--detach", "--wait", "armoire-replica", "envoy", COMPOSE_PROFILES="scale")
    print(f"\nthree replicas and Envoy are healthy after {time.monotonic() - began:.1f} s")


@dataclass
class Seen:
    """What the callers saw."""

    codes: Counter[str] = field(default_factory=Counter)
    answers: list[float] = field(default_factory=list)


@contextmanager
def calling(address: str) -> Iterator[Seen]:
    """Call from several threads while the block runs, with no retries of gRPC's: what is tried again Envoy tries."""
    seen, over = Seen(), threading.Event()

    def call() -> None:
        with grpc.insecure_channel(
            address, [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            decode = pb_grpc.LatentServiceStub(channel).Decode
            while not over.is_set():
                try:
                    decode(REQUEST, timeout=30)
                    seen.codes["OK"] += 1
                except grpc.RpcError as error:
                    seen.codes[error.code().name] += 1
                seen.answers.append(time.monotonic())

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def decoded(container: str) -> float:
    """How many calls a replica has answered, by its own count."""
    (network,) = inspect(container)["NetworkSettings"]["Networks"].values()
    found = DECODED.search(fetch(f"http://{network['IPAddress']}:9464/metrics"))
    return float(found[1]) if found else 0.0


def test_a_killed_replica_fails_nobody(stack: Stack) -> None:
    """Each of three gets its share; SIGKILL of one under load fails no call, and the other two go on within 2 s."""
    replicas = stack.containers("armoire-replica")
    assert len(replicas) == 3
    first = [decoded(replica) for replica in replicas]
    with calling(stack.address("ENVOY_PORT")) as seen:
        for replica, old in zip(replicas, first, strict=True):
            until(lambda r=replica, n=old: decoded(r) >= n + 100, 60, "a replica gets its share")
        shares = [decoded(replica) - old for replica, old in zip(replicas, first, strict=True)]
        killed = time.monotonic()
        docker("kill", replicas[0])
        before = [decoded(replica) for replica in replicas[1:]]
        for replica, old in zip(replicas[1:], before, strict=True):
            until(lambda r=replica, n=old: decoded(r) >= n + 200, 60, "the others go on")
    after = [killed, *(moment for moment in sorted(seen.answers) if moment > killed)]
    gap = max(b - a for a, b in itertools.pairwise(after))
    print(f"shares {shares}; {seen.codes.total()} calls: {dict(seen.codes)}; longest gap {gap * 1e3:.0f} ms")
    assert max(shares) < 1.5 * min(shares), shares
    assert set(seen.codes) == {"OK"}, seen.codes
    assert gap < 2


def test_a_replica_that_comes_back_is_called(stack: Stack) -> None:
    """`docker compose up` replaces the killed one, and Envoy, not restarted, finds it by its name."""
    stack.compose("up", "--detach", "--wait", "--no-recreate", "armoire-replica", COMPOSE_PROFILES="scale")
    replicas = stack.containers("armoire-replica")
    assert len(replicas) == 3
    with calling(stack.address("ENVOY_PORT")) as seen:
        for replica in replicas:
            old = decoded(replica)
            until(lambda r=replica, n=old: decoded(r) >= n + 50, 60, "every replica is called")
    assert set(seen.codes) == {"OK"}, seen.codes
