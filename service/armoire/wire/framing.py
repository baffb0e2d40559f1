"""Replies as bytes of the wire, written by hand where protobuf would copy large tensors again and again.

A message is the concatenation of its fields in any order, and a field that is a message is its tag, its length and
its bytes: https://protobuf.dev/programming-guides/encoding. So a reply's small fields are protobuf's work, and a
tensor's elements are copied once, from the array into the reply.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from google.protobuf.message import Message

from armoire.arrays import Array
from armoire.v1 import armoire_pb2 as pb
from armoire.wire.tensors import data_type_of

LENGTH_DELIMITED = 2
Part = bytes | memoryview


def serialize(message: Message, *tensors: tuple[Sequence[int], Array]) -> bytes:
    """Serialize ``message`` with tensors added.

    Args:
        message: the reply, without those tensors and their parents.
        tensors: for each the field numbers that lead to it, outermost first, and an array of uint8 or float32.
    """
    parts: list[Part] = [message.SerializeToString()]
    for path, array in tensors:
        body = _tensor(array)
        for number in reversed(path):
            body = _field(number, body)
        parts += body
    return b"".join(parts)


def _tensor(array: Array) -> list[Part]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    head = pb.Tensor(data_type=data_type_of(little), shape=little.shape)
    elements = _field(pb.Tensor.DATA_FIELD_NUMBER, [little.reshape(-1).view(np.uint8).data])
    return [head.SerializeToString(), *elements]


def _field(number: int, body: list[Part]) -> list[Part]:
    """Put tag and length in front of ``body``."""
    length = sum(len(part) for part in body)
    return [_varint(number << 3 | LENGTH_DELIMITED) + _varint(length), *body]


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth bit says that more follow."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
