"""The event loop of our processes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end, on uvloop where that is installed: it wakes up for less than asyncio's own loop."""
    with asyncio.Runner(loop_factory=_new) as runner:
        runner.run(work)


def _new() -> asyncio.AbstractEventLoop:
    try:
        from uvloop import new_event_loop
    except ModuleNotFoundError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = new_event_loop()
    return loop
