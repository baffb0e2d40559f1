"""Every row of the error table for every RPC, over a real channel: the code, the field, and one plain line.

After each refusal the server still answers, and in the end nothing of it was INTERNAL or UNKNOWN.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import threading
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests.serving import Running, serving

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
LATENTS: list[Place] = [
    ("Decode", "latents", lambda t: but("Decode", latents=t)),
    ("Interpolate", "start.latents", lambda t: but("Interpolate", start=pb.Points(latents=t))),
    ("Interpolate", "end.latents", lambda t: but("Interpolate", end=pb.Points(latents=t))),
    ("AddAttribute", "points.latents", lambda t: but("AddAttribute", points=pb.Points(latents=t))),
    (
        "AddAttribute",
        "edits[0].examples.positives.latents",
        lambda t: edited(examples=pb.Examples(positives=pb.Points(latents=t), negatives=at())),
    ),
    (
        "AddAttribute",
        "edits[0].examples.negatives.latents",
        lambda t: edited(examples=pb.Examples(positives=at(), negatives=pb.Points(latents=t))),
    ),
]
# The same for images, whose name is the part before .pixels or .encoded.
IMAGES: list[Place] = [
    ("Encode", "images", lambda i: but("Encode", images=i)),
    ("Interpolate", "start.images", lambda i: but("Interpolate", start=of(i))),
    ("Interpolate", "end.images", lambda i: but("Interpolate", end=of(i))),
    ("AddAttribute", "points.images", lambda i: but("AddAttribute", points=of(i))),
    (
        "AddAttribute",
        "edits[0].examples.positives.images",
        lambda i: edited(examples=pb.Examples(positives=of(i), negatives=at())),
    ),
    (
        "AddAttribute",
        "edits[0].examples.negatives.images",
        lambda i: edited(examples=pb.Examples(positives=at(), negatives=of(i))),
    ),
]
# What can be wrong with latents of one row, and the words that say so.
ROW = D * 4
BAD_LATENTS: dict[str, tuple[pb.Tensor, str]] = {
    "nothing set": (pb.Tensor(), "data_type is DATA_TYPE_UNSPECIFIED; DATA_TYPE_FLOAT32 is wanted"),
    "no data type": (tensor([1, D], bytes(ROW), 0), "DATA_TYPE_UNSPECIFIED; DATA_TYPE_FLOAT32 is wanted"),
    "uint8": (tensor([1, D], bytes(D), pb.DATA_TYPE_UINT8), "DATA_TYPE_UINT8; DATA_TYPE_FLOAT32 is wanted"),
    "unknown data type": (tensor([1, D], bytes(ROW), 99), "data_type is 99; DATA_TYPE_FLOAT32 is wanted"),
    "rank 0": (tensor([], bytes(4)), f"shape is []; [n, {D}] is wanted"),
    "rank 1": (tensor([1], bytes(4)), f"shape is [1]; [n, {D}] is wanted"),
    "rank 3": (tensor([1, 1, D], bytes(ROW)), f"shape is [1, 1, {D}]; [n, {D}] is wanted"),
    "a million axes": (tensor([1] * 10**6, bytes(4)), f"shape is [1, 1, 1, 1, 1, 1, 1, 1, ...]; [n, {D}]"),
    "too wide": (tensor([1, D + 1], bytes(ROW + 4)), f"shape is [1, {D + 1}]; [n, {D}] is wanted"),
    "zero rows": (tensor([0, D], b""), f"shape is [0, {D}]; every axis of [n, {D}] has at least 1"),
    "zero wide": (tensor([1, 0], b""), f"shape is [1, 0]; [n, {D}] is wanted"),
    "negative rows": (tensor([-1, D], bytes(ROW)), f"shape is [-1, {D}]; every axis"),
    "least rows": (tensor([-(2**63), D], b""), f"shape is [{-(2**63)}, {D}]; every axis"),
    "negative axes": (tensor([-1, -D], bytes(ROW)), f"shape is [-1, {-D}]; [n, {D}] is wanted"),
    "overflow": (tensor([1, 2**62], b""), f"shape is [1, {2**62}]; [n, {D}] is wanted"),
    "overflow to D": (tensor([1, 2**60, 2**4], b""), f"shape is [1, {2**60}, 16]; [n, {D}] is wanted"),
    "no bytes": (tensor([1, D], b""), f"data has 0 bytes; shape [1, {D}] of DATA_TYPE_FLOAT32 takes {ROW}"),
    "a byte short": (tensor([1, D], bytes(ROW - 1)), f"data has {ROW - 1} bytes"),
    "a byte more": (tensor([1, D], bytes(ROW + 1)), f"data has {ROW + 1} bytes"),
    **{
        f"{bad}": (
            to_tensor(np.array([[0.0] * (D - 1) + [bad]], np.float32)),
            f"[0, {D - 1}] is {bad}; finite",
        )
        for bad in (math.nan, math.inf, -math.inf)
    },
}
ONE_IMAGE = SIDE * SIDE
UINT8 = pb.DATA_TYPE_UINT8
SHAPE = f"[n, {SIDE}, {SIDE}, 1]"
BAD_PIXELS: dict[str, tuple[pb.Tensor, str]] = {
    "nothing set": (pb.Tensor(), "data_type is DATA_TYPE_UNSPECIFIED; DATA_TYPE_UINT8 is wanted"),
    "floats": (
        to_tensor(np.zeros((1, SIDE, SIDE, 1), np.float32)),
        "data_type is DATA_TYPE_FLOAT32; DATA_TYPE_UINT8 is wanted",
    ),
    "rank 3": (tensor([1, SIDE, SIDE], bytes(ONE_IMAGE), UINT8), f"shape is [1, {SIDE}, {SIDE}]; {SHAPE}"),
    "28 x 28": (tensor([1, 28, 28, 1], bytes(784), UINT8), f"shape is [1, 28, 28, 1]; {SHAPE} is wanted"),
    "channels first": (
        tensor([1, 1, SIDE, SIDE], bytes(ONE_IMAGE), UINT8),
        f"shape is [1, 1, {SIDE}, {SIDE}]",
    ),
    "colours": (tensor([1, SIDE, SIDE, 3], bytes(ONE_IMAGE * 3), UINT8), f"{SIDE}, 3]; {SHAPE} is wanted"),
    "zero rows": (tensor([0, SIDE, SIDE, 1], b"", UINT8), f"every axis of {SHAPE} has at least 1"),
    "negative rows": (tensor([-1, SIDE, SIDE, 1], b"", UINT8), f"every axis of {SHAPE} has at least 1"),
    "overflow": (tensor([1, 2**32, 2**32, 1], b"", UINT8), f"shape is [1, {2**32}, {2**32}, 1]; {SHAPE}"),
    "a million axes": (tensor([1] * 10**6, b"\0", UINT8), f"shape is [1, 1, 1, 1, 1, 1, 1, 1, ...]; {SHAPE}"),
    "a byte short": (
        tensor([1, SIDE, SIDE, 1], bytes(ONE_IMAGE - 1), UINT8),
        f"data has {ONE_IMAGE - 1} bytes",
    ),
    "a byte more": (
        tensor([1, SIDE, SIDE, 1], bytes(ONE_IMAGE + 1), UINT8),
        f"data has {ONE_IMAGE + 1} bytes",
    ),
}
UNDECODABLE, TOO_LARGE = "no PNG or JPEG file that can be decoded", f"at most {4096 * 4096} pixels"
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", UNDECODABLE),
    "a text": (b"not a picture", UNDECODABLE),
    "half a PNG": (file()[:400], UNDECODABLE),
    "half a JPEG": (file("JPEG")[:200], UNDECODABLE),
    "a broken PNG": (file().replace(b"IDAT", b"IDAU"), UNDECODABLE),
    "no width": (png(0, 28, b""), UNDECODABLE),
    **{f"a {kind}": (file(kind), UNDECODABLE) for kind in ("GIF", "WEBP", "TIFF", "BMP")},
    "a text bomb": (png(28, 28, bytes(29 * 28), b"zTXta\0\0" + zlib.compress(bytes(10**8), 9)), UNDECODABLE),
    "a bomb": (png(4097, 4096, bytes(100)), f"the picture is 4097 x 4096; {TOO_LARGE}"),
    "a larger bomb": (png(10**4, 10**4, bytes(100)), TOO_LARGE),
    "a huge bomb": (png(2**31 - 1, 2**31 - 1, bytes(100)), TOO_LARGE),
    "a long bomb": (png(2**24, 1, bytes(100)), f"the picture is {2**24} x 1; {TOO_LARGE}"),
}


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


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """A server that takes little: 32 rows a call, 1 MiB a message."""
    with serving(max_rows=MAX_ROWS, max_message_mib=1) as running:
        yield running
        check_no_bug(running)


@pytest.fixture(scope="module")
def calls(small: Running) -> Iterator[pb_grpc.LatentServiceStub]:
    with stub_of(small) as stub:
        yield stub


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


def cases(places: Sequence[Place], faults: Mapping[str, tuple[Any, str]]) -> list[Any]:
    return [
        pytest.param(*place, *fault, id=f"{place[0]} {place[1]} {name}")
        for place in places
        for name, fault in faults.items()
    ]


@pytest.mark.parametrize("rpc", RPCS)
def test_the_good_requests_are_good(calls: pb_grpc.LatentServiceStub, rpc: str) -> None:
    """What the tests below damage is answered while it is whole."""
    check_answers(calls, rpc)


@pytest.mark.parametrize(("rpc", "field", "request_with", "bad", "words"), cases(LATENTS, BAD_LATENTS))
def test_bad_latents(
    calls: pb_grpc.LatentServiceStub,
    rpc: str,
    field: str,
    request_with: Callable[[pb.Tensor], Message],
    bad: pb.Tensor,
    words: str,
) -> None:
    """Latents of a wrong type, rank, shape, length or value are told by the place where they came."""
    check_invalid(calls, rpc, request_with(bad), field, words)


@pytest.mark.parametrize(("rpc", "field", "request_with", "bad", "words"), cases(IMAGES, BAD_PIXELS))
def test_bad_pixels(
    calls: pb_grpc.LatentServiceStub,
    rpc: str,
    field: str,
    request_with: Callable[[pb.Images], Message],
    bad: pb.Tensor,
    words: str,
) -> None:
    """Pixels of a wrong type, rank, shape or length are told by the place where they came."""
    check_invalid(calls, rpc, request_with(pb.Images(pixels=bad)), f"{field}.pixels", words)


@pytest.mark.parametrize(("rpc", "field", "request_with", "bad", "words"), cases(IMAGES, BAD_FILES))
def test_bad_files(
    calls: pb_grpc.LatentServiceStub,
    rpc: str,
    field: str,
    request_with: Callable[[pb.Images], Message],
    bad: bytes,
    words: str,
) -> None:
    """A file that cannot be decoded, is of another format, or claims too much is told by its index."""
    images = pb.Images(encoded=pb.EncodedImages(images=[bad]))
    check_invalid(calls, rpc, request_with(images), f"{field}.encoded.images[0]", words)


@pytest.mark.parametrize(("rpc", "field", "request_with"), [pytest.param(*p, id=p[1]) for p in IMAGES])
def test_no_files(
    calls: pb_grpc.LatentServiceStub, rpc: str, field: str, request_with: Callable[[pb.Images], Message]
) -> None:
    """An empty list of files is told as such."""
    images = pb.Images(encoded=pb.EncodedImages())
    check_invalid(calls, rpc, request_with(images), f"{field}.encoded.images", "no file came; at least one")


def test_the_bad_file_among_good_ones_is_named(calls: pb_grpc.LatentServiceStub) -> None:
    """The index in the field is that of the file that failed."""
    images = pb.Images(encoded=pb.EncodedImages(images=[file(), file(), b"?", file()]))
    check_invalid(calls, "Encode", but("Encode", images=images), "images.encoded.images[2]", UNDECODABLE)


def test_bombs_that_are_each_small_enough_are_bounded_together(calls: pb_grpc.LatentServiceStub) -> None:
    """Thirty files of 16 million pixels in half a megabyte are refused."""
    images = pb.Images(encoded=pb.EncodedImages(images=[png(4096, 4096, bytes(4097 * 4096))] * 30))
    check_invalid(calls, "Encode", but("Encode", images=images), "images.encoded.images", "pixels together")


def test_bombs_are_bounded_over_all_messages_of_a_call(calls: pb_grpc.LatentServiceStub) -> None:
    """What is too much in one message is too much in two, or in many."""
    bombs = of(pb.Images(encoded=pb.EncodedImages(images=[png(4096, 4096, bytes(4097 * 4096))] * 3)))
    both = but("Interpolate", start=bombs, end=bombs)
    check_invalid(calls, "Interpolate", both, "end.images.encoded.images", "pixels together")
    one = of(pb.Images(encoded=pb.EncodedImages(images=[png(4096, 4096, bytes(4097 * 4096))])))
    many = edited(examples=pb.Examples(positives=one, negatives=one))
    many.edits.extend([many.edits[0]] * 9)
    place = "edits[2].examples.positives.images.encoded.images"
    check_invalid(calls, "AddAttribute", many, place, "pixels together")


VECTOR = {
    "rank 0": (tensor([], bytes(4)), f"shape is []; [{D}] is wanted"),
    "rank 2": (z(), f"shape is [1, {D}]; [{D}] is wanted"),
    "empty": (tensor([0], b""), f"shape is [0]; [{D}] is wanted"),
    "too short": (tensor([D - 1], bytes(ROW - 4)), f"shape is [{D - 1}]; [{D}] is wanted"),
    "negative": (tensor([-D], bytes(ROW)), f"shape is [{-D}]; [{D}] is wanted"),
    "overflow": (tensor([2**62], b""), f"shape is [{2**62}]; [{D}] is wanted"),
    "bytes": (tensor([D], bytes(ROW - 4)), f"data has {ROW - 4} bytes; shape [{D}]"),
    "uint8": (tensor([D], bytes(D), UINT8), "data_type is DATA_TYPE_UINT8; DATA_TYPE_FLOAT32 is wanted"),
    "NaN": (
        to_tensor(np.full(D, math.nan, np.float32)),
        "the value at [0] is nan; finite numbers are wanted",
    ),
    "infinity": (to_tensor(np.full(D, -math.inf, np.float32)), "the value at [0] is -inf; finite"),
}


@pytest.mark.parametrize(("bad", "words"), VECTOR.values(), ids=VECTOR)
def test_bad_vectors(calls: pb_grpc.LatentServiceStub, bad: pb.Tensor, words: str) -> None:
    """The vector of an edit is float32 [d], finite, and nothing else."""
    request = edited(attribute="bag")
    request.edits[0].CopyFrom(GOOD["AddAttribute"].edits[0])
    request.edits.add(vector=bad)
    check_invalid(calls, "AddAttribute", request, "edits[1].vector", words)


NEITHER_POINTS, NEITHER_IMAGES = "neither latents nor images is set", "neither pixels nor encoded is set"
UNSET: list[tuple[str, Message, str, str]] = [
    ("Encode", pb.EncodeRequest(), "images", NEITHER_IMAGES),
    ("Encode", but("Encode", images=pb.Images()), "images", NEITHER_IMAGES),
    ("Decode", pb.DecodeRequest(), "latents", "DATA_TYPE_UNSPECIFIED"),
    ("Interpolate", pb.InterpolateRequest(steps=2), "start", NEITHER_POINTS),
    ("Interpolate", pb.InterpolateRequest(steps=2, end=at()), "start", NEITHER_POINTS),
    ("Interpolate", pb.InterpolateRequest(steps=2, start=at()), "end", NEITHER_POINTS),
    ("Interpolate", but("Interpolate", start=of(pb.Images())), "start.images", NEITHER_IMAGES),
    ("Interpolate", but("Interpolate", end=of(pb.Images())), "end.images", NEITHER_IMAGES),
    ("AddAttribute", edited(attribute="bag"), "points", NEITHER_POINTS),
    ("AddAttribute", but("AddAttribute", points=of(pb.Images())), "points.images", NEITHER_IMAGES),
    (
        "AddAttribute",
        edited(strength=1),
        "edits[0]",
        "none of attribute, vector, examples is set; one is wanted",
    ),
    ("AddAttribute", edited(examples=pb.Examples()), "edits[0].examples.positives", NEITHER_POINTS),
    (
        "AddAttribute",
        edited(examples=pb.Examples(positives=at())),
        "edits[0].examples.negatives",
        NEITHER_POINTS,
    ),
    (
        "AddAttribute",
        edited(examples=pb.Examples(positives=of(pb.Images()), negatives=at())),
        "edits[0].examples.positives.images",
        NEITHER_IMAGES,
    ),
]
UNSET[8][1].ClearField("points")


@pytest.mark.parametrize(
    ("rpc", "request_", "field", "words"), [pytest.param(*case, id=f"{case[0]} {case[2]}") for case in UNSET]
)
def test_what_is_not_set_is_named(
    calls: pb_grpc.LatentServiceStub, rpc: str, request_: Message, field: str, words: str
) -> None:
    """A oneof without content is told at its own place, with what it could hold."""
    check_invalid(calls, rpc, request_, field, words)


VALUES: list[tuple[str, Message, str, str]] = [
    ("Sample", but("Sample", count=0), "count", "0 came; at least 1 is wanted"),
    ("Sample", pb.SampleRequest(), "count", "0 came; at least 1 is wanted"),
    ("Sample", but("Sample", count=-1), "count", "-1 came; at least 1 is wanted"),
    ("Sample", but("Sample", count=-(2**31)), "count", f"{-(2**31)} came; at least 1 is wanted"),
    *(
        ("Sample", but("Sample", temperature=t), "temperature", f"{t} came; a finite number from 0 is wanted")
        for t in (math.nan, math.inf, -math.inf, -1.0)
    ),
    ("Sample", but("Sample", temperature=LARGEST, count=MAX_ROWS), "temperature", "outside float32's range"),
    (
        "Sample",
        but("Sample", temperature=LARGEST, count=MAX_ROWS, prior="fitted"),
        "temperature",
        "outside float32's range",
    ),
    *(
        ("Interpolate", but("Interpolate", steps=n), "steps", f"{n} came; at least 2 is wanted")
        for n in (1, 0, -1, -(2**31))
    ),
    ("Interpolate", but("Interpolate", start=at(z(2))), "end", "1 points came; start has 2"),
    ("Interpolate", but("Interpolate", end=at(z(3))), "end", "3 points came; start has 1"),
    (
        "Interpolate",
        but("Interpolate", start=of(pb.Images(pixels=pixels(2)))),
        "end",
        "1 points came; start has 2",
    ),
    (
        "Interpolate",
        but("Interpolate", end=of(pb.Images(encoded=pb.EncodedImages(images=[file()] * 3)))),
        "end",
        "3 points came; start has 1",
    ),
    ("AddAttribute", pb.AddAttributeRequest(points=at()), "edits", "none came; at least one is wanted"),
    *(
        (
            "AddAttribute",
            edited(attribute="bag", strength=s),
            "edits[0].strength",
            f"{s} came; a finite number is wanted",
        )
        for s in (math.nan, math.inf, -math.inf)
    ),
    (
        "AddAttribute",
        edited(vector=to_tensor(np.full(D, LARGEST, np.float32)), strength=2),
        "edits",
        "outside float32's range",
    ),
    (
        "AddAttribute",
        edited(vector=to_tensor(np.full(D, 2, np.float32)), strength=LARGEST),
        "edits",
        "outside float32's range",
    ),
    (
        "AddAttribute",
        edited(
            examples=pb.Examples(
                positives=at(to_tensor(np.full((1, D), LARGEST, np.float32))),
                negatives=at(to_tensor(np.full((1, D), -LARGEST, np.float32))),
            ),
            scale=pb.EDIT_SCALE_UNIT,
        ),
        "edits",
        "outside float32's range",
    ),
    (
        "AddAttribute",
        edited(vector=to_tensor(np.zeros(D, np.float32)), scale=pb.EDIT_SCALE_UNIT),
        "edits[0]",
        "a direction of length 0 has no unit vector",
    ),
    (
        "AddAttribute",
        edited(examples=pb.Examples(positives=at(), negatives=at()), scale=pb.EDIT_SCALE_UNIT),
        "edits[0]",
        "a direction of length 0 has no unit vector",
    ),
    (
        "AddAttribute",
        edited(attribute="bag", orthogonal_to=["shirt", "bag"]),
        "edits[0].orthogonal_to",
        "nothing is left of the direction",
    ),
    *(
        (rpc, but(rpc, image_format=number), "image_format", f"{number} came; IMAGE_FORMAT_UNSPECIFIED")
        for rpc in ("Decode", "Sample", "Interpolate", "AddAttribute")
        for number in (4, -1, 2**31 - 1)
    ),
    *(
        (
            "Interpolate",
            but("Interpolate", path=number),
            "path",
            f"{number} came; INTERPOLATION_PATH_UNSPECIFIED",
        )
        for number in (3, -1)
    ),
    *(
        (
            "AddAttribute",
            edited(attribute="bag", scale=number),
            "edits[0].scale",
            f"{number} came; EDIT_SCALE_UNSPECIFIED",
        )
        for number in (3, -1)
    ),
]


@pytest.mark.parametrize(
    ("rpc", "request_", "field", "words"),
    [pytest.param(*case, id=f"{case[0]} {case[3][:40]}") for case in VALUES],
)
def test_a_value_out_of_its_range_is_named(
    calls: pb_grpc.LatentServiceStub, rpc: str, request_: Message, field: str, words: str
) -> None:
    """Counts, steps, strengths, temperatures and enum numbers are told with what came and what is wanted."""
    check_invalid(calls, rpc, request_, field, words)


FAR = tensor([1, D], np.full(D, LARGEST, "<f4").tobytes())
FAR_AWAY = tensor([1, D], (np.full(D, LARGEST, "<f4") * np.tile([1, -1], D // 2).astype("<f4")).tobytes())


@pytest.mark.parametrize("path", [pb.INTERPOLATION_PATH_LINEAR, pb.INTERPOLATION_PATH_SPHERICAL])
def test_a_walk_at_the_edge_of_float32_is_answered_or_refused(
    calls: pb_grpc.LatentServiceStub, path: pb.InterpolationPath
) -> None:
    """The largest finite points are no reason to fail: on the straight line an answer, else a refusal of start."""
    request = pb.InterpolateRequest(start=at(FAR), end=at(FAR_AWAY), steps=5, path=path)
    if path == pb.INTERPOLATION_PATH_LINEAR:
        assert len(calls.Interpolate(request, timeout=30).latents.data) == 5 * ROW
    else:
        check_invalid(calls, "Interpolate", request, "start", "outside float32's range")


def test_the_largest_finite_latents_are_decoded(calls: pb_grpc.LatentServiceStub) -> None:
    """Any finite point has an image, and its batch-mates have theirs."""
    assert list(calls.Decode(pb.DecodeRequest(latents=FAR), timeout=30).images.pixels.shape) == [
        1,
        SIDE,
        SIDE,
        1,
    ]


def claims(rows: int) -> pb.Tensor:
    return tensor([rows, D], b"")


TOO_MANY: list[tuple[str, Message, str, int]] = [
    ("Encode", but("Encode", images=pb.Images(pixels=pixels(MAX_ROWS + 1))), "images", MAX_ROWS + 1),
    (
        "Encode",
        but("Encode", images=pb.Images(pixels=tensor([2**62, SIDE, SIDE, 1], b"", UINT8))),
        "images",
        2**62,
    ),
    (
        "Encode",
        but("Encode", images=pb.Images(encoded=pb.EncodedImages(images=[file()] * (MAX_ROWS + 1)))),
        "images",
        MAX_ROWS + 1,
    ),
    ("Decode", but("Decode", latents=z(MAX_ROWS + 1)), "latents", MAX_ROWS + 1),
    # 2^62 x 16 x 4 is 0 in 64 bits, which is the length of the data.
    ("Decode", but("Decode", latents=claims(2**62)), "latents", 2**62),
    ("Decode", but("Decode", latents=claims(2**63 - 1)), "latents", 2**63 - 1),
    ("Sample", but("Sample", count=MAX_ROWS + 1), "count", MAX_ROWS + 1),
    ("Sample", but("Sample", count=2**31 - 1), "count", 2**31 - 1),
    ("Interpolate", but("Interpolate", steps=MAX_ROWS + 1), "steps", MAX_ROWS + 1),
    ("Interpolate", but("Interpolate", steps=2**31 - 1), "steps", 2**31 - 1),
    (
        "Interpolate",
        but("Interpolate", start=at(z(11)), end=at(z(11)), steps=3),
        "steps",
        33,
    ),
    (
        "Interpolate",
        but("Interpolate", start=at(claims(2**62)), end=at(claims(2**62)), steps=4),
        "steps",
        2**64,
    ),
    ("AddAttribute", but("AddAttribute", points=at(z(MAX_ROWS + 1))), "points", MAX_ROWS + 1),
    ("AddAttribute", but("AddAttribute", points=at(claims(2**62))), "points", 2**62),
    (
        "AddAttribute",
        but("AddAttribute", points=of(pb.Images(pixels=pixels(MAX_ROWS + 1)))),
        "points",
        MAX_ROWS + 1,
    ),
    (
        "AddAttribute",
        edited(examples=pb.Examples(positives=at(z(MAX_ROWS + 1)), negatives=at())),
        "edits[0].examples",
        MAX_ROWS + 3,
    ),
    (
        "AddAttribute",
        edited(examples=pb.Examples(positives=at(), negatives=of(pb.Images(pixels=pixels(MAX_ROWS + 1))))),
        "edits[0].examples",
        MAX_ROWS + 3,
    ),
]


@pytest.mark.parametrize(
    ("rpc", "request_", "field", "came"), [pytest.param(*c, id=f"{c[0]} {c[2]} {c[3]}") for c in TOO_MANY]
)
def test_more_rows_than_the_published_limit(
    calls: pb_grpc.LatentServiceStub, rpc: str, request_: Message, field: str, came: int
) -> None:
    """The refusal names max_rows, its value and how many came, and ListModels publishes the same value."""
    check_invalid(calls, rpc, request_, field, f"{came} rows, more than max_rows = {MAX_ROWS}; send them in")
    assert calls.ListModels(pb.ListModelsRequest()).models[0].limits.max_rows == MAX_ROWS


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("Encode", but("Encode", images=pb.Images(pixels=pixels(MAX_ROWS)))),
        ("Decode", but("Decode", latents=z(MAX_ROWS))),
        ("Sample", but("Sample", count=MAX_ROWS)),
        ("Interpolate", but("Interpolate", start=at(z(4)), end=at(z(4)), steps=MAX_ROWS // 4)),
        ("AddAttribute", but("AddAttribute", points=at(z(MAX_ROWS)))),
    ],
)
def test_as_many_rows_as_the_limit_are_answered(
    calls: pb_grpc.LatentServiceStub, rpc: str, request_: Message
) -> None:
    """The limit itself is allowed."""
    getattr(calls, rpc)(request_, timeout=30)


def test_the_rows_of_points_and_examples_count_together(calls: pb_grpc.LatentServiceStub) -> None:
    """All rows of one call are held to max_rows, so that many edits are no way around it."""
    examples = pb.Examples(positives=of(pb.Images(pixels=pixels(4))), negatives=at(z(4)))
    edits = [pb.AttributeEdit(examples=examples)] * 4
    request = but("AddAttribute", points=at(z(MAX_ROWS - 31)), edits=edits)
    field, words = "edits[3].examples", f"{MAX_ROWS + 1} rows, more than max_rows = {MAX_ROWS}"
    check_invalid(calls, "AddAttribute", request, field, words)
    calls.AddAttribute(but("AddAttribute", edits=edits[:3]), timeout=30)


def test_too_many_edits(calls: pb_grpc.LatentServiceStub) -> None:
    """More edits than 64 are a mistake, and the limit is named."""
    request = but("AddAttribute", edits=[pb.AttributeEdit(attribute="bag")] * 65)
    check_invalid(calls, "AddAttribute", request, "edits", "at most 64 are taken")


def test_too_many_directions_to_be_orthogonal_to(calls: pb_grpc.LatentServiceStub) -> None:
    """They are counted over all edits, and the limit is named."""
    edit = pb.AttributeEdit(attribute="bag", orthogonal_to=["shirt"] * 33)
    request = but("AddAttribute", edits=[edit, edit])
    check_invalid(calls, "AddAttribute", request, "edits.orthogonal_to", "66 came over all edits; at most 64")


NAMES = [
    *((rpc, but(rpc, model="no-such-model"), "model 'no-such-model'", "model") for rpc in RPCS[1:]),
    *((rpc, but(rpc, model="Fashion-MNIST"), "model 'Fashion-MNIST'", "model") for rpc in RPCS[1:]),
    *((rpc, but(rpc, version="999"), "version '999' of model", "version") for rpc in RPCS[1:]),
    *(
        (rpc, but(rpc, version=v), f"version {v!r} of model", "version")
        for rpc in ("Decode",)
        for v in ("01", "1\n")
    ),
    ("Sample", but("Sample", prior="cauchy"), "prior 'cauchy'", "prior"),
    ("AddAttribute", edited(attribute="hat"), "attribute 'hat'", "attribute"),
    ("AddAttribute", edited(attribute=""), "attribute ''", "attribute"),
    (
        "AddAttribute",
        edited(attribute="bag", orthogonal_to=["shirt", "hat"]),
        "attribute 'hat'",
        "attribute",
    ),
]


@pytest.mark.parametrize(
    ("rpc", "request_", "words", "kind"), [pytest.param(*c, id=f"{c[0]} {c[2]!r}") for c in NAMES]
)
def test_an_unknown_name_lists_those_there_are(
    calls: pb_grpc.LatentServiceStub, rpc: str, request_: Message, words: str, kind: str
) -> None:
    """An unknown model, version, attribute or prior is NOT_FOUND, with all the names that would do."""
    model = calls.ListModels(pb.ListModelsRequest()).models[0]
    known = {
        "model": [model.name],
        "version": [model.version],
        "prior": list(model.priors),
        "attribute": [attribute.name for attribute in model.attributes],
    }[kind]
    code, text, _, _ = refusal(calls, rpc, request_)
    assert code is NOT_FOUND
    assert words in text
    assert "is unknown; there is " in text
    assert set(known) <= set(text.rpartition("there is ")[2].split(", "))
    check_answers(calls, rpc)


@pytest.mark.parametrize("letter", ["x", "é", "😀", "\0", "%"])
@pytest.mark.parametrize("name", ["model", "version", "prior", "attribute"])
def test_a_name_of_any_length_is_not_found(calls: pb_grpc.LatentServiceStub, name: str, letter: str) -> None:
    """A name of 100,000 letters is NOT_FOUND like any other: gRPC would drop an answer with so long a text."""
    long = letter * 100_000
    rpc, request = (
        ("AddAttribute", edited(attribute=long))
        if name == "attribute"
        else ("Sample", but("Sample", **{name: long}))
    )
    code, text, _, _ = refusal(calls, rpc, request)
    assert code is NOT_FOUND, text
    assert "is unknown; there is" in text


GARBAGE = {
    "a wire type that is none": b"\xff\xff\xff\xff",
    "a field cut short": b"\x0a\x64abc",
    "an endless varint": b"\x08" + b"\xff" * 12,
    "an end without a start": b"\x0c",
    "a group without an end": b"\x0b" * 200,
}


@pytest.mark.parametrize("rpc", RPCS)
@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_bytes_that_are_no_message(
    small: Running, calls: pb_grpc.LatentServiceStub, rpc: str, content: bytes
) -> None:
    """Bytes that cannot be parsed are the caller's fault, and the message that is wanted is named."""
    check_malformed(small, rpc, content)
    check_answers(calls, rpc)


