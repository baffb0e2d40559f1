"""HTTP/2 frame by frame: what no client library would send."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import grpc
from hpack import Decoder, Encoder
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = 2**31 - 1
NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
CANCEL = 8
Headers = Sequence[tuple[bytes, bytes]]
# Where a stream ends without a status of gRPC's.
CLOSED, TIMEOUT = "CLOSED", "TIMEOUT"


class Answer(NamedTuple):
    """How a call ended: gRPC's code by name, or RST_STREAM, GOAWAY, HTTP and their number, CLOSED or TIMEOUT."""

    code: str
    text: str = ""


def request_headers(path: str, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Give the headers of a call of gRPC."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode(errors="surrogateescape")),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """Put gRPC's five bytes in front of a message."""
    return bytes([compressed]) + len(message).to_bytes(4) + message


def is_whole(body: bytes) -> bool:
    """Tell whether a body has a message of gRPC's from beginning to end: without one, no call begins."""
    return len(body) >= 5 and len(body) - 5 >= int.from_bytes(body[1:5])


def frames(stream: int, headers: bytes, body: bytes) -> bytes:
    """Give a whole request: HEADERS with ``headers`` encoded, then DATA."""
    first = HeadersFrame(stream, data=headers, flags=["END_HEADERS"])
    parts = [body[at : at + 16384] for at in range(0, len(body), 16384)] or [b""]
    data = [DataFrame(stream, data=part) for part in parts]
    data[-1].flags.add("END_STREAM")
    return b"".join(frame.serialize() for frame in (first, *data))


class Connection:
    """One connection to a server, without TLS."""

    def __init__(
        self, port: int, *, greet: bool = True, seconds: float = 10.0, window: int = LARGEST_WINDOW
    ) -> None:
        """Connect; ``greet`` sends the preface and SETTINGS. ``seconds`` bound every wait.

        A ``window`` of 0 lets the server send no answer's body.
        """
        self._socket = socket.create_connection(("127.0.0.1", port), seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._seconds = seconds
        self._received = b""
        self._next_stream = 1
        self.encoder, self._decoder = Encoder(), Decoder()
        self.is_open = True
        if greet:
            settings = {SettingsFrame.INITIAL_WINDOW_SIZE: window}
            opening = (
                SettingsFrame(0, settings=settings),
                SettingsFrame(0, flags=["ACK"]),
                WindowUpdateFrame(0, window_increment=LARGEST_WINDOW - 65535),
            )
            self.send(PREFACE + b"".join(frame.serialize() for frame in opening))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; nobody reads what is on the way."""
        self.is_open = False
        self._socket.close()

    def finish(self) -> None:
        """Send nothing more."""
        with contextlib.suppress(OSError):  # closed already
            self._socket.shutdown(socket.SHUT_WR)

    def new_stream(self) -> int:
        """Give the number of the next stream."""
        self._next_stream += 2
        return self._next_stream - 2

    def send(self, content: bytes) -> bool:
        """Send bytes, and tell whether they went out: the server may have closed."""
        try:
            self._socket.sendall(content)
        except OSError:
            self.is_open = False
        return self.is_open

    def call(self, headers: Headers, body: bytes, *, seconds: float | None = None) -> Answer:
        """Make a call and wait for its end; one that has none after ``seconds`` is reset."""
        return self.calls([(headers, body)], seconds=seconds)[0]

    def calls(self, many: Sequence[tuple[Headers, bytes]], *, seconds: float | None = None) -> list[Answer]:
        """Make calls at once and wait for the end of all; those that have none after ``seconds`` are reset."""
        streams = [self.new_stream() for _ in many]
        for stream, (headers, body) in zip(streams, many, strict=True):
            self.send(frames(stream, self.encoder.encode(headers), body))
        answers = self.answers(streams, seconds)
        if self.is_open:
            for stream in set(streams) - answers.keys():
                self.send(RstStreamFrame(stream, error_code=CANCEL).serialize())
        missing = Answer(TIMEOUT if self.is_open else CLOSED)
        return [answers.get(stream, missing) for stream in streams]

    def answers(self, streams: Sequence[int], seconds: float | None = None) -> dict[int, Answer]:
        """Wait for the ends of streams, as long as the connection waits or ``seconds``."""
        found: dict[int, Answer] = {}
        for frame in self.frames(seconds):
            if isinstance(frame, GoAwayFrame):
                self.is_open = False
                gone = Answer(f"GOAWAY {frame.error_code}", repr(frame.additional_data))
                return dict.fromkeys(streams, gone) | found
            # Every block is decoded, whosesoever it is: the table is the connection's.
            headers = self._headers(frame) if isinstance(frame, HeadersFrame) else {}
            if frame.stream_id not in streams or frame.stream_id in found:
                continue
            if isinstance(frame, RstStreamFrame):
                found[frame.stream_id] = Answer(f"RST_STREAM {frame.error_code}")
            elif b"grpc-status" in headers:
                text = headers.get(b"grpc-message", b"").decode(errors="backslashreplace")
                found[frame.stream_id] = Answer(NAMES[int(headers[b"grpc-status"])], text)
            elif "END_STREAM" in frame.flags:
                found[frame.stream_id] = Answer(f"HTTP {headers.get(b':status', b'').decode()}")
            if len(found) == len(streams):
                break
        return found

    def frames(self, seconds: float | None = None) -> Iterator[Frame]:
        """Give what comes, and answer pings, until the server closes or the time is over."""
        end = time.monotonic() + (self._seconds if seconds is None else seconds)
        while (left := end - time.monotonic()) > 0:
            while len(self._received) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self._received[:9]))
                if len(self._received) < 9 + length:
                    break
                frame.parse_body(memoryview(self._received[9 : 9 + length]))
                self._received = self._received[9 + length :]
                if isinstance(frame, PingFrame) and "ACK" not in frame.flags:
                    self.send(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]).serialize())
                yield frame
            self._socket.settimeout(left)
            try:
                came = self._socket.recv(1 << 16)
            except TimeoutError:
                return
            except OSError:
                came = b""
            if not came:
                self.is_open = False
                return
            self._received += came

    def _headers(self, frame: HeadersFrame) -> dict[bytes, bytes]:
        return {bytes(name): bytes(value) for name, value in self._decoder.decode(frame.data, raw=True)}


def exchange(port: int, content: bytes, seconds: float = 5.0) -> str:
    """Send bytes on a connection of their own, end it, and tell how the server took them.

    Returns:
        GOAWAY and its number, CLOSED without one, or TIMEOUT where the server holds on to the connection.
    """
    with Connection(port, greet=False, seconds=seconds) as connection:
        connection.send(content)
        connection.finish()
        last = ""
        with contextlib.suppress(HyperframeError):  # an answer of HTTP/1
            for frame in connection.frames():
                if isinstance(frame, GoAwayFrame):
                    last = f"GOAWAY {frame.error_code}"
        return last or (TIMEOUT if connection.is_open else CLOSED)
