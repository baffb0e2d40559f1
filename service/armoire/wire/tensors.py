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


def to_tensor(array: Array) -> pb.Tensor:
    """Pack an array of uint8 or float32, any shape.

    Raises:
        KeyError: another element type.
    """
    little = array.dtype.newbyteorder("<")
    data_type = DATA_TYPES[little]
    # tobytes copies once, whatever the strides; protobuf keeps that very object.
    return pb.Tensor(data_type=data_type, shape=array.shape, data=array.astype(little, copy=False).tobytes())


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
    # A sum of finite values can overflow, so a sum says "surely good" only: the long way is for the rest.
    with np.errstate(over="ignore", invalid="ignore"):
        surely_finite = math.isfinite(float(array.sum()))
    if not surely_finite and not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InvalidArgument(f"the value at {list(at)} is {array[at]}; finite numbers are wanted", field)
    return array


def to_pixels(tensor: pb.Tensor, shape: Sequence[int | str], field: str) -> Pixels:
    """Unpack uint8s, as a read-only view of the message's bytes; arguments and errors as in to_floats."""
    return _to_array(tensor, pb.DATA_TYPE_UINT8, shape, field)


def rows(tensor: pb.Tensor) -> int:
    """Tell how many rows a tensor claims to have, before anything else is checked."""
    return tensor.shape[0] if tensor.shape else 0


def _to_array(tensor: pb.Tensor, data_type: pb.DataType, shape: Sequence[int | str], field: str) -> Array:
    if tensor.data_type != data_type:
        came = NAMES.get(tensor.data_type, str(tensor.data_type))
        raise InvalidArgument(f"data_type is {came}; {NAMES[data_type]} is wanted", field)
    wanted = "[" + ", ".join(str(size) for size in shape) + "]"
    # A hostile shape may have a million axes: it is neither multiplied nor printed in full.
    came_shape = (
        f"[{', '.join(str(size) for size in tensor.shape[:8])}{', ...' if len(tensor.shape) > 8 else ''}]"
    )
    if len(tensor.shape) != len(shape) or any(
        isinstance(want, int) and came != want for want, came in zip(shape, tensor.shape, strict=True)
    ):
        raise InvalidArgument(f"shape is {came_shape}; {wanted} is wanted", field)
    if any(size < 1 for size in tensor.shape):
        raise InvalidArgument(f"shape is {came_shape}; every axis of {wanted} has at least 1", field)
    dtype = DTYPES[data_type]
    length = math.prod(tensor.shape) * dtype.itemsize
    if len(tensor.data) != length:
        raise InvalidArgument(
            f"data has {len(tensor.data)} bytes; shape {came_shape} of {NAMES[data_type]} takes {length}",
            field,
        )
    return np.frombuffer(tensor.data, dtype).reshape(tuple(tensor.shape))