@pytest.mark.parametrize("rpc", RPCS[1:])
@pytest.mark.parametrize("field", [b"\x0a", b"\x12"])
def test_text_that_is_no_utf8(small: Running, rpc: str, field: bytes) -> None:
    """A model's name or version that is not UTF-8 is the caller's fault."""
    check_malformed(small, rpc, field + b"\x02\xff\xfe")


def check_malformed(running: Running, rpc: str, content: bytes) -> None:
    with grpc.insecure_channel(running.address) as channel:
        call = channel.unary_unary(f"/{SERVICE.full_name}/{rpc}")
        with pytest.raises(grpc.RpcError) as caught:
            call(content, timeout=30)
    assert caught.value.code() is INVALID
    assert f"the bytes are no {rpc}Request message: " in caught.value.details()
    (detail,) = rpc_status.from_call(caught.value).details
    assert detail.Is(error_details_pb2.BadRequest.DESCRIPTOR)


def test_a_method_that_there_is_not(small: Running) -> None:
    """Another method of the service is UNIMPLEMENTED."""
    with grpc.insecure_channel(small.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE.full_name}/Delete")(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


LARGE = b"\0" * (1 << 20)


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("ListModels", pb.ListModelsRequest.FromString(b"\x7a\x80\x80\x40" + LARGE)),
        ("Encode", but("Encode", images=pb.Images(encoded=pb.EncodedImages(images=[LARGE])))),
        ("Decode", but("Decode", latents=tensor([1, D], LARGE))),
        ("Sample", but("Sample", model="x" * len(LARGE))),
        ("Interpolate", but("Interpolate", start=at(tensor([1, D], LARGE)))),
        ("AddAttribute", edited(vector=tensor([D], LARGE))),
    ],
)
def test_a_message_over_the_limit(calls: pb_grpc.LatentServiceStub, rpc: str, request_: Message) -> None:
    """Over max_message_mib gRPC itself says RESOURCE_EXHAUSTED, with both sizes."""
    code, text, _, _ = refusal(calls, rpc, request_)
    assert code is EXHAUSTED
    assert f"vs. {1 << 20}" in text
    check_answers(calls, rpc)


