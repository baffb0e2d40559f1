"""HTTP/2 as a load test speaks it, without sockets: bytes in, bytes out."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armoire.load import frames
from armoire.load.connection import Answer, Connection
from armoire.load.frames import frame
from armoire.load.status import Code

HEADERS = [(":method", "POST"), (":path", "/armoire.v1.LatentService/Decode"), ("te", "trailers")]
MESSAGE = b"\0\0\0\0\x03abc"
TRAILERS = [("grpc-status", "0"), ("armoire-timing", "queue=1.000, run=2.000, total=3.500")]


def settings(**values: int) -> bytes:
    payload = b"".join(
        getattr(frames, name).to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items()
    )
    return frame(frames.SETTINGS, 0, 0, payload)


def block(fields: list[tuple[str, str]], *, huffman: bool = False) -> bytes:
    return hpack.Encoder().encode(fields, huffman=huffman)


def begun(stream_id: int) -> bytes:
    return frame(frames.HEADERS, frames.END_HEADERS, stream_id, block([(":status", "200")]))


def data(stream_id: int, content: bytes) -> bytes:
    return frame(frames.DATA, 0, stream_id, content)


def ended(stream_id: int, fields: list[tuple[str, str]] = TRAILERS, *, huffman: bool = False) -> bytes:
    flags = frames.END_HEADERS | frames.END_STREAM
    return frame(frames.HEADERS, flags, stream_id, block(fields, huffman=huffman))


def ready(**values: int) -> Connection:
    connection = Connection(HEADERS)
    connection.receive(settings(**values))
    connection.take()
    return connection


class Sent:
    """The frames that a connection sends, read back."""

    def __init__(self) -> None:
        self.decoder = hpack.Decoder()
        self.headers: dict[int, list[tuple[str, str]]] = {}
        self.bodies: dict[int, bytes] = {}
        self.whole: set[int] = set()
        self.others: list[tuple[int, int, bytes]] = []

    def read(self, content: bytes) -> Sent:
        while content:
            high, low, kind, flags, stream_id = frames.HEAD.unpack_from(content)
            length = high << 8 | low
            payload, content = content[9 : 9 + length], content[9 + length :]
            if kind == frames.HEADERS:
                self.headers[stream_id] = self.decoder.decode(payload)
            elif kind == frames.DATA:
                self.bodies[stream_id] = self.bodies.get(stream_id, b"") + payload
                if flags & frames.END_STREAM:
                    self.whole.add(stream_id)
            else:
                self.others.append((kind, stream_id, payload))
        return self


def test_calls_wait_for_the_servers_settings() -> None:
    """Nothing but the preface goes out before the server has told how many calls it takes."""
    connection = Connection(HEADERS)
    connection.call(1.0, MESSAGE)
    assert connection.take().startswith(frames.PREFACE)
    assert connection.unanswered == connection.waiting == 1
    connection.receive(settings())
    sent = Sent().read(connection.take())
    assert sent.bodies == {1: MESSAGE}
    assert sent.others == [(frames.SETTINGS, 0, b"")]


def test_every_call_has_the_same_headers_in_fewer_bytes() -> None:
    """From the second call on the block is an index for each header, and decodes to the same."""
    connection, sent = ready(), Sent()
    sizes = []
    for number in range(4):
        connection.call(number, MESSAGE)
        content = connection.take()
        sizes.append(len(content))
        sent.read(content)
    assert list(sent.headers) == [1, 3, 5, 7]
    assert all(headers == HEADERS for headers in sent.headers.values())
    assert sizes[0] > sizes[1] == sizes[2] == sizes[3]


def test_a_server_without_a_header_table_gets_headers_that_it_can_read() -> None:
    """A table of size 0 is kept to, from the call after it was told on."""
    connection, sent = ready(), Sent()
    connection.call(0.0, MESSAGE)
    connection.receive(settings(HEADER_TABLE_SIZE=0))
    connection.call(1.0, MESSAGE)
    connection.call(2.0, MESSAGE)
    sent.decoder.max_allowed_table_size = 4096
    sent.read(connection.take())
    assert sent.decoder.header_table_size == 0
    assert all(headers == HEADERS for headers in sent.headers.values())


@given(st.lists(st.integers(1, 60), max_size=40), st.booleans())
def test_answers_do_not_depend_on_how_the_bytes_arrive(cuts: list[int], huffman: bool) -> None:
    """However the server's bytes are cut, the same answers come out with the same sizes."""
    connection = ready()
    for key in (0.0, 1.0, 2.0):
        connection.call(key, MESSAGE)
    padded = frame(frames.DATA, frames.PADDED, 3, b"\x04" + b"pixels" + bytes(4))
    content = (
        begun(1)
        + data(1, b"x" * 70)
        + begun(3)
        + padded
        + data(1, b"y" * 30)
        + ended(3, huffman=huffman)
        + frame(frames.PING, 0, 0, b"12345678")
        + ended(5, [("grpc-status", "8"), ("grpc-message", "full%2C try again")], huffman=huffman)
        + ended(1, huffman=huffman)
    )
    answers: list[Answer] = []
    for cut in cuts:
        part, content = content[:cut], content[cut:]
        answers += connection.receive(memoryview(part))
    answers += connection.receive(content)
    assert [(a.key, a.code, a.size, a.message) for a in answers] == [
        (1.0, Code.OK, 6, ""),
        (2.0, Code.RESOURCE_EXHAUSTED, 0, "full, try again"),
        (0.0, Code.OK, 100, ""),
    ]
    assert connection.fields(answers[0])["armoire-timing"] == TRAILERS[1][1]
    assert connection.unanswered == 0
    assert (frames.PING, 0, b"12345678") in Sent().read(connection.take()).others


