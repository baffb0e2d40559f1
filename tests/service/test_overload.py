"""What a server refuses because it has enough to do, and how it says so."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from armoire.client import Client
from armoire.errors import Overloaded
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.tensors import to_tensor
from tests.service.test_server import scrape, value
from tests.service.test_shutdown import ROWS, slow_line
from tests.serving import serving

POINT = np.zeros((1, 16), np.float32)


async def test_answers_that_nobody_reads_are_bounded() -> None:
    """While more than max_in_flight_mib waits to be read, calls are refused and told to come back; then answered."""
    begun, go = asyncio.Event(), asyncio.Event()
    limits = {"max_rows": ROWS, "max_queue_rows": ROWS, "max_message_mib": 2, "max_in_flight_mib": 2}
    unlimited = [("grpc.max_receive_message_length", -1)]
    with serving(**limits) as running, Client(running.address) as client:
        async with (
            slow_line(running.address, begun, go) as address,
            grpc.aio.insecure_channel(address, unlimited) as channel,
        ):
            request = pb.DecodeRequest(latents=to_tensor(np.zeros((ROWS, 16), np.float32)))
            slow = pb_grpc.LatentServiceStub(channel).Decode(request, timeout=60)
            await begun.wait()
            with pytest.raises(Overloaded, match=r"1\d MiB .* more than max_in_flight_mib = 2") as refused:
                await asyncio.to_thread(client.decode, POINT)
            assert refused.value.retry_after
            go.set()
            assert len((await slow).images.pixels.data) == ROWS * 32 * 32
            for _ in range(100):
                try:
                    await asyncio.to_thread(client.decode, POINT)
                    break
                except Overloaded:  # the last byte has left, its call is not yet closed
                    continue
            else:
                pytest.fail("refused after everything was read")
        assert value(scrape(running), 'armoire_rejected_total{reason="bytes"}') >= 1
        assert running.server._interceptor._bytes == 0
