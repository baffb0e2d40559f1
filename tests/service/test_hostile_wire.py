"""What comes below the level of messages: HTTP/2 that no client library would send, at a server of its own process."""

from __future__ import annotations

import io

import pytest
from hyperframe.frame import GoAwayFrame, HeadersFrame, PingFrame
from PIL import Image

from armoire.v1 import armoire_pb2 as pb
from armoire.wire import listening
from tests.serving import serving
from tests.soak.http2 import Connection, framed, request_headers
from tests.soak.pictures import chunk
from tests.soak.process import server_process
from tests.soak.requests import PATHS

LIST_MODELS = PATHS["ListModels"]
HEALTH = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.mark.parametrize("path", [b"\xff", b"/armoire.v1.LatentService/Decode\xc3"])
def test_a_path_that_is_no_utf8_ends_its_call_and_nothing_else(path: bytes) -> None:
    """A call whose path is not UTF-8 is refused, and the next is answered."""
    with server_process("--threads", "1") as server, Connection(server.port) as connection:
        headers = [(name, path if name == b":path" else value) for name, value in request_headers("/")]
        refused = connection.call(headers, framed(b""))
        assert refused.code not in ("OK", "TIMEOUT")
        with Connection(server.port) as other:
            assert other.call(request_headers(LIST_MODELS), framed(b"")).code == "OK"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (HEALTH, "INVALID_ARGUMENT"),
        (WATCH, "INVALID_ARGUMENT"),
        (REFLECTION, "UNKNOWN"),
        ("/\udcff", "UNKNOWN"),
    ],
)
def test_what_nobody_can_read_is_no_traceback_in_the_log(path: str, code: str) -> None:
    """Bytes that are no request of health or reflection, or no path, leave no traceback in the log."""
    with server_process("--threads", "1") as server:
        with Connection(server.port) as connection:
            headers = request_headers(path)
            assert connection.call(headers, framed(b"\xff\xff")).code == code
        assert server.stop() == 0
        assert not [line for line in server.strange_lines if "Traceback" in line or "ERROR" in line]


def test_the_last_words_of_a_peer_are_no_lines_in_the_log() -> None:
    """A connection that is ended with a text, line breaks in it, leaves nothing of that text on stderr."""
    with server_process("--threads", "1") as server:
        with Connection(server.port) as connection:
            assert connection.call(request_headers(LIST_MODELS), framed(b"")).code == "OK"
            last_words = b"\n09:00:00 INFO    all is well"
            connection.send(GoAwayFrame(0, error_code=420172323, additional_data=last_words).serialize())
            for _ in connection.frames(1.0):
                pass  # until it is closed
        assert server.stop() == 0
        assert not [line for line in server.strange_lines if "all is well" in line or "goaway" in line]


def test_what_pillow_doubts_is_no_line_in_the_log() -> None:
    """A picture over which Pillow warns (an animated PNG of no frames) leaves the line of its call and nothing else."""
    png = io.BytesIO()
    Image.new("L", (28, 28)).save(png, "PNG")
    header = png.getvalue().index(b"IDAT") - 4
    content = png.getvalue()[:header] + chunk(b"acTL", bytes(8)) + png.getvalue()[header:]
    message = pb.EncodeRequest(images=pb.Images(encoded=pb.EncodedImages(images=[content])))
    with server_process("--threads", "1") as server:
        with Connection(server.port) as connection:
            answer = connection.call(request_headers(PATHS["Encode"]), framed(message.SerializeToString()))
            assert answer.code == "OK"
        assert server.stop() == 0
        assert not [line for line in server.strange_lines if "PIL" in line]


def test_one_connection_cannot_take_the_room_of_all() -> None:
    """Of 20,000 calls begun on one connection most are refused, in little memory, and another caller is answered."""
    with server_process("--threads", "1") as server, Connection(server.port) as flood:
        before = server.sample().rss_bytes
        flood.send(PingFrame(0, opaque_data=b"settings").serialize())
        assert any(isinstance(frame, PingFrame) for frame in flood.frames())
        for _ in range(20_000):
            block = flood.encoder.encode(request_headers(LIST_MODELS))
            flood.send(HeadersFrame(flood.new_stream(), data=block, flags=["END_HEADERS"]).serialize())
        with Connection(server.port) as other:
            assert other.call(request_headers(LIST_MODELS), framed(b"")).code == "OK"
        assert server.sample().rss_bytes - before < 150 << 20


@pytest.mark.parametrize(("bound", "greet"), [("HANDSHAKE_MS", False), ("IDLE_MS", True)])
def test_a_connection_without_a_hello_or_a_call_is_closed(
    monkeypatch: pytest.MonkeyPatch, bound: str, greet: bool
) -> None:
    """Who connects and says nothing, and who says hello and calls nobody, is let go of in time."""
    monkeypatch.setattr(listening, bound, 1000)
    with serving() as running:
        port = int(running.address.rpartition(":")[2])
        with Connection(port, greet=greet, seconds=20) as connection:
            for _ in connection.frames():
                pass
            assert not connection.is_open
