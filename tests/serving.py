"""A real server in this process, for tests that bring their own settings."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from armoire import config
from armoire.engine.tickets import Cost
from armoire.server import Server

FASHION = config.BUNDLED_MODELS / "fashion-mnist" / "1"
#: Where the servers of the tests run: `make test-gpu` runs some tests of the service on a GPU, too.
PROVIDER = os.environ.get("TEST_PROVIDER", "cpu")
ANY_PORT = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0", "threads": 1, "provider": PROVIDER}
cpu_only = pytest.mark.skipif(PROVIDER != "cpu", reason="compares with graphs on the CPU, to the bit")


class Running:
    """A server in a thread with an event loop of its own."""

    def __init__(self, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server", daemon=True)
        self._thread.start()
        self.server: Server = self.run(self._start(config.load(ANY_PORT | settings)))
        self.address = self.server.address
        self.metrics_address = self.server.metrics_address

    @staticmethod
    async def _start(settings: config.Settings) -> Server:
        server = Server(settings)
        await server.start()
        return server

    def run(self, work: Any) -> Any:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function on the server's loop."""
        self._loop.call_soon_threadsafe(function)

    def submit(self, work: Any) -> Any:
        """Start a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def cost(self, graph: str) -> Cost:
        """What a graph of the default model was measured to cost."""
        return next(iter(self.server._servicer.catalogue)).queues[graph].cost

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep every lane busy while the block runs, so that what arrives has to wait."""
        free = threading.Event()
        lanes = self.server._repository.loader.lanes

        def wait() -> None:
            free.wait(60)

        async def hold() -> None:
            for _ in range(lanes.free):
                lanes.run(wait, lambda _: None)

        self.run(hold())
        try:
            yield
        finally:
            free.set()

    def pending(self, graph: str) -> float:
        """How many rows wait in front of a graph of the default model."""
        labels = {"model": "fashion-mnist", "graph": graph}
        return self.server._metrics.registry.get_sample_value("armoire_pending_rows", labels)

    def until_pending(self, graph: str, rows: int) -> None:
        """Wait until exactly ``rows`` rows wait in front of a graph."""
        end = time.monotonic() + 30
        while self.pending(graph) != rows:
            assert time.monotonic() < end, f"after 30 s {self.pending(graph)} rows wait, not {rows}"
            self.run(asyncio.sleep(0))

    def close(self) -> None:
        self.run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


@contextmanager
def serving(**settings: Any) -> Iterator[Running]:
    """Serve while the block runs."""
    running = Running(**settings)
    try:
        yield running
    finally:
        running.call(running.server.hurry)  # nobody calls any more
        running.close()
