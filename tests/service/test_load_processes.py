"""Client processes and their connections, where a server or a process does what it should not."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from armoire.client import Model
from armoire.errors import ArmoireError, Unavailable
from armoire.load import frames, request
from armoire.load.order import Order
from armoire.load.plan import Target
from armoire.load.processes import Processes
from armoire.load.route import Route
from armoire.v1 import armoire_pb2 as pb
from tests.serving import Running

SETTINGS = frames.frame(frames.SETTINGS, 0, 0, b"")
PATH = "/armoire.v1.LatentService/ListModels"


@contextmanager
def odd_server(serve: Callable[[socket.socket, int], None]) -> Iterator[Route]:
    """Give each connection, from number 0 on, to ``serve``, and close it after that."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        number = 0
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                serve(connection, number)
            number += 1

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield Route(f"127.0.0.1:{listening.getsockname()[1]}", PATH, 5.0)
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


def order(**values: float) -> Order:
    return Order(
        **{
            "message": bytes(5),
            "start": time.monotonic(),
            "warm_up": 0,
            "seconds": 0.5,
            "most_calls": 1 << 30,
            "timeout": 5.0,
        }
        | values
    )


def read_calls(connection: socket.socket) -> None:
    """Read until a call is there."""
    came = b""
    while PATH.encode() not in came and b"\x00\x01\x00\x00\x00" not in came[60:]:
        part = connection.recv(1 << 16)
        if not part:
            return
        came += part


def reset(connection: socket.socket) -> None:
    """Close so that the other side's next read fails."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("end", [socket.socket.fileno, reset])
def test_a_connection_that_breaks_is_unavailable(end: Callable[[socket.socket], None]) -> None:
    """Calls in flight on a connection that is closed or reset count as UNAVAILABLE; new connections are tried."""

    def serve(connection: socket.socket, number: int) -> None:
        connections.append(number)
        connection.sendall(SETTINGS)
        read_calls(connection)
        end(connection)

    connections: list[int] = []
    with odd_server(serve) as route, Processes(1, route, 1) as processes:
        tally = processes.run([order(callers=3)], lambda *_: None)
    assert set(tally.errors) == {"UNAVAILABLE"}
    assert tally.errors.total() == tally.calls >= 6
    assert tally.examples["UNAVAILABLE"].startswith(
        ("the server closed", "the connection broke", "no connection")
    )
    assert len(connections) >= 2


def test_a_server_that_does_not_come_back_costs_no_time() -> None:
    """Without a connection an open loop's calls fail at once, and the stage ends in its time."""
    gone = threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(SETTINGS if number == 0 else b"")
        read_calls(connection)
        gone.set()

    with odd_server(serve) as route, Processes(1, route, 1) as processes:
        began = time.monotonic()
        tally = processes.run([order(rate=200.0, poisson=False)], lambda *_: None)
        assert gone.is_set()
        assert time.monotonic() - began < 4
    assert tally.calls == tally.errors["UNAVAILABLE"] == 100


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_what_speaks_no_http2_is_unavailable(first: bytes) -> None:
    """A server of something else, or one that hangs up, is told before anything is measured."""

    def serve(connection: socket.socket, number: int) -> None:
        connection.recv(1 << 16)
        connection.sendall(first)

    with (
        odd_server(serve) as route,
        pytest.raises(Unavailable, match=r"speak HTTP/2|closed the connection|reset"),
    ):
        Processes(1, route, 1)


def test_nobody_there_is_unavailable() -> None:
    """A refused connection, a name that is none and an address that is none say why."""
    for address in ("127.0.0.1:1", "no.such.host.invalid:1", "unix:/run/armoire"):
        with pytest.raises(Unavailable):
            Processes(2, Route(address, PATH, 1.0), 1)


def test_a_client_that_stands_still_is_told_from_a_server_that_does(server: Running) -> None:
    """What a stopped client sends late has its latency from when it was due, and the lag tells whose fault it was."""
    with Processes(1, Route(server.address, PATH, 5.0), 1) as processes:
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
    with Processes(2, Route(server.address, PATH, 5.0), 1) as processes:
        killed = processes._children[1]

        def kill(done: int, failed: int) -> None:
            killed.kill()

        with pytest.raises(ArmoireError, match="client process 2 has died"):
            processes.run([order(callers=1, seconds=30), order(callers=1, seconds=30)], kill)


def test_a_model_without_attributes_is_moved_along_a_vector() -> None:
    """AddAttribute of a model that names no attribute brings a direction of its own."""
    model = Model("m", "1", (2, 2, 1), 3, {}, (), "", "", "", {}, {}, "")
    message = pb.AddAttributeRequest.FromString(request.build("AddAttribute", model, Target(), 5))
    (edit,) = message.edits
    assert edit.vector.shape == [3]
    assert message.points.latents.shape == [5, 3]
    model = model._replace(attributes={"hat": {}})
    message = pb.AddAttributeRequest.FromString(request.build("AddAttribute", model, Target(), 5))
    assert message.edits[0].attribute == "hat"