def test_a_message_that_unpacks_over_the_limit(calls: pb_grpc.LatentServiceStub) -> None:
    """A few kilobytes of gzip that hold more than max_message_mib are refused as they are unpacked."""
    with pytest.raises(grpc.RpcError) as refused:
        calls.Decode(but("Decode", latents=tensor([1, D], 16 * LARGE)), compression=grpc.Compression.Gzip)
    assert refused.value.code() is EXHAUSTED
    assert "Decompressed message larger than max" in refused.value.details()
    check_answers(calls, "Decode")


# ---- deadlines and the queue -------------------------------------------------------------------------------


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


# ---- who may call, and when --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that knows two tokens, one of them for ListModels only."""
    tokens: Path = tmp_path_factory.mktemp("tokens") / "tokens"
    lines = [("all", "everything", ""), ("some", "one-thing", "ListModels")]
    tokens.write_text(
        "".join(
            f"{name} {hashlib.sha256(secret.encode()).hexdigest()} {rpcs}\n" for name, secret, rpcs in lines
        )
    )
    with serving(tokens_file=str(tokens)) as running:
        yield running
        check_no_bug(running)


@pytest.mark.parametrize("rpc", RPCS)
def test_credentials_are_asked_for_by_every_rpc(guarded: Running, rpc: str) -> None:
    """Without a token, with an unknown one, and with one that lacks the right, each RPC says which it was."""
    with stub_of(guarded) as stub:
        for header, words in (
            ((), "no bearer token came"),
            ((("authorization", "Basic everything"),), "no bearer token came"),
            ((("authorization", "Bearer wrong"),), "the token is unknown"),
        ):
            code, text, _, _ = refusal(stub, rpc, GOOD[rpc], metadata=header)
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert words in text
            assert "wrong" not in text
        some, everything = ((("authorization", f"Bearer {s}"),) for s in ("one-thing", "everything"))
        if rpc == "ListModels":
            stub.ListModels(GOOD[rpc], metadata=some, timeout=30)
        else:
            code, text, _, _ = refusal(stub, rpc, GOOD[rpc], metadata=some)
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert f"'some' may not call {rpc}" in text
        getattr(stub, rpc)(GOOD[rpc], metadata=everything, timeout=30)


