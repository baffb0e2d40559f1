"""A socket with a connection on it, which comes back after it broke."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence

from armoire.load.connection import Answer, Connection
from armoire.load.route import Route
from armoire.load.status import Code

BUFFER_BYTES = 1 << 18


class Link:
    """One connection to one of the addresses behind a name: link ``index`` takes them in turn."""

    def __init__(self, route: Route, context: ssl.SSLContext | None, index: int, patience: float) -> None:
        """Connect, which takes ``patience`` seconds for each step at most.

        Raises:
            OSError: nobody listens there, or not so that TLS is content.
        """
        self._connection = Connection(route.headers())
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._unsent = memoryview(b"")
        host, port = route.host_and_port
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        turn = index % len(addresses)
        self._socket = _connect([*addresses[turn:], *addresses[:turn]], context, host, patience)
        self.fileno = self._socket.fileno
        self.call = self._connection.call
        self.give_up = self._connection.give_up
        self.fields = self._connection.fields
        try:
            self._shake_hands()
        except BaseException:
            self.close()
            raise

    @property
    def leaving(self) -> bool:
        """Whether the server takes no more calls here."""
        return self._connection.leaving

    @property
    def unanswered(self) -> int:
        """How many calls have no answer yet."""
        return self._connection.unanswered

    @property
    def waiting(self) -> int:
        """How many calls of those wait until the server takes one more on this connection."""
        return self._connection.waiting

    @property
    def most_calls(self) -> int:
        """How many calls the server takes side by side on this connection."""
        return self._connection.most_calls

    @property
    def sending(self) -> bool:
        """Whether bytes wait for the socket to take them."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what the socket takes; where it is broken, the next ``receive`` says so."""
        if not self._unsent:
            self._unsent = memoryview(self._connection.take())
        with contextlib.suppress(OSError):  # BlockingIOError and the ssl.SSLWant errors among them
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def receive(self) -> list[Answer]:
        """Take what has come and give the calls that it answers.

        Raises:
            ConnectionError: the connection is at its end; ``abandon`` tells which calls go with it.
        """
        answers: list[Answer] = []
        try:
            while size := self._socket.recv_into(self._buffer):
                answers += self._connection.receive(self._buffer[:size])
                if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
                    return answers
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return answers
        except OSError as error:
            if answers:
                return answers
            raise ConnectionError(f"the connection broke: {error.strerror or error}") from None
        if answers:
            return answers  # the next read says again that this is the end
        raise ConnectionError("the server closed the connection")

    def abandon(self, reason: str) -> list[Answer]:
        """Close, and end every call that has no answer as UNAVAILABLE."""
        self.close()
        return self._connection.abandon(Code.UNAVAILABLE, reason)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _shake_hands(self) -> None:
        self._socket.sendall(self._connection.take())
        while not self._connection.ready:
            size = self._socket.recv_into(self._buffer)
            if not size:
                raise ConnectionError("the server closed the connection")
            self._connection.receive(self._buffer[:size])
        self._socket.setblocking(False)


def _connect(
    addresses: Sequence[tuple[object, ...]], context: ssl.SSLContext | None, host: str, patience: float
) -> socket.socket:
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in addresses:
        plain = socket.socket(family, kind, protocol)  # type: ignore[arg-type]
        try:
            plain.settimeout(patience)
            plain.connect(address)  # type: ignore[arg-type]
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return context.wrap_socket(plain, server_hostname=host) if context else plain
        except OSError as error:
            plain.close()
            failure = error
    raise failure
