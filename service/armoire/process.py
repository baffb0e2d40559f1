"""A server as a process: from its start to the signal that ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

from armoire import memory
from armoire.config import Settings
from armoire.errors import DeviceLost
from armoire.server import Server

logger = logging.getLogger("armoire.server")


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; Ctrl-C once more cuts the drain short.

    Raises:
        StartError: the server cannot start.
        DeviceLost: it cannot go on.
    """
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = Server(settings)

    def interrupt() -> None:
        if asked_to_stop.is_set():
            server.hurry()
        asked_to_stop.set()

    loop.add_signal_handler(signal.SIGTERM, asked_to_stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    # From the start on: its default would end the process.
    if hasattr(signal, "SIGHUP"):  # not on Windows
        loop.add_signal_handler(signal.SIGHUP, server.reload)
    if not await _started(server, asked_to_stop):
        logger.info("stopped before it was ready")
        return
    memory.settle()
    await _either(asked_to_stop, server.lost)
    if server.lost.is_set():
        server.hurry()
        await server.stop()
        raise DeviceLost("the device does not run anything any more; the log says what it last said")
    logger.info("draining: calls in flight have %.0f s", settings.grace)
    await server.stop()
    logger.info("stopped")


async def _started(server: Server, asked_to_stop: asyncio.Event) -> bool:
    """Start, or give up as soon as a signal comes."""
    start = asyncio.ensure_future(server.start())
    stop = asyncio.ensure_future(asked_to_stop.wait())
    await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start
        await server.stop()
        return False
    stop.cancel()
    start.result()
    return True


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
