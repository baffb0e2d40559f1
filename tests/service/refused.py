"""Good requests to damage, and what a refusal of one has to be: a code, a field, one plain line, and no harm."""

from __future__ import annotations

import io
import struct
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests.serving import Running

D, SIDE = 16, 32
MAX_ROWS = 32
# Rows that take either graph about a second, one at a time.
MANY = 16384
LARGEST = float(np.finfo(np.float32).max)
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
EXHAUSTED, UNAVAILABLE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE
SERVICE = pb.DESCRIPTOR.services_by_name["LatentService"]
RPCS = [method.name for method in SERVICE.methods]


def z(rows: int = 1) -> pb.Tensor:
    return to_tensor(np.full((rows, D), 0.5, np.float32))


def pixels(rows: int = 1) -> pb.Tensor:
    return to_tensor(np.full((rows, SIDE, SIDE, 1), 99, np.uint8))


def tensor(shape: Sequence[int], data: bytes, data_type: int = pb.DATA_TYPE_FLOAT32) -> pb.Tensor:
    return pb.Tensor(data_type=data_type, shape=shape, data=data)


def at(latents: pb.Tensor | None = None) -> pb.Points:
    return pb.Points(latents=latents or z())


def of(images: pb.Images) -> pb.Points:
    return pb.Points(images=images)


def edited(**direction: Any) -> pb.AddAttributeRequest:
    return pb.AddAttributeRequest(points=at(), edits=[pb.AttributeEdit(**direction)])


def file(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def png(width: int, height: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG file by hand, for what Pillow would not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    made = b"".join(chunk(part[:4], part[4:]) for part in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + made + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


GOOD: dict[str, Message] = {
    "ListModels": pb.ListModelsRequest(),
    "Encode": pb.EncodeRequest(images=pb.Images(pixels=pixels())),
    "Decode": pb.DecodeRequest(latents=z()),
    "Sample": pb.SampleRequest(count=1),
    "Interpolate": pb.InterpolateRequest(start=at(), end=at(), steps=2),
    "AddAttribute": edited(vector=to_tensor(np.ones(D, np.float32))),
}


def but(rpc: str, **fields: Any) -> Message:
    """A good request with some fields changed."""
    changed = type(GOOD[rpc])()
    changed.CopyFrom(GOOD[rpc])
    for name in fields:
        changed.ClearField(name)
    changed.MergeFrom(type(changed)(**fields))
    return changed


# Where a request takes latents [n, d]: the RPC, the field's name, and the request that has the tensor there.
Place = tuple[str, str, Callable[[Any], Message]]
# What can be wrong with latents of one row, and the words that say so.
ROW = D * 4
UINT8 = pb.DATA_TYPE_UINT8


@contextmanager
def stub_of(running: Running) -> Iterator[pb_grpc.LatentServiceStub]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(running.address, options) as channel:
        yield pb_grpc.LatentServiceStub(channel)


def scrape(running: Running) -> dict[str, float]:
    """Every series of the metrics page and its value."""
    with urllib.request.urlopen(f"http://{running.metrics_address}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}


def check_no_bug(running: Running) -> None:
    """After its bad calls, however many of them ran: no call was INTERNAL or UNKNOWN, and health is SERVING."""
    series = [name for name in scrape(running) if name.startswith("armoire_requests_total")]
    assert series
    assert not [name for name in series if "INTERNAL" in name or "UNKNOWN" in name]
    with grpc.insecure_channel(running.address) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def refusal(
    stub: pb_grpc.LatentServiceStub, rpc: str, request: Message, **options: Any
) -> tuple[grpc.StatusCode, str, Mapping[type[Message], Message], Mapping[str, Any]]:
    """Make a call that fails: its code, its text, its rich details by type, its trailing metadata."""
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, rpc)(request, **{"timeout": 30} | options)
    error = caught.value
    details: dict[type[Message], Message] = {}
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        for kind in (error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            message = kind()
            if detail.Unpack(message):
                details[kind] = message
    return error.code(), error.details(), details, dict(error.trailing_metadata() or ())


def check_invalid(
    stub: pb_grpc.LatentServiceStub, rpc: str, request: Message, field: str, words: str
) -> None:
    """The call is INVALID_ARGUMENT in one short line, its detail names ``field``, and the next call is answered."""
    code, text, details, metadata = refusal(stub, rpc, request)
    assert code is INVALID, text
    (violation,) = details[error_details_pb2.BadRequest].field_violations
    assert (violation.field, violation.description) == (field, text)
    assert text.startswith(f"{field}: ")
    assert words in text
    assert "\n" not in text
    assert len(text) < 500
    assert "armoire-timing" in metadata
    check_answers(stub, rpc)


def check_answers(stub: pb_grpc.LatentServiceStub, rpc: str) -> None:
    getattr(stub, rpc)(GOOD[rpc], timeout=30)
