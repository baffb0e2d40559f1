"""More than the published limits: of rows, of edits, of bytes, for every RPC, over a real channel."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.message import Message

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from tests.service.refused import (
    EXHAUSTED,
    MAX_ROWS,
    SIDE,
    UINT8,
    D,
    at,
    but,
    check_answers,
    check_invalid,
    edited,
    file,
    of,
    pixels,
    refusal,
    tensor,
    z,
)


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