def test_a_stranger_learns_nothing_from_bad_bytes(guarded: Running) -> None:
    """Who has no token is UNAUTHENTICATED whatever the bytes are."""
    with grpc.insecure_channel(guarded.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE.full_name}/Decode")(b"\xff", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_while_draining_every_rpc_is_unavailable() -> None:
    """From the moment that health says NOT_SERVING new calls are UNAVAILABLE, though one is still in flight."""
    running = Running(max_rows=MANY, max_queue_rows=MANY, max_batch=1)
    with stub_of(running) as stub, grpc.insecure_channel(running.address) as other:
        watch = health_pb2_grpc.HealthStub(other).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with running.holding():
            held = stub.Decode.future(pb.DecodeRequest(latents=z(MANY)), timeout=60)
            running.until_pending("decoder", MANY)
            closing = threading.Thread(target=running.close)
            closing.start()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            refusals = [refusal(stub, rpc, GOOD[rpc]) for rpc in RPCS]
            assert not held.done()
            held.cancel()
        watch.cancel()
        closing.join(30)
    assert not closing.is_alive()
    assert {code for code, *_ in refusals} == {UNAVAILABLE}


# ---- anything at all ---------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.sampled_from(["", "fashion-mnist", "1", "normal", "fitted", "bag", "t_shirt"]), st.text(max_size=5)
)
INTEGERS = st.one_of(st.integers(-2, 5), st.sampled_from([MAX_ROWS, MAX_ROWS + 1, 2**31 - 1, -(2**31)]))
FLOATS = st.one_of(st.floats(-3, 3, width=32), st.floats(width=32))
TENSORS = st.one_of(
    st.integers(1, 3).map(z),
    st.integers(1, 3).map(pixels),
    st.lists(st.floats(width=32), min_size=D, max_size=D).map(lambda v: to_tensor(np.array([v], np.float32))),
    st.lists(st.floats(width=32), min_size=D, max_size=D).map(lambda v: to_tensor(np.array(v, np.float32))),
    st.builds(
        tensor,
        st.lists(st.one_of(st.integers(-1, 4), st.sampled_from([D, SIDE, 2**62, -(2**63)])), max_size=5),
        st.one_of(st.binary(max_size=64), st.integers(0, 5).map(lambda n: bytes(n * ROW))),
        st.sampled_from([0, 1, 2, 3, -1]),
    ),
)
FILES = st.one_of(
    st.sampled_from([file(), file("JPEG"), file("GIF"), file()[:400], png(2**20, 2**20, b"")]),
    st.binary(max_size=30),
)


