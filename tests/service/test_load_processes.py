"""Client processes and their connections, where a server or a process does what it should not."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter

import grpc
import pytest

from armoire.client import Model
from armoire.errors import ArmoireError, Unavailable
from armoire.load import request
from armoire.load.order import Order
from armoire.load.plan import Target
from armoire.load.processes import Processes
from armoire.v1 import armoire_pb2 as pb
from tests.serving import Running
from tests.stranger import images, stranger

PATH = "/armoire.v1.LatentService/ListModels"


def order(**values: float) -> Order:
    return Order(
        **{"message": b"", "start": time.monotonic(), "warm_up": 0, "seconds": 0.5, "most_calls": 1 << 30}
        | values
    )


def test_a_server_that_does_not_come_back_costs_no_time() -> None:
    """Without a connection an open loop's calls fail at once, and the stage ends in its time."""
    with stranger(lambda *_: images(1)) as other, Processes(1, Target(other.address), PATH, 1) as processes:
        other.close()
        began = time.monotonic()
        tally = processes.run([order(rate=200.0, poisson=False)], lambda *_: None)
        assert time.monotonic() - began < 4
    assert tally.calls == tally.errors["UNAVAILABLE"] == 100
    assert tally.examples["UNAVAILABLE"]


def test_callers_without_a_server_rest() -> None:
    """A closed loop does not spin where every call fails at once."""
    with stranger(lambda *_: images(1)) as other, Processes(1, Target(other.address), PATH, 1) as processes:
        other.close()
        tally = processes.run([order(callers=3)], lambda *_: None)
    assert 3 <= tally.calls == tally.errors["UNAVAILABLE"] <= 3 * 6


def test_each_connection_is_one_of_its_own() -> None:
    """Calls take several connections in turn: their server sees as many ports as were asked for."""

    def decode(number: int, context: grpc.ServicerContext) -> pb.DecodeResponse:
        peers.append(context.peer())
        return images(1)

    peers: list[str] = []
    method = PATH.replace("ListModels", "Decode")
    with stranger(decode) as other, Processes(1, Target(other.address), method, 3) as processes:
        processes.run([order(callers=1, most_calls=30, seconds=30.0)], lambda *_: None)
    assert sorted(Counter(peers).values()) == [10, 10, 10]


def test_what_speaks_no_http2_is_unavailable() -> None:
    """A server of something else is told before anything is measured."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = Target(f"127.0.0.1:{silent.getsockname()[1]}", timeout=1.0)
        with pytest.raises(Unavailable, match=r"no connection to 127\.0\.0\.1:\d+ within 1 s"):
            Processes(1, target, PATH, 1)


def test_nobody_there_is_unavailable() -> None:
    """A refused connection, a name that is none and an address that is none end with the timeout."""
    for address in ("127.0.0.1:1", "no.such.host.invalid:1", "unix:/run/armoire"):
        with pytest.raises(Unavailable):
            Processes(2, Target(address, timeout=1.0), PATH, 1)


def test_a_client_that_stands_still_is_told_from_a_server_that_does(server: Running) -> None:
    """What a stopped client sends late has its latency from when it was due, and the lag tells whose fault it was."""
    with Processes(1, Target(server.address), PATH, 1) as processes:
        child = processes._children[0].pid
        on = threading.Timer(0.5, os.kill, (child, signal.SIGCONT))

        def stop(*_: int) -> None:
            if not on.is_alive() and not on.finished.is_set():
                os.kill(child, signal.SIGSTOP)
                on.start()

        tally = processes.run([order(rate=50.0, poisson=False, seconds=1.2)], stop)
        on.join()
    assert tally.calls == tally.answered == 60
    assert tally.lag.quantile(100) >= 400
    assert tally.latency.quantile(100) >= 400
    assert tally.latency.quantile(80) >= 100
    # The server saw nothing of it.
    assert tally.run.quantile(100) < 100


def test_a_process_that_dies_is_told(server: Running) -> None:
    """A client process that is killed ends the stage with an error, not with fewer calls."""
    with Processes(2, Target(server.address), PATH, 1) as processes:
        killed = processes._children[1]

        def kill(done: int, failed: int) -> None:
            killed.kill()

        with pytest.raises(ArmoireError, match="client process 2 has died"):
            processes.run([order(callers=1, seconds=30), order(callers=1, seconds=30)], kill)


def test_a_model_without_attributes_is_moved_along_a_vector() -> None:
    """AddAttribute of a model that names no attribute brings a direction of its own."""
    model = Model("m", "1", (2, 2, 1), 3, {}, (), "", "", "", 1.0, {}, {}, "")
    message = pb.AddAttributeRequest.FromString(request.build("AddAttribute", model, Target(), 5))
    (edit,) = message.edits
    assert edit.vector.shape == [3]
    assert message.points.latents.shape == [5, 3]
    model = model._replace(attributes={"hat": {}})
    message = pb.AddAttributeRequest.FromString(request.build("AddAttribute", model, Target(), 5))
    assert message.edits[0].attribute == "hat"
