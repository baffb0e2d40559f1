"""The bytes of requests on their way out, as fast as the server's flow control lets them go."""

from __future__ import annotations

import hpack

from armoire.load.frames import (
    CANCEL,
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    RST_STREAM,
    frame,
    opening,
)


class _Held:
    """What is left of a request, and how much of it the server takes on its stream."""

    __slots__ = ("rest", "window")

    def __init__(self, message: bytes, window: int) -> None:
        self.rest = memoryview(message)
        self.window = window


class Outflow:
    """Everything that a connection has to send, in its order."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        """Begin; every request has the same ``headers``, pseudo-headers first."""
        self._headers = headers
        self._encoder = hpack.Encoder()
        self._block = self._encoded = b""
        self._out = [opening()]
        self._held: dict[int, _Held] = {}
        self._window = self._initial_window = DEFAULT_WINDOW
        self._frame_size = DEFAULT_FRAME

    def take(self) -> bytes:
        """Give what is to be sent now, and forget it."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def add(self, data: bytes) -> None:
        """Send a frame that flow control does not concern."""
        self._out.append(data)

    def request(self, stream_id: int, message: bytes) -> None:
        """Send a request whole, or what of it may go now."""
        self._out.append(frame(HEADERS, END_HEADERS, stream_id, self._block or self._encode()))
        if len(message) <= min(self._window, self._initial_window, self._frame_size) and not self._held:
            self._window -= len(message)
            self._out.append(frame(DATA, END_STREAM, stream_id, message))
        else:
            self._held[stream_id] = _Held(message, self._initial_window)
            self._push()

    def cancel(self, stream_id: int) -> None:
        """Tell the server that nobody waits for this answer any more."""
        self._held.pop(stream_id, None)
        self._out.append(frame(RST_STREAM, 0, stream_id, CANCEL.to_bytes(4, "big")))

    def answered(self, stream_id: int) -> None:
        """Send no more of a request that the server has answered before it had it all."""
        if stream_id in self._held:
            self.cancel(stream_id)

    def widen(self, stream_id: int, by: int) -> None:
        """Take a WINDOW_UPDATE; stream 0 is the connection."""
        if stream_id == 0:
            self._window += by
        elif stream_id in self._held:
            self._held[stream_id].window += by
        if self._held:
            self._push()

    def adjust(self, settings: dict[int, int]) -> None:
        """Take the server's SETTINGS."""
        if HEADER_TABLE_SIZE in settings:
            self._encoder.header_table_size = min(settings[HEADER_TABLE_SIZE], 4096)
            self._block = b""
        self._frame_size = settings.get(MAX_FRAME_SIZE, self._frame_size)
        window = settings.get(INITIAL_WINDOW_SIZE, self._initial_window)
        for held in self._held.values():
            held.window += window - self._initial_window
        self._initial_window = window
        self._push()

    def _push(self) -> None:
        for stream_id, held in list(self._held.items()):
            while (size := min(self._window, held.window, self._frame_size, len(held.rest))) > 0:
                part, held.rest = bytes(held.rest[:size]), held.rest[size:]
                self._window -= size
                held.window -= size
                self._out.append(frame(DATA, 0 if held.rest else END_STREAM, stream_id, part))
            if not held.rest:
                del self._held[stream_id]

    def _encode(self) -> bytes:
        """Encode the headers; once the server's table has them all, the block stays the same and is kept."""
        before, self._encoded = self._encoded, self._encoder.encode(self._headers)
        if self._encoded == before:
            self._block = before
        return self._encoded
