"""Looking again, every so often and at SIGHUP, at what a server was started with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger("armoire.server")
#: Told whether it was asked for (SIGHUP), and not just the time for it.
Look = Callable[[bool], Awaitable[None]]


class Reloader:
    """Calls each look in turn, on one event loop; one that fails is logged and called again the next time."""

    def __init__(self, seconds: float, *looks: Look) -> None:
        """Look every ``seconds``; 0: only when asked to."""
        self._seconds = seconds or None
        self._looks = looks
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def now(self) -> None:
        """Look as soon as the look in progress is over."""
        self._asked.set()

    async def stop(self) -> None:
        """End, in the middle of a look too."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            # Not wait_for, which loses a cancellation that comes at the moment of the event (until Python 3.12).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            for look in self._looks:
                try:
                    await look(asked)
                except Exception:
                    logger.exception("a look for changes failed; what is served stays")
