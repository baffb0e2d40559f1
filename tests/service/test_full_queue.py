"""Deadlines and the queue: what cannot be answered in time is refused at once, as such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from tests.service.refused import (
    EXHAUSTED,
    GOOD,
    MANY,
    RPCS,
    SIDE,
    at,
    but,
    check_answers,
    check_no_bug,
    pixels,
    refusal,
    stub_of,
    z,
)
from tests.serving import Running, serving

MANY_ROWS: dict[str, Message] = {
    "Encode": pb.EncodeRequest(images=pb.Images(pixels=pixels(MANY))),
    "Decode": pb.DecodeRequest(latents=z(MANY)),
    "Sample": pb.SampleRequest(count=MANY),
    "Interpolate": pb.InterpolateRequest(start=at(), end=at(), steps=MANY),
    "AddAttribute": but("AddAttribute", points=at(z(MANY))),
}
GRAPHS = ("encoder", "decoder")


@pytest.fixture(scope="module")
def large() -> Iterator[Running]:
    """A server whose calls may take seconds."""
    with serving(max_rows=MANY, max_queue_rows=MANY, max_batch=1, max_message_mib=32) as running:
        yield running
        check_no_bug(running)


@pytest.fixture(scope="module")
def long_calls(large: Running) -> Iterator[pb_grpc.LatentServiceStub]:
    with stub_of(large) as stub:
        yield stub


def timing(metadata: Mapping[str, Any]) -> dict[str, float]:
    """The milliseconds of armoire-timing, which only our server sends."""
    return {
        name: float(value) for name, value in (p.split("=") for p in metadata["armoire-timing"].split(", "))
    }


def graph_of(rpc: str) -> str:
    return "encoder" if rpc == "Encode" else "decoder"


@pytest.mark.parametrize("rpc", RPCS[1:])
def test_a_deadline_below_the_cost_is_refused_at_once(
    large: Running, long_calls: pb_grpc.LatentServiceStub, rpc: str
) -> None:
    """A deadline that an idle server could not meet is DEADLINE_EXCEEDED from the server, before anything runs."""
    short = large.cost(graph_of(rpc)).seconds(MANY) / 2
    code, text, _, metadata = refusal(long_calls, rpc, MANY_ROWS[rpc], timeout=short)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert f"{MANY} rows take" in text
    assert "on an idle server" in text
    assert timing(metadata)["run"] == 0
    assert timing(metadata)["total"] < short * 1e3
    check_answers(long_calls, rpc)


@contextmanager
def busy(running: Running, stub: pb_grpc.LatentServiceStub, graph: str, rows: int) -> Iterator[None]:
    """While the block runs, ``rows`` rows wait in front of a graph; then their caller goes away."""
    with running.holding():
        yield from _waiting(running, stub, graph, rows)


def _waiting(running: Running, stub: pb_grpc.LatentServiceStub, graph: str, rows: int) -> Iterator[None]:
    if graph == "encoder":
        held = stub.Encode.future(pb.EncodeRequest(images=pb.Images(pixels=pixels(rows))), timeout=60)
    else:
        held = stub.Decode.future(pb.DecodeRequest(latents=z(rows)), timeout=60)
    running.until_pending(graph, rows)
    try:
        yield
        assert not held.done(), "the queue was to be full the whole time"
    finally:
        held.cancel()
        running.until_pending(graph, 0)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_full_queue_refuses_within_milliseconds(
    large: Running, long_calls: pb_grpc.LatentServiceStub, graph: str
) -> None:
    """While max_queue_rows wait, every call for that graph is RESOURCE_EXHAUSTED with a time to come back."""
    rpcs = [rpc for rpc in RPCS[1:] if graph_of(rpc) == graph]
    with busy(large, long_calls, graph, MANY):
        refusals = [refusal(long_calls, rpc, GOOD[rpc]) for rpc in rpcs]
    for code, text, details, metadata in refusals:
        assert code is EXHAUSTED
        assert f"{MANY} rows are waiting and " in text
        assert f"pass max_queue_rows = {MANY}; try again in " in text
        assert 0 < details[error_details_pb2.RetryInfo].retry_delay.ToNanoseconds() < 60e9
        times = timing(metadata)
        assert (times["queue"], times["run"]) == (0, 0)
        assert times["total"] < 100
    for rpc in rpcs:
        check_answers(long_calls, rpc)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_deadline_out_of_reach_because_of_the_queue(
    large: Running, long_calls: pb_grpc.LatentServiceStub, graph: str
) -> None:
    """Enough time for the rows alone, but not behind as many, is RESOURCE_EXHAUSTED with a time to come back."""
    # A small call would overtake the one that waits.
    rows = MANY // 4
    requests: dict[str, Message] = (
        {"Encode": pb.EncodeRequest(images=pb.Images(pixels=pixels(rows)))}
        if graph == "encoder"
        else {"Decode": pb.DecodeRequest(latents=z(rows)), "Sample": pb.SampleRequest(count=rows)}
    )
    short = 1.5 * large.cost(graph).seconds(rows)
    with busy(large, long_calls, graph, MANY // 2):
        refusals = [refusal(long_calls, rpc, request, timeout=short) for rpc, request in requests.items()]
    for code, text, details, metadata in refusals:
        assert code is EXHAUSTED
        assert "the queue takes " in text
        assert "and the deadline leaves " in text
        assert details[error_details_pb2.RetryInfo].retry_delay.ToNanoseconds() > 0
        assert timing(metadata)["total"] < 100


def test_a_flood_is_answered_or_refused_and_nothing_else(
    large: Running, long_calls: pb_grpc.LatentServiceStub
) -> None:
    """Of many large calls at once some are answered whole and the rest are told to come back."""
    rows = MANY // 4
    request = pb.SampleRequest(count=rows, seed=1)
    futures = [long_calls.Sample.future(request, timeout=60) for _ in range(24)]
    codes = [future.code() for future in futures]
    assert set(codes) == {grpc.StatusCode.OK, EXHAUSTED}
    for future, code in zip(futures, codes, strict=True):
        if code is grpc.StatusCode.OK:
            assert list(future.result().images.pixels.shape) == [rows, SIDE, SIDE, 1]
    check_answers(long_calls, "Sample")
