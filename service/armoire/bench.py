"""Load on the decode path: a fixed number of callers, each sending its next call when the last is answered."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import grpc
import numpy as np

from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.channel import to_error
from armoire.wire.tensors import to_tensor


@dataclass(frozen=True)
class Load:
    """What to send: ``callers`` side by side, ``rows`` a call, for ``seconds``."""

    callers: int
    rows: int
    seconds: float
    model: str = ""
    version: str = ""


@dataclass(frozen=True)
class Figures:
    """What was measured: answered calls, images, and latency quantiles in milliseconds."""

    calls: int
    images_per_second: float
    p50: float
    p90: float
    p99: float


async def run(
    address: str, load: Load, latent_size: int, credentials: grpc.ChannelCredentials | None, token: str | None
) -> Figures:
    """Send Decode calls of points from N(0, I) and measure.

    Raises:
        ArmoireError: the first call that is refused ends the run.
    """
    z = np.random.default_rng(0).standard_normal((load.rows, latent_size), np.float32)
    request = pb.DecodeRequest(latents=to_tensor(z), model=load.model, version=load.version)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    options = [("grpc.max_receive_message_length", -1)]
    channel = (
        grpc.aio.insecure_channel(address, options)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options)
    )
    latencies: list[float] = []
    async with channel:
        stub = pb_grpc.LatentServiceStub(channel)
        started = time.perf_counter()
        end = started + load.seconds

        async def caller() -> None:
            while (begin := time.perf_counter()) < end:
                await stub.Decode(request, timeout=30, metadata=metadata)
                latencies.append(time.perf_counter() - begin)

        try:
            await asyncio.gather(*(caller() for _ in range(load.callers)))
        except grpc.RpcError as error:
            raise to_error(error) from None
        elapsed = time.perf_counter() - started
    p50, p90, p99 = (float(q) for q in np.quantile(np.array(latencies) * 1e3, (0.5, 0.9, 0.99)))
    return Figures(len(latencies), len(latencies) * load.rows / elapsed, p50, p90, p99)
