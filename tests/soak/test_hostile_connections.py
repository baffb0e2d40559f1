"""Slow, half-open and flooding connections cost a server little, keep nobody else waiting, and leave nothing behind."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.soak.http2 import PREFACE, Connection, exchange, framed, request_headers
from tests.soak.process import until
from tests.soak.requests import PATHS
from tests.soak.scale import is_soak
from tests.soak.target import BEARER, Target
from tests.soak.verdict import Verdict

AUTHORIZATION = (b"authorization", BEARER[0][1].encode())
HEADERS = request_headers(PATHS["ListModels"], AUTHORIZATION)
HELLO = PREFACE + SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize()
MOST_MIB = 200
# Descriptors and threads that come and go: a scrape, gRPC's own.
SPARE = 8
BACK_SECONDS = 20.0


def _first_headers() -> bytes:
    return HeadersFrame(1, data=Encoder().encode(HEADERS), flags=["END_HEADERS"]).serialize()


SLOW: dict[str, Callable[[], bytes]] = {
    "silent": lambda: b"",
    "half a preface": lambda: PREFACE[:12],
    "a preface": lambda: PREFACE,
    "half a header": lambda: HELLO + _first_headers()[:30],
    "a call without a message": lambda: HELLO + _first_headers(),
    "half a message": lambda: HELLO + _first_headers() + DataFrame(1, data=framed(b"x" * 9)[:8]).serialize(),
    "HTTP/1": lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n",
    "a hello of TLS": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60),
}


def _many(cases: int) -> int:
    """Give how many of a thing the profile in force wants: ``cases`` in a soak, else a tenth."""
    return cases if is_soak() else cases // 10


@pytest.fixture(scope="module")
def connections() -> int:
    """How many connections are opened at once, as the limit of file descriptors allows."""
    wanted = _many(1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + 200
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            pytest.skip(f"ulimit -Hn is {hard}; {needed} are needed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return wanted


def _check_back(target: Target, before: tuple[int, int]) -> None:
    """See that file descriptors and threads come back to about what they were."""
    fds, threads = before

    def is_back() -> bool:
        now = target.server.sample()
        return now.fds <= fds + SPARE and now.threads <= threads + SPARE

    assert until(is_back, BACK_SECONDS), f"{target.server.sample()}; {fds} fds and {threads} threads before"


@pytest.mark.parametrize("kind", SLOW)
def test_slow_connections_keep_nobody_waiting(
    target: Target, verdict: Verdict, connections: int, kind: str
) -> None:
    """Beside a thousand connections that send nothing or half of something a good call is answered in time."""
    before = target.server.sample()
    content = SLOW[kind]()
    with ExitStack() as opened, verdict.timed(f"slow: {kind}"):
        for _ in range(connections):
            connection = opened.enter_context(Connection(target.server.port, greet=False))
            connection.send(content)
            target.counted(f"slow: {kind}", "OPENED")
        target.check_well()
        grown = target.server.sample().rss_bytes - before.rss_bytes
        assert grown < MOST_MIB << 20, f"{grown >> 20} MiB"
    _check_back(target, (before.fds, before.threads))
    target.check_well()


def test_a_byte_at_a_time_keeps_nobody_waiting(target: Target, verdict: Verdict, connections: int) -> None:
    """Connections that send a good call byte by byte, in turn, are all answered in the end, and others meanwhile."""
    before = target.server.sample()
    kind = "slow: a byte at a time"
    some = max(10, connections // 10)
    with ExitStack() as opened, verdict.timed(kind):
        callers = [opened.enter_context(Connection(target.server.port, greet=False)) for _ in range(some)]
        content = HELLO + _first_headers() + DataFrame(1, data=framed(b""), flags=["END_STREAM"]).serialize()
        for at in range(len(content)):
            for caller in callers:
                assert caller.send(content[at : at + 1])
        target.check_well()
        for caller in callers:
            answer = caller.answers([1])[1]
            assert target.counted(kind, answer.code) == "OK"
    _check_back(target, (before.fds, before.threads))


# ---- floods --------------------------------------------------------------------------------------------------

Flood = Callable[[Connection, int], Iterator[bytes]]


def _heads(connection: Connection, times: int) -> Iterator[tuple[int, bytes]]:
    for _ in range(times):
        stream = connection.new_stream()
        block = connection.encoder.encode(HEADERS)
        yield stream, HeadersFrame(stream, data=block, flags=["END_HEADERS"]).serialize()


def _called(stream: int) -> bytes:
    return DataFrame(stream, data=framed(b""), flags=["END_STREAM"]).serialize()


def _reset(stream: int) -> bytes:
    return RstStreamFrame(stream, error_code=8).serialize()


def _continued(connection: Connection, times: int) -> Iterator[bytes]:
    """One list of headers that never ends, in CONTINUATION frames."""
    yield HeadersFrame(connection.new_stream(), data=connection.encoder.encode(HEADERS)).serialize()
    for number in range(times):
        block = connection.encoder.encode([(b"x-%d" % number, b"y" * 100)])
        yield ContinuationFrame(1, data=block).serialize()


def _hpack_bombs(connection: Connection, times: int) -> Iterator[bytes]:
    """One long header in the table of the connection, then a thousand references to it a call, a byte each."""
    connection.encoder.encode(HEADERS)
    long = (b"x", b"y" * 3900)
    for number in range(max(1, times // 1000)):
        block = connection.encoder.encode([*HEADERS, long] if not number else HEADERS)
        references = connection.encoder.encode([long] * 1000) if number else b""
        stream = connection.new_stream()
        whole = block + references
        yield HeadersFrame(stream, data=whole[:16000], flags=["END_HEADERS"]).serialize()


def _repeated(frame: bytes) -> Flood:
    def flood(_: Connection, times: int) -> Iterator[bytes]:
        yield from (frame for _ in range(times))

    return flood


def _on_a_call(frame: bytes) -> Flood:
    """Frames on stream 1, which a call has begun."""

    def flood(connection: Connection, times: int) -> Iterator[bytes]:
        yield from (head for _, head in _heads(connection, 1))
        yield from (frame for _ in range(times))

    return flood


FLOODS: dict[str, Flood] = {
    "calls begun": lambda c, n: (head for _, head in _heads(c, n)),
    "calls begun and reset": lambda c, n: (head + _reset(at) for at, head in _heads(c, n)),
    "calls made": lambda c, n: (head + _called(at) for at, head in _heads(c, n)),
    "calls made and reset": lambda c, n: (head + _called(at) + _reset(at) for at, head in _heads(c, n)),
    "pings": _repeated(PingFrame(0, opaque_data=b"12345678").serialize()),
    "settings": _repeated(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 65535}).serialize()),
    "priorities": _repeated(PriorityFrame(1, depends_on=3, stream_weight=9).serialize()),
    "windows": _repeated(WindowUpdateFrame(0, window_increment=1).serialize()),
    "windows of a call": _on_a_call(WindowUpdateFrame(1, window_increment=2**31 - 1).serialize()),
    "empty data": _on_a_call(DataFrame(1, data=b"").serialize()),
    "padding": _on_a_call(DataFrame(1, data=b"", pad_length=200, flags=["PADDED"]).serialize()),
    "continued headers": _continued,
    "hpack bombs": _hpack_bombs,
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_keeps_nobody_waiting(target: Target, verdict: Verdict, kind: str) -> None:
    """While one connection floods and after it others are answered in time, and memory and descriptors come back."""
    before = target.server.sample()
    name, times = f"flood: {kind}", _many(20_000)
    with Connection(target.server.port) as connection, verdict.timed(name):
        # By the answer to this the server knows that its SETTINGS hold.
        connection.call(HEADERS, framed(b""))
        for part in FLOODS[kind](connection, times):
            if not connection.send(part):
                break
        target.counted(name, "TAKEN" if connection.is_open else "CLOSED")
        target.check_well()
    grown = target.server.sample().rss_bytes - before.rss_bytes
    assert grown < MOST_MIB << 20, f"{grown >> 20} MiB"
    _check_back(target, (before.fds, before.threads))
    target.check_well()


# ---- any frames ----------------------------------------------------------------------------------------------


def _frame(kind: int, flags: int, stream: int, body: bytes, length: int | None) -> bytes:
    return (
        (len(body) if length is None else length).to_bytes(3)
        + bytes([kind, flags])
        + stream.to_bytes(4)
        + body
    )


any_frame = st.one_of(
    st.builds(
        _frame,
        st.one_of(st.integers(0, 10), st.integers(0, 255)),
        st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]), st.integers(0, 255)),
        st.one_of(st.sampled_from([0, 1, 1, 3, 5, 2]), st.integers(0, 2**32 - 1)),
        st.one_of(st.binary(max_size=40), st.sampled_from([bytes(4), bytes(5), bytes(8), b"\xff" * 6])),
        st.one_of(st.none(), st.none(), st.none(), st.integers(0, 2**24 - 1)),
    ),
    st.sampled_from([_first_headers(), _called(1), _reset(1), SettingsFrame(0).serialize()]),
)
openings = st.one_of(
    st.just(HELLO),
    st.just(HELLO),
    st.just(PREFACE),
    st.integers(0, len(HELLO)).map(lambda end: HELLO[:end]),
    st.binary(max_size=30),
    st.sampled_from([SLOW["HTTP/1"](), SLOW["a hello of TLS"]()]),
)


def test_any_frames_end_their_connection_at_most(target: Target, verdict: Verdict) -> None:
    """Whatever frames come on a connection, the server lets go of it when its peer does, and goes on."""
    kind = "any frames"
    before = target.server.sample()

    @given(openings, st.lists(any_frame, max_size=8))
    @settings(max_examples=max(1, settings().max_examples // 4))
    def case(opening: bytes, frames: list[bytes]) -> None:
        outcome = exchange(target.server.port, opening + b"".join(frames))
        assert target.counted(kind, outcome) != "TIMEOUT"

    with verdict.timed(kind):
        case()
    _check_back(target, (before.fds, before.threads))
    target.check_well()
