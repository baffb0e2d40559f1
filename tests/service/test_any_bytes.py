"""Bytes that are no message, and messages of anything, for every RPC: never a bug of the server's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests.service.refused import (
    GOOD,
    INVALID,
    MAX_ROWS,
    NOT_FOUND,
    ROW,
    RPCS,
    SERVICE,
    SIDE,
    D,
    check_answers,
    file,
    pixels,
    png,
    tensor,
    z,
)
from tests.serving import Running

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
