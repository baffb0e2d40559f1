"""Arrays to protobuf tensors and back: nothing is lost, and nothing malformed comes through."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from armoire.errors import InvalidArgument
from armoire.v1 import armoire_pb2 as pb
from armoire.wire import tensors

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST = float(np.finfo(np.float32).max)


def tensor(shape: list[int], data: bytes, data_type: int = pb.DATA_TYPE_FLOAT32) -> pb.Tensor:
    return pb.Tensor(data_type=data_type, shape=shape, data=data)


@given(hnp.arrays(np.float32, SHAPES, elements=FINITE))
def test_finite_floats_survive_the_wire(array: np.ndarray) -> None:
    """Any float32 array of finite values comes back bit by bit from its serialized tensor."""
    sent = pb.Tensor.FromString(tensors.to_tensor(array).SerializeToString())
    came = tensors.to_floats(sent, ("n", *array.shape[1:]), "latents")
    assert came.shape == array.shape
    assert came.dtype == np.float32
    assert came.tobytes() == array.tobytes()


@given(hnp.arrays(np.uint8, SHAPES))
def test_pixels_survive_the_wire(array: np.ndarray) -> None:
    """Any uint8 array comes back equal from its serialized tensor."""
    sent = pb.Tensor.FromString(tensors.to_tensor(array).SerializeToString())
    np.testing.assert_array_equal(tensors.to_pixels(sent, ("n", *array.shape[1:]), "pixels"), array)


@pytest.mark.parametrize("dtype", [np.uint8, "<f4", ">f4"])
def test_a_strided_or_foreign_array_is_packed_row_major_little_endian(dtype: str) -> None:
    """A transposed, reversed or big-endian array goes out as the little-endian row-major bytes of its values."""
    array = np.arange(24).astype(dtype).reshape(2, 3, 4).transpose(2, 0, 1)[::-1]
    sent = tensors.to_tensor(array)
    assert list(sent.shape) == [4, 2, 3]
    little = "<f4" if np.dtype(dtype).kind == "f" else "u1"
    assert sent.data == np.ascontiguousarray(array, little).tobytes()


def test_an_element_type_that_the_wire_lacks_is_no_tensor() -> None:
    """float64 is refused, not narrowed in silence."""
    with pytest.raises(KeyError):
        tensors.to_tensor(np.zeros(3))


def test_unpacking_copies_nothing() -> None:
    """The array is a read-only view of the message's own bytes."""
    came = tensors.to_floats(tensors.to_tensor(np.ones((2, 3), np.float32)), ("n", 3), "latents")
    assert not came.flags.owndata
    assert not came.flags.writeable


@given(
    array=hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(3)), elements=FINITE),
    bad=st.sampled_from([math.nan, math.inf, -math.inf]),
    at=st.integers(0, 2**31),
)
def test_one_value_that_is_not_finite_is_found(array: np.ndarray, bad: float, at: int) -> None:
    """A single NaN or infinity anywhere is refused and its place is told."""
    place = np.unravel_index(at % array.size, array.shape)
    array[place] = bad
    with pytest.raises(InvalidArgument) as caught:
        tensors.to_floats(tensors.to_tensor(array), ("n", 3), "latents")
    assert caught.value.field == "latents"
    assert f"the value at {[int(i) for i in place]} is {np.float32(bad)}; finite" in str(caught.value)


def test_finite_values_whose_sum_overflows_are_good() -> None:
    """The largest float32s are finite values, though their sum is not."""
    array = np.full((4, 3), LARGEST, np.float32)
    np.testing.assert_array_equal(tensors.to_floats(tensors.to_tensor(array), ("n", 3), "latents"), array)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (tensor([1, 3], bytes(12), pb.DATA_TYPE_UNSPECIFIED), "DATA_TYPE_UNSPECIFIED; DATA_TYPE_FLOAT32"),
        (tensor([1, 3], bytes(3), pb.DATA_TYPE_UINT8), "data_type is DATA_TYPE_UINT8; DATA_TYPE_FLOAT32"),
        (tensor([1, 3], bytes(12), 99), "data_type is 99; DATA_TYPE_FLOAT32 is wanted"),
        (tensor([], bytes(4)), "shape is []; [n, 3] is wanted"),
        (tensor([3], bytes(12)), "shape is [3]; [n, 3] is wanted"),
        (tensor([1, 1, 3], bytes(12)), "shape is [1, 1, 3]; [n, 3] is wanted"),
        (tensor([1, 4], bytes(16)), "shape is [1, 4]; [n, 3] is wanted"),
        (tensor([0, 3], b""), "shape is [0, 3]; every axis of [n, 3] has at least 1"),
        (tensor([-1, 3], b""), "shape is [-1, 3]; every axis of [n, 3] has at least 1"),
        (tensor([-1, -3], bytes(12)), "shape is [-1, -3]; [n, 3] is wanted"),
        (tensor([2, 3], bytes(23)), "data has 23 bytes; shape [2, 3] of DATA_TYPE_FLOAT32 takes 24"),
        (tensor([2, 3], bytes(25)), "data has 25 bytes"),
        (
            tensor([2**62, 3], b""),
            f"data has 0 bytes; shape [{2**62}, 3] of DATA_TYPE_FLOAT32 takes {2**62 * 12}",
        ),
        (tensor([1, 2**62], b""), f"shape is [1, {2**62}]; [n, 3] is wanted"),
        (tensor([1] * 100_000, bytes(4)), "shape is [1, 1, 1, 1, 1, 1, 1, 1, ...]; [n, 3] is wanted"),
    ],
)
def test_a_malformed_tensor_is_refused_with_what_came_and_what_is_wanted(bad: pb.Tensor, words: str) -> None:
    """Each fault of type, rank, shape or length has one line that names the field, the fault and the wish."""
    with pytest.raises(InvalidArgument) as caught:
        tensors.to_floats(bad, ("n", 3), "points.latents")
    assert caught.value.field == "points.latents"
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


@given(
    shape=st.lists(st.one_of(st.integers(-2, 4), st.integers(-(2**63), 2**63 - 1)), max_size=4),
    length=st.integers(0, 64),
)
def test_no_shape_and_length_that_disagree_come_through(shape: list[int], length: int) -> None:
    """Bytes become an array only where the shape is [n, 2] with n from 1 and takes exactly those bytes."""
    sent = tensor(shape, bytes(length))
    if len(shape) == 2 and shape[0] >= 1 and shape[1] == 2 and shape[0] * 8 == length:
        assert tensors.to_floats(sent, ("n", 2), "f").shape == tuple(shape)
    else:
        with pytest.raises(InvalidArgument):
            tensors.to_floats(sent, ("n", 2), "f")


def test_rows_reads_the_claim_only() -> None:
    """The number of rows is what the shape says, before anything is believed."""
    assert tensors.rows(tensor([7, 3], b"")) == 7
    assert tensors.rows(tensor([], b"")) == 0
