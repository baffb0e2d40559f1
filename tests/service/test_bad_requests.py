"""Every field of every RPC with what it may not hold, over a real channel: the code, the field, and one plain line.

After each refusal the server still answers, and in the end nothing of it was INTERNAL or UNKNOWN.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests.service.refused import (
    GOOD,
    LARGEST,
    MAX_ROWS,
    NOT_FOUND,
    ROW,
    RPCS,
    SIDE,
    UINT8,
    D,
    Place,
    at,
    but,
    check_answers,
    check_invalid,
    edited,
    file,
    of,
    pixels,
    png,
    refusal,
    tensor,
    z,
)

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
