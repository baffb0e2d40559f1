"""The frames of HTTP/2, RFC 9113, that a caller sends and reads."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5
DEFAULT_WINDOW, LARGEST_WINDOW = 65_535, (1 << 31) - 1
# The least that everybody takes, and what we take.
DEFAULT_FRAME, LARGEST_FRAME = 1 << 14, 1 << 20
CANCEL = 8  # an error code
HEAD = struct.Struct(">HBBBL")  # length in three bytes, type, flags, stream
_SETTING = struct.Struct(">HL")


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Build one frame."""
    return HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def opening() -> bytes:
    """Give a caller's first bytes.

    No flow control of the answers: who measures takes what comes. No table of headers on the server's side, so that
    each of its header blocks can be read alone, or not at all.
    """
    ours = {
        HEADER_TABLE_SIZE: 0,
        ENABLE_PUSH: 0,
        INITIAL_WINDOW_SIZE: LARGEST_WINDOW,
        MAX_FRAME_SIZE: LARGEST_FRAME,
    }
    settings = b"".join(_SETTING.pack(name, value) for name, value in ours.items())
    return PREFACE + frame(SETTINGS, 0, 0, settings) + window_update(LARGEST_WINDOW - DEFAULT_WINDOW)


def window_update(by: int) -> bytes:
    """Let the server send ``by`` more bytes."""
    return frame(WINDOW_UPDATE, 0, 0, by.to_bytes(4, "big"))


def settings_of(payload: bytes) -> dict[int, int]:
    """Read a SETTINGS frame."""
    return dict(_SETTING.iter_unpack(payload))


def unpadded(flags: int, payload: bytes) -> bytes:
    """Take padding and priority off a payload."""
    start, end = 0, len(payload)
    if flags & PADDED:
        start, end = 1, end - payload[0]
    return payload[start + (5 if flags & PRIORITY else 0) : end]
