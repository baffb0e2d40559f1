"""Requests whose fields lie, as hypothesis strategies: the wire format is right, what it says is not."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.message import Message
from hypothesis import strategies as st
from PIL import Image

from armoire.v1 import armoire_pb2 as pb
from armoire.wire.tensors import to_tensor
from tests.soak import pictures
from tests.soak.wire_format import field

D, SIDE = 16, 32  # of the bundled fashion-mnist
MAX_ROWS = 64
SERVICE = pb.DESCRIPTOR.services_by_name["LatentService"]
PATHS = {method.name: f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods}
DENORMAL, TINY, LARGEST = 1e-45, float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
EDGES = (0.0, -0.0, 1.0, -1.0, DENORMAL, -DENORMAL, TINY, LARGEST, -LARGEST, math.inf, -math.inf, math.nan)

# ---- what is good --------------------------------------------------------------------------------------------


def latents(rows: int = 1) -> pb.Tensor:
    return to_tensor(np.linspace(-1, 1, rows * D, dtype=np.float32).reshape(rows, D))


def pixels(rows: int = 1) -> pb.Tensor:
    return to_tensor(np.full((rows, SIDE, SIDE, 1), 99, np.uint8))


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(28 * 28, dtype=np.uint16).astype(np.uint8).reshape(28, 28)).save(buffer, kind)
    return buffer.getvalue()


@functools.cache
def good() -> dict[str, list[Message]]:
    """Give a few good requests of every RPC: each way to say something is there."""
    points = pb.Points(latents=latents())
    seen = pb.Points(images=pb.Images(pixels=pixels()))
    files = pb.Images(encoded=pb.EncodedImages(images=[picture("PNG"), picture("JPEG")]))
    return {
        "ListModels": [pb.ListModelsRequest()],
        "Encode": [
            pb.EncodeRequest(images=pb.Images(pixels=pixels(2)), model="fashion-mnist", version="1"),
            pb.EncodeRequest(images=files),
        ],
        "Decode": [
            pb.DecodeRequest(latents=latents(3)),
            pb.DecodeRequest(latents=latents(), image_format=pb.IMAGE_FORMAT_PNG),
            pb.DecodeRequest(latents=latents(), image_format=pb.IMAGE_FORMAT_JPEG, model="fashion-mnist"),
        ],
        "Sample": [
            pb.SampleRequest(count=2, seed=2**63, temperature=0.5, prior="fitted"),
            pb.SampleRequest(count=1, prior="normal", image_format=pb.IMAGE_FORMAT_PNG),
        ],
        "Interpolate": [
            pb.InterpolateRequest(start=points, end=points, steps=3),
            pb.InterpolateRequest(
                start=seen, end=points, steps=2, path=pb.INTERPOLATION_PATH_SPHERICAL, model="fashion-mnist"
            ),
        ],
        "AddAttribute": [
            pb.AddAttributeRequest(
                points=points,
                edits=[
                    pb.AttributeEdit(attribute="bag", strength=0.5, orthogonal_to=["dress"]),
                    pb.AttributeEdit(vector=to_tensor(np.ones(D, np.float32)), scale=pb.EDIT_SCALE_UNIT),
                ],
            ),
            pb.AddAttributeRequest(
                points=seen,
                edits=[pb.AttributeEdit(examples=pb.Examples(positives=points, negatives=seen))],
            ),
        ],
    }


# ---- lies ----------------------------------------------------------------------------------------------------

sizes = st.one_of(
    st.integers(-2, 5),
    st.sampled_from(
        [D, SIDE, MAX_ROWS, MAX_ROWS + 1, 2**16, 2**31 - 1, 2**31, 2**32, 2**60, 2**62, 2**63 - 1, -(2**63)]
    ),
)
counts = st.one_of(
    st.integers(-2, 5), st.sampled_from([MAX_ROWS, MAX_ROWS + 1, 2**16, 2**30, 2**31 - 1, -(2**31)])
)
floats = st.one_of(st.sampled_from(EDGES), st.floats(width=32))
data_types = st.sampled_from([0, 1, 2, 2, 2, 3, 99, -1, 2**31 - 1, -(2**31)])
enums = st.one_of(st.integers(0, 3), st.sampled_from([4, 99, -1, 2**31 - 1, -(2**31)]))
names = st.one_of(
    st.sampled_from(["", "fashion-mnist", "1", "normal", "fitted", "bag", "dress", "..", "../../etc/passwd"]),
    st.text(max_size=12),
    st.text(st.characters(min_codepoint=0, max_codepoint=0x9F), max_size=12),
    st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=3), st.integers(1, 20_000)),
)
raw_names = st.one_of(
    names.map(lambda name: name.encode("utf-8", "surrogatepass")),
    st.binary(max_size=30),
    st.sampled_from([b"\xff" * 10, b"a\0b", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\r\n" * 50]),
)


@st.composite
def lying_tensors(draw: Callable[..., Any]) -> pb.Tensor:
    """A shape, a type and bytes that have little to do with each other."""
    shape = draw(
        st.one_of(
            st.lists(sizes, max_size=6),
            sizes.map(lambda rows: [rows, D]),
            sizes.map(lambda rows: [rows, SIDE, SIDE, 1]),
            st.sampled_from(
                [(1, D), (2, D), (D,), (1, SIDE, SIDE, 1), (1, SIDE, SIDE), (1, 1, D), (2**32, 2**32, 1, 1)]
            ),
            st.integers(1, 3000).map(lambda axes: [1] * axes),
        )
    )
    honest = min(abs(math.prod(shape[:6])), 1 << 14)
    data_type = draw(data_types)
    length = draw(
        st.one_of(
            st.sampled_from([honest, 4 * honest, 4 * honest - 1, 4 * honest + 1, 0]), st.integers(0, 300)
        )
    )
    return pb.Tensor(data_type=data_type, shape=shape, data=bytes(max(0, length)))


edge_latents = st.builds(
    lambda rows, values: to_tensor(np.array([values] * rows, np.float32)),
    st.integers(1, 3),
    st.lists(floats, min_size=D, max_size=D),
)
tensors = st.one_of(
    lying_tensors(),
    edge_latents,
    st.integers(1, 3).map(latents),
    st.integers(1, 2).map(pixels),
    st.lists(floats, min_size=D, max_size=D).map(lambda values: to_tensor(np.array(values, np.float32))),
)


@functools.cache
def of_type(kind: Any) -> st.SearchStrategy[Message]:
    """Any message of a type: every field may be there, and what is in it means something now and then."""
    if kind is pb.Tensor:
        return tensors
    one: dict[str, st.SearchStrategy[Any]] = {}
    for each in kind.DESCRIPTOR.fields:
        if each.message_type is not None:
            made = st.deferred(lambda inner=each.message_type._concrete_class: of_type(inner))
        elif each.enum_type is not None:
            made = enums
        elif each.type == each.TYPE_BYTES:
            made = pictures.files
        elif each.name in ("model", "version", "prior"):
            # More often than not right: else no other field would be looked at.
            made = st.one_of(st.just(""), st.just(""), st.just(""), names)
        elif each.type == each.TYPE_STRING:
            made = names
        elif each.type == each.TYPE_FLOAT:
            made = floats
        elif each.type == each.TYPE_UINT64:
            made = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**63, 2**64 - 1]))
        else:
            made = counts
        one[each.name] = st.lists(made, max_size=3) if each.is_repeated else made
    # Of a oneof the last field that is set stays.
    return st.fixed_dictionaries({}, optional=one).map(lambda values: kind(**values))


@st.composite
def spoiled(draw: Callable[..., Any], rpc: str) -> Message:
    """A good request in which a field or two come from anywhere."""
    request = draw(st.sampled_from(good()[rpc]))
    made = type(request)()
    made.CopyFrom(request)
    fields = list(request.DESCRIPTOR.fields)
    if not fields:
        return made
    other = draw(of_type(type(request)))
    for each in draw(st.lists(st.sampled_from(fields), min_size=1, max_size=2, unique_by=id)):
        made.ClearField(each.name)
        part = type(request)()
        part.CopyFrom(other)
        for rest in fields:
            if rest is not each:
                part.ClearField(rest.name)
        made.MergeFrom(part)
    return made


@st.composite
def misnamed(draw: Callable[..., Any], rpc: str) -> bytes:
    """A good request with names that are no names, on the wire, where protobuf would not write them."""
    content = draw(st.sampled_from(good()[rpc])).SerializeToString()
    texts = {"Sample": [1, 2, 6], "ListModels": [1]}.get(rpc, [1, 2])
    for number in draw(st.lists(st.sampled_from(texts), min_size=1, max_size=3)):
        content += field(number, draw(raw_names))
    if rpc == "AddAttribute":
        content += field(4, field(draw(st.sampled_from([1, 6])), draw(raw_names)))
    return bytes(content)


def many_in_one(rpc: str) -> st.SearchStrategy[bytes]:
    """More of a repeated field than anybody would send, each a few bytes."""
    content = good()[rpc][0].SerializeToString()
    return st.builds(
        lambda number, inner, times: content + field(number, inner) * times,
        st.integers(1, 7),
        st.sampled_from([b"", b"\x0a\x00", b"\x12\x00", b"\x1a\x00"]),
        st.sampled_from([1, 64, 65, 1000, 20_000]),
    )