def test_trailers_may_come_in_pieces() -> None:
    """A header block that goes on in CONTINUATION frames is read as one."""
    connection = ready()
    connection.call(0.0, MESSAGE)
    whole = block([("grpc-status", "5"), ("grpc-message", "no such model")])
    connection.receive(
        frame(frames.HEADERS, frames.END_STREAM | frames.PRIORITY, 1, bytes(5) + whole[:4])
        + frame(frames.CONTINUATION, 0, 1, whole[4:9])
    )
    (answer,) = connection.receive(frame(frames.CONTINUATION, frames.END_HEADERS, 1, whole[9:]))
    assert (answer.code, answer.message) == (Code.NOT_FOUND, "no such model")


@pytest.mark.parametrize("huffman", [False, True])
@pytest.mark.parametrize("code", Code)
def test_every_code_is_read(code: Code, huffman: bool) -> None:
    """Each of gRPC's seventeen codes comes out as itself, however it is encoded."""
    connection = ready()
    connection.call(0.0, MESSAGE)
    (answer,) = connection.receive(ended(1, [("grpc-status", str(int(code)))], huffman=huffman))
    assert answer.code is code


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ([(":status", "502")], Code.UNAVAILABLE, "HTTP 502"),
        ([(":status", "404")], Code.UNIMPLEMENTED, "HTTP 404"),
        ([(":status", "418")], Code.UNKNOWN, "HTTP 418"),
        ([("grpc-status", "99")], Code.UNKNOWN, ""),
        ([("grpc-status", "minus")], Code.UNKNOWN, ""),
    ],
)
def test_what_has_no_code_of_grpc_gets_one(fields: list[tuple[str, str]], code: Code, text: str) -> None:
    """A proxy's bare HTTP status and an unknown number become the code that gRPC makes of them."""
    connection = ready()
    connection.call(0.0, MESSAGE)
    (answer,) = connection.receive(ended(1, fields))
    assert answer.code is code
    assert text in answer.message


def test_an_end_without_status_is_unknown() -> None:
    """An answer whose last frame is DATA has no status."""
    connection = ready()
    connection.call(0.0, MESSAGE)
    (answer,) = connection.receive(begun(1) + frame(frames.DATA, frames.END_STREAM, 1, b"abc"))
    assert (answer.code, answer.size) == (Code.UNKNOWN, 3)


@pytest.mark.parametrize(("error", "code"), [(7, Code.UNAVAILABLE), (8, Code.CANCELLED), (2, Code.INTERNAL)])
def test_a_reset_stream_is_an_answer(error: int, code: Code) -> None:
    """RST_STREAM ends the call with the code that gRPC makes of its error, and only once."""
    connection = ready()
    connection.call(0.0, MESSAGE)
    reset = frame(frames.RST_STREAM, 0, 1, error.to_bytes(4, "big"))
    (answer,) = connection.receive(reset)
    assert answer.code is code
    assert connection.receive(reset + ended(1)) == []


def test_no_more_calls_than_the_server_takes() -> None:
    """Calls beyond MAX_CONCURRENT_STREAMS wait, and go out one for one as answers come."""
    connection, sent = ready(MAX_CONCURRENT_STREAMS=2), Sent()
    for key in range(5):
        connection.call(key, MESSAGE)
    assert connection.waiting == 3
    assert list(sent.read(connection.take()).bodies) == [1, 3]
    connection.receive(ended(3))
    assert list(sent.read(connection.take()).bodies) == [1, 3, 5]
    connection.receive(settings(MAX_CONCURRENT_STREAMS=10))
    assert list(sent.read(connection.take()).bodies) == [1, 3, 5, 7, 9]


