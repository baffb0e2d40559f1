"""The event loop under a server, with uvloop and without."""

from __future__ import annotations

import asyncio
import sys

import pytest

from armoire import loop


@pytest.mark.parametrize("there", [True, False])
def test_uvloop_is_taken_where_it_is_and_never_needed(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop is uvloop's where that is installed, and else asyncio's own."""
    if there:
        pytest.importorskip("uvloop")
    else:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    loops = []

    async def work() -> None:
        loops.append(type(asyncio.get_running_loop()).__module__.partition(".")[0])

    loop.run(work())
    assert loops == ["uvloop" if there else "asyncio"]
