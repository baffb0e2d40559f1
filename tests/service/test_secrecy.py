"""No token is ever shown: not in a log, not in an error, whatever is sent as one."""

from __future__ import annotations

import json
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from armoire import errors
from armoire.client import Client
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from tests.service.test_access import line
from tests.service.test_server import process, ready
from tests.serving import Running

METHOD = b"/armoire.v1.LatentService/ListModels"
# Stands in every token that is sent here, right ones and others.
MARK = "hUsH"
RIGHT = f"right-{MARK}-token"
M = MARK.encode()
# What a client of gRPC can send.
PLAIN: dict[str, tuple[tuple[str, str | bytes], ...]] = {
    "right": (("authorization", f"Bearer {RIGHT}"),),
    "right, lower case": (("authorization", f"bearer {RIGHT}"),),
    "wrong": (("authorization", f"Bearer wrong-{MARK}"),),
    "right and more": (("authorization", f"Bearer {RIGHT}{MARK}"),),
    "no scheme": (("authorization", RIGHT),),
    "another scheme": (("authorization", f"Basic {RIGHT}"),),
    "two spaces": (("authorization", f"Bearer  {RIGHT}"),),
    "empty": (("authorization", "Bearer "), ("x-api-key", RIGHT)),
    "4,000 characters": (("authorization", f"Bearer {MARK * 1000}"),),
    "twice": (("authorization", f"Bearer {RIGHT}"), ("authorization", f"Bearer {MARK}")),
    "odd keys": tuple((key, RIGHT) for key in ("token", "x-api-key", "cookie", "proxy-authorization")),
    "bytes": (("authorization-bin", f"Bearer {RIGHT}".encode()), ("token-bin", RIGHT.encode())),
}
# What only somebody with a socket can.
RAW: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "no UTF-8": ((b"authorization", b"Bearer \xff\xfe" + M),),
    "no UTF-8 in an odd key": ((b"x-api-key", M + b"\xff"),),
    "UTF-8": ((b"authorization", "Bearer ä".encode() + M),),
    "new lines": ((b"authorization", b"Bearer a\r\n" + M),),
    "a zero": ((b"authorization", b"Bearer \0" + M),),
    "100,000 characters": ((b"authorization", b"Bearer " + M * 25_000),),
    "no base64": ((b"authorization-bin", b"!!" + M),),
    "a key in capitals": ((b"Authorization", b"Bearer " + M),),
}


def hpack_length(number: int) -> bytes:
    """The length of a string in HPACK (RFC 7541), not compressed."""
    if number < 127:
        return bytes([number])
    out, number = [127], number - 127
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    return bytes([*out, number])


def field(key: bytes, value: bytes) -> bytes:
    """A header field that is not indexed."""
    return b"\0" + hpack_length(len(key)) + key + hpack_length(len(value)) + value


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content


def send_raw(address: str, metadata: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Call ListModels by hand over HTTP/2, and give all that the server says until it has ended the call."""
    host, _, port = address.rpartition(":")
    pseudo = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", METHOD), (b":authority", b"x")]
    fixed = [(b"te", b"trailers"), (b"content-type", b"application/grpc")]
    block = b"".join(field(*each) for each in (*pseudo, *fixed, *metadata))
    parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    heads = b"".join(
        frame(9 if number else 1, 4 if number == len(parts) - 1 else 0, 1, part)
        for number, part in enumerate(parts)
    )
    with socket.create_connection((host, int(port)), 30) as wire:
        wire.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        wire.sendall(heads + frame(0, 1, 1, b"\0\0\0\0\0"))
        said = b""
        for kind, flags, stream, content in frames(wire):
            said += content
            # The last HEADERS, a reset, or the end of the connection.
            if (stream == 1 and (kind == 3 or (kind == 1 and flags & 1))) or kind == 7:
                break
        return said


def frames(wire: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """Give kind, flags, stream and content of each frame."""
    with wire.makefile("rb") as stream:
        while len(head := stream.read(9)) == 9:
            content = stream.read(int.from_bytes(head[:3]))
            yield head[3], head[4], int.from_bytes(head[5:9]), content


def send(address: str, metadata: tuple[tuple[str, str | bytes], ...]) -> str:
    """Call ListModels, and give all that an error tells; empty: it was answered."""
    with grpc.insecure_channel(address) as channel:
        try:
            pb_grpc.LatentServiceStub(channel).ListModels(
                pb.ListModelsRequest(), metadata=metadata, timeout=30
            )
        except grpc.RpcError as error:
            return f"{error.details()} {error.trailing_metadata()}"
    return ""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_token_is_shown(tmp_path: Path, log_format: str) -> None:
    """Right, wrong, malformed, very long, in odd keys: neither the log nor any answer holds a part of it."""
    (tmp_path / "tokens").write_text(line("web", RIGHT))
    with process("--tokens-file", str(tmp_path / "tokens"), "--log-format", log_format) as server:
        address = ready(server)
        answers = {name: send(address, metadata) for name, metadata in PLAIN.items()}
        raw = {name: send_raw(address, metadata) for name, metadata in RAW.items()}
        (tmp_path / "tokens").write_text(
            f"{line('web', RIGHT)}oops {RIGHT}\n"
        )  # the token where its hash belongs
        server.send_signal(signal.SIGHUP)
        log = []
        while not log or "line 2" not in log[-1]:
            log.append(server.stderr.readline())
        with Client(address, token=RIGHT) as client:
            client.models()
        server.send_signal(signal.SIGTERM)
        output, rest = server.communicate(timeout=60)
    log += rest.splitlines()
    assert [name for name, text in answers.items() if not text] == ["right", "right, lower case"]
    assert all(raw.values())
    assert not [name for name, text in answers.items() if MARK in text]
    assert not [name for name, said in raw.items() if M in said]
    assert not [text for text in (output, *log) if MARK in text]
    # What is left out is not the log itself: each call has its line, but for those that gRPC answers by itself.
    assert sum("ListModels" in text for text in log) >= len(PLAIN) + 5
    if log_format == "json":
        assert all(json.loads(text) for text in log)
    # Who called is told by the token's name.
    named = '"caller": "web"' if log_format == "json" else "caller=web"
    assert sum(named in text for text in log) >= 3


@pytest.mark.parametrize("token", [f"{MARK}ä", f"{MARK}\n", f"{MARK} {MARK}", f"{MARK}\0", f"\ud800{MARK}"])
def test_a_client_does_not_show_a_token_that_cannot_be_sent(token: str) -> None:
    """Of characters that metadata cannot hold gRPC's own error would show the whole token."""
    with pytest.raises(errors.InvalidArgument, match="token: printable ASCII") as refused:
        Client("127.0.0.1:1", token=token)
    assert MARK not in str(refused.value)


def test_errors_of_a_client_do_not_show_its_token(server: Running) -> None:
    """Refused, unreachable, too late: no error of a client with a token holds it, nor does its form in a debugger."""
    for address, timeout in ((server.address, 30), ("127.0.0.1:1", 30), (server.address, 1e-9)):
        with (
            Client(address, token=RIGHT, timeout=timeout, model="no-such-model") as client,
            pytest.raises(errors.ArmoireError) as refused,
        ):
            client.sample(1)
        assert MARK not in f"{refused.value!r} {refused.value} {client!r}"
