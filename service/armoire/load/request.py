"""The one request that a stage repeats, and a first answer to it that is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

from armoire.arrays import Pixels
from armoire.client import Model
from armoire.errors import ArmoireError, InvalidArgument
from armoire.load.plan import Target
from armoire.v1 import armoire_pb2 as pb
from armoire.wire.channel import SERVICE, connect, to_error
from armoire.wire.tensors import to_tensor

# Two images are the least that a walk has.
LEAST_STEPS = 2
SEED = 0


def build(rpc: str, model: Model, target: Target, rows: int) -> bytes:
    """Give a request that ``rows`` images answer: of points from N(0, I), or of pixels of noise, the same each time.

    Raises:
        InvalidArgument: Interpolate with one row.
    """
    which = {"model": target.model, "version": target.version}
    generator = np.random.default_rng(SEED)
    z = to_tensor(generator.standard_normal((rows, model.latent_size), np.float32))
    builders: dict[str, Callable[[], Any]] = {
        "ListModels": pb.ListModelsRequest,
        "Encode": lambda: pb.EncodeRequest(images=_noise(generator, rows, model), **which),
        "Decode": lambda: pb.DecodeRequest(latents=z, **which),
        "Sample": lambda: pb.SampleRequest(count=rows, seed=SEED, model=target.model, version=target.version),
        "Interpolate": lambda: _walk(generator, rows, model, which),
        "AddAttribute": lambda: pb.AddAttributeRequest(
            points=pb.Points(latents=z), edits=[_edit(generator, model)], **which
        ),
    }
    return bytes(builders[rpc]().SerializeToString())


def probe(
    rpc: str, target: Target, request: bytes, rows: int, credentials: grpc.ChannelCredentials | None
) -> int:
    """Make the call once, see that all rows come back, and give the answer's bytes.

    Raises:
        ArmoireError: the server refuses it, or answers with another number of rows.
    """
    metadata = (("authorization", f"Bearer {target.token}"),) if target.token else ()
    with connect(target.address, credentials) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/{rpc}")
        try:
            answer = call(request, timeout=target.timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise to_error(error) from None
    came = _rows(rpc, answer)
    if came is not None and came != rows:
        raise ArmoireError(f"{rpc} of {rows} rows was answered with {came}")
    return len(answer)


def _noise(generator: np.random.Generator, rows: int, model: Model) -> pb.Images:
    pixels: Pixels = generator.integers(0, 256, (rows, *model.image_shape), np.uint8)
    return pb.Images(pixels=to_tensor(pixels))


def _walk(
    generator: np.random.Generator, rows: int, model: Model, which: dict[str, str]
) -> pb.InterpolateRequest:
    if rows < LEAST_STEPS:
        raise InvalidArgument(f"{rows} came; a walk of Interpolate has at least {LEAST_STEPS}", "rows")
    start, end = (
        pb.Points(latents=to_tensor(generator.standard_normal((1, model.latent_size), np.float32)))
        for _ in range(2)
    )
    return pb.InterpolateRequest(start=start, end=end, steps=rows, **which)


def _edit(generator: np.random.Generator, model: Model) -> pb.AttributeEdit:
    """Take the model's first attribute, or any direction where it has none."""
    if model.attributes:
        return pb.AttributeEdit(attribute=next(iter(model.attributes)))
    return pb.AttributeEdit(vector=to_tensor(generator.standard_normal(model.latent_size, np.float32)))


def _rows(rpc: str, answer: bytes) -> int | None:
    """Count the rows of an answer; None for ListModels, which has none."""
    if rpc == "ListModels":
        return None
    if rpc == "Encode":
        return int(pb.EncodeResponse.FromString(answer).means.shape[0])
    # Interpolate's pixels are [n, steps, h, w, c], those of the others [n, h, w, c].
    shape = getattr(pb, f"{rpc}Response").FromString(answer).images.pixels.shape
    return int(np.prod(shape[:-3]))