def messages(kind: Any) -> st.SearchStrategy[Message]:
    """Any message of a type: every field may be there, with values that mean something more often than not."""
    if kind is pb.Tensor:
        return TENSORS
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.DESCRIPTOR.fields:
        if field.message_type is not None:
            one = st.deferred(lambda made=field.message_type._concrete_class: messages(made))
        elif field.enum_type is not None:
            one = st.one_of(st.integers(0, 2), st.sampled_from([3, 99, -1]))
        elif field.type == field.TYPE_BYTES:
            one = FILES
        elif field.type == field.TYPE_STRING:
            one = TEXTS
        elif field.type == field.TYPE_FLOAT:
            one = FLOATS
        elif field.type == field.TYPE_UINT64:
            one = st.integers(0, 2**64 - 1)
        else:
            one = INTEGERS
        fields[field.name] = st.lists(one, max_size=3) if field.is_repeated else one
    chosen = [name for name in fields if kind.DESCRIPTOR.fields_by_name[name].containing_oneof is None]
    groups = [oneof for oneof in kind.DESCRIPTOR.oneofs if len(oneof.fields) > 1]
    alone = [f.name for oneof in kind.DESCRIPTOR.oneofs if len(oneof.fields) == 1 for f in oneof.fields]
    parts = [st.fixed_dictionaries({}, optional={name: fields[name] for name in (*chosen, *alone)})]
    parts.extend(
        st.one_of(*(st.fixed_dictionaries({f.name: fields[f.name]}) for f in group.fields), st.just({}))
        for group in groups
    )
    return st.tuples(*parts).map(lambda made: kind(**{k: v for part in made for k, v in part.items()}))


