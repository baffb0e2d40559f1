"""What callers see of a server that stops: nobody who was answered loses the answer, nobody is told CANCELLED."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest

from armoire import config
from armoire.server import Server
from armoire.v1 import armoire_pb2 as pb
from armoire.v1 import armoire_pb2_grpc as pb_grpc
from armoire.wire.interceptor import QUIET_SECONDS
from armoire.wire.tensors import to_tensor
from tests.serving import ANY_PORT, Running, serving

# Their images are 16 MB: more than the buffers of the machine hold.
ROWS = 16384


@asynccontextmanager
async def slow_line(server: str, begun: asyncio.Event, go: asyncio.Event) -> AsyncIterator[str]:
    """A TCP relay that passes on 32 KiB of what the server says, sets ``begun`` and waits for ``go``."""
    host, _, port = server.rpartition(":")
    relays = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.append(asyncio.current_task())
        answers, calls = await asyncio.open_connection(host, int(port))

        async def up() -> None:
            while data := await reader.read(1 << 16):
                calls.write(data)

        async def down() -> None:
            passed = 0
            while data := await answers.read(1 << 14):
                writer.write(data)
                await writer.drain()
                passed += len(data)
                if passed > 1 << 15:
                    begun.set()
                    await go.wait()
            writer.close()

        try:
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(up(), down())
        finally:
            for end in (calls, writer):
                end.close()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as listener:
        try:
            yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        finally:
            # Either end may keep its connection for as long as it likes.
            for task in relays:
                task.cancel()
            await asyncio.gather(*relays, return_exceptions=True)


async def test_a_slow_reader_gets_its_whole_answer() -> None:
    """A drain waits for an answer of which its reader has taken only the beginning."""
    running = Running(max_rows=ROWS, max_queue_rows=ROWS)
    begun, go = asyncio.Event(), asyncio.Event()
    request = pb.DecodeRequest(latents=to_tensor(np.zeros((ROWS, 16), np.float32)))
    unlimited = [("grpc.max_receive_message_length", -1)]
    async with (
        slow_line(running.address, begun, go) as address,
        grpc.aio.insecure_channel(address, unlimited) as channel,
    ):
        call = pb_grpc.LatentServiceStub(channel).Decode(request, timeout=20)
        await begun.wait()
        closing = asyncio.get_running_loop().run_in_executor(None, running.close)
        # By now a server that thinks itself idle would be gone.
        assert not (await asyncio.wait({closing}, timeout=2 * QUIET_SECONDS))[0]
        go.set()
        assert len((await call).images.pixels.data) == ROWS * 32 * 32
        await closing


def test_who_calls_on_is_refused_until_it_goes() -> None:
    """A drained server stays to say UNAVAILABLE while a caller calls on, for longer than the quiet it waits for."""
    running = Running()
    with grpc.insecure_channel(running.address) as channel, ThreadPoolExecutor(1) as pool:
        list_models = pb_grpc.LatentServiceStub(channel).ListModels
        list_models(pb.ListModelsRequest(), timeout=30)
        closing = pool.submit(running.close)
        refusals = []
        while not closing.done():
            call = list_models.future(pb.ListModelsRequest(), timeout=30)
            if "x-request-id" in dict(call.trailing_metadata() or ()):
                refusals.append((time.monotonic(), call.code()))
        closing.result()
    codes = [code for _, code in refusals]
    first = codes.index(grpc.StatusCode.UNAVAILABLE)
    assert set(codes[first:]) == {grpc.StatusCode.UNAVAILABLE}
    assert refusals[-1][0] - refusals[first][0] > QUIET_SECONDS


async def test_a_burst_of_calls_is_not_cancelled() -> None:
    """Of 3,000 calls at once each is answered: none is CANCELLED for want of room in gRPC."""
    with serving() as running:
        async with grpc.aio.insecure_channel(running.address) as channel:
            stub = pb_grpc.LatentServiceStub(channel)
            calls = [stub.ListModels(pb.ListModelsRequest(), timeout=60) for _ in range(3000)]
            codes = {await call.code() for call in calls}
    assert codes == {grpc.StatusCode.OK}


def test_a_drain_that_was_hurried_before_it_began_waits_for_nobody() -> None:
    """Where the device is lost, calls that came meanwhile are cut off, not waited for."""
    running = Running(grace="60")
    with grpc.insecure_channel(running.address) as channel, running.holding():
        decode = pb_grpc.LatentServiceStub(channel).Decode
        first = decode.future(pb.DecodeRequest(latents=to_tensor(np.zeros((1, 16), np.float32))), timeout=60)
        running.until_pending("decoder", 1)
        running.call(running.server.hurry)
        second = decode.future(pb.DecodeRequest(latents=to_tensor(np.zeros((1, 16), np.float32))), timeout=60)
        running.until_pending("decoder", 2)
        began = time.monotonic()
        running.close()
        assert time.monotonic() - began < 20
        assert {first.code(), second.code()} <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


@pytest.mark.parametrize("turns", range(0, 16, 2))
def test_several_may_stop_a_server_at_once(turns: int) -> None:
    """Who stops a server that is being stopped waits for the same end; two stops of gRPC's server end the process."""
    running = Running(grace=0)

    async def stop() -> None:
        first = asyncio.create_task(running.server.stop())
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.gather(running.server.stop(), running.server.stop())
        assert first.done()
        await first

    with grpc.insecure_channel(running.address) as channel, running.holding():
        stuck = pb_grpc.LatentServiceStub(channel).Sample.future(pb.SampleRequest(count=1), timeout=60)
        running.until_pending("decoder", 1)
        running.run(stop())
        assert stuck.exception() is not None
    running.close()


async def test_a_server_that_was_not_started_has_nothing_to_stop() -> None:
    """To stop it does nothing, and it can be started after that."""
    server = Server(config.load(ANY_PORT))
    await server.stop()
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        await pb_grpc.LatentServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=30)
    await server.stop()