@given(
    st.lists(st.integers(1, 50_000), min_size=1, max_size=5),
    st.sampled_from([0, 100, 20_000, 65_535]),
    st.integers(1, 30_000),
)
def test_requests_obey_flow_control_and_arrive_whole(sizes: list[int], window: int, step: int) -> None:
    """Neither the stream's nor the connection's window is ever overrun, and in the end every byte is there."""
    connection, sent = ready(INITIAL_WINDOW_SIZE=window, MAX_FRAME_SIZE=16_384), Sent()
    messages = [bytes([65 + index]) * size for index, size in enumerate(sizes)]
    for key, message in enumerate(messages):
        connection.call(key, message)
    whole = 65_535
    streams = {1 + 2 * index: window for index in range(len(messages))}
    for _ in range(200):
        sent.read(connection.take())
        assert sum(map(len, sent.bodies.values())) <= whole
        assert all(len(sent.bodies.get(number, b"")) <= most for number, most in streams.items())
        if len(sent.whole) == len(messages):
            break
        updates = frame(frames.WINDOW_UPDATE, 0, 0, step.to_bytes(4, "big"))
        whole += step
        for number in streams.keys() - sent.whole:
            streams[number] += step
            updates += frame(frames.WINDOW_UPDATE, 0, number, step.to_bytes(4, "big"))
        connection.receive(updates)
    assert list(sent.bodies.values()) == messages or sum(sizes) > 200 * step


def test_a_larger_initial_window_frees_what_waits() -> None:
    """SETTINGS in the middle change the windows of streams that are open."""
    connection, sent = ready(INITIAL_WINDOW_SIZE=10), Sent()
    connection.call(0.0, b"z" * 100)
    assert sent.read(connection.take()).bodies == {1: b"z" * 10}
    connection.receive(settings(INITIAL_WINDOW_SIZE=60))
    assert sent.read(connection.take()).bodies == {1: b"z" * 60}
    connection.receive(ended(1, [("grpc-status", "3")]))
    # The server has seen enough: the rest is not sent, and the stream is closed.
    assert sent.read(connection.take()).others[-1] == (frames.RST_STREAM, 1, (8).to_bytes(4, "big"))


def test_the_connection_window_is_topped_up() -> None:
    """The server may go on sending: what has come is given back before the window closes."""
    connection = ready()
    connection.call(0.0, MESSAGE)
    part = data(1, bytes(1 << 20))
    for _ in range(17):
        connection.receive(part)
    updates = [
        int.from_bytes(payload, "big")
        for kind, stream_id, payload in Sent().read(connection.take()).others
        if kind == frames.WINDOW_UPDATE and stream_id == 0
    ]
    assert sum(updates) >= 1 << 24


def test_a_server_that_leaves_says_which_calls_it_takes_along() -> None:
    """GOAWAY ends the calls after the last that the server will answer; the others are answered."""
    connection = ready(MAX_CONCURRENT_STREAMS=3)
    for key in range(4):
        connection.call(key, MESSAGE)
    answers = connection.receive(frame(frames.GOAWAY, 0, 0, (3).to_bytes(4, "big") + bytes(4)))
    assert [(a.key, a.code) for a in answers] == [(2, Code.UNAVAILABLE), (3, Code.UNAVAILABLE)]
    assert connection.leaving
    answers = connection.receive(ended(1) + ended(3))
    assert [(a.key, a.code) for a in answers] == [(0, Code.OK), (1, Code.OK)]


def test_calls_are_given_up_in_their_order() -> None:
    """Those before the given moment end as DEADLINE_EXCEEDED, waiting ones too; the server is told."""
    connection, sent = ready(MAX_CONCURRENT_STREAMS=2), Sent()
    for key in range(4):
        connection.call(key, MESSAGE)
    sent.read(connection.take())
    assert [a.key for a in connection.give_up(1)] == [0]
    assert sent.read(connection.take()).others == [(frames.RST_STREAM, 1, (8).to_bytes(4, "big"))]
    assert connection.receive(ended(1)) == []
    late = connection.give_up(10)
    assert sorted(a.key for a in late) == [1, 2, 3]
    assert {a.code for a in late} == {Code.DEADLINE_EXCEEDED}
    assert connection.unanswered == 0


def test_a_broken_connection_ends_all_its_calls() -> None:
    """Calls in flight and those that wait end with the reason."""
    connection = ready(MAX_CONCURRENT_STREAMS=1)
    connection.call(0.0, MESSAGE)
    connection.call(1.0, MESSAGE)
    answers = connection.abandon(Code.UNAVAILABLE, "gone")
    assert [(a.key, a.code, a.message) for a in answers] == [
        (0.0, Code.UNAVAILABLE, "gone"),
        (1.0, Code.UNAVAILABLE, "gone"),
    ]
    assert connection.unanswered == 0


@pytest.mark.parametrize(
    "content",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", frame(frames.HEADERS, 0x5, 1, b"\xff\xff\xff\xff\xff")],
)
def test_what_is_no_http2_is_an_error(content: bytes) -> None:
    """Bytes that cannot be read end the connection with a ConnectionError."""
    connection = ready()
    connection.call(0.0, MESSAGE)
    with pytest.raises(ConnectionError):
        connection.receive(content)