def mostly_good(rpc: str) -> st.SearchStrategy[Message]:
    """Any request, or a good one with some of its fields from any request."""
    anything = messages(type(GOOD[rpc]))

    def mixed(other: Message, names: list[str]) -> Message:
        made = type(other)()
        made.CopyFrom(GOOD[rpc])
        for name in names:
            made.ClearField(name)
            part = type(other)()
            part.CopyFrom(other)
            for field in other.DESCRIPTOR.fields:
                if field.name != name:
                    part.ClearField(field.name)
            made.MergeFrom(part)
        return made

    names = [field.name for field in GOOD[rpc].DESCRIPTOR.fields]
    if not names:
        return anything
    return st.one_of(
        anything, st.builds(mixed, anything, st.lists(st.sampled_from(names), max_size=2, unique=True))
    )


def outcome(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("rpc", RPCS[1:])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_message_at_all_is_a_bug(calls: pb_grpc.LatentServiceStub, rpc: str, data: st.DataObject) -> None:
    """Whatever message comes, the answer is a reply or one of the codes of the table."""
    request = data.draw(mostly_good(rpc))
    code, text = outcome(lambda: getattr(calls, rpc)(request, timeout=30))
    assert code in {grpc.StatusCode.OK, INVALID, NOT_FOUND}, text


@settings(max_examples=200, deadline=None)
@given(rpc=st.sampled_from(RPCS), data=st.data())
def test_no_bytes_at_all_are_a_bug(small: Running, rpc: str, data: st.DataObject) -> None:
    """Whatever bytes come, cut, flipped or random, the answer is a reply or one of the codes of the table."""
    content = bytearray(
        data.draw(st.one_of(st.just(GOOD[rpc].SerializeToString()[:200]), st.binary(max_size=60)))
    )
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)):
        if content:
            content[place % len(content)] = value
    with grpc.insecure_channel(small.address) as channel:
        call = channel.unary_unary(f"/{SERVICE.full_name}/{rpc}")
        code, text = outcome(lambda: call(bytes(content), timeout=30))
    assert code in {grpc.StatusCode.OK, INVALID, NOT_FOUND}, text
