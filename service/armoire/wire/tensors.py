"""Protobuf tensors to numpy arrays and back, with every check that a tensor can fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from armoire.arrays import Array, Floats, Pixels
from armoire.errors import InvalidArgument
from armoire.v1 import armoire_pb2 as pb

# Little-endian on the wire whatever the host is.
DTYPES: dict[pb.DataType, np.dtype[Any]] = {
    pb.DATA_TYPE_UINT8: np.dtype("u1"),
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
}
NAMES = {value.number: value.name for value in pb.DataType.DESCRIPTOR.values}
DATA_TYPES = {dtype: number for number, dtype in DTYPES.items()}


def data_type_of(array: Array) -> pb.DataType:
    """Name the element type of an array of uint8 or little-endian float32.

    Raises:
        KeyError: another element type.
    """
    return DATA_TYPES[array.dtype]


def to_tensor(array: Array) -> pb.Tensor:
    """Pack an array of uint8 or float32, any shape; errors as in data_type_of."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return pb.Tensor(data_type=data_type_of(little), shape=little.shape, data=little.tobytes())


def to_floats(tensor: pb.Tensor, shape: Sequence[int | str], field: str) -> Floats:
    """Unpack finite float32s, as a read-only view of the message's bytes.

    Args:
        tensor: what came.
        shape: what is wanted; a str is the name of an axis of any size from 1.
        field: the field's name as the caller wrote it.

    Raises:
        InvalidArgument: another type, shape or length, a NaN or an infinity.
    """
    array = _to_array(tensor, pb.DATA_TYPE_FLOAT32, shape, field)
    finite = np.isfinite(array)
    if not finite.all():
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InvalidArgument(f"the value at {list(at)} is {array[at]}; finite numbers are wanted", field)
    return array


def to_pixels(tensor: pb.Tensor, shape: Sequence[int | str], field: str) -> Pixels:
    """Unpack uint8s, as a read-only view of the message's bytes; arguments and errors as in to_floats."""
    return _to_array(tensor, pb.DATA_TYPE_UINT8, shape, field)


def rows(tensor: pb.Tensor) -> int:
    """Tell how many rows a tensor claims to have, before anything else is checked."""
    return max(tensor.shape[0], 0) if tensor.shape else 0


def _to_array(tensor: pb.Tensor, data_type: pb.DataType, shape: Sequence[int | str], field: str) -> Array:
    if tensor.data_type != data_type:
        came = NAMES.get(tensor.data_type, str(tensor.data_type))
        raise InvalidArgument(f"data_type is {came}; {NAMES[data_type]} is wanted", field)
    # A hostile shape may have a million axes: it is neither copied, multiplied nor printed in full.
    sizes = tuple(tensor.shape[: len(shape) + 1])
    if len(sizes) != len(shape) or any(
        isinstance(want, int) and came != want for want, came in zip(shape, sizes, strict=True)
    ):
        raise InvalidArgument(f"shape is {_shown(tensor)}; {_wanted(shape)} is wanted", field)
    if min(sizes) < 1:
        raise InvalidArgument(
            f"shape is {_shown(tensor)}; every axis of {_wanted(shape)} has at least 1", field
        )
    dtype, data = DTYPES[data_type], tensor.data  # every look at tensor.data copies it
    length = math.prod(sizes) * dtype.itemsize
    if len(data) != length:
        raise InvalidArgument(
            f"data has {len(data)} bytes; shape {_shown(tensor)} of {NAMES[data_type]} takes {length}", field
        )
    return np.frombuffer(data, dtype).reshape(sizes)


def _shown(tensor: pb.Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape[:8]))}{', ...' if len(tensor.shape) > 8 else ''}]"


def _wanted(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
