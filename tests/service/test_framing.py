"""Replies written by hand are what protobuf would have written."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from armoire.v1 import armoire_pb2 as pb
from armoire.wire import framing
from armoire.wire.tensors import to_tensor

PIXELS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=4, max_dims=5, max_side=12))
LATENTS = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=3, max_side=40))


@given(pixels=PIXELS, latents=LATENTS, seed=st.integers(0, 2**64 - 1))
def test_a_reply_with_images_is_the_message(pixels: np.ndarray, latents: np.ndarray, seed: int) -> None:
    """Whatever the sizes, the bytes parse to the message that protobuf makes of the same fields."""
    reply = pb.SampleResponse(latents=to_tensor(latents), seed=seed)
    came = pb.SampleResponse.FromString(framing.serialize(reply, ((1, 1), pixels)))
    reply.images.pixels.CopyFrom(to_tensor(pixels))
    assert came == reply


@given(means=LATENTS)
def test_a_reply_of_two_tensors_is_the_message(means: np.ndarray) -> None:
    """Two tensors beside each other keep apart, also where rows are not contiguous in memory."""
    variances = means[..., ::-1]
    came = pb.EncodeResponse.FromString(
        framing.serialize(pb.EncodeResponse(), ([1], means), ([2], variances))
    )
    assert came == pb.EncodeResponse(means=to_tensor(means), log_variances=to_tensor(variances))


def test_a_large_tensor_has_a_length_of_many_bytes() -> None:
    """Lengths over 2 MiB, four groups of seven bits, are right too."""
    pixels = np.arange(3 << 20, dtype=np.uint32).astype(np.uint8).reshape(256, 64, 64, 3)
    came = pb.DecodeResponse.FromString(framing.serialize(pb.DecodeResponse(), ((1, 1), pixels)))
    assert came.images.pixels == to_tensor(pixels)
